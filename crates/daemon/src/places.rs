//! Where things are: run, configuration, state and UCI folders, by option, environment, and who we are.

use std::{
    env, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::options::Options;

/// A Unix socket's path has at most this many bytes (unix(7): `sun_path` less its NUL).
pub const SOCKET_PATH_MAX: usize = 107;
/// The longest socket name below a run directory that the suite itself makes.
const LONGEST_SOCKET: &str = "driver.NNNNNNNNNNNNNNNN.sock";

/// The folders of this copy of the suite.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Places {
    /// Sockets, pid and state files, on tmpfs.
    pub run: PathBuf,
    /// Definitions and settings; `None`: the built-in ones.
    pub config: Option<PathBuf>,
    /// What survives a reboot.
    pub state: PathBuf,
    /// OpenWrt's configuration files; `None`: there are none.
    pub uci: Option<PathBuf>,
}

/// Why there is no place to be.
#[derive(Debug, Error)]
pub enum PlacesError {
    /// Sockets below it would not fit into `sockaddr_un`.
    #[error(
        "run directory {}: {} bytes are too long for sockets in it (at most {max}); give a shorter --run-dir",
        .path.display(), .path.as_os_str().len(), max = SOCKET_PATH_MAX - LONGEST_SOCKET.len() - 1
    )]
    TooLong { path: PathBuf },
    /// The fall-back folder in /tmp is somebody else's, or open to others.
    #[error("run directory {}: {why}; remove it, or give --run-dir", .path.display())]
    NotOurs { path: PathBuf, why: &'static str },
    #[error("run directory {}: {source}", .path.display())]
    Create { path: PathBuf, source: io::Error },
}

impl Places {
    /// The places by command line, then environment, then by who we are; makes the run directory.
    ///
    /// # Errors
    /// Where the run directory is too long for sockets, isn't ours, or can't be made.
    pub fn find(options: &Options) -> Result<Self, PlacesError> {
        let places = Self::locate(options)?;
        make_run_directory(&places.run, rustix::process::geteuid().as_raw())?;
        Ok(places)
    }

    /// The same places, for a program that only talks to what runs there: makes and checks nothing.
    ///
    /// # Errors
    /// Where the run directory is too long for sockets.
    pub fn locate(options: &Options) -> Result<Self, PlacesError> {
        // Absolute, as those of the command line are: a child may have another working folder.
        let variable = |name| {
            let value = env::var_os(name).filter(|value| !value.is_empty())?;
            std::path::absolute(value).ok()
        };
        let uid = rustix::process::geteuid().as_raw();
        let places = Self::resolve(options, variable, uid);
        if places.run.as_os_str().len() + 1 + LONGEST_SOCKET.len() > SOCKET_PATH_MAX {
            return Err(PlacesError::TooLong { path: places.run });
        }
        Ok(places)
    }

    fn resolve(
        options: &Options,
        variable: impl Fn(&'static str) -> Option<PathBuf>,
        uid: u32,
    ) -> Self {
        let root = uid == 0;
        let chosen = options.run_dir.clone().or_else(|| variable("VESTAL_RUN_DIR"));
        // A run directory of one's own means a copy of one's own: the machine's folders are not touched.
        let system = root && chosen.is_none();
        let run = chosen.unwrap_or_else(|| match variable("XDG_RUNTIME_DIR") {
            _ if root => PathBuf::from("/run/vestal"),
            Some(runtime) => runtime.join("vestal"),
            None => PathBuf::from(format!("/tmp/vestal-{uid}")),
        });
        let place = |option: &Option<PathBuf>, name, otherwise: Option<PathBuf>| {
            option.clone().or_else(|| variable(name)).or(otherwise)
        };
        let of_system = |path| system.then(|| PathBuf::from(path));
        let state = place(&options.state_dir, "VESTAL_STATE_DIR", of_system("/var/lib/vestal"));
        Self {
            config: place(&options.config_dir, "VESTAL_CONFIG_DIR", of_system("/etc/vestal")),
            state: state.unwrap_or_else(|| run.join("state")),
            uci: place(&options.uci_dir, "VESTAL_UCI_DIR", of_system("/etc/config")),
            run,
        }
    }

    /// The socket of the daemon with this short name.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.run.join(format!("{name}.sock"))
    }

    /// The environment by which children find the same places.
    #[must_use]
    pub fn to_env(&self) -> Vec<(&'static str, &Path)> {
        let mut env = vec![("VESTAL_RUN_DIR", self.run.as_path())];
        env.extend(self.config.as_deref().map(|path| ("VESTAL_CONFIG_DIR", path)));
        env.push(("VESTAL_STATE_DIR", self.state.as_path()));
        env.extend(self.uci.as_deref().map(|path| ("VESTAL_UCI_DIR", path)));
        env
    }
}

/// Makes the run directory (0755; 0700 where it is in /tmp), or checks that the one in /tmp is ours alone.
fn make_run_directory(path: &Path, uid: u32) -> Result<(), PlacesError> {
    let shared = path.parent() == Some(Path::new("/tmp"))
        && path.file_name().is_some_and(|name| name == &*format!("vestal-{uid}"));
    let mode = if shared { 0o700 } else { 0o755 };
    let failed = |source| PlacesError::Create { path: path.to_owned(), source };
    let made = match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
        }
        made => made,
    };
    match made {
        // Without what our umask has taken away: others find the sockets in it.
        Ok(()) => {
            let mode = std::fs::Permissions::from_mode(mode);
            return std::fs::set_permissions(path, mode).map_err(failed);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let found = std::fs::symlink_metadata(path).map_err(failed)?;
    let not_ours = |why| Err(PlacesError::NotOurs { path: path.to_owned(), why });
    if shared && found.is_symlink() {
        return not_ours("it is a symbolic link");
    }
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return not_ours("it is not a folder");
    }
    if shared && found.uid() != uid {
        return not_ours("it belongs to somebody else");
    }
    if shared && found.permissions().mode() & 0o777 != 0o700 {
        return not_ours("its mode is not 0700");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &'static str) -> Option<PathBuf> {
        None
    }

    #[test]
    fn root_without_options_gets_the_systems_folders() {
        let places = Places::resolve(&Options::default(), nothing, 0);
        assert_eq!(places.run, Path::new("/run/vestal"));
        assert_eq!(places.config.as_deref(), Some(Path::new("/etc/vestal")));
        assert_eq!(places.state, Path::new("/var/lib/vestal"));
    }

    #[test]
    fn a_run_directory_of_ones_own_uses_nothing_of_the_system_even_for_root() {
        let options = Options { run_dir: Some("/r".into()), ..Options::default() };
        let places = Places::resolve(&options, nothing, 0);
        assert_eq!(
            places,
            Places { run: "/r".into(), config: None, state: "/r/state".into(), uci: None }
        );
    }

    #[test]
    fn an_ordinary_user_gets_the_runtime_folder_or_one_in_tmp() {
        let runtime = |name| (name == "XDG_RUNTIME_DIR").then(|| PathBuf::from("/run/user/7"));
        let run = |variable: &dyn Fn(&'static str) -> Option<PathBuf>| {
            Places::resolve(&Options::default(), variable, 7).run
        };
        assert_eq!(run(&runtime), Path::new("/run/user/7/vestal"));
        assert_eq!(run(&nothing), Path::new("/tmp/vestal-7"));
    }
}
