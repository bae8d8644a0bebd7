//! The registry's surroundings: processes with connections and sockets, the supervisor, the state file, the clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use protocol::{
    failure::{Code, Failure},
    name::Name,
    policy::{Identity, Rule, built_in},
    registry::{Found, Lookup, Matching, Register},
    service::Activated,
    time::Moment,
};
use serde_json::Value;

use super::{super::*, OWN};

pub(super) struct House {
    pub(super) machine: Registry,
    pub(super) now: Moment,
    /// What the state file holds.
    pub(super) file: Option<Saved>,
    /// Nonce that answers on a socket.
    pub(super) sockets: BTreeMap<String, String>,
    /// What the supervisor would say; nobody is of a service unless it stands here.
    pub(super) services: BTreeMap<Connection, Result<String, String>>,
    /// Objects that the supervisor starts on demand, and the idle time of their service.
    pub(super) on_demand: BTreeMap<String, (String, Option<u64>)>,
    /// Identifying and starting take until [`House::answer`].
    pub(super) slow: bool,
    pub(super) asked: Vec<Action>,
    pub(super) events: Vec<(Connection, String, Value)>,
    pub(super) replies: BTreeMap<CallId, Result<Value, Failure>>,
    pub(super) audit: Vec<Refusal>,
    /// What was done, in words.
    pub(super) log: Vec<String>,
    callers: BTreeMap<Connection, u32>,
    last_call: CallId,
}

impl House {
    pub(super) fn new() -> Self {
        Self::with(Vec::new())
    }

    /// With these rules beside the built-in ones.
    pub(super) fn with(rules: Vec<Rule>) -> Self {
        let now = Moment(1_000_000_000);
        let mut house = Self {
            machine: machine(None, rules, now),
            now,
            file: None,
            sockets: BTreeMap::new(),
            services: BTreeMap::new(),
            on_demand: BTreeMap::new(),
            slow: false,
            asked: Vec::new(),
            events: Vec::new(),
            replies: BTreeMap::new(),
            audit: Vec::new(),
            log: Vec::new(),
            callers: BTreeMap::new(),
            last_call: 0,
        };
        house.perform();
        house
    }

    /// The registry's process is killed and started again: connections are gone.
    pub(super) fn restart(&mut self) {
        self.machine = machine(self.file.clone(), Vec::new(), self.now);
        self.callers.clear();
        self.perform();
    }

    pub(super) fn rules(&mut self, rules: Vec<Rule>) {
        let rules = built_in().into_iter().chain(rules).collect();
        self.event(Event::Policy { rules, problems: Vec::new() });
    }

    /// A process of this user connects, with this number.
    pub(super) fn connect(&mut self, connection: Connection, uid: u32) {
        self.callers.insert(connection, uid);
        let caller = Caller { pid: pid(connection), uid, gid: uid, groups: [].into() };
        self.machine.connected(connection, || caller);
    }

    pub(super) fn call(&mut self, connection: Connection, request: Request) -> CallId {
        self.last_call += 1;
        let call = self.last_call;
        let deadline = Some(self.now + Duration::from_secs(30));
        self.event(Event::Call { call, connection, deadline, request });
        call
    }

    /// A call that is answered at once.
    pub(super) fn ask(
        &mut self,
        connection: Connection,
        request: Request,
    ) -> Result<Value, Failure> {
        let call = self.call(connection, request);
        self.replies.remove(&call).expect("it is answered at once")
    }

    /// Connects, serves `socket`, and registers these objects.
    pub(super) fn register(
        &mut self,
        connection: Connection,
        uid: u32,
        socket: &str,
        names: &[&str],
    ) -> Result<Value, Failure> {
        self.connect(connection, uid);
        let nonce = format!("{connection:032x}");
        self.sockets.insert(socket.to_owned(), nonce.clone());
        self.ask(connection, registering(socket, &nonce, None, names))
    }

    /// As [`House::register`], where all must go well; the handle.
    pub(super) fn serve(
        &mut self,
        connection: Connection,
        uid: u32,
        socket: &str,
        names: &[&str],
    ) -> String {
        let registered = self.register(connection, uid, socket, names).unwrap();
        for outcome in registered["objects"].as_array().unwrap() {
            assert!(outcome.get("failure").is_none(), "{outcome}");
        }
        registered["handle"].as_str().unwrap().to_owned()
    }

    pub(super) fn lookup(&mut self, connection: Connection, object: &str) -> CallId {
        let lookup = Lookup { object: object.to_owned(), activate: true, ..Lookup::default() };
        self.call(connection, Request::Lookup(lookup))
    }

    pub(super) fn find(&mut self, connection: Connection, object: &str) -> Result<Value, Failure> {
        let call = self.lookup(connection, object);
        self.replies.remove(&call).unwrap_or_else(|| panic!("the lookup of {object} waits"))
    }

    pub(super) fn names(&mut self, connection: Connection) -> Vec<String> {
        let rows = self.ask(connection, Request::List(Matching::default())).unwrap();
        let rows: Vec<Found> = serde_json::from_value(rows).unwrap();
        rows.into_iter().map(|row| row.object.name).collect()
    }

    pub(super) fn close(&mut self, connection: Connection) {
        self.callers.remove(&connection);
        self.event(Event::Closed { connection });
    }

    pub(super) fn event(&mut self, event: Event) {
        self.machine.handle_event(event, self.now);
        self.perform();
    }

    pub(super) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(at) = self.machine.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.machine.handle_timeout(self.now);
            self.perform();
        }
        self.now = end;
    }

    /// The topics that a connection got since the last time.
    pub(super) fn heard(&mut self, connection: Connection) -> Vec<String> {
        let heard = self.events.iter().filter(|(to, ..)| *to == connection);
        let topics = heard.map(|(_, topic, data)| match data.get("name") {
            Some(name) => format!("{topic} {}", name.as_str().unwrap()),
            None => topic.clone(),
        });
        let topics = topics.collect();
        self.events.retain(|(to, ..)| *to != connection);
        topics
    }

    /// The supervisor answers what it was asked.
    pub(super) fn answer(&mut self) {
        for action in std::mem::take(&mut self.asked) {
            let event = self.answer_to(action);
            self.event(event);
        }
    }

    fn answer_to(&self, action: Action) -> Event {
        match action {
            Action::Identify { connection } => {
                let said = self.services.get(&connection);
                let outcome = match said {
                    None => Ok(Identity::default()),
                    Some(Ok(service)) => {
                        Ok(Identity { service: Some(service.clone()), ..Identity::default() })
                    }
                    Some(Err(why)) => Err(why.clone()),
                };
                Event::Identified { connection, outcome }
            }
            Action::Activate { object } => {
                let outcome = match self.on_demand.get(&object) {
                    Some((service, idle_ms)) => Ok(Activated {
                        service: Name::new(service.as_str()).unwrap(),
                        idle_ms: *idle_ms,
                    }),
                    None => Err(Failure::new(Code::NotFound, "nothing serves it on demand")),
                };
                Event::Activated { object, outcome }
            }
            other => panic!("{other:?} is no question to the supervisor"),
        }
    }

    fn perform(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Save => {
                    self.file = Some(self.machine.saved());
                }
                Action::Reply { call, result } => {
                    let result = result.map(|answer| serde_json::to_value(&answer).unwrap());
                    if let Ok(value) = &result
                        && let Some(handle) = value.get("policy").and(value.get("handle"))
                    {
                        let file = serde_json::to_value(&self.file).unwrap();
                        let known = file["endpoints"].as_array().unwrap();
                        let known = known.iter().any(|endpoint| endpoint["handle"] == *handle);
                        assert!(known, "handle {handle} was promised before it was on file");
                    }
                    assert!(self.replies.insert(call, result).is_none(), "answered twice");
                }
                Action::Send { to, topic, data } => {
                    let unique: BTreeSet<_> = to.iter().collect();
                    assert_eq!(unique.len(), to.len(), "an event comes once");
                    let data: Value = serde_json::from_slice(&data).unwrap();
                    for connection in to {
                        self.events.push((connection, topic.to_string(), data.clone()));
                    }
                }
                Action::Prove { call, socket, nonce } => {
                    let nonce: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
                    let outcome = match self.sockets.get(&socket) {
                        Some(there) if *there == nonce => Ok(()),
                        Some(_) => Err("another process answers there".to_owned()),
                        None => Err("nobody listens there".to_owned()),
                    };
                    self.machine.handle_event(Event::Proved { call, outcome }, self.now);
                }
                Action::Identify { .. } | Action::Activate { .. } => {
                    if let Action::Activate { object } = &action {
                        self.log.push(format!("activate {object}"));
                    }
                    if self.slow {
                        self.asked.push(action);
                    } else {
                        let event = self.answer_to(action);
                        self.machine.handle_event(event, self.now);
                    }
                }
                Action::Release { service } => self.log.push(format!("release {service}")),
                Action::Queue { connection, limit, overflow } => {
                    self.log.push(format!("queue {connection} {limit} {overflow:?}"));
                }
                Action::Enforce(policy) => self.log.push(format!("enforce {}", policy.epoch)),
                Action::Audit(refusal) => self.audit.push(refusal),
            }
        }
    }
}

/// What registers these objects, with tokens in their order.
pub(super) fn registering(
    socket: &str,
    nonce: &str,
    handle: Option<&str>,
    names: &[&str],
) -> Request {
    let objects = names.iter().zip(0..).map(|(name, token)| super::served(name, token));
    Request::Register(Register {
        socket: socket.to_owned(),
        nonce: nonce.to_owned(),
        handle: handle.map(|handle| handle.parse().unwrap()),
        objects: objects.collect(),
    })
}

/// Of the process behind a connection.
pub(super) fn pid(connection: Connection) -> i32 {
    4000 + i32::try_from(connection).unwrap()
}

fn machine(saved: Option<Saved>, rules: Vec<Rule>, now: Moment) -> Registry {
    let own = Own {
        run_dir: "/run".to_owned(),
        socket: "/run/registry.sock".to_owned(),
        pid: 1,
        uid: OWN,
        objects: vec![super::served("registry", 0)],
    };
    let rules = built_in().into_iter().chain(rules).collect();
    Registry::new(own, saved, 3, (rules, Vec::new()), now)
}
