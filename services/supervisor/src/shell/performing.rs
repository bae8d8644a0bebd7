//! Does what the machine wants, action by action.

use std::sync::Arc;

use daemon::clock;
use protocol::{
    keeper::{Disposition, Request as Order, ShutdownKind},
    name::Name,
};
use rustix::io::Errno;

use super::{
    Pending, Shell, conditions, pressure, probe, reload,
    scripts::{self, Script},
    validation,
};
use crate::{
    machine::{Action, Event, Seat},
    settings::Service,
};

impl Shell {
    /// Performs everything the machine wants at the moment.
    pub(super) fn carry_out(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Define { slot, service, instance, disposition, seat } => {
                self.define(slot, service, instance, disposition, seat);
            }
            Action::Dispose { slot, disposition } => {
                self.workshop.disposed(slot, disposition);
                self.order(&Order::Dispose { slot, disposition }, Pending::Other("dispose"));
            }
            Action::Spawn { slot, expected } => self.spawn(slot, expected),
            Action::Signal { slot, generation, signal, tree } => {
                let order = Order::Signal { slot, generation, signal, tree };
                self.order(&order, Pending::Other("signal"));
            }
            Action::Forget { slot } => {
                self.pipes_gone(slot);
                self.states.remove(&slot);
                self.unprepared.remove(&slot);
                self.awaited.remove(&slot);
                self.heartbeats.forget(slot, u32::MAX);
                self.workshop.forget(slot, &mut self.channel);
            }
            Action::Freeze { slot, generation, disposition } => {
                self.freeze(slot, generation, disposition);
            }
            Action::Thaw { slot, generation, means } => self.thaw(slot, generation, means),
            Action::Expect { slot, service, instance } => {
                self.expect_again(slot, &service, &instance);
            }
            Action::Unexpect { slot, generation } => self.heartbeats.forget(slot, generation),
            Action::Release { slot } => {
                self.heartbeats.forget(slot, u32::MAX);
                self.workshop.release(slot, &mut self.channel);
            }
            Action::Check { slot, service } => {
                let holds = conditions::check(&service.conditions);
                self.machine.handle_event(Event::Checked { slot, holds }, clock::now());
            }
            Action::LookAtPressure { slot } => {
                let starved = pressure::is_starved();
                self.machine.handle_event(Event::Pressure { slot, starved }, clock::now());
            }
            Action::Probe { slot, generation, kind } => {
                if let Some(prepared) = self.workshop.slot(slot) {
                    let back = self.back.clone();
                    prepared.probe = Some(probe::start(prepared, slot, generation, kind, back));
                }
            }
            Action::AwaitObject { slot, generation, object } => {
                self.await_object(slot, generation, object);
            }
            Action::ReloadCommand { slot, generation, command, timeout } => {
                if let Some(prepared) = self.workshop.slot(slot) {
                    reload::run(prepared, slot, generation, command, timeout, self.back.clone());
                }
            }
            Action::RunScript { run, service, command, timeout, after } => {
                let script = Script { run, service, command, timeout, after };
                scripts::run(script, self.definitions.places().clone(), self.back.clone());
            }
            Action::Validate { run, service, packages } => {
                let uci = self.definitions.places().uci.clone();
                validation::check(run, service, packages, uci, self.back.clone());
            }
            // A full disk was said by the journal; what runs is worth more than what is remembered of it.
            Action::Record(record) => drop(self.journal.record(record)),
            Action::Reply { id, result } => self.reply(id, result),
            Action::Publish(happening) => {
                self.heartbeats.look_at(&happening);
                self.publish(&happening);
            }
            Action::Ending { kind, ending, limit } => self.ending(kind, &ending, limit),
            Action::Rescue { reason } => self.enter_rescue(reason),
            Action::Leave { kind, exit_code } => {
                self.finish_last_boot();
                self.workshop.close();
                // Only PID 1 may do anything to the machine; elsewhere every kind means: leave.
                let kind = if self.pid_one { kind } else { ShutdownKind::Exit };
                tracing::info!("everything is stopped: {kind:?} with code {exit_code}");
                self.order(&Order::Shutdown { kind, exit_code }, Pending::Leave);
            }
        }
    }

    fn define(
        &mut self,
        slot: u32,
        service: Arc<Service>,
        instance: Name,
        disposition: Disposition,
        seat: Seat,
    ) {
        self.unprepared.remove(&slot);
        let name = format!("service {} instance {instance}", service.name);
        let whose = (Arc::clone(&service), instance.clone(), seat);
        match self.workshop.define(slot, whose, disposition, &mut self.channel) {
            Ok((sequence, missing)) => {
                self.pending.insert(sequence, Pending::Define { slot });
                self.pipes_changed(slot, false);
                for limit in missing {
                    tracing::warn!("{name}: {limit}");
                }
                self.expect_again(slot, &service, &instance);
            }
            Err(error) => {
                tracing::error!("{name}: {error:#}");
                let errno =
                    error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
                self.unprepared.insert(slot, errno.unwrap_or(Errno::INVAL.raw_os_error()));
            }
        }
    }

    fn spawn(&mut self, slot: u32, expected: u32) {
        if let Some(errno) = self.unprepared.get(&slot).copied() {
            self.machine.handle_event(Event::SpawnRefused { slot, errno }, clock::now());
            return;
        }
        if let Err(error) = self.hand_over_key(slot, expected + 1) {
            tracing::error!("{}: {error:#}", self.owner(slot));
            let errno = Errno::AGAIN.raw_os_error();
            self.machine.handle_event(Event::SpawnRefused { slot, errno }, clock::now());
            return;
        }
        self.order(&Order::Spawn { slot, expected }, Pending::Spawn { slot });
    }

    pub(super) fn order(&mut self, order: &Order, pending: Pending) -> u32 {
        let sequence = self.channel.send(order, Vec::new());
        self.pending.insert(sequence, pending);
        sequence
    }
}
