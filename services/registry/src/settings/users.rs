//! Users and groups by name, from `/etc/passwd` and `/etc/group` alone: a static program has no NSS. Never changes a file.

use std::path::Path;

use super::files;

/// Bytes read of each file; a device's are a few kilobytes.
const FILE_MAX: u64 = 1 << 20;

/// Users of the suite's own services, with the numbers they get where `/etc/passwd` doesn't have them
/// (`docs/definitions.md`).
const BUILT_IN: [(&str, u32); 4] = [
    ("vestal-registry", 870),
    ("vestal-heartbeat", 871),
    ("vestal-config", 872),
    ("vestal-log", 873),
];

/// Names and numbers of both files, as far as they are well-formed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users {
    users: Vec<(String, u32)>,
    groups: Vec<(String, u32)>,
}

impl Users {
    /// A file that can't be read counts as empty: every name is unknown then, and said to be.
    pub(crate) fn read(passwd: &Path, group: &Path) -> Self {
        let text = |path| files::read_text(path, FILE_MAX).unwrap_or_default();
        Self::parse(&text(passwd), &text(group))
    }

    /// passwd(5) and group(5) both begin with a name, a password and a number.
    pub(crate) fn parse(passwd: &str, group: &str) -> Self {
        let entry = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
            Some((name, fields.nth(1)?.parse().ok()?))
        };
        Self {
            users: passwd.lines().filter_map(entry).collect(),
            groups: group.lines().filter_map(entry).collect(),
        }
    }

    /// # Errors
    /// Where nobody is called so.
    pub(crate) fn user(&self, name: &str) -> Result<u32, String> {
        find(&self.users, name).ok_or_else(|| {
            format!("user {name:?} is not in /etc/passwd; add it there, or write its number")
        })
    }

    /// # Errors
    /// Where no group is called so.
    pub(crate) fn group(&self, name: &str) -> Result<u32, String> {
        find(&self.groups, name).ok_or_else(|| {
            format!("group {name:?} is not in /etc/group; add it there, or write its number")
        })
    }
}

fn find(known: &[(String, u32)], name: &str) -> Option<u32> {
    let listed = known.iter().find(|(known, _)| known == name).map(|(_, number)| *number);
    let built_in = || BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, uid)| *uid);
    listed.or_else(|| number(name)).or_else(built_in)
}

/// A number written as a name. `u32::MAX` means "no user" to the kernel.
pub(super) fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_numbers_stand_for_themselves_and_strangers_are_refused() {
        let users = Users::parse("root:x:0:0::/:\nbroken\ncam:x:1001:44::/:\n", "video:x:44:cam\n");
        assert_eq!(users.user("cam"), Ok(1001));
        assert_eq!(users.group("video"), Ok(44));
        assert_eq!(users.user("4242"), Ok(4242));
        assert_eq!(users.user("vestal-log"), Ok(873));
        for name in ["nobody-here", "", "-1", "4294967295"] {
            assert!(users.user(name).is_err() && users.group(name).is_err(), "{name}");
        }
    }
}
