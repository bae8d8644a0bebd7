//! What the heartbeat broker is told: whom to expect, and whom not any more. The supervisor never waits for it: orders lie
//! here until a task beside the loop has brought them there, in their order for each application, and a broker that comes
//! back is told everything again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use endpoint::{Bus, CallError, CallOptions, Code};
use protocol::heartbeat::{Expect, Forget};
use tokio::{sync::Notify, task::JoinHandle};

use crate::machine::Happening;

/// The broker's object, and the service that is the broker.
const BROKER: &str = "heartbeat";
/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);
/// Between attempts; doubles from the first to the second. After so many the broker has to be started first.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 10;

/// The supervisor's side of the broker. Never printed: it holds keys.
pub(crate) struct Heartbeats {
    /// By slot; as many as there are instances at most.
    expected: BTreeMap<u32, Expect>,
    desk: Arc<Desk>,
    messenger: JoinHandle<()>,
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.messenger.abort();
    }
}

/// Orders on their way, one for each application.
#[derive(Default)]
struct Desk {
    orders: Mutex<BTreeMap<i32, Order>>,
    /// There are orders.
    filled: Notify,
    /// The broker is ready: nothing is worth waiting for any more.
    ready: Notify,
}

/// First what is forgotten, then what is expected.
#[derive(Clone, Default)]
struct Order {
    forget: Option<u32>,
    expect: Option<Expect>,
}

impl Heartbeats {
    pub(crate) fn start(bus: Bus) -> Self {
        let desk = Arc::new(Desk::default());
        let messenger = tokio::spawn(deliver(Arc::clone(&desk), bus));
        Self { expected: BTreeMap::new(), desk, messenger }
    }

    /// Which slot reports under this number.
    pub(crate) fn owner(&self, app_id: i32) -> Option<u32> {
        let mut expected = self.expected.iter();
        expected.find(|(_, expect)| expect.app_id == app_id).map(|(slot, _)| *slot)
    }

    /// A start of this slot is going to report.
    pub(crate) fn expect_new(&mut self, slot: u32, expect: Expect) {
        if expect.generation == 1 {
            // The slot's generations begin anew: the broker may know a later one, of another slot that had the number.
            self.forget_unknown(expect.app_id, u32::MAX);
        }
        self.expect(slot, expect);
    }

    /// A start of this slot reports, or is going to.
    pub(crate) fn expect(&mut self, slot: u32, expect: Expect) {
        if let Some(old) = self.expected.get(&slot).filter(|old| old.app_id != expect.app_id) {
            let (app_id, generation) = (old.app_id, old.generation);
            self.forget_unknown(app_id, generation);
        }
        self.desk.put(expect.app_id, None, Some(expect.clone()));
        self.expected.insert(slot, expect);
    }

    /// Nothing is expected any more of this generation and those before it.
    pub(crate) fn forget(&mut self, slot: u32, generation: u32) {
        if self.expected.get(&slot).is_none_or(|expect| expect.generation > generation) {
            return;
        }
        if let Some(expect) = self.expected.remove(&slot) {
            self.forget_unknown(expect.app_id, expect.generation);
        }
    }

    /// As [`Heartbeats::forget`], for what an earlier supervisor expected.
    pub(crate) fn forget_unknown(&self, app_id: i32, generation: u32) {
        self.desk.put(app_id, Some(generation), None);
    }

    /// Notices that the broker was started, and tells it everything.
    pub(crate) fn look_at(&self, happening: &Happening) {
        if happening.topic != "service.ready" || happening.data["service"] != BROKER {
            return;
        }
        for expect in self.expected.values() {
            self.desk.put(expect.app_id, None, Some(expect.clone()));
        }
        self.desk.ready.notify_one();
    }
}

impl Desk {
    fn orders(&self) -> MutexGuard<'_, BTreeMap<i32, Order>> {
        self.orders.lock().expect("nothing panics while it holds the orders")
    }

    /// A newer order takes the place of one that has not gone out; what was to be forgotten still is.
    fn put(&self, app_id: i32, forget: Option<u32>, expect: Option<Expect>) {
        let mut orders = self.orders();
        let order = orders.entry(app_id).or_default();
        order.forget = order.forget.max(forget);
        order.expect = expect;
        self.filled.notify_one();
    }

    fn take(&self) -> Option<(i32, Order)> {
        self.orders().pop_first()
    }

    /// It did not go out: it is still to, unless there is a newer one.
    fn put_back(&self, app_id: i32, old: Order) {
        let mut orders = self.orders();
        match orders.get_mut(&app_id) {
            Some(newer) => newer.forget = newer.forget.max(old.forget),
            None => drop(orders.insert(app_id, old)),
        }
    }
}

/// Brings orders to the broker, one after the other.
async fn deliver(desk: Arc<Desk>, bus: Bus) {
    let (mut attempts, mut pause) = (0, PAUSE);
    loop {
        let Some((app_id, order)) = desk.take() else {
            desk.filled.notified().await;
            continue;
        };
        match carry_out(&bus, app_id, &order).await {
            Ok(()) => (attempts, pause) = (0, PAUSE),
            Err(error) => {
                desk.put_back(app_id, order);
                attempts += 1;
                if attempts < ATTEMPTS {
                    tracing::debug!(
                        "the heartbeat broker can't be told of application {app_id}: {error}"
                    );
                    let pause_over = tokio::time::sleep(pause);
                    tokio::select! { () = pause_over => {}, () = desk.ready.notified() => {} }
                    pause = (pause * 2).min(PAUSE_MAX);
                } else {
                    tracing::warn!(
                        "the heartbeat broker can't be told whom to expect; it is told when it is ready: {error}"
                    );
                    desk.ready.notified().await;
                    (attempts, pause) = (0, PAUSE);
                }
            }
        }
    }
}

/// `Err` where it may work later.
async fn carry_out(bus: &Bus, app_id: i32, order: &Order) -> Result<(), CallError> {
    let options = || CallOptions { deadline: CALL, ..CallOptions::safe() };
    if let Some(generation) = order.forget {
        let forget = Forget { app_id, generation };
        later(app_id, bus.call(BROKER, "forget", &forget, options()).await.map(drop))?;
    }
    if let Some(expect) = &order.expect {
        later(app_id, bus.call(BROKER, "expect", expect, options()).await.map(drop))?;
    }
    Ok(())
}

/// A broker that says no is not asked again; what it said is worth knowing.
fn later(app_id: i32, outcome: Result<(), CallError>) -> Result<(), CallError> {
    match outcome {
        Err(CallError::Refused(failure))
            if !matches!(failure.code, Code::Busy | Code::Gone | Code::Cancelled) =>
        {
            tracing::error!(
                "the heartbeat broker refuses application {app_id}, whose heartbeats nobody watches: {failure}"
            );
            Ok(())
        }
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use protocol::name::Name;

    use super::*;

    fn expect(app_id: i32, generation: u32) -> Expect {
        let name = |text: &str| Name::new(text).unwrap();
        Expect {
            service: name("camera"),
            instance: name("front"),
            app_id,
            generation,
            key: None,
            period_ms: 1000,
            misses: 3,
            grace_ms: 0,
            progress_ms: 0,
            adaptive: false,
            frozen: false,
        }
    }

    /// No messenger: what lies on the desk is what would go out.
    fn idle() -> Heartbeats {
        let messenger = tokio::spawn(async {});
        Heartbeats { expected: BTreeMap::new(), desk: Arc::default(), messenger }
    }

    fn next(heartbeats: &Heartbeats) -> Option<(i32, Option<u32>, Option<u32>)> {
        let (app_id, Order { forget, expect }) = heartbeats.desk.take()?;
        Some((app_id, forget, expect.map(|expect| expect.generation)))
    }

    #[tokio::test]
    async fn what_is_forgotten_goes_out_before_what_is_expected_next() {
        let mut heartbeats = idle();
        heartbeats.expect(1, expect(7, 4));
        assert_eq!(next(&heartbeats), Some((7, None, Some(4))));
        heartbeats.forget(1, 4);
        heartbeats.expect(1, expect(7, 5));
        assert_eq!(next(&heartbeats), Some((7, Some(4), Some(5))));
        heartbeats.forget(1, 4);
        assert_eq!(next(&heartbeats), None, "the end of an earlier start");
        heartbeats.expect(1, expect(8, 6));
        assert_eq!(next(&heartbeats), Some((7, Some(5), None)));
        assert_eq!(next(&heartbeats), Some((8, None, Some(6))));
        heartbeats.expect_new(2, expect(9, 1));
        assert_eq!(
            next(&heartbeats),
            Some((9, Some(u32::MAX), Some(1))),
            "a slot that begins anew"
        );
        heartbeats.expect(2, expect(9, 1));
        assert_eq!(
            next(&heartbeats),
            Some((9, None, Some(1))),
            "the same again keeps what is known"
        );
    }

    #[tokio::test]
    async fn an_order_that_did_not_go_out_gives_way_to_a_newer_one_and_only_to_that() {
        let mut heartbeats = idle();
        heartbeats.expect(1, expect(7, 4));
        heartbeats.forget(1, 4);
        let (app_id, old) = heartbeats.desk.take().unwrap();
        heartbeats.desk.put_back(app_id, old.clone());
        assert_eq!(next(&heartbeats), Some((7, Some(4), None)));
        heartbeats.expect(1, expect(7, 5));
        heartbeats.desk.put_back(app_id, old);
        assert_eq!(next(&heartbeats), Some((7, Some(4), Some(5))));
    }

    #[tokio::test]
    async fn a_broker_that_is_ready_is_told_of_everybody() {
        let mut heartbeats = idle();
        heartbeats.expect(1, expect(7, 4));
        heartbeats.expect(2, expect(8, 9));
        while next(&heartbeats).is_some() {}
        let ready = |service: &str| Happening {
            topic: "service.ready",
            data: serde_json::json!({ "service": service }),
        };
        heartbeats.look_at(&ready("camera"));
        assert_eq!(next(&heartbeats), None);
        heartbeats.look_at(&ready("heartbeat"));
        assert_eq!(next(&heartbeats), Some((7, None, Some(4))));
        assert_eq!(next(&heartbeats), Some((8, None, Some(9))));
    }
}
