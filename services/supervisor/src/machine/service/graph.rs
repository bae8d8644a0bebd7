//! Who depends on whom. Edges are added and removed with each definition; an edge that would close a cycle is left out,
//! although the settings refuse cycles, because two services that wait for each other would wait for ever.

use std::collections::{BTreeMap, BTreeSet};

use protocol::name::Name;

use crate::settings::Service;

/// The relations of one service, without those that would close a cycle.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Relations {
    pub(crate) requires: BTreeSet<Name>,
    pub(crate) wants: BTreeSet<Name>,
    /// Everything that it waits for: `after`, `requires` and `wants`.
    pub(crate) after: BTreeSet<Name>,
    pub(crate) conflicts: BTreeSet<Name>,
}

impl Relations {
    /// Only services without explicit relations are ordered by their numbers.
    pub(crate) fn plain(&self) -> bool {
        self.after.is_empty()
    }

    /// Whether these are all relations that a definition asks for; an edge that was left out may fit now.
    fn are_those_of(&self, service: &Service) -> bool {
        let same = |known: &BTreeSet<Name>, names: &[Name]| {
            known.len() == names.len() && names.iter().all(|name| known.contains(name))
        };
        let after = service.requires.iter().chain(&service.wants).chain(&service.after);
        same(&self.requires, &service.requires)
            && same(&self.wants, &service.wants)
            && same(&self.conflicts, &service.conflicts)
            && after.collect::<BTreeSet<_>>() == self.after.iter().collect()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Graph {
    relations: BTreeMap<Name, Relations>,
    /// The other way round; names that are not defined (yet) have an entry, too.
    followers: BTreeMap<Name, BTreeSet<Name>>,
    /// Conflicts count in both directions.
    rivals: BTreeMap<Name, BTreeSet<Name>>,
}

impl Graph {
    pub(crate) fn insert(&mut self, service: &Service) {
        if self.relations(&service.name).is_some_and(|known| known.are_those_of(service)) {
            return;
        }
        self.remove(&service.name);
        let mut relations = Relations::default();
        for other in service.requires.iter().chain(&service.wants).chain(&service.after) {
            if !self.leads_to(other, &service.name) {
                relations.after.insert(other.clone());
            }
        }
        let kept = |names: &[Name]| -> BTreeSet<Name> {
            names.iter().filter(|name| relations.after.contains(*name)).cloned().collect()
        };
        relations.requires = kept(&service.requires);
        relations.wants = kept(&service.wants);
        relations.conflicts =
            service.conflicts.iter().filter(|other| **other != service.name).cloned().collect();
        for other in &relations.after {
            self.followers.entry(other.clone()).or_default().insert(service.name.clone());
        }
        for other in &relations.conflicts {
            self.rivals.entry(other.clone()).or_default().insert(service.name.clone());
        }
        self.relations.insert(service.name.clone(), relations);
    }

    pub(crate) fn remove(&mut self, name: &Name) {
        let Some(relations) = self.relations.remove(name) else { return };
        unlink(&mut self.followers, &relations.after, name);
        unlink(&mut self.rivals, &relations.conflicts, name);
    }

    pub(crate) fn of(&self, name: &Name) -> Relations {
        self.relations.get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn relations(&self, name: &Name) -> Option<&Relations> {
        self.relations.get(name)
    }

    /// Those that wait for `name`.
    pub(crate) fn followers(&self, name: &Name) -> impl Iterator<Item = &Name> {
        self.followers.get(name).into_iter().flatten()
    }

    /// Those that must not run beside `name`, whoever of the two says so.
    pub(crate) fn rivals(&self, name: &Name) -> impl Iterator<Item = &Name> {
        let own = self.relations.get(name).into_iter().flat_map(|relations| &relations.conflicts);
        own.chain(self.rivals.get(name).into_iter().flatten())
    }

    /// Those that require `name`.
    pub(crate) fn requirers(&self, name: &Name) -> impl Iterator<Item = &Name> {
        self.followers(name).filter(move |other| {
            self.relations.get(*other).is_some_and(|r| r.requires.contains(name))
        })
    }

    /// Whether waiting for `from` means waiting for `to`.
    fn leads_to(&self, from: &Name, to: &Name) -> bool {
        // Nobody waits for it: no way leads there.
        if from != to && !self.followers.contains_key(to) {
            return false;
        }
        let mut open = vec![from];
        let mut met = BTreeSet::new();
        while let Some(name) = open.pop() {
            if name == to {
                return true;
            }
            if met.insert(name) {
                open.extend(self.relations.get(name).into_iter().flat_map(|r| &r.after));
            }
        }
        false
    }
}

fn unlink(index: &mut BTreeMap<Name, BTreeSet<Name>>, keys: &BTreeSet<Name>, name: &Name) {
    for key in keys {
        if let Some(names) = index.get_mut(key) {
            names.remove(name);
            if names.is_empty() {
                index.remove(key);
            }
        }
    }
}
