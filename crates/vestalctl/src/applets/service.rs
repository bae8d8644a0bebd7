//! Called under the name `service`: `service NAME ACTION` runs a script of `/etc/init.d`; without a name it tells of all
//! whether they are enabled and running.

use std::{
    ffi::OsString,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use serde_json::{Value, json};

use super::{complain, reason};
use crate::{
    bus::{Bus, How},
    cli::Common,
    output::Output,
};

/// Scripts that are looked at.
const SCRIPTS_MAX: usize = 1024;
/// A script is no larger; what is beyond is not looked at.
const SCRIPT_MAX: u64 = 1 << 20;
/// Exit codes of a shell: not executable, not there.
const NOT_EXECUTABLE: u8 = 126;

/// Runs a script, if one is named; `None`: all are to be listed.
pub(super) fn run(args: &[OsString]) -> Option<ExitCode> {
    let (name, action) = args.split_first().filter(|(name, _)| !name.is_empty())?;
    let script = folder().join(name);
    let plain = name.to_str().is_some_and(|name| !name.contains('/'));
    if !plain || !script.is_file() {
        let text = format!("Service \"{}\" not found:\n", name.to_string_lossy());
        // Nobody may be left to read it.
        let _ = Output::text(&text);
        return Some(ExitCode::FAILURE);
    }
    let error = Command::new(&script).args(action).exec();
    complain(&format!("service: run {}: {}", script.display(), reason(&error)));
    Some(ExitCode::from(NOT_EXECUTABLE))
}

fn root() -> PathBuf {
    std::env::var_os("IPKG_INSTROOT").map_or_else(PathBuf::new, PathBuf::from)
}

fn folder() -> PathBuf {
    PathBuf::from(format!("{}/etc/init.d", root().display()))
}

/// Lists all scripts.
pub(crate) async fn list() -> ExitCode {
    let mut scripts: Vec<PathBuf> = fs::read_dir(folder())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .take(SCRIPTS_MAX)
        .collect();
    scripts.sort();
    let listed = match Bus::new(&Common::default()) {
        Ok(bus) => bus.call("service", "list", &json!({}), How::READ).await.unwrap_or_default(),
        Err(_) => Value::Null,
    };
    let mut text = "Usage: service <service> [command]\n".to_owned();
    for script in &scripts {
        let name = script.file_name().unwrap_or_default().to_string_lossy();
        let source = daemon::files::read_text(script, SCRIPT_MAX).unwrap_or_default();
        let enabled = if is_enabled(&name, &source) { "enabled" } else { "disabled" };
        let running = is_running(&listed[&*name]) || says_running(script, &source);
        let running = if running { "running" } else { "stopped" };
        text.push_str(&format!("{:<30}\t{enabled:>10}\t{running:>10}\n", script.display()));
    }
    match Output::text(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// A script is enabled when each link that its numbers ask for is there.
fn is_enabled(name: &str, source: &str) -> bool {
    let number = |key: &str| {
        let mut values = source.lines().filter_map(|line| line.strip_prefix(key));
        values.find_map(|value| value.get(..2).filter(|two| two.parse::<u8>().is_ok()))
    };
    let linked = |letter: char, number: &str| {
        let link = format!("{}/etc/rc.d/{letter}{number}{name}", root().display());
        Path::new(&link).is_symlink()
    };
    let links = [('S', number("START=")), ('K', number("STOP="))];
    let mut asked =
        links.into_iter().filter_map(|(letter, number)| Some((letter, number?))).peekable();
    asked.peek().is_some() && asked.all(|(letter, number)| linked(letter, number))
}

/// The supervisor lists it, and all of its instances run.
fn is_running(listed: &Value) -> bool {
    let instances = listed["instances"].as_object();
    instances.is_some_and(|instances| {
        !instances.is_empty() && instances.values().all(|instance| instance["running"] == true)
    })
}

/// A script that says by itself whether its service runs is asked.
fn says_running(script: &Path, source: &str) -> bool {
    let says = source.lines().any(|line| {
        let name = line.trim_start().strip_prefix("running");
        name.is_some_and(|rest| rest.trim_start().starts_with("()"))
    });
    let mut command = Command::new(script);
    command.arg("running").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    says && command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_runs_when_all_of_its_instances_do() {
        let listed = |running: &[bool]| {
            let instances = running.iter().enumerate();
            let instances =
                instances.map(|(n, running)| (n.to_string(), json!({ "running": running })));
            json!({ "instances": instances.collect::<serde_json::Map<_, _>>() })
        };
        assert!(is_running(&listed(&[true, true])));
        assert!(!is_running(&listed(&[true, false])));
        assert!(!is_running(&listed(&[])));
        assert!(!is_running(&Value::Null));
    }
}
