//! The hardware watchdog: opened as soon as we begin where the machine is ours, changed in procd's words, and the lease by
//! which we allow the keeper to feed it. At the end it stays armed, and is fed no longer than the end may take.

use std::time::Duration;

use daemon::clock;
use endpoint::Incoming;
use protocol::{
    failure::{Code, Failure},
    keeper::{Outcome, Request as Order, ShutdownKind, Watchdog as Settings},
    system,
    time::Moment,
};
use rustix::io::Errno;
use serde_json::Value;

use super::{Answer, Pending, Shell, Waiting, journal::Feeding, kernel};

/// The keeper stops feeding when we did not renew for so long: a supervisor that hangs resets the device.
const LEASE_S: u16 = 60;
const RENEW: Duration = Duration::from_secs(20);
/// procd's defaults.
const DEFAULT_TIMEOUT_S: u16 = 30;
const DEFAULT_FREQUENCY_S: u16 = 5;
/// After the last moment for stopping everything the keeper has this long to end the machine; then it is fed no more.
const END_GRACE: Duration = Duration::from_secs(10);

/// What we know of the watchdog.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watchdog {
    settings: Settings,
    /// The machine is ours, and the device with it.
    is_ours: bool,
    /// The keeper opened the device.
    open: bool,
    renewed: Moment,
    /// Everything is being stopped: the lease is the last one.
    ending: bool,
}

impl Watchdog {
    pub(super) fn new(pid_one: bool) -> Self {
        Self { is_ours: kernel::is_machine(pid_one), ..Self::default() }
    }
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
        let renewed = Moment::default();
        Self { settings, is_ours: false, open: false, renewed, ending: false }
    }
}

impl Watchdog {
    pub(crate) fn next_renewal(&self) -> Option<Moment> {
        (self.open && self.settings.run && !self.ending).then(|| self.renewed + RENEW)
    }

    /// How it is to be fed when we begin: as somebody wanted it since the boot, else as the kernel's command line says.
    fn choose(&mut self, wanted: Option<Feeding>, word: Option<&str>) -> Result<(), String> {
        if let Some(Feeding { run, magic_close, timeout_s, frequency_s }) = wanted {
            let lease_s = LEASE_S;
            self.settings = Settings { run, magic_close, timeout_s, frequency_s, lease_s };
            return Ok(());
        }
        match word {
            None => Ok(()),
            Some("off") => {
                self.settings.run = false;
                Ok(())
            }
            Some(word) => match word.parse() {
                Ok(timeout @ 1..=u16::MAX) => {
                    let timeout = Some(u32::from(timeout));
                    self.change(&system::Watchdog { timeout, ..Default::default() });
                    Ok(())
                }
                _ => Err(format!(
                    "vestal.watchdog={word} on the kernel's command line is neither `off` nor 1 to {} seconds: it is {} s",
                    u16::MAX,
                    self.settings.timeout_s
                )),
            },
        }
    }

    /// What the next supervisor has to know.
    fn feeding(&self) -> Feeding {
        let Settings { run, magic_close, timeout_s, frequency_s, .. } = self.settings;
        Feeding { run, magic_close, timeout_s, frequency_s }
    }

    /// From now on it is fed only as long as the end may take. What is switched off must stay off, so the keeper may close
    /// the device at the very end.
    fn limit(&mut self, kind: ShutdownKind, limit: Duration) -> bool {
        if !self.open || !self.settings.run || self.ending {
            return false;
        }
        let seconds = (limit + END_GRACE).as_secs();
        self.settings.lease_s = u16::try_from(seconds).unwrap_or(u16::MAX);
        self.settings.magic_close |= matches!(kind, ShutdownKind::Poweroff | ShutdownKind::Halt);
        self.ending = true;
        true
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
        if asks || !self.watchdog.is_ours || self.watchdog.ending {
            // In a container and without PID 1 the device is somebody else's: it is shown as offline, whatever is asked.
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

    /// Where the machine is ours the device is opened at once; a supervisor that takes over renews the lease.
    pub(super) fn begin_watchdog(&mut self, word: Option<&str>) {
        if !self.watchdog.is_ours {
            return;
        }
        if let Err(text) = self.watchdog.choose(self.journal.memory().watchdog, word) {
            tracing::warn!("{text}");
        }
        if self.watchdog.settings.run {
            self.send_watchdog(Pending::OwnWatchdog);
        }
    }

    /// What became of that.
    pub(super) fn watchdog_begun(&mut self, outcome: Outcome) {
        let Settings { timeout_s, frequency_s, .. } = self.watchdog.settings;
        self.watchdog.open = is_open(outcome);
        match outcome {
            Outcome::Done => {
                tracing::info!(
                    "the hardware watchdog is fed every {frequency_s} s; without that it resets the machine after {timeout_s} s"
                );
            }
            Outcome::Errno(errno) if is_open(outcome) => {
                let error = std::io::Error::from_raw_os_error(errno);
                tracing::warn!(
                    "the hardware watchdog does not take {timeout_s} s ({error}): it is fed every {frequency_s} s and keeps the time it has"
                );
            }
            Outcome::Errno(errno) if errno == Errno::NOENT.raw_os_error() => {
                tracing::debug!("there is no hardware watchdog");
            }
            Outcome::Errno(errno) => {
                let error = std::io::Error::from_raw_os_error(errno);
                tracing::warn!("the hardware watchdog can't be opened: {error}");
            }
            other => tracing::warn!("the keeper does not open the hardware watchdog: {other:?}"),
        }
    }

    /// Everything is being stopped, and has to be by then.
    pub(super) fn limit_watchdog(&mut self, kind: ShutdownKind, limit: Duration) {
        if self.watchdog.limit(kind, limit) {
            self.send_watchdog(Pending::Other("the last watchdog lease"));
        }
    }

    /// The keeper opened or closed the device, or could not.
    pub(crate) fn watchdog_changed(&mut self, id: u64, outcome: Outcome) {
        if !is_open(outcome) {
            return self.answer_outcome(id, outcome);
        }
        self.watchdog.open = self.watchdog.settings.run;
        // The journal says by itself that it can't be written.
        drop(self.journal.watchdog(self.watchdog.feeding()));
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

/// The keeper has the device as it was told. One that doesn't take the time-out is open all the same, and has to be fed.
fn is_open(outcome: Outcome) -> bool {
    let of_timeout = [Errno::INVAL, Errno::NOTTY, Errno::OPNOTSUPP, Errno::NOSYS];
    match outcome {
        Outcome::Done => true,
        Outcome::Errno(errno) => of_timeout.iter().any(|known| known.raw_os_error() == errno),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(wanted: Option<Feeding>, word: Option<&str>) -> (Watchdog, bool) {
        let mut watchdog = Watchdog::default();
        let good = watchdog.choose(wanted, word).is_ok();
        (watchdog, good)
    }

    #[test]
    fn the_command_line_switches_it_off_or_says_how_long_it_waits() {
        let of = |word| {
            let (Watchdog { settings, .. }, good) = chosen(None, word);
            (good, settings.run, settings.timeout_s, settings.frequency_s)
        };
        assert_eq!(of(None), (true, true, 30, 5));
        assert_eq!(of(Some("off")), (true, false, 30, 5));
        assert_eq!(of(Some("120")), (true, true, 120, 5));
        assert_eq!(of(Some("4")), (true, true, 4, 2));
        for wrong in ["", "0", "on", "-1", "65536", "30s"] {
            assert_eq!(of(Some(wrong)), (false, true, 30, 5), "{wrong}");
        }
    }

    #[test]
    fn what_somebody_wanted_since_the_boot_outlives_the_supervisor() {
        let (mut watchdog, _) = chosen(None, None);
        let stop = system::Watchdog { stop: Some(true), timeout: Some(90), ..Default::default() };
        watchdog.change(&stop);
        let (next, _) = chosen(Some(watchdog.feeding()), Some("20"));
        assert_eq!((next.settings.run, next.settings.timeout_s), (false, 90));
        assert_eq!(next.settings.lease_s, LEASE_S);
    }

    #[test]
    fn it_stays_armed_past_the_deadline_of_the_end_and_no_lease_follows() {
        let limit = Duration::from_secs(60);
        let mut closed = Watchdog::default();
        assert!(!closed.limit(ShutdownKind::Reboot, limit), "nothing is open");
        for (kind, may_close) in [(ShutdownKind::Reboot, false), (ShutdownKind::Poweroff, true)] {
            let mut watchdog = Watchdog { open: true, ..Watchdog::default() };
            assert!(watchdog.next_renewal().is_some());
            assert!(watchdog.limit(kind, limit));
            assert_eq!((watchdog.settings.lease_s, watchdog.settings.magic_close), (70, may_close));
            assert!(watchdog.settings.run);
            assert_eq!(watchdog.next_renewal(), None);
            assert!(!watchdog.limit(kind, limit), "once");
        }
    }

    #[test]
    fn a_device_that_does_not_take_the_time_is_open_all_the_same() {
        assert!(is_open(Outcome::Done));
        assert!(is_open(Outcome::Errno(Errno::INVAL.raw_os_error())));
        for errno in [Errno::NOENT, Errno::NODEV, Errno::BUSY, Errno::ACCESS] {
            assert!(!is_open(Outcome::Errno(errno.raw_os_error())), "{errno}");
        }
        assert!(!is_open(Outcome::NotPidOne));
    }

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
