//! Users and groups by name, from `/etc/passwd` and `/etc/group` alone: a static program has no NSS. Never changes a file.

use std::path::Path;

use daemon::{
    accounts::{Accounts, built_in, number},
    files::read_text,
};

/// Bytes read of each file; a device's are a few kilobytes.
const FILE_MAX: u64 = 1 << 20;

/// Who there is on this device.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users(Accounts);

impl Users {
    /// A file that can't be read counts as empty: every name is unknown then, and said to be.
    pub(crate) fn read(passwd: &Path, group: &Path) -> Self {
        let text = |path| read_text(path, FILE_MAX).unwrap_or_default();
        Self::parse(&text(passwd), &text(group))
    }

    pub(crate) fn parse(passwd: &str, group: &str) -> Self {
        Self(Accounts::parse(passwd, group))
    }

    /// # Errors
    /// Where nobody is called so.
    pub(crate) fn user(&self, name: &str) -> Result<u32, String> {
        find(self.0.user(name).map(|user| user.uid), name).ok_or_else(|| {
            format!("user {name:?} is not in /etc/passwd; add it there, or write its number")
        })
    }

    /// # Errors
    /// Where no group is called so.
    pub(crate) fn group(&self, name: &str) -> Result<u32, String> {
        find(self.0.group(name), name).ok_or_else(|| {
            format!("group {name:?} is not in /etc/group; add it there, or write its number")
        })
    }
}

/// What the device knows first, then a number, then the suite's own.
fn find(known: Option<u32>, name: &str) -> Option<u32> {
    known.or_else(|| number(name)).or_else(|| built_in(name))
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
