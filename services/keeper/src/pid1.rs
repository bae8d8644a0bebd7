//! What only PID 1 may do: the hardware watchdog, the end of the machine. Everything here takes a [`PidOne`] as proof.
//!
//! Mounts and the console are [`crate::machine`]'s.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use daemon::clock;
use protocol::{
    keeper::{Outcome, ShutdownKind, Watchdog},
    time::Moment,
};
use rustix::{
    event::{PollFd, PollFlags},
    fs::{Mode, OFlags},
    process::WaitOptions,
};

use crate::{machine::Machine, proc, say::say, sys};

/// Services are stopped by now; what the end meets has escaped from them, and has this long after SIGTERM, and after SIGKILL.
const END_TIME: Duration = Duration::from_secs(2);

/// This process is PID 1: the machine is its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PidOne(());

impl PidOne {
    /// The only way to get one.
    pub(crate) fn prove() -> Option<Self> {
        (std::process::id() == 1).then_some(Self(()))
    }

    /// Ends what is left, writes what is not written, and leaves the machine to its firmware.
    pub(crate) fn end_machine(
        self,
        kind: ShutdownKind,
        machine: Option<&Machine>,
        feeding: Option<Feeding>,
        signals: BorrowedFd<'_>,
    ) {
        // Each step has its own limit; the time between two meals is that of one of them.
        let feed = || feeding.as_ref().map(Feeding::feed_now);
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            feed();
            // Nothing may be left to signal: that is no failure.
            let _ = sys::kill(-1, signal);
            if reap_everything(signals) {
                break;
            }
        }
        feed();
        if let Some(machine) = machine {
            machine.end();
        }
        feed();
        rustix::fs::sync();
        if let Some(feeding) = feeding
            && matches!(kind, ShutdownKind::Poweroff | ShutdownKind::Halt)
        {
            // One that counts on would make a reset of it.
            feeding.close();
        }
        let error = sys::reboot(match kind {
            ShutdownKind::Exit | ShutdownKind::Reboot => libc::LINUX_REBOOT_CMD_RESTART,
            ShutdownKind::Poweroff => libc::LINUX_REBOOT_CMD_POWER_OFF,
            ShutdownKind::Halt => libc::LINUX_REBOOT_CMD_HALT,
        });
        say!("the machine does not end: reboot: {error}");
    }
}

/// Reaps until there is no child any more. `false`: some are still there after the time they have.
fn reap_everything(signals: BorrowedFd<'_>) -> bool {
    let deadline = clock::now() + END_TIME;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => continue,
            Ok(None) => {}
            // There is none.
            Err(_) => return true,
        }
        let left = deadline.since(clock::now());
        if left.is_zero() {
            return false;
        }
        // SIGCHLD wakes; whatever else comes changes nothing any more.
        let mut wait = [PollFd::from_borrowed_fd(signals, PollFlags::IN)];
        let _ = rustix::event::poll(&mut wait, Some(&proc::timespec(left)));
        let mut info = [0; 128];
        while let Ok(128) = rustix::io::read(signals, &mut info) {}
    }
}

/// What a signal to the keeper asks for.
pub(crate) fn shutdown_of(signal: i32, pid_one: bool) -> Option<ShutdownKind> {
    match signal {
        libc::SIGTERM | libc::SIGINT if !pid_one => Some(ShutdownKind::Exit),
        libc::SIGTERM | libc::SIGINT => Some(ShutdownKind::Reboot),
        libc::SIGUSR1 if pid_one => Some(ShutdownKind::Halt),
        libc::SIGUSR2 | libc::SIGPWR if pid_one => Some(ShutdownKind::Poweroff),
        _ => None,
    }
}

/// The hardware watchdog while it is open.
#[derive(Debug)]
pub(crate) struct Feeding {
    pub(crate) device: OwnedFd,
    pub(crate) settings: Watchdog,
    /// Time 0: at once.
    pub(crate) next: Moment,
    pub(crate) lease_ends: Moment,
}

/// Does what the supervisor asks of the watchdog.
pub(crate) fn ask_watchdog(
    pid_one: Option<PidOne>,
    feeding: &mut Option<Feeding>,
    settings: Watchdog,
    now: Moment,
) -> Outcome {
    if pid_one.is_none() {
        return Outcome::NotPidOne;
    }
    if settings.run && (settings.frequency_s == 0 || settings.lease_s == 0) {
        return Outcome::Malformed;
    }
    if !settings.run {
        if let Some(open) = feeding.take() {
            Feeding { settings, ..open }.close();
        }
        return Outcome::Done;
    }
    let device = match feeding.take() {
        Some(open) => open.device,
        None => {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            match rustix::fs::open(c"/dev/watchdog", flags, Mode::empty()) {
                Ok(device) => device,
                Err(error) => return Outcome::Errno(error.raw_os_error()),
            }
        }
    };
    let timeout = sys::watchdog_timeout(device.as_fd(), settings.timeout_s);
    let lease_ends = now + Duration::from_secs(settings.lease_s.into());
    *feeding = Some(Feeding { device, settings, next: now, lease_ends });
    match timeout {
        Ok(()) => Outcome::Done,
        // It is fed all the same, with the time-out that it has.
        Err(error) => Outcome::Errno(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

impl Feeding {
    /// Feeds when that is due and the lease holds.
    pub(crate) fn feed(&mut self, now: Moment) {
        if self.next <= now && now < self.lease_ends {
            self.feed_now();
            self.next = now + Duration::from_secs(self.settings.frequency_s.into());
        }
    }

    fn feed_now(&self) {
        if let Err(error) = rustix::io::write(&self.device, b"\0") {
            say!("the hardware watchdog can't be fed: {error}");
        }
    }

    /// With the magic character before it, where that was asked for: then it stops.
    fn close(self) {
        // If it can't be told to stop, closing it is still what was asked.
        if self.settings.magic_close && rustix::io::write(&self.device, b"V").is_err() {
            say!("the hardware watchdog was closed but not stopped: it may reset the machine");
        }
    }

    /// `None`: nothing is due before the lease ends, and so does the machine then, unless it is renewed.
    pub(crate) fn next_deadline(&self, now: Moment) -> Option<Moment> {
        (self.next.max(now) < self.lease_ends).then_some(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pid_one_can_touch_the_machine() {
        assert!(PidOne::prove().is_none(), "a test is never PID 1");
        let run =
            Watchdog { run: true, magic_close: false, timeout_s: 30, frequency_s: 5, lease_s: 60 };
        let mut feeding = None;
        let outcome = ask_watchdog(PidOne::prove(), &mut feeding, run, Moment(0));
        assert_eq!(outcome, Outcome::NotPidOne);
        assert!(feeding.is_none());
    }

    #[test]
    fn it_is_fed_while_the_lease_holds_and_nothing_is_due_after_that() {
        let at = |s: u64| Moment(s * 1_000_000_000);
        let (device, written) = (tempfile::tempfile().unwrap(), |device: &OwnedFd| {
            rustix::fs::fstat(device).unwrap().st_size
        });
        let settings =
            Watchdog { run: true, magic_close: false, timeout_s: 30, frequency_s: 5, lease_s: 60 };
        let mut feeding =
            Feeding { device: device.into(), settings, next: Moment(0), lease_ends: at(60) };
        for (now, fed, due) in [(50, 1, Some(55)), (54, 1, Some(55)), (55, 2, None), (61, 2, None)]
        {
            feeding.feed(at(now));
            assert_eq!(written(&feeding.device), fed, "{now} s");
            assert_eq!(feeding.next_deadline(at(now)), due.map(at), "{now} s");
        }
        // It was due, but the lease ended while this process was stopped: that is no reason to hurry ever after.
        feeding.next = at(59);
        feeding.feed(at(61));
        assert_eq!((written(&feeding.device), feeding.next_deadline(at(61))), (2, None));
    }

    #[test]
    fn signals_mean_what_procd_means_by_them_and_only_the_end_elsewhere() {
        assert_eq!(shutdown_of(libc::SIGTERM, true), Some(ShutdownKind::Reboot));
        assert_eq!(shutdown_of(libc::SIGUSR1, true), Some(ShutdownKind::Halt));
        assert_eq!(shutdown_of(libc::SIGPWR, true), Some(ShutdownKind::Poweroff));
        assert_eq!(shutdown_of(libc::SIGINT, false), Some(ShutdownKind::Exit));
        assert_eq!(shutdown_of(libc::SIGUSR1, false), None);
    }
}
