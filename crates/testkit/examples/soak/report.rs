//! What a run was: its steps by kind with the longest recovery of each, what grew, and what was wrong.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

/// So many steps are told when something went wrong.
const TOLD: usize = 50;
/// What may come on top without being growth: memory in KiB, descriptors.
const SLACK: [u64; 2] = [1024, 8];

/// Memory in KiB and open descriptors of one process.
pub(crate) type Sample = [u64; 2];

#[derive(Default)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    kinds: BTreeMap<&'static str, (u64, Duration)>,
    /// What was done, the last one at the end.
    done: Vec<String>,
    /// By process.
    samples: BTreeMap<&'static str, Vec<Sample>>,
    pub(crate) skipped: u64,
    pub(crate) violations: Vec<String>,
}

impl Report {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(crate) fn begin(&mut self, step: String) {
        self.done.push(step);
    }

    pub(crate) fn end(&mut self, kind: &'static str, took: Duration) {
        let (count, longest) = self.kinds.entry(kind).or_default();
        *count += 1;
        *longest = took.max(*longest);
    }

    pub(crate) fn steps(&self) -> usize {
        self.done.len()
    }

    pub(crate) fn sample(&mut self, process: &'static str, sample: Sample) {
        self.samples.entry(process).or_default().push(sample);
    }

    /// Median of the first third and of the last third, for each process and measure.
    fn growth(&self) -> Vec<(&'static str, [(u64, u64); 2])> {
        let thirds = |(process, samples): (&&'static str, &Vec<Sample>)| {
            let third = samples.len() / 3;
            (third > 0).then(|| {
                let last = samples.len() - third;
                let of = |measure| {
                    let (first, last) = (&samples[..third], &samples[last..]);
                    (median(first, measure), median(last, measure))
                };
                (*process, [of(0), of(1)])
            })
        };
        self.samples.iter().filter_map(thirds).collect()
    }

    /// What grew by more than a quarter and the slack is wrong.
    pub(crate) fn judge_growth(&mut self) {
        for (process, measures) in self.growth() {
            for ((unit, slack), (first, last)) in
                ["KiB", "descriptors"].into_iter().zip(SLACK).zip(measures)
            {
                if last > first + first / 4 + slack {
                    self.violations.push(format!("{process} grew from {first} to {last} {unit}"));
                }
            }
        }
    }

    pub(crate) fn json(&self) -> Value {
        let kinds = self.kinds.iter().map(|(kind, (count, longest))| {
            json!({ "kind": kind, "count": count, "longest_ms": milliseconds(*longest) })
        });
        let growth = self.growth().into_iter().map(|(process, [memory, descriptors])| {
            json!({ "process": process, "memory_kib": [memory.0, memory.1],
                    "descriptors": [descriptors.0, descriptors.1] })
        });
        json!({
            "seed": self.seed,
            "steps": self.steps(),
            "skipped": self.skipped,
            "kinds": kinds.collect::<Vec<_>>(),
            "growth": growth.collect::<Vec<_>>(),
            "violations": self.violations,
            "last_steps": if self.violations.is_empty() { &[] } else { self.last() },
        })
    }

    fn last(&self) -> &[String] {
        &self.done[self.done.len().saturating_sub(TOLD)..]
    }

    pub(crate) fn print(&self) {
        println!("{:<16} {:>6} {:>20}", "step", "count", "longest recovery");
        for (kind, (count, longest)) in &self.kinds {
            println!("{kind:<16} {count:>6} {:>17} ms", milliseconds(*longest));
        }
        println!("{} steps, seed {}; {} left out", self.steps(), self.seed, self.skipped);
        for (process, [memory, descriptors]) in self.growth() {
            println!(
                "{process}: {} KiB, then {}; {} descriptors, then {}",
                memory.0, memory.1, descriptors.0, descriptors.1
            );
        }
        if !self.violations.is_empty() {
            println!("the last steps:");
            self.last().iter().for_each(|step| println!("  {step}"));
        }
        for violation in &self.violations {
            println!("WRONG: {violation}");
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn median(samples: &[Sample], measure: usize) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(|sample| sample[measure]).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(samples: impl IntoIterator<Item = Sample>) -> Vec<String> {
        let mut report = Report::new(1);
        samples.into_iter().for_each(|sample| report.sample("keeper", sample));
        report.judge_growth();
        report.violations
    }

    #[test]
    fn what_grows_steadily_is_told_and_one_outlier_is_not() {
        assert_eq!(violations((0..30).map(|turn| [5000 + turn, 50])), Vec::<String>::new());
        let once = (0..30).map(|turn| if turn == 25 { [90_000, 900] } else { [5000, 50] });
        assert_eq!(violations(once), Vec::<String>::new());
        let memory = violations((0..30).map(|turn| [5000 + 200 * turn, 50]));
        assert_eq!(memory, ["keeper grew from 6000 to 10000 KiB"]);
        let descriptors = violations((0..30).map(|turn| [5000, 50 + 2 * turn]));
        assert_eq!(descriptors, ["keeper grew from 60 to 100 descriptors"]);
    }

    #[test]
    fn the_last_fifty_steps_are_told_where_something_was_wrong() {
        let mut report = Report::new(1);
        (0..60).for_each(|number| report.begin(number.to_string()));
        assert_eq!(report.json()["last_steps"].as_array().unwrap().len(), 0);
        report.violations.push("lost".to_owned());
        let told = report.json();
        assert_eq!(told["last_steps"].as_array().unwrap().len(), 50);
        assert_eq!(told["last_steps"][49], "59");
    }
}
