//! The worker: a thread that does everything a disk may hold up, one job after the other, so that the loop never waits. What it
//! is asked to write down is on its way before it reads anything again.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use protocol::{
    config::{Entries, Mode, Shown},
    failure::{Code, Failure},
};
use tokio::sync::mpsc::UnboundedSender;
use uci::canonical::Format;

use super::{
    content::{self, Reader},
    store::{self, Owner, Store},
    watches::{Eyes, Map, Meaning},
};
use crate::{
    machine::{Digest, Event, FilePath, Known, Look, Looked, Reading, Record, digits, package},
    settings::{Settings, Source},
};

/// Entries that `show` answers with, of all packages: a message has to hold them.
const SHOWN_BYTES_MAX: usize = 32 << 20;

pub(super) enum Job {
    Look(Look, Arc<Settings>),
    Save(Record, Arc<Settings>),
    Restore(Vec<(FilePath, Option<Digest>)>),
    Show(u64, Vec<(FilePath, usize)>, Arc<Settings>),
}

/// What comes back.
#[derive(Debug)]
pub(super) enum Report {
    Event(Event),
    Watches(Map),
    Shown(u64, Result<Shown, Failure>),
}

struct Worker {
    store: Store,
    eyes: Eyes,
    reports: UnboundedSender<Report>,
}

/// Starts the thread. It ends with the sender of the jobs. There is at most one report a job, so the reports are as few
/// as the jobs, of which the machine gives one at a time.
///
/// # Errors
/// Where there is no thread to be had.
pub(super) fn start(
    store: Store,
    inotify: Arc<OwnedFd>,
    reports: UnboundedSender<Report>,
) -> std::io::Result<mpsc::Sender<Job>> {
    let (sender, jobs) = mpsc::channel();
    let mut worker = Worker { store, eyes: Eyes::new(inotify), reports };
    std::thread::Builder::new().name("files".to_owned()).spawn(move || {
        for job in jobs {
            worker.run(job);
        }
    })?;
    Ok(sender)
}

impl Worker {
    fn run(&mut self, job: Job) {
        let report = match job {
            Job::Look(look, settings) => {
                let looked = Looking::new(self, &settings, look).look();
                if let Some(map) = self.eyes.map() {
                    self.report(Report::Watches(map));
                }
                Report::Event(Event::Looked(looked))
            }
            Job::Save(record, settings) => {
                Report::Event(Event::Saved(self.save(&record, &settings)))
            }
            Job::Restore(contents) => {
                let restored = contents.into_iter().map(|(path, content)| {
                    let outcome = store::put_back(&self.store, &path, content.as_ref());
                    (path, outcome)
                });
                Report::Event(Event::Restored(restored.collect()))
            }
            Job::Show(id, files, settings) => Report::Shown(id, show(&files, &settings)),
        };
        self.report(report);
    }

    fn report(&self, report: Report) {
        // The loop has ended: so does the process.
        let _ = self.reports.send(report);
    }

    fn save(&mut self, record: &Record, settings: &Settings) -> Result<(), String> {
        self.store.save(record)?;
        let Some(path) = &settings.md5 else { return Ok(()) };
        let files = record.files.iter();
        let lines = files.filter_map(|(file, announced)| {
            let md5 = digits(&announced.md5?);
            Some(format!("{md5}  /var/run/config.check/{}\n", package(file)))
        });
        let text: String = lines.collect();
        store::replace(path, text.as_bytes(), Owner { mode: 0o644, ids: None })
            .map_err(|error| format!("write {}: {error}", path.display()))
    }
}

/// One look.
struct Looking<'w> {
    worker: &'w mut Worker,
    settings: &'w Settings,
    known: BTreeMap<FilePath, Known>,
    silent: Vec<usize>,
    looked: Looked,
}

impl<'w> Looking<'w> {
    fn new(worker: &'w mut Worker, settings: &'w Settings, look: Look) -> Self {
        let known = look.files.into_iter().map(|known| (known.path.clone(), known)).collect();
        let looked = Looked { everything: look.everything, ..Looked::default() };
        Self { worker, settings, known, silent: look.silent, looked }
    }

    fn look(mut self) -> Looked {
        if !self.looked.everything {
            for known in std::mem::take(&mut self.known).into_values() {
                self.file(known);
            }
            return self.looked;
        }
        self.worker.eyes.begin();
        if let Some(folder) = self.settings.uncommitted.as_ref().filter(|_| self.watches()) {
            let sources = self.settings.sources.iter();
            let of_uci = sources.filter(|source| source.format == Format::Uci);
            self.worker.eyes.deltas(folder, of_uci.map(|source| source.path.clone()).collect());
        }
        for (at, source) in self.settings.sources.iter().enumerate() {
            self.source(at, source);
        }
        self.worker.eyes.end();
        self.looked.problems.extend(self.worker.eyes.problem().cloned());
        self.looked
    }

    fn watches(&self) -> bool {
        self.settings.mode == Mode::Automatic
    }

    fn source(&mut self, at: usize, source: &Source) {
        let path = Path::new(&*source.path);
        let is_file = self.known.contains_key(&source.path);
        let found = fs::metadata(path);
        let folder = found.as_ref().map_or(!is_file, fs::Metadata::is_dir);
        if self.watches() {
            let file = || Meaning::File(source.path.clone());
            self.worker.eyes.path(path, &if folder { Meaning::Everything } else { file() });
        }
        // Again, because it may have appeared before it was watched.
        match fs::metadata(path) {
            Ok(found) if found.is_dir() && !is_file => self.folder(at, path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_file => {
                let files = self.known.values().filter(|known| known.source == at).count();
                if files > 0 {
                    let text = format!(
                        "{} is not there; what its {files} files said stays in force",
                        source.path
                    );
                    self.away(at, text);
                }
            }
            Err(error) if !is_file && error.kind() != std::io::ErrorKind::NotFound => {
                self.away(at, format!("{} can't be looked into: {error}", source.path));
            }
            _ => {
                let known = self.known.remove(&source.path);
                self.file(known.unwrap_or_else(|| Known {
                    path: source.path.clone(),
                    source: at,
                    announced: None,
                }));
            }
        }
    }

    fn away(&mut self, at: usize, problem: String) {
        self.looked.away.push(at);
        self.looked.problems.push(problem);
    }

    fn folder(&mut self, at: usize, folder: &Path) {
        if self.watches() {
            self.worker.eyes.source(folder);
        }
        let names = match self.names(at, folder) {
            Ok(names) => names,
            Err(error) => {
                return self.away(at, format!("{} can't be listed: {error}", folder.display()));
            }
        };
        for path in names {
            let known = self.known.remove(&path);
            self.file(known.unwrap_or(Known { path, source: at, announced: None }));
        }
        // What isn't listed any more.
        let gone: Vec<FilePath> = self
            .known
            .values()
            .filter(|known| known.source == at)
            .map(|it| it.path.clone())
            .collect();
        for path in gone {
            if let Some(known) = self.known.remove(&path) {
                self.file(known);
            }
        }
    }

    /// The files of a folder that may be packages, in the order of their names.
    fn names(&mut self, at: usize, folder: &Path) -> std::io::Result<Vec<FilePath>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                let text = format!("{}: its name is not UTF-8; rename it", entry.path().display());
                self.looked.problems.push(text);
                continue;
            };
            let path = FilePath::from(format!("{}/{name}", self.settings.sources[at].path));
            // A folder in a folder is none of ours, unless it has the place of a file.
            let is_folder = fs::metadata(entry.path()).is_ok_and(|found| found.is_dir());
            if self.settings.ignores(name) || (is_folder && !self.known.contains_key(&path)) {
                continue;
            }
            paths.push(path);
        }
        paths.sort();
        let max = self.settings.limits.files.saturating_sub(self.looked.readings.len());
        if paths.len() > max {
            self.looked.problems.push(format!(
                "{} holds {} files, of which {max} are watched; raise `files` in [limits]",
                folder.display(),
                paths.len()
            ));
            paths.truncate(max);
        }
        Ok(paths)
    }

    fn file(&mut self, known: Known) {
        let Known { path, source, announced } = known;
        if self.watches() && fs::symlink_metadata(&*path).is_ok_and(|found| found.is_symlink()) {
            self.worker.eyes.path(Path::new(&*path), &Meaning::File(path.clone()));
        }
        let format = &self.settings.sources[source].format;
        let mut reader = Reader {
            store: &mut self.worker.store,
            settings: self.settings,
            format,
            path: &path,
            silent: self.silent.contains(&source),
        };
        let found = reader.find(announced.as_ref());
        self.looked.readings.push(Reading { path, source, found });
    }
}

/// What files say now.
fn show(files: &[(FilePath, usize)], settings: &Settings) -> Result<Shown, Failure> {
    let mut shown = Shown::new();
    let mut bytes = 0;
    for (path, source) in files {
        let format = &settings.sources[*source].format;
        let failed = |text| Failure::new(Code::Failed, format!("{path}: {text}"));
        let entries = content::entries(path, format, settings.limits.file).map_err(failed)?;
        let mut map = Entries::new();
        for entry in entries {
            bytes += entry.name.len() + entry.value.to_string().len();
            map.insert(entry.name, entry.value);
        }
        if bytes > SHOWN_BYTES_MAX {
            let text = format!("more than {SHOWN_BYTES_MAX} bytes are to be shown; name a package");
            return Err(Failure::new(Code::Limit, text));
        }
        // Of two files of one name the later source counts, as with `uci`.
        shown.insert(package(path).to_owned(), map);
    }
    Ok(shown)
}

/// `RUN_DIR/config`.
pub(super) fn folder(run: &Path) -> PathBuf {
    run.join("config")
}
