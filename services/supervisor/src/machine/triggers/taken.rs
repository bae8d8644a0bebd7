//! Which change of each package was taken last. Who tells of a change and hears no answer tells it again, with the same
//! digest; what was taken already sets off nothing a second time.
//!
//! Only the last digest of a package counts: a change to something else and back is two changes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::CHANGE;

/// Most packages that are remembered. Beyond, the one that changed longest ago is forgotten: its next change counts.
const PACKAGES_MAX: usize = 4096;
/// Longest package and digest that are remembered, in bytes: a file's name, and any digest in hexadecimal digits.
/// Longer ones always count.
const PACKAGE_MAX: usize = 255;
const DIGEST_MAX: usize = 128;

/// A change that says what its package says now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'e> {
    package: &'e str,
    /// Empty where the file is gone.
    digest: &'e str,
}

impl<'e> Told<'e> {
    /// `None`: an event that always counts.
    pub(super) fn by(kind: &str, data: &'e Map<String, Value>) -> Option<Self> {
        let text = |key: &str, most: usize| {
            data.get(key).and_then(Value::as_str).filter(|text| text.len() <= most)
        };
        let (package, digest) = (text("package", PACKAGE_MAX)?, text("digest", DIGEST_MAX)?);
        (kind == CHANGE && !package.is_empty()).then_some(Self { package, digest })
    }
}

/// What was taken of all packages.
#[derive(Debug, Default)]
pub(super) struct Taken {
    packages: BTreeMap<String, Last>,
    /// Counts what was taken, so that the oldest is known.
    count: u64,
    /// Packages that changed since they were journalled.
    touched: BTreeSet<String>,
}

#[derive(Debug)]
struct Last {
    digest: String,
    number: u64,
}

impl Taken {
    /// Exactly this was taken last.
    pub(super) fn knows(&self, told: Told<'_>) -> bool {
        self.packages.get(told.package).is_some_and(|last| last.digest == told.digest)
    }

    /// All that it sets off is queued.
    pub(super) fn take(&mut self, told: Told<'_>) {
        self.count += 1;
        let last = Last { digest: told.digest.to_owned(), number: self.count };
        self.packages.insert(told.package.to_owned(), last);
        self.touched.insert(told.package.to_owned());
        self.keep_within_limit();
    }

    /// Only a part of what it sets off found room: whatever this package is said to be next counts.
    pub(super) fn forget(&mut self, told: Told<'_>) {
        if self.packages.remove(told.package).is_some() {
            self.touched.insert(told.package.to_owned());
        }
    }

    fn keep_within_limit(&mut self) {
        if self.packages.len() <= PACKAGES_MAX {
            return;
        }
        let oldest = self.packages.iter().min_by_key(|(_, last)| last.number);
        if let Some(package) = oldest.map(|(package, _)| package.clone()) {
            self.packages.remove(&package);
            self.touched.insert(package);
        }
    }

    /// What has to be journalled.
    pub(super) fn records(&mut self) -> Vec<TakenRecord> {
        let touched = std::mem::take(&mut self.touched).into_iter();
        let record = |package: String| match self.packages.get(&package) {
            Some(Last { digest, number }) => {
                TakenRecord { package, digest: Some(digest.clone()), number: *number }
            }
            None => TakenRecord { package, digest: None, number: 0 },
        };
        touched.map(record).collect()
    }

    /// What the supervisor before this one had taken.
    pub(super) fn remembered(records: impl IntoIterator<Item = TakenRecord>) -> Self {
        let mut taken = Self::default();
        for TakenRecord { package, digest, number } in records {
            let Some(digest) = digest else { continue };
            taken.count = taken.count.max(number);
            taken.packages.insert(package, Last { digest, number });
            taken.keep_within_limit();
        }
        taken
    }
}

/// What the journal keeps of one package. Read by older and newer versions, as [`super::super::record::InstanceRecord`] is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct TakenRecord {
    pub(crate) package: String,
    /// `None`: forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
    /// A higher one was taken later.
    #[serde(default)]
    pub(crate) number: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn data(package: &str, digest: &str) -> Map<String, Value> {
        json!({ "package": package, "digest": digest }).as_object().unwrap().clone()
    }

    fn take(taken: &mut Taken, package: &str, digest: &str) {
        taken.take(Told::by(CHANGE, &data(package, digest)).unwrap());
    }

    fn knows(taken: &Taken, package: &str, digest: &str) -> bool {
        taken.knows(Told::by(CHANGE, &data(package, digest)).unwrap())
    }

    #[test]
    fn only_a_change_with_a_package_and_a_digest_can_be_told_again() {
        assert!(Told::by(CHANGE, &data("p", "d")).is_some());
        assert!(Told::by(CHANGE, &data("p", "")).is_some());
        assert!(Told::by("config.changes", &data("p", "d")).is_none());
        assert!(Told::by(CHANGE, &data("", "d")).is_none());
        assert!(Told::by(CHANGE, &data("p", &"0".repeat(129))).is_none());
        assert!(Told::by(CHANGE, &data(&"p".repeat(256), "d")).is_none());
        for odd in [json!({ "package": "p" }), json!({ "package": "p", "digest": 5 })] {
            assert!(Told::by(CHANGE, odd.as_object().unwrap()).is_none());
        }
    }

    #[test]
    fn the_package_that_changed_longest_ago_is_forgotten_first_and_stays_so() {
        let mut taken = Taken::default();
        for n in 0..PACKAGES_MAX {
            take(&mut taken, &format!("p{n}"), "d");
        }
        take(&mut taken, "p0", "e");
        take(&mut taken, "one-more", "d");
        assert_eq!(taken.packages.len(), PACKAGES_MAX);
        assert!(!knows(&taken, "p1", "d") && knows(&taken, "p0", "e") && knows(&taken, "p2", "d"));
        let records = taken.records();
        assert!(taken.records().is_empty());
        let mut next = Taken::remembered(records);
        assert!(!knows(&next, "p1", "d") && knows(&next, "one-more", "d"));
        // The order is remembered, too.
        take(&mut next, "another", "d");
        assert!(!knows(&next, "p2", "d") && knows(&next, "p0", "e"));
    }
}
