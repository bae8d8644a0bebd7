//! Hears that another life of an image of the machine began, which no clock shows for certain.

use std::future::pending;

use protocol::{autorun::RESUMED, registry::Subscribe};

use super::{Bus, Subscription};

/// Whoever keeps what does not survive a sleep waits for [`next`](Self::next).
pub struct Lives(Option<Subscription>);

impl Bus {
    /// Each new life of an image of the machine from now on.
    #[must_use]
    pub fn lives(&self) -> Lives {
        let patterns = vec![RESUMED.to_owned()];
        let subscribe = Subscribe { patterns, retained: false, ..Subscribe::default() };
        Lives(Some(self.subscribe(subscribe)))
    }
}

impl Lives {
    /// Returns when another life began; never where the registry does not say so, which is logged once. May be given up and
    /// called again.
    pub async fn next(&mut self) {
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
