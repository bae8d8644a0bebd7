//! Registering: proof of the socket, the names of the batch, the handle.

use std::collections::BTreeSet;

use protocol::{
    failure::{Code, Failure},
    hello::OBJECTS_MAX as BATCH_MAX,
    objects::Served,
    registry::{Handle, Outcome, Register, Registered},
    time::Moment,
};
use sha2::{Digest as _, Sha256};

use super::{
    Action, Answer, CallId, Connection, Due, Registry,
    access::{Access, Denial, ParkedCall},
    busy,
    endpoints::{Endpoint, Life},
    limit,
    limits::{ENDPOINTS_MAX, OBJECTS_MAX, PROOFS_MAX, PUSH_AGAIN, user},
    names::check_name,
};

/// Longest path of a Unix socket (`sun_path` less its end).
const SOCKET_PATH_MAX: usize = 107;

/// A registration whose socket is proved.
#[derive(Debug)]
pub(super) struct Admission {
    register: Register,
    /// SHA-256 of its nonce.
    nonce: String,
}

impl Registry {
    pub(super) fn register(&mut self, call: CallId, connection: Connection, register: Register) {
        let caller = self.caller(connection);
        let Some(client) = self.connections.get(&connection) else { return };
        if let Some(handle) = client.handle {
            let text = format!(
                "this connection is endpoint {handle} already; use offer and withdraw to change its objects"
            );
            return self.refuse(call, Code::InvalidArgument, text);
        }
        if client.registering {
            let text = "this connection is being registered already";
            return self.refuse(call, Code::InvalidArgument, text);
        }
        let nonce = match check(&register) {
            Ok(nonce) => nonce,
            Err(text) => return self.refuse(call, Code::InvalidArgument, text),
        };
        let of_user = |connection: &Connection| {
            self.connections.get(connection).is_some_and(|c| c.caller.uid == caller.uid)
        };
        let proving = self.proving.values().filter(|(connection, _)| of_user(connection)).count();
        let full = !self.is_trusted(caller.uid) && proving >= user::PROOFS;
        if full || self.proving.len() >= PROOFS_MAX {
            let text = "too many sockets are being tried at the moment; try again later";
            return self.reply(call, Err(busy(text, 200)));
        }
        let action = Action::Prove { call, socket: register.socket.clone(), nonce };
        self.proving.insert(call, (connection, register));
        if let Some(client) = self.connections.get_mut(&connection) {
            client.registering = true;
        }
        self.actions.push_back(action);
    }

    pub(super) fn proved(&mut self, call: CallId, outcome: Result<(), String>, now: Moment) {
        let Some((connection, register)) = self.proving.remove(&call) else { return };
        if let Err(why) = outcome {
            if let Some(client) = self.connections.get_mut(&connection) {
                client.registering = false;
            }
            let text = format!("{} is not the socket of this endpoint: {why}", register.socket);
            return self.refuse(call, Code::Denied, text);
        }
        let nonce = hash(&register.nonce);
        self.admit(call, connection, Admission { register, nonce }, now);
    }

    /// Judges the names, and waits for the supervisor's word where they need it.
    pub(super) fn admit(
        &mut self,
        call: CallId,
        connection: Connection,
        admission: Admission,
        now: Moment,
    ) {
        let Admission { register, .. } = &admission;
        let names = register.objects.iter().map(|served| served.name.as_str());
        match self.judge_names(connection, names, &register.socket) {
            Some(refused) => {
                if let Some(client) = self.connections.get_mut(&connection) {
                    client.registering = false;
                }
                self.admitted(call, connection, admission, refused, now);
            }
            None => self.park(call, connection, ParkedCall::Admission(admission)),
        }
    }

    /// What is refused, in the order of the names; `None` where the supervisor has to be asked.
    fn judge_names<'n>(
        &self,
        connection: Connection,
        names: impl Iterator<Item = &'n str>,
        socket: &str,
    ) -> Option<Vec<Option<Denial>>> {
        let judged = names.map(|name| match self.may_own(connection, name, socket) {
            Access::Allowed => Some(None),
            Access::Denied(denial) => Some(Some(denial)),
            Access::Ask => None,
        });
        judged.collect()
    }

    fn admitted(
        &mut self,
        call: CallId,
        connection: Connection,
        admission: Admission,
        refused: Vec<Option<Denial>>,
        now: Moment,
    ) {
        let caller = self.caller(connection);
        let Admission { register, nonce } = admission;
        let known = self.endpoint_of(&nonce, caller.uid);
        if known.is_none()
            && let Some(failure) = self.too_many_endpoints(caller.uid)
        {
            return self.reply(call, Err(failure));
        }
        let handle = known.or_else(|| self.departed_as(register.handle, &nonce, caller.uid));
        let handle = handle.unwrap_or_else(|| self.new_handle());
        let before = self.endpoints.remove(&handle);
        if let Some(old) = before.as_ref().and_then(Endpoint::connection)
            && let Some(client) = self.connections.get_mut(&old)
        {
            // The same process again, before its old connection's end was seen.
            client.handle = None;
        }
        let (names, on_demand, idle_at) = before
            .map(|before| (before.names, before.on_demand, before.idle_at))
            .unwrap_or_default();
        let endpoint = Endpoint {
            life: Life::Registered(connection),
            socket: register.socket,
            nonce,
            pid: caller.pid,
            uid: caller.uid,
            names,
            applied: 0,
            pushes: 1,
            connections: 0,
            on_demand,
            idle_at,
        };
        self.unsaved = true;
        self.endpoints.insert(handle, endpoint);
        if let Some(client) = self.connections.get_mut(&connection) {
            client.handle = Some(handle);
        }
        let offered: BTreeSet<String> =
            register.objects.iter().map(|served| served.name.clone()).collect();
        let outcomes = self.take_objects(handle, connection, register.objects, refused, true, now);
        self.drop_all_but(handle, &offered, now);
        self.restart_idle(handle, now);
        self.deadlines.insert((now + PUSH_AGAIN, Due::Push(handle)));
        let policy = (*self.policy).clone();
        let registered = Registered { handle, objects: outcomes, policy };
        self.reply(call, Ok(Answer::Registered(Box::new(registered))));
        self.wake_waiters(now);
    }

    /// What it served before and doesn't offer any more.
    fn drop_all_but(&mut self, handle: Handle, offered: &BTreeSet<String>, now: Moment) {
        let Some(endpoint) = self.endpoints.get(&handle) else { return };
        let left: Vec<String> = endpoint.names.difference(offered).cloned().collect();
        for name in left {
            self.drop_object(&name, now);
        }
    }

    /// The endpoint of the same process: the same nonce, the same user.
    fn endpoint_of(&self, nonce: &str, uid: u32) -> Option<Handle> {
        let same = |endpoint: &Endpoint| {
            endpoint.nonce == nonce && endpoint.uid == uid && endpoint.life != Life::Own
        };
        self.endpoints.iter().find(|(_, endpoint)| same(endpoint)).map(|(handle, _)| *handle)
    }

    /// The handle it says it had, if it really had it.
    fn departed_as(&mut self, handle: Option<Handle>, nonce: &str, uid: u32) -> Option<Handle> {
        let handle = handle?;
        let at = self
            .departed
            .iter()
            .position(|(old, hash, of)| *old == handle && hash == nonce && *of == uid)?;
        self.departed.remove(at).map(|(handle, ..)| handle)
    }

    fn too_many_endpoints(&self, uid: u32) -> Option<Failure> {
        if self.endpoints.len() >= ENDPOINTS_MAX {
            return Some(limit("endpoints", None, ENDPOINTS_MAX, "stop one first"));
        }
        let of_user = || self.endpoints.values().filter(|endpoint| endpoint.uid == uid).count();
        (!self.is_trusted(uid) && of_user() >= user::ENDPOINTS)
            .then(|| limit("endpoints", Some(uid), user::ENDPOINTS, "stop one first"))
    }

    /// More objects of a registered endpoint.
    pub(super) fn offer(
        &mut self,
        call: CallId,
        connection: Connection,
        objects: Vec<Served>,
        now: Moment,
    ) {
        let Some(handle) = self.registered(call, connection, "offer") else { return };
        if objects.len() > BATCH_MAX {
            let failure = limit("objects of one call", None, BATCH_MAX, "offer them in parts");
            return self.reply(call, Err(failure));
        }
        let socket = self.endpoints.get(&handle).map(|endpoint| endpoint.socket.clone());
        let socket = socket.unwrap_or_default();
        let names = objects.iter().map(|served| served.name.as_str());
        let Some(refused) = self.judge_names(connection, names, &socket) else {
            let request = super::Request::Offer(protocol::registry::Offer { objects });
            let parked = ParkedCall::Request { deadline: None, request };
            return self.park(call, connection, parked);
        };
        let outcomes = self.take_objects(handle, connection, objects, refused, false, now);
        self.restart_idle(handle, now);
        self.reply(call, Ok(Answer::Outcomes(outcomes)));
        self.wake_waiters(now);
    }

    /// Takes what is not refused; an outcome for each. `fresh`: the socket was tried just now.
    fn take_objects(
        &mut self,
        handle: Handle,
        connection: Connection,
        objects: Vec<Served>,
        refused: Vec<Option<Denial>>,
        fresh: bool,
        now: Moment,
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(objects.len());
        for (served, refused) in objects.into_iter().zip(refused) {
            let name = served.name.clone();
            let claimed = match refused {
                Some(refused) => Err(self.denied(connection, "own", &name, refused, now)),
                None => self.claim(handle, &served, fresh, now),
            };
            let failure = match claimed {
                Ok(()) => {
                    self.set_object(handle, served);
                    None
                }
                Err(failure) => Some(failure),
            };
            outcomes.push(Outcome { name, failure });
        }
        outcomes
    }

    /// Whether the name is free for this endpoint.
    fn claim(
        &self,
        handle: Handle,
        served: &Served,
        fresh: bool,
        now: Moment,
    ) -> Result<(), Failure> {
        check_name(&served.name)?;
        let Some(endpoint) = self.endpoints.get(&handle) else { return Ok(()) };
        if let Some(entry) = self.objects.get(&served.name) {
            if entry.handle == handle {
                return Ok(());
            }
            let Some(owner) = self.endpoints.get(&entry.handle) else { return Ok(()) };
            // The socket answers with the newer nonce: the older process listens there no longer.
            let replaced = fresh && owner.socket == endpoint.socket && owner.uid == endpoint.uid;
            if !replaced {
                return Err(taken(&served.name, entry.handle, owner, now));
            }
            return Ok(());
        }
        let of_user = || {
            let of_user = self.endpoints.values().filter(|one| one.uid == endpoint.uid);
            of_user.map(|one| one.names.len()).sum::<usize>()
        };
        if self.objects.len() >= OBJECTS_MAX {
            return Err(limit("objects", None, OBJECTS_MAX, "withdraw one first"));
        }
        if !self.is_trusted(endpoint.uid) && of_user() >= user::OBJECTS {
            return Err(limit("objects", Some(endpoint.uid), user::OBJECTS, "withdraw one first"));
        }
        Ok(())
    }

    pub(super) fn withdraw(
        &mut self,
        call: CallId,
        connection: Connection,
        names: &[String],
        now: Moment,
    ) {
        let Some(handle) = self.registered(call, connection, "withdraw") else { return };
        for name in names {
            if self.objects.get(name).is_some_and(|entry| entry.handle == handle) {
                self.drop_object(name, now);
            }
        }
        self.reply(call, Ok(Answer::Nothing));
    }

    /// The handle of a registered connection, or the answer that it is none.
    pub(super) fn registered(
        &mut self,
        call: CallId,
        connection: Connection,
        method: &str,
    ) -> Option<Handle> {
        let handle = self.connections.get(&connection).and_then(|client| client.handle);
        if handle.is_none() {
            let text = format!("{method} is for a connection that called register before");
            self.refuse(call, Code::InvalidArgument, text);
        }
        handle
    }
}

fn taken(name: &str, handle: Handle, owner: &Endpoint, now: Moment) -> Failure {
    let Endpoint { pid, uid, socket, .. } = owner;
    let (text, retry) = match owner.life {
        Life::Reserved(until) => {
            let left = u64::try_from(until.since(now).as_millis()).unwrap_or(u64::MAX);
            let text = format!(
                "{name} is kept for endpoint {handle} (pid {pid}, user {uid}, {socket}) for {left} ms more, because the registry restarted; try again then"
            );
            (text, Some(left + 1))
        }
        Life::Own | Life::Registered(_) => {
            let text = format!(
                "{name} belongs to endpoint {handle} (pid {pid}, user {uid}, {socket}); stop that process, or take another name"
            );
            (text, None)
        }
    };
    let mut details = serde_json::json!({ "handle": handle, "pid": pid, "uid": uid });
    if let Some(retry) = retry {
        details["retry_after_ms"] = retry.into();
    }
    Failure::new(Code::Busy, text).with_details(details)
}

/// The nonce, or what is wrong with the arguments.
fn check(register: &Register) -> Result<[u8; 16], String> {
    let Register { socket, nonce, objects, .. } = register;
    if !socket.starts_with('/') || socket.len() > SOCKET_PATH_MAX || socket.contains('\0') {
        return Err(format!(
            "socket {socket:.120?} is not an absolute path of at most {SOCKET_PATH_MAX} bytes"
        ));
    }
    if objects.len() > BATCH_MAX {
        return Err(format!("{} objects, at most {BATCH_MAX} are allowed", objects.len()));
    }
    let wrong = || format!("nonce {nonce:.40?} is not 32 hexadecimal digits");
    let digits = nonce.as_bytes();
    if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(nonce.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

/// What of a nonce goes on file: whoever reads it there can't pass for the endpoint.
pub(super) fn hash(nonce: &str) -> String {
    use std::fmt::Write as _;

    let digest = Sha256::digest(nonce.to_ascii_lowercase());
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
