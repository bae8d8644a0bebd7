//! What the device of the tests has loaded: the code of a driver, which its manager keeps with a record of its own, and a live
//! patch, which the kernel forgets with every boot. Versions are numbers; the factory brought 1.

use std::sync::LazyLock;

use protocol::driver::{Outcome, Settled, Status, Version};

use super::{device::kept_image, world::Shared};
use crate::{
    engine::contract::{Fact, Use},
    shell::loaded::{Purpose, Step, next},
};

/// The driver of the tests, and its live patch.
pub(crate) const DRIVER: &str = "serial";
pub(crate) const PATCH: &str = "hotfix";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Code {
    /// What the manager's record says.
    pub(crate) serves: u64,
    pub(crate) previous: Option<u64>,
    pub(crate) probation: bool,
    /// The version whose trial ended last, not well.
    failed: Option<u64>,
    pub(crate) patch: Option<u64>,
}

impl Default for Code {
    fn default() -> Self {
        Self { serves: 1, previous: None, probation: false, failed: None, patch: None }
    }
}

impl Code {
    /// A host that starts while a version is on probation loads the one before.
    pub(crate) fn power_cycle(&mut self) {
        self.patch = None;
        if self.probation {
            self.go_back();
        }
    }

    /// The manager finds a version on probation to be no good.
    pub(crate) fn go_back(&mut self) {
        self.failed = Some(self.serves);
        self.rollback();
    }

    fn rollback(&mut self) {
        self.serves = self.previous.take().unwrap_or(self.serves);
        self.probation = false;
    }

    fn upgrade(&mut self, version: u64) {
        self.previous = Some(std::mem::replace(&mut self.serves, version));
        (self.probation, self.failed) = (true, None);
    }

    fn status(&self) -> Status {
        let version = |number: u64| Version { hash: hash(number), ..Version::default() };
        let failed = |tried| Settled {
            outcome: Outcome::RolledBack,
            tried: version(tried),
            ..Settled::default()
        };
        Status {
            version: version(self.serves),
            previous: self.previous.map(version),
            last: self.failed.map(failed),
            ..Status::default()
        }
    }
}

fn hash(version: u64) -> String {
    static HASHES: LazyLock<[String; 2]> = LazyLock::new(|| {
        [1, 2].map(|version| bundle::hex::encode(&bundle::sha256(kept_image(DRIVER, version))))
    });
    HASHES[usize::from(version == 2)].clone()
}

/// The number of what an image of the driver is.
fn number(fact: &Fact) -> u64 {
    let known = (1..=2).find(|version| hash(*version) == fact.hash);
    known.expect("only known versions are handed over")
}

/// As the shell does it, with the rules that it goes by.
pub(crate) fn bring(world: &Shared, using: &Use, purpose: Purpose<'_>) -> Result<(), String> {
    let code = world.0.borrow().code;
    let done = match next(&code.status(), using, purpose) {
        Step::Nothing => Ok(()),
        Step::Leave(why) => return Err(why),
        Step::Rollback => world.happen(Code::rollback),
        Step::Upgrade => {
            let fact = using.fact.as_ref().ok_or("nothing is known of what is handed over")?;
            world.happen(|code| code.upgrade(number(fact)))
        }
    };
    done.map_err(|error| error.to_string())
}

/// Lets the kernel's patch be what lies in a slot, or none.
pub(crate) fn patch(world: &Shared, version: Option<u64>) -> Result<(), String> {
    if world.0.borrow().code.patch == version {
        return Ok(());
    }
    world.happen(|code| code.patch = version).map_err(|error| error.to_string())
}
