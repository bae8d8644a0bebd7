//! The spawn plan: everything a child needs between clone and exec, in one sealed memfd.
//!
//! The supervisor writes it ([`Plan::encode`]); the keeper checks it once, at `Define`; the child maps it privately and
//! uses it in place ([`PlanView`]), without allocating.
//!
//! ```text
//! 0   8 bytes  "VESPLAN1"
//! 8   u32      length of the whole plan
//! 12  u32 x 4  counts of programs, argv, env, sockets
//! 28  u32      offset of LISTEN_PID's ten digits, 0 without sockets
//! 32  u32      the readiness pipe's descriptor, 0 without one
//! 36  u32 x 2  offset and length of the executor's settings, 0 without executor
//! 44  4 x 0
//! 48  u32 ...  offsets of directory, stdin, stdout, stderr, lock, the readiness pipe, the executor, then of each program,
//!              argument, variable and socket
//! ..           the strings in that order, each ended by NUL, without gaps; after them the executor's settings (bincode)
//! ```
//! All numbers are little-endian.

use std::ffi::CStr;

use bincode::{Decode, Encode};
use thiserror::Error;

/// Longest plan, in bytes: the strings, their offsets and the executor's settings.
pub const PLAN_SIZE_MAX: usize = 384 * 1024;
/// All strings together, in bytes with their NULs; the kernel allows at least 128 KiB for argv and environment.
pub const STRINGS_MAX: usize = 256 * 1024;
/// Most programs to try.
pub const PROGRAMS_MAX: usize = 16;
/// Most arguments, the program's own name included.
pub const ARGUMENTS_MAX: usize = 1024;
/// Most environment variables, `LISTEN_PID` included.
pub const VARIABLES_MAX: usize = 1024;
/// Most sockets.
pub const SOCKETS_MAX: usize = 64;
/// Longest encoded [`ExecSettings`], in bytes.
pub const SETTINGS_MAX: usize = 64 * 1024;
/// Highest descriptor the readiness pipe may become.
pub const READY_FD_MAX: u32 = 255;
/// First descriptor of the sockets, as `LISTEN_FDS` wants it.
pub const SOCKETS_FD: u32 = 3;

const MAGIC: [u8; 8] = *b"VESPLAN1";
const HEAD_SIZE: usize = 48;
/// Strings that every plan has, in the order of their offsets.
const FIXED: usize = 7;
const LISTEN_PID: &str = "LISTEN_PID=";
/// A pid has at most ten digits.
const PID_DIGITS: usize = 10;

/// What the supervisor wants a child to become.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Tried in this order; the first that doesn't fail with ENOENT or ENOTDIR decides.
    pub programs: Vec<String>,
    pub argv: Vec<String>,
    /// `NAME=value`. With sockets the plan adds `LISTEN_PID=`, which the child fills in before exec.
    pub env: Vec<String>,
    pub directory: String,
    /// Opened read-only for descriptor 0, normally `/dev/null`.
    pub stdin: String,
    /// Opened read-write for descriptors 1 and 2: a FIFO or `/dev/null`.
    pub stdout: String,
    pub stderr: String,
    /// Locked by the child and inherited by all its children, so that a double start is impossible.
    pub lock: String,
    /// Deposited descriptors that become 3, 4, 5 ...
    pub sockets: Vec<String>,
    /// A FIFO opened read-write as this descriptor (s6's notification descriptor).
    pub ready: Option<(String, u32)>,
    /// Settings for `vestal-exec`, which then execs the program. Without it the child execs at once.
    pub executor: Option<Executor>,
}

/// The executor and what it is told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Executor {
    /// Absolute path of `vestal-exec`.
    pub path: String,
    pub settings: ExecSettings,
}

/// What `vestal-exec` applies before it execs the program.
#[derive(Clone, Debug, Decode, Default, Encode, Eq, PartialEq)]
pub struct ExecSettings {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Supplementary groups; `None` leaves them as they are.
    pub groups: Option<Vec<u32>>,
    /// -20 to 19.
    pub nice: Option<i32>,
    /// -1000 to 1000; EPERM is reported, not fatal.
    pub oom_score_adj: Option<i32>,
    /// (RLIMIT_* number, soft, hard); `u64::MAX` is unlimited.
    pub limits: Vec<(u32, u64, u64)>,
    /// The only capabilities the program keeps (bit n is capability n), ambient too when the user is not root.
    pub capabilities: Option<u64>,
    pub no_new_privileges: bool,
    pub umask: Option<u32>,
    /// Folders and files that the program sees read-only (a private mount namespace).
    pub read_only_paths: Vec<String>,
}

/// Why a plan can't be written, or isn't one.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum PlanError {
    #[error(
        "the spawn plan has {count} {what}, at most {limit} are allowed: shorten the definition"
    )]
    TooMany { what: &'static str, count: usize, limit: usize },
    #[error("the spawn plan has no {0}")]
    Missing(&'static str),
    #[error("a text of the spawn plan's {0} holds a NUL byte")]
    Nul(&'static str),
    #[error("an environment variable of the spawn plan is not NAME=value")]
    Variable,
    #[error(
        "readiness descriptor {fd} is taken by a socket or above the limit: choose one from {low} to {READY_FD_MAX}"
    )]
    ReadyFd { fd: u32, low: u32 },
    #[error("the bytes are no spawn plan: {0}")]
    Damaged(&'static str),
}

impl Plan {
    /// The plan's bytes, for a sealed memfd.
    ///
    /// # Errors
    /// Where a limit is exceeded, a text holds NUL, or something that must be there is missing.
    pub fn encode(&self) -> Result<Vec<u8>, PlanError> {
        let listen_pid = LISTEN_PID.to_owned() + &" ".repeat(PID_DIGITS);
        let mut env: Vec<&str> = self.env.iter().map(String::as_str).collect();
        if !self.sockets.is_empty() {
            env.retain(|variable| !variable.starts_with(LISTEN_PID));
            env.push(&listen_pid);
        }
        self.check(env.len())?;
        if env.iter().any(|variable| !matches!(variable.find('='), Some(1..))) {
            return Err(PlanError::Variable);
        }
        let (ready_path, ready_fd) = self.ready.as_ref().map_or(("", 0), |(path, fd)| (path, *fd));
        let executor_path = self.executor.as_ref().map_or("", |executor| &executor.path);
        let fixed = [
            &self.directory,
            &self.stdin,
            &self.stdout,
            &self.stderr,
            &self.lock,
            ready_path,
            executor_path,
        ];
        let lists = [texts(&self.programs), texts(&self.argv), env, texts(&self.sockets)];
        let strings: Vec<&str> = fixed.into_iter().chain(lists.iter().flatten().copied()).collect();
        if strings.iter().any(|text| text.contains('\0')) {
            return Err(PlanError::Nul("strings"));
        }
        let size = strings.iter().map(|text| text.len() + 1).sum();
        limit("bytes of strings", size, STRINGS_MAX)?;
        let settings = match &self.executor {
            Some(executor) => executor.settings.encode()?,
            None => Vec::new(),
        };

        let strings_at = HEAD_SIZE + 4 * strings.len();
        let settings_at = strings_at + size;
        let total = settings_at + settings.len();
        let mut offsets = Vec::with_capacity(strings.len());
        let mut at = strings_at;
        for text in &strings {
            offsets.push(small(at));
            at += text.len() + 1;
        }
        let last_variable = FIXED + self.programs.len() + self.argv.len() + lists[2].len() - 1;
        let listen_pid_at = if self.sockets.is_empty() {
            0
        } else {
            offsets[last_variable] + small(LISTEN_PID.len())
        };

        let mut out = Vec::with_capacity(total);
        out.extend_from_slice(&MAGIC);
        let mut number = |value: u32| out.extend_from_slice(&value.to_le_bytes());
        number(small(total));
        lists.iter().for_each(|list| number(small(list.len())));
        number(listen_pid_at);
        number(ready_fd);
        let executor = self.executor.is_some();
        number(if executor { small(settings_at) } else { 0 });
        number(small(settings.len()));
        number(0);
        offsets.into_iter().for_each(number);
        for text in strings {
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
        out.extend_from_slice(&settings);
        Ok(out)
    }

    fn check(&self, variables: usize) -> Result<(), PlanError> {
        limit("programs", self.programs.len(), PROGRAMS_MAX)?;
        limit("arguments", self.argv.len(), ARGUMENTS_MAX)?;
        limit("environment variables", variables, VARIABLES_MAX)?;
        limit("sockets", self.sockets.len(), SOCKETS_MAX)?;
        let needed = [
            (self.programs.is_empty(), "program"),
            (self.argv.is_empty(), "argument, not even the program's own name"),
            (self.directory.is_empty(), "working directory"),
            (self.stdin.is_empty(), "standard input"),
            (self.stdout.is_empty(), "standard output"),
            (self.stderr.is_empty(), "standard error"),
            (self.lock.is_empty(), "lock"),
            (self.ready.as_ref().is_some_and(|(path, _)| path.is_empty()), "readiness pipe"),
            (self.executor.as_ref().is_some_and(|it| it.path.is_empty()), "executor's path"),
        ];
        if let Some((_, what)) = needed.into_iter().find(|(missing, _)| *missing) {
            return Err(PlanError::Missing(what));
        }
        match &self.ready {
            Some((_, fd)) => check_ready_fd(*fd, self.sockets.len()),
            None => Ok(()),
        }
    }
}

impl ExecSettings {
    /// # Errors
    /// Where the settings are longer than [`SETTINGS_MAX`].
    fn encode(&self) -> Result<Vec<u8>, PlanError> {
        let bytes = bincode::encode_to_vec(self, bincode::config::standard())
            .expect("numbers, texts and lists always encode into a vector");
        limit("bytes of executor settings", bytes.len(), SETTINGS_MAX)?;
        Ok(bytes)
    }
}

/// A checked plan, read where it lies. Nothing here allocates but [`PlanView::settings`].
#[derive(Clone, Copy, Debug)]
pub struct PlanView<'a> {
    bytes: &'a [u8],
    counts: [usize; 4],
}

impl<'a> PlanView<'a> {
    /// Checks the whole plan in one pass: sizes, counts, that every string starts where the one before it ended.
    ///
    /// # Errors
    /// Where the bytes are not what [`Plan::encode`] writes.
    pub fn check(bytes: &'a [u8]) -> Result<Self, PlanError> {
        if bytes.len() < HEAD_SIZE || bytes[..8] != MAGIC {
            return Err(PlanError::Damaged("it doesn't begin as a plan"));
        }
        if bytes.len() > PLAN_SIZE_MAX || number(bytes, 8) != bytes.len() {
            return Err(PlanError::Damaged("its length is another one than it says"));
        }
        let counts = [12, 16, 20, 24].map(|at| number(bytes, at));
        limit("programs", counts[0], PROGRAMS_MAX)?;
        limit("arguments", counts[1], ARGUMENTS_MAX)?;
        limit("environment variables", counts[2], VARIABLES_MAX)?;
        limit("sockets", counts[3], SOCKETS_MAX)?;
        if counts[0] == 0 || counts[1] == 0 {
            return Err(PlanError::Missing("program or argument"));
        }
        let view = Self { bytes, counts };
        let strings_end = view.check_strings()?;
        let (settings_at, settings_length) = (number(bytes, 36), number(bytes, 40));
        let executor = view.executor().is_some();
        if executor != (settings_at != 0)
            || (executor && settings_at != strings_end)
            || settings_length > SETTINGS_MAX
            || strings_end.checked_add(settings_length) != Some(bytes.len())
            || number(bytes, 44) != 0
        {
            return Err(PlanError::Damaged("its end is not where it says"));
        }
        match view.ready() {
            Some((_, fd)) => check_ready_fd(fd, counts[3])?,
            None if number(bytes, 32) != 0 || !view.string(5).is_empty() => {
                return Err(PlanError::Damaged("half a readiness pipe"));
            }
            None => {}
        }
        if (0..5).any(|fixed| view.string(fixed).is_empty()) {
            return Err(PlanError::Missing("directory, standard descriptor or lock"));
        }
        Ok(view)
    }

    /// Where the strings end. One pass, so that even a hostile plan costs no more than its length.
    fn check_strings(&self) -> Result<usize, PlanError> {
        let strings = FIXED + self.counts.iter().sum::<usize>();
        let mut at = HEAD_SIZE + 4 * strings;
        if at > self.bytes.len() {
            return Err(PlanError::Damaged("its table is longer than itself"));
        }
        let listen_pid = number(self.bytes, 28);
        let mut found = false;
        for index in 0..strings {
            if number(self.bytes, HEAD_SIZE + 4 * index) != at {
                return Err(PlanError::Damaged(
                    "a string doesn't begin where the one before it ended",
                ));
            }
            let rest = &self.bytes[at..];
            let length = if listen_pid != 0 && at + LISTEN_PID.len() == listen_pid {
                found = rest.starts_with(LISTEN_PID.as_bytes());
                LISTEN_PID.len() + PID_DIGITS
            } else {
                let end = rest.iter().position(|byte| *byte == 0);
                end.ok_or(PlanError::Damaged("a string has no end"))?
            };
            if rest.get(length) != Some(&0) {
                return Err(PlanError::Damaged("a string has no end"));
            }
            at += length + 1;
        }
        if (listen_pid != 0) == found && found == (self.counts[3] > 0) {
            Ok(at)
        } else {
            Err(PlanError::Damaged("the place for LISTEN_PID is wrong"))
        }
    }

    fn string(&self, index: usize) -> &'a CStr {
        let at = number(self.bytes, HEAD_SIZE + 4 * index);
        CStr::from_bytes_until_nul(&self.bytes[at..]).expect("`check` saw the NUL of every string")
    }

    fn list(self, which: usize) -> impl ExactSizeIterator<Item = &'a CStr> {
        let first = FIXED + self.counts[..which].iter().sum::<usize>();
        (first..first + self.counts[which]).map(move |index| self.string(index))
    }

    /// The programs, to be tried in this order.
    pub fn programs(&self) -> impl ExactSizeIterator<Item = &'a CStr> + use<'a> {
        self.list(0)
    }

    pub fn argv(&self) -> impl ExactSizeIterator<Item = &'a CStr> + use<'a> {
        self.list(1)
    }

    pub fn env(&self) -> impl ExactSizeIterator<Item = &'a CStr> + use<'a> {
        self.list(2)
    }

    /// Names of deposits.
    pub fn sockets(&self) -> impl ExactSizeIterator<Item = &'a CStr> + use<'a> {
        self.list(3)
    }

    #[must_use]
    pub fn directory(&self) -> &'a CStr {
        self.string(0)
    }

    #[must_use]
    pub fn stdin(&self) -> &'a CStr {
        self.string(1)
    }

    #[must_use]
    pub fn stdout(&self) -> &'a CStr {
        self.string(2)
    }

    #[must_use]
    pub fn stderr(&self) -> &'a CStr {
        self.string(3)
    }

    #[must_use]
    pub fn lock(&self) -> &'a CStr {
        self.string(4)
    }

    /// The readiness pipe's path and the descriptor it becomes.
    #[must_use]
    pub fn ready(&self) -> Option<(&'a CStr, u32)> {
        let fd = u32::try_from(number(self.bytes, 32)).expect("it was read from four bytes");
        let path = self.string(5);
        (fd != 0 && !path.is_empty()).then_some((path, fd))
    }

    /// The executor's path, where there is one.
    #[must_use]
    pub fn executor(&self) -> Option<&'a CStr> {
        let path = self.string(6);
        (!path.is_empty()).then_some(path)
    }

    /// What the executor is to apply. This allocates: for the executor, never for the keeper.
    ///
    /// # Errors
    /// Where the settings are not what [`Plan::encode`] wrote.
    pub fn settings(&self) -> Result<ExecSettings, PlanError> {
        let damaged = PlanError::Damaged("the executor's settings can't be read");
        let bytes = match number(self.bytes, 36) {
            0 => return Err(PlanError::Missing("executor's settings")),
            at => &self.bytes[at..],
        };
        let config = bincode::config::standard().with_limit::<{ 4 * SETTINGS_MAX }>();
        match bincode::decode_from_slice(bytes, config) {
            Ok((settings, used)) if used == bytes.len() => Ok(settings),
            _ => Err(damaged),
        }
    }

    /// Where [`write_listen_pid`] writes; `None` without sockets.
    #[must_use]
    pub fn listen_pid(&self) -> Option<usize> {
        Some(number(self.bytes, 28)).filter(|at| *at != 0)
    }
}

/// Writes a pid at [`PlanView::listen_pid`] of a private copy of the plan: decimal, left-aligned, no leading zeros
/// (readers parse base 0), then NUL. The result still passes [`PlanView::check`].
pub fn write_listen_pid(plan: &mut [u8], at: usize, pid: u32) {
    let mut digits = [0; PID_DIGITS];
    let mut first = PID_DIGITS;
    let mut rest = pid;
    loop {
        first -= 1;
        digits[first] = b'0' + u8::try_from(rest % 10).expect("below ten");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let used = &digits[first..];
    if let Some(place) = plan.get_mut(at..at + PID_DIGITS) {
        place.fill(0);
        place[..used.len()].copy_from_slice(used);
    }
}

fn check_ready_fd(fd: u32, sockets: usize) -> Result<(), PlanError> {
    let low = SOCKETS_FD + small(sockets);
    if (low..=READY_FD_MAX).contains(&fd) { Ok(()) } else { Err(PlanError::ReadyFd { fd, low }) }
}

fn limit(what: &'static str, count: usize, limit: usize) -> Result<(), PlanError> {
    if count <= limit { Ok(()) } else { Err(PlanError::TooMany { what, count, limit }) }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).expect("every length was held against its limit")
}

/// The number at a place within the head or the table of offsets.
fn number(bytes: &[u8], at: usize) -> usize {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    usize::try_from(u32::from_le_bytes(four)).expect("we build for 32 bits and more")
}

fn texts(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan() -> Plan {
        Plan {
            programs: vec!["/opt/new/web".into(), "/usr/bin/web".into()],
            argv: vec!["web".into(), String::new(), "-p 80".into()],
            env: vec!["VESTAL_SERVICE=web".into(), "EMPTY=".into(), "LISTEN_PID=1".into()],
            directory: "/".into(),
            stdin: "/dev/null".into(),
            stdout: "/run/vestal/pipes/3.out".into(),
            stderr: "/run/vestal/pipes/3.err".into(),
            lock: "/run/vestal/locks/3".into(),
            sockets: vec!["web.80".into(), "web.443".into()],
            ready: Some(("/run/vestal/pipes/3.ready".into(), 5)),
            executor: Some(Executor {
                path: "/usr/sbin/vestal-exec".into(),
                settings: ExecSettings {
                    uid: Some(1000),
                    groups: Some(vec![1, 2]),
                    limits: vec![(7, 1024, u64::MAX)],
                    read_only_paths: vec!["/etc".into()],
                    ..ExecSettings::default()
                },
            }),
        }
    }

    fn back(view: PlanView<'_>) -> Plan {
        let text = |it: &CStr| it.to_str().unwrap().to_owned();
        Plan {
            programs: view.programs().map(text).collect(),
            argv: view.argv().map(text).collect(),
            env: view.env().map(text).collect(),
            directory: text(view.directory()),
            stdin: text(view.stdin()),
            stdout: text(view.stdout()),
            stderr: text(view.stderr()),
            lock: text(view.lock()),
            sockets: view.sockets().map(text).collect(),
            ready: view.ready().map(|(path, fd)| (text(path), fd)),
            executor: view
                .executor()
                .map(|path| Executor { path: text(path), settings: view.settings().unwrap() }),
        }
    }

    #[test]
    fn a_plan_survives_its_bytes_and_gets_a_place_for_the_pid() {
        let mut plan = plan();
        let bytes = plan.encode().unwrap();
        plan.env.pop();
        plan.env.push("LISTEN_PID=          ".into());
        assert_eq!(back(PlanView::check(&bytes).unwrap()), plan);

        let bare = Plan { sockets: Vec::new(), ready: None, executor: None, ..plan };
        let bytes = bare.encode().unwrap();
        let view = PlanView::check(&bytes).unwrap();
        assert_eq!((back(view), view.listen_pid()), (bare, None));
    }

    #[test]
    fn the_child_writes_its_pid_left_aligned_and_the_plan_stays_valid() {
        for (pid, text) in [(7, &b"7"[..]), (40_213, b"40213"), (u32::MAX, b"4294967295")] {
            let mut bytes = plan().encode().unwrap();
            let at = PlanView::check(&bytes).unwrap().listen_pid().unwrap();
            write_listen_pid(&mut bytes, at, pid);
            let view = PlanView::check(&bytes).unwrap();
            let told = [b"LISTEN_PID=", text].concat();
            assert!(view.env().any(|variable| variable.to_bytes() == told));
            assert_eq!(view.sockets().count(), 2);
        }
    }

    #[test]
    fn what_cannot_be_spawned_is_refused_with_the_reason() {
        let refused = |change: fn(&mut Plan)| {
            let mut plan = plan();
            change(&mut plan);
            plan.encode().unwrap_err()
        };
        assert_eq!(refused(|plan| plan.programs.clear()), PlanError::Missing("program"));
        assert_eq!(refused(|plan| plan.env.push("novalue".into())), PlanError::Variable);
        assert_eq!(refused(|plan| plan.argv.push("a\0b".into())), PlanError::Nul("strings"));
        let socket_as_ready = refused(|plan| plan.ready = Some(("/x".into(), 4)));
        assert_eq!(socket_as_ready, PlanError::ReadyFd { fd: 4, low: 5 });
        let long = refused(|plan| plan.argv.push("x".repeat(STRINGS_MAX)));
        assert!(matches!(long, PlanError::TooMany { what: "bytes of strings", .. }));
        let many = refused(|plan| plan.sockets = vec!["s".into(); 65]);
        assert_eq!(many, PlanError::TooMany { what: "sockets", count: 65, limit: 64 });
    }

    proptest! {
        #[test]
        fn a_damaged_plan_is_refused_or_still_safe_to_read(
            at in 0_usize..600, value: u8, cut in 0_usize..700,
        ) {
            let mut bytes = plan().encode().unwrap();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(bytes.len().max(cut) - cut / 2);
            if let Ok(view) = PlanView::check(&bytes) {
                let total = view.programs().chain(view.argv()).chain(view.env()).chain(view.sockets());
                prop_assert!(total.count() >= 2);
                let _ = (view.settings(), view.ready(), view.listen_pid());
            }
        }

        #[test]
        fn checking_noise_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let length = u32::try_from(bytes.len()).unwrap();
            if bytes.len() >= HEAD_SIZE {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..12].copy_from_slice(&length.to_le_bytes());
                bytes[12..28].fill(0);
                bytes[12] = 1;
                bytes[16] = 1;
            }
            let _ = PlanView::check(&bytes);
        }
    }
}
