//! What the supervisor and the configuration say: who is expected to report, and who not any more.

use std::time::Duration;

use protocol::{
    failure::{Code, Failure},
    heartbeat::{Expect, Forget, Key, State},
    time::Moment,
};

use super::{
    Broker,
    application::{Application, Origin, Telling, Terms},
};
use crate::settings::Rules;

/// So long after a start the instances that are told of may run already, and find out only at their next report that
/// they must connect again.
const SETTLING: Duration = Duration::from_secs(60);

impl Broker {
    pub(super) fn expect(&mut self, expect: Expect, now: Moment) -> Result<(), Failure> {
        let key = expect.key.as_deref().map(key).transpose()?;
        let mut terms = self.rules.terms_of(&expect, key.is_some())?;
        if now.since(self.started) < SETTLING && !terms.grace.is_zero() {
            let silence = terms.period * u32::from(terms.misses);
            terms.grace = terms.grace.max(silence + Duration::from_secs(1));
        }
        let Expect { app_id, generation, service, instance, .. } = expect;
        let frozen = expect.frozen;
        let origin = Origin::Supervisor { service, instance, timed: key.is_some() };
        if let Some(app) = self.apps.get_mut(&app_id).filter(|app| app.origin == origin) {
            if generation < app.generation {
                return Ok(());
            }
            if generation == app.generation && app.key == key {
                // Said again: by a new supervisor, or with other terms. What is known of it stays.
                app.terms = terms;
                app.freeze(frozen, now);
                if app.state == State::Missed && !frozen && app.telling != Telling::UnderWay {
                    app.telling = Telling::Queued;
                    self.to_tell.insert(app_id);
                }
                self.arm(app_id);
                return Ok(());
            }
        }
        self.remove_application(app_id);
        if self.is_full() {
            let text = format!(
                "{} applications are known already, which is the limit; raise limits.applications in heartbeat.toml",
                self.apps.len()
            );
            return Err(Failure::new(Code::Limit, text));
        }
        let mut app = Application::new(app_id, origin, key, terms, now);
        app.generation = generation;
        app.frozen = frozen;
        self.apps.insert(app_id, app);
        self.arm(app_id);
        Ok(())
    }

    pub(super) fn forget(&mut self, forget: Forget, now: Moment) {
        let meant = |app: &Application| {
            matches!(app.origin, Origin::Supervisor { .. }) && app.generation <= forget.generation
        };
        if self.apps.get(&forget.app_id).is_some_and(meant) {
            self.remove_application(forget.app_id);
            // The configuration may know one of this number.
            self.configure(now);
        }
    }

    /// Makes the configuration's applications what the rules say; what the supervisor expects is left alone.
    pub(super) fn configure(&mut self, now: Moment) {
        let of_configuration = |app: &&Application| app.origin == Origin::Configuration;
        let known = self.apps.values().filter(of_configuration);
        let changed: Vec<i32> = known
            .filter(|app| {
                let rule = self.rules.apps.get(&app.id);
                rule.is_none_or(|rule| rule.key != app.key)
            })
            .map(|app| app.id)
            .collect();
        for id in changed {
            self.remove_application(id);
        }
        let ids: Vec<i32> = self.rules.apps.keys().copied().collect();
        for id in ids {
            let terms = self.rules.terms_for(id);
            match self.apps.get_mut(&id) {
                Some(app) if app.origin == Origin::Configuration => {
                    // What it asked for itself stays, unless the file says something.
                    let asked = app.terms.period;
                    let fixed = self.rules.apps.get(&id).is_some_and(|app| app.period.is_some());
                    app.terms = Terms { period: if fixed { terms.period } else { asked }, ..terms };
                }
                Some(app) if app.origin == Origin::Itself => self.remove_application(id),
                Some(_) => continue,
                None => {}
            }
            if !self.apps.contains_key(&id) && !self.is_full() {
                let key = self.rules.apps.get(&id).and_then(|app| app.key);
                let app = Application::new(id, Origin::Configuration, key, terms, now);
                self.apps.insert(id, app);
            }
            self.arm(id);
        }
    }

    pub(super) fn remove_application(&mut self, id: i32) {
        let Some(app) = self.apps.remove(&id) else { return };
        self.unexpected.remove(&id);
        self.to_tell.remove(&id);
        if let Some(session) = app.session {
            self.close_session(session);
        }
    }
}

impl Rules {
    /// For an application that the supervisor doesn't know.
    pub(super) fn terms_for(&self, id: i32) -> Terms {
        let app = self.apps.get(&id).cloned().unwrap_or_default();
        Terms {
            period: app.period.unwrap_or(self.limits.period),
            misses: app.misses.unwrap_or(self.limits.misses),
            grace: Duration::ZERO,
            progress: app.progress.unwrap_or(Duration::ZERO),
            phi: app.adaptive.unwrap_or(self.adaptive).then_some(self.phi_threshold),
        }
    }

    /// What the file says, else what the application asks for, within the limits.
    pub(super) fn period_for(&self, id: i32, asked_ms: u32) -> Duration {
        let fixed = self.apps.get(&id).and_then(|app| app.period);
        let asked = Duration::from_millis(u64::from(asked_ms));
        fixed.unwrap_or_else(|| match asked_ms {
            0 => self.limits.period,
            _ => asked.clamp(self.limits.period_min, self.limits.period_max),
        })
    }

    fn terms_of(&self, expect: &Expect, timed: bool) -> Result<Terms, Failure> {
        let ms = |ms: u32| Duration::from_millis(u64::from(ms));
        let Expect { app_id, period_ms, misses, .. } = expect;
        let (period, least, most) =
            (ms(*period_ms), self.limits.period_min, self.limits.period_max);
        if timed && !(least..=most).contains(&period) {
            let text = format!(
                "period of {period_ms} ms for application {app_id} is outside {} to {} ms; see limits in heartbeat.toml",
                least.as_millis(),
                most.as_millis()
            );
            return Err(Failure::new(Code::InvalidArgument, text));
        }
        let Some(misses) = u8::try_from(*misses).ok().filter(|misses| *misses > 0 || !timed) else {
            let text = format!("{misses} misses for application {app_id}; 1 to 255 are possible");
            return Err(Failure::new(Code::InvalidArgument, text));
        };
        Ok(Terms {
            period,
            misses,
            grace: ms(expect.grace_ms),
            progress: ms(expect.progress_ms),
            phi: (expect.adaptive || self.adaptive).then_some(self.phi_threshold),
        })
    }
}

/// A key in hexadecimal digits. What it was is never in the failure.
fn key(text: &str) -> Result<Key, Failure> {
    crate::settings::key_of_digits(text).ok_or_else(|| {
        let text = format!("key of {} characters; 32 hexadecimal digits are needed", text.len());
        Failure::new(Code::InvalidArgument, text)
    })
}
