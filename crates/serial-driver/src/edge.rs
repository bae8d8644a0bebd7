//! What the host calls: the table of operations in C's shape. It turns pointers into slices and errors into -errno, and waits
//! where the line has nothing; it decides nothing.

#![expect(unsafe_code, reason = "the host hands over pointers, and descriptors as numbers")]

use std::{
    ffi::{CString, c_long, c_void},
    io,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
    slice,
    sync::{Mutex, MutexGuard, PoisonError},
};

use driver_abi::{
    ABI_MAJOR, ABI_MINOR, DATA_MAX, Driver, Field, Host, OPS, Ops, Own, STATE_MAX, Text, events,
    kind,
};
use rustix::io::Errno;

use crate::line::{LAYOUT, Line, field};

/// `ioctl`: sets the speed (u32), or answers it.
const SET_SPEED: u32 = 1;
const SPEED: u32 = 2;

/// The line, and the host's services: from `import_state` on.
static DRIVER: Mutex<Option<Open>> = Mutex::new(None);

struct Open {
    line: Line,
    host: Host,
}

/// Shared between threads as it is.
#[repr(transparent)]
struct Constant<T>(T);

// SAFETY: used for constants alone, whose pointers lead to constants of this object; nobody writes to any of them.
unsafe impl<T> Sync for Constant<T> {}

#[repr(C)]
struct Table {
    common: Ops,
    own: [Own; 1],
}

static TABLE: Constant<Table> = Constant(Table {
    common: Ops {
        open: None,
        close: None,
        read: Some(serial_read),
        write: Some(serial_write),
        ioctl: Some(serial_ioctl),
        poll: Some(serial_poll),
        interrupt: None,
    },
    own: [serial_peer],
});

static OWN_NAMES: Constant<[Text; 1]> = Constant([c"peer".as_ptr()]);

static FIELDS: Constant<[Field; 7]> = Constant([
    Field { id: field::PROCESS, kind: kind::UNSIGNED, zero: 0, name: c"process".as_ptr() },
    Field { id: field::MASTER, kind: kind::UNSIGNED, zero: 0, name: c"descriptor".as_ptr() },
    Field { id: field::KEEPER, kind: kind::UNSIGNED, zero: 0, name: c"other side".as_ptr() },
    Field { id: field::TERMINAL, kind: kind::TEXT, zero: 0, name: c"terminal".as_ptr() },
    Field { id: field::SPEED, kind: kind::UNSIGNED, zero: 0, name: c"speed".as_ptr() },
    Field { id: field::READ, kind: kind::UNSIGNED, zero: 0, name: c"read".as_ptr() },
    Field { id: field::WRITTEN, kind: kind::UNSIGNED, zero: 0, name: c"written".as_ptr() },
]);

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");

#[expect(clippy::cast_possible_truncation, reason = "a structure of some hundred bytes")]
const SIZE: u32 = size_of::<Driver>() as u32;

#[unsafe(no_mangle)]
static vestal_driver_v1: Constant<Driver> = Constant(Driver {
    size: SIZE,
    abi_major: ABI_MAJOR,
    abi_minor: ABI_MINOR,
    state_layout: LAYOUT,
    name: c"serial".as_ptr(),
    version: VERSION.as_ptr().cast(),
    ops: &raw const TABLE.0.common,
    ops_len: OPS + 1,
    zero: 0,
    export_state: Some(export_state),
    import_state: Some(import_state),
    downgrade_state: Some(downgrade_state),
    self_test: Some(self_test),
    fields: (&raw const FIELDS.0).cast(),
    fields_len: 7,
    own_names_len: 1,
    own_names: (&raw const OWN_NAMES.0).cast(),
});

fn driver() -> MutexGuard<'static, Option<Open>> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls the line; -ENODEV where there is none.
fn with<T>(action: impl FnOnce(&mut Open) -> io::Result<T>) -> Result<T, c_long> {
    let mut driver = driver();
    let open = driver.as_mut().ok_or_else(|| negative(Errno::NODEV))?;
    action(open).map_err(|error| {
        let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
        -c_long::from(errno)
    })
}

fn negative(errno: Errno) -> c_long {
    -c_long::from(errno.raw_os_error())
}

fn length(length: usize) -> c_long {
    c_long::try_from(length).expect("no call carries more than 1 MiB")
}

/// Does it as often as it takes; in between it waits outside, without the lock, because waiting leaves the gate.
fn waiting(event: u32, mut action: impl FnMut(&mut Line) -> io::Result<usize>) -> c_long {
    loop {
        let tried = with(|open| match action(&mut open.line) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(Err((open.host.wait, open.line.descriptor())))
            }
            done => done.map(Ok),
        });
        let (wait, descriptor) = match tried {
            Ok(Ok(count)) => return length(count),
            Ok(Err(wait)) => wait,
            Err(error) => return error,
        };
        // After VESTAL_RESTART another version has the line: nothing is touched any more.
        let woken = wait(descriptor, event, -1);
        if woken < 0 {
            return woken;
        }
    }
}

unsafe extern "C" fn serial_read(_handle: u64, buffer: *mut c_void, length: usize) -> c_long {
    // SAFETY: the host gives room for so many bytes, for the time of the call.
    let buffer = unsafe { slice::from_raw_parts_mut(buffer.cast::<u8>(), length.min(DATA_MAX)) };
    waiting(events::IN, |line| line.read(buffer))
}

unsafe extern "C" fn serial_write(_handle: u64, buffer: *const c_void, length: usize) -> c_long {
    // SAFETY: the host gives so many bytes, for the time of the call.
    let data = unsafe { slice::from_raw_parts(buffer.cast::<u8>(), length.min(DATA_MAX)) };
    waiting(events::OUT, |line| line.write(data))
}

unsafe extern "C" fn serial_ioctl(
    _handle: u64,
    command: u32,
    arg: *mut c_void,
    in_len: usize,
    out_cap: usize,
) -> c_long {
    match command {
        SET_SPEED if in_len == 4 => {
            // SAFETY: the argument has the length that was just compared.
            let speed = u32::from_le_bytes(unsafe { arg.cast::<[u8; 4]>().read_unaligned() });
            with(|open| open.line.set_speed(speed)).map_or_else(|error| error, |()| 0)
        }
        SET_SPEED => negative(Errno::INVAL),
        SPEED => {
            let speed = with(|open| Ok(open.line.speed()));
            // SAFETY: the host's room, for the time of the call.
            speed.map_or_else(
                |error| error,
                |speed| unsafe { answer(&speed.to_le_bytes(), arg, out_cap) },
            )
        }
        _ => negative(Errno::NOTTY),
    }
}

unsafe extern "C" fn serial_peer(
    _handle: u64,
    arg: *mut c_void,
    _in_len: usize,
    out_cap: usize,
) -> c_long {
    let name = with(|open| Ok(open.line.terminal().to_owned()));
    // SAFETY: the host's room, for the time of the call.
    name.map_or_else(|error| error, |name| unsafe { answer(name.as_bytes(), arg, out_cap) })
}

/// # Safety
/// There is room for `out_cap` bytes at `arg`.
unsafe fn answer(bytes: &[u8], arg: *mut c_void, out_cap: usize) -> c_long {
    if bytes.len() > out_cap {
        return negative(Errno::MSGSIZE);
    }
    // SAFETY: the caller's promise, and not longer than the room.
    unsafe { arg.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    length(bytes.len())
}

unsafe extern "C" fn serial_poll(handle: u64, wanted: u32) -> c_long {
    let there = with(|open| {
        let there = open.line.ready(wanted)?;
        if there & wanted == 0 {
            let watched = (open.host.watch)(handle, open.line.descriptor(), wanted);
            if watched < 0 {
                return Ok(watched);
            }
        }
        Ok(c_long::from(u16::try_from(there).unwrap_or(0)))
    });
    there.unwrap_or_else(|error| error)
}

unsafe extern "C" fn export_state(buffer: *mut c_void, cap: usize) -> c_long {
    let state = match with(|open| Ok(open.line.export())) {
        Ok(state) => state,
        Err(error) => return error,
    };
    if state.len() <= cap {
        // SAFETY: the host's room has `cap` bytes, which are as many at least.
        unsafe { buffer.cast::<u8>().copy_from_nonoverlapping(state.as_ptr(), state.len()) };
    }
    length(state.len())
}

/// There is one layout so far.
unsafe extern "C" fn downgrade_state(layout: u32, buffer: *mut c_void, cap: usize) -> c_long {
    if layout != LAYOUT {
        return negative(Errno::PROTO);
    }
    // SAFETY: the same room.
    unsafe { export_state(buffer, cap) }
}

unsafe extern "C" fn import_state(
    host: *const Host,
    state: *const c_void,
    length: usize,
) -> c_long {
    // SAFETY: the host's structure begins with its size.
    let size = unsafe { host.cast::<u32>().read() };
    if usize::try_from(size).is_ok_and(|size| size < size_of::<Host>()) {
        return negative(Errno::INVAL);
    }
    // SAFETY: it has all members that we know.
    let host = unsafe { host.read() };
    let line = if length == 0 {
        Line::new()
    } else {
        // SAFETY: the host gives so many bytes, for the time of the call.
        let bytes = unsafe { slice::from_raw_parts(state.cast::<u8>(), length.min(STATE_MAX + 1)) };
        let Some(carried) = Line::parse(bytes) else { return negative(Errno::PROTO) };
        Line::resume(&carried, own)
    };
    let line = match line {
        Ok(line) => line,
        Err(error) => {
            return -c_long::from(error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()));
        }
    };
    let text = CString::new(format!("the line is {}", line.terminal())).unwrap_or_default();
    // SAFETY: the text ends with NUL and lives until the call returns.
    unsafe { (host.log)(6, text.as_ptr()) };
    // What was here before gave its descriptors away when it exported them.
    if let Some(before) = driver().replace(Open { line, host }) {
        before.line.give_away();
    }
    0
}

/// The descriptors of the version before.
fn own(master: RawFd, keeper: RawFd) -> (OwnedFd, OwnedFd) {
    // SAFETY: they come from a state that a version in this very process exported; it is not called any more, and what it has in
    // its own variables it gives away, without closing it, should it ever import a state again.
    unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(keeper)) }
}

unsafe extern "C" fn self_test() -> c_long {
    with(|open| open.line.ready(events::OUT)).map_or_else(|error| error, |_| 0)
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::c_int,
        io::{Read as _, Write as _},
    };

    use super::*;

    extern "C" fn wait(_: c_int, _: u32, _: c_int) -> c_long {
        driver_abi::RESTART
    }
    extern "C" fn watch(_: u64, _: c_int, _: u32) -> c_long {
        0
    }
    extern "C" fn notify(_: u64) {}
    extern "C" fn log(_: c_int, _: Text) {}

    /// What the two versions of a test share is one process: all of it is one test.
    #[test]
    fn a_line_goes_on_in_the_next_version_without_losing_a_byte() {
        let size = u32::try_from(size_of::<Host>()).unwrap();
        let host = Host { size, abi_major: 1, abi_minor: 0, zero: 0, wait, watch, notify, log };
        let table = &vestal_driver_v1.0;
        let (import, export) = (table.import_state.unwrap(), table.export_state.unwrap());
        let mut room = [0_u8; 256];
        let at = room.as_mut_ptr().cast::<c_void>();
        // SAFETY: every pointer leads to as many bytes as are said, and no other test calls the driver.
        unsafe {
            assert_eq!(export(at, room.len()), negative(Errno::NODEV));
            assert_eq!(import(&raw const host, std::ptr::null(), 0), 0);
            assert_eq!(table.self_test.unwrap()(), 0);
            let count = serial_peer(1, at, 0, room.len());
            let name = str::from_utf8(&room[..usize::try_from(count).unwrap()]).unwrap().to_owned();
            let mut peer = std::fs::File::options().read(true).write(true).open(&name).unwrap();
            assert_eq!(serial_write(1, b"out".as_ptr().cast(), 3), 3);
            peer.write_all(b"in").unwrap();
            assert_eq!(serial_poll(1, events::IN), c_long::from(1));
            let speed = 9600_u32.to_le_bytes();
            room[..4].copy_from_slice(&speed);
            let at = room.as_mut_ptr().cast::<c_void>();
            assert_eq!(serial_ioctl(1, SET_SPEED, at, 4, 0), 0);

            let needed = usize::try_from(export(at, 0)).unwrap();
            let mut state = vec![0_u8; needed];
            assert_eq!(export(state.as_mut_ptr().cast(), needed), length(needed));
            assert_eq!(import(&raw const host, state.as_ptr().cast(), state.len()), 0);
            let mut again = vec![0_u8; needed];
            let downgrade = table.downgrade_state.unwrap();
            assert_eq!(downgrade(LAYOUT, again.as_mut_ptr().cast(), needed), length(needed));
            assert_eq!(again, state, "what came in goes out again");

            assert_eq!(serial_read(1, at, room.len()), 2);
            let mut out = [0; 3];
            peer.read_exact(&mut out).unwrap();
            assert_eq!(&out, b"out");
            assert_eq!(serial_ioctl(1, SPEED, at, 0, 4), 4);
            assert_eq!(room[..4], speed);
            assert_eq!(serial_read(1, at, room.len()), driver_abi::RESTART as c_long);
            assert_eq!(serial_peer(1, at, 0, 2), negative(Errno::MSGSIZE));
        }
    }
}
