//! Users and groups by name, from `/etc/passwd` and `/etc/group` alone: a static program has no NSS. Never changes a file.

use std::path::Path;

use daemon::accounts::{self, Account, Accounts, number};

use super::{User, files};

/// Bytes read of each file; a device's are a few kilobytes.
const FILE_MAX: u64 = 1 << 20;
/// As many as the kernel takes from one process (`NGROUPS_MAX` is far above what a service needs).
const GROUPS_MAX: usize = 256;

/// Who there is on this device.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users(Accounts);

/// Who a definition wants to be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'w> {
    pub(crate) user: Option<&'w str>,
    pub(crate) group: Option<&'w str>,
    /// Supplementary groups; `None`: those that list the user as a member.
    pub(crate) groups: Option<&'w [String]>,
    /// A built-in service may name one of [`accounts::BUILT_IN`].
    pub(crate) built_in: bool,
}

impl Users {
    /// Reads the two files; one that can't be read counts as empty, and then every name is unknown.
    pub(crate) fn read(passwd: &Path, group: &Path) -> Self {
        Self::parse(&read(passwd), &read(group))
    }

    pub(crate) fn parse(passwd: &str, group: &str) -> Self {
        Self(Accounts::parse(passwd, group))
    }

    /// Numbers for names. `None` where nothing was wanted: the service then runs as the supervisor does.
    ///
    /// # Errors
    /// A user or group that isn't there, more groups than allowed.
    pub(crate) fn resolve(&self, wanted: Wanted<'_>) -> Result<Option<User>, String> {
        if wanted.user.is_none() && wanted.group.is_none() && wanted.groups.is_none() {
            return Ok(None);
        }
        let account = match wanted.user {
            Some(name) => self.account(name, wanted.built_in)?,
            None => Account { name: "root".to_owned(), uid: 0, gid: 0 },
        };
        let gid = match wanted.group {
            Some(name) => self.group(name, wanted.built_in)?,
            None => account.gid,
        };
        let groups = match wanted.groups {
            Some(names) => names
                .iter()
                .map(|name| self.group(name, wanted.built_in))
                .collect::<Result<Vec<u32>, String>>()?,
            None => self.memberships(&account.name, gid),
        };
        if groups.len() > GROUPS_MAX {
            return Err(format!(
                "{} supplementary groups, at most {GROUPS_MAX} are allowed",
                groups.len()
            ));
        }
        Ok(Some(User {
            name: wanted.user.map(str::to_owned),
            group_name: wanted.group.map(str::to_owned),
            uid: account.uid,
            gid,
            groups,
        }))
    }

    fn account(&self, name: &str, built_in: bool) -> Result<Account, String> {
        if let Some(account) = self.0.user(name) {
            return Ok(account.clone());
        }
        if let Some(uid) = number(name) {
            return Ok(self.0.user_of(uid).cloned().unwrap_or(Account {
                name: String::new(),
                uid,
                gid: uid,
            }));
        }
        match fall_back(name, built_in) {
            Some(uid) => Ok(Account { name: name.to_owned(), uid, gid: uid }),
            None => Err(format!(
                "user {name:?} is not in /etc/passwd; add it there, or name another one"
            )),
        }
    }

    fn group(&self, name: &str, built_in: bool) -> Result<u32, String> {
        self.0
            .group(name)
            .or_else(|| number(name))
            .or_else(|| fall_back(name, built_in))
            .ok_or_else(|| {
                format!("group {name:?} is not in /etc/group; add it there, or name another one")
            })
    }

    /// What initgroups(3) would set.
    fn memberships(&self, user: &str, primary: u32) -> Vec<u32> {
        let mut groups: Vec<u32> = self.0.groups_with(user).collect();
        groups.push(primary);
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

/// The number of a built-in user or group that the device's files don't know.
fn fall_back(name: &str, built_in: bool) -> Option<u32> {
    accounts::built_in(name).filter(|_| built_in)
}

fn read(path: &Path) -> String {
    match files::read_text(path, FILE_MAX) {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "users can't be looked up by name");
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str =
        "root:x:0:0::/root:/bin/sh\nbroken\nweb:x:33:33:web:/var/www:\ncam:x:1001:44::/:\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nvideo:x:44:cam,web\naudio:x:29:cam\nbad:x:y:cam\n";

    fn resolve(wanted: Wanted<'_>) -> Result<Option<User>, String> {
        Users::parse(PASSWD, GROUP).resolve(wanted)
    }

    #[test]
    fn a_user_brings_its_group_and_its_memberships() {
        let user = resolve(Wanted { user: Some("cam"), ..Wanted::default() }).unwrap().unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (1001, 44, vec![29, 44]));
        assert_eq!(user.name.as_deref(), Some("cam"));
    }

    #[test]
    fn a_group_overrides_and_listed_groups_replace_the_memberships() {
        let groups = ["audio".to_owned(), "7".to_owned()];
        let wanted = Wanted {
            user: Some("cam"),
            group: Some("www"),
            groups: Some(&groups),
            ..Wanted::default()
        };
        let user = resolve(wanted).unwrap().unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (1001, 33, vec![29, 7]));
    }

    #[test]
    fn numbers_need_no_entry() {
        let user = resolve(Wanted { user: Some("4242"), ..Wanted::default() }).unwrap().unwrap();
        assert_eq!((user.uid, user.gid), (4242, 4242));
        let user = resolve(Wanted { user: Some("33"), ..Wanted::default() }).unwrap().unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (33, 33, vec![33, 44]));
    }

    #[test]
    fn unknown_names_are_refused_and_nothing_wanted_changes_nothing() {
        assert_eq!(resolve(Wanted::default()), Ok(None));
        for name in ["nobody-here", "", "-1", "4294967295", "4294967296"] {
            assert!(resolve(Wanted { user: Some(name), ..Wanted::default() }).is_err(), "{name}");
            assert!(resolve(Wanted { group: Some(name), ..Wanted::default() }).is_err(), "{name}");
        }
    }

    #[test]
    fn only_built_in_services_fall_back_to_the_fixed_numbers() {
        let wanted = Wanted { user: Some("vestal-log"), ..Wanted::default() };
        assert!(resolve(wanted).is_err());
        let user = resolve(Wanted { built_in: true, ..wanted }).unwrap().unwrap();
        assert_eq!((user.uid, user.gid), (873, 873));
    }

    proptest! {
        #[test]
        fn no_file_makes_the_readers_panic(passwd in "[a-z0-9:\n,]{0,80}", group in "\\PC{0,40}") {
            let users = Users::parse(&passwd, &group);
            let _ = users.resolve(Wanted { user: Some("a"), group: Some("0"), ..Wanted::default() });
        }
    }
}
