//! A caller of the socket's who waits for an answer: who takes the call back, or whose time is over, waits for nothing any more, and
//! neither shall the driver. A connection that is lost is no such word: the call is made again on the next one.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use endpoint::Responder;

use crate::host::core::{Core, Ticket};

/// The right to answer; whoever takes it does.
pub(super) struct Waiting(Mutex<Option<Responder>>);

impl Waiting {
    pub(super) fn new(responder: Responder) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(responder))))
    }

    pub(super) fn take(&self) -> Option<Responder> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Interrupts the call when its caller waits no longer, unless it is answered before.
    pub(super) fn attend(self: Arc<Self>, core: Core, ticket: Ticket) {
        let Some(peer) =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Responder::peer)
        else {
            return;
        };
        tokio::spawn(async move {
            let answered = poll_fn(|context| self.poll_over(context)).await;
            let lost = || async {
                tokio::select! {
                    biased;
                    () = peer.closed() => true,
                    () = std::future::ready(()) => false,
                }
            };
            if !answered && !lost().await {
                core.interrupt(ticket);
            }
        });
    }

    /// Whether it was answered, once it is over.
    fn poll_over(&self, context: &mut Context<'_>) -> Poll<bool> {
        let responder = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(responder) = &*responder else { return Poll::Ready(true) };
        pin!(responder.cancelled()).poll(context).map(|()| false)
    }
}
