//! What the initramfs asks before the machine goes on in an image: whether the journal lets it, and, where the image is on a device
//! of its own, that it is resumed. Whatever is in doubt is answered with a cold boot, which is always right; so that no image
//! can keep a machine from booting, each is tried a few times only.
//!
//! `vestal-autorun --restore-image` exits with 0 where the machine is to boot cold, and says why where something is configured.
//! `vestal-autorun --may-resume` exits with 0 where the kernel may resume from a swap, and else with 1.

use std::{path::Path, process::ExitCode, time::Duration};

use daemon::{options::Options, places::Places};
use rustix::{event::poll, time::Timespec};

use super::{
    raw::{ImageDevice, Slots},
    settings,
    snapshot::{self, NotResumed},
    world::World,
};
use crate::{
    image::{Head, TRIES_MAX, Verdict},
    journal::{Journal, Record},
    settings::{BackEnd, Settings},
};

pub(crate) const RESTORE: &str = "--restore-image";
pub(crate) const MAY_RESUME: &str = "--may-resume";
/// A disk may come so much later than the one with the root file system.
const COMES: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

/// Goes on in the image on its own device, where there is one that may be resumed.
pub(crate) fn restore() -> ExitCode {
    match found().and_then(|(world, settings)| restore_image(&world, &settings)) {
        Ok(()) => {}
        Err(why) => println!("autorun: cold boot: {why}"),
    }
    ExitCode::SUCCESS
}

/// Whether the kernel may look for an image in a swap.
pub(crate) fn may_resume() -> ExitCode {
    match found().and_then(|(world, settings)| in_swap(&world, &settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("autorun: nothing is resumed from a swap: {why}");
            ExitCode::FAILURE
        }
    }
}

/// What the engine at a cold boot says of an image that is not to be resumed any more.
pub(super) fn verdict(world: &World, settings: &Settings) -> Option<String> {
    let path = settings.image.as_deref()?;
    let head = ImageDevice::open(&world.device(path)).ok()?.heads().ok()?.read().ok()??;
    (head.verdict != Verdict::Good).then(|| told(path, &head.verdict.to_string()))
}

/// A life of this image was done, so that its tries are counted anew.
pub(super) fn proven(world: &World, path: &Path, image: [u8; 32]) -> Result<(), String> {
    let device = open(world, path)?;
    let mut heads = device.heads().map_err(|error| told(path, &error.to_string()))?;
    match heads.read() {
        Ok(Some(head)) if head.image == image && head.tries > 0 => {
            heads.write(&Head { tries: 0, ..head }).map_err(|why| told(path, &why))
        }
        Ok(_) => Ok(()),
        Err(why) => Err(told(path, &why)),
    }
}

fn told(path: &Path, why: &str) -> String {
    format!("the image on {}: {why}", path.display())
}

fn found() -> Result<(World, Settings), String> {
    let places = Places::locate(&Options::default()).map_err(|error| error.to_string())?;
    Ok((World::find(), settings(&places)?))
}

fn open(world: &World, path: &Path) -> Result<ImageDevice, String> {
    ImageDevice::open(&world.device(path)).map_err(|error| told(path, &error.to_string()))
}

fn restore_image(world: &World, settings: &Settings) -> Result<(), String> {
    let (Some(path), Some(place)) = (&settings.image, &settings.journal) else { return Ok(()) };
    if !matches!(settings.back_end, BackEnd::Auto | BackEnd::Snapshot) {
        return Ok(());
    }
    await_device(world, path);
    let device = open(world, path)?;
    let told = |why: &str| told(path, why);
    let mut heads = device.heads().map_err(|error| told(&error.to_string()))?;
    let head = heads.read().map_err(|why| told(&why))?;
    let head = head.ok_or_else(|| told("there is none"))?;
    if head.verdict != Verdict::Good {
        return Err(told(&head.verdict.to_string()));
    }
    let slots = Slots::open(&world.device(&place.path), place)?;
    let mut journal = Journal::new(slots);
    let record = journal.read()?.ok_or("the journal is blank")?;
    if record.image == [0; 32] {
        return Err(told("the journal says that it is not to be resumed any more"));
    }
    if record.image != head.image {
        return Err(told("the journal is about another one"));
    }
    let tries = head.tries + 1;
    if tries <= TRIES_MAX {
        // Durable first: it may be the last that this machine does.
        heads.write(&Head { tries, ..head.clone() }).map_err(|why| told(&why))?;
    }
    let mut end = |verdict: Verdict| {
        let marked = heads.write(&Head { verdict, tries: TRIES_MAX, ..head.clone() });
        let voided = journal.write(&Record { image: [0; 32], ..record.clone() });
        let mut why = told(&verdict.to_string());
        for also in [marked.err(), voided.err()].into_iter().flatten() {
            why = format!("{why}; {also}");
        }
        Err(why)
    };
    if tries > TRIES_MAX {
        return end(Verdict::Tried);
    }
    match snapshot::resume(world, &device, &head) {
        Ok(()) => Ok(()),
        Err(NotResumed::Damaged) => end(Verdict::Damaged),
        Err(NotResumed::Failed(why)) => Err(told(&format!("{why} (try {tries} of {TRIES_MAX})"))),
    }
}

/// Where the kernel gives no event to wait for, it is looked for.
fn await_device(world: &World, path: &Path) {
    let pause = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
    let looks = COMES.as_millis() / LOOK.as_millis();
    for _ in 0..looks {
        if world.device(path).exists() {
            return;
        }
        // An interruption only shortens it.
        let _ = poll(&mut [], Some(&pause));
    }
}

/// A journal that can't be read says no: it may have said that the image is void, and a cold boot does no harm. So do
/// settings that can't be, for they name the journal.
fn in_swap(world: &World, settings: &Settings) -> Result<(), String> {
    let Some(place) = &settings.journal else { return Ok(()) };
    let slots = Slots::open(&world.device(&place.path), place)?;
    // Whoever has written an image without our journal knows what he does.
    let Some(record) = Journal::new(slots).read()? else { return Ok(()) };
    if record.image == [0; 32] {
        return Err("the journal says that no image is to be resumed any more".to_owned());
    }
    let Some(path) = &settings.image else { return Ok(()) };
    let head = open(world, path).ok().and_then(|device| device.heads().ok()?.read().ok()?);
    match head {
        // What else may be in a swap is older.
        Some(head) if head.image == record.image => {
            Err(format!("the journal's image is on {}", path.display()))
        }
        _ => Ok(()),
    }
}
