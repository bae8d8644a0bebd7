//! What both readers know of the world: variables to fill in, users, folders, and who we are. Read once, then only passed on.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use daemon::places::Places;

use super::{
    User,
    users::{Users, Wanted},
};

/// Where the suite's own programs are: `${VESTAL_BIN_DIR}`.
pub(crate) const BIN_DIR: &str = "VESTAL_BIN_DIR";

/// The surroundings of a definition.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// What `${NAME}` means before the service's own `env` is looked at.
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) users: Users,
    /// Who the supervisor runs as; only 0 may start a service as somebody else.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// `run:NAME.sock` lies here.
    pub(crate) run: PathBuf,
    /// Where `vestal-NAME` is looked for.
    pub(crate) programs: PathBuf,
    /// The console is ours: a device that has nothing to run gets a shell there.
    pub(crate) console: bool,
}

/// What becomes of a wanted user.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Identity {
    /// The service runs as the supervisor does; nothing is changed.
    Unchanged,
    Changed(User),
    /// It can't be started by us; the text says why.
    Refused(String),
}

impl Context {
    /// The surroundings of this process: its environment, `places`, `/etc/passwd` and `/etc/group`.
    pub(crate) fn of_process(places: &Places, programs: &Path) -> Self {
        let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let mut variables: BTreeMap<String, String> =
            std::env::vars_os().filter_map(utf8).collect();
        let places_env = places.to_env();
        for (name, path) in places_env.into_iter().chain([(BIN_DIR, programs)]) {
            variables.insert(name.to_owned(), path.to_string_lossy().into_owned());
        }
        Self {
            variables,
            users: Users::read(Path::new("/etc/passwd"), Path::new("/etc/group")),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            run: places.run.clone(),
            programs: programs.to_owned(),
            console: false,
        }
    }

    /// Looks a wanted user up and decides whether we may become it.
    ///
    /// # Errors
    /// Where the user or a group is unknown.
    pub(crate) fn identity(&self, wanted: Wanted<'_>) -> Result<Identity, String> {
        let Some(user) = self.users.resolve(wanted)? else {
            return Ok(Identity::Unchanged);
        };
        if self.uid == 0 {
            return Ok(Identity::Changed(user));
        }
        // Without root the suite's own services run as whoever started the suite.
        let own_user = wanted.user.is_none() || user.uid == self.uid;
        let own_group = wanted.group.is_none() || user.gid == self.gid;
        if wanted.built_in || (own_user && own_group && wanted.groups.is_none()) {
            return Ok(Identity::Unchanged);
        }
        let what = match (wanted.user, wanted.group) {
            (Some(name), _) if !own_user => format!("user {name:?}"),
            (_, Some(name)) if !own_group => format!("group {name:?}"),
            _ => "the supplementary groups".to_owned(),
        };
        Ok(Identity::Refused(format!(
            "{what} can't be taken on: the supervisor runs as user {} without root; start it as root, or leave user and groups out",
            self.uid
        )))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A device with a few users and variables, whose supervisor runs as `uid`.
    pub(crate) fn device(uid: u32) -> Context {
        let passwd = "root:x:0:0::/:/bin/sh\ncam:x:1001:44::/:\nme:x:1000:1000::/:\nnobody:x:65534:65534::/:\n";
        let group = "root:x:0:\nvideo:x:44:cam\nme:x:1000:\n";
        let variables = [("VESTAL_RUN_DIR", "/run/v"), ("PATH", "/bin"), (BIN_DIR, "/usr/sbin")];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Context {
            variables: variables.map(owned).into(),
            users: Users::parse(passwd, group),
            uid,
            gid: uid,
            run: "/run/v".into(),
            programs: "/usr/sbin".into(),
            console: false,
        }
    }

    #[test]
    fn without_root_only_ones_own_user_is_possible() {
        let user = |name| Wanted { user: Some(name), ..Wanted::default() };
        let ours = device(1000);
        assert_eq!(ours.identity(user("me")), Ok(Identity::Unchanged));
        assert_eq!(ours.identity(user("1000")), Ok(Identity::Unchanged));
        let Ok(Identity::Refused(why)) = ours.identity(user("cam")) else {
            panic!("another user was accepted");
        };
        assert!(why.contains("\"cam\"") && why.contains("without root"));
        let core = Wanted { built_in: true, ..user("vestal-log") };
        assert_eq!(ours.identity(core), Ok(Identity::Unchanged));
        assert!(ours.identity(user("no-such-user")).is_err());
    }

    #[test]
    fn root_changes_to_whoever_is_wanted() {
        let wanted = Wanted { group: Some("video"), ..Wanted::default() };
        let Ok(Identity::Changed(user)) = device(0).identity(wanted) else {
            panic!("a group was refused");
        };
        assert_eq!((user.uid, user.gid), (0, 44));
    }
}
