//! How an instance's program is started: its environment, where it is found, and whether the executor has work to do.

use std::{collections::BTreeMap, io, path::Path};

use anyhow::Context as _;
use daemon::places::Places;
use protocol::{
    keeper::plan::{ExecSettings, Executor, SOCKETS_FD},
    name::Name,
};

use crate::{
    machine::Seat,
    settings::{Process, files},
};

/// What describes our own start and must not leak into a service.
pub(super) const PRIVATE: &[&str] = &[
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
    KEY_FD,
    SERVER_PORT,
];
/// Where a heartbeat application reads its key, and the broker's port.
pub(super) const KEY_FD: &str = "GMI_KEY_FD";
const SERVER_PORT: &str = "GMI_SERVER_PORT";
/// Which of the instance's two seats a process has; only `service replace` uses both.
const SEAT: &str = "VESTAL_SEAT";
/// The process takes the place of a running one: `daemon::Context::take_over` waits for that to end.
const REPLACES: &str = "VESTAL_REPLACES";
/// An environment file may be this long; more than that no process could be given.
const ENV_FILE_MAX: u64 = 128 * 1024;
/// Where programs without a slash are looked for when nobody says, as for root's login shell.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Ours, then the environment files', then the definition's, then what the suite itself says.
///
/// # Errors
/// An environment file that can't be read and isn't optional.
pub(crate) fn of_instance(
    places: &Places,
    (service, instance, seat): (&Name, &Name, Seat),
    process: &Process,
    notify: Option<&Path>,
    socket_names: Vec<String>,
    broker_port: Option<u16>,
) -> anyhow::Result<Vec<(String, String)>> {
    let mut env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| !PRIVATE.contains(&name.as_str()) && !name.starts_with("VESTAL_"))
        .collect();
    for file in &process.env_files {
        // The file may be the service's own: what it is, is looked at before it is read.
        match files::read_text(&file.path, ENV_FILE_MAX) {
            Ok(text) => env.extend(assignments(&text)),
            Err(error) if file.optional && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("environment file {}", file.path.display()));
            }
        }
    }
    env.extend(process.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    // The kernel gives PID 1 none, and what a service starts by name should be found as the service itself was.
    env.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
    let mut put = |name: &str, value: String| drop(env.insert(name.to_owned(), value));
    for (name, path) in places.to_env() {
        put(name, path.to_string_lossy().into_owned());
    }
    // Without cgroups the keeper knows what an instance left behind by these very variables. Of two processes of one
    // instance it must not kill the new one with the old one's leftovers.
    put(SEAT, if seat.second { "2" } else { "1" }.to_owned());
    if seat.replaces.is_some() {
        put(REPLACES, "1".to_owned());
    }
    put("VESTAL_SERVICE", service.to_string());
    put("VESTAL_INSTANCE", instance.to_string());
    if let Some(path) = notify {
        put("NOTIFY_SOCKET", path.to_string_lossy().into_owned());
    }
    if let Some(period) = process.watchdog {
        put("WATCHDOG_USEC", period.as_micros().to_string());
    }
    if let Some(port) = broker_port {
        // The key is behind the sockets, and isn't counted as one.
        let key = socket_names.len() + usize::try_from(SOCKETS_FD).unwrap_or(usize::MAX);
        put(KEY_FD, key.to_string());
        put(SERVER_PORT, port.to_string());
    }
    if !socket_names.is_empty() {
        put("LISTEN_FDS", socket_names.len().to_string());
        put("LISTEN_FDNAMES", socket_names.join(":"));
    }
    Ok(env.into_iter().collect())
}

/// Where the program may be, in the order of execvp(3); relative folders of PATH are left out.
pub(crate) fn programs(command: &[String], environment: &[(String, String)]) -> Vec<String> {
    let path = environment.iter().find(|(name, _)| name == "PATH");
    let path = path.map_or(DEFAULT_PATH, |(_, path)| path);
    match command.first() {
        Some(program) if program.contains('/') => vec![program.clone()],
        Some(program) => path
            .split(':')
            .filter(|folder| folder.starts_with('/'))
            .take(protocol::keeper::plan::PROGRAMS_MAX)
            .map(|folder| format!("{folder}/{program}"))
            .collect(),
        None => Vec::new(),
    }
}

/// `NAME=value` lines; blank lines and comments are skipped, one pair of quotes around a value is taken off.
fn assignments(text: &str) -> impl Iterator<Item = (String, String)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let (name, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
        let value = value.trim();
        let quoted =
            ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        let name = name.trim().trim_start_matches("export ");
        Some((name.to_owned(), quoted.unwrap_or(value).to_owned()))
    })
}

/// Only what needs it goes through the executor: everything else is spawned directly.
pub(crate) fn executor(process: &Process, path: &Path) -> Option<Executor> {
    let own = rustix::process::geteuid().as_raw();
    let user = process.user.as_ref().filter(|user| own == 0 || user.uid != own);
    let settings = ExecSettings {
        uid: user.map(|user| user.uid),
        gid: user.map(|user| user.gid),
        groups: user.map(|user| user.groups.clone()),
        nice: process.nice,
        oom_score_adj: process.oom_score_adj,
        limits: process.limits.iter().map(|(limit, (soft, hard))| (*limit, *soft, *hard)).collect(),
        capabilities: process.capabilities,
        no_new_privileges: process.no_new_privileges,
        umask: process.umask,
        read_only_paths: process
            .read_only_paths
            .iter()
            .map(|path| path.to_string_lossy().into_owned())
            .collect(),
    };
    (settings != ExecSettings::default())
        .then(|| Executor { path: path.to_string_lossy().into_owned(), settings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_a_slash_is_looked_for_in_the_path() {
        let path = |text: &str| vec![("PATH".to_owned(), text.to_owned())];
        let command = |text: &str| vec![text.to_owned()];
        assert_eq!(
            programs(&command("sh"), &path("/usr/bin::bin:/bin")),
            ["/usr/bin/sh", "/bin/sh"]
        );
        assert_eq!(programs(&command("/x/sh"), &path("/bin")), ["/x/sh"]);
    }

    #[test]
    fn environment_files_are_read_as_people_write_them() {
        let text = "# comment\n\nA=1\n export B = \"two words\"\nC='x=y'\nnonsense\n";
        let read: Vec<_> = assignments(text).collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read, [pair("A", "1"), pair("B", "two words"), pair("C", "x=y")]);
    }

    #[test]
    fn plain_services_need_no_executor() {
        let plain = Process::default();
        assert_eq!(executor(&plain, Path::new("/x")), None);
        let nice = Process { nice: Some(5), ..Process::default() };
        assert!(executor(&nice, Path::new("/x")).is_some());
    }
}
