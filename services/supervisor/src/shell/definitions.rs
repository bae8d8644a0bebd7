//! The definition files and what is built in, read again whenever somebody asks; and what was wrong with them.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use daemon::{Wrong, clock, places::Places};
use protocol::name::Name;

use super::{Shell, start::programs};
use crate::{
    machine::Event,
    settings::{
        Service,
        context::Context,
        store::{self, Loaded},
    },
};

/// Where definitions come from, and the last reading.
pub(crate) struct Definitions {
    places: Places,
    context: Context,
    /// Why there is only the rescue set.
    rescue: Option<String>,
    read_before: bool,
    loaded: Loaded,
}

impl Definitions {
    /// With `console` the device's console is ours, to help who stands before it.
    pub(crate) fn new(
        places: &Places,
        programs: &Path,
        console: bool,
        rescue: Option<String>,
    ) -> Self {
        let context = Context { console, ..Context::of_process(places, programs) };
        Self {
            places: places.clone(),
            context,
            rescue,
            read_before: false,
            loaded: Loaded::default(),
        }
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// Reads everything; says what is wrong, once, in the log.
    pub(crate) fn read(&mut self) -> Vec<Arc<Service>> {
        if std::mem::replace(&mut self.read_before, true) {
            // Users may have been added since.
            let context = Context::of_process(&self.places, &self.context.programs);
            self.context = Context { console: self.context.console, ..context };
        }
        self.loaded = match &self.rescue {
            Some(_) => store::rescue(&self.context),
            None => {
                let folder = self.places.config.as_ref().map(|config| config.join("services.d"));
                store::load(folder.as_deref(), &self.copies_folder(), &self.context)
            }
        };
        for problem in &self.loaded.problems {
            tracing::error!("{problem}");
        }
        self.keep_copies();
        self.loaded.services.clone()
    }

    /// Writes the last good copies beside the loop: a slow disk delays no start.
    fn keep_copies(&mut self) {
        let copies = self.loaded.take_copies();
        if copies.is_empty() {
            return;
        }
        let folder = self.copies_folder();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store::keep_copies(&folder, &copies) {
                tracing::error!("last good copies in {}: {error}", folder.display());
            }
        });
    }

    fn copies_folder(&self) -> PathBuf {
        self.places.state.join("supervisor/last-good")
    }

    /// The service that the files define, for a message that changes only a part of it.
    pub(crate) fn of_files(&self, name: &Name) -> Option<&Service> {
        self.loaded.services.iter().find(|service| service.name == *name).map(|service| &**service)
    }

    /// Why there is only the rescue set.
    pub(crate) fn rescue(&self) -> Option<&str> {
        self.rescue.as_deref()
    }

    /// From now on there is only the rescue set, which is given.
    pub(crate) fn enter_rescue(&mut self, reason: String) -> Vec<Arc<Service>> {
        self.rescue = Some(reason);
        self.read()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        self.loaded.problems.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn skipped(&self) -> Vec<String> {
        self.loaded.skipped.iter().map(|(name, why)| format!("{name}: {why}")).collect()
    }

    /// The places as command line, for another copy of ourselves.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["--run-dir".into(), (&self.places.run).into()];
        if let Some(config) = &self.places.config {
            arguments.extend(["--config-dir".into(), config.into()]);
        }
        arguments.extend(["--state-dir".into(), (&self.places.state).into()]);
        arguments
    }
}

impl Shell {
    /// Reads the definition files again: SIGHUP, or `service reread`.
    pub(crate) fn read_definitions(&mut self) {
        let services = self.definitions.read();
        self.machine.handle_event(Event::Definitions { services }, clock::now());
    }
}

/// `--check FILE...`: what is wrong with them, as the supervisor would see it.
///
/// # Errors
/// Where any of them is bad, after all of it was printed.
pub(crate) fn check_files(places: &Places, files: &[PathBuf]) -> anyhow::Result<()> {
    if files.is_empty() {
        anyhow::bail!(Wrong("--check needs the definition files to look at".to_owned()));
    }
    let context = Context::of_process(places, &programs()?);
    let checked = store::check(files, &context);
    let bad = checked.iter().filter(|checked| checked.result.is_err()).count();
    for checked in &checked {
        println!("{checked}");
    }
    match bad {
        0 => Ok(()),
        _ => anyhow::bail!(Wrong(format!("{bad} of {} definitions are bad", checked.len()))),
    }
}
