//! A service that serves one object, found through the registry: for demonstrations, tests of live replacement, and
//! as an example of how a program of your own joins the suite.

use std::{
    io::{self, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use daemon::options::{Extra, Spec};
use endpoint::{
    ArgumentKind, Bus, Description, Incoming, NO_REGISTRY, Options, RetryPolicy, Serve, Server,
    Settings,
};
use protocol::objects::version;
use serde::Deserialize;
use serde_json::json;

const SPEC: Spec = Spec {
    name: "demo-object",
    about: "Serves an object: echo (raw bytes), pid, sleep {ms}, count, publish {topic, data}.",
    extra: &[
        Extra { long: "socket", value: Some("PATH"), help: "listen there (RUN_DIR/NAME.sock)" },
        Extra {
            long: "seed",
            value: None,
            help: "try the registry nine times in 60 s, then end with 69",
        },
    ],
    free: Some("NAME"),
};

/// How long running calls may take when we are told to stop.
const DRAIN_TIME: Duration = Duration::from_secs(5);

struct Demo {
    calls: u64,
    bus: Bus,
}

#[derive(Deserialize)]
struct Sleep {
    ms: u64,
}

#[derive(Deserialize)]
struct Publish {
    topic: String,
    data: serde_json::Value,
}

impl Serve for Demo {
    fn describe(&self) -> Description {
        let bytes = [("bytes", ArgumentKind::Raw, true)];
        let event = [("topic", ArgumentKind::String, true), ("data", ArgumentKind::Table, true)];
        Description::new("demo.object", version(1, 0))
            .method("echo", &bytes, "answers its arguments", "bytes")
            .method("pid", &[], "who serves", "pid")
            .method("count", &[], "how many calls came before", "calls")
            .method("publish", &event, "sends an event as its own", "")
            .method("sleep", &[("ms", ArgumentKind::Integer, true)], "answers later", "")
    }

    async fn call(&mut self, call: Incoming) {
        self.calls += 1;
        match &*call.method {
            "echo" => call.responder.reply_bytes(call.args),
            "pid" => call.responder.reply(&json!({ "pid": std::process::id() })),
            "count" => call.responder.reply(&json!({ "calls": self.calls - 1 })),
            "publish" => {
                let published = call.parse::<Publish>().and_then(|Publish { topic, data }| {
                    self.bus.publish(&topic, &data, false)?;
                    Ok(json!({}))
                });
                call.responder.finish(published);
            }
            // Beside the next calls: a slow call holds nobody up.
            _ => match call.parse::<Sleep>() {
                Ok(sleep) => drop(tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(sleep.ms)).await;
                    call.responder.reply(&json!({}));
                })),
                Err(failure) => call.responder.fail(failure),
            },
        }
    }
}

fn main() -> ExitCode {
    daemon::main(&SPEC, run)
}

async fn run(mut daemon: daemon::Context) -> anyhow::Result<()> {
    let name = daemon.options.free.first().context("say which NAME to serve")?;
    let name = name.to_str().context("the NAME is no text")?.to_owned();
    let bus = Bus::new(&daemon.places.run, Options::default());
    let settings = Settings { identify: Some(bus.identify()), ..Settings::default() };
    let server = Server::new(settings)?;
    server.add(&name, Demo { calls: 0, bus: bus.clone() })?;
    let (listener, path) = listener(&mut daemon, &name)?;
    server.listen(listener)?;
    let policy = if daemon.options.has("seed") { RetryPolicy::SEED } else { RetryPolicy::DEFAULT };
    let registration = bus.register(&server, path, policy);
    let mut state = registration.state();
    daemon.say("READY=1");
    tokio::select! {
        () = daemon.shutdown.requested() => {}
        _ = state.wait_for(|state| *state == endpoint::State::Exhausted) => {
            writeln!(io::stderr(), "no registry")?;
            std::process::exit(NO_REGISTRY.into());
        }
    }
    server.drain(DRAIN_TIME).await;
    Ok(())
}

/// The supervisor's socket if it bound one for us, else one of our own.
fn listener(daemon: &mut daemon::Context, name: &str) -> anyhow::Result<(UnixListener, PathBuf)> {
    let path = daemon.options.extra("socket").flatten().map(PathBuf::from);
    let path = path.unwrap_or_else(|| daemon.places.run.join(format!("{name}.sock")));
    if let Some((_, socket)) = daemon.sockets.pop() {
        return Ok((UnixListener::from(socket), path));
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("bind {}", path.display()))?;
    // Everybody may connect, the registry too; what each may do is judged for each call.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    Ok((listener, path))
}
