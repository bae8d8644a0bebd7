//! The host's services that drivers are given. `wait` is carried out here, since it leaves the gate; the others go to [`Services`].

use std::{
    ffi::{CStr, c_int, c_long},
    os::fd::BorrowedFd,
    sync::OnceLock,
    time::Duration,
};

use daemon::clock;
use driver_abi::{ABI_MAJOR, ABI_MINOR, Host, RESTART, Text};
use protocol::time::Moment;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    time::Timespec,
};

use crate::inside::{self, Inside};

/// The longest text of a driver that is read.
const LOG_MAX: usize = 1024;

/// What the process that hosts a driver does for it. Called from within the driver's operations, by any thread.
pub trait Services: Sync {
    /// Once `fd` has one of `events`, [`Services::notify`] of this handle. 0, or `-errno`.
    fn watch(&self, handle: u64, fd: c_int, events: u32) -> i64;
    /// Who polls this handle (0: any) is answered anew.
    fn notify(&self, handle: u64);
    /// The calling thread has waited, and is in the driver's code again.
    fn returned(&self) {}
    /// A line of the log: level 3 error, 4 warning, 6 info, 7 debug.
    fn log(&self, level: c_int, text: &str);
}

static SERVICES: OnceLock<&'static dyn Services> = OnceLock::new();

/// What drivers of this process are given. The first call's services count: a process has one host.
pub fn host(services: &'static dyn Services) -> &'static Host {
    SERVICES.get_or_init(|| services);
    static HOST: Host = Host {
        size: size_of_host(),
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        zero: 0,
        wait,
        watch,
        notify,
        log,
    };
    &HOST
}

#[expect(clippy::cast_possible_truncation, reason = "a structure of 48 bytes")]
const fn size_of_host() -> u32 {
    size_of::<Host>() as u32
}

extern "C" fn watch(handle: u64, fd: c_int, events: u32) -> c_long {
    let result =
        SERVICES.get().map_or(-i64::from(libc::ENOSYS), |host| host.watch(handle, fd, events));
    c_long::try_from(result).unwrap_or(-c_long::from(libc::EIO))
}

extern "C" fn notify(handle: u64) {
    if let Some(host) = SERVICES.get() {
        host.notify(handle);
    }
}

#[expect(unsafe_code, reason = "reads a driver's text")]
unsafe extern "C" fn log(level: c_int, text: Text) {
    let Some(host) = SERVICES.get().filter(|_| !text.is_null()) else { return };
    // SAFETY: the header asks for a text that ends with NUL, and the driver is trusted code of this process.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= LOG_MAX).last();
    host.log(level, if text.len() > LOG_MAX { &text[..end.unwrap_or(0)] } else { &text });
}

extern "C" fn wait(fd: c_int, events: u32, timeout_ms: c_int) -> c_long {
    let waited = inside::with(|inside| wait_outside(inside, fd, events, timeout_ms));
    // Nothing to leave: a driver's export, import or self test waits.
    waited.unwrap_or(-c_long::from(libc::EPERM))
}

fn wait_outside(inside: &Inside<'_>, fd: c_int, events: u32, timeout_ms: c_int) -> c_long {
    let Inside { core, seat, generation } = *inside;
    if core.generation() != generation {
        // It was told so before, and did not return.
        return driver_restart();
    }
    let deadline =
        u64::try_from(timeout_ms).ok().map(|limit| clock::now() + Duration::from_millis(limit));
    seat.keep_frames(generation);
    core.leave(seat);
    let since = clock::now();
    let result = loop {
        if core.generation() != generation {
            break 0;
        }
        if seat.is_interrupted() {
            break -c_long::from(libc::EINTR);
        }
        if let Some(result) = wait_once(inside, fd, events, deadline) {
            break result;
        }
    };
    seat.note_wait(since);
    core.enter(seat);
    if let Some(host) = SERVICES.get() {
        host.returned();
    }
    if core.generation() != generation {
        return driver_restart();
    }
    seat.drop_frames();
    result
}

fn driver_restart() -> c_long {
    c_long::try_from(RESTART).expect("-512 fits into every long")
}

/// Nothing where it was woken to look why.
#[expect(unsafe_code, reason = "borrows a descriptor that is a number")]
fn wait_once(
    inside: &Inside<'_>,
    fd: c_int,
    events: u32,
    deadline: Option<Moment>,
) -> Option<c_long> {
    let known = PollFlags::IN | PollFlags::OUT | PollFlags::ERR | PollFlags::HUP;
    let wanted = PollFlags::from_bits_truncate(u16::try_from(events & 0xffff).unwrap_or(0)) & known;
    let waker = inside.seat.waker();
    // SAFETY: poll(2) looks it up in the table of descriptors, and answers POLLNVAL where there is none; nothing else is done with it.
    let borrowed = (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) });
    let mut all = [
        PollFd::new(&waker, PollFlags::IN),
        PollFd::from_borrowed_fd(borrowed.unwrap_or(waker), wanted),
    ];
    let count = if borrowed.is_some() { 2 } else { 1 };
    let left = deadline.map(|deadline| deadline.since(clock::now()));
    let limit = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(&mut all[..count], limit.as_ref()) {
        Err(Errno::INTR) => return None,
        Err(error) => return Some(-c_long::from(error.raw_os_error())),
        Ok(0) => return Some(0),
        Ok(_) => {}
    }
    if !all[0].revents().is_empty() {
        inside.seat.heard();
    }
    let came = if count == 2 { all[1].revents() } else { PollFlags::empty() };
    if came.contains(PollFlags::NVAL) {
        return Some(-c_long::from(libc::EBADF));
    }
    let came = came & known;
    (!came.is_empty()).then(|| c_long::from(came.bits()))
}
