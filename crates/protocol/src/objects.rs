//! Objects: where each is served until a registry says so, and how one describes itself.

use serde::{Deserialize, Serialize};

use crate::failure::{Code, Failure};

/// The token of the endpoint itself; its methods are [`DESCRIBE`] and [`OBJECTS`]. Its generation is 0.
pub const ENDPOINT: u32 = u32::MAX;
/// The method that every object has: no arguments, answers its [`Description`].
/// On [`ENDPOINT`] it answers an object from names to descriptions.
pub const DESCRIBE: &str = "_describe";
/// The endpoint's method that lists its objects as they are now: [`Served`] for each.
pub const OBJECTS: &str = "_objects";
/// The endpoint's method that closes or opens an object's gate: [`Gate`]. For root and the endpoint's own user.
pub const GATE: &str = "_gate";
/// The endpoint's method that streams its calls as they end: [`Tapped`] as JSON, one a line. For root only.
pub const MONITOR: &str = "_monitor";
/// The endpoint's method that reads or changes the level of its process's own log: [`LogLevel`]. For root and the endpoint's own user.
pub const LOG_LEVEL: &str = "_log_level";

/// Object name, and the short name of the daemon that serves it on `RUN_DIR/SHORT.sock`.
pub const TABLE: [(&str, &str); 9] = [
    ("registry", "registry"),
    ("service", "supervisor"),
    ("system", "supervisor"),
    ("heartbeat", "heartbeat"),
    ("config", "config"),
    ("upgrade", "upgrade"),
    ("driver", "driver"),
    ("autorun", "autorun"),
    ("log", "log"),
];

/// A version of an interface, as it travels: a peer of the same major one and at least the minor one that is wanted will do.
#[must_use]
pub const fn version(major: u16, minor: u16) -> u32 {
    ((major as u32) << 16) | minor as u32
}

/// What a caller expects of an object's interface. All absent: nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Wanted<'a> {
    pub interface: Option<&'a str>,
    /// The lowest one, as [`version`] makes it.
    pub version: Option<u32>,
    /// [`Description::hash`] of what the caller was built against; compared where both versions are the same.
    pub hash: Option<u64>,
}

impl Wanted<'_> {
    /// # Errors
    /// `unsupported`, with what is served and what was wanted.
    pub fn check(&self, served: &Served) -> Result<(), Failure> {
        let refuse = |text: String| Err(Failure::new(Code::Unsupported, text));
        let name = &served.name;
        if let Some(interface) = self.interface
            && interface != served.interface
        {
            return refuse(format!("{name} is a {}, not a {interface}", served.interface));
        }
        let Some(version) = self.version else { return Ok(()) };
        let text = |version: u32| format!("{}.{}", version >> 16, version & 0xffff);
        if served.version >> 16 != version >> 16 || served.version < version {
            return refuse(format!(
                "{name} serves version {} of {}, the caller needs {} or a later minor one",
                text(served.version),
                served.interface,
                text(version)
            ));
        }
        match self.hash {
            Some(hash) if served.version == version && served.hash != hash => refuse(format!(
                "{name} serves version {} of {} with other content ({:016x}) than the caller was built for ({hash:016x})",
                text(version),
                served.interface,
                served.hash
            )),
            _ => Ok(()),
        }
    }
}

/// Where an object is served: `service` by `supervisor`; `driver/can0` by `driver.can0`.
#[must_use]
pub fn served_by(object: &str) -> Option<String> {
    if let Some(name) = object.strip_prefix("driver/") {
        return (!name.is_empty() && !name.contains('/')).then(|| format!("driver.{name}"));
    }
    let (base, _feature) = object.split_once('/').unwrap_or((object, ""));
    TABLE.iter().find(|(name, _)| *name == base).map(|(_, short)| (*short).to_owned())
}

/// What an object offers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Description {
    /// The interface's name, such as `vestal.service`.
    pub interface: String,
    pub version: u32,
    pub methods: Vec<Method>,
    /// Topics this object sends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
}

/// One method.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Method {
    pub name: String,
    #[serde(default)]
    pub args: Vec<Argument>,
    /// One sentence for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// What comes back, for a person; empty where nothing but success does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub returns: String,
}

/// One argument of a method: a member of the JSON object that travels as its arguments.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Argument {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: ArgumentKind,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// The type of an argument.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArgumentKind {
    String,
    Boolean,
    Integer,
    Number,
    Array,
    Table,
    /// Any JSON.
    Any,
    /// The arguments are not JSON but these raw bytes.
    Raw,
    /// A file descriptor beside the call.
    Descriptor,
    /// A type of a newer peer.
    #[serde(other)]
    Unknown,
}

/// One object of an endpoint, as [`OBJECTS`] answers it; the same as in Welcome.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Served {
    pub name: String,
    pub token: u32,
    pub generation: u32,
    pub interface: String,
    pub version: u32,
    pub hash: u64,
}

/// Arguments of [`GATE`]. Closing answers when the calls that ran have ended, or `timeout`, with the gate open again.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Gate {
    /// Without it all objects of the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    pub closed: bool,
    /// How long a call may wait at the closed gate before it is answered `busy`; default 10 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u32>,
    /// How long the running calls may take; default 5 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_ms: Option<u32>,
}

/// One call, as [`MONITOR`] tells it. Arguments are never in it, only their length.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Tapped {
    pub object: String,
    pub method: String,
    pub pid: i32,
    pub uid: u32,
    pub args_bytes: u64,
    /// `done`, or the failure's code.
    pub outcome: String,
    pub duration_us: u64,
    /// How many calls before this one were not told, because the reader was too slow.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Arguments and answer of [`LOG_LEVEL`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogLevel {
    /// `error` to `trace`, or a list like `warn,vestal_log=debug`; absent: only read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
}

impl Description {
    #[must_use]
    pub fn new(interface: impl Into<String>, version: u32) -> Self {
        Self { interface: interface.into(), version, ..Self::default() }
    }

    /// Adds a method; `args` are name, type and whether it must be there.
    #[must_use]
    pub fn method(
        mut self,
        name: &str,
        args: &[(&str, ArgumentKind, bool)],
        text: &str,
        returns: &str,
    ) -> Self {
        let args = args
            .iter()
            .map(|(name, kind, required)| Argument {
                name: (*name).to_owned(),
                kind: *kind,
                required: *required,
            })
            .collect();
        let (name, text, returns) = (name.to_owned(), text.to_owned(), returns.to_owned());
        self.methods.push(Method { name, args, text, returns });
        self
    }

    /// Adds a topic this object sends.
    #[must_use]
    pub fn event(mut self, topic: &str) -> Self {
        self.events.push(topic.to_owned());
        self
    }

    #[must_use]
    pub fn has(&self, method: &str) -> bool {
        self.methods.iter().any(|known| known.name == method)
    }

    /// FNV-1a (64 bits) of this description as compact JSON: equal hashes, equal interface.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let json = serde_json::to_vec(self).expect("a description holds only texts and numbers");
        json.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// The known name that is nearest to a mistyped one, if any is near: at most a third of its letters differ.
#[must_use]
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A name nobody typed by hand is not worth a search.
    if wanted.len() > 64 {
        return None;
    }
    known
        .into_iter()
        .filter(|name| name.len() <= 64)
        .map(|name| (distance(wanted, name), name))
        .filter(|(distance, name)| *distance <= (name.len().max(wanted.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many letters must be added, removed, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, y) in b.iter().enumerate() {
            let mut best = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = above;
        above = row;
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_of_the_suite_has_a_socket() {
        assert_eq!(served_by("system").as_deref(), Some("supervisor"));
        assert_eq!(served_by("driver/can0").as_deref(), Some("driver.can0"));
        assert_eq!(served_by("log/kernel").as_deref(), Some("log"));
        assert_eq!(served_by("driver/../x"), None);
        assert_eq!(served_by("nothing"), None);
    }

    #[test]
    fn a_mistyped_name_finds_its_neighbour_and_a_strange_one_none() {
        let known = ["start", "stop", "restart", "reload", "list"];
        assert_eq!(nearest("sotp", known), Some("stop"));
        assert_eq!(nearest("restrat", known), Some("restart"));
        assert_eq!(nearest("frobnicate", known), None);
    }

    #[test]
    fn every_pair_of_versions_gets_the_right_answer() {
        let served = |major, minor, hash| Served {
            name: "camera".into(),
            token: 0,
            generation: 1,
            interface: "demo.camera".into(),
            version: version(major, minor),
            hash,
        };
        for (client, server, major) in
            (0..3).flat_map(|c| (0..3).flat_map(move |s| [(c, s, 1), (c, s, 2)]))
        {
            let wanted = |hash| Wanted {
                interface: Some("demo.camera"),
                version: Some(version(1, client)),
                hash: Some(hash),
            };
            let fits = major == 1 && server >= client;
            let case = format!("client 1.{client}, server {major}.{server}");
            assert_eq!(wanted(5).check(&served(major, server, 5)).is_ok(), fits, "{case}");
            // A later minor version has other content by nature; the same one must not.
            let changed = wanted(5).check(&served(major, server, 6));
            assert_eq!(changed.is_ok(), fits && server > client, "{case}");
            if let Err(failure) = changed {
                assert_eq!(failure.code, Code::Unsupported, "{case}");
            }
        }
    }

    #[test]
    fn the_hash_changes_with_the_interface() {
        let one = Description::new("vestal.demo", 1);
        let two = one.clone().method("m", &[("x", ArgumentKind::Integer, true)], "", "");
        assert_ne!(one.hash(), two.hash());
        assert!(two.has("m") && !one.has("m"));
    }
}
