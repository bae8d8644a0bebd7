//! Live patches: a module goes in, its transition is watched, and where it does not come to its end it is reversed, never
//! forced. Which modules are ours is kept on disk for the boot that they were loaded in.

use std::{collections::BTreeMap, io, os::fd::AsFd as _, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Trouble,
    image::Image,
    kernel::{Kernel, State, taint_change},
    module::Module,
};
use crate::{disk::Store as _, engine::contract::Fact, shell::store::Folder};

/// How long tasks may take to go over to a patch, or to leave it.
const TRANSITION: Duration = Duration::from_secs(60);
/// How long a module may be held after its patch is out of use.
const UNLOAD: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
const FILE: &str = "livepatch.json";
const FILE_MAX: usize = 64 << 10;

/// Whoever patches.
pub(crate) struct Patches {
    folder: Folder,
    boot: String,
    kernel: Arc<dyn Kernel>,
}

/// What was loaded, by component; the newest last.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Record {
    /// In another boot nothing of it is true.
    boot: String,
    loaded: BTreeMap<String, Vec<Ours>>,
}

/// A module that was loaded, or was about to be.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Ours {
    module: String,
    /// SHA-256 of its file.
    hash: String,
}

impl Patches {
    pub(crate) fn new(folder: Folder, boot: String, kernel: Arc<dyn Kernel>) -> Self {
        Self { folder, boot, kernel }
    }

    /// Lets the patch of a component be this one, or none. `back`: the new one is bad, so it goes first; else the old one stays
    /// until the new one is in use, so that there is no moment without a fix. Returns what the history should say.
    ///
    /// # Errors
    /// Why it is not in use; then it is not loaded any more, if the kernel lets go of it.
    pub(crate) async fn switch(
        &self,
        component: &str,
        image: Option<Image>,
        back: bool,
    ) -> Result<Vec<String>, String> {
        let taint = self.kernel.taint();
        let wanted = image.as_ref().map(|image| self.check(image)).transpose()?;
        let mut remarks = Vec::new();
        if let (Some(wanted), Some(image)) = (&wanted, image) {
            if self.is_on(component, wanted)? {
                return Ok(remarks);
            }
            // One of the same name can't be beside it.
            let clash =
                self.others(component, wanted).iter().any(|one| one.module == wanted.module);
            if back || clash || self.is_recorded(component, wanted) {
                self.remove_all(component, None).await?;
            }
            self.load(component, wanted, image).await?;
            if let Err(stuck) = self.settle(&wanted.module, true).await {
                return Err(self.reverse(component, wanted, stuck).await);
            }
        }
        if let Err(error) = self.remove_all(component, wanted.as_ref()).await {
            match wanted {
                // The newest one of several counts, wherever they replace the same function.
                Some(_) => remarks.push(format!("an older patch stays below it: {error}")),
                None => return Err(error),
            }
        }
        remarks.extend(taint_change(taint, self.kernel.taint()));
        Ok(remarks)
    }

    /// As [`switch`](Self::switch) at the start of this program, without waiting until all tasks use it.
    ///
    /// # Errors
    /// Why it can't be loaded.
    pub(crate) async fn start(
        self: &Arc<Self>,
        component: &str,
        image: Option<Image>,
    ) -> Result<(), String> {
        let Some(image) = image else { return self.remove_all(component, None).await };
        let wanted = self.check(&image)?;
        let alone = self.others(component, &wanted).is_empty();
        let recorded = self.is_recorded(component, &wanted);
        let state = self.kernel.state(&wanted.module)?;
        if alone && recorded && matches!(state, State::On | State::Changing { to: true }) {
            return Ok(());
        }
        if alone && !recorded {
            self.load(component, &wanted, image).await?;
            let patches = Arc::clone(self);
            tokio::spawn(async move {
                match patches.settle(&wanted.module, true).await {
                    Ok(()) => tracing::info!("the live patch {} is in use", wanted.module),
                    Err(stuck) => tracing::warn!("the live patch {}: {stuck}", wanted.module),
                }
            });
            return Ok(());
        }
        // It was interrupted, and not by a boot.
        self.switch(component, Some(image), true).await.map(drop)
    }

    /// Whether all tasks use what lies in the slot.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn look(&self, component: &str, fact: &Fact) -> Result<(), Trouble> {
        let ours = self.record().loaded.remove(component).unwrap_or_default();
        let Some(ours) = ours.into_iter().find(|ours| ours.hash == fact.hash) else {
            return Err(Trouble::Final("its live patch is not loaded".to_owned()));
        };
        match self.kernel.state(&ours.module).map_err(Trouble::Yet)? {
            State::On => Ok(()),
            State::Changing { to: true } => {
                Err(Trouble::Yet(format!("tasks still go over to the live patch {}", ours.module)))
            }
            State::Changing { to: false } | State::Off | State::Absent => {
                let text = format!("the live patch {} was taken out of use", ours.module);
                Err(Trouble::Final(text))
            }
        }
    }

    /// What must be true before the kernel sees it.
    fn check(&self, image: &Image) -> Result<Ours, String> {
        let module = Module::parse(&image.bytes)?;
        let mut wrong = Vec::new();
        if !self.kernel.can_patch() {
            let patches = self.kernel.patches();
            wrong.push(format!("this kernel can't be patched: there is no {}", patches.display()));
        }
        let release = self.kernel.release();
        if module.release != release {
            wrong.push(format!(
                "the live patch {} was built for the kernel {}, and {release} runs",
                module.name, module.release
            ));
        }
        match wrong.is_empty() {
            true => Ok(Ours { module: module.name, hash: image.fact.hash.clone() }),
            false => Err(wrong.join("; ")),
        }
    }

    fn is_on(&self, component: &str, wanted: &Ours) -> Result<bool, String> {
        let alone = self.others(component, wanted).is_empty();
        let on = alone && self.is_recorded(component, wanted);
        Ok(on && self.kernel.state(&wanted.module)? == State::On)
    }

    async fn load(&self, component: &str, wanted: &Ours, image: Image) -> Result<(), String> {
        if self.kernel.has_module(&wanted.module) {
            let text = "a module of this name is loaded already, and not by this agent: rmmod it";
            return Err(format!("load {}: {text}", wanted.module));
        }
        self.note(component, |ours| ours.push(wanted.clone()))?;
        let kernel = Arc::clone(&self.kernel);
        let load = move || kernel.load(image.sealed.as_fd());
        let loaded = tokio::task::spawn_blocking(load).await.map_err(io::Error::other);
        if let Err(error) = loaded.flatten() {
            self.note(component, |ours| ours.retain(|one| one != wanted))?;
            return Err(format!("load {}: {error}; see the kernel's log", wanted.module));
        }
        Ok(())
    }

    /// Waits until a transition is over.
    ///
    /// # Errors
    /// Who holds it up.
    async fn settle(&self, patch: &str, to: bool) -> Result<(), String> {
        let mut waited = Duration::ZERO;
        loop {
            match self.kernel.state(patch)? {
                State::On if to => return Ok(()),
                State::Off | State::Absent if !to => return Ok(()),
                State::Off | State::Absent => return Err("was taken out of use".to_owned()),
                State::On | State::Changing { .. } => {}
            }
            if waited >= TRANSITION {
                let (stuck, verb) = (self.kernel.stuck(to), if to { "use" } else { "leave" });
                return Err(format!("did not {verb} it within {TRANSITION:?}: {stuck}"));
            }
            tokio::time::sleep(LOOK).await;
            waited += LOOK;
        }
    }

    /// Goes back from a transition that does not end. Returns all of what is wrong.
    async fn reverse(&self, component: &str, wanted: &Ours, stuck: String) -> String {
        let stuck = format!("the live patch {}: {stuck}", wanted.module);
        tracing::error!("{stuck}; it is reversed");
        match self.remove(component, wanted).await {
            Ok(()) => stuck,
            Err(error) => format!("{stuck}; it could not be reversed either: {error}"),
        }
    }

    /// Takes out all patches of a component but this one.
    async fn remove_all(&self, component: &str, but: Option<&Ours>) -> Result<(), String> {
        let loaded = self.record().loaded.remove(component).unwrap_or_default();
        for ours in loaded.iter().rev().filter(|ours| Some(*ours) != but) {
            self.remove(component, ours).await?;
        }
        Ok(())
    }

    /// Takes a patch out of use, and then its module out of the kernel.
    async fn remove(&self, component: &str, ours: &Ours) -> Result<(), String> {
        let (kernel, name) = (&self.kernel, &ours.module);
        if matches!(kernel.state(name)?, State::On | State::Changing { to: true }) {
            kernel.disable(name).map_err(|error| format!("take {name} out of use: {error}"))?;
        }
        self.settle(name, false).await.map_err(|error| format!("{name}: {error}"))?;
        let mut waited = Duration::ZERO;
        while kernel.has_module(name) {
            match kernel.unload(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                // The kernel lets go of it a little after the transition.
                Err(error) if waited >= UNLOAD => {
                    return Err(format!("unload {name}: {error}"));
                }
                Err(_) => {
                    tokio::time::sleep(LOOK).await;
                    waited += LOOK;
                }
                Ok(()) => break,
            }
        }
        self.note(component, |loaded| loaded.retain(|one| one != ours))
    }

    fn is_recorded(&self, component: &str, wanted: &Ours) -> bool {
        self.record().loaded.get(component).is_some_and(|loaded| loaded.contains(wanted))
    }

    fn others(&self, component: &str, wanted: &Ours) -> Vec<Ours> {
        let loaded = self.record().loaded.remove(component).unwrap_or_default();
        loaded.into_iter().filter(|ours| ours != wanted).collect()
    }

    fn record(&self) -> Record {
        let bytes = self.folder.clone().read(FILE, FILE_MAX);
        let bytes = bytes.inspect_err(|error| tracing::error!("{error}")).ok().flatten();
        let record: Option<Record> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let fresh = || Record { boot: self.boot.clone(), ..Record::default() };
        record.filter(|record| record.boot == self.boot).unwrap_or_else(fresh)
    }

    fn note(&self, component: &str, change: impl FnOnce(&mut Vec<Ours>)) -> Result<(), String> {
        let mut record = self.record();
        change(record.loaded.entry(component.to_owned()).or_default());
        record.loaded.retain(|_, loaded| !loaded.is_empty());
        let json = serde_json::to_vec(&record).map_err(|error| error.to_string())?;
        self.folder.clone().replace(FILE, &json).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
#[path = "livepatch_tests.rs"]
mod tests;
