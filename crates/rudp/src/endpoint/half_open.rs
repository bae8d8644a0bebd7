//! The connections whose peers have not shown yet that they receive what is sent to them: bounded, because anyone can make them.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    members: Vec<(u32, Option<IpAddr>)>,
    hosts: BTreeMap<IpAddr, u8>,
}

/// Whom a half-open connection is counted for; `None` for programs on this machine, who all share an address.
pub(super) fn host(address: &SocketAddr) -> Option<IpAddr> {
    let host = address.ip().to_canonical();
    (!host.is_loopback()).then_some(host)
}

impl HalfOpen {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn count(&self, host: Option<IpAddr>) -> u8 {
        host.and_then(|host| self.hosts.get(&host)).copied().unwrap_or(0)
    }

    /// Notes a slot, and returns its place here.
    pub(super) fn insert(&mut self, slot: u32, host: Option<IpAddr>) -> u32 {
        if let Some(host) = host {
            let count = self.hosts.entry(host).or_default();
            *count = count.saturating_add(1);
        }
        self.members.push((slot, host));
        u32::try_from(self.members.len() - 1).expect("half-open connections are limited to fewer")
    }

    /// Forgets who is at this place. Returns the slot that moved there, and the place.
    pub(super) fn remove(&mut self, place: u32) -> Option<(u32, u32)> {
        let at = usize::try_from(place).ok().filter(|at| *at < self.members.len())?;
        let (_, host) = self.members.swap_remove(at);
        if let Some(host) = host
            && let Some(count) = self.hosts.get_mut(&host)
        {
            *count -= 1;
            if *count == 0 {
                self.hosts.remove(&host);
            }
        }
        self.members.get(at).map(|(slot, _)| (*slot, place))
    }

    /// One of them by chance, so that who floods can't tell which will go.
    pub(super) fn pick(&self, random: u64) -> Option<u32> {
        let count = u64::try_from(self.members.len()).ok()?;
        let at = usize::try_from(random.checked_rem(count)?).ok()?;
        self.members.get(at).map(|(slot, _)| *slot)
    }
}
