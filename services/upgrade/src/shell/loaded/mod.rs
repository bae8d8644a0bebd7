//! What is loaded into somebody's memory: the code of drivers, which their manager keeps, and live patches, which the kernel
//! has. Slots are read and checked once more, and what was checked is what is handed over: a sealed copy, never a file that
//! somebody could change in between.

mod driver;
mod image;
mod kernel;
mod livepatch;
mod module;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex as StdMutex},
};

use endpoint::Bus;
use tokio::sync::Mutex;

#[cfg(test)]
pub(crate) use self::driver::{Step, next};
use self::{driver::Manager, image::Image, kernel::Kernel, livepatch::Patches};
pub(crate) use self::{driver::Purpose, kernel::Linux};
use super::store::Folder;
use crate::{
    engine::contract::{Activation, Switch, Use},
    settings::Component,
};

/// What is wrong with the health of something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Trouble {
    /// It may still become well.
    Yet(String),
    /// It never will.
    Final(String),
}

/// Whoever loads.
pub(crate) struct Loaded {
    components: Vec<Component>,
    manager: Manager,
    patches: Arc<Patches>,
    /// One at a time: the kernel has but one transition.
    gate: Mutex<()>,
    /// Why a component could not be loaded at the start.
    failed: StdMutex<BTreeMap<usize, String>>,
}

impl Loaded {
    /// `folder` keeps which modules were loaded in the boot `boot`.
    pub(crate) fn new(
        bus: Bus,
        components: Vec<Component>,
        folder: Folder,
        boot: String,
        kernel: Arc<dyn Kernel>,
    ) -> Self {
        let patches = Arc::new(Patches::new(folder, boot, kernel));
        let (manager, gate, failed) = (Manager::new(bus), Mutex::new(()), StdMutex::default());
        Self { components, manager, patches, gate, failed }
    }

    /// Lets what is loaded be what lies in these slots. Returns what the history should say.
    ///
    /// # Errors
    /// The first thing that could not be loaded. On the way back everything else is tried all the same.
    pub(crate) async fn switch(&self, switch: &Switch) -> Result<Vec<String>, String> {
        let _gate = self.gate.lock().await;
        self.failed.lock().expect("nothing panics while it holds this").clear();
        let mut remarks = Ok(Vec::new());
        for using in &switch.uses {
            let told = self.switch_one(using, switch.back.as_deref()).await;
            match (&mut remarks, told) {
                (Ok(remarks), Ok(told)) => remarks.extend(told),
                (Ok(_), Err(error)) => {
                    remarks = Err(error);
                    if switch.back.is_none() {
                        break;
                    }
                }
                (Err(_), _) => {}
            }
        }
        remarks
    }

    async fn switch_one(&self, using: &Use, back: Option<&str>) -> Result<Vec<String>, String> {
        let Some(component) = self.components.get(using.slot.component) else {
            return Ok(Vec::new());
        };
        let purpose = back.map_or(Purpose::Try, Purpose::Back);
        let told = match (component.activation, &component.driver) {
            (Activation::Driver, Some(driver)) => {
                self.manager.bring(driver, using, purpose, || image(component, using)).await
            }
            (Activation::Livepatch, _) => {
                let image = match &using.fact {
                    Some(_) => Some(image(component, using).await?),
                    None => None,
                };
                self.patches.switch(&component.name, image, back.is_some()).await
            }
            _ => return Ok(Vec::new()),
        };
        told.map_err(|error| format!("{}: {error}", component.name))
    }

    /// Loads the live patches that are in use into a kernel that was booted without them. Does not wait until all tasks use
    /// them, and returns what could not be loaded.
    pub(crate) async fn patch(&self, uses: &[Use]) -> Vec<String> {
        let _gate = self.gate.lock().await;
        let mut notes = Vec::new();
        for (component, using) in self.of(uses, Activation::Livepatch) {
            let patched = match &using.fact {
                Some(_) => match image(component, using).await {
                    Ok(image) => self.patches.start(&component.name, Some(image)).await,
                    Err(error) => Err(error),
                },
                None => self.patches.start(&component.name, None).await,
            };
            notes.extend(self.note(component, using, patched));
        }
        notes
    }

    /// What is to be said of a start.
    fn note<T>(
        &self,
        component: &Component,
        using: &Use,
        loaded: Result<T, String>,
    ) -> Option<String> {
        let error = loaded.err()?;
        let mut failed = self.failed.lock().expect("nothing panics while it holds this");
        failed.insert(using.slot.component, error.clone());
        Some(format!("{}: {error}", component.name))
    }

    /// Brings drivers in line with their slots. Returns what is not in line.
    pub(crate) async fn align(&self, uses: &[Use]) -> Vec<String> {
        let _gate = self.gate.lock().await;
        let mut notes = Vec::new();
        for (component, using) in self.of(uses, Activation::Driver) {
            let Some(driver) = &component.driver else { continue };
            let fetch = || image(component, using);
            let brought = self.manager.bring(driver, using, Purpose::Start, fetch).await;
            notes.extend(self.note(component, using, brought));
        }
        notes
    }

    /// Whether what is loaded of a component is what lies in its slot, and well.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) async fn look(&self, using: &Use) -> Result<(), Trouble> {
        let Some(component) = self.components.get(using.slot.component) else { return Ok(()) };
        let looked = match (component.activation, &component.driver, &using.fact) {
            (Activation::Driver, Some(driver), Some(fact)) => {
                self.manager.settled(driver, fact).await
            }
            (Activation::Livepatch, _, Some(fact)) => self.patches.look(&component.name, fact),
            _ => return Ok(()),
        };
        let failed = self.failed.lock().expect("nothing panics while it holds this");
        match (looked, failed.get(&using.slot.component)) {
            (Err(Trouble::Final(text)), Some(why)) => Err(Trouble::Final(format!("{text}: {why}"))),
            (looked, _) => looked,
        }
    }

    fn of<'u>(
        &'u self,
        uses: &'u [Use],
        activation: Activation,
    ) -> impl Iterator<Item = (&'u Component, &'u Use)> {
        let known = uses.iter().filter_map(|using| {
            let component = self.components.get(using.slot.component)?;
            Some((component, using))
        });
        known.filter(move |(component, _)| component.activation == activation)
    }
}

/// Reads and checks a slot, on a thread that may wait for storage.
async fn image(component: &Component, using: &Use) -> Result<Image, String> {
    let (target, fact) = (component.slots.get(using.slot.letter.index()), using.fact.clone());
    let (Some(target), Some(fact)) = (target.cloned(), fact) else {
        return Err(format!("{}: nothing is known of what its slot holds", component.name));
    };
    let name = component.name.clone();
    let read = tokio::task::spawn_blocking(move || Image::read(&name, &target, &fact));
    read.await.map_err(|error| error.to_string())?
}

/// Where the kernel shows itself; other places in tests.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    pub(crate) sys: PathBuf,
    pub(crate) proc: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into() }
    }
}
