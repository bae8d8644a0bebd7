//! What `top` shows and how keys change it. Decides everything, draws and asks nothing: lists, samples and the time
//! are given to it.

use std::{
    cmp::Ordering,
    collections::{HashMap, VecDeque},
    time::Duration,
};

use protocol::time::Moment;
use serde_json::Value;

use crate::status::{self, Row};

/// Lines of the log pane that are kept.
const LOG_MAX: usize = 500;

/// What a process used up to some moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Sample {
    pub(crate) processor: Duration,
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
    /// Its share of shared pages counted; needs the right to look into the process.
    pub(crate) proportional: Option<u64>,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) row: Row,
    pub(crate) sample: Option<Sample>,
    /// Tenths of a percent of one processor since the last look.
    pub(crate) processor: Option<u64>,
}

/// By what the table is sorted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Sort {
    #[default]
    Name,
    Processor,
    Memory,
    Restarts,
    Pid,
    State,
}

/// A key, as far as one means something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Key {
    Quit,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Sort(Sort),
    Log,
    Help,
}

/// The whole view.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) entries: Vec<Entry>,
    pub(crate) sort: Sort,
    /// The other way round.
    pub(crate) reversed: bool,
    /// Service and instance, so that sorting does not move it.
    selected: Option<(String, Option<String>)>,
    pub(crate) log: VecDeque<String>,
    pub(crate) log_shown: bool,
    pub(crate) help: bool,
    /// Why what is shown is old.
    pub(crate) trouble: Option<String>,
    last: HashMap<u32, (Moment, Duration)>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { log_shown: true, ..Self::default() }
    }

    /// Takes what the supervisor lists, and looks at each process once.
    pub(crate) fn update(
        &mut self,
        listed: &Value,
        now: Moment,
        look: impl Fn(u32) -> Option<Sample>,
    ) {
        let mut seen = HashMap::new();
        let rows = listed
            .as_object()
            .into_iter()
            .flatten()
            .flat_map(|(service, listed)| status::rows(service, listed));
        let entries = rows.map(|row| {
            let sample = row.pid.and_then(&look);
            let mut processor = None;
            if let (Some(pid), Some(sample)) = (row.pid, sample) {
                processor = self.last.get(&pid).and_then(|(then, before)| {
                    share(sample.processor.checked_sub(*before)?, now.since(*then))
                });
                seen.insert(pid, (now, sample.processor));
            }
            Entry { row, sample, processor }
        });
        self.entries = entries.collect();
        self.last = seen;
        self.trouble = None;
        self.arrange();
        if self.selected_index().is_none() {
            self.select(0);
        }
    }

    /// Does what a key says; `false`: it is over.
    pub(crate) fn press(&mut self, key: Key, page: usize) -> bool {
        let here = self.selected_index().unwrap_or(0);
        match key {
            Key::Quit => return false,
            Key::Up => self.select(here.saturating_sub(1)),
            Key::Down => self.select(here + 1),
            Key::PageUp => self.select(here.saturating_sub(page)),
            Key::PageDown => self.select(here + page),
            Key::First => self.select(0),
            Key::Last => self.select(usize::MAX),
            Key::Log => self.log_shown = !self.log_shown,
            Key::Help => self.help = !self.help,
            Key::Sort(sort) => {
                self.reversed = self.sort == sort && !self.reversed;
                self.sort = sort;
                self.arrange();
            }
        }
        true
    }

    /// The selected line.
    pub(crate) fn selected_index(&self) -> Option<usize> {
        let (service, instance) = self.selected.as_ref()?;
        self.entries
            .iter()
            .position(|entry| entry.row.service == *service && entry.row.instance == *instance)
    }

    /// Whose log is shown.
    pub(crate) fn selected_service(&self) -> Option<&str> {
        self.selected.as_ref().map(|(service, _)| service.as_str()).filter(|_| self.log_shown)
    }

    /// A line for the log pane.
    pub(crate) fn say(&mut self, line: String) {
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }

    fn select(&mut self, index: usize) {
        let last = self.entries.len().saturating_sub(1);
        let entry = self.entries.get(index.min(last));
        self.selected = entry.map(|entry| (entry.row.service.clone(), entry.row.instance.clone()));
    }

    fn arrange(&mut self) {
        let (sort, reversed) = (self.sort, self.reversed);
        self.entries.sort_by(|a, b| {
            let order = compare(sort, a, b);
            let order = if reversed { order.reverse() } else { order };
            order.then_with(|| by_name(a, b))
        });
    }
}

/// The largest first where it is a number, so that what stands out is on top.
fn compare(sort: Sort, a: &Entry, b: &Entry) -> Ordering {
    let memory = |entry: &Entry| entry.sample.map(|sample| sample.resident);
    match sort {
        Sort::Name => by_name(a, b),
        Sort::Processor => b.processor.cmp(&a.processor),
        Sort::Memory => memory(b).cmp(&memory(a)),
        Sort::Restarts => b.row.restarts.cmp(&a.row.restarts),
        Sort::Pid => a.row.pid.cmp(&b.row.pid),
        Sort::State => a.row.state.cmp(&b.row.state),
    }
}

fn by_name(a: &Entry, b: &Entry) -> Ordering {
    (&a.row.service, &a.row.instance).cmp(&(&b.row.service, &b.row.instance))
}

/// Tenths of a percent of one processor; none over no time at all.
fn share(used: Duration, over: Duration) -> Option<u64> {
    let share = used.as_micros().checked_mul(1000)?.checked_div(over.as_micros())?;
    u64::try_from(share).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    pub(crate) fn listed() -> Value {
        json!({
            "web": { "instances": {
                "a": { "running": true, "pid": 10, "state": "ready", "restarts": 2, "health": "ok",
                    "uptime_ms": 250_000, "status": "12 clients" },
                "b": { "running": false, "state": "held", "restarts": 9, "last_exit": "exit 3" },
            }},
            "cam": { "instances": { "instance1": { "running": true, "pid": 20, "state": "ready" } } },
            "idle": {},
        })
    }

    pub(crate) fn sample(pid: u32, milliseconds: u64) -> Sample {
        Sample {
            processor: Duration::from_millis(milliseconds),
            resident: u64::from(pid) << 20,
            proportional: (pid == 10).then_some(3 << 20),
        }
    }

    /// After two looks, a second apart: 10 used 250 ms meanwhile, 20 a tenth of it.
    pub(crate) fn model() -> Model {
        let mut model = Model::new();
        model.update(&listed(), Moment(SECOND), |pid| Some(sample(pid, 1000)));
        let later = |pid| Some(sample(pid, if pid == 10 { 1250 } else { 1025 }));
        model.update(&listed(), Moment(2 * SECOND), later);
        model
    }

    fn names(model: &Model) -> Vec<String> {
        let name = |entry: &Entry| {
            format!("{}/{}", entry.row.service, entry.row.instance.as_deref().unwrap_or("-"))
        };
        model.entries.iter().map(name).collect()
    }

    #[test]
    fn processor_time_is_what_was_used_since_the_last_look() {
        let mut first = Model::new();
        first.update(&listed(), Moment(SECOND), |pid| Some(sample(pid, 1000)));
        assert_eq!(first.entries[2].processor, None);
        let model = model();
        let of = |pid| model.entries.iter().find(|e| e.row.pid == Some(pid)).unwrap().processor;
        assert_eq!((of(10), of(20)), (Some(250), Some(25)));
    }

    #[test]
    fn a_new_process_under_an_old_pid_has_no_share_yet() {
        let mut model = model();
        model.update(&listed(), Moment(3 * SECOND), |pid| Some(sample(pid, 7)));
        assert!(model.entries.iter().all(|entry| entry.processor.is_none()));
        // No time passed: no share, and no division by nothing.
        model.update(&listed(), Moment(3 * SECOND), |pid| Some(sample(pid, 8)));
        assert!(model.entries.iter().all(|entry| entry.processor.is_none()));
    }

    #[test]
    fn the_table_is_sorted_by_keys_and_the_other_way_round_by_the_same_key() {
        let mut model = model();
        assert_eq!(names(&model), ["cam/instance1", "idle/-", "web/a", "web/b"]);
        model.press(Key::Sort(Sort::Processor), 1);
        assert_eq!(names(&model)[..2], ["web/a", "cam/instance1"]);
        model.press(Key::Sort(Sort::Memory), 1);
        assert_eq!(names(&model)[..2], ["cam/instance1", "web/a"]);
        model.press(Key::Sort(Sort::Restarts), 1);
        assert_eq!(names(&model)[..2], ["web/b", "web/a"]);
        model.press(Key::Sort(Sort::Restarts), 1);
        assert_eq!(names(&model)[3], "web/b");
        model.press(Key::Sort(Sort::Name), 1);
        assert_eq!(names(&model)[0], "cam/instance1");
    }

    #[test]
    fn the_selection_stays_with_its_instance_and_within_the_table() {
        let mut model = model();
        assert_eq!(model.selected_service(), Some("cam"));
        model.press(Key::Last, 1);
        assert_eq!(model.selected_index(), Some(3));
        model.press(Key::Down, 1);
        assert_eq!(model.selected_index(), Some(3));
        model.press(Key::Sort(Sort::Restarts), 1);
        assert_eq!((model.selected_index(), model.selected_service()), (Some(0), Some("web")));
        model.press(Key::Up, 1);
        model.press(Key::PageDown, 2);
        assert_eq!(model.selected_index(), Some(2));
        // What was selected is gone.
        model.update(&json!({"new": {}}), Moment(9 * SECOND), |_| None);
        assert_eq!(model.selected_service(), Some("new"));
        model.update(&json!({}), Moment(9 * SECOND), |_| None);
        assert_eq!((model.selected_index(), model.selected_service()), (None, None));
        assert!(model.press(Key::Down, 1) && !model.press(Key::Quit, 1));
    }

    #[test]
    fn the_log_pane_keeps_the_newest_lines() {
        let mut model = model();
        for number in 0..LOG_MAX + 5 {
            model.say(number.to_string());
        }
        assert_eq!((model.log.len(), model.log[0].as_str()), (LOG_MAX, "5"));
        model.press(Key::Log, 1);
        assert_eq!(model.selected_service(), None);
    }
}
