//! Descriptors that outlive the supervisor, by name: listening sockets, notify sockets, whatever it deposits.

use std::os::fd::OwnedFd;

use protocol::keeper::{DEPOSITS_MAX, DepositName};

/// All deposits; the place for every one is reserved at start.
#[derive(Debug)]
pub(crate) struct Deposits(Vec<Option<(DepositName, OwnedFd)>>);

impl Deposits {
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(DEPOSITS_MAX))
    }

    /// Keeps `fd` under this name and closes what had it before. `false`: the table is full.
    pub(crate) fn put(&mut self, name: DepositName, fd: OwnedFd) -> bool {
        let same = |place: &Option<(DepositName, _)>| place.as_ref().is_some_and(|it| it.0 == name);
        let at = self.0.iter().position(same).or_else(|| self.0.iter().position(Option::is_none));
        match at {
            Some(at) => self.0[at] = Some((name, fd)),
            None if self.0.len() < DEPOSITS_MAX => self.0.push(Some((name, fd))),
            None => return false,
        }
        true
    }

    pub(crate) fn remove(&mut self, name: &DepositName) {
        for place in &mut self.0 {
            if place.as_ref().is_some_and(|it| it.0 == *name) {
                *place = None;
            }
        }
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<&OwnedFd> {
        self.iter().find(|(it, _)| it.as_str().as_bytes() == name).map(|(_, fd)| fd)
    }

    /// The deposit at a place, or the next one after it, with its place.
    pub(crate) fn next(&self, from: usize) -> Option<(usize, &DepositName, &OwnedFd)> {
        let places = self.0.iter().enumerate().skip(from);
        places.filter_map(|(at, it)| it.as_ref().map(|(name, fd)| (at, name, fd))).next()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(DepositName, OwnedFd)> {
        self.0.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_deposit_replaces_one_of_the_same_name_and_a_full_table_refuses_new_names() {
        let mut deposits = Deposits::new();
        let name = |n: usize| DepositName::new(&format!("socket.{n}")).unwrap();
        let shared = fd();
        let mut put = |n| deposits.put(name(n), shared.try_clone().unwrap());
        // A test process may have as few as 1,024 descriptors: the limit is tried by names, not all at once.
        assert!(put(1) && put(1) && put(2));
        assert_eq!(deposits.iter().count(), 2);
        deposits.remove(&name(1));
        assert!(deposits.get(b"socket.1").is_none() && deposits.get(b"socket.2").is_some());
        deposits.0.resize_with(DEPOSITS_MAX, || None);
        assert!(deposits.put(name(3), fd()));
        assert_eq!(deposits.next(0).map(|(at, _, _)| at), Some(0));
    }
}
