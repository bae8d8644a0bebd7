//! The hardware watchdog in procd's words, and the lease by which we allow the keeper to feed it.

use std::time::Duration;

use daemon::clock;
use endpoint::Incoming;
use protocol::{
    failure::{Code, Failure},
    keeper::{Outcome, Request as Order, Watchdog as Settings},
    system,
    time::Moment,
};
use serde_json::Value;

use super::{Answer, Pending, Shell, Waiting};

/// The keeper stops feeding when we did not renew for so long: a supervisor that hangs resets the device.
const LEASE_S: u16 = 60;
const RENEW: Duration = Duration::from_secs(20);
/// procd's defaults.
const DEFAULT_TIMEOUT_S: u16 = 30;
const DEFAULT_FREQUENCY_S: u16 = 5;

/// What we know of the watchdog.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watchdog {
    settings: Settings,
    /// The keeper opened the device.
    open: bool,
    renewed: Moment,
}

impl Default for Watchdog {
    fn default() -> Self {
        let settings = Settings {
            run: true,
            magic_close: false,
            timeout_s: DEFAULT_TIMEOUT_S,
            frequency_s: DEFAULT_FREQUENCY_S,
            lease_s: LEASE_S,
        };
        Self { settings, open: false, renewed: Moment::default() }
    }
}

impl Watchdog {
    pub(crate) fn next_renewal(&self) -> Option<Moment> {
        (self.open && self.settings.run).then(|| self.renewed + RENEW)
    }

    /// procd's rules: the frequency is at most half the time-out, a time-out is more than the frequency.
    fn change(&mut self, args: &system::Watchdog) {
        // The device counts in 16 bits; more than 18 hours is not meant.
        let seconds = |asked: u32| u16::try_from(asked).unwrap_or(u16::MAX).max(1);
        if let Some(timeout) = args.timeout {
            self.settings.timeout_s = seconds(timeout);
        }
        if let Some(frequency) = args.frequency {
            let frequency = seconds(frequency);
            self.settings.frequency_s = frequency;
            if self.settings.timeout_s <= frequency {
                self.settings.timeout_s = frequency.saturating_mul(2);
            }
        }
        self.settings.frequency_s =
            self.settings.frequency_s.min((self.settings.timeout_s / 2).max(1));
        self.settings.magic_close = args.magicclose.unwrap_or(self.settings.magic_close);
        self.settings.run = !args.stop.unwrap_or(!self.settings.run);
    }

    fn state(&self) -> system::WatchdogReply {
        system::WatchdogReply {
            status: match (self.open, self.settings.run) {
                (true, _) => system::WatchdogStatus::Running,
                (false, false) => system::WatchdogStatus::Stopped,
                (false, true) => system::WatchdogStatus::Offline,
            },
            timeout: self.settings.timeout_s.into(),
            frequency: self.settings.frequency_s.into(),
            magicclose: self.settings.magic_close,
        }
    }
}

impl Shell {
    /// `system watchdog`: without arguments tells, with arguments changes.
    pub(crate) fn watchdog_call(&mut self, call: Incoming) {
        let args: system::Watchdog = match call.parse() {
            Ok(args) => args,
            Err(failure) => return call.responder.fail(failure),
        };
        let asks = args.frequency.is_none()
            && args.timeout.is_none()
            && args.magicclose.is_none()
            && args.stop.is_none();
        if asks || !self.pid_one {
            // Where we are not PID 1 the device is somebody else's: it is shown as offline, whatever is asked.
            return call.responder.reply(&self.watchdog.state());
        }
        self.watchdog.change(&args);
        let id = self.wait(call.responder, Answer::Nothing);
        self.send_watchdog(Pending::Watchdog(id));
    }

    pub(crate) fn renew_watchdog(&mut self) {
        if self.watchdog.next_renewal().is_some_and(|at| at <= clock::now()) {
            self.send_watchdog(Pending::Other("watchdog lease"));
        }
    }

    fn send_watchdog(&mut self, pending: Pending) {
        self.watchdog.renewed = clock::now();
        self.order(&Order::Watchdog(self.watchdog.settings), pending);
    }

    /// The keeper opened or closed the device, or could not.
    pub(crate) fn watchdog_changed(&mut self, id: u64, outcome: Outcome) {
        if outcome != Outcome::Done {
            return self.answer_outcome(id, outcome);
        }
        self.watchdog.open = self.watchdog.settings.run;
        if let Some(waiting) = self.waiting.remove(&id) {
            waiting.responder.reply(&self.watchdog.state());
        }
    }

    /// The keeper's answer to a caller's request.
    pub(crate) fn answer_outcome(&mut self, id: u64, outcome: Outcome) {
        let Some(Waiting { responder, .. }) = self.waiting.remove(&id) else { return };
        let text = match outcome {
            Outcome::Done => return responder.reply(&Value::Null),
            Outcome::Errno(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
            Outcome::NotPidOne => "only where the keeper is PID 1".to_owned(),
            other => format!("{other:?}"),
        };
        responder.fail(Failure::new(Code::Failed, format!("the keeper could not do it: {text}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn procds_limits_of_frequency_and_timeout_hold() {
        let mut watchdog = Watchdog::default();
        watchdog.change(&system::Watchdog { frequency: Some(40), ..Default::default() });
        assert_eq!((watchdog.settings.timeout_s, watchdog.settings.frequency_s), (80, 40));
        watchdog.change(&system::Watchdog { timeout: Some(10), ..Default::default() });
        assert_eq!((watchdog.settings.timeout_s, watchdog.settings.frequency_s), (10, 5));
        watchdog.change(&system::Watchdog { stop: Some(true), ..Default::default() });
        assert!(!watchdog.settings.run);
    }
}
