//! What the kernel is to tell of, and what it means: the folders of the sources, what links lead to, and the places where
//! something is missing. Each place is watched before it is looked at, so that nothing falls between.
//!
//! Only the worker sets watches. The loop reads what they say with the map that the worker has sent last.

use std::{
    collections::{HashMap, VecDeque},
    ffi::{OsStr, OsString},
    fs, io,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use rustix::fs::inotify::{self, ReadFlags, WatchFlags};

use crate::machine::{Event, FilePath, package};

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;
/// Watches in all, which bounds what links in a folder may cost.
const WATCHES_MAX: usize = 2048;

/// A folder's own fate.
const OWN: WatchFlags = WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF);
/// What happens to names in a folder. Not writes: half of a file is no configuration.
const NAMES: WatchFlags = OWN
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::ATTRIB);
/// A name appears in a folder.
const APPEARS: WatchFlags = OWN.union(WatchFlags::CREATE).union(WatchFlags::MOVED_TO);

/// What is watched.
#[derive(Clone, Debug, Default)]
pub(super) struct Map {
    spots: HashMap<i32, Spot>,
}

#[derive(Clone, Debug)]
struct Spot {
    path: PathBuf,
    /// It is a source: each name in it is a file.
    source: bool,
    /// It holds what isn't committed of the packages of these sources.
    deltas: Vec<FilePath>,
    names: Vec<(OsString, Meaning)>,
}

/// What it means that something happens to a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Meaning {
    /// Other files may be meant now.
    Everything,
    File(FilePath),
}

/// Sets the watches.
pub(super) struct Eyes {
    inotify: Arc<OwnedFd>,
    map: Map,
    /// Those of before everything was looked at.
    old: Vec<i32>,
    changed: bool,
    problem: Option<String>,
}

impl Eyes {
    pub(super) fn new(inotify: Arc<OwnedFd>) -> Self {
        Self { inotify, map: Map::default(), old: Vec::new(), changed: false, problem: None }
    }

    /// Everything is looked at anew.
    pub(super) fn begin(&mut self) {
        self.old = std::mem::take(&mut self.map).spots.into_keys().collect();
        self.changed = true;
        self.problem = None;
    }

    /// The watches that are no longer needed end.
    pub(super) fn end(&mut self) {
        for wd in std::mem::take(&mut self.old) {
            if !self.map.spots.contains_key(&wd) {
                // It ended by itself where its folder is gone.
                let _ = inotify::remove_watch(&self.inotify, wd);
            }
        }
    }

    /// The map, if it changed since it was asked for.
    pub(super) fn map(&mut self) -> Option<Map> {
        std::mem::take(&mut self.changed).then(|| self.map.clone())
    }

    pub(super) fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }

    fn add(&mut self, path: &Path, flags: WatchFlags) -> Option<&mut Spot> {
        if self.map.spots.len() >= WATCHES_MAX {
            self.problem = Some(format!(
                "more than {WATCHES_MAX} folders are to be watched; changes of some need `vestalctl config reload`"
            ));
            return None;
        }
        // MASK_ADD: two paths may lead to one folder.
        let flags = flags | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD;
        match inotify::add_watch(&self.inotify, path, flags) {
            Ok(wd) => {
                self.changed = true;
                let spot = Spot {
                    path: path.to_owned(),
                    source: false,
                    deltas: Vec::new(),
                    names: Vec::new(),
                };
                Some(self.map.spots.entry(wd).or_insert(spot))
            }
            Err(rustix::io::Errno::NOSPC) => {
                let cure = "raise fs.inotify.max_user_watches, or use `vestalctl config reload`";
                self.problem = Some(format!("{} is not watched; {cure}", path.display()));
                None
            }
            // It is gone, or closed to us: whoever reads it next says so.
            Err(_) => None,
        }
    }

    fn name(&mut self, folder: &Path, name: &OsStr, meaning: &Meaning, flags: WatchFlags) {
        if let Some(spot) = self.add(folder, flags) {
            let named = (name.to_owned(), meaning.clone());
            if !spot.names.contains(&named) {
                spot.names.push(named);
            }
        }
    }

    /// Watches all files of a folder.
    pub(super) fn source(&mut self, folder: &Path) {
        // Where it really is: names in events are told by this path.
        if let Some(spot) = self.add(folder, NAMES) {
            spot.source = true;
            folder.clone_into(&mut spot.path);
        }
    }

    /// Watches what isn't committed of the packages of some sources.
    pub(super) fn deltas(&mut self, folder: &Path, sources: Vec<FilePath>) {
        self.path(folder, &Meaning::Everything);
        if let Some(spot) = self.add(folder, NAMES) {
            spot.deltas = sources;
        }
    }

    /// Watches what a path leads through: links, missing pieces, and in the end the file, unless it is a folder.
    pub(super) fn path(&mut self, path: &Path, meaning: &Meaning) {
        let mut at = PathBuf::from("/");
        let mut left: VecDeque<OsString> = parts(path);
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            if part == ".." {
                at.pop();
                continue;
            }
            let here = at.join(&part);
            let mut found = fs::symlink_metadata(&here);
            if found.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                self.name(&at, &part, meaning, APPEARS);
                // It may have appeared before the watch was set.
                found = fs::symlink_metadata(&here);
            }
            let Ok(found) = found else { return };
            if found.is_symlink() {
                self.name(&at, &part, meaning, NAMES);
                links += 1;
                let Ok(target) = fs::read_link(&here) else { continue };
                if links > LINKS_MAX {
                    return;
                }
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    left.push_front(part);
                }
            } else if found.is_dir() {
                self.add(&here, OWN);
                at = here;
            } else {
                self.name(&at, &part, meaning, NAMES);
                return;
            }
        }
    }
}

/// The names of a path, `..` among them.
fn parts(path: &Path) -> VecDeque<OsString> {
    let named = |part: Component<'_>| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        _ => None,
    };
    path.components().filter_map(named).collect()
}

impl Map {
    /// What the kernel has told. Its queue is bounded, and a burst on one file is one event.
    pub(super) fn read(&self, inotify: &OwnedFd) -> Vec<Event> {
        let mut space = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(inotify, &mut space);
        let mut events = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    self.understand(event.wd(), event.events(), name, &mut events);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return events,
            }
        }
    }

    fn understand(&self, wd: i32, what: ReadFlags, name: Option<&OsStr>, events: &mut Vec<Event>) {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            tracing::warn!("the kernel lost events; everything is compared again");
            return push(events, Event::Lost);
        }
        if what.contains(ReadFlags::IGNORED) {
            return;
        }
        let Some(spot) = self.spots.get(&wd) else {
            // Set and not yet told of, or just ended.
            return push(events, Event::Lost);
        };
        let Some(name) = name else {
            let own = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT;
            // Rights of a folder of files decide whether it can be listed.
            if what.intersects(own) || (spot.source && what.contains(ReadFlags::ATTRIB)) {
                push(events, Event::Lost);
            }
            return;
        };
        for (_, meaning) in spot.names.iter().filter(|(known, _)| known == name) {
            match meaning {
                Meaning::Everything => push(events, Event::Lost),
                Meaning::File(path) => touch(events, what, path.clone(), &spot.path.join(name)),
            }
        }
        for source in &spot.deltas {
            let Some(name) = name.to_str() else { continue };
            let file = match package(source) == name {
                true => source.clone(),
                false => FilePath::from(format!("{source}/{name}")),
            };
            touch(events, what, file, &spot.path.join(name));
        }
        if spot.source
            && let Some(path) = spot.path.join(name).to_str()
        {
            touch(events, what, FilePath::from(path), Path::new(path));
        }
    }
}

fn touch(events: &mut Vec<Event>, what: ReadFlags, file: FilePath, really: &Path) {
    let done =
        ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO | ReadFlags::MOVED_FROM | ReadFlags::DELETE;
    if what.intersects(done) {
        push(events, Event::Touched(file));
    } else if what.contains(ReadFlags::CREATE) {
        // A file that was made to be written is closed later; a link is complete.
        let complete = fs::symlink_metadata(really)
            .is_ok_and(|found| found.is_symlink() || found.is_dir() || found.nlink() > 1);
        if complete {
            push(events, Event::Touched(file));
        }
    } else if what.contains(ReadFlags::ATTRIB) {
        push(events, Event::Attributes(file));
    }
}

/// Adds an event, unless it says the same as the last one: a burst is told once.
fn push(events: &mut Vec<Event>, event: Event) {
    let same = match (events.last(), &event) {
        (Some(Event::Lost), Event::Lost) => true,
        (Some(Event::Touched(before)), Event::Touched(path)) => before == path,
        _ => false,
    };
    if !same {
        events.push(event);
    }
}
