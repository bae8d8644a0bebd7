//! What an instance says of itself, and what the shell found out for it. A word of an older generation is ignored.

use std::time::Duration;

use protocol::time::Moment;

use super::{Notice, Supervisor, drive::RELOAD_TIMEOUT, instance::State};

/// The longest extension that is believed at once; a service that needs longer asks again.
const EXTENSION_MAX: Duration = Duration::from_secs(3600);
/// Longest free text that is kept, in bytes.
const STATUS_MAX: usize = 1024;

impl Supervisor {
    pub(super) fn notified(&mut self, slot: u32, generation: u32, notice: Notice, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        if life.seen.generation != generation || !life.running() {
            return;
        }
        let defined = life.settings().process.watchdog;
        match notice {
            Notice::Ready => match life.state {
                State::Starting { .. } => self.become_ready(slot, now),
                State::Reloading { .. } => {
                    life.state = State::Ready;
                    life.health.pet(defined, now);
                }
                _ => {}
            },
            Notice::Reloading => {
                if life.state == State::Ready {
                    life.state = State::Reloading { deadline: Some(now + RELOAD_TIMEOUT) };
                }
            }
            Notice::Stopping => life.health.rest(),
            Notice::Status(mut text) => {
                let mut end = text.len().min(STATUS_MAX);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                text.truncate(end);
                life.status = text;
            }
            Notice::Errno(errno) => life.errno = errno,
            Notice::Watchdog => {
                life.missing = false;
                life.health.pet(defined, now);
            }
            Notice::WatchdogTrigger => self.watchdog_missed(slot, now),
            Notice::WatchdogPeriod(period) => {
                life.health.ask(period);
                life.health.pet(defined, now);
            }
            Notice::ExtendTimeout(by) => extend(&mut life.state, now + by.min(EXTENSION_MAX)),
        }
        self.dirty.insert(slot);
    }

    /// The shell looked at the conditions.
    pub(super) fn checked(&mut self, slot: u32, holds: Result<(), String>) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        if life.state != State::Checking {
            return;
        }
        match holds {
            Ok(()) => {
                life.checked = true;
                life.state = State::Waiting;
            }
            Err(condition) => {
                life.reason = format!("not run: {condition}");
                life.state = State::Done { fulfilled: true };
                let next = self.starts.remove(slot);
                self.dirty.extend(next);
            }
        }
        self.dirty.insert(slot);
    }
}

fn extend(state: &mut State, until: Moment) {
    match state {
        State::Starting { deadline: Some(at) }
        | State::Reloading { deadline: Some(at) }
        | State::Stopping { kill_at: Some(at), .. } => *at = until.max(*at),
        _ => {}
    }
}
