//! The C interface of `include/vestal_driver_client.h`: as the calls of libc are, with -errno as the answer.
//!
//! A handle of C is a number, never a pointer of ours, so that a closed or a made-up one is -EBADF and not a crash. A child
//! of a fork has none: the table belongs to the process that made it.

#![expect(unsafe_code, reason = "C hands over pointers, and names are part of the interface")]

use std::{
    collections::HashMap,
    ffi::{CStr, c_char, c_int, c_void},
    ptr, slice,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicPtr, Ordering},
    },
    time::Duration,
};

use rustix::io::Errno;

use crate::{Driver, Error, Handle, Settings};

/// Events of `vestal_driver_poll`, as in poll(2).
pub const VESTAL_DRIVER_IN: u32 = 0x01;
pub const VESTAL_DRIVER_OUT: u32 = 0x04;
pub const VESTAL_DRIVER_ERR: u32 = 0x08;
pub const VESTAL_DRIVER_HUP: u32 = 0x10;

/// Most handles of one process; its host may allow fewer.
const HANDLES_MAX: usize = 1024;
/// Longest path of a run directory.
const PATH_MAX: usize = 4096;

/// The open handles of one process.
struct Table {
    pid: u32,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: c_int,
    handles: HashMap<c_int, Arc<Handle>>,
}

/// Of the process that opened a driver last; a child that forked finds its parent's.
static TABLE: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());

/// Opens a driver. `run_dir` NULL is VESTAL_RUN_DIR or /run/vestal; `flags` go to the driver's open; `timeout_ms` is how long
/// each call may take, an upgrade or restart of the driver included: 0 is 30 seconds, negative is for ever.
/// Returns a handle, 1 or more, that ends with `vestal_driver_close` or with this process (not with fork); or -errno: -ENODEV
/// where nobody serves the driver, -EACCES where this process may not, -EINVAL where the name is none, or the driver's own.
///
/// # Safety
/// `run_dir` is NULL or a text that ends, `name` is a text that ends.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vestal_driver_open(
    run_dir: *const c_char,
    name: *const c_char,
    flags: u32,
    timeout_ms: i32,
) -> c_int {
    // SAFETY: the caller's promise.
    let (run_dir, name) = unsafe { (text(run_dir), text(name)) };
    let Some(name) = name else { return -Errno::INVAL.raw_os_error() };
    let mut settings = Settings::default();
    if let Some(run_dir) = run_dir {
        settings.run_dir = run_dir.into();
    }
    match u64::try_from(timeout_ms) {
        Ok(0) => {}
        Ok(ms) => settings.timeout = Some(Duration::from_millis(ms)),
        Err(_) => settings.timeout = None,
    }
    let handle = match Driver::open(&name, flags, settings) {
        Ok(handle) => Arc::new(handle),
        Err(error) => return -error.errno(),
    };
    let table = table_of_this_process();
    let mut open = lock(&table.open);
    if open.handles.len() >= HANDLES_MAX {
        // Dropped, and so closed, after the lock is.
        drop(open);
        return -Errno::MFILE.raw_os_error();
    }
    let number = loop {
        // Numbers are not used again soon: who closed one must not find another one's.
        open.last = open.last.checked_add(1).unwrap_or(1);
        if !open.handles.contains_key(&open.last) {
            break open.last;
        }
    };
    open.handles.insert(number, handle);
    number
}

/// Closes a handle; calls of other threads that wait end with -EBADF. Returns 0 or -errno; the handle is gone in any case.
#[unsafe(no_mangle)]
pub extern "C" fn vestal_driver_close(handle: c_int) -> c_int {
    let closed = existing_table()
        .filter(|table| table.pid == std::process::id())
        .and_then(|table| lock(&table.open).handles.remove(&handle));
    match closed.map(|handle| handle.close()) {
        Some(Ok(())) => 0,
        Some(Err(error)) => -error.errno(),
        None => -Errno::BADF.raw_os_error(),
    }
}

/// Reads up to `length` bytes, at most about 1 MiB. Returns how many came, or -errno.
///
/// # Safety
/// `length` bytes can be written at `buffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vestal_driver_read(
    handle: c_int,
    buffer: *mut c_void,
    length: usize,
) -> i64 {
    // SAFETY: the caller's promise.
    let Some(buffer) = (unsafe { room(buffer, length) }) else { return fault() };
    with(handle, |handle| handle.read(buffer).map(count))
}

/// Writes up to `length` bytes, at most about 1 MiB. Returns how many were taken, or -errno.
///
/// # Safety
/// `length` bytes can be read at `buffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vestal_driver_write(
    handle: c_int,
    buffer: *const c_void,
    length: usize,
) -> i64 {
    // SAFETY: the caller's promise.
    let Some(data) = (unsafe { bytes(buffer, length) }) else { return fault() };
    with(handle, |handle| handle.write(data).map(count))
}

/// The driver's ioctl: `in_len` bytes of argument, room for `out_cap` bytes of answer; both may be the same memory, and NULL
/// where the length is 0. Returns what the driver answered, or -errno.
///
/// # Safety
/// `in_len` bytes can be read at `in`, `out_cap` bytes can be written at `out`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vestal_driver_ioctl(
    handle: c_int,
    command: u32,
    r#in: *const c_void,
    in_len: usize,
    out: *mut c_void,
    out_cap: usize,
) -> i64 {
    // SAFETY: the caller's promise. Copied, so that the answer may go to where the argument stood.
    let Some(argument) = (unsafe { bytes(r#in, in_len) }).map(<[u8]>::to_vec) else {
        return fault();
    };
    // SAFETY: the caller's promise.
    let Some(answer) = (unsafe { room(out, out_cap) }) else { return fault() };
    with(handle, |handle| handle.ioctl(command, &argument, answer))
}

/// Calls the driver's own operation with this number, as `vestal_driver_ioctl`. See `vestal_driver_operation`.
///
/// # Safety
/// As `vestal_driver_ioctl`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vestal_driver_call(
    handle: c_int,
    operation: u32,
    r#in: *const c_void,
    in_len: usize,
    out: *mut c_void,
    out_cap: usize,
) -> i64 {
    // SAFETY: the caller's promise. Copied, so that the answer may go to where the argument stood.
    let Some(argument) = (unsafe { bytes(r#in, in_len) }).map(<[u8]>::to_vec) else {
        return fault();
    };
    // SAFETY: the caller's promise.
    let Some(answer) = (unsafe { room(out, out_cap) }) else { return fault() };
    with(handle, |handle| handle.call(operation, &argument, answer))
}

/// The number of the driver's own operation with this name, or -errno: -EINVAL where it has none.
///
/// # Safety
/// `name` is a text that ends.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vestal_driver_operation(handle: c_int, name: *const c_char) -> i64 {
    // SAFETY: the caller's promise.
    let Some(name) = (unsafe { text(name) }) else {
        return -i64::from(Errno::INVAL.raw_os_error());
    };
    with(handle, |handle| handle.operation(&name).map(i64::from))
}

/// Waits for one of `events`, at most `timeout_ms` (negative: for ever). Returns the events that are there, 0 when the time is
/// over, or -errno. Other threads may read and write on the handle meanwhile.
#[unsafe(no_mangle)]
pub extern "C" fn vestal_driver_poll(handle: c_int, events: u32, timeout_ms: i32) -> i64 {
    let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    with(handle, |handle| handle.poll(events, timeout).map(i64::from))
}

fn with(number: c_int, action: impl FnOnce(&Handle) -> Result<i64, Error>) -> i64 {
    let table = existing_table().filter(|table| table.pid == std::process::id());
    let handle = table.and_then(|table| lock(&table.open).handles.get(&number).map(Arc::clone));
    let Some(handle) = handle else { return -i64::from(Errno::BADF.raw_os_error()) };
    action(&handle).unwrap_or_else(|error| -i64::from(error.errno()))
}

fn count(count: usize) -> i64 {
    i64::try_from(count).expect("no answer is longer than a frame")
}

fn fault() -> i64 {
    -i64::from(Errno::FAULT.raw_os_error())
}

/// # Safety
/// NULL, or a text that ends.
unsafe fn text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) }.to_str().ok()?;
    (text.len() <= PATH_MAX).then(|| text.to_owned())
}

/// # Safety
/// `length` bytes can be read there, and nobody writes them meanwhile.
unsafe fn bytes<'a>(data: *const c_void, length: usize) -> Option<&'a [u8]> {
    if length == 0 {
        return Some(&[]);
    }
    if data.is_null() || isize::try_from(length).is_err() {
        return None;
    }
    // SAFETY: not null, not too long, and the caller's promise.
    Some(unsafe { slice::from_raw_parts(data.cast(), length) })
}

/// # Safety
/// `length` bytes can be written there, and nobody else uses them meanwhile.
unsafe fn room<'a>(data: *mut c_void, length: usize) -> Option<&'a mut [u8]> {
    if length == 0 {
        return Some(&mut []);
    }
    if data.is_null() || isize::try_from(length).is_err() {
        return None;
    }
    // SAFETY: not null, not too long, and the caller's promise.
    Some(unsafe { slice::from_raw_parts_mut(data.cast(), length) })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn existing_table() -> Option<&'static Table> {
    let table = TABLE.load(Ordering::Acquire);
    // SAFETY: only `table_of_this_process` stores here, and what it stores is never freed.
    unsafe { table.as_ref() }
}

/// The table, made anew in a process that has none of its own: its parent's stays as it was at the fork.
fn table_of_this_process() -> &'static Table {
    let pid = std::process::id();
    loop {
        let before = TABLE.load(Ordering::Acquire);
        if let Some(table) = existing_table()
            && table.pid == pid
        {
            return table;
        }
        let table = Box::into_raw(Box::new(Table { pid, open: Mutex::default() }));
        if TABLE.compare_exchange(before, table, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // Another thread was faster: its table is found in the next round.
            // SAFETY: nobody else has seen this pointer.
            drop(unsafe { Box::from_raw(table) });
        }
    }
}
