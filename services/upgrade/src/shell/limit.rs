//! How long a booted device may go without being found healthy. Counted from the first start of this program in a boot, whatever
//! became of that process, so that a late installation or a restart of the agent reboots nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use daemon::files;
use protocol::time::Moment;
use serde::{Deserialize, Serialize};

use super::facts;

const FILE: &str = "boot.json";
const FILE_MAX: u64 = 4096;

/// What is known of this boot; on tmpfs.
#[derive(Debug, Deserialize, Serialize)]
struct Boot {
    id: String,
    first: Moment,
    healthy: bool,
}

/// The limit, as long as it stands.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) due: Moment,
    path: PathBuf,
    boot: Boot,
}

impl Limit {
    /// Nothing where the loader chose nothing, or the device was found healthy in this boot.
    pub(crate) fn open(folder: &Path, limit: Duration, now: Moment) -> Option<Self> {
        let start = facts::start(&mut Vec::new());
        start.running?;
        Self::of(folder, start.boot_id, limit, now)
    }

    fn of(folder: &Path, id: String, limit: Duration, now: Moment) -> Option<Self> {
        let path = folder.join(FILE);
        let known = files::read_text(&path, FILE_MAX).ok();
        let known = known.and_then(|text| serde_json::from_str::<Boot>(&text).ok());
        let boot = known.filter(|boot| boot.id == id && boot.first <= now);
        let new = boot.is_none();
        let boot = boot.unwrap_or(Boot { id, first: now, healthy: false });
        let limit = Self { due: boot.first + limit, path, boot };
        if new {
            limit.keep();
        }
        (!limit.boot.healthy).then_some(limit)
    }

    pub(crate) fn found_healthy(mut self) {
        self.boot.healthy = true;
        self.keep();
    }

    fn keep(&self) {
        let json = serde_json::to_vec(&self.boot).unwrap_or_default();
        let folder = self.path.parent().map_or(Ok(()), fs::create_dir_all);
        let new = self.path.with_extension("new");
        let kept =
            folder.and_then(|()| fs::write(&new, json)).and_then(|()| fs::rename(&new, &self.path));
        if let Err(error) = kept {
            let path = self.path.display();
            tracing::warn!(
                "{path}: {error}; the limit of the trial begins anew when the agent is restarted"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(600);

    #[test]
    fn the_limit_counts_from_the_first_start_in_a_boot_and_ends_with_health() {
        let folder = tempfile::tempdir().unwrap();
        let at = |seconds: u64| Moment(seconds * 1_000_000_000);
        let open = |id: &str, now| Limit::of(folder.path(), id.to_owned(), LIMIT, at(now));
        assert_eq!(open("one", 5_000).unwrap().due, at(5_600));
        let restarted = open("one", 5_300).unwrap();
        assert_eq!(restarted.due, at(5_600));
        restarted.found_healthy();
        assert!(open("one", 5_400).is_none());
        assert_eq!(open("two", 10).unwrap().due, at(610), "another boot");
    }
}
