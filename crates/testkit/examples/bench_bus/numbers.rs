//! From single measurements to rows, tables, goals and the line of JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// What wasn't measured: blank in a table, null in JSON.
pub(crate) const NONE: f64 = f64::NAN;

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Times {
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let last = times.len().saturating_sub(1);
        let at = |percent: usize| {
            let place = (times.len() * percent / 100).min(last);
            times.get(place).map_or(NONE, |time| micros(*time))
        };
        Self { p50: at(50), p95: at(95), p99: at(99), max: at(100) }
    }
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub(crate) fn float(count: usize) -> f64 {
    count as f64
}

/// The same figures of several rounds.
#[derive(Default)]
pub(crate) struct Rounds(Vec<Vec<f64>>);

impl Rounds {
    pub(crate) fn push(&mut self, figures: &[f64]) {
        self.0.push(figures.to_vec());
    }

    /// The median of each figure.
    pub(crate) fn medians(&self) -> Vec<f64> {
        let columns = self.0.first().map_or(0, Vec::len);
        (0..columns).map(|at| median(self.0.iter().map(|round| round[at]).collect())).collect()
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(NONE)
}

/// One table; the first column says what was measured.
pub(crate) struct Table {
    section: &'static str,
    columns: &'static [&'static str],
    rows: Vec<(String, Vec<f64>)>,
}

impl Table {
    pub(crate) fn new(section: &'static str, columns: &'static [&'static str]) -> Self {
        Self { section, columns, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, what: impl Into<String>, figures: &[f64]) {
        self.rows.push((what.into(), figures.to_vec()));
    }

    fn print(&self) {
        println!("\n| {} | {} |", self.section, self.columns.join(" | "));
        println!("|{}", " --- |".repeat(self.columns.len() + 1));
        for (what, figures) in &self.rows {
            let figures: Vec<String> = figures.iter().map(|figure| shown(*figure)).collect();
            println!("| {what} | {} |", figures.join(" | "));
        }
    }

    fn json(&self) -> impl Iterator<Item = Value> {
        self.rows.iter().map(|(what, figures)| {
            let mut object = Map::new();
            object.insert("section".to_owned(), self.section.into());
            object.insert("what".to_owned(), what.as_str().into());
            for (column, figure) in self.columns.iter().zip(figures) {
                object.insert((*column).to_owned(), json!(rounded(*figure)));
            }
            Value::Object(object)
        })
    }
}

/// Three or four digits are all that can be believed.
fn shown(figure: f64) -> String {
    match figure {
        _ if figure.is_nan() => String::new(),
        _ if figure.abs() >= 100.0 => format!("{figure:.0}"),
        _ if figure.fract() == 0.0 => format!("{figure:.0}"),
        _ => format!("{figure:.2}"),
    }
}

fn rounded(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

/// Everything that was measured so far.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Value>,
    goals: Vec<(String, f64, f64)>,
}

impl Report {
    pub(crate) fn add(&mut self, table: &Table) {
        table.print();
        self.rows.extend(table.json());
    }

    /// `found` should be at most `limit`.
    pub(crate) fn goal(&mut self, what: impl Into<String>, limit: f64, found: f64) {
        self.goals.push((what.into(), limit, found));
    }

    pub(crate) fn finish(self) {
        if !self.goals.is_empty() {
            println!("\n| goal | at most | here | |\n| --- | --- | --- | --- |");
        }
        for (what, limit, found) in &self.goals {
            let verdict = if found <= limit { "met" } else { "missed" };
            println!("| {what} | {} | {} | {verdict} |", shown(*limit), shown(*found));
        }
        let goals = self.goals.iter().map(|(what, limit, found)| {
            let here = rounded(*found);
            json!({ "goal": what, "at_most": limit, "here": here, "met": found <= limit })
        });
        let goals: Vec<Value> = goals.collect();
        println!("\n{}", json!({ "rows": self.rows, "goals": goals }));
    }
}
