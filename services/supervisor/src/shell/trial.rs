//! The boot loader waits for the upgrade agent to say that a boot was good. An agent that lives reboots by itself where that
//! doesn't come in time; this does it for an agent that isn't there. On PID 1 only, and it never says that a boot was good.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use daemon::places::Places;
use protocol::{keeper::ShutdownKind, name::Name, system::Cause, time::Moment};
use serde::Deserialize;

use super::{Shell, kernel};
use crate::settings::{files::read_text, units};

/// The service that says it.
const AGENT: &str = "upgrade";
/// `trial-limit` of upgrade.toml, where it isn't given.
const LIMIT: Duration = Duration::from_secs(600);
/// What the agent takes; with anything else in the file it serves nobody, and says so.
const LIMITS: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(24 * 3600);
/// The agent's own limit comes first, which counts from its first start; and a supervisor that takes over looks around first.
const GRACE: Duration = Duration::from_secs(60);
/// The loader's word for the set that it chose.
const SLOT: &str = "vestal.slot=";
const FILE_MAX: u64 = 64 << 10;
const SETTINGS_MAX: u64 = 1 << 20;

/// A boot that nobody has called good yet.
#[derive(Debug)]
pub(crate) struct Trial {
    due: Moment,
    /// What the agent knows of this boot.
    record: PathBuf,
    boot_id: String,
}

/// As the agent keeps it in RUN_DIR/upgrade/boot.json.
#[derive(Deserialize)]
struct Boot {
    id: String,
    healthy: bool,
}

impl Trial {
    /// Nothing where no loader waits for anything.
    pub(super) fn begin(places: &Places, now: Moment) -> Option<Self> {
        let line = kernel::line();
        let settings = places.config.as_deref()?.join("upgrade.toml");
        // The agent says what is wrong with the file; a device must not reboot again and again for a mistyped one.
        let settings = read_text(&settings, SETTINGS_MAX).ok()?;
        let limit = limit(&line, &settings)?;
        Some(Self::of(places, kernel::boot_id()?, limit, now))
    }

    /// The clock counts from the boot on.
    fn of(places: &Places, boot_id: String, limit: Duration, now: Moment) -> Self {
        let due = (Moment::default() + limit + GRACE).max(now + GRACE);
        Self { due, record: places.run.join("upgrade/boot.json"), boot_id }
    }

    pub(super) fn due(&self) -> Moment {
        self.due
    }

    fn is_good(&self) -> bool {
        let text = read_text(&self.record, FILE_MAX).unwrap_or_default();
        serde_json::from_str::<Boot>(&text)
            .is_ok_and(|boot| boot.healthy && boot.id == self.boot_id)
    }
}

impl Shell {
    /// The time is over: once, and for all of this boot.
    pub(super) fn look_at_trial(&mut self, now: Moment) {
        let Some(trial) = self.trial.take_if(|trial| trial.due <= now) else { return };
        let agent = Name::new(AGENT).ok();
        let agent = agent.map(|name| self.machine.view(Some(&name))).unwrap_or_default();
        // One that runs has a limit of its own; one that hangs or ends is restarted, and is critical.
        if trial.is_good() || agent.iter().any(|instance| instance.running) {
            return;
        }
        tracing::error!(
            "the boot loader waits for this boot to be called good, and the upgrade agent, which would, is not running: \
             rebooting; where no loader waits, write boot-control = {{ kind = \"none\" }} in upgrade.toml"
        );
        let reason = "nobody called this boot good in time, and no upgrade agent was running";
        self.end_everything(ShutdownKind::Reboot, Cause::Trial, reason.to_owned());
    }
}

/// How long it may take, where a loader chose a set and the device's settings name a loader.
fn limit(line: &str, settings: &str) -> Option<Duration> {
    let mut words = line.split_ascii_whitespace();
    if !words.any(|word| word.strip_prefix(SLOT).is_some_and(|letter| !letter.is_empty())) {
        return None;
    }
    let settings: toml::Table = settings.parse().ok()?;
    let kind = settings.get("boot-control")?.get("kind")?.as_str()?;
    if kind == "none" {
        return None;
    }
    let limit = settings.get("trial-limit").and_then(toml::Value::as_str);
    let limit = limit.map_or(Some(LIMIT), |text| units::duration(text).ok());
    limit.filter(|limit| LIMITS.contains(limit))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CHOSEN: &str = "quiet vestal.slot=B panic=10\n";
    const LOADER: &str = "boot-control = { kind = \"uboot\", config = \"/etc/fw_env.config\" }\n";

    fn at(seconds: u64) -> Moment {
        Moment::default() + Duration::from_secs(seconds)
    }

    #[test]
    fn the_limit_holds_only_where_a_loader_chose_and_the_settings_name_it() {
        assert_eq!(limit(CHOSEN, LOADER), Some(LIMIT));
        let longer = format!("trial-limit = \"30m\"\n{LOADER}");
        assert_eq!(limit(CHOSEN, &longer), Some(Duration::from_secs(1800)));
        for line in ["", "quiet", "vestal.slot=", "xvestal.slot=A"] {
            assert_eq!(limit(line, LOADER), None, "{line}");
        }
        for settings in ["", "boot-control = { kind = \"none\" }", "boot-control = {"] {
            assert_eq!(limit(CHOSEN, settings), None, "{settings}");
        }
        for wrong in ["soon", "1s", "none"] {
            let settings = format!("trial-limit = {wrong:?}\n{LOADER}");
            assert_eq!(limit(CHOSEN, &settings), None, "{wrong}");
        }
    }

    #[test]
    fn it_counts_from_the_boot_but_a_late_supervisor_looks_around_first() {
        let places = Places { run: "/r".into(), config: None, state: "/s".into(), uci: None };
        let due = |now| Trial::of(&places, "one".to_owned(), LIMIT, at(now)).due();
        assert_eq!(due(5), at(660));
        assert_eq!(due(400), at(660));
        assert_eq!(due(9000), at(9060));
    }

    #[test]
    fn only_the_agents_word_for_this_boot_counts() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().to_owned();
        fs::create_dir(run.join("upgrade")).unwrap();
        let places = Places { run, config: None, state: "/s".into(), uci: None };
        let trial = Trial::of(&places, "one".to_owned(), LIMIT, at(5));
        assert!(!trial.is_good());
        for (text, is_good) in [
            (r#"{"id":"one","first":7,"healthy":true}"#, true),
            (r#"{"id":"one","first":7,"healthy":false}"#, false),
            (r#"{"id":"two","first":7,"healthy":true}"#, false),
            ("{", false),
        ] {
            fs::write(folder.path().join("upgrade/boot.json"), text).unwrap();
            assert_eq!(trial.is_good(), is_good, "{text}");
        }
    }
}
