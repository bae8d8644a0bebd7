//! The bus against a registry that comes late, dies, comes back and refuses.

mod calls;
mod events;
mod registration;
mod registry;

use std::{os::unix::net::UnixListener, path::Path, time::Duration};

use endpoint::{
    Bus, Description, Incoming, Options, Registration, RetryPolicy, Serve, Server, Settings, State,
};
use protocol::objects::version;

/// Longer than any of these tests takes; only a broken one meets it.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// An object that says which one it is.
pub(crate) struct Named(pub(crate) &'static str);

impl Serve for Named {
    fn describe(&self) -> Description {
        Description::new("test.named", version(1, 2))
            .method("name", &[], "which one it is", "its name")
            .method("missing", &[], "answers not-found itself", "")
    }

    async fn call(&mut self, call: Incoming) {
        match &*call.method {
            "name" => call.responder.reply(&self.0),
            _ => call
                .responder
                .fail(endpoint::Failure::new(endpoint::Code::NotFound, "no such thing in here")),
        }
    }
}

/// A server with one object, on its own socket.
pub(crate) fn provider(socket: &Path, object: &str, says: &'static str) -> Server {
    let server = Server::new(Settings::default()).unwrap();
    server.add(object, Named(says)).unwrap();
    server.listen(UnixListener::bind(socket).unwrap()).unwrap();
    server
}

pub(crate) fn bus(run_dir: &Path) -> Bus {
    Bus::new(run_dir, Options::default())
}

/// Registers, and waits until that is done.
pub(crate) async fn registered(bus: &Bus, server: &Server, socket: &Path) -> Registration {
    let registration = bus.register(server, socket, RetryPolicy::DEFAULT);
    until_registered(&registration).await;
    registration
}

pub(crate) async fn until_registered(registration: &Registration) {
    let mut state = registration.state();
    let registered = state.wait_for(|state| matches!(state, State::Registered { .. }));
    tokio::time::timeout(SOON, registered).await.unwrap().unwrap();
}

/// Gives others turns until it holds; fails the test where it never does.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let patience = tokio::time::Instant::now() + SOON;
    while !holds() {
        assert!(tokio::time::Instant::now() < patience, "it never came true");
        tokio::task::yield_now().await;
    }
}
