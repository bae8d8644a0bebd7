//! The completion script: words from the command line's own table, service names from the device.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{cli::Cli, error::Error, output::Output};

/// Wraps the generated function: where a service is wanted, the names come from the running device. JSON is printed
/// with two blanks a level, so that a name stands alone on a line that begins with exactly two.
const NAMES: &str = r#"
_vestalctl_services() {
    vestalctl --json service list 2>/dev/null | sed -n 's/^  "\(.*\)": {.*$/\1/p'
}

_vestalctl_with_services() {
    local word="${COMP_WORDS[COMP_CWORD]}" wanted="" part name
    local -a words=()
    for part in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "$part" in -*) ;; *) words+=("$part") ;; esac
    done
    case "${words[*]}" in
        status | "service list" | "service start" | "service stop" | "service restart" | \
        "service reload" | "service delete" | "service signal" | "service state" | \
        "service get-data" | "service update-start" | "service update-complete")
            wanted=1 ;;
    esac
    _vestalctl "$@"
    if [[ -n "$wanted" && "$word" != -* ]]; then
        COMPREPLY=()
        while IFS= read -r name; do
            if [[ "$name" == "$word"* ]]; then
                COMPREPLY+=("$(printf '%q' "$name")")
            fi
        done < <(_vestalctl_services)
    fi
}

complete -F _vestalctl_with_services -o bashdefault -o default vestalctl
"#;

/// Prints the script for bash.
pub(crate) fn bash() -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(Shell::Bash, &mut Cli::command(), "vestalctl", &mut script);
    script.extend_from_slice(NAMES.as_bytes());
    Output::bytes(&script)
}
