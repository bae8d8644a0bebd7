//! The keeper replaced by the binary on disk: its state goes into a sealed memfd, the new binary says that it can read
//! it, then it is exec'd in this very process, so that children stay children. Whatever fails, the old one goes on.
//! The state's layout is [`crate::state`]'s.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    time::Duration,
};

use daemon::clock;
use protocol::time::Moment;

use crate::{
    keeper::Keeper,
    oom, proc,
    say::{Text, errno_text, say},
    state::{Resumed, load},
    stop::Stop,
    sys::{self, Side},
};

/// The new binary has this long to say that it can read the state; nothing else happens meanwhile.
const CHECK_TIME: Duration = Duration::from_secs(2);
/// The option by which the new binary gets the state.
pub(crate) const STATE_OPTION: &str = "state";
/// The option by which it only checks it.
pub(crate) const CHECK_OPTION: &str = "check-state";

/// How the keeper was started, so that its successor is started alike. Made before the loop.
#[derive(Debug)]
pub(crate) struct Reexec {
    pub(crate) program: CString,
    /// Without the program's name and without `--state`.
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
    /// `RUN_DIR/keeper.lock`, held as long as a keeper lives.
    pub(crate) lock: OwnedFd,
    /// How often the program was started, this time included.
    pub(crate) starts: u32,
}

impl Keeper {
    /// Replaces this image by the binary on disk. Returns only on failure, with the errno.
    pub(crate) fn reexec(&mut self) -> i32 {
        let failed = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        if !matches!(self.stop, Stop::No | Stop::Asked { .. }) {
            return libc::EBUSY;
        }
        // Nobody feeds it until the successor does.
        if let Some(feeding) = &mut self.feeding {
            feeding.next = Moment(0);
            feeding.feed(clock::now());
        }
        // The successor opens the log pipes again; what is in them now may have no other holder.
        self.stop_draining(clock::now());
        let state = match self.write_state() {
            Ok(state) => state,
            Err(error) => return failed(error),
        };
        let result = self.check(&state).and_then(|()| self.keep_descriptors(&state, true));
        let errno = match result {
            Ok(()) => {
                oom::restore();
                let errno = self.exec(STATE_OPTION, &state);
                oom::protect_again();
                errno
            }
            Err(error) => failed(error),
        };
        // Still here: what was opened for exec is closed for it again.
        if let Err(error) = self.keep_descriptors(&state, false) {
            say!("after a failed re-execution a descriptor stays open for children: {error}");
        }
        say!("not replaced by the program on disk: {}", errno_text(errno));
        errno
    }

    /// Has the new binary read the state, in a child.
    fn check(&self, state: &OwnedFd) -> io::Result<()> {
        let unused = std::sync::atomic::AtomicU32::new(0);
        let (pid, pidfd) = match sys::clone_process(&unused, None)? {
            Side::Child => {
                sys::reset_signals();
                if sys::keep_over_exec(state, true).is_ok() {
                    self.exec(CHECK_OPTION, state);
                }
                sys::exit_now(127)
            }
            Side::Parent { pid, pidfd, .. } => (pid, pidfd),
        };
        let in_time = pidfd.is_none_or(|pidfd| proc::wait_end(&pidfd, CHECK_TIME));
        if !in_time {
            // An unreaped child: the pid is its own.
            sys::kill(pid, libc::SIGKILL)?;
        }
        match sys::wait_for(pid) {
            Some(0) => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::ENOEXEC)),
        }
    }

    /// Every descriptor of the state, kept over exec or closed by it.
    fn keep_descriptors(&self, state: &OwnedFd, keep: bool) -> io::Result<()> {
        let set = |fd: &OwnedFd| sys::keep_over_exec(fd, keep);
        set(state)?;
        set(&self.reexec.lock)?;
        set(&self.drain.memfd)?;
        self.feeding.iter().try_for_each(|feeding| set(&feeding.device))?;
        self.channel.iter().try_for_each(|channel| set(&channel.socket))?;
        self.deposits.iter().try_for_each(|(_, fd)| set(fd))?;
        for slot in self.slots.iter() {
            let all = [&slot.plan, &slot.cgroup, &slot.pidfd, &slot.errors];
            all.into_iter().flatten().try_for_each(set)?;
        }
        Ok(())
    }

    fn exec(&self, option: &str, state: &OwnedFd) -> i32 {
        let option = Text::<64>::new(format_args!("--{option}={}\0", state.as_raw_fd()));
        let option = CStr::from_bytes_until_nul(option.as_bytes()).expect("the text ends with NUL");
        let args = self.reexec.args.iter().map(CString::as_c_str);
        let argv = std::iter::once(self.reexec.program.as_c_str()).chain(args).chain([option]);
        sys::exec(&self.reexec.program, argv, self.reexec.env.iter().map(CString::as_c_str))
    }
}

/// Whether this binary can go on from a state; for the keeper that is about to be replaced by it.
pub(crate) fn can_read(fd: RawFd) -> bool {
    load(fd, |_| None).is_some()
}

/// Goes on from the state that this process' earlier image left.
pub(crate) fn resume(fd: RawFd) -> io::Result<Resumed> {
    let close = |fd: &OwnedFd| sys::keep_over_exec(fd, false);
    let resumed = load(fd, sys::own).ok_or(io::ErrorKind::InvalidData)?;
    resumed.lock.iter().chain(&resumed.ring).try_for_each(close)?;
    resumed.feeding.iter().try_for_each(|feeding| close(&feeding.device))?;
    resumed.channel.iter().try_for_each(|channel| close(&channel.socket))?;
    resumed.deposits.iter().try_for_each(|(_, fd)| close(fd))?;
    for slot in resumed.slots.iter() {
        let all = [&slot.plan, &slot.cgroup, &slot.pidfd, &slot.errors];
        all.into_iter().flatten().try_for_each(close)?;
    }
    Ok(resumed)
}
