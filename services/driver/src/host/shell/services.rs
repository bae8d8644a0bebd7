//! What the driver calls back for: watching a descriptor, telling who polls, a line of the log.

use std::{
    ffi::c_int,
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
};

use driver_abi::events;
use hotpatch::Services;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Semaphore,
};

use super::desk::Desk;

const EINVAL: i64 = -22;
/// Descriptors that are watched at one time.
const WATCHED_MAX: usize = 1024;
const ENOBUFS: i64 = -105;

/// The host's side of `struct vestal_host`; there is one in a process. Before it has a desk nobody polls.
pub(super) struct Callbacks {
    name: String,
    desk: OnceLock<Arc<Desk>>,
    watched: Arc<Semaphore>,
}

impl Callbacks {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            desk: OnceLock::new(),
            watched: Arc::new(Semaphore::new(WATCHED_MAX)),
        }
    }

    pub(super) fn connect(&self, desk: &Arc<Desk>) {
        // There is one desk; a second one would be nobody's.
        let _ = self.desk.set(Arc::clone(desk));
    }
}

impl Services for Callbacks {
    fn watch(&self, handle: u64, fd: c_int, wanted: u32) -> i64 {
        let Some(desk) = self.desk.get() else { return EINVAL };
        let Some(interest) = interest(wanted) else { return EINVAL };
        let fd = match duplicate(fd) {
            Ok(fd) => fd,
            Err(error) => return -i64::from(error.raw_os_error()),
        };
        let Ok(permit) = Arc::clone(&self.watched).try_acquire_owned() else { return ENOBUFS };
        let _runtime = desk.runtime.enter();
        // A duplicate shares what O_NONBLOCK says with the driver's own descriptor, so it is left as it is: only readiness is asked for.
        #[expect(deprecated, reason = "the duplicate stays open as long as AsyncFd owns it")]
        let fd = match AsyncFd::with_interest(fd, interest) {
            Ok(fd) => fd,
            Err(error) => return -i64::from(error.raw_os_error().unwrap_or(22)),
        };
        let desk = Arc::downgrade(desk);
        tokio::spawn(async move {
            let ready = fd.ready(interest).await;
            drop((ready.map(drop), permit));
            if let Some(desk) = desk.upgrade() {
                desk.notify(handle);
            }
        });
        0
    }

    fn notify(&self, handle: u64) {
        if let Some(desk) = self.desk.get() {
            desk.notify(handle);
        }
    }

    fn returned(&self) {
        if let Some(desk) = self.desk.get() {
            desk.returned();
        }
    }

    fn log(&self, level: c_int, text: &str) {
        let name = &self.name;
        match level {
            ..=3 => tracing::error!("{name}: {text}"),
            4 => tracing::warn!("{name}: {text}"),
            5 | 6 => tracing::info!("{name}: {text}"),
            _ => tracing::debug!("{name}: {text}"),
        }
    }
}

fn interest(wanted: u32) -> Option<Interest> {
    match (wanted & events::IN != 0, wanted & events::OUT != 0) {
        (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
        (true, false) => Some(Interest::READABLE),
        (false, true) => Some(Interest::WRITABLE),
        // An error or a hang-up shows however it is waited for.
        (false, false) => (wanted & (events::ERR | events::HUP) != 0).then_some(Interest::READABLE),
    }
}

/// A duplicate of a descriptor that the driver named by its number.
fn duplicate(fd: c_int) -> rustix::io::Result<OwnedFd> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(own, fd, PidfdGetfdFlags::empty())
}
