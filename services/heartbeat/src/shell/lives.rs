//! Hears that another life of an image of the machine began. Where there is no registry nobody says so, and the clocks have to do.

use std::future::pending;

use endpoint::{Bus, Subscription};
use protocol::{autorun::RESUMED, registry::Subscribe};

pub(super) struct Lives(Option<Subscription>);

impl Lives {
    pub(super) fn watch(bus: &Bus) -> Self {
        let patterns = vec![RESUMED.to_owned()];
        let subscribe = Subscribe { patterns, retained: false, ..Subscribe::default() };
        Self(Some(bus.subscribe(subscribe)))
    }

    /// Returns when another life began.
    pub(super) async fn next(&mut self) {
        while let Some(subscription) = &mut self.0 {
            match subscription.next().await {
                Ok(event) if event.topic == RESUMED => return,
                // The registry was away: nothing is concluded from that.
                Ok(_) => {}
                Err(failure) => {
                    tracing::warn!(
                        "the registry does not say when the machine has slept: {failure}"
                    );
                    self.0 = None;
                }
            }
        }
        pending().await
    }
}
