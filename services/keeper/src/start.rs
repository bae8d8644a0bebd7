//! From the command line to the loop: options, places, lock, records, limits. Everything that allocates is here.

use std::{
    ffi::{CString, OsString},
    os::{fd::RawFd, unix::ffi::OsStringExt as _},
    path::{Path, PathBuf},
};

use daemon::{
    clock,
    options::{self, Extra, Options, Parsed, Spec},
    places::Places,
};
use protocol::time::Moment;
use rustix::{
    event::epoll,
    process::{Resource, Rlimit},
};

use crate::{
    deposits::Deposits,
    drain::Drain,
    keeper::Keeper,
    lock::{self, Refused},
    machine::Machine,
    oom,
    pid1::PidOne,
    record::Records,
    reexec::{self, CHECK_OPTION, Reexec, STATE_OPTION},
    say::say,
    state::Resumed,
    stop::Stop,
    supervisor::{self, Command, Life},
    sys,
    table::Table,
};

const FAILED: u8 = 1;
const WRONG: u8 = 2;
/// Names another supervisor, for tests and for trying out a new one.
const SUPERVISOR_VARIABLE: &str = "VESTAL_SUPERVISOR";
/// When the keeper began, in nanoseconds of CLOCK_MONOTONIC; a re-execution changes nothing of it. For the supervisor, since
/// to the kernel PID 1 is as old as the kernel.
const STARTED_VARIABLE: &str = "VESTAL_KEEPER_STARTED";
/// Set to anything: do without clone3 and cgroup.kill, for tests.
const OLD_KERNEL_VARIABLE: &str = "VESTAL_KEEPER_OLD_KERNEL";
/// Signals that the loop reads; SIGPIPE is ignored, all others end the keeper.
const SIGNALS: [i32; 7] = [
    libc::SIGCHLD,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGPWR,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
];
const SPEC: Spec = Spec {
    name: "keeper",
    about: "Parent of every process of the device: starts vestal-supervisor and does what it asks.\n\
        VESTAL_SUPERVISOR=PATH names another supervisor than the one beside this program.\n\
        VESTAL_KEEPER_OLD_KERNEL=1 does without clone3 and cgroup.kill, for tests.",
    extra: &[
        Extra {
            long: CHECK_OPTION,
            value: Some("FD"),
            help: "can this program go on from that state?",
        },
        Extra {
            long: STATE_OPTION,
            value: Some("FD"),
            help: "go on from the state of a re-execution",
        },
    ],
    free: None,
};

/// Why the keeper did not start: exit code and sentence.
type Failure = (u8, String);

/// Runs the keeper; returns its exit code.
pub(crate) fn main() -> u8 {
    let args = std::env::args_os().skip(1);
    let args = match PidOne::prove() {
        Some(_) => known_words(args),
        None => args.collect(),
    };
    let result = match options::parse(&SPEC, args) {
        Ok(Parsed::Run(options)) => run(&options),
        Ok(Parsed::Print(text)) => {
            print!("{text}");
            Ok(0)
        }
        Err(error) => Err((WRONG, error.to_string())),
    };
    result.unwrap_or_else(|(code, text)| {
        eprintln!("keeper: {text}");
        code
    })
}

/// The kernel hands the words that it doesn't know to PID 1: those that make no option are left out, and said.
fn known_words(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words = args.peekable();
    let mut kept: Vec<OsString> = Vec::new();
    let fits = |words: &[OsString]| options::parse(&SPEC, words.iter().cloned()).is_ok();
    while let Some(word) = words.next() {
        kept.push(word);
        if fits(&kept) {
            continue;
        }
        // An option whose value is the next word.
        if let Some(value) = words.peek() {
            kept.push(value.clone());
            if fits(&kept) {
                words.next();
                continue;
            }
            kept.pop();
        }
        if let Some(word) = kept.pop() {
            say!("the word {} is not known here: left out", word.display());
        }
    }
    kept
}

fn run(options: &Options) -> Result<u8, Failure> {
    let began = clock::now();
    if let Some(fd) = descriptor(options, CHECK_OPTION)? {
        return Ok(u8::from(!reexec::can_read(fd)));
    }
    if let Err(error) = sys::close_all_over_exec() {
        // Before 5.11: services may inherit what was left open.
        eprintln!("keeper: close_range: {error}");
    }
    sys::default_signals();
    if std::env::var_os(OLD_KERNEL_VARIABLE).is_some() {
        sys::pretend_old_kernel();
    }
    let machine = PidOne::prove().and_then(Machine::prove);
    let program = own_path()?;
    let machine = machine.map(|machine| machine.beside(&program));
    if let Some(machine) = &machine
        && !options.has(STATE_OPTION)
    {
        machine.begin();
    }
    oom::protect();
    let places = Places::find(options).map_err(|error| (WRONG, error.to_string()))?;
    let mut keeper = match descriptor(options, STATE_OPTION)? {
        Some(fd) => {
            let resumed = reexec::resume(fd).map_err(|error| failed(&"state", &error))?;
            prepare(options, &places, program, began, Some(resumed))?
        }
        None => prepare(options, &places, program, began, None)?,
    };
    keeper.machine = machine;
    keeper.begin().map_err(|error| failed(&"epoll", &error))?;
    Ok(keeper.run())
}

fn prepare(
    options: &Options,
    places: &Places,
    program: PathBuf,
    began: Moment,
    resumed: Option<Resumed>,
) -> Result<Keeper, Failure> {
    let fresh = resumed.is_none();
    let environment = environment(fresh, began);
    let folder = places.run.join("keeper");
    std::fs::create_dir_all(&folder).map_err(|error| failed(&folder.display(), &error))?;
    let (signals, resumed) = match resumed {
        Some(resumed) => (signals()?, resumed),
        None => {
            let lock = take_lock(&places.run.join("keeper.lock"))?;
            let life = Life::new(clock::now());
            let limit = rustix::process::getrlimit(Resource::Nofile);
            let (slots, deposits) = (Table::new(), Deposits::new());
            let fresh = Resumed {
                lock: Some(lock),
                channel: None,
                life,
                limit,
                stop: Stop::No,
                slots,
                deposits,
                ring: None,
                feeding: None,
                away_since: Some(clock::now()),
                starts: 1,
            };
            (signals()?, fresh)
        }
    };
    let path = folder.join("records");
    let records = Records::open(&path).map_err(|error| failed(&path.display(), &error))?;
    if fresh {
        supervisor::end_predecessor(records);
    }
    sys::become_subreaper().map_err(|error| failed(&"subreaper", &error))?;
    // More is better, but less will do: a service costs three at most.
    let raised = Rlimit { current: resumed.limit.maximum, maximum: resumed.limit.maximum };
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);

    let beside = || program.with_file_name("vestal-supervisor");
    let supervisor = std::env::var_os(SUPERVISOR_VARIABLE).map_or_else(beside, PathBuf::from);
    let lock = resumed.lock.ok_or((FAILED, "the state has no lock".to_owned()))?;
    let drain = Drain::new(resumed.ring, resumed.away_since)
        .map_err(|error| failed(&"log ring", &error))?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC);
    let mut keeper = Keeper {
        epoll: epoll.map_err(|error| failed(&"epoll", &error))?,
        signals,
        pid_one: PidOne::prove(),
        machine: None,
        records,
        slots: resumed.slots,
        deposits: resumed.deposits,
        channel: resumed.channel,
        wants_out: false,
        life: resumed.life,
        command: Command::new(&supervisor, options, places, &environment),
        limit: resumed.limit,
        stop: resumed.stop,
        feeding: resumed.feeding,
        reexec: successor(program, options, environment, lock, resumed.starts),
        drain,
        more: false,
    };
    if fresh {
        keeper.adopt(clock::now());
    }
    Ok(keeper)
}

/// What we were given, and when the first of us began.
fn environment(fresh: bool, began: Moment) -> Vec<(OsString, OsString)> {
    let mut variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    if fresh {
        // A keeper may have been started by a service of another one.
        variables.retain(|(name, _)| name != STARTED_VARIABLE);
    }
    if variables.iter().all(|(name, _)| name != STARTED_VARIABLE) {
        variables.push((STARTED_VARIABLE.into(), began.0.to_string().into()));
    }
    variables
}

/// By its own name: the file may hold other programs as well.
fn own_path() -> Result<PathBuf, Failure> {
    let path = std::env::current_exe().map_err(|error| failed(&"/proc/self/exe", &error))?;
    Ok(path.with_file_name("vestal-keeper"))
}

fn successor(
    program: PathBuf,
    options: &Options,
    environment: Vec<(OsString, OsString)>,
    lock: std::os::fd::OwnedFd,
    starts: u32,
) -> Reexec {
    let text = |text: OsString| {
        CString::new(text.into_vec()).expect("arguments and environment came without NUL")
    };
    Reexec {
        program: text(program.into()),
        args: options.to_args().into_iter().map(text).collect(),
        env: environment
            .into_iter()
            .map(|(name, value)| text([name, value].join("=".as_ref())))
            .collect(),
        lock,
        starts,
    }
}

fn signals() -> Result<std::os::fd::OwnedFd, Failure> {
    sys::signal_descriptor(&SIGNALS).map_err(|error| failed(&"signals", &error))
}

fn take_lock(path: &Path) -> Result<std::os::fd::OwnedFd, Failure> {
    lock::take(path, clock::now).map_err(|refused| match refused {
        Refused::Held(pid) => {
            let run = path.parent().unwrap_or(path).display();
            let cure = "stop it, or give another --run-dir";
            (WRONG, format!("another vestal-keeper (pid {pid}) runs on {run}; {cure}"))
        }
        Refused::Io(error) => failed(&path.display(), &error),
    })
}

fn descriptor(options: &Options, option: &str) -> Result<Option<RawFd>, Failure> {
    let Some(value) = options.extra(option).flatten() else { return Ok(None) };
    let number = value.to_str().and_then(|text| text.parse().ok()).filter(|fd: &RawFd| *fd > 2);
    match number {
        Some(fd) => Ok(Some(fd)),
        None => {
            Err((WRONG, format!("--{option} {}: a descriptor above 2 is needed", value.display())))
        }
    }
}

fn failed(what: &dyn std::fmt::Display, error: &dyn std::fmt::Display) -> Failure {
    (FAILED, format!("{what}: {error}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn words_of_the_kernels_command_line_are_left_out_and_options_are_not() {
        let known = |words: &[&str]| known_words(words.iter().map(OsString::from));
        let given = ["splash", "--log-level", "debug", "-b", "single", "--run-dir=/r", "--none"];
        assert_eq!(known(&given), ["--log-level", "debug", "--run-dir=/r"]);
        assert_eq!(known(&["--run-dir"]), Vec::<OsString>::new(), "its value is missing");
        assert_eq!(known(&["--log-format", "xml", "--log-json"]), Vec::<OsString>::new());
    }

    /// A keeper in a folder of its own that has nothing and starts nothing, for tests of what it does with an event.
    pub(crate) fn idle_keeper(name: &str) -> (PathBuf, Keeper) {
        let folder =
            std::env::temp_dir().join(format!("vestal-keeper-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let args = [OsString::from("--run-dir"), folder.join("run").into()];
        let Parsed::Run(options) = options::parse(&SPEC, args).unwrap() else {
            panic!("a folder is nothing to print about");
        };
        let places = Places::find(&options).unwrap();
        let resumed = Resumed {
            lock: Some(std::fs::File::open("/dev/null").unwrap().into()),
            channel: None,
            life: Life::new(clock::now()),
            limit: rustix::process::getrlimit(Resource::Nofile),
            stop: Stop::No,
            slots: Table::new(),
            deposits: Deposits::new(),
            ring: None,
            feeding: None,
            away_since: None,
            starts: 1,
        };
        let program = own_path().map_err(|(_, text)| text).unwrap();
        let keeper = prepare(&options, &places, program, clock::now(), Some(resumed))
            .map_err(|(_, text)| text)
            .unwrap();
        (folder, keeper)
    }
}
