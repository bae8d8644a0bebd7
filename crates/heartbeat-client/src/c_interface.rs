//! The C interface of `include/gmi_daemon.h`: four functions as the design document names them, and a few beside them.
//!
//! A structure of the caller holds a number, never a pointer of ours, so that a closed or a made-up one is an error code
//! and not a crash. Everything is behind locks that a fork leaves behind: a child gets a table of its own.

#![expect(unsafe_code, reason = "C hands over pointers, and names are part of the interface")]
#![expect(non_camel_case_types, non_snake_case, reason = "the names are the design document's")]

use std::{
    collections::HashMap,
    ffi::{CStr, c_char, c_long, c_void},
    mem::size_of,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicPtr, Ordering},
    },
    time::Duration,
};

use protocol::heartbeat::Key;

use crate::{Client, Error, Reported, Settings};

/// 0 or more: success; negative: one of `GMI_E_*`.
pub type GMI_RESULT = i32;
/// A socket's descriptor.
pub type FD_HANDLE = i32;
/// A port.
pub type long_t = c_long;

/// A pointer is null, the structure's size is unknown, a port or an address is none.
pub const GMI_E_ARG: GMI_RESULT = -1;
/// Init comes first, then Register, then Report.
pub const GMI_E_STATE: GMI_RESULT = -2;
/// The system refused something: errno has why.
pub const GMI_E_SYS: GMI_RESULT = -3;
/// The broker did not answer in time.
pub const GMI_E_TIMEOUT: GMI_RESULT = -4;
/// The broker does not want this application, or the inherited key is another one's.
pub const GMI_E_REFUSED: GMI_RESULT = -5;
/// The handle was closed, or never was one.
pub const GMI_E_CLOSED: GMI_RESULT = -6;
/// The process forked since Init: the child must call Init itself.
pub const GMI_E_FORKED: GMI_RESULT = -7;
/// More handles than one process may have.
pub const GMI_E_LIMIT: GMI_RESULT = -8;

/// `block_ms`: Report never waits; the program calls `GMI_DaemonService` itself.
pub const GMI_BLOCK_NEVER: u32 = u32::MAX;

/// Most handles of one process.
const HANDLES_MAX: usize = 64;
/// Longest text of `server`.
const SERVER_MAX: usize = 64;

/// What the application sets before `GMI_DaemonInit`, and keeps until `GMI_DaemonUnInit`. Set it to zero first
/// (`DAEMON_DATA_CFG cfg = GMI_DAEMON_DATA_CFG_INIT;`): zero is the default everywhere.
#[repr(C)]
#[derive(Debug)]
pub struct DAEMON_DATA_CFG {
    /// `sizeof(DAEMON_DATA_CFG)`, so that the structure can grow.
    pub size: u32,
    /// Set by Init: the socket. Wait on it, never read or close it.
    pub fd: FD_HANDLE,
    /// The broker's IP address as text; NULL is 127.0.0.1.
    pub server: *const c_char,
    /// 16 octets; NULL takes what the supervisor handed over (GMI_KEY_FD), or none.
    pub key: *const u8,
    /// Of the key; 0 with the one that was handed over.
    pub generation: u32,
    /// How often Report will be called; 0 leaves it to the service's definition.
    pub period_ms: u32,
    /// How many reports in a row may be missed; 0 leaves it to the service's definition.
    pub misses: u32,
    /// How long Report waits for its acknowledgement; 0 is half a period. See `GMI_BLOCK_NEVER`.
    pub block_ms: u32,
    /// How long Register waits; 0 is 3000.
    pub timeout_ms: u32,
    /// The library's own.
    pub r#priv: *mut c_void,
}

/// The open handles of one process.
struct Table {
    pid: u32,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: usize,
    clients: HashMap<usize, Arc<Handle>>,
}

/// `None` once it was closed.
type Handle = Mutex<Option<Client>>;

/// Of the process that called Init last; a child that forked finds its parent's.
static TABLE: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());

/// Opens and binds the socket; nothing is sent yet. `ServerPort` 0 is the port that came with the key, else 7420; `LocalPort` 0 is any.
/// Reads and closes the key's descriptor and clears `GMI_KEY_FD`: call it before other threads read the environment.
/// Returns the application's socket handle (also in `fd`), or an error code.
///
/// # Safety
/// `pDaemonData` is null or points to a structure whose first `size` octets can be read and written; `server` and `key` in it
/// are null or point to a text that ends, and to 16 octets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GMI_DaemonInit(
    pDaemonData: *mut DAEMON_DATA_CFG,
    AppId: i32,
    ServerPort: long_t,
    LocalPort: long_t,
) -> GMI_RESULT {
    // SAFETY: the caller's promise.
    let Some(cfg) = (unsafe { structure(pDaemonData) }) else { return GMI_E_ARG };
    cfg.fd = -1;
    cfg.r#priv = ptr::null_mut();
    // SAFETY: the caller's promise.
    let settings = match unsafe { settings(cfg, AppId, ServerPort, LocalPort) } {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let client = match Client::open(settings) {
        Ok(client) => client,
        Err(error) => return code(&error),
    };
    let fd = client.as_fd().as_raw_fd();
    let mut open = lock(&table_of_this_process().open);
    if open.clients.len() >= HANDLES_MAX {
        return GMI_E_LIMIT;
    }
    open.last += 1;
    let number = open.last;
    open.clients.insert(number, Arc::new(Mutex::new(Some(client))));
    cfg.fd = fd;
    cfg.r#priv = ptr::without_provenance_mut(number);
    fd
}

/// Says that no more reports will come, waits for that a moment, and closes the handle. Ignores what isn't open. In a
/// forked child it does nothing: the session is the parent's.
///
/// # Safety
/// As [`GMI_DaemonInit`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GMI_DaemonUnInit(pDaemonData: *mut DAEMON_DATA_CFG) {
    // SAFETY: the caller's promise.
    let Some(cfg) = (unsafe { structure(pDaemonData) }) else { return };
    let number = cfg.r#priv.addr();
    cfg.fd = -1;
    cfg.r#priv = ptr::null_mut();
    let Some(table) = existing_table().filter(|table| table.pid == std::process::id()) else {
        return;
    };
    let handle = lock(&table.open).clients.remove(&number);
    let client = handle.and_then(|handle| lock(&handle).take());
    if let Some(client) = client {
        client.close();
    }
}

/// Waits until the broker has registered the application, at most `timeout_ms`. Returns 0, or an error code.
///
/// # Safety
/// As [`GMI_DaemonInit`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GMI_DaemonRegister(pDaemonData: *mut DAEMON_DATA_CFG) -> GMI_RESULT {
    // SAFETY: the caller's promise.
    unsafe { with(pDaemonData, |client| client.register().map(|()| 0)) }
}

/// Says that the application is alive; call it at least once a period. Returns 0 where that has arrived, 1 where it is on its
/// way (the next call sends it again if need be), or an error code.
///
/// # Safety
/// As [`GMI_DaemonInit`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GMI_DaemonReport(pDaemonData: *mut DAEMON_DATA_CFG) -> GMI_RESULT {
    // SAFETY: the caller's promise.
    unsafe { with(pDaemonData, |client| client.report().map(outcome)) }
}

/// As `GMI_DaemonReport`, with a counter that changes as long as the real work goes on (`progress` of the service's `[heartbeat]`).
///
/// # Safety
/// As [`GMI_DaemonInit`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GMI_DaemonReportProgress(
    pDaemonData: *mut DAEMON_DATA_CFG,
    counter: u32,
) -> GMI_RESULT {
    // SAFETY: the caller's promise.
    unsafe { with(pDaemonData, |client| client.report_progress(counter).map(outcome)) }
}

/// Receives, sends again, begins anew; returns at once. For programs with a loop of their own: when `fd` is readable, or
/// `GMI_DaemonNextTimeout` is over. Returns 0, or an error code.
///
/// # Safety
/// As [`GMI_DaemonInit`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GMI_DaemonService(pDaemonData: *mut DAEMON_DATA_CFG) -> GMI_RESULT {
    // SAFETY: the caller's promise.
    unsafe { with(pDaemonData, |client| client.service().map(|()| 0)) }
}

/// Milliseconds until `GMI_DaemonService` is to be called at the latest, at most an hour; or an error code.
///
/// # Safety
/// As [`GMI_DaemonInit`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GMI_DaemonNextTimeout(pDaemonData: *mut DAEMON_DATA_CFG) -> GMI_RESULT {
    const HOUR_MS: i32 = 3_600_000;
    let milliseconds = |client: &mut Client| {
        let Some(time) = client.next_timeout() else { return Ok(HOUR_MS) };
        // Rounded up, so that something is due when it is over.
        let whole = i32::try_from(time.as_millis()).unwrap_or(HOUR_MS);
        Ok(whole.saturating_add(1).min(HOUR_MS))
    };
    // SAFETY: the caller's promise.
    unsafe { with(pDaemonData, milliseconds) }
}

/// What a code means, in English. Never NULL; the text stays valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn GMI_StrError(code: GMI_RESULT) -> *const c_char {
    let text = match code {
        GMI_E_ARG => {
            c"a pointer is null, the structure's size is unknown, or a port or an address is none"
        }
        GMI_E_STATE => c"not in this order: Init, Register, Report",
        GMI_E_SYS => c"the system refused something: errno says what",
        GMI_E_TIMEOUT => c"the heartbeat broker did not answer in time",
        GMI_E_REFUSED => {
            c"the heartbeat broker does not want this application, or the key is another one's"
        }
        GMI_E_CLOSED => c"the handle was closed, or never was one",
        GMI_E_FORKED => c"the process forked since Init: call Init in the child",
        GMI_E_LIMIT => c"more handles than one process may have",
        0 => c"success",
        1.. => c"success: on its way, not acknowledged yet",
        _ => c"no code of this library",
    };
    text.as_ptr()
}

fn outcome(reported: Reported) -> GMI_RESULT {
    match reported {
        Reported::Acknowledged => 0,
        Reported::Queued => 1,
    }
}

/// The error as a code; errno is set where there is one.
fn code(error: &Error) -> GMI_RESULT {
    match error {
        Error::Settings(_) | Error::Refused { .. } => GMI_E_REFUSED,
        Error::NotRegistered => GMI_E_STATE,
        Error::Timeout { .. } => GMI_E_TIMEOUT,
        Error::Forked { .. } => GMI_E_FORKED,
        Error::Key { .. } => GMI_E_SYS,
        Error::System { source, .. } => {
            if let Some(errno) = source.raw_os_error() {
                errno::set_errno(errno::Errno(errno));
            }
            GMI_E_SYS
        }
    }
}

/// The caller's structure, if it is one of this version.
///
/// # Safety
/// As [`GMI_DaemonInit`].
unsafe fn structure<'a>(cfg: *mut DAEMON_DATA_CFG) -> Option<&'a mut DAEMON_DATA_CFG> {
    if cfg.is_null() || !cfg.is_aligned() {
        return None;
    }
    // SAFETY: not null, and the caller's promise holds for the first member at least.
    let size = unsafe { (&raw const (*cfg).size).read() };
    if usize::try_from(size).ok()? < size_of::<DAEMON_DATA_CFG>() {
        return None;
    }
    // SAFETY: it is as large as ours, and nobody else uses it during the call.
    Some(unsafe { &mut *cfg })
}

/// # Safety
/// `server` and `key` as [`GMI_DaemonInit`] wants them.
unsafe fn settings(
    cfg: &DAEMON_DATA_CFG,
    app_id: i32,
    server_port: long_t,
    local_port: long_t,
) -> Result<Settings, GMI_RESULT> {
    let mut settings = match cfg.key.is_null() {
        true => Settings::inherited(app_id).map_err(|error| code(&error))?,
        false => {
            let mut key = [0; 16];
            // SAFETY: not null, so 16 octets can be read there.
            unsafe { ptr::copy_nonoverlapping(cfg.key, key.as_mut_ptr(), key.len()) };
            let mut settings = Settings::new(app_id);
            settings.key = Some(Key(key));
            settings.generation = cfg.generation;
            settings
        }
    };
    if !cfg.server.is_null() {
        // SAFETY: not null, so it points to a text that ends.
        let text = unsafe { CStr::from_ptr(cfg.server) }.to_bytes();
        let text = Some(text).filter(|text| text.len() <= SERVER_MAX);
        let address = text.and_then(|text| std::str::from_utf8(text).ok()?.parse::<IpAddr>().ok());
        settings.server.set_ip(address.ok_or(GMI_E_ARG)?);
    }
    let port = |port: long_t| u16::try_from(port).map_err(|_| GMI_E_ARG);
    match port(server_port)? {
        0 => {}
        server_port => settings.server.set_port(server_port),
    }
    settings.local_port = port(local_port)?;
    let time = |ms: u32| (ms != 0).then(|| Duration::from_millis(u64::from(ms)));
    settings.period = time(cfg.period_ms).unwrap_or(settings.period);
    settings.misses = if cfg.misses == 0 { settings.misses } else { cfg.misses };
    settings.timeout = time(cfg.timeout_ms).unwrap_or(settings.timeout);
    settings.block = match cfg.block_ms {
        GMI_BLOCK_NEVER => Some(Duration::ZERO),
        ms => time(ms),
    };
    Ok(settings)
}

/// Calls `action` with the client that the structure names.
///
/// # Safety
/// As [`GMI_DaemonInit`].
unsafe fn with(
    cfg: *mut DAEMON_DATA_CFG,
    action: impl FnOnce(&mut Client) -> Result<GMI_RESULT, Error>,
) -> GMI_RESULT {
    // SAFETY: the caller's promise.
    let Some(cfg) = (unsafe { structure(cfg) }) else { return GMI_E_ARG };
    let Some(table) = existing_table().filter(|_| !cfg.r#priv.is_null()) else {
        return GMI_E_STATE;
    };
    // Before any lock: the child of a fork may have inherited it locked.
    if table.pid != std::process::id() {
        return GMI_E_FORKED;
    }
    let handle = lock(&table.open).clients.get(&cfg.r#priv.addr()).map(Arc::clone);
    let Some(handle) = handle else { return GMI_E_CLOSED };
    let mut client = lock(&handle);
    match client.as_mut() {
        Some(client) => action(client).unwrap_or_else(|error| code(&error)),
        // Another thread closed it while this one waited.
        None => GMI_E_CLOSED,
    }
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
