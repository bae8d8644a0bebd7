//! What outlives the registry's process: the handles, and whose the names were. Names are kept for their old owners for
//! a while, so that a restart of the registry is no death of anybody.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use protocol::{
    name::Name,
    objects::Served,
    policy::Rule,
    registry::{Handle, Policy},
    time::Moment,
};
use serde::{Deserialize, Serialize};

use super::{
    Due, Registry,
    access::Bucket,
    endpoints::{Endpoint, Entry, Life, OnDemand},
    limits::{ENDPOINTS_MAX, OBJECTS_MAX, RESERVED_FOR},
    policy::for_lookups,
};

/// The file `RUN_DIR/registry/state`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Saved {
    /// The handle that the next endpoint gets.
    next: Handle,
    /// The number of the rules that were in force.
    policy: u64,
    endpoints: Vec<SavedEndpoint>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct SavedEndpoint {
    handle: Handle,
    /// Hash of the nonce.
    nonce: String,
    uid: u32,
    pid: i32,
    socket: String,
    objects: Vec<Served>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idle_ms: Option<u64>,
}

/// The registry as an endpoint, handle 0.0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    pub(crate) run_dir: String,
    pub(crate) socket: String,
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) objects: Vec<Served>,
}

impl Registry {
    /// `epoch` numbers the handles where nothing is remembered: no earlier registry of this boot may have had it.
    pub(crate) fn new(
        own: Own,
        saved: Option<Saved>,
        epoch: u32,
        (rules, problems): (Vec<Rule>, Vec<String>),
        now: Moment,
    ) -> Self {
        let first = Handle { epoch: epoch.max(1), number: 1 };
        let saved = saved.unwrap_or(Saved { next: first, policy: 0, endpoints: Vec::new() });
        let mut registry = Self {
            run_dir: own.run_dir.clone(),
            own_uid: own.uid,
            next: saved.next.max(Handle { epoch: 1, number: 1 }),
            endpoints: BTreeMap::new(),
            objects: BTreeMap::new(),
            departed: VecDeque::new(),
            lately: BTreeMap::new(),
            connections: BTreeMap::new(),
            listeners: BTreeSet::new(),
            proving: BTreeMap::new(),
            waiters: BTreeMap::new(),
            activations: BTreeMap::new(),
            retained: BTreeMap::new(),
            retained_bytes: 0,
            published: 0,
            lookup_rules: for_lookups(&rules),
            policy: Arc::new(Policy { epoch: saved.policy + 1, rules }),
            problems,
            // The number of these rules, at least.
            unsaved: true,
            refusals: Bucket::default(),
            deadlines: BTreeSet::new(),
            actions: VecDeque::new(),
        };
        registry.serve(own);
        for endpoint in saved.endpoints {
            registry.reserve(endpoint, now);
        }
        registry.save();
        registry
    }

    fn serve(&mut self, own: Own) {
        let handle = Handle::default();
        let names = own.objects.iter().map(|served| served.name.clone()).collect();
        let endpoint = Endpoint {
            life: Life::Own,
            socket: own.socket,
            nonce: String::new(),
            pid: own.pid,
            uid: own.uid,
            names,
            applied: u64::MAX,
            pushes: 0,
            connections: 0,
            on_demand: None,
            idle_at: None,
        };
        self.endpoints.insert(handle, endpoint);
        for served in own.objects {
            self.objects.insert(served.name.clone(), Entry { handle, served });
        }
    }

    fn reserve(&mut self, saved: SavedEndpoint, now: Moment) {
        let SavedEndpoint { handle, nonce, uid, pid, socket, objects, service, idle_ms } = saved;
        // A file that somebody else wrote may say anything.
        let free = handle < self.next && !self.endpoints.contains_key(&handle);
        if !free || self.endpoints.len() >= ENDPOINTS_MAX {
            return;
        }
        let until = now + RESERVED_FOR;
        let mut names = BTreeSet::new();
        for served in objects {
            if self.objects.len() < OBJECTS_MAX && !self.objects.contains_key(&served.name) {
                names.insert(served.name.clone());
                self.objects.insert(served.name.clone(), Entry { handle, served });
            }
        }
        let idle = idle_ms.map(Duration::from_millis);
        let endpoint = Endpoint {
            life: Life::Reserved(until),
            socket,
            nonce,
            pid,
            uid,
            names,
            applied: 0,
            pushes: 0,
            connections: 0,
            on_demand: service.map(|service| OnDemand { service, idle }),
            idle_at: None,
        };
        self.endpoints.insert(handle, endpoint);
        self.deadlines.insert((until, Due::Reserved(handle)));
    }

    /// What has to be on file now.
    pub(crate) fn saved(&self) -> Saved {
        let lasting = self.endpoints.iter().filter(|(_, endpoint)| endpoint.life != Life::Own);
        let endpoints = lasting.map(|(handle, endpoint)| {
            let served = |name| self.objects.get(name).map(|entry| entry.served.clone());
            let on_demand = endpoint.on_demand.as_ref();
            let idle = on_demand.and_then(|on_demand| on_demand.idle);
            SavedEndpoint {
                handle: *handle,
                nonce: endpoint.nonce.clone(),
                uid: endpoint.uid,
                pid: endpoint.pid,
                socket: endpoint.socket.clone(),
                objects: endpoint.names.iter().filter_map(served).collect(),
                service: on_demand.map(|on_demand| on_demand.service.clone()),
                idle_ms: idle.map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
            }
        });
        Saved { next: self.next, policy: self.policy.epoch, endpoints: endpoints.collect() }
    }

    /// It had its time to come back.
    pub(super) fn reservation_ended(&mut self, handle: Handle, now: Moment) {
        let Some(endpoint) = self.endpoints.get(&handle) else { return };
        if !matches!(endpoint.life, Life::Reserved(until) if until <= now) {
            return;
        }
        let names = endpoint.names.clone();
        self.died(handle, now);
        for name in names {
            // The reservation was time enough for the next process, too.
            self.lost_for_good(&name, now);
        }
    }

    /// The time in which its next owner could come is over.
    pub(super) fn lost_for_good(&mut self, object: &str, now: Moment) {
        self.found_again(object);
        self.look_again(object, now);
    }
}
