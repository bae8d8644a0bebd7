//! The keys that say what the process is: command, environment, identity, limits. A change of any of them restarts it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use protocol::{
    keeper::plan::{ARGUMENTS_MAX, SOCKETS_MAX, VARIABLES_MAX},
    name::Name,
};
use serde_json::Value;

use super::{
    serving::{self, Inherited},
    table::{Item, Table},
    watching,
};
use crate::settings::{
    CgroupLimits, EnvFile, Process,
    context::{Context, Identity},
    expand,
    units::{self, Counted},
    users::Wanted,
    watched,
};

/// Most descriptors that a service may deposit.
const FD_STORE_MAX: i64 = 64;
/// Most entries of a list of paths or groups.
const LIST_MAX: usize = 256;

/// What a text of one instance may refer to.
pub(super) struct Surroundings<'c> {
    pub(super) context: &'c Context,
    /// `env` of the definition, expanded; looked at first.
    env: BTreeMap<String, String>,
    /// `VESTAL_SERVICE` and `VESTAL_INSTANCE`.
    names: [(&'static str, String); 2],
    pub(super) core: bool,
}

impl<'c> Surroundings<'c> {
    pub(super) fn new(
        table: &Table<'_>,
        context: &'c Context,
        service: &Name,
        instance: &Name,
        core: bool,
    ) -> Self {
        let names =
            [("VESTAL_SERVICE", service.to_string()), ("VESTAL_INSTANCE", instance.to_string())];
        let mut surroundings = Self { context, env: BTreeMap::new(), names, core };
        let entries = table.merged("env").map(|env| env.entries()).unwrap_or_default();
        if let Some(item) = entries.values().nth(VARIABLES_MAX) {
            item.wrong(format!("at most {VARIABLES_MAX} variables are allowed"));
        }
        let mut env = BTreeMap::new();
        for (name, item) in entries {
            if name.is_empty() || name.contains(['=', '\0']) {
                item.wrong("the name of a variable can't be empty or hold \"=\"");
            }
            // A value sees the supervisor's environment only, so that the order of variables means nothing.
            if let Some(value) = surroundings.expanded(&item) {
                env.insert(name.to_owned(), value);
            }
        }
        surroundings.env = env;
        surroundings
    }

    /// The text with its variables filled in.
    pub(super) fn expanded(&self, item: &Item<'_>) -> Option<String> {
        item.parsed(|text| {
            let text = expand::expand(text, |name| self.lookup(name))?;
            if text.contains('\0') {
                return Err("a text can't hold NUL".to_owned());
            }
            Ok(text)
        })
    }

    fn lookup(&self, name: &str) -> Option<&str> {
        let of_names =
            || self.names.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
        let value = self.env.get(name).or_else(of_names);
        value.or_else(|| self.context.variables.get(name)).map(String::as_str)
    }

    /// An absolute path with its variables filled in.
    pub(super) fn path(&self, item: &Item<'_>) -> Option<PathBuf> {
        let path = PathBuf::from(self.expanded(item)?);
        if path.is_absolute() {
            return Some(path);
        }
        item.wrong(format!("{path:?} is not an absolute path"));
        None
    }

    /// A list of texts whose first is a program.
    pub(super) fn command(&self, item: &Item<'_>) -> Option<Vec<String>> {
        if item.is_text() {
            item.wrong("a command is a list; write [\"/program\", \"argument\"]");
            return None;
        }
        let items = item.list()?;
        let words: Vec<String> = items.iter().filter_map(|item| self.expanded(item)).collect();
        if words.first().is_none_or(String::is_empty) && words.len() == items.len() {
            item.wrong("the command is empty; its first text is the program");
            return None;
        }
        if words.len() > ARGUMENTS_MAX {
            item.wrong(format!("{} texts, at most {ARGUMENTS_MAX} are allowed", words.len()));
            return None;
        }
        (words.len() == items.len()).then_some(words)
    }
}

/// Everything in `Process`. `errors` gets what forbids a start without making the file a bad one.
pub(super) fn process(
    table: &Table<'_>,
    surroundings: &Surroundings<'_>,
    errors: &mut Vec<String>,
    shown: &mut serde_json::Map<String, Value>,
) -> Process {
    let command = table.get("command");
    if command.is_none() {
        table.missing("command", "write command = [\"/program\", \"argument\"]");
    }
    let path = |key| table.get(key).and_then(|item| surroundings.path(&item));
    let sockets = serving::sockets(table, surroundings);
    let app_id = watching::heartbeat(table).map(|(app_id, _)| app_id);
    let inherited = Inherited { sockets: sockets.len(), key: app_id.is_some() };
    if let (SOCKETS_MAX.., true, Some(item)) = (sockets.len(), inherited.key, table.get("sockets"))
    {
        item.wrong(format!("at most {} sockets are allowed beside a heartbeat", SOCKETS_MAX - 1));
    }
    let (limits, cgroup) = limits(table);
    let mut process = Process {
        command: command.and_then(|item| surroundings.command(&item)).unwrap_or_default(),
        env: surroundings.env.clone(),
        env_files: env_files(table, surroundings),
        directory: path("directory").unwrap_or_else(|| "/".into()),
        capabilities: capabilities(table),
        no_new_privileges: table.boolean("no-new-privileges").unwrap_or(false),
        read_only_paths: list(table, "read-only-paths")
            .iter()
            .filter_map(|item| surroundings.path(item))
            .collect(),
        umask: table.get("umask").and_then(|item| item.mode()),
        limits,
        cgroup,
        nice: table.integer("nice", -20..=19),
        oom_score_adj: table.integer("oom-score-adj", -1000..=1000),
        readiness: serving::readiness(table, surroundings, inherited),
        sockets,
        fd_store: table.integer("fd-store", 0..=FD_STORE_MAX).unwrap_or(0),
        oneshot: table.boolean("oneshot").unwrap_or(false),
        watchdog: watching::watchdog(table).0,
        app_id,
        stdout: table.boolean("stdout").unwrap_or(true),
        stderr: table.boolean("stderr").unwrap_or(true),
        pidfile: path("pidfile"),
        files: files(table, surroundings),
        netdevs: devices(table),
        ..Process::default()
    };
    identity(table, surroundings, &mut process, errors, shown);
    process
}

/// A list of bounded length; empty where the key isn't there.
pub(super) fn list<'d>(table: &Table<'d>, key: &str) -> Vec<Item<'d>> {
    let mut items = table.list(key).unwrap_or_default();
    if let Some(one_too_many) = items.get(LIST_MAX) {
        one_too_many.wrong(format!("at most {LIST_MAX} entries are allowed"));
    }
    items.truncate(LIST_MAX);
    items
}

/// A file that may be missing has a `-` before its path.
fn env_files(table: &Table<'_>, surroundings: &Surroundings<'_>) -> Vec<EnvFile> {
    let file = |item: &Item<'_>| {
        let text = surroundings.expanded(item)?;
        let (path, optional) = text.strip_prefix('-').map_or((&*text, false), |path| (path, true));
        if !Path::new(path).is_absolute() {
            item.wrong(format!("{path:?} is not an absolute path"));
        }
        Some(EnvFile { path: path.into(), optional })
    };
    list(table, "env-files").iter().filter_map(file).collect()
}

/// What these files say now counts as part of the definition.
fn files(table: &Table<'_>, surroundings: &Surroundings<'_>) -> BTreeMap<PathBuf, [u8; 32]> {
    let paths = list(table, "files").into_iter().filter_map(|item| surroundings.path(&item));
    paths.map(|path| (path.clone(), watched::content(&path))).collect()
}

/// Which devices these names mean now counts as part of the definition.
fn devices(table: &Table<'_>) -> BTreeMap<String, u32> {
    let name = |item: &Item<'_>| {
        item.parsed(|text| match text {
            "" => Err("no device is called so".to_owned()),
            text if text.contains(['/', '\0']) => Err(format!("{text:?} is no name of a device")),
            text => Ok(text.to_owned()),
        })
    };
    let names = list(table, "netdev");
    let names = names.iter().filter_map(name);
    names.map(|name| (name.clone(), watched::device_index(&name))).collect()
}

fn capabilities(table: &Table<'_>) -> Option<u64> {
    table.get("capabilities")?;
    let items = list(table, "capabilities");
    let bits = items.iter().filter_map(|item| item.parsed(units::capability));
    Some(bits.fold(0, |set, bit| set | 1 << bit))
}

fn identity(
    table: &Table<'_>,
    surroundings: &Surroundings<'_>,
    process: &mut Process,
    errors: &mut Vec<String>,
    shown: &mut serde_json::Map<String, Value>,
) {
    // A number may be written as one; it is looked up all the same.
    let name = |item: &Item<'_>| {
        if item.is_integer() {
            return Some(item.integer::<u32>(0..=i64::from(u32::MAX - 1))?.to_string());
        }
        surroundings.expanded(item)
    };
    let user = table.get("user");
    let user_name = user.as_ref().and_then(name);
    let group_name = table.get("group").as_ref().and_then(name);
    let groups: Option<Vec<String>> =
        table.get("groups").map(|_| list(table, "groups").iter().filter_map(name).collect());
    let wanted = Wanted {
        user: user_name.as_deref(),
        group: group_name.as_deref(),
        groups: groups.as_deref(),
        built_in: surroundings.core,
    };
    match surroundings.context.identity(wanted) {
        Ok(Identity::Changed(user)) => process.user = Some(user),
        Ok(Identity::Unchanged) => {}
        Ok(Identity::Refused(why)) => errors.push(why),
        Err(why) => {
            if let Some(item) = user.or(table.get("group")).or(table.get("groups")) {
                item.wrong(why);
            }
        }
    }
    if process.user.is_none() {
        // `service list` shows what was asked for even where nothing changes.
        let asked = [("user", user_name), ("group", group_name)];
        shown.extend(
            asked.into_iter().filter_map(|(key, name)| Some((key.to_owned(), name?.into()))),
        );
    }
}

/// The kernel's limits by number, and the cgroup's.
fn limits(table: &Table<'_>) -> (BTreeMap<u32, (u64, u64)>, CgroupLimits) {
    let mut limits = BTreeMap::new();
    let mut cgroup = CgroupLimits::default();
    let Some(table) = table.merged("limits") else { return (limits, cgroup) };
    let own = ["memory", "pids", "cpu", "cpu-time"];
    let kernel = units::LIMITS.iter().map(|(name, ..)| *name);
    table.refuse_others(&kernel.chain(own).collect::<Vec<_>>(), |_| None);
    // In TOML `cpu` is a share of the processor, and the seconds of RLIMIT_CPU are `cpu-time`.
    for (name, resource, counted) in units::LIMITS {
        let key = if name == "cpu" { "cpu-time" } else { name };
        let Some(item) = table.get(key) else { continue };
        let limit = match item.is_integer() {
            true => item.integer(0..=i64::MAX).map(|number: u64| (number, number)),
            false => item.parsed(|text| units::limit(text, counted)),
        };
        limits.extend(limit.map(|limit| (resource as u32, limit)));
    }
    cgroup.cpu_percent = table.parsed("cpu", units::percent);
    cgroup.memory = table.get("memory").and_then(|item| match item.is_integer() {
        true => item.integer(1..=i64::MAX),
        false => unlimited(&item, Counted::Bytes),
    });
    cgroup.pids = table.get("pids").and_then(|item| match item.is_integer() {
        true => item.integer(1..=i64::from(u32::MAX)),
        false => unlimited(&item, Counted::Number),
    });
    (limits, cgroup)
}

/// One limit of a cgroup; `unlimited` lifts the service's default for an instance.
fn unlimited(item: &Item<'_>, counted: Counted) -> Option<u64> {
    let (soft, hard) = item.parsed(|text| units::limit(text, counted))?;
    if soft != hard {
        item.wrong("a cgroup has one limit, not a soft and a hard one");
    } else if soft == 0 {
        item.wrong("0 would not let it start; write at least 1, or \"unlimited\"");
    }
    (soft != u64::MAX).then_some(soft)
}
