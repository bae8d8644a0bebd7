//! A service for demonstrations and tests: does what its arguments say, one after the other, then waits.
//!
//! It shows every behaviour that a supervisor has to cope with, without a shell's start-up time in the way.

use std::{
    env,
    fs::OpenOptions,
    io::{self, IoSlice, Write as _},
    mem::MaybeUninit,
    net::{TcpListener, UdpSocket},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd},
        unix::{
            net::{UnixDatagram, UnixListener},
            process::CommandExt as _,
        },
    },
    process::{Command, ExitCode, exit},
    thread,
};

use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    process::{Signal, getpid, kill_process},
};

const HELP: &str =
    "A service for demonstrations and tests: does what its arguments say, in order, then waits.

Usage: vestal-demo [STEP...]

Steps:
  say=TEXT             print a line
  lines=N              print N numbered lines
  append=FILE          append our pid as a line to FILE
  notify=STATE         send STATE to NOTIFY_SOCKET (READY=1, STATUS=..., WATCHDOG=1)
  ready-fd=N           write a newline to descriptor N
  tcp=ADDRESS          listen there and serve one greeting a connection, in a thread
  unix=PATH            the same on a Unix socket
  serve                the same on the first inherited socket (LISTEN_FDS)
  serve=tcp, serve=udp the same where it is a TCP socket, and a greeting for each datagram where it is a UDP one
  store=NAME:TEXT      keep TEXT in memory that the supervisor stores under NAME (FDSTORE)
  stored=NAME          print what is stored under NAME, or that nothing is
  barrier              send BARRIER=1 and wait until everything before it was taken
  env=NAME             print NAME=value
  child                start a child in the same session that waits
  hand-over            start such a child and say that it is the main process (MAINPID)
  daemon               start a grandchild in a session of its own that waits (a double fork)
  deaf                 ignore SIGTERM
  wait=MILLISECONDS    wait that long
  until=FILE           wait until FILE exists
  pet=MILLISECONDS     send WATCHDOG=1 that often from now on, in a thread
  exit=CODE            end with CODE
  kill=SIGNAL          end by a signal: KILL, SEGV, ABRT, STOP (suspends)
After the last step it waits for ever.
";

fn main() -> ExitCode {
    for step in env::args().skip(1) {
        if let Err(error) = perform(&step) {
            eprintln!("vestal-demo: {step}: {error}");
            return ExitCode::from(2);
        }
    }
    wait_for_ever()
}

fn perform(step: &str) -> io::Result<()> {
    let (name, value) = step.split_once('=').unwrap_or((step, ""));
    match name {
        "--help" => {
            print!("{HELP}");
            exit(0);
        }
        "say" => println!("{value}"),
        "lines" => (0..number(value)?).for_each(|line| println!("line {line}")),
        "append" => {
            let line = format!("{}\n", std::process::id());
            OpenOptions::new().create(true).append(true).open(value)?.write_all(line.as_bytes())?;
        }
        "notify" => notify(value)?,
        "ready-fd" => newline_to(i32::try_from(number(value)?).map_err(io::Error::other)?)?,
        "tcp" => serve_tcp(TcpListener::bind(value)?),
        "unix" => serve_unix(UnixListener::bind(value)?),
        "serve" => serve_inherited(value)?,
        "store" => store(value)?,
        "stored" => print_stored(value)?,
        "barrier" => barrier()?,
        "env" => println!("{value}={}", env::var(value).unwrap_or_default()),
        "child" => drop(spawn_child(false)?),
        "daemon" => drop(spawn_child(true)?),
        "hand-over" => notify(&format!("MAINPID={}", spawn_child(false)?))?,
        "deaf" => ignore_term()?,
        "wait" => pause(number(value)?),
        "until" => {
            while !std::path::Path::new(value).exists() {
                pause(5);
            }
        }
        "pet" => {
            let every = number(value)?;
            thread::spawn(move || {
                while notify("WATCHDOG=1").is_ok() {
                    pause(every);
                }
            });
        }
        "exit" => exit(i32::try_from(number(value)?).map_err(io::Error::other)?),
        "kill" => {
            let signal = match value {
                "KILL" => Signal::KILL,
                "SEGV" => Signal::SEGV,
                "ABRT" => Signal::ABORT,
                "STOP" => Signal::STOP,
                other => return Err(io::Error::other(format!("unknown signal {other:?}"))),
            };
            kill_process(getpid(), signal)?;
        }
        _ => return Err(io::Error::other("unknown step; try --help")),
    }
    io::stdout().flush()
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is not a number")))
}

#[expect(clippy::disallowed_methods, reason = "a demonstration that is asked to wait waits")]
fn pause(milliseconds: u64) {
    thread::sleep(std::time::Duration::from_millis(milliseconds));
}

fn wait_for_ever() -> ! {
    loop {
        thread::park();
    }
}

fn notify(state: &str) -> io::Result<()> {
    let path = env::var_os("NOTIFY_SOCKET").ok_or_else(|| io::Error::other("no NOTIFY_SOCKET"))?;
    UnixDatagram::unbound()?.send_to(state.as_bytes(), path).map(drop)
}

#[expect(unsafe_code, reason = "the descriptor is known by number only")]
fn newline_to(number: RawFd) -> io::Result<()> {
    // SAFETY: the number came from our caller, who opened it for us; it is only borrowed for one write.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::write(descriptor, b"\n")?;
    Ok(())
}

fn greeting() -> String {
    format!("hello from {}\n", std::process::id())
}

fn serve_tcp(listener: TcpListener) {
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A client that left early misses its greeting; the next one is served all the same.
            let _ = stream.write_all(greeting().as_bytes());
        }
    });
}

fn serve_unix(listener: UnixListener) {
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(greeting().as_bytes());
        }
    });
}

fn serve_udp(socket: UdpSocket) {
    thread::spawn(move || {
        let mut nothing = [0; 16];
        while let Ok((_, from)) = socket.recv_from(&mut nothing) {
            // As with a stream: who is gone misses it.
            let _ = socket.send_to(greeting().as_bytes(), from);
        }
    });
}

fn serve_inherited(kind: &str) -> io::Result<()> {
    let socket = inherited(0)?;
    match kind {
        "" => serve_unix(UnixListener::from(socket)),
        "tcp" => serve_tcp(TcpListener::from(socket)),
        "udp" => serve_udp(UdpSocket::from(socket)),
        other => return Err(io::Error::other(format!("unknown kind of socket {other:?}"))),
    }
    Ok(())
}

/// A copy of the inherited descriptor of this place (sd_listen_fds(3)); the original stays open.
#[expect(unsafe_code, reason = "inherited descriptors are known by number only")]
fn inherited(place: usize) -> io::Result<OwnedFd> {
    let variable = |name| env::var(name).unwrap_or_default();
    if variable("LISTEN_PID") != std::process::id().to_string() {
        return Err(io::Error::other("LISTEN_PID is not ours"));
    }
    let count: usize = variable("LISTEN_FDS").parse().map_err(io::Error::other)?;
    let number = RawFd::try_from(3 + place).map_err(io::Error::other)?;
    if place >= count {
        return Err(io::Error::other(format!("only {count} descriptors were passed")));
    }
    // SAFETY: LISTEN_PID and LISTEN_FDS say that it was opened for us, and nothing here closes it.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
}

/// A place for `text` that outlives us, where whoever starts us stores descriptors.
fn store(value: &str) -> io::Result<()> {
    let (name, text) = value.split_once(':').unwrap_or((value, ""));
    let memory = rustix::fs::memfd_create("stored", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::io::write(&memory, text.as_bytes())?;
    notify_with(&format!("FDSTORE=1\nFDNAME={name}"), memory.as_fd())
}

fn print_stored(name: &str) -> io::Result<()> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let Some(place) = names.split(':').position(|stored| stored == name) else {
        println!("stored {name}: nothing");
        return Ok(());
    };
    let mut text = [0; 256];
    let length = rustix::io::pread(inherited(place)?, &mut text, 0)?;
    println!("stored {name}: {}", String::from_utf8_lossy(&text[..length]));
    Ok(())
}

/// The other end is closed once everything that was sent before has been read (sd_notify_barrier(3)).
fn barrier() -> io::Result<()> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    notify_with("BARRIER=1", theirs.as_fd())?;
    drop(theirs);
    rustix::io::read(ours, &mut [0; 1])?;
    println!("barrier passed");
    Ok(())
}

fn notify_with(state: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let path = env::var_os("NOTIFY_SOCKET").ok_or_else(|| io::Error::other("no NOTIFY_SOCKET"))?;
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    beside.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(state.as_bytes())], &mut beside, SendFlags::empty())?;
    Ok(())
}

/// Starts a child that waits until it is killed, and returns its pid; in a session of its own it survives its parent's process group.
fn spawn_child(own_session: bool) -> io::Result<u32> {
    let mut command = Command::new(env::current_exe()?);
    if own_session {
        // setsid(1) forks by itself where it must, so the middle process ends and the grandchild is orphaned.
        command = Command::new("setsid");
        command.arg("--fork").arg(env::current_exe()?);
    }
    Ok(command.arg0("vestal-demo-child").spawn()?.id())
}

/// Reads SIGTERM away for good: blocked signals are never delivered.
fn ignore_term() -> io::Result<()> {
    // Rust's std has no signal mask, so the shell's trap does it: it starts us again with SIGTERM ignored.
    if env::var_os("VESTAL_DEMO_DEAF").is_some() {
        return Ok(());
    }
    let error = Command::new("/bin/sh")
        .args(["-c", "trap '' TERM; exec \"$0\" \"$@\""])
        .arg(env::current_exe()?)
        .args(env::args().skip(1))
        .env("VESTAL_DEMO_DEAF", "1")
        .exec();
    Err(error)
}
