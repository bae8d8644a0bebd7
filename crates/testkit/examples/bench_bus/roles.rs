//! The other processes of a measurement: who serves, registers, calls and listens. They use the library as any program of
//! the suite does, and end with the benchmark.

use std::{
    fs::{Permissions, set_permissions},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::Path,
    str::FromStr,
};

use anyhow::Context as _;
use endpoint::{
    ArgumentKind, Bus, CallOptions, Description, Incoming, Options, Registration, RetryPolicy,
    Serve, Server, Settings, State, Subscription,
};
use protocol::registry::Subscribe;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    ground::{LIMIT, now_ns, patient},
    numbers::{Times, float},
    raw,
};

const DEPTH: usize = 32;

struct Echo {
    answer: Vec<u8>,
}

impl Serve for Echo {
    fn describe(&self) -> Description {
        let bytes = &[("bytes", ArgumentKind::Raw, true)];
        Description::new("bench.echo", 1)
            .method("echo", bytes, "answers its arguments", "bytes")
            .method("answer", bytes, "answers as many bytes as was said at the start", "bytes")
    }

    async fn call(&mut self, call: Incoming) {
        match &*call.method {
            "answer" => call.responder.reply_bytes(self.answer.clone()),
            _ => call.responder.reply_bytes(call.args),
        }
    }
}

pub(crate) async fn run(role: &str, arguments: &[String]) -> anyhow::Result<()> {
    match (role, arguments) {
        ("echo", [run_dir, name, answer]) => {
            echo(Path::new(run_dir), name, number(answer)?, Settings::default()).await
        }
        // For whoever is not to be held back by his bucket.
        ("fast-echo", [run_dir, name]) => {
            let settings = Settings { rate: None, ..Settings::default() };
            echo(Path::new(run_dir), name, 0, settings).await
        }
        ("providers", [run_dir, endpoints, objects]) => {
            providers(Path::new(run_dir), number(endpoints)?, number(objects)?).await
        }
        ("mortal", [run_dir, name, beside]) => {
            mortal(Path::new(run_dir), name, Path::new(beside)).await
        }
        ("caller", [socket, sequential, pipelined]) => {
            caller(Path::new(socket), number(sequential)?, number(pipelined)?).await
        }
        ("subscribers", [run_dir, count, events]) => {
            subscribers(Path::new(run_dir), number(count)?, number(events)?).await
        }
        ("sink", [socket, count, bytes]) => {
            raw::sink(Path::new(socket), number(count)?, number(bytes)?).await
        }
        ("flood", [socket, per_second, connections]) => {
            raw::flood(Path::new(socket), number(per_second)?, number(connections)?).await
        }
        _ => anyhow::bail!("no role {role} with {} arguments", arguments.len()),
    }
}

fn number<T: FromStr>(text: &str) -> anyhow::Result<T> {
    text.parse().ok().with_context(|| format!("{text:?} is no number"))
}

/// Serves objects at `RUN_DIR/NAME.sock` and registers there.
async fn serve(
    run_dir: &Path,
    name: &str,
    objects: &[String],
    answer: usize,
    settings: Settings,
) -> anyhow::Result<Registration> {
    let bus = Bus::new(run_dir, Options::default());
    let server = Server::new(settings)?;
    for object in objects {
        server.add(object, Echo { answer: vec![b'x'; answer] })?;
    }
    let socket = run_dir.join(format!("{name}.sock"));
    let listener = UnixListener::bind(&socket)?;
    // As the supervisor binds it: rules decide who may call.
    set_permissions(&socket, Permissions::from_mode(0o666))?;
    server.listen(listener)?;
    let registration = bus.register(&server, socket, RetryPolicy::DEFAULT);
    let mut state = registration.state();
    let registered = state.wait_for(|state| matches!(state, State::Registered { .. }));
    drop(tokio::time::timeout(LIMIT, registered).await.context("register")??);
    Ok(registration)
}

async fn echo(run_dir: &Path, name: &str, answer: usize, settings: Settings) -> anyhow::Result<()> {
    let _registration = serve(run_dir, name, &["bench".to_owned()], answer, settings).await?;
    println!("ready");
    std::future::pending().await
}

async fn providers(run_dir: &Path, endpoints: usize, objects: usize) -> anyhow::Result<()> {
    let mut registrations = Vec::new();
    for endpoint in 0..endpoints {
        let name = format!("e{endpoint:02}");
        let objects: Vec<_> = (0..objects).map(|object| format!("{name}/o{object}")).collect();
        registrations.push(serve(run_dir, &name, &objects, 0, Settings::default()).await?);
    }
    println!("ready");
    std::future::pending().await
}

/// Registers, and holds another connection whose end its owner sees.
async fn mortal(run_dir: &Path, name: &str, beside: &Path) -> anyhow::Result<()> {
    let _beside = std::os::unix::net::UnixStream::connect(beside)?;
    let _registration = serve(run_dir, name, &[name.to_owned()], 0, Settings::default()).await?;
    std::future::pending().await
}

/// Calls `bench.echo`, one call after another and then 32 at a time.
async fn caller(socket: &Path, sequential: usize, pipelined: usize) -> anyhow::Result<()> {
    let client = patient(socket);
    let mut times = Vec::with_capacity(sequential);
    for at in 0..sequential + sequential / 10 {
        let before = Instant::now();
        client.call_bytes("bench", "echo", &[7; 64], CallOptions::default()).await?;
        if at >= sequential / 10 {
            times.push(before.elapsed());
        }
    }
    let before = Instant::now();
    let callers: Vec<_> = (0..DEPTH)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..pipelined / DEPTH {
                    client.call_bytes("bench", "echo", &[7; 64], CallOptions::default()).await?;
                }
                Ok::<_, endpoint::CallError>(())
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    let per_second = float(pipelined / DEPTH * DEPTH) / before.elapsed().as_secs_f64();
    let Times { p50, p99, .. } = Times::of(times);
    println!("{}", json!({ "p50": p50, "p99": p99, "per_second": per_second }));
    Ok(())
}

/// Hears `bench.*` over `count` connections; when each of them has got or lost `events`, tells the moment and how many
/// were lost, and begins anew.
async fn subscribers(run_dir: &Path, count: usize, events: u64) -> anyhow::Result<()> {
    let bus = Bus::new(run_dir, Options::default());
    let mut subscriptions = Vec::new();
    for _ in 0..count {
        let subscribe = Subscribe {
            patterns: vec!["bench.*".to_owned()],
            queue: Some(4096),
            ..Subscribe::default()
        };
        let mut subscription = bus.subscribe(subscribe);
        let active = subscription.active(LIMIT).await;
        active.map_err(|failure| anyhow::anyhow!("subscribe: {failure}"))?;
        subscriptions.push(subscription);
    }
    println!("ready");
    loop {
        let readers: Vec<_> =
            subscriptions.into_iter().map(|one| tokio::spawn(hear(one, events))).collect();
        subscriptions = Vec::new();
        let mut lost = 0;
        for reader in readers {
            let (subscription, missed) = reader.await??;
            subscriptions.push(subscription);
            lost += missed;
        }
        println!("{}", json!({ "at": now_ns(), "lost": lost }));
    }
}

async fn hear(mut subscription: Subscription, events: u64) -> anyhow::Result<(Subscription, u64)> {
    let (mut heard, mut lost) = (0, 0);
    while heard + lost < events {
        let event = subscription.next().await;
        let event = event.map_err(|failure| anyhow::anyhow!("listen: {failure}"))?;
        anyhow::ensure!(!event.is_gap(), "the registry was away");
        lost += u64::from(event.lost);
        heard += 1;
    }
    Ok((subscription, lost))
}
