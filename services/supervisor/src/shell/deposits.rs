//! What the keeper holds for a slot, so that it outlives us: the listening sockets, and descriptors that the service stored.
//!
//! A name in the keeper is `sSLOT/KIND`. While an instance is being replaced its two slots hold the same sockets, and the
//! last of them decides when they are closed.

use std::{fs, os::fd::OwnedFd};

use anyhow::Context as _;
use protocol::keeper::{DepositName, Request};
use sha2::{Digest as _, Sha256};

use super::{channel::Channel, prepare::Workshop, prepared::Prepared, sockets};
use crate::settings::Socket;

impl Workshop {
    pub(super) fn deposit(
        &mut self,
        name: String,
        descriptor: OwnedFd,
        channel: &mut Channel,
    ) -> anyhow::Result<()> {
        let request = Request::Deposit { name: DepositName::new(&name)? };
        channel.send(&request, vec![descriptor.try_clone().context("copy a descriptor")?]);
        self.deposits.insert(name, descriptor);
        Ok(())
    }

    pub(super) fn withdraw(&mut self, prefix: &str, channel: &mut Channel) {
        let names: Vec<_> =
            self.deposits.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        for name in names {
            self.deposits.remove(&name);
            if let Ok(name) = DepositName::new(&name) {
                channel.send(&Request::Withdraw { name }, Vec::new());
            }
        }
    }

    /// Nobody will serve them: turns waiting callers away and closes the listening sockets.
    pub(crate) fn release(&mut self, slot: u32, channel: &mut Channel) {
        let mut open = Vec::new();
        if let Some(prepared) = self.slots.get_mut(&slot) {
            if let Some(path) = &prepared.settings().process.pidfile {
                // Somebody may have removed it already.
                let _ = fs::remove_file(path);
            }
            open = std::mem::take(&mut prepared.sockets);
        }
        for name in self.listening(slot) {
            // Another process of the instance may go on with it.
            if let Some(listener) = self.deposits.get(&name).filter(|_| !self.is_shared(&name)) {
                sockets::turn_away(listener);
            }
            self.withdraw(&name, channel);
        }
        for (name, socket) in open {
            if !self.is_shared(&name) {
                sockets::unlink(&socket);
            }
        }
    }

    /// Keeps a descriptor that the service stored; `false` where its definition doesn't allow (any more of) it.
    pub(crate) fn store(
        &mut self,
        slot: u32,
        name: &str,
        descriptor: OwnedFd,
        channel: &mut Channel,
    ) -> anyhow::Result<bool> {
        let Some(prepared) = self.slots.get_mut(&slot) else { return Ok(false) };
        let allowed = usize::try_from(prepared.settings().process.fd_store).unwrap_or(usize::MAX);
        if prepared.stored.len() >= allowed {
            return Ok(false);
        }
        let free = (0..).find(|number| {
            let deposit = format!("s{slot}/f{number}/{name}");
            prepared.stored.iter().all(|(taken, _)| *taken != deposit)
        });
        let deposit = format!("s{slot}/f{}/{name}", free.unwrap_or(0));
        // First deposited, then named: a plan that names what is not there could not be spawned.
        self.deposit(deposit.clone(), descriptor, channel)?;
        if let Some(prepared) = self.slots.get_mut(&slot) {
            prepared.stored.push((deposit, name.to_owned()));
        }
        self.define_again(slot, channel).map(|()| true)
    }

    /// Gives back what the service stored under this name.
    pub(crate) fn unstore(
        &mut self,
        slot: u32,
        name: &str,
        channel: &mut Channel,
    ) -> anyhow::Result<()> {
        let Some(prepared) = self.slots.get_mut(&slot) else { return Ok(()) };
        let (gone, kept) =
            std::mem::take(&mut prepared.stored).into_iter().partition(|(_, its)| its == name);
        prepared.stored = kept;
        let gone: Vec<(String, String)> = gone;
        if gone.is_empty() {
            // Asked for again and again this would be a flood of new plans.
            return Ok(());
        }
        // The new plan first: one that names a withdrawn descriptor couldn't be spawned.
        self.define_again(slot, channel)?;
        for (deposit, _) in gone {
            self.deposits.remove(&deposit);
            channel.send(&Request::Withdraw { name: DepositName::new(&deposit)? }, Vec::new());
        }
        Ok(())
    }

    /// What an earlier supervisor stored for this slot: `sSLOT/fNUMBER/NAME`.
    pub(super) fn stored_of(&self, slot: u32) -> Vec<(String, String)> {
        let prefix = format!("s{slot}/f");
        let of_slot = self.deposits.keys().filter(|name| name.starts_with(&prefix));
        of_slot
            .filter_map(|name| Some((name.clone(), name.splitn(3, '/').nth(2)?.to_owned())))
            .collect()
    }

    /// The definition's sockets: those that are there stay, others are bound, those that are no longer wanted are closed.
    /// `open` names what is there, whatever fails.
    pub(super) fn open_sockets(
        &mut self,
        slot: u32,
        shared: Option<u32>,
        wanted: &[Socket],
        open: &mut Vec<(String, Socket)>,
        channel: &mut Channel,
    ) -> anyhow::Result<()> {
        let wanted: Vec<_> =
            wanted.iter().map(|socket| (socket_deposit(slot, socket), socket.clone())).collect();
        for (name, socket) in open.extract_if(.., |old| !wanted.contains(old)) {
            if !self.is_shared(&name) {
                sockets::unlink(&socket);
            }
        }
        // By their names in the keeper: a supervisor before us may have held some that its successor never wanted.
        for name in self.listening(slot) {
            if wanted.iter().all(|(kept, _)| *kept != name) {
                self.withdraw(&name, channel);
            }
        }
        open.clone_from(&wanted);
        for (at, (name, socket)) in wanted.iter().enumerate() {
            if self.deposits.contains_key(name) {
                continue;
            }
            let bound = match shared.and_then(|of| self.deposits.get(&socket_deposit(of, socket))) {
                Some(listener) => listener.try_clone().context("share a socket"),
                None => sockets::open(socket).with_context(|| {
                    format!("socket {:?}: listen on {:?}", socket.name, socket.listen)
                }),
            };
            let bound = bound.and_then(|listener| self.deposit(name.clone(), listener, channel));
            if let Err(error) = bound {
                // What was not bound is somebody else's, and must not be unlinked as ours.
                open.truncate(at);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether the same socket is held for another slot, too.
    fn is_shared(&self, name: &str) -> bool {
        let kind = |name: &str| name.split_once('/').map(|(_, kind)| kind.to_owned());
        self.deposits.keys().any(|other| other != name && kind(other) == kind(name))
    }

    /// What the old process stored is for the new one, too.
    pub(super) fn share_stored(
        &mut self,
        slot: u32,
        prepared: &mut Prepared,
        channel: &mut Channel,
    ) -> anyhow::Result<()> {
        let Some(of) = prepared.seat.replaces else {
            return Ok(());
        };
        for (deposit, name) in self.stored_of(of) {
            let Some((_, kind)) = deposit.split_once('/') else { continue };
            let copy = self.deposits[&deposit].try_clone().context("share a descriptor")?;
            let deposit = format!("s{slot}/{kind}");
            self.deposit(deposit.clone(), copy, channel)?;
            prepared.stored.push((deposit, name));
        }
        Ok(())
    }

    /// The names of a slot's listening sockets in the keeper.
    fn listening(&self, slot: u32) -> Vec<String> {
        let prefix = format!("s{slot}/l");
        self.deposits.keys().filter(|name| name.starts_with(&prefix)).cloned().collect()
    }
}

/// A socket's name in the keeper follows from all that a change of would need another socket.
fn socket_deposit(slot: u32, socket: &Socket) -> String {
    let text = format!("{} {:?} {:o}", socket.name, socket.listen, socket.mode);
    let digest = Sha256::digest(text.as_bytes());
    let hash: String = digest.iter().take(8).map(|octet| format!("{octet:02x}")).collect();
    format!("s{slot}/l{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Listen, UnixKind};

    #[test]
    fn another_address_is_another_socket() {
        let socket = |mode| Socket {
            name: "control".to_owned(),
            listen: Listen::Unix { path: "/x".into(), kind: UnixKind::Stream },
            mode,
        };
        assert_eq!(socket_deposit(1, &socket(0o600)), socket_deposit(1, &socket(0o600)));
        assert_ne!(socket_deposit(1, &socket(0o600)), socket_deposit(1, &socket(0o666)));
    }
}
