//! How everything stands, for `heartbeat.list`. Decides nothing.

use protocol::{
    heartbeat::{Row, State},
    time::Moment,
};

use super::{Broker, SessionId, application::Application};

impl Broker {
    /// All applications by number, each with the connection that it speaks on.
    pub(crate) fn rows(&self, now: Moment) -> Vec<(Row, Option<SessionId>)> {
        let mut rows: Vec<_> = self.apps.values().map(|app| (row(app, now), app.session)).collect();
        rows.sort_unstable_by_key(|(row, _)| row.app_id);
        rows
    }
}

fn row(app: &Application, now: Moment) -> Row {
    let (service, instance) = app.names();
    let silence = app.reported.filter(|_| app.has_come()).map(|last| now.since(last));
    Row {
        app_id: app.id,
        service,
        instance,
        generation: app.generation,
        state: if app.is_late(now) { State::Late } else { app.state },
        authenticated: app.key.is_some(),
        pid: app.pid,
        address: app.address.map(|address| address.to_string()),
        period_ms: u32::try_from(app.terms.period.as_millis()).unwrap_or(u32::MAX),
        misses: u32::from(app.terms.misses),
        age_ms: app.reported.map(|_| app.age_ms(now)),
        reports: app.reports,
        status: app.status,
        progress: app.progress,
        // The connection knows.
        round_trip_us: None,
        jitter_us: app
            .arrivals
            .jitter()
            .map(|jitter| u64::try_from(jitter.as_micros()).unwrap_or(u64::MAX)),
        retransmitted: app.retransmitted,
        phi: silence.and_then(|silence| app.arrivals.phi(silence)),
    }
}
