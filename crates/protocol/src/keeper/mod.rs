//! The private channel between keeper and supervisor: fixed-size messages on a `SOCK_SEQPACKET` pair.
//!
//! The supervisor asks ([`Request`]), the keeper acknowledges each request and reports the whole state of a slot whenever
//! it changed ([`Report`]). A report describes what is, not what happened: a reader that missed ten changes and sees the
//! eleventh knows as much as one that saw all, so the keeper needs no queue, only a "changed" bit a slot.

pub mod plan;
pub mod ring;
mod wire;

use std::fmt;

use thiserror::Error;

pub use self::wire::{MESSAGE_SIZE, Malformed, Reason};
use crate::time::Moment;

/// Version of this channel; both sides refuse another one.
pub const VERSION: u16 = 1;
/// Where the supervisor finds its end of the channel.
pub const CHANNEL_FD: i32 = 3;
/// How many instances a device may have. One record of 64 bytes each is mapped at start.
pub const SLOTS_MAX: u32 = 2048;
/// How many descriptors may be deposited: the suite's own sockets and every service's.
pub const DEPOSITS_MAX: usize = 1024;
/// Longest name of a deposited descriptor, in bytes.
pub const DEPOSIT_NAME_MAX: usize = 80;
/// The keeper sends at most this many hand-over messages before the supervisor has acknowledged them
/// (an ordinary user's `sendmsg` fails after about 1,100 descriptors in flight).
pub const HANDOVER_BATCH: u32 = 32;

/// What the supervisor asks of the keeper. Each is answered by [`Report::Ack`] with the same sequence number,
/// except [`Request::Seen`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// "I have taken every report up to and including this sequence number."
    Seen { sequence: u32 },
    /// Says what a slot is. Descriptors: the sealed spawn plan ([`plan`]), then, with `cgroup`, the instance's cgroup folder.
    /// Allowed while the slot runs: the running process is left alone and the next spawn uses the new plan.
    Define { slot: u32, identity: u64, disposition: Disposition, cgroup: bool },
    /// Changes only how the keeper answers an exit.
    Dispose { slot: u32, disposition: Disposition },
    /// Spawns generation `expected + 1` if the slot's generation is `expected` and nothing of it runs.
    Spawn { slot: u32, expected: u32 },
    /// Sends a signal to the main process, or to the whole tree (cgroup.kill for SIGKILL, else every process of the instance).
    Signal { slot: u32, generation: u32, signal: i32, tree: bool },
    /// Another process of the instance is the main one from now on (sd_notify MAINPID); refused if it isn't of this instance.
    Main { slot: u32, generation: u32, pid: i32 },
    /// Frees a slot in which nothing runs.
    Forget { slot: u32 },
    /// Keeps the attached descriptor under this name; replaces one of the same name.
    Deposit { name: DepositName },
    /// Closes the descriptor of this name; "not there" is no error. Of [`ring::RING_NAME`]: empties the log ring.
    Withdraw { name: DepositName },
    /// The hardware watchdog. Only where the keeper is PID 1; otherwise refused.
    Watchdog(Watchdog),
    /// Replaces the keeper by the binary on disk, after a trial run of that binary said it can read the state.
    Reexec,
    /// How often this keeper's program was started: 1, and one more for each re-execution. Answered by [`Outcome::Count`].
    Starts,
    /// Everything is stopped: leave. Where the keeper is not PID 1 every kind is `Exit`, with the code.
    Shutdown { kind: ShutdownKind, exit_code: u8 },
}

/// How the keeper answers the end of a main process.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Disposition {
    /// The next crash is answered by the keeper alone, after this delay; once, then it holds and reports.
    pub armed_after_ms: Option<u32>,
    /// While no supervisor lives every crash is answered after this delay; without it the slot waits for a supervisor.
    pub alone_after_ms: Option<u32>,
    /// Exit status 0 is answered too (`respawn = "always"` and procd's respawn).
    pub on_success: bool,
    /// Only the main process belongs to the instance: what else is left runs on (`kill-mode = "main"`).
    pub main_only: bool,
}

/// What the keeper tells the supervisor. Every report has a sequence number of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Report {
    /// First message after a start of the supervisor; slots and deposits follow, then [`Report::HandoverEnd`].
    Welcome {
        version: u16,
        keeper_pid: i32,
        pid_one: bool,
        supervisor_starts: u32,
    },
    /// A slot that isn't free: at hand-over, and whenever it changed since the last report.
    Slot(SlotState),
    /// A deposited descriptor, attached. Only during hand-over.
    Deposit {
        name: DepositName,
    },
    HandoverEnd,
    /// The answer to the request with this sequence number.
    Ack {
        request: u32,
        outcome: Outcome,
    },
    /// Somebody wants everything stopped: a signal to the keeper, ctrl-alt-del.
    ShutdownWanted {
        kind: ShutdownKind,
    },
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    Done,
    /// The generation is another one, or the slot is not in a state that allows it; a [`Report::Slot`] follows.
    Stale,
    /// Never defined, or out of range.
    NoSuchSlot,
    /// The message or its descriptors make no sense.
    Malformed,
    /// Only PID 1 may do this.
    NotPidOne,
    /// A table is full.
    Full,
    /// A system call failed with this errno.
    Errno(i32),
    /// The number that was asked for.
    Count(u32),
}

/// Everything there is to know about a slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SlotState {
    pub slot: u32,
    /// Hash of service and instance name, as given by `Define`.
    pub identity: u64,
    /// Counts spawns, failed ones too; 0 before the first.
    pub generation: u32,
    pub phase: Phase,
    /// The main process; 0 unless running.
    pub pid: i32,
    /// The main process is stopped by a signal (SIGSTOP, SIGTSTP).
    pub suspended: bool,
    /// When the current generation was spawned.
    pub spawned_at: Moment,
    /// How the generation `exit_generation` ended.
    pub exit: Exit,
    pub exit_generation: u32,
    pub exited_at: Moment,
    /// The generation was started by the keeper alone, as the disposition said.
    pub answered_alone: bool,
    /// The cgroup counted an out-of-memory kill during the generation that ended.
    pub oom: bool,
}

/// What a slot is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Nothing runs.
    Idle,
    /// Exec has not been confirmed yet (an executor is at work).
    Executing,
    Running,
    /// The main process is gone, what it left is being killed.
    Emptying,
    /// The keeper will spawn it again by itself.
    Waiting,
    /// Processes of it don't die, not even by SIGKILL.
    Unkillable,
}

/// How a main process ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// It has never run.
    None,
    Code(u8),
    Signal {
        signal: u8,
        core: bool,
    },
    /// It was not our child and the kernel doesn't tell (adopted after the keeper's own death).
    Lost,
    /// It never became the program: clone, set-up or exec failed.
    SpawnFailed {
        stage: Stage,
        errno: i32,
    },
}

/// Where a spawn failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// clone3 itself: EAGAIN and ENOMEM mean "try again later".
    Clone,
    /// Mapping the plan in the child.
    Plan,
    /// A log pipe, /dev/null or the readiness pipe.
    Stdio,
    /// The lock is held: a process of an earlier generation lives.
    Lock,
    Directory,
    Sockets,
    /// The last program that was tried.
    Exec,
    /// The executor refused its settings.
    Settings,
    Limits,
    User,
    Capabilities,
    Namespaces,
}

/// What becomes of the machine when everything has stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ShutdownKind {
    Exit,
    Reboot,
    Poweroff,
    Halt,
}

/// How the hardware watchdog is fed; the reply to it is [`Outcome`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Watchdog {
    /// Open and feed, or close.
    pub run: bool,
    /// Write the magic `V` before closing, so that the watchdog stops too.
    pub magic_close: bool,
    /// The device resets after this long without being fed, in seconds.
    pub timeout_s: u16,
    /// Fed this often, in seconds, as long as the supervisor renews its lease.
    pub frequency_s: u16,
    /// The keeper stops feeding when this much time passed since the last such request, in seconds.
    pub lease_s: u16,
}

/// The name of a deposited descriptor: 1 to [`DEPOSIT_NAME_MAX`] bytes, no NUL.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct DepositName {
    bytes: [u8; DEPOSIT_NAME_MAX],
    length: u8,
}

/// Why a text can't name a deposit.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum DepositNameError {
    #[error("the deposit's name is empty")]
    Empty,
    #[error("the deposit's name has {0} bytes, at most {DEPOSIT_NAME_MAX} are allowed")]
    Long(usize),
    #[error("the deposit's name holds a NUL byte")]
    Nul,
}

impl DepositName {
    /// # Errors
    /// Where the text is empty, too long or holds a NUL byte.
    pub fn new(text: &str) -> Result<Self, DepositNameError> {
        let length = match u8::try_from(text.len()) {
            Ok(0) => return Err(DepositNameError::Empty),
            Ok(length) if text.len() <= DEPOSIT_NAME_MAX => length,
            _ => return Err(DepositNameError::Long(text.len())),
        };
        if text.as_bytes().contains(&0) {
            return Err(DepositNameError::Nul);
        }
        let mut bytes = [0; DEPOSIT_NAME_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes, length })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)])
            .expect("`new` took the bytes from a text")
    }
}

impl fmt::Debug for DepositName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
