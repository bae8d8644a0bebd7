//! Configuration files and what was set but not committed: where they are, and how they are read, locked and replaced.
//!
//! A package's file is never seen half written: it is replaced by rename, under its own lock. What `uci set` leaves is
//! appended to a file of the same name in the save directory, under that file's lock.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};
use uci::{
    Delta, MAX_FILE_BYTES, Mode, Package, Problem,
    delta::{apply_delta, parse_delta, print_delta},
    file_text, parse,
};

use super::trouble::Trouble;

const CONFIG_DIR: &str = "/etc/config";
/// Generated configuration: a file here hides the one of that name in [`CONFIG_DIR`].
const OVERRIDE_DIR: &str = "/var/run/uci";
const SAVE_DIR: &str = "/tmp/.uci";
/// Of a file that a command makes.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// A file that another one replaces just now is opened again; so often at most.
const OPEN_TRIES: usize = 100;
/// Names that are tried for a temporary file.
const TEMPORARY_TRIES: u32 = 100;
/// Files of a folder that are looked at.
const FILES_MAX: usize = 16_384;

/// Where files are, and how errors in them are taken.
#[derive(Clone, Debug)]
pub(in crate::applets) struct Store {
    pub(super) config_dir: PathBuf,
    pub(super) override_dir: PathBuf,
    /// Where changes are read from, in this order; they are written to the last one.
    delta_dirs: Vec<PathBuf>,
    pub(super) mode: Mode,
}

/// A package with the changes that were not committed.
pub(in crate::applets) struct Loaded {
    pub(in crate::applets) package: Package,
    pub(super) deltas: Vec<Delta>,
    /// Lines that were left out.
    pub(super) warnings: Vec<Problem>,
    file: PathBuf,
    /// A file outside of the configuration's folder has no changes beside it: they are committed at once.
    has_deltas: bool,
}

impl Default for Store {
    fn default() -> Self {
        let given = std::env::var_os("VESTAL_UCI_DIR").filter(|folder| !folder.is_empty());
        Self {
            config_dir: given.map_or_else(|| CONFIG_DIR.into(), PathBuf::from),
            override_dir: OVERRIDE_DIR.into(),
            delta_dirs: vec![SAVE_DIR.into()],
            mode: Mode::Strict,
        }
    }
}

impl Store {
    /// `-t` and `-P`: changes are kept here.
    pub(super) fn save_in(&mut self, folder: &OsStr) {
        self.delta_dirs.retain(|known| known != folder);
        self.delta_dirs.push(folder.into());
    }

    /// `-p`: changes are read from here too, before those that are kept.
    pub(super) fn read_deltas_of(&mut self, folder: &OsStr) {
        if !self.delta_dirs.iter().any(|known| known == folder) {
            let before_last = self.delta_dirs.len().saturating_sub(1);
            self.delta_dirs.insert(before_last, folder.into());
        }
    }

    fn save_dir(&self) -> &Path {
        self.delta_dirs.last().map_or(Path::new(SAVE_DIR), PathBuf::as_path)
    }

    /// The names of all packages, sorted.
    pub(super) fn names(&self) -> Result<Vec<String>, Trouble> {
        let entries = fs::read_dir(&self.config_dir).map_err(|_| Trouble::NotFound)?;
        let mut names: Vec<String> = entries
            .flatten()
            .take(FILES_MAX)
            .filter(|entry| fs::metadata(entry.path()).is_ok_and(|found| !found.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| uci::is_package_name(name))
            .collect();
        names.sort_unstable();
        if names.is_empty() { Err(Trouble::NotFound) } else { Ok(names) }
    }

    /// Where the package's file is, and its name: `name` may be a whole path.
    fn place(&self, name: &str) -> Result<(PathBuf, String, bool), Trouble> {
        if let Some((_, last)) = name.rsplit_once('/') {
            return Ok((name.into(), last.to_owned(), false));
        }
        if !uci::is_package_name(name) {
            return Err(Trouble::Invalid);
        }
        let hidden_by = self.override_dir.join(name);
        let file = if hidden_by.exists() { hidden_by } else { self.config_dir.join(name) };
        Ok((file, name.to_owned(), true))
    }

    /// The package with its changes.
    pub(in crate::applets) fn load(&self, name: &str) -> Result<Loaded, Trouble> {
        let (file, name, has_deltas) = self.place(name)?;
        // Locked until the changes are read too: a commit in between would move them from one to the other.
        let opened = open_locked(&file, FlockOperation::LockShared)?;
        let mut loaded = self.read(&opened, file, &name, has_deltas)?;
        if has_deltas {
            loaded.deltas = self.saved(&name)?;
            for delta in &loaded.deltas {
                // What can't be done any more is left out, as libuci does.
                let _ = apply_delta(&mut loaded.package, delta);
            }
        }
        Ok(loaded)
    }

    fn read(
        &self,
        from: &File,
        file: PathBuf,
        name: &str,
        has_deltas: bool,
    ) -> Result<Loaded, Trouble> {
        let parsed = parse(name, &whole(from)?, self.mode)?;
        Ok(Loaded {
            package: parsed.package,
            warnings: parsed.warnings,
            deltas: Vec::new(),
            file,
            has_deltas,
        })
    }

    /// All changes of a package that were not committed.
    fn saved(&self, name: &str) -> Result<Vec<Delta>, Trouble> {
        let mut deltas = Vec::new();
        for folder in &self.delta_dirs {
            let Ok(file) = daemon::files::open_plain(&folder.join(name)) else { continue };
            lock(&file, FlockOperation::LockShared)?;
            deltas.extend(parse_delta(name, &whole(&file)?)?.0);
        }
        Ok(deltas)
    }

    /// Keeps changes for a later commit.
    pub(super) fn save(&self, loaded: &Loaded, deltas: &[Delta]) -> Result<(), Trouble> {
        let name = &loaded.package.name;
        if !loaded.has_deltas {
            return self.replace(&loaded.file, &loaded.package);
        }
        if deltas.is_empty() {
            return Ok(());
        }
        self.make_save_dir()?;
        let mode = fs::metadata(self.config_dir.join(name)).map_or(FILE_MODE, |found| found.mode());
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(mode & 0o777).custom_flags(no_link());
        let mut file = options.open(self.save_dir().join(name))?;
        lock(&file, FlockOperation::LockExclusive)?;
        let text = print_delta(name, deltas);
        if file.metadata()?.len() + text.len() as u64 > MAX_FILE_BYTES as u64 {
            return Err(Trouble::Io);
        }
        Ok(file.write_all(text.as_bytes())?)
    }

    /// The save directory, which takes its rights from the configuration's.
    fn make_save_dir(&self) -> Result<(), Trouble> {
        let folder = self.save_dir();
        match fs::metadata(folder) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(Trouble::Io),
            Err(_) => {
                let mode = fs::metadata(&self.config_dir).map_or(FOLDER_MODE, |found| found.mode());
                match DirBuilder::new().mode(mode & 0o7777).create(folder) {
                    // Another command was faster.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    made => Ok(made?),
                }
            }
        }
    }

    /// Writes what was changed into the package's file.
    pub(super) fn commit(&self, name: &str) -> Result<Vec<Problem>, Trouble> {
        let (file, name, has_deltas) = self.place(name)?;
        let locked = open_locked(&file, FlockOperation::LockExclusive)?;
        let mut loaded = self.read(&locked, file.clone(), &name, has_deltas)?;
        if !has_deltas {
            return Ok(loaded.warnings);
        }
        let saved = self.open_saved(&name)?;
        let mut applied = 0;
        for delta in self.saved_under(&name, saved.as_ref())? {
            applied += usize::from(apply_delta(&mut loaded.package, &delta).is_ok());
        }
        if applied > 0 {
            self.replace(&file, &loaded.package)?;
            if let Some(saved) = saved {
                saved.set_len(0)?;
            }
        }
        Ok(loaded.warnings)
    }

    /// The file of kept changes, locked; `None`: nothing was kept.
    fn open_saved(&self, name: &str) -> Result<Option<File>, Trouble> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(no_link());
        match options.open(self.save_dir().join(name)) {
            Ok(file) => {
                lock(&file, FlockOperation::LockExclusive)?;
                Ok(Some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// As [`Self::saved`], where the last file is locked already.
    fn saved_under(&self, name: &str, last: Option<&File>) -> Result<Vec<Delta>, Trouble> {
        let others = self.delta_dirs.len().saturating_sub(1);
        let only_others = Self { delta_dirs: self.delta_dirs[..others].to_vec(), ..self.clone() };
        let mut deltas = only_others.saved(name)?;
        if let Some(last) = last {
            deltas.extend(parse_delta(name, &whole(last)?)?.0);
        }
        Ok(deltas)
    }

    /// Forgets kept changes of a package, a section or an option.
    pub(super) fn revert(
        &self,
        name: &str,
        section: Option<&str>,
        option: Option<&str>,
    ) -> Result<(), Trouble> {
        let Some(mut file) = self.open_saved(name)? else { return Ok(()) };
        let (mut deltas, _) = parse_delta(name, &whole(&file)?)?;
        deltas.retain(|delta| !delta.is_within(section, option));
        file.set_len(0)?;
        file.rewind()?;
        Ok(file.write_all(print_delta(name, &deltas).as_bytes())?)
    }

    /// Writes a package that need not be there yet, and forgets nothing that was kept.
    pub(super) fn import(&self, package: &Package) -> Result<(), Trouble> {
        if !uci::is_package_name(&package.name) {
            return Err(Trouble::Invalid);
        }
        let file = self.config_dir.join(&package.name);
        let made = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&file);
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let _locked = open_locked(&file, FlockOperation::LockExclusive)?;
        self.replace(&file, package)
    }

    /// Replaces a file, which its caller has locked. Links to it stay links; mode and owner stay.
    fn replace(&self, file: &Path, package: &Package) -> Result<(), Trouble> {
        let file = fs::canonicalize(file)?;
        let before = fs::metadata(&file)?;
        let folder = file.parent().unwrap_or(Path::new("/"));
        let (temporary, made) = temporary(folder, &package.name)?;
        let written = write(made, &before, &file_text(package, false))
            .and_then(|()| fs::rename(&temporary, &file))
            .and_then(|()| File::open(folder)?.sync_all());
        if written.is_err() {
            // It is left over only where it can't be removed either.
            let _ = fs::remove_file(&temporary);
        }
        Ok(written?)
    }
}

fn no_link() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
}

fn lock(file: &File, how: FlockOperation) -> Result<(), Trouble> {
    loop {
        match flock(file, how) {
            Err(Errno::INTR) => {}
            // Some file systems know no locks; libuci goes on there too.
            Err(Errno::NOSYS | Errno::OPNOTSUPP) => return Ok(()),
            locked => return locked.map_err(|_| Trouble::Io),
        }
    }
}

/// Everything in a file, up to the limit of the language, which then says so.
fn whole(mut file: &File) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a file and waits for its lock. Whoever had it may have replaced the file meanwhile: then it is the new one
/// that must be locked, or what was committed in between would be lost.
fn open_locked(file: &Path, how: FlockOperation) -> Result<File, Trouble> {
    let writes = how == FlockOperation::LockExclusive;
    for _ in 0..OPEN_TRIES {
        let mut options = OpenOptions::new();
        options.read(true).write(writes).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let opened = options.open(file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Trouble::NotFound,
            _ => Trouble::Io,
        })?;
        let found = opened.metadata()?;
        if !found.is_file() {
            return Err(Trouble::NotFound);
        }
        lock(&opened, how)?;
        let now = fs::metadata(file)?;
        if (now.dev(), now.ino()) == (found.dev(), found.ino()) {
            return Ok(opened);
        }
    }
    Err(Trouble::Io)
}

/// A new file beside the one that is to be replaced.
fn temporary(folder: &Path, name: &str) -> io::Result<(PathBuf, File)> {
    let pid = std::process::id();
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE);
    for number in 0..TEMPORARY_TRIES {
        let path = folder.join(format!(".{name}.uci-{pid}-{number}"));
        match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            opened => return opened.map(|file| (path, file)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn write(mut file: File, before: &Metadata, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
        match fchown(&file, Some(before.uid()), Some(before.gid())) {
            // Without root the file becomes that of whoever may write the folder, as with libuci.
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))?;
    file.sync_all()
}
