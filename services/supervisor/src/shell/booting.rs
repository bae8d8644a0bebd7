//! The boot: what the kernel's command line asks for, why the boot before ended, how this one went, and that the next one
//! knows why this one ends.

use std::time::Duration;

use daemon::{clock, places::Places};
use endpoint::Incoming;
use protocol::{
    failure::{Code, Failure},
    keeper::ShutdownKind,
    system::{self, Boot, Booted, Cause, Reset, Shutdown},
    time::Moment,
};

use super::{Shell, journal::Journal, kernel, last_boot::LastBoot};
use crate::machine::{BootRecord, Ending, Event, Record};

/// A disk that takes longer to write one small file is not waited for at the end.
const WRITE_TIME: Duration = Duration::from_secs(2);

/// What is known of the boot when the supervisor begins.
#[derive(Debug)]
pub(super) struct Beginning {
    /// For the machine, where this is the first supervisor of a boot.
    pub(super) fresh: Option<BootRecord>,
    /// Why only the rescue set runs.
    pub(super) rescue: Option<String>,
    pub(super) last_boot: Option<LastBoot>,
}

/// What tells one boot from another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    pub(super) pid_one: bool,
    pub(super) keeper_pid: i32,
    /// The keeper has started no other supervisor.
    pub(super) first_supervisor: bool,
    pub(super) something_runs: bool,
    pub(super) began_at: Moment,
}

/// Finds out what boot this is, and notes it in the journal before anything is started.
pub(super) fn begin(
    places: &Places,
    journal: &mut Journal,
    signs: Signs,
    rescue: Option<String>,
) -> Beginning {
    let known = match &journal.memory().boot {
        Some(Record::Boot(record)) => Some((**record).clone()),
        _ => None,
    };
    let mut last_boot = kernel::boot_id()
        .filter(|_| signs.pid_one)
        .map(|boot_id| LastBoot::new(&places.state, boot_id));
    let is_fresh = !signs.something_runs && (signs.first_supervisor || known.is_none());
    let is_machine = kernel::is_machine(signs.pid_one);
    let mut record = known.clone().filter(|_| !is_fresh).unwrap_or_default();
    if is_fresh {
        record.keeper_at = kernel::keeper_began(signs.keeper_pid, is_machine);
        record.supervisor_at = Some(signs.began_at);
        let by_watchdog = is_machine && kernel::was_reset_by_watchdog();
        record.reset = last_boot.as_ref().map(|last_boot| last_boot.reset(by_watchdog));
        record.reset.iter().for_each(tell);
    }
    // Once there, it stays until the next boot.
    record.rescue = record.rescue.or(rescue);
    // Nothing is made up for a boot whose beginning an older version has seen.
    if known.as_ref() != Some(&record) && (is_fresh || record.rescue.is_some()) {
        // The journal says by itself that it can't be written.
        drop(journal.record(Record::Boot(Box::new(record.clone()))));
    }
    if let Some(last_boot) = &mut last_boot {
        last_boot.running();
    }
    let rescue = record.rescue.clone();
    Beginning { fresh: is_fresh.then_some(record), rescue, last_boot }
}

fn tell(reset: &Reset) {
    let Reset { cause, detail, .. } = reset;
    match cause {
        Cause::First => tracing::info!("nothing is remembered of a boot before this one"),
        cause if cause.is_bad() => {
            tracing::warn!("the boot before this one ended by {}: {detail}", cause.word());
        }
        _ => tracing::info!("the boot before this one ended by order: {detail}"),
    }
}

impl Shell {
    /// `system boot`.
    pub(super) fn boot(&self) -> Boot {
        let Some(record) = self.machine.boot() else { return Boot::default() };
        let is_machine = kernel::is_machine(self.pid_one);
        let origin = match is_machine {
            true => Moment::default(),
            false => record.keeper_at.or(record.supervisor_at).unwrap_or_default(),
        };
        let since = |at: Moment| milliseconds(at.since(origin));
        let booted = self.machine.booted().into_iter().map(|booted| Booted {
            name: booted.service.to_string(),
            instance: booted.instance.to_string(),
            spawned_ms: since(booted.spawned_at),
            ready_ms: booted.ready_at.map(since),
            took_ms: booted.ready_at.map(|at| since(at) - since(booted.spawned_at)),
            core: booted.core,
            after: booted.after.iter().map(ToString::to_string).collect(),
        });
        Boot {
            reset: record.reset.clone(),
            rescue: record.rescue.clone(),
            kernel_ms: record.keeper_at.filter(|_| is_machine).map(since),
            keeper_ms: record.keeper_at.map(since),
            supervisor_ms: record.supervisor_at.map(since),
            all_ready_ms: record.all_ready_at.map(since),
            waits_for: self.machine.boot_waits_for().iter().map(ToString::to_string).collect(),
            services: booted.collect(),
        }
    }

    /// `system reboot`, `poweroff` and `halt`.
    pub(super) fn shut_down(&mut self, kind: ShutdownKind, call: Incoming) {
        let reason = match call.parse::<Shutdown>() {
            Ok(Shutdown { reason }) => reason.unwrap_or_default(),
            Err(failure) => return call.responder.fail(failure),
        };
        if reason.len() > system::REASON_MAX {
            let text = format!(
                "`reason`: {} bytes are too long, at most {} are kept",
                reason.len(),
                system::REASON_MAX
            );
            return call.responder.fail(Failure::new(Code::InvalidArgument, text));
        }
        let caller = call.caller();
        let who = match (caller.pid, kernel::program(caller.pid)) {
            (0, _) => format!("user {}, from another pid namespace", caller.uid),
            (pid, Some(program)) => format!("user {}, {program}, process {pid}", caller.uid),
            (pid, None) => format!("user {}, process {pid}", caller.uid),
        };
        let reason = if reason.is_empty() { who } else { format!("{reason} ({who})") };
        let (kind, text) = match self.pid_one {
            true => (kind, format!("stopping everything, then {kind:?}").to_lowercase()),
            false => (
                ShutdownKind::Exit,
                "stopping everything; the machine is left alone, because the keeper is not PID 1"
                    .to_owned(),
            ),
        };
        call.responder.reply(&serde_json::json!({ "text": text }));
        self.end_everything(kind, Cause::Ordered, reason);
    }

    pub(super) fn end_everything(&mut self, kind: ShutdownKind, cause: Cause, reason: String) {
        let ending = Ending { cause, reason };
        self.machine.handle_event(Event::Shutdown { kind, ending }, clock::now());
    }

    /// Everything is being stopped from now on.
    pub(super) fn ending(&mut self, kind: ShutdownKind, ending: &Ending, limit: Duration) {
        if let Some(last_boot) = &mut self.last_boot {
            last_boot.ended(kind, ending);
        }
        self.limit_watchdog(kind, limit);
    }

    /// The last moment before we leave.
    pub(super) fn finish_last_boot(&mut self) {
        if let Some(last_boot) = &mut self.last_boot {
            last_boot.finish(WRITE_TIME);
        }
    }

    /// A service that must not fail did: only the rescue set goes on.
    pub(super) fn enter_rescue(&mut self, reason: String) {
        tracing::error!(
            "{reason}: everything is stopped but the rescue set, until the next reboot"
        );
        let services = self.definitions.enter_rescue(reason);
        self.machine.handle_event(Event::Rescue { services }, clock::now());
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
