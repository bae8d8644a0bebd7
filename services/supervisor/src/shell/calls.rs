//! Answers calls: what only looks is answered here, what changes something is asked of the machine.

use std::time::Duration;

use daemon::clock;
use endpoint::{Incoming, Responder};
use protocol::{
    failure::{Code, Failure},
    heartbeat::Missed,
    keeper::{Request as Order, ShutdownKind},
    service, system,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Answer, Pending, Shell, board, merge::How, objects::Object, reexec};
use crate::machine::{Event, Request};

/// SIGHUP, what procd's `signal` sends when it isn't told.
const DEFAULT_SIGNAL: i32 = 1;

impl Shell {
    /// A call arrived.
    pub(crate) fn called(&mut self, object: Object, call: Incoming) {
        match object {
            Object::Service => self.service_call(call),
            Object::System => self.system_call(call),
        }
    }

    fn service_call(&mut self, call: Incoming) {
        match &*call.method {
            "set" => self.set(call, How::Set),
            "add" => self.set(call, How::Add),
            "set_data" => self.set_data(call),
            "list" => {
                let listed = call.parse().map(|args: service::List| self.list(&args));
                call.responder.finish(listed);
            }
            "get_data" => {
                let data = call.parse().map(|args: service::GetData| self.get_data(&args));
                call.responder.finish(data);
            }
            "event" => match call.parse() {
                Ok(service::Event { kind, data }) => {
                    self.request(Request::Event { kind, data }, call.responder, Answer::Nothing);
                }
                Err(failure) => call.responder.fail(failure),
            },
            "validate" => {
                let rules = call.parse().map(|args: service::Validate| self.rules(&args));
                call.responder.finish(rules);
            }
            "missed" => self.missed_call(call),
            "pipes" => self.pipes_call(call),
            "ring" => self.ring_call(call),
            "identify" => self.identify(call),
            "report" => call.responder.reply(&self.report()),
            "reread" => {
                self.read_definitions();
                call.responder.reply(&json!({ "problems": self.definitions.problems() }));
            }
            "activate" => match self.activation(&call) {
                Ok((request, answer)) => self.request(request, call.responder, answer),
                Err(failure) => call.responder.fail(failure),
            },
            _ => match request(&call) {
                Ok((request, answer)) => self.request(request, call.responder, answer),
                Err(failure) => call.responder.fail(failure),
            },
        }
    }

    /// The broker says that an application missed its deadline. What is no news is answered as well: it need not be told again.
    fn missed_call(&mut self, call: Incoming) {
        let taken = call.parse().map(|missed: Missed| {
            self.machine.handle_event(Event::Missed(missed), clock::now());
            Value::Null
        });
        call.responder.finish(taken);
    }

    /// Which service to start for an object.
    fn activation(&self, call: &Incoming) -> Result<(Request, Answer), Failure> {
        let service::Activate { object } = call.parse()?;
        let Some(service) = self.machine.activated_by(&object) else {
            let text = format!(
                "no service serves {object:?} on demand: define one with on-demand = {{ objects = [{object:?}] }}"
            );
            return Err(Failure::new(Code::NotFound, text));
        };
        let idle = service.on_demand.as_ref().and_then(|on_demand| on_demand.idle_timeout);
        let idle_ms = idle.map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX));
        let answer = service::Activated { service: service.name.clone(), idle_ms };
        Ok((Request::Activate { name: service.name.clone() }, Answer::Activated(answer)))
    }

    /// What the machine is to forget must not come back with the next supervisor.
    fn request(&mut self, request: Request, responder: Responder, answer: Answer) {
        let updated = match &request {
            Request::Delete { name, instance, .. } => {
                self.deleted(name, instance.as_ref());
                None
            }
            Request::UpdateComplete { name } => Some(name.clone()),
            _ => None,
        };
        self.ask(request, responder, answer);
        if let Some(name) = updated {
            self.updated(&name);
        }
    }

    fn system_call(&mut self, call: Incoming) {
        match &*call.method {
            "board" => call.responder.reply(&board::board()),
            "info" => call.responder.reply(&board::info()),
            "boot" => call.responder.reply(&self.boot()),
            "watchdog" => self.watchdog_call(call),
            "signal" => {
                let sent = call.parse().and_then(signal);
                call.responder.finish(sent);
            }
            "reboot" => self.shut_down(ShutdownKind::Reboot, call),
            "poweroff" => self.shut_down(ShutdownKind::Poweroff, call),
            "halt" => self.shut_down(ShutdownKind::Halt, call),
            "validate_firmware_image" | "sysupgrade" | "nandupgrade" | "upgrade" => {
                self.firmware_call(call);
            }
            "reexec" => match call.parse::<system::Reexec>() {
                Ok(args) => self.reexec(args.what, call.responder),
                Err(failure) => call.responder.fail(failure),
            },
            _ => {
                let failure = not_served(&call);
                call.responder.fail(failure);
            }
        }
    }

    fn reexec(&mut self, what: system::Program, responder: Responder) {
        match what {
            system::Program::Supervisor if self.trying => {
                let text = "the binary on disk is being tried already; call again";
                responder.fail(Failure::new(Code::Busy, text));
            }
            system::Program::Supervisor => {
                self.trying = true;
                let id = self.wait(responder, Answer::Nothing);
                reexec::try_binary(&self.definitions, id, self.back.clone());
            }
            system::Program::Keeper => {
                let id = self.wait(responder, Answer::Nothing);
                self.order(&Order::Reexec, Pending::Reexec(id));
            }
        }
    }

    /// The binary on disk was tried: we leave for it, or stay.
    pub(crate) fn tried(&mut self, id: u64, result: Result<(), String>) {
        self.trying = false;
        let Some(waiting) = self.waiting.remove(&id) else { return };
        match result {
            Ok(()) => {
                waiting.responder.reply(&Value::Null);
                self.stopping_for_the_next = true;
            }
            Err(text) => waiting.responder.fail(Failure::new(Code::Failed, text)),
        }
    }
}

/// The methods that are one request to the machine, and what a good answer to it consists of.
fn request(call: &Incoming) -> Result<(Request, Answer), Failure> {
    let request = match &*call.method {
        "signal" => {
            let service::Signal { name, instance, signal } = call.parse()?;
            let signal = signal.unwrap_or(DEFAULT_SIGNAL);
            Request::Signal { name, instance, signal }
        }
        "state" => {
            let service::State { name, spawn } = call.parse()?;
            match spawn {
                true => Request::Start { name, instance: None, wait: false },
                false => Request::Stop { name, instance: None, wait: false },
            }
        }
        "release" => {
            let service::Release { name } = call.parse()?;
            Request::Release { name }
        }
        "freeze" => {
            let service::Freeze { name, instance, timeout_ms } = call.parse()?;
            let answer = Answer::Frozen { service: name.clone(), instance: instance.clone() };
            let limit = timeout_ms.map(Duration::from_millis);
            return Ok((Request::Freeze { name, instance, limit }, answer));
        }
        "thaw" => {
            let service::Order { name, instance, .. } = call.parse()?;
            Request::Thaw { name, instance }
        }
        "watchdog" => {
            let service::Watchdog { name, instance, mode, timeout } = call.parse()?;
            let answer = Answer::Watchdog { service: name.clone(), instance: instance.clone() };
            let request = Request::Watchdog { name, instance, mode, timeout_s: timeout };
            return Ok((request, answer));
        }
        method => {
            let service::Order { name, instance, wait } = call.parse()?;
            match method {
                "delete" => Request::Delete { name, instance, wait },
                "start" => Request::Start { name, instance, wait },
                "stop" => Request::Stop { name, instance, wait },
                "restart" => Request::Restart { name, instance, wait },
                "reload" => Request::Reload { name, instance, wait },
                "replace" => Request::Replace { name, instance, wait },
                "update_start" => Request::UpdateStart { name },
                "update_complete" => Request::UpdateComplete { name },
                _ => return Err(not_served(call)),
            }
        }
    };
    Ok((request, Answer::Nothing))
}

/// The endpoint lets only described methods through, so this is a method that a description promises too early.
fn not_served(call: &Incoming) -> Failure {
    Failure::new(Code::UnknownMethod, format!("{} is described but not served", call.method))
}

/// `system signal`: kill(2) for a pid of the caller's choice.
fn signal(system::Signal { pid, signum }: system::Signal) -> Result<Value, Failure> {
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
