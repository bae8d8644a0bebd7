//! Keeps this process registered: its objects, the rules it judges by, how busy it is. The registry may come late, go and
//! come back; this process serves on meanwhile, by the rules it has.
//!
//! ```text
//!            registered                     line ended
//! Trying ----------------> Registered ------------------> Trying
//!   |  ^
//!   |  | any try that succeeds: Registered
//!   v  |
//! Exhausted (no registry for as long as the policy says), Refused (it is there and doesn't want this endpoint)
//! ```

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use protocol::{
    failure::{Code, Failure},
    registry::{Handle, POLICY_TOPIC, Register, Registered},
};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep},
};

use super::{
    Shared,
    arrival::{Waiting, Woken},
    line::Line,
    publisher::Way,
    session::{ANSWER, Begun, Refusals, Session},
};
use crate::{
    error::CallError,
    retry::{Next, RetryPolicy},
    server::Server,
};

/// Exit code (EX_UNAVAILABLE) of a process that can't live without a registry and found none.
pub const NO_REGISTRY: u8 = 69;
/// The pause between tries once the policy is exhausted.
const PAUSE: Duration = Duration::from_secs(5);
/// The pause between tries when the policy's time is over.
const REST: Duration = Duration::from_secs(300);
/// The pause after the registry refused; doubles. The first ones are short: while a process takes over another's socket
/// the registry may meet the other one there.
const REFUSED: Duration = Duration::from_millis(100);
const REFUSED_MAX: Duration = Duration::from_secs(60);
/// A registration that lasted so long is followed by the next try at once.
const STEADY: Duration = Duration::from_secs(1);

/// How the registration stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    /// No registry yet, or no longer.
    Trying,
    Registered {
        handle: Handle,
    },
    /// The policy's time is over. It is still tried, now and then; an application may end with [`NO_REGISTRY`] instead.
    Exhausted,
    /// The registry doesn't take this endpoint. It is asked again, less and less often.
    Refused(Failure),
}

/// This process as an endpoint that others find. Dropped, its objects are withdrawn. One a bus.
pub struct Registration {
    shared: Arc<Shared>,
    state: watch::Receiver<State>,
    refused: Refusals,
    task: AbortHandle,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.way.send_replace(Way::Own);
    }
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

impl Registration {
    pub(super) fn new(
        shared: Arc<Shared>,
        server: Server,
        socket: PathBuf,
        policy: RetryPolicy,
    ) -> Self {
        let (told, state) = watch::channel(State::Trying);
        let refused = Refusals::default();
        shared.way.send_replace(Way::Registering);
        let task = Task {
            shared: Arc::clone(&shared),
            server,
            socket,
            policy,
            state: told,
            handle: None,
            refused: refused.clone(),
        };
        let task = tokio::spawn(task.run()).abort_handle();
        Self { shared, state, refused, task }
    }

    /// How it stands, and every change.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Objects that are not registered though this endpoint is, and why: the name is another's, or not allowed. They are
    /// tried again when the rules change, when the registry restarts and, where the name was taken, every second.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<String, Failure> {
        self.refused.all()
    }
}

struct Task {
    shared: Arc<Shared>,
    server: Server,
    socket: PathBuf,
    policy: RetryPolicy,
    state: watch::Sender<State>,
    /// As the registry knew this endpoint last.
    handle: Option<Handle>,
    refused: Refusals,
}

impl Task {
    async fn run(mut self) {
        let mut hasty = 0_u32;
        loop {
            let session = self.begin().await;
            let began = Instant::now();
            let line = session.line();
            tokio::select! {
                _over = session.keep() => {}
                () = line.ended() => {}
            }
            drop(line);
            self.shared.way.send_replace(Way::Registering);
            self.state.send_replace(State::Trying);
            tracing::info!("the registry is gone, registering again");
            if began.elapsed() >= STEADY {
                hasty = 0;
            } else {
                sleep(Duration::from_millis(50).saturating_mul(1 << hasty.min(7)).min(PAUSE)).await;
                hasty += 1;
            }
        }
    }

    /// Tries until it is registered.
    async fn begin(&mut self) -> Session {
        // Watching the folder costs more than a try that succeeds, as it does nearly always.
        let mut watch = None;
        let started = Instant::now();
        let mut made = 0;
        let mut refusal_pause = REFUSED;
        let mut woken = Woken::Passed;
        loop {
            let tried = self.attempt().await;
            // What the socket's appearance caused is no try of the policy's.
            made += u32::from(woken == Woken::Passed);
            let error = match tried {
                Ok(session) => return session,
                Err(error) => error,
            };
            let Some(waiting) = &mut watch else {
                // It may have appeared since the try: another one follows at once, which is none of the policy's.
                watch = Some(self.shared.place.waiting());
                woken = Woken::Appeared;
                continue;
            };
            woken = match error {
                CallError::Refused(failure) if failure.code == Code::Busy => {
                    sleep(super::retry_after(&failure)).await;
                    Woken::Appeared
                }
                CallError::Refused(failure) => {
                    self.refuse(failure, refusal_pause);
                    let woken = waiting.pause(refusal_pause).await;
                    refusal_pause = (refusal_pause * 2).min(REFUSED_MAX);
                    woken
                }
                error => {
                    tracing::debug!(%error, "the registry can't be reached");
                    refusal_pause = REFUSED;
                    self.wait(waiting, made, started).await
                }
            };
        }
    }

    fn refuse(&self, failure: Failure, pause: Duration) {
        if pause >= PAUSE {
            // What this endpoint has no right to publish is better refused than kept for ever.
            self.shared.way.send_replace(Way::Own);
        }
        let state = State::Refused(failure);
        if *self.state.borrow() != state {
            if let State::Refused(failure) = &state {
                tracing::error!(reason = %failure, "the registry refuses this endpoint");
            }
            self.state.send_replace(state);
        }
    }

    /// The pause after a failed try.
    async fn wait(&self, waiting: &mut Waiting, made: u32, started: Instant) -> Woken {
        let exhausted = *self.state.borrow() == State::Exhausted;
        match self.policy.next(made, started.elapsed(), jitter()) {
            // The appearance of a socket wakes us at once; this is for where its folder can't be watched.
            _ if exhausted => waiting.pause(REST).await,
            Next::Try(pause) => {
                self.state.send_if_modified(|state| {
                    let before = std::mem::replace(state, State::Trying);
                    before != State::Trying
                });
                waiting.pause(pause).await
            }
            Next::GiveUp(rest) => {
                let woken = waiting.pause(rest).await;
                if woken == Woken::Passed {
                    tracing::error!(
                        tries = made,
                        registry = %self.shared.registry.display(),
                        "no registry: is it running, and is this its run directory?"
                    );
                    self.state.send_replace(State::Exhausted);
                    return waiting.pause(REST).await;
                }
                woken
            }
        }
    }

    /// One try: connects, registers everything, applies the rules.
    async fn attempt(&mut self) -> Result<Session, CallError> {
        let register = self.registering()?;
        let (push, pushed) = watch::channel(None);
        let deliver = move |event: crate::client::Event| {
            if event.topic == POLICY_TOPIC {
                // Only the newest rules count.
                push.send_replace(Some(event.data));
            }
        };
        let line = Line::open(&self.shared.registry, deliver).await?;
        let mut changes = self.server.changes();
        changes.mark_unchanged();
        let register = Register { objects: self.server.objects(), ..register };
        let registered: Registered = line.ask("register", &register, ANSWER).await?;
        let Registered { handle, objects: outcomes, policy } = registered;
        if self.handle.is_some_and(|before| before != handle) {
            tracing::warn!(%handle, "the registry gave this endpoint another handle");
        }
        self.handle = Some(handle);
        let line = Arc::new(line);
        let epoch = policy.epoch;
        self.server.set_policy(Arc::new(policy));
        tracing::info!(%handle, objects = outcomes.len(), "registered");
        self.refused.begin(&register.objects, outcomes);
        self.shared.way.send_replace(Way::Line(Arc::clone(&line)));
        self.state.send_replace(State::Registered { handle });
        let (server, refused) = (self.server.clone(), self.refused.clone());
        Ok(Session::new(line, server, refused, Begun { pushed, changes, epoch }, register.objects))
    }

    fn registering(&self) -> Result<Register, Failure> {
        let socket = self.socket.to_str().filter(|_| self.socket.is_absolute());
        let Some(socket) = socket else {
            let text = format!(
                "{} is no absolute path in UTF-8 that others could connect to",
                self.socket.display()
            );
            return Err(Failure::new(Code::InvalidArgument, text));
        };
        let nonce = self.server.nonce().iter().map(|byte| format!("{byte:02x}")).collect();
        let (socket, handle) = (socket.to_owned(), self.handle);
        Ok(Register { socket, nonce, handle, objects: Vec::new() })
    }
}

/// Spreads the tries of those who began together; none where the kernel has no random byte yet.
fn jitter() -> u8 {
    let mut byte = [0];
    let flags = rustix::rand::GetRandomFlags::NONBLOCK;
    rustix::rand::getrandom(&mut byte, flags).map_or(0, |_| byte[0])
}
