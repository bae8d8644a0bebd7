//! How fast a call is, beside a raw framed ping-pong over the same kind of socket and beside D-Bus, all in one run.
//!
//! Two processes, each on one tokio thread, both on one core and then on one each. Prints a table, then a line of JSON.
//! `cargo run --profile bench-run --example bench_ipc -p endpoint`

mod dbus;
mod raw;

use std::{
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use endpoint::{
    ArgumentKind, CallOptions, Client, Description, Incoming, Options, Serve, Server, Settings,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};
use tokio::time::Instant;

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Sequential calls of each kind, after [`WARM`] that don't count.
const SEQUENTIAL: usize = 20_000;
const WARM: usize = 2_000;
/// Calls of each pipelined kind.
const PIPELINED: usize = 300_000;
const DEPTH: usize = 32;

struct Echo;

impl Serve for Echo {
    fn describe(&self) -> Description {
        let bytes = &[("bytes", ArgumentKind::Raw, true)];
        Description::new("bench.echo", 1).method("echo", bytes, "answers its arguments", "bytes")
    }

    async fn call(&mut self, call: Incoming) {
        call.responder.reply_bytes(call.args);
    }
}

/// Ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = runtime.map_err(Into::into).and_then(|runtime| {
        runtime.block_on(async {
            match arguments.as_slice() {
                [role, core, path] => serve(role, core.parse()?, Path::new(path)).await,
                _ => measure().await,
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_ipc: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The other process.
async fn serve(role: &str, core: usize, path: &Path) -> Outcome<()> {
    pin(core)?;
    let listener = UnixListener::bind(path)?;
    if role == "raw" {
        return raw::serve(listener).await;
    }
    let server = Server::new(Settings::default())?;
    server.add("echo", Echo)?;
    server.listen(listener)?;
    std::future::pending().await
}

async fn measure() -> Outcome<()> {
    let allowed = sched_getaffinity(None)?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    let (first, last) = (cores[0], cores[cores.len() - 1]);
    let directory = std::env::temp_dir().join(format!("bench_ipc.{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let mut rows = Vec::new();
    println!(
        "{:<10} {:<24} {:>12} {:>12} {:>14}",
        "cores", "what", "median µs", "p99 µs", "calls a second"
    );
    let mut outcome = regime("one", first, first, &directory, &mut rows).await;
    if outcome.is_ok() && last != first {
        outcome = regime("two", first, last, &directory, &mut rows).await;
    }
    std::fs::remove_dir_all(&directory)?;
    outcome?;
    println!("{}", Value::Array(rows));
    Ok(())
}

/// All measurements with the caller on one core and the servers on the same or another one.
async fn regime(
    name: &str,
    caller: usize,
    server: usize,
    directory: &Path,
    rows: &mut Vec<Value>,
) -> Outcome<()> {
    pin(caller)?;
    let mut row = |what: &str, times: Option<(f64, f64)>, rate: Option<f64>| {
        let show = |number: Option<f64>| number.map_or(String::new(), |n| format!("{n:.2}"));
        let (median, p99) = (times.map(|t| t.0), times.map(|t| t.1));
        let whole = rate.map_or(String::new(), |rate| format!("{rate:.0}"));
        println!("{name:<10} {what:<24} {:>12} {:>12} {whole:>14}", show(median), show(p99));
        rows.push(json!({
            "cores": name, "what": what, "median_us": median, "p99_us": p99, "per_second": rate,
        }));
    };
    {
        let path = directory.join(format!("raw.{name}"));
        let _process = start("raw", server, &path)?;
        row("raw ping-pong 64 B", Some(raw::sequential(&path, WARM, SEQUENTIAL).await?), None);
    }
    {
        let path = directory.join(format!("endpoint.{name}"));
        let _process = start("endpoint", server, &path)?;
        let options = Options { patience: Duration::from_secs(10), ..Options::default() };
        let client = Client::new(&path, options);
        row("call 64 B", Some(sequential(&client).await?), None);
        row("calls 64 B, depth 32", None, Some(pipelined(&client, 64).await?));
        row("calls 4 KiB, depth 32", None, Some(pipelined(&client, 4096).await?));
    }
    match dbus::sequential(directory, name, server).await {
        Ok(times) => row("dbus-daemon GetId", Some(times), None),
        Err(error) => println!("{name:<10} dbus-daemon: left out, {error}"),
    }
    Ok(())
}

async fn sequential(client: &Client) -> Outcome<(f64, f64)> {
    let args = [7; 64];
    let mut times = Vec::with_capacity(SEQUENTIAL);
    for at in 0..WARM + SEQUENTIAL {
        let before = Instant::now();
        client.call_bytes("echo", "echo", &args, CallOptions::default()).await?;
        if at >= WARM {
            times.push(before.elapsed());
        }
    }
    Ok(summary(times))
}

async fn pipelined(client: &Client, bytes: usize) -> Outcome<f64> {
    let before = Instant::now();
    let callers: Vec<_> = (0..DEPTH)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let args = vec![7; bytes];
                for _ in 0..PIPELINED / DEPTH {
                    client.call_bytes("echo", "echo", &args, CallOptions::default()).await?;
                }
                Ok::<_, endpoint::CallError>(())
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let calls = (PIPELINED / DEPTH * DEPTH) as f64;
    Ok(calls / before.elapsed().as_secs_f64())
}

/// Median and 99th percentile in microseconds.
pub(crate) fn summary(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
    (at(50), at(99))
}

fn start(role: &str, core: usize, path: &PathBuf) -> Outcome<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    let child = command.arg(role).arg(core.to_string()).arg(path).stdin(Stdio::null()).spawn()?;
    Ok(Process(child))
}

pub(crate) fn pin(core: usize) -> Outcome<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set)?;
    Ok(())
}

/// Connects once the other process is there.
pub(crate) async fn connect(path: &Path) -> Outcome<tokio::net::UnixStream> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match tokio::net::UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
