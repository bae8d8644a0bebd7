//! All definitions of a device: files, their last good copies, what is built in. A bad file costs only itself, and a
//! device without any files still runs. Writes nothing but the copies.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use protocol::name::Name;

use super::{
    Service, Source, builtin,
    context::Context,
    files,
    problem::Problem,
    set,
    toml::{self, FILE_MAX, Read},
};

/// Most files in `services.d`.
const FILES_MAX: usize = 1024;
const EXTENSION: &str = "toml";

/// What there is to run, and what was wrong on the way.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) services: Vec<Arc<Service>>,
    pub(crate) problems: Vec<Problem>,
    /// Built-in services that this device doesn't have, with the reason, for `status`.
    pub(crate) skipped: Vec<(Name, String)>,
    copies: Vec<(OsString, String)>,
}

impl Loaded {
    /// What is to be kept as last good copies: texts that read well and are new. Taken out, to be written by [`keep_copies`].
    pub(crate) fn take_copies(&mut self) -> Vec<(OsString, String)> {
        std::mem::take(&mut self.copies)
    }
}

/// Writes last good copies into `folder`. It may take as long as the disk likes: not to be done where something waits.
///
/// # Errors
/// A folder or disk that takes nothing.
pub(crate) fn keep_copies(folder: &Path, copies: &[(OsString, String)]) -> io::Result<()> {
    files::replace(folder, copies)
}

/// A file that `check` has read.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) file: PathBuf,
    /// What is in it, in a few words, or what is wrong with it.
    pub(crate) result: Result<String, Vec<Problem>>,
}

/// Reads everything. `folder` is `CONFIG_DIR/services.d`, where there is a configuration folder; `copies` is
/// `STATE_DIR/supervisor/last-good`.
pub(crate) fn load(folder: Option<&Path>, copies: &Path, context: &Context) -> Loaded {
    let mut reading = Reading { context, copies, reads: Vec::new(), loaded: Loaded::default() };
    match folder.map(|folder| (folder, definitions(folder))) {
        Some((folder, Ok(files))) => {
            reading.files(&files);
            if !files.is_empty() {
                reading.last_resort(folder);
            }
        }
        Some((folder, Err(error))) if error.kind() != io::ErrorKind::NotFound => {
            reading.loaded.problems.push(Problem::of_file(
                folder,
                format!("can't be read, so the last good copies are used: {error}"),
            ));
            reading.copies_of(folder);
            reading.last_resort(folder);
        }
        _ => reading.built_in(&builtin::APPLICATIONS),
    }
    reading.core();
    reading.finish()
}

/// Only what a person needs to repair the device: log and console shell.
pub(crate) fn rescue(context: &Context) -> Loaded {
    let mut reading =
        Reading { context, copies: Path::new(""), reads: Vec::new(), loaded: Loaded::default() };
    reading.built_in(&builtin::RESCUE);
    let log = builtin::CORE.iter().find(|(name, _)| *name == "log");
    if let Some((name, text)) = log {
        reading.core_service(name, text);
    }
    reading.finish()
}

/// Reads the given files and starts nothing. What only a whole set can tell isn't looked at.
pub(crate) fn check(files: &[PathBuf], context: &Context) -> Vec<Checked> {
    let check = |file: &PathBuf| {
        let result = read_file(file, context).map(|(_, read)| {
            let service = read.service;
            let off = if read.enabled { "" } else { ", not enabled" };
            let refused = service.instances.iter().flat_map(|(name, instance)| {
                instance
                    .errors
                    .iter()
                    .map(move |error| format!("; instance {name} can't be started: {error}"))
            });
            let instances = match service.instances.len() {
                1 => "1 instance".to_owned(),
                several => format!("{several} instances"),
            };
            format!(
                "good: service {} with {instances}{off}{}",
                service.name,
                refused.collect::<String>()
            )
        });
        Checked { file: file.clone(), result }
    };
    files.iter().map(check).collect()
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.result {
            Ok(summary) => write!(f, "{}: {summary}", self.file.display()),
            Err(problems) => {
                let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
        }
    }
}

/// One pass over everything.
struct Reading<'c> {
    context: &'c Context,
    copies: &'c Path,
    reads: Vec<Read>,
    loaded: Loaded,
}

impl Reading<'_> {
    fn files(&mut self, files: &[PathBuf]) {
        if files.len() > FILES_MAX {
            let text = format!("{} definitions, at most {FILES_MAX} are read", files.len());
            self.loaded.problems.push(Problem::of_file(&files[FILES_MAX], text));
        }
        let mut names = BTreeSet::new();
        for file in files.iter().take(FILES_MAX) {
            names.extend(file.file_name().map(ToOwned::to_owned));
            match read_file(file, self.context) {
                Ok((text, read)) => {
                    self.keep_copy(file, &text);
                    self.reads.push(read);
                }
                Err(problems) => {
                    self.loaded.problems.extend(problems);
                    self.copy_of(file);
                }
            }
        }
        // A file that was taken away on purpose must not come back as its own copy.
        for copy in definitions(self.copies).unwrap_or_default() {
            if copy.file_name().is_some_and(|name| !names.contains(name))
                && let Err(error) = fs::remove_file(&copy)
            {
                self.loaded.problems.push(Problem::of_file(
                    &copy,
                    format!("an old copy can't be removed: {error}"),
                ));
            }
        }
    }

    fn copy_path(&self, file: &Path) -> PathBuf {
        self.copies.join(file.file_name().unwrap_or_default())
    }

    /// A good file is remembered, for the day when it is bad.
    fn keep_copy(&mut self, file: &Path, text: &str) {
        let copy = self.copy_path(file);
        if files::read_text(&copy, FILE_MAX).is_ok_and(|kept| kept == text) {
            return;
        }
        if let Some(name) = copy.file_name() {
            self.loaded.copies.push((name.to_owned(), text.to_owned()));
        }
    }

    /// Reads the copy of a file that is bad now.
    fn copy_of(&mut self, file: &Path) {
        let text = files::read_text(&self.copy_path(file), FILE_MAX);
        let Ok((text, name)) =
            text.map_err(|_| ()).and_then(|text| Ok((text, name_of(file).map_err(|_| ())?)))
        else {
            self.loaded
                .problems
                .push(Problem::of_file(file, "left out: there is no last good copy"));
            return;
        };
        let source = Source::LastGood(file.to_owned());
        match toml::read(&text, file, &name, source, self.context) {
            Ok(read) => {
                self.loaded
                    .problems
                    .push(Problem::of_file(file, "the last good copy is used instead"));
                self.reads.push(read);
            }
            // The copy was good once: the device has changed since, a user is gone for example.
            Err(_) => self
                .loaded
                .problems
                .push(Problem::of_file(file, "left out: the last good copy is not good any more")),
        }
    }

    /// All copies, while the folder they came from can't be read.
    fn copies_of(&mut self, folder: &Path) {
        for copy in definitions(self.copies).unwrap_or_default().iter().take(FILES_MAX) {
            self.copy_of(&folder.join(copy.file_name().unwrap_or_default()));
        }
    }

    fn built_in(&mut self, definitions: &[(&str, &str)]) {
        for (name, text) in definitions {
            let file = Path::new("built-in").join(format!("{name}.{EXTENSION}"));
            let read = Name::new(*name)
                .map_err(|error| vec![Problem::of_file(&file, error.to_string())])
                .and_then(|name| toml::read(text, &file, &name, Source::BuiltIn, self.context));
            match read {
                Ok(read) => self.reads.push(read),
                Err(problems) => self.loaded.problems.extend(problems),
            }
        }
    }

    /// A device must not be left with nothing: where no definition can be read it runs what it would run without any. Where the
    /// console is ours and mistakes leave none to run, whoever mends them gets a shell there.
    fn last_resort(&mut self, folder: &Path) {
        let enabled = self.reads.iter().filter(|read| read.enabled);
        let services = enabled.map(|read| read.service.clone()).collect();
        let mut problems = Vec::new();
        let is_left = !set::consistent(services, &mut problems).is_empty();
        let are_mistakes = !problems.is_empty() || !self.loaded.problems.is_empty();
        let mut instead: Vec<(&str, &str)> = Vec::new();
        if self.reads.is_empty() {
            instead.extend(builtin::APPLICATIONS);
        }
        if !is_left && are_mistakes && self.context.console {
            let taken = |name: &str| self.reads.iter().any(|it| it.service.name.as_str() == name);
            instead.extend(builtin::RESCUE.into_iter().filter(|(name, _)| !taken(name)));
        }
        if instead.is_empty() {
            return;
        }
        let names: Vec<&str> = instead.iter().map(|(name, _)| *name).collect();
        let text = format!(
            "none of the definitions in it can be used: built-in ones run instead ({})",
            names.join(", ")
        );
        self.loaded.problems.push(Problem::of_file(folder, text));
        self.built_in(&instead);
    }

    fn core(&mut self) {
        for (name, text) in builtin::CORE {
            if !self.reads.iter().any(|read| read.service.name.as_str() == name) {
                self.core_service(name, text);
            }
        }
    }

    fn core_service(&mut self, name: &str, text: &str) {
        let program = self.context.programs.join(format!("vestal-{name}"));
        match Name::new(name) {
            Ok(name) if !program.is_file() => {
                self.loaded.skipped.push((name, format!("{} is not there", program.display())));
            }
            _ => self.built_in(&[(name, text)]),
        }
    }

    fn finish(mut self) -> Loaded {
        let enabled = self.reads.into_iter().filter(|read| read.enabled).map(|read| read.service);
        let services = set::consistent(enabled.collect(), &mut self.loaded.problems);
        self.loaded.services = services.into_iter().map(Arc::new).collect();
        // The rest of what was read is let go of.
        self.loaded.services.shrink_to_fit();
        self.loaded
    }
}

/// The definitions in a folder, by name; files of editors and package managers are passed over.
fn definitions(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == EXTENSION) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(file: &Path, context: &Context) -> Result<(String, Read), Vec<Problem>> {
    let name = name_of(file).map_err(|problem| vec![problem])?;
    let text = files::read_text(file, FILE_MAX)
        .map_err(|error| vec![Problem::of_file(file, format!("can't be read: {error}"))])?;
    let read = toml::read(&text, file, &name, Source::File(file.to_owned()), context)?;
    Ok((text, read))
}

/// A service is called as its file.
fn name_of(file: &Path) -> Result<Name, Problem> {
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    let name = stem.ok_or_else(|| "the file's name is not UTF-8".to_owned());
    name.and_then(|name| Name::new(name).map_err(|error| error.to_string())).map_err(|why| {
        Problem::of_file(file, format!("no service can be called as this file: {why}"))
    })
}
