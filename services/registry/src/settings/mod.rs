//! The policy files of `CONFIG_DIR/policy.d`: read again whenever they change. A file with an error keeps the rules it had.
//!
//! A file that was never readable may forbid anything, so while there is one, no file allows anything: the built-in rules
//! and what readable files forbid are all that holds.

mod file;
mod files;
#[cfg(test)]
mod tests;
mod users;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use protocol::{
    frame::PAYLOAD_MAX,
    policy::{RULES_MAX, Rule, Verdict, built_in},
};

use self::{files::FILES_MAX, users::Users};

/// Longest list of rules as JSON: it travels in one event.
const BYTES_MAX: usize = PAYLOAD_MAX - (64 << 10);

/// The files, and what they said when they could be read last.
#[derive(Debug)]
pub(crate) struct Policies {
    folder: Option<PathBuf>,
    passwd: PathBuf,
    group: PathBuf,
    good: BTreeMap<String, Vec<Rule>>,
}

/// All rules, and what is wrong with the files.
pub(crate) type Rules = (Vec<Rule>, Vec<String>);

impl Policies {
    /// `config` is the configuration folder; without one there are only the built-in rules.
    pub(crate) fn new(config: Option<&Path>) -> Self {
        Self {
            folder: config.map(|config| config.join("policy.d")),
            passwd: "/etc/passwd".into(),
            group: "/etc/group".into(),
            good: BTreeMap::new(),
        }
    }

    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The rules as they are now.
    pub(crate) fn read(&mut self) -> Rules {
        let mut problems = Vec::new();
        let mut blind = Vec::new();
        let good = match self.files(&mut problems, &mut blind) {
            Some(good) => good,
            // The folder can't be read: what it said last holds on.
            None => std::mem::take(&mut self.good),
        };
        self.good = good;
        let mut rules = built_in();
        rules.extend(self.good.values().flatten().cloned());
        if !blind.is_empty() {
            rules.retain(|rule| rule.verdict == Verdict::Deny || rule.source == "built in");
            problems.push(format!(
                "{} could not be read since the registry started, and may forbid anything: until it can, no file allows anything",
                blind.join(", ")
            ));
        }
        (rules, problems)
    }

    /// What each file says, or said last; `blind` gets those that never said anything.
    fn files(
        &self,
        problems: &mut Vec<String>,
        blind: &mut Vec<String>,
    ) -> Option<BTreeMap<String, Vec<Rule>>> {
        let Some(folder) = &self.folder else { return Some(BTreeMap::new()) };
        let names = match files::list(folder) {
            Ok(names) => names,
            Err(error) => {
                problems.push(format!("{}: {error}; the old rules stay", folder.display()));
                if self.good.is_empty() {
                    blind.push(folder.display().to_string());
                }
                return None;
            }
        };
        let users = Users::read(&self.passwd, &self.group);
        let mut room = Room { rules: built_in().len(), bytes: 0 };
        let mut good = BTreeMap::new();
        for (at, name) in names.into_iter().enumerate() {
            let read = match at < FILES_MAX {
                true => read(&folder.join(&name), &name, &users),
                false => {
                    Err(vec![format!("{name}: more than {FILES_MAX} files; put several in one")])
                }
            };
            let read = read.and_then(|rules| room.take(&name, rules));
            match read {
                Ok(rules) => {
                    good.insert(name, rules);
                }
                Err(wrong) => {
                    problems.extend(wrong);
                    match self.good.get(&name).map(|old| room.take(&name, old.clone())) {
                        Some(Ok(old)) => {
                            good.insert(name, old);
                        }
                        Some(Err(_)) | None => blind.push(name),
                    }
                }
            }
        }
        Some(good)
    }
}

/// How much of the limits is taken.
struct Room {
    rules: usize,
    bytes: usize,
}

impl Room {
    fn take(&mut self, name: &str, rules: Vec<Rule>) -> Result<Vec<Rule>, Vec<String>> {
        let count = self.rules + rules.len();
        if count > RULES_MAX {
            return Err(vec![format!(
                "{name}: {count} rules in all, at most {RULES_MAX} are allowed"
            )]);
        }
        let bytes = self.bytes + serde_json::to_vec(&rules).map_or(usize::MAX, |json| json.len());
        if bytes > BYTES_MAX {
            return Err(vec![format!(
                "{name}: all rules together take {bytes} bytes as JSON, at most {BYTES_MAX} are allowed; use patterns, ranges and groups"
            )]);
        }
        (self.rules, self.bytes) = (count, bytes);
        Ok(rules)
    }
}

fn read(path: &Path, name: &str, users: &Users) -> Result<Vec<Rule>, Vec<String>> {
    let text = files::read_policy(path).map_err(|error| vec![format!("{name}: {error}")])?;
    file::read(name, &text, users)
}
