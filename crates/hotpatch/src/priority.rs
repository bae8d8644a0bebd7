//! Real-time priority while a gate is closed, so that nobody is preempted with all others waiting. Where it is refused (EPERM)
//! things go on without it; it must be given back in any case. Threads that are begun meanwhile, a driver's import may begin one,
//! don't get it.

use std::io;

/// SCHED_FIFO of who closes a gate and of who is still inside.
const CLOSING: i32 = 10;
/// Of who watches over both.
pub(crate) const WATCHDOG: i32 = 11;

/// What a thread's priority was before it was raised; nothing where it was not.
#[derive(Debug, Default)]
pub(crate) struct Raised {
    before: Option<Scheduling>,
    /// Why it was not raised.
    pub(crate) refused: Option<String>,
}

#[derive(Debug)]
struct Scheduling {
    tid: i32,
    policy: i32,
    priority: i32,
}

impl Raised {
    pub(crate) fn this_thread() -> Self {
        Self::this_thread_to(CLOSING)
    }

    pub(crate) fn this_thread_to(priority: i32) -> Self {
        Self::thread_to(rustix::thread::gettid().as_raw_nonzero().get(), priority)
    }

    /// Another thread of this process, which must not end meanwhile.
    pub(crate) fn thread(tid: i32) -> Self {
        Self::thread_to(tid, CLOSING)
    }

    fn thread_to(tid: i32, priority: i32) -> Self {
        match raise(tid, priority) {
            Ok(before) => Self { before, refused: None },
            Err(error) => Self {
                before: None,
                refused: Some(format!("no real-time priority for thread {tid}: {error}")),
            },
        }
    }

    pub(crate) fn give_back(self) {
        if let Some(Scheduling { tid, policy, priority }) = self.before {
            // It was this thread's before, so it is allowed; ESRCH if it has ended. Only who has CAP_SYS_NICE may take back that
            // children don't inherit: of an ordinary thread there is nothing that they could.
            if set(tid, policy, priority).is_err() {
                let _ = set(tid, policy | libc::SCHED_RESET_ON_FORK, priority);
            }
        }
    }
}

/// Nothing where the thread has that much already.
fn raise(tid: i32, priority: i32) -> io::Result<Option<Scheduling>> {
    let before = get(tid)?;
    let policy = before.policy & !libc::SCHED_RESET_ON_FORK;
    let real_time = policy == libc::SCHED_FIFO || policy == libc::SCHED_RR;
    if policy == libc::SCHED_DEADLINE || (real_time && before.priority >= priority) {
        return Ok(None);
    }
    set(tid, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, priority)?;
    Ok(Some(before))
}

#[expect(unsafe_code, reason = "scheduling of threads, which neither std nor rustix has")]
fn get(tid: i32) -> io::Result<Scheduling> {
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: no pointers.
    let policy = unsafe { libc::sched_getscheduler(tid) };
    // SAFETY: `param` is one sched_param to be written.
    if policy < 0 || unsafe { libc::sched_getparam(tid, &raw mut param) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Scheduling { tid, policy, priority: param.sched_priority })
}

#[expect(unsafe_code, reason = "scheduling of threads, which neither std nor rustix has")]
fn set(tid: i32, policy: i32, priority: i32) -> io::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` is one sched_param to be read.
    match unsafe { libc::sched_setscheduler(tid, policy, &raw const param) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
