//! The supervisor's life as the keeper sees it: when it is started again, how often it failed, what becomes of one that
//! hangs. The command line and environment are made before the loop; starting allocates nothing.

use std::{
    ffi::{CString, OsString},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::Path,
    time::Duration,
};

use daemon::{options::Options, places::Places};
use protocol::{
    keeper::{CHANNEL_FD, Exit},
    time::Moment,
};
use rustix::{
    fs::{Mode, OFlags},
    process::{Resource, Rlimit},
};

use crate::{
    oom, proc,
    record::Records,
    sys::{self, Side},
};

/// The first restart is immediate; then this, doubling.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// PID 1 goes on even where `--rescue` doesn't help.
const PAUSE_HOPELESS: Duration = Duration::from_secs(30);
/// Ten minutes of those, and no supervisor since the boot: the boot loader may have something else to start.
const FAILURES_TO_RESET: u32 = FAILURES_TO_RESCUE + 20;
/// So many failures before a hand-over, and the supervisor is started with `--rescue`.
pub(crate) const FAILURES_TO_RESCUE: u32 = 10;
/// Between SIGABRT (for its core) and SIGKILL of one that hangs.
const ABORT_TIME: Duration = Duration::from_secs(2);
/// Exit code for wrong usage or configuration.
const WRONG: u8 = 2;

/// What a supervisor's end means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It is started again when that is due.
    Restart,
    /// The very first one said that the command line or the configuration is wrong: the keeper says so too. Not where it is
    /// PID 1, as the machine would end with it.
    Wrong,
}

/// Who the supervisor is and how it has been doing.
#[derive(Debug)]
pub(crate) struct Life {
    /// 0: there is none.
    pub(crate) pid: i32,
    pub(crate) starts: u32,
    /// Failures since the last acknowledged hand-over.
    pub(crate) failures: u32,
    pub(crate) start_at: Option<Moment>,
    /// SIGABRT was sent; SIGKILL follows then.
    pub(crate) kill_at: Option<Moment>,
    /// Whether any supervisor has ever taken the hand-over.
    pub(crate) ever_ready: bool,
}

impl Life {
    pub(crate) fn new(now: Moment) -> Self {
        Self {
            pid: 0,
            starts: 0,
            failures: 0,
            start_at: Some(now),
            kill_at: None,
            ever_ready: false,
        }
    }

    pub(crate) fn lives(&self) -> bool {
        self.pid != 0
    }

    pub(crate) fn needs_rescue(&self) -> bool {
        self.failures >= FAILURES_TO_RESCUE
    }

    /// Nothing has run since the boot, and nothing will.
    pub(crate) fn is_hopeless(&self) -> bool {
        !self.ever_ready && self.failures >= FAILURES_TO_RESET
    }

    pub(crate) fn started(&mut self, pid: i32) {
        self.pid = pid;
        self.starts = self.starts.saturating_add(1);
        self.start_at = None;
        self.kill_at = None;
    }

    /// It has taken the hand-over: whatever went wrong before is forgiven.
    pub(crate) fn ready(&mut self) {
        self.failures = 0;
        self.ever_ready = true;
    }

    /// It ended, or could not be started.
    pub(crate) fn ended(&mut self, exit: Exit, now: Moment, pid_one: bool) -> Verdict {
        if exit == Exit::Code(WRONG) && self.starts == 1 && !self.ever_ready && !pid_one {
            self.pid = 0;
            return Verdict::Wrong;
        }
        let pause = match self.failures {
            0 => Duration::ZERO,
            // The one that failed was to rescue.
            FAILURES_TO_RESCUE.. if pid_one => PAUSE_HOPELESS,
            many => PAUSE_MIN.saturating_mul(1 << (many - 1).min(8)).min(PAUSE_MAX),
        };
        self.failures = self.failures.saturating_add(1);
        self.pid = 0;
        self.kill_at = None;
        self.start_at = Some(now + pause);
        Verdict::Restart
    }

    /// It has closed its end of the channel: it has this long to end, too.
    pub(crate) fn hung_up(&mut self, now: Moment) {
        self.kill_at = Some(now + ABORT_TIME);
    }

    /// It hangs: which signal is due now.
    pub(crate) fn hangs(&mut self, hangs_at: Option<Moment>, now: Moment) -> Option<i32> {
        if !self.lives() {
            return None;
        }
        match (self.kill_at, hangs_at) {
            (Some(kill_at), _) if kill_at <= now => {
                self.kill_at = Some(now + ABORT_TIME);
                Some(libc::SIGKILL)
            }
            (None, Some(hangs_at)) if hangs_at <= now => {
                self.kill_at = Some(now + ABORT_TIME);
                Some(libc::SIGABRT)
            }
            _ => None,
        }
    }
}

/// How the supervisor is started.
#[derive(Debug)]
pub(crate) struct Command {
    program: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Command {
    /// The command with the common options and environment passed on. Allocates: called before the loop.
    pub(crate) fn new(
        program: &Path,
        options: &Options,
        places: &Places,
        environment: &[(OsString, OsString)],
    ) -> Self {
        let text = |text: OsString| {
            CString::new(text.into_vec()).expect("arguments and environment came without NUL")
        };
        let mut argv = vec![text(program.as_os_str().to_owned())];
        argv.extend(options.to_args().into_iter().map(text));
        argv.push(c"--rescue".to_owned());
        let ours = places.to_env();
        let mut env: Vec<CString> = environment
            .iter()
            .filter(|(name, _)| ours.iter().all(|(our, _)| name != our))
            .map(|(name, value)| text([name.as_os_str(), value].join("=".as_ref())))
            .collect();
        env.extend(
            ours.into_iter()
                .map(|(name, path)| text([OsString::from(name), path.into()].join("=".as_ref()))),
        );
        Self { program: text(program.as_os_str().to_owned()), argv, env }
    }

    /// Starts it with `channel` as its descriptor 3.
    pub(crate) fn start(
        &self,
        channel: &OwnedFd,
        rescue: bool,
        records: Records,
        limit: &Rlimit,
    ) -> Result<i32, i32> {
        match sys::clone_process(records.supervisor_pid_place(), None) {
            Ok(Side::Child) => {
                sys::exit_now(self.become_supervisor(channel.as_fd(), rescue, limit))
            }
            Ok(Side::Parent { pid, pidfd, .. }) => {
                let known = pidfd.map(|pidfd| proc::identify(pid, pidfd.as_fd()));
                records.set_supervisor(pid, known.unwrap_or_default());
                Ok(pid)
            }
            Err(error) => Err(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    /// In the child; returns the exit code of a failure.
    fn become_supervisor(&self, channel: BorrowedFd<'_>, rescue: bool, limit: &Rlimit) -> i32 {
        sys::reset_signals();
        oom::restore();
        let prepared = || {
            rustix::process::setsid().ok()?;
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let null = rustix::fs::open(c"/dev/null", flags, Mode::empty()).ok()?;
            sys::place(null.as_fd(), 0).ok()?;
            if std::os::fd::AsRawFd::as_raw_fd(&channel) == CHANNEL_FD {
                sys::keep_over_exec(channel, true).ok()?;
            } else {
                sys::place(channel, CHANNEL_FD).ok()?;
            }
            rustix::process::setrlimit(Resource::Nofile, *limit).ok()
        };
        if prepared().is_some() {
            let count = self.argv.len() - usize::from(!rescue);
            let argv = self.argv.iter().take(count).map(CString::as_c_str);
            sys::exec(&self.program, argv, self.env.iter().map(CString::as_c_str));
        }
        127
    }
}

/// An earlier keeper's supervisor must be gone before there is a new one.
pub(crate) fn end_predecessor(records: Records) {
    let Some(pidfd) = records.supervisor().and_then(|known| known.open()) else { return };
    // It ended by itself in the meantime; that is as good.
    let _ = sys::kill_pidfd(pidfd.as_fd(), libc::SIGKILL);
    proc::wait_end(&pidfd, ABORT_TIME);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    #[test]
    fn a_supervisor_is_restarted_at_once_then_ever_slower_and_in_the_end_as_rescue() {
        let mut life = Life::new(at(0));
        let mut pauses = Vec::new();
        for round in 0..10 {
            assert!(!life.needs_rescue(), "round {round}");
            life.started(7);
            life.ended(Exit::Code(1), at(0), false);
            pauses.push(life.start_at.unwrap().since(at(0)).as_millis());
        }
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1000, 1000, 1000, 1000]);
        assert!(life.needs_rescue());
        life.started(8);
        life.ready();
        life.ended(Exit::Code(1), at(0), false);
        assert_eq!(life.start_at, Some(at(0)));
    }

    #[test]
    fn only_the_very_first_supervisor_can_say_that_the_configuration_is_wrong() {
        let mut life = Life::new(at(0));
        life.started(7);
        assert_eq!(life.ended(Exit::Code(2), at(0), false), Verdict::Wrong);
        let mut life = Life::new(at(0));
        life.started(7);
        life.ready();
        assert_eq!(life.ended(Exit::Code(2), at(0), false), Verdict::Restart);
    }

    #[test]
    fn pid_one_goes_on_when_the_configuration_is_wrong_and_slowly_where_even_rescue_fails() {
        let mut life = Life::new(at(0));
        let mut pauses = Vec::new();
        for round in 0..30 {
            assert_eq!(life.needs_rescue(), round >= 10, "round {round}");
            assert!(!life.is_hopeless(), "round {round}");
            life.started(7);
            assert_eq!(life.ended(Exit::Code(2), at(0), true), Verdict::Restart);
            pauses.push(life.start_at.unwrap().since(at(0)).as_millis());
        }
        assert_eq!(pauses[..10], [0, 50, 100, 200, 400, 800, 1000, 1000, 1000, 1000]);
        assert_eq!(pauses[10..], [30_000; 20]);
        assert!(life.is_hopeless());
        life.started(8);
        life.ready();
        for _ in 0..40 {
            assert!(!life.is_hopeless(), "what it has started runs on");
            life.ended(Exit::Code(2), at(0), true);
        }
    }

    #[test]
    fn one_that_hangs_is_aborted_and_two_seconds_later_killed() {
        let mut life = Life::new(at(0));
        assert_eq!(life.hangs(Some(at(0)), at(1)), None, "there is none");
        life.started(7);
        assert_eq!(life.hangs(Some(at(10_000)), at(9_999)), None);
        assert_eq!(life.hangs(Some(at(10_000)), at(10_000)), Some(libc::SIGABRT));
        assert_eq!(life.hangs(Some(at(10_000)), at(11_999)), None);
        assert_eq!(life.hangs(Some(at(10_000)), at(12_000)), Some(libc::SIGKILL));
    }
}
