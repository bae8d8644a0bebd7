//! The key of a heartbeat application: drawn for every start, given to the process through a pipe that the keeper holds
//! from before the spawn until the program runs. It is in the journal, in that pipe and with the broker, and nowhere else.

use std::{io::Write as _, os::fd::OwnedFd};

use anyhow::Context as _;
use protocol::{
    heartbeat::{Expect, Key, KeyBlock},
    keeper::{DepositName, Phase, Request, SlotState},
    name::Name,
};
use rustix::{
    pipe::{PipeFlags, pipe_with},
    rand::{GetRandomFlags, getrandom},
};

use super::{
    Shell,
    channel::Channel,
    journal::{Handed, digits},
    prepare::Workshop,
};
use crate::settings::{Heartbeat, Service, files};

/// The broker's addresses are longer than this only where somebody does us harm.
const ADDRESSES_MAX: u64 = 4096;

/// The key's name in the keeper; the last of the descriptors that a plan hands over.
pub(super) fn deposit(slot: u32) -> String {
    format!("s{slot}/key")
}

impl Shell {
    /// Gives the next start of a slot its key, and tells the broker whom to expect. Nothing, where it doesn't report.
    ///
    /// # Errors
    /// Where another instance reports under this number, or the key can't be made.
    pub(super) fn hand_over_key(&mut self, slot: u32, generation: u32) -> anyhow::Result<()> {
        let Some(prepared) = self.workshop.slot(slot) else { return Ok(()) };
        let Some(app_id) = prepared.settings().process.app_id else { return Ok(()) };
        let (service, instance) = (prepared.service.clone(), prepared.instance.clone());
        if let Some(owner) = self.heartbeats.owner(app_id).filter(|owner| *owner != slot) {
            anyhow::bail!(
                "application {app_id} is {} already, which has not ended: give each its own app-id",
                self.owner(owner)
            );
        }
        let port = self.workshop.broker_port();
        if self.workshop.slot(slot).is_some_and(|prepared| prepared.broker_port != Some(port)) {
            self.workshop.define_again(slot, &mut self.channel)?;
        }
        let mut key = Key([0; 16]);
        let drawn = getrandom(&mut key.0, GetRandomFlags::empty()).context("draw a key")?;
        anyhow::ensure!(drawn == key.0.len(), "the kernel drew only {drawn} octets of a key");
        let handed = Handed { generation, app_id, key };
        // The journal says by itself that it can't be written; what runs is worth more.
        drop(self.journal.key(slot, handed));
        let terms = &service.instances[&instance].policy.heartbeat;
        let block = KeyBlock {
            app_id,
            generation,
            port: u32::from(port),
            period_ms: milliseconds(Some(terms.period)),
            misses: u32::from(terms.misses),
            key,
        };
        self.workshop.deposit_key(slot, &block, &mut self.channel)?;
        self.heartbeats.expect_new(slot, expectation(&service.name, &instance, terms, &handed));
        Ok(())
    }

    /// Tells the broker again of an instance that runs: it was taken over, or other terms hold.
    pub(super) fn expect_again(&mut self, slot: u32, service: &Service, instance: &Name) {
        let Some(handed) = self.journal.memory().keys.get(&slot).copied() else { return };
        let Some(settings) = service.instances.get(instance) else { return };
        let runs = self.states.get(&slot).is_some_and(|state| runs(state, handed.generation));
        // A start that is to stop, or has stopped, is not expected again.
        if runs && settings.process.app_id == Some(handed.app_id) {
            let terms = &settings.policy.heartbeat;
            let expect = expectation(&service.name, instance, terms, &handed);
            let frozen = self.machine.is_frozen(slot);
            self.heartbeats.expect(slot, Expect { frozen, ..expect });
        }
    }

    /// What ended while no supervisor lived is not expected any more.
    pub(super) fn forget_ended(&mut self) {
        for (slot, handed) in &self.journal.memory().keys {
            if !self.states.get(slot).is_some_and(|state| runs(state, handed.generation)) {
                self.heartbeats.forget_unknown(handed.app_id, handed.generation);
            }
        }
    }
}

/// Whether this very start is there.
fn runs(state: &SlotState, generation: u32) -> bool {
    state.generation == generation
        && state.exit_generation != generation
        && matches!(state.phase, Phase::Executing | Phase::Running)
}

fn expectation(service: &Name, instance: &Name, terms: &Heartbeat, handed: &Handed) -> Expect {
    Expect {
        service: service.clone(),
        instance: instance.clone(),
        app_id: handed.app_id,
        generation: handed.generation,
        key: Some(digits(&handed.key)),
        period_ms: milliseconds(Some(terms.period)),
        misses: u32::from(terms.misses),
        grace_ms: milliseconds(terms.grace),
        progress_ms: milliseconds(terms.progress),
        adaptive: terms.adaptive,
        frozen: false,
    }
}

/// 0 is for ever, or never.
fn milliseconds(time: Option<std::time::Duration>) -> u32 {
    time.map_or(0, |time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX))
}

impl Workshop {
    /// The broker's UDP port on this machine.
    pub(super) fn broker_port(&self) -> u16 {
        let path = self.run_dir().join("heartbeat/addr");
        let text = files::read_text(&path, ADDRESSES_MAX).unwrap_or_default();
        port_in(&text).unwrap_or(protocol::heartbeat::PORT)
    }

    /// Leaves the key with the keeper, in the place of an older one.
    fn deposit_key(
        &mut self,
        slot: u32,
        block: &KeyBlock,
        channel: &mut Channel,
    ) -> anyhow::Result<()> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context("make the key's pipe")?;
        // An empty pipe takes as much at once.
        std::fs::File::from(writer).write_all(&block.encode()).context("write the key")?;
        let descriptors: Vec<OwnedFd> = vec![reader];
        channel.send(&Request::Deposit { name: DepositName::new(&deposit(slot))? }, descriptors);
        if let Some(prepared) = self.slots.get_mut(&slot) {
            prepared.key_of = Some(block.generation);
        }
        Ok(())
    }

    /// The program runs, and has its key.
    pub(super) fn key_taken(&mut self, state: &SlotState, channel: &mut Channel) {
        let of_this =
            |prepared: &crate::shell::prepared::Prepared| prepared.key_of == Some(state.generation);
        if state.phase == Phase::Running && self.slots.get(&state.slot).is_some_and(of_this) {
            self.withdraw_key(state.slot, channel);
        }
    }

    pub(super) fn withdraw_key(&mut self, slot: u32, channel: &mut Channel) {
        let handed = self.slots.get_mut(&slot).and_then(|prepared| prepared.key_of.take());
        if handed.is_some()
            && let Ok(name) = DepositName::new(&deposit(slot))
        {
            channel.send(&Request::Withdraw { name }, Vec::new());
        }
    }
}

/// The port of the first address that 127.0.0.1 reaches, else of the first on this machine at all.
fn port_in(addresses: &str) -> Option<u16> {
    let addresses: Vec<std::net::SocketAddr> =
        addresses.lines().filter_map(|line| line.parse().ok()).collect();
    let here = |address: &&std::net::SocketAddr| {
        address.ip().is_loopback() || address.ip().is_unspecified()
    };
    let of_ipv4 = addresses.iter().filter(|address| address.is_ipv4()).find(here);
    of_ipv4.or_else(|| addresses.iter().find(here)).map(std::net::SocketAddr::port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_the_one_that_an_application_on_this_machine_reaches() {
        assert_eq!(port_in("192.0.2.1:1\n[::1]:2\n127.0.0.1:3\n"), Some(3));
        assert_eq!(port_in("[::]:2\n192.0.2.1:1\n"), Some(2));
        assert_eq!(port_in("0.0.0.0:4\n"), Some(4));
        assert_eq!(port_in("192.0.2.1:1\nnonsense\n"), None);
        assert_eq!(port_in(""), None);
    }
}
