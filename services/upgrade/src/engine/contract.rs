//! What the engine needs of the device, what it is told, and what it asks for; the shell knows no other words.
//!
//! A component whose slots are folders is a [`Disk`] like any other for the engine: the shell keeps the tar of a slot beside it
//! and unpacks it in [`Platform::seal`].

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};

use super::choice::Choice;
use crate::disk::{Disk, Store};

/// One of the two slots of a component; for components that are booted, one of the two sets.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) enum Letter {
    A,
    B,
}

impl Letter {
    pub(crate) const BOTH: [Self; 2] = [Self::A, Self::B];

    pub(crate) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Its place in a pair.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    pub(crate) fn as_char(self) -> char {
        match self {
            Self::A => 'A',
            Self::B => 'B',
        }
    }

    /// As the loader passes it in `vestal.slot=`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "A" | "a" => Some(Self::A),
            "B" | "b" => Some(Self::B),
            _ => None,
        }
    }
}

/// A slot, by the place of its component in [`Rules::components`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct SlotId {
    pub(crate) component: usize,
    pub(crate) letter: Letter,
}

/// What a slot is opened for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    Read,
    /// Exclusively; refused where it is mounted or in use.
    Write,
}

/// What is kept in two records of 4 KiB.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Record {
    /// How far the upgrade is.
    Journal,
    /// Which slot of each component that is restarted is in use.
    Active,
    /// The lowest rollback index that is still taken.
    Floor,
}

/// The device.
pub(crate) trait Platform {
    /// Opens a slot. It is closed when the disk is dropped.
    ///
    /// # Errors
    /// Where it is not there, mounted, or somebody else has it.
    fn open(&mut self, slot: SlotId, access: Access) -> io::Result<Box<dyn Disk>>;
    /// Called once the first `size` bytes of a slot are written, flushed and verified, and again after a crash: what is not a
    /// plain image is unpacked here, durably, and verified.
    ///
    /// # Errors
    /// Why it can't be used.
    fn seal(&mut self, slot: SlotId, size: u64) -> io::Result<()>;
    /// At least [`RECORDS`](crate::records::RECORDS) bytes, zeros at first.
    ///
    /// # Errors
    /// Where it can't be made or opened.
    fn record(&mut self, record: Record) -> io::Result<&mut dyn Disk>;
    fn store(&mut self) -> &mut dyn Store;
    /// Called before something that is booted is written: an image of the machine's memory, which goes with what was there when it
    /// was taken, must not be resumed any more.
    ///
    /// # Errors
    /// Where it may be resumed all the same; then nothing may be written.
    fn invalidate_image(&mut self, reason: &str) -> io::Result<()>;
    /// None on a device whose boot loader is left alone; then nothing can be activated by a reboot.
    fn boot(&mut self) -> Option<&mut dyn BootControl>;
}

/// Where the boot loader looks. What the letters mean is [`Choice`]'s; a format only reads and writes one.
pub(crate) trait BootControl {
    /// What the loader goes by now.
    ///
    /// # Errors
    /// Where nothing of it can be read.
    fn load(&mut self) -> io::Result<Choice>;
    /// Replaces it, in one write, durably: after a loss of power the old choice is there or the new one.
    ///
    /// # Errors
    /// Where it can't be written.
    fn store(&mut self, choice: &Choice) -> io::Result<()>;
}

/// What the configuration says about the device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rules {
    pub(crate) product: String,
    pub(crate) revision: String,
    pub(crate) components: Vec<ComponentRules>,
    /// Boots that a new set is given, and that a good one gets back.
    pub(crate) tries: u32,
    /// `finish` activates, unless its caller says otherwise.
    pub(crate) activate: bool,
    /// How long a trial may take to become healthy.
    pub(crate) health_timeout: Duration,
    /// How long it must be healthy without a break.
    pub(crate) stable: Duration,
}

/// One component.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ComponentRules {
    pub(crate) name: String,
    /// With one slot it is written in place, and there is no way back.
    pub(crate) single: bool,
    pub(crate) activation: Activation,
    /// Its slots are folders.
    pub(crate) directory: bool,
}

/// How a component comes into use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Activation {
    /// Belongs to the set that the boot loader chooses.
    Reboot,
    /// Services are stopped, their slot is switched, and they are started.
    Restart,
    /// The second slot is written first; on activation it is copied to the first. No trial.
    Mirror,
    /// The code of a user-space driver: handed to the drivers' manager, while tasks go on calling it.
    Driver,
    /// A kernel module that replaces functions of the running kernel.
    Livepatch,
}

impl Activation {
    /// It is switched while the device runs: the ledger knows which slot is in use.
    pub(crate) fn is_live(self) -> bool {
        matches!(self, Self::Restart | Self::Driver | Self::Livepatch)
    }

    /// Its slot is loaded into somebody's memory: what runs is not what lies in the slot, and power takes it away.
    pub(crate) fn is_loaded(self) -> bool {
        matches!(self, Self::Driver | Self::Livepatch)
    }

    /// Most bytes of an image that is loaded.
    pub(crate) fn image_max(self) -> Option<u64> {
        match self {
            Self::Driver => Some(protocol::driver::OBJECT_MAX),
            Self::Livepatch => Some(MODULE_MAX),
            Self::Reboot | Self::Restart | Self::Mirror => None,
        }
    }
}

/// Most bytes of a kernel module: it is verified in memory.
pub(crate) const MODULE_MAX: u64 = 32 << 20;

/// What the engine starts from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Start {
    /// The set that runs, as the loader said.
    pub(crate) running: Option<Letter>,
    /// Another one after each boot.
    pub(crate) boot_id: String,
    /// Lowest rollback index of a component that the running system itself names.
    pub(crate) floors: Vec<(String, u64)>,
    /// What the running system says of components about which nothing was ever recorded: from the factory.
    pub(crate) factory: Vec<(String, Fact)>,
    /// How the last boot ended that came as far as the supervisor; not known everywhere.
    pub(crate) ended: Option<Ended>,
}

/// A boot that is over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Ended {
    pub(crate) boot_id: String,
    /// At most [`WHY_MAX`] bytes: the journal must have room for it.
    pub(crate) why: String,
}

/// Longest account of a boot's end, in bytes.
pub(crate) const WHY_MAX: usize = 512;

/// What is known of a slot's contents.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Fact {
    pub(crate) version: String,
    pub(crate) rollback_index: u64,
    /// SHA-256 of the image, in hexadecimal digits; empty: not known.
    pub(crate) hash: String,
    /// Bytes of the image; 0: not known.
    pub(crate) size: u64,
}

/// Who calls.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Caller {
    /// `uid 0`, or the fingerprint of an operator's key.
    pub(crate) who: String,
    /// Root, on the Unix socket.
    pub(crate) local_root: bool,
}

/// Time, as the shell read it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Now {
    pub(crate) moment: protocol::time::Moment,
    /// Seconds since 1970, by a clock that may be wrong.
    pub(crate) wall: u64,
}

/// What the shell is to do. Taken one after the other with `poll_action`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// Publish the status: its state changed.
    Changed,
    /// Stop the services of these components, let what points to their slots point to these, load what is loaded, and start the
    /// services again. Answered by `switched`, also where nothing could be done.
    Switch(Switch),
    /// Watch the health of these components and of everything critical; answered by `verdict`, once.
    Observe(Observe),
    /// Reboot in good order.
    Reboot { reason: String },
}

/// A slot that is to be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Use {
    pub(crate) slot: SlotId,
    /// What it holds; of a slot of the factory nothing may be known.
    pub(crate) fact: Option<Fact>,
    /// What the other slot of its component holds.
    pub(crate) other: Option<Fact>,
    /// It comes into use with this start: what became of it before does not count.
    pub(crate) first: bool,
    /// A permission of its upgrade lets it be older than its floor.
    pub(crate) permitted: bool,
}

/// Slots that come into use, all of one upgrade.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Switch {
    pub(crate) uses: Vec<Use>,
    /// It is the way back, and why.
    pub(crate) back: Option<String>,
}

/// What became of a switch.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Switched {
    /// How many milliseconds services were not there.
    pub(crate) outage_ms: u64,
    /// What the history should say of it.
    pub(crate) remarks: Vec<String>,
}

/// What is to be watched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Observe {
    /// Names this observation in its verdict: one that comes late is not taken for that of the next.
    pub(crate) number: u64,
    /// Empty: only what is critical.
    pub(crate) uses: Vec<Use>,
    pub(crate) stable: Duration,
    pub(crate) timeout: Duration,
}
