//! Serving and calling objects over Unix sockets.
//!
//! ```text
//! // Serve: one handler an object, one call at a time, other calls wait in a bounded queue.
//! struct Clock;
//!
//! impl Serve for Clock {
//!     fn describe(&self) -> Description {
//!         Description::new("demo.clock", 1).method(
//!             "set",
//!             &[("zone", ArgumentKind::String, true)],
//!             "sets the time zone",
//!             "{ before }",
//!         )
//!     }
//!
//!     async fn call(&mut self, call: Incoming) {
//!         let outcome = match &*call.method {
//!             "set" => call.parse::<Set>().and_then(|set| self.set(set)),
//!             _ => return,                          // dropping a call without an answer answers `failed`
//!         };
//!         call.responder.finish(outcome);           // or keep the responder and answer later
//!     }
//! }
//!
//! let server = Server::new(Settings::default())?;   // limits and policy; default: root and the own user
//! server.add("clock", Clock)?;                      // objects come and go at any time
//! server.listen(std_unix_listener)?;                // bound here or by the supervisor
//! server.drain(Duration::from_secs(5)).await;       // no new calls, open ones finish, Goodbye
//!
//! // Call: one client an endpoint, cheap to clone, connects when it is needed.
//! let client = Client::new(path, Options::default());
//! let reply = client.call("clock", "set", &json!({"zone": "UTC"}), CallOptions::default()).await?;
//! let before: Before = reply.parse()?;
//!
//! // Be found, and find others: one bus a process.
//! let bus = Bus::new(run_dir, Options::default());
//! let settings = Settings { identify: Some(bus.identify()), ..Settings::default() };
//! let registration = bus.register(&server, socket_path, RetryPolicy::DEFAULT);
//! bus.call("camera", "shoot", &(), CallOptions::default()).await?;   // looked up, then called directly
//! bus.publish("clock.set", &now, false)?;           // never waits; sent when the registry takes it
//! let mut events = bus.subscribe(Subscribe { patterns, ..Subscribe::default() });
//! let event = events.next().await?;
//! ```
//!
//! More: [`Responder::chunks`] and [`Client::call_stream`] for long answers, [`Responder::reply_with`] and
//! [`CallOptions::fds`] for descriptors, [`Responder::peer`] and [`Client::events`] for events,
//! [`Responder::cancelled`] for callers who gave up, [`Server::counters`] for what was refused.
//! An empty object name is the endpoint itself (`_objects`, `_describe`, `_gate`, `_monitor`, `_log_level`); every object
//! has `_describe`. Every call is judged here, by the rules of [`Settings::rules`] or [`Server::set_policy`] against what the
//! kernel and [`Settings::identify`] say of the caller; [`Server::close_gate`] holds calls back without failing them.
//!
//! This crate never blocks, reads no file, and keeps nothing on disk.
//! `docs/PROTOCOL.md` has the bytes.

mod bus;
mod client;
mod error;
mod retry;
mod server;
#[cfg(feature = "tls")]
pub mod tls;
mod wire;

pub use crate::{
    bus::{Bus, Change, Lives, NO_REGISTRY, Registration, State, Subscription, Watch},
    client::{CallOptions, Client, Dial, Event, Options, Received, Stream},
    error::CallError,
    retry::{Next, RetryPolicy},
    server::{
        AddError, Caller, Chunks, ClosedGate, Counters, Ended, Identify, Identifying, Incoming,
        Peer, Rate, Responder, Serve, Server, SetLogLevel, Settings,
    },
};
pub use protocol::{
    failure::{Code, Failure},
    objects::{ArgumentKind, Description, Wanted},
};
