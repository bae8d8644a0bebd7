//! The completion script: words from the command line's own table, names of services and objects from the device.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{cli::Cli, error::Error, output::Output};

/// Wraps the generated function: where a service, an object or a method is wanted, the names come from the running device. JSON is printed
/// with two blanks a level, so that a name stands alone on a line that begins with exactly two.
const NAMES: &str = r#"
_vestalctl_services() {
    vestalctl --json service list 2>/dev/null | sed -n 's/^  "\(.*\)": {.*$/\1/p'
}

_vestalctl_methods() {
    vestalctl list -v "$1" 2>/dev/null | sed -n 's/^  \([A-Za-z0-9_]*\)(.*$/\1/p'
}

_vestalctl_drivers() {
    vestalctl driver list 2>/dev/null | sed -n '2,/^$/s/^\([^ ]\{1,\}\).*$/\1/p'
}

_vestalctl_functions() {
    vestalctl driver map "$1" 2>/dev/null | sed -n '2,$s/^\([^ ]\{1,\}\).*$/\1/p'
}

_vestalctl_daemons() {
    printf '%s\n' supervisor registry log heartbeat config upgrade driver autorun
}

_vestalctl_with_services() {
    local word="${COMP_WORDS[COMP_CWORD]}" part name
    local -a words=() names=()
    for part in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "$part" in -*) ;; *) words+=("$part") ;; esac
    done
    case "${words[*]}" in
        status | log | "log "* | "service list" | "service start" | "service stop" | \
        "service restart" | "service reload" | "service freeze" | "service thaw" | "service delete" | "service signal" | \
        "service state" | "service replace" | "service get-data" | "service update-start" | \
        "service update-complete")
            names=(_vestalctl_services) ;;
        call | list | wait-for | "wait-for "* | "registry policy")
            names=(vestalctl list) ;;
        "call "*)
            [[ ${#words[@]} -eq 2 ]] && names=(_vestalctl_methods "${words[1]}") ;;
        "driver load" | "driver unload" | "driver upgrade" | "driver rollback" | "driver probe" | \
        "driver map" | "driver call" | "driver state")
            names=(_vestalctl_drivers) ;;
        "driver probe "*)
            names=(_vestalctl_functions "${words[2]}") ;;
        log-level)
            names=(_vestalctl_daemons) ;;
    esac
    _vestalctl "$@"
    if [[ ${#names[@]} -gt 0 && "$word" != -* ]]; then
        COMPREPLY=()
        while IFS= read -r name; do
            if [[ "$name" == "$word"* ]]; then
                COMPREPLY+=("$(printf '%q' "$name")")
            fi
        done < <("${names[@]}" 2>/dev/null)
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
