//! Answers calls: what only looks is answered here, what changes something is asked of the machine.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use daemon::clock;
use endpoint::{Incoming, Responder};
use protocol::{
    failure::{Code, Failure},
    keeper::{Request as Order, ShutdownKind},
    name::Name,
    time::Moment,
};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Answer, Pending, Shell, board,
    merge::{How, Message},
    objects::Object,
    reexec,
};
use crate::{
    listing,
    machine::{Event, InstanceView, Request},
    settings::Source,
};

/// Arguments that most methods share; each looks at those it knows.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: Option<Name>,
    instance: Option<Name>,
    wait: bool,
    verbose: bool,
    spawn: Option<bool>,
    signal: Option<i32>,
    mode: Option<u32>,
    timeout: Option<u32>,
    data: Option<Map<String, Value>>,
    pid: Option<i32>,
    signum: Option<i32>,
    what: Option<String>,
    r#type: Option<String>,
}

impl Args {
    fn name(&self) -> Result<Name, Failure> {
        self.name.clone().ok_or_else(|| missing("name"))
    }
}

fn missing(argument: &str) -> Failure {
    Failure::new(Code::InvalidArgument, format!("`{argument}` is missing"))
}

impl Shell {
    /// A call arrived.
    pub(crate) fn called(&mut self, object: Object, call: Incoming) {
        let method = Arc::clone(&call.method);
        match (object, &*method) {
            (Object::Service, "set") => return self.set(call, How::Set),
            (Object::Service, "add") => return self.set(call, How::Add),
            (Object::System, "watchdog") => return self.watchdog_call(call),
            _ => {}
        }
        let args: Args = match call.parse() {
            Ok(args) => args,
            Err(failure) => return call.responder.fail(failure),
        };
        match object {
            Object::Service => self.service_call(&method, args, call.responder),
            Object::System => self.system_call(&method, &args, call.responder),
        }
    }

    fn service_call(&mut self, method: &str, args: Args, responder: Responder) {
        match method {
            "list" => responder.reply(&self.list(args.name.as_ref(), args.verbose)),
            "get_data" => responder.reply(&self.get_data(&args)),
            "report" => responder.reply(&self.report()),
            "reread" => {
                self.read_definitions();
                responder.reply(&json!({ "problems": self.definitions.problems() }));
            }
            "set_data" => self.set_data(args, responder),
            "watchdog" => self.pet(args, responder),
            _ => match request(method, args) {
                Ok(request) => {
                    if let Request::Delete { name, instance, .. } = &request {
                        self.deleted(&name.clone(), instance.clone());
                    }
                    self.ask(request, responder, Answer::Nothing);
                }
                Err(failure) => responder.fail(failure),
            },
        }
    }

    /// `service set` and `add`: merged, read, journalled, and only then asked of the machine.
    fn set(&mut self, call: Incoming, how: How) {
        let defined = call.parse::<Value>().and_then(|args| {
            let (name, message) = Message::parse(args)?;
            let named = message.instances();
            let earlier = self.earlier(&name);
            let merged = message.onto(earlier.as_ref(), how)?;
            let service = merged.read(&name, &self.definitions)?;
            Ok((name, merged, service, named))
        });
        match defined {
            Ok((name, merged, mut service, named)) => {
                if self.journal.message(name, merged).is_err() {
                    let text = "the definition can't be remembered: the journal can't be written (see the log)";
                    return call.responder.fail(Failure::new(Code::Failed, text));
                }
                for ignored in &service.ignored {
                    tracing::info!("service {}: ignored: {ignored}", service.name);
                }
                let request = match how {
                    How::Set => Request::Set { service: Arc::new(service) },
                    How::Add => {
                        // The machine keeps the others, and knows by this which ones were renewed (`update_start`).
                        service.instances.retain(|instance, _| {
                            named.iter().any(|name| name == instance.as_str())
                        });
                        Request::Add { service: Arc::new(service) }
                    }
                };
                self.ask(request, call.responder, Answer::Nothing);
            }
            Err(failure) => call.responder.fail(failure),
        }
    }

    /// What a message is merged onto: an earlier message, or the file that defines the service now.
    fn earlier(&self, name: &Name) -> Option<Message> {
        if let Some(message) = self.journal.memory().messages.get(name) {
            return Some(message.clone());
        }
        let Source::File(file) = &self.definitions.of_files(name)?.source else { return None };
        let text = std::fs::read_to_string(file).ok()?;
        Some(Message::Toml { file: file.to_string_lossy().into_owned(), text })
    }

    /// A deleted service, or instance, must not come back with the next supervisor.
    fn deleted(&mut self, name: &Name, instance: Option<Name>) {
        let kept = match (self.journal.memory().messages.get(name), &instance) {
            (Some(Message::Procd(message)), Some(instance)) => {
                let mut message = message.clone();
                if let Some(Value::Object(instances)) = message.get_mut("instances") {
                    instances.remove(instance.as_str());
                }
                self.journal.message(name.clone(), Message::Procd(message))
            }
            (Some(_), None) => self.journal.deleted(name.clone()),
            _ => Ok(()),
        };
        // The journal has said it already; the deletion itself goes on.
        drop(kept);
    }

    fn list(&self, name: Option<&Name>, verbose: bool) -> Value {
        let now = clock::now();
        let mut views: BTreeMap<Name, BTreeMap<Name, listing::InstanceView>> = BTreeMap::new();
        for view in self.machine.view(name) {
            let of_service = views.entry(view.service.name.clone()).or_default();
            of_service.insert(view.instance.clone(), seen(&view, now));
        }
        let none = BTreeMap::new();
        let entries = self
            .machine
            .definitions()
            .map(|service| (&**service, views.get(&service.name).unwrap_or(&none)));
        listing::list(entries, name.map(Name::as_str), verbose)
    }

    /// procd's `get_data`: `{service: {"*": service data, instance: instance data}}`, empty tables left out; with a type only
    /// that key of each. `instance` doesn't filter "*".
    fn get_data(&self, args: &Args) -> Value {
        let mut found = Map::new();
        for service in self.machine.definitions() {
            if args.name.as_ref().is_some_and(|name| service.name != *name) {
                continue;
            }
            let mut tables = Map::new();
            let mut put = |key: &str, data: &Map<String, Value>| {
                let of_type = |(key, value): (&String, &Value)| {
                    args.r#type
                        .as_ref()
                        .is_none_or(|wanted| wanted == key)
                        .then(|| (key.clone(), value.clone()))
                };
                let data: Map<_, _> = data.iter().filter_map(of_type).collect();
                if !data.is_empty() {
                    tables.insert(key.to_owned(), Value::Object(data));
                }
            };
            put("*", &service.data);
            for (name, instance) in &service.instances {
                if let (true, Some(Value::Object(data))) = (
                    args.instance.as_ref().is_none_or(|wanted| wanted == name),
                    instance.shown.get("data"),
                ) {
                    put(name.as_str(), data);
                }
            }
            if !tables.is_empty() {
                found.insert(service.name.to_string(), Value::Object(tables));
            }
        }
        Value::Object(found)
    }

    fn set_data(&mut self, args: Args, responder: Responder) {
        let changed = args.name().and_then(|name| {
            let data = args.data.ok_or_else(|| missing("data"))?;
            match self.journal.memory().messages.get(&name) {
                Some(Message::Procd(message)) => {
                    let mut message = message.clone();
                    message.insert("data".to_owned(), Value::Object(data));
                    Ok((name, Message::Procd(message)))
                }
                _ if !self.machine.definitions().any(|service| service.name == name) => {
                    Err(Failure::new(Code::NotFound, format!("no service {name:?}")))
                }
                _ => Err(Failure::new(
                    Code::Unsupported,
                    format!("the data of {name} stands in its definition file; change it there, then `service reread`"),
                )),
            }
        });
        let read = changed.and_then(|(name, message)| {
            let service = message.read(&name, &self.definitions)?;
            Ok((name, message, service))
        });
        match read {
            Ok((name, message, service)) => {
                // The journal says by itself that it can't be written; the change holds until the next supervisor.
                drop(self.journal.message(name, message));
                self.ask(Request::Set { service: Arc::new(service) }, responder, Answer::Nothing);
            }
            Err(failure) => responder.fail(failure),
        }
    }

    /// procd's `service watchdog`: answers with what holds now.
    fn pet(&mut self, args: Args, responder: Responder) {
        let asked = args.name().and_then(|name| {
            let instance = args
                .instance
                .clone()
                .ok_or_else(|| Failure::new(Code::NotFound, "`instance` is missing"))?;
            Ok((name, instance))
        });
        match asked {
            Ok((name, instance)) => {
                let answer = Answer::Watchdog { service: name.clone(), instance: instance.clone() };
                let request =
                    Request::Watchdog { name, instance, mode: args.mode, timeout_s: args.timeout };
                self.ask(request, responder, answer);
            }
            Err(failure) => responder.fail(failure),
        }
    }

    /// procd's answer to `service watchdog`.
    pub(crate) fn watchdog_of(&self, service: &Name, instance: &Name) -> Value {
        let views = self.machine.view(Some(service));
        let view = views.iter().find(|view| view.instance == *instance);
        let period = view.and_then(|view| view.watchdog).unwrap_or_default();
        json!({
            "name": service,
            "instance": instance,
            "mode": view.and_then(|view| view.watchdog_mode).unwrap_or(0),
            "timeout": period.as_secs(),
        })
    }

    fn report(&self) -> Value {
        json!({
            "problems": self.definitions.problems(),
            "skipped": self.definitions.skipped(),
            "supervisor": { "pid": std::process::id(), "starts": self.supervisor_starts },
            "keeper": { "pid": self.keeper_pid, "pid_one": self.pid_one, "starts": self.keeper_starts },
            "endpoint": self.server.counters(),
        })
    }

    fn system_call(&mut self, method: &str, args: &Args, responder: Responder) {
        match method {
            "board" => responder.reply(&board::board()),
            "info" => responder.reply(&board::info()),
            "signal" => responder.finish(signal(args)),
            "reboot" => self.shut_down(ShutdownKind::Reboot, responder),
            "poweroff" => self.shut_down(ShutdownKind::Poweroff, responder),
            "halt" => self.shut_down(ShutdownKind::Halt, responder),
            "reexec" => self.reexec(args.what.as_deref(), responder),
            other => {
                let text = format!("system.{other} is described but not served");
                responder.fail(Failure::new(Code::UnknownMethod, text));
            }
        }
    }

    fn shut_down(&mut self, kind: ShutdownKind, responder: Responder) {
        let (kind, text) = match self.pid_one {
            true => (kind, format!("stopping everything, then {kind:?}").to_lowercase()),
            false => (
                ShutdownKind::Exit,
                "stopping everything; the machine is left alone, because the keeper is not PID 1"
                    .to_owned(),
            ),
        };
        responder.reply(&json!({ "text": text }));
        self.machine.handle_event(Event::Shutdown { kind }, clock::now());
    }

    fn reexec(&mut self, what: Option<&str>, responder: Responder) {
        match what {
            Some("supervisor") => match reexec::probe(&self.definitions) {
                Ok(()) => {
                    responder.reply(
                        &json!({ "pid": std::process::id(), "starts": self.supervisor_starts }),
                    );
                    self.stopping_for_the_next = true;
                }
                Err(text) => responder.fail(Failure::new(Code::Failed, text)),
            },
            Some("keeper") => {
                let id = self.wait(responder, Answer::Nothing);
                self.order(&Order::Reexec, Pending::Reexec(id));
            }
            _ => {
                let text = "`what`: supervisor or keeper";
                responder.fail(Failure::new(Code::InvalidArgument, text));
            }
        }
    }
}

/// The machine's view of an instance, in the words of the listing.
fn seen(view: &InstanceView, now: Moment) -> listing::InstanceView {
    let last_exit = match view.detail.is_empty() {
        true => view.reason.clone(),
        false if view.detail.contains(&view.reason) => view.detail.clone(),
        false => format!("{}; {}", view.detail, view.reason),
    };
    let ready = matches!(view.state, "ready" | "reloading");
    listing::InstanceView {
        running: view.running,
        pid: if view.running { view.slot.pid } else { 0 },
        exit_code: view.exit_code,
        state: view.state,
        ready,
        generation: view.slot.generation,
        restarts: view.restarts,
        respawn_count: view.respawns,
        uptime_ms: view.running.then(|| milliseconds(now.since(view.slot.spawned_at))),
        last_exit,
        status_text: view.status.clone(),
        errno: view.errno,
        wanted: view.wanted,
        times: [view.times.wanted_at, view.times.spawned_at, view.times.ready_at]
            .map(|time| time.map(|time| time.0 / 1_000_000)),
        health: match (view.slot.suspended, view.watchdog) {
            (true, _) => "suspended",
            (false, Some(_)) if view.running => "ok",
            _ => "",
        },
        watchdog: view.watchdog.map(|period| {
            let seconds = u32::try_from(period.as_secs()).unwrap_or(u32::MAX);
            (view.watchdog_mode.unwrap_or(0), seconds)
        }),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The methods that are one request to the machine.
fn request(method: &str, args: Args) -> Result<Request, Failure> {
    if method == "signal" {
        let signal = args.signal.unwrap_or(1);
        return Ok(Request::Signal { name: args.name, instance: args.instance, signal });
    }
    let name = args.name()?;
    let Args { instance, wait, .. } = args;
    Ok(match method {
        "delete" => Request::Delete { name, instance, wait },
        "start" => Request::Start { name, instance, wait },
        "stop" => Request::Stop { name, instance, wait },
        "restart" => Request::Restart { name, instance, wait },
        "reload" => Request::Reload { name, instance, wait },
        "update_start" => Request::UpdateStart { name },
        "update_complete" => Request::UpdateComplete { name },
        "state" => match args.spawn {
            Some(true) => Request::Start { name, instance: None, wait },
            Some(false) => Request::Stop { name, instance: None, wait },
            None => return Err(missing("spawn")),
        },
        other => {
            let text = format!("service.{other} is described but not served");
            return Err(Failure::new(Code::UnknownMethod, text));
        }
    })
}

/// `system signal`: kill(2) for a pid of the caller's choice.
fn signal(args: &Args) -> Result<Value, Failure> {
    let pid = args.pid.ok_or_else(|| missing("pid"))?;
    let signum = args.signum.ok_or_else(|| missing("signum"))?;
    // Groups and "everybody" (0 and below) are refused: nobody means them in a call about one process.
    let target = Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(|| {
        Failure::new(Code::InvalidArgument, format!("`pid`: {pid} is no process id"))
    })?;
    let signal = Signal::from_named_raw(signum).ok_or_else(|| {
        Failure::new(Code::InvalidArgument, format!("`signum`: {signum} is no signal"))
    })?;
    kill_process(target, signal).map_err(|errno| {
        let code = match errno {
            rustix::io::Errno::SRCH => Code::NotFound,
            rustix::io::Errno::PERM => Code::Denied,
            _ => Code::Failed,
        };
        Failure::new(code, format!("signal {signum} to process {pid}: {errno}"))
    })?;
    Ok(Value::Null)
}
