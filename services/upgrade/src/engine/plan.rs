//! One upgrade, written down before its first byte: what goes where. Kept in a file of its own, which the journal names.

use std::io;

use protocol::upgrade::Transaction;
use serde::{Deserialize, Serialize};

use super::{
    contract::{Activation, Fact, Letter, Platform, Rules, SlotId},
    journal::PlanFile,
};

/// Bytes of the file: 64 components with the longest names.
const FILE_MAX: usize = 64 << 10;

/// What one upgrade does.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Plan {
    /// SHA-256 of the manifest, in hexadecimal digits.
    pub(crate) id: String,
    pub(crate) transaction: Transaction,
    /// Taken without a valid signature, because root said so.
    pub(crate) unsigned: bool,
    pub(crate) components: Vec<Planned>,
    /// The manifest asks for at least so much of a healthy trial.
    pub(crate) stable_ms: u64,
    /// Permissions to go below a floor, by the SHA-256 of the permission.
    pub(crate) permitted: Vec<Permitted>,
}

/// One slot that it writes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Planned {
    pub(crate) component: String,
    /// Where it is written.
    pub(crate) letter: Letter,
    /// It comes in the bundle; else it is copied from the slot in use, so that the set is whole.
    pub(crate) carried: bool,
    /// What the slot will hold.
    pub(crate) fact: Fact,
}

/// A floor that is lowered when this upgrade is confirmed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Permitted {
    pub(crate) component: String,
    pub(crate) to_index: u64,
    pub(crate) permission: String,
}

impl Plan {
    pub(crate) fn load<P: Platform>(platform: &mut P, file: PlanFile) -> io::Result<Self> {
        let bytes = platform.store().read(file.name(), FILE_MAX)?;
        let text =
            || io::Error::other(format!("{} is not there, but the journal names it", file.name()));
        serde_json::from_slice(&bytes.ok_or_else(text)?).map_err(io::Error::other)
    }

    pub(crate) fn save<P: Platform>(&self, platform: &mut P, file: PlanFile) -> io::Result<()> {
        let bytes = serde_json::to_vec(self).map_err(io::Error::other)?;
        platform.store().replace(file.name(), &bytes)
    }

    /// Its slots that come into use in one of these ways.
    pub(crate) fn with<'p>(
        &'p self,
        rules: &'p Rules,
        is_it: impl Fn(Activation) -> bool,
    ) -> impl Iterator<Item = &'p Planned> {
        self.components.iter().filter(move |planned| {
            let found = rules.component(&planned.component);
            found.is_some_and(|(_, rules)| is_it(rules.activation))
        })
    }

    /// Whether it writes what the machine is booted from.
    pub(crate) fn changes_boot(&self, rules: &Rules) -> bool {
        let booted = |activation| matches!(activation, Activation::Reboot | Activation::Mirror);
        self.with(rules, booted).next().is_some()
    }

    /// The set that it writes, if it writes one.
    pub(crate) fn set(&self, rules: &Rules) -> Option<Letter> {
        self.with(rules, |how| how == Activation::Reboot).next().map(|planned| planned.letter)
    }
}

impl Planned {
    /// Nothing where the configuration no longer has the component.
    pub(crate) fn slot(&self, rules: &Rules) -> Option<SlotId> {
        let (component, _) = rules.component(&self.component)?;
        Some(SlotId { component, letter: self.letter })
    }
}

impl Rules {
    pub(crate) fn component(
        &self,
        name: &str,
    ) -> Option<(usize, &super::contract::ComponentRules)> {
        self.components.iter().enumerate().find(|(_, component)| component.name == name)
    }
}
