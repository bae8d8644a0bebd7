//! `vestalctl driver probe`: calls as they are made. On a terminal a table of the functions, else a line a call. With `--state` the
//! driver's state by name, again and again.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{IsTerminal as _, stdout},
    time::Duration,
};

use daemon::clock;
use endpoint::CallError;
use protocol::{
    driver::{Field, Hit, Probe},
    time::Moment,
};
use serde_json::Value;

use super::{explained, host, object, show};
use crate::{
    bus::Bus,
    cli::DriverProbe,
    error::Error,
    lines::Lines,
    output::Output,
    table::{Table, clean},
};

/// Durations of a function that its percentiles are taken of: the latest ones.
const KEPT: usize = 1024;
/// Functions that the table has room for.
const FUNCTIONS_MAX: usize = 256;

pub(super) async fn calls(bus: &Bus, out: Output, given: &DriverProbe) -> Result<(), Error> {
    let failed = |error: CallError| explained(error, Some(&given.name));
    let wanted = Probe { functions: given.functions.clone() };
    let mut stream = bus.follow(&object(&given.name), "probe", &wanted).await.map_err(failed)?;
    let mut lines = Lines::default();
    let live = stdout().is_terminal() && !out.json;
    let mut seen = Seen::new(&given.functions, clock::now());
    let mut screen = Screen::default();
    let mut tick = tokio::time::interval(given.every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let piece = tokio::select! {
            _ = tick.tick(), if live => {
                screen.draw(&seen.text(clock::now()))?;
                continue;
            }
            piece = stream.next() => piece.map_err(failed)?,
        };
        let Some(piece) = piece else {
            let text =
                format!("the host of {} ended the probe; it may have been restarted", given.name);
            return Err(Error::failed(text));
        };
        for line in lines.push::<Value>(&piece)? {
            let Ok(hit) = serde_json::from_value::<Hit>(line.clone()) else {
                // What the host has to say of the probe itself.
                let said = line["note"].as_str().map_or_else(|| line.to_string(), str::to_owned);
                eprintln!("vestalctl: {}", clean(&said));
                continue;
            };
            let text = match (live, out.json) {
                (true, _) => String::new(),
                (false, true) => format!("{line}\n"),
                (false, false) => line_of(&hit),
            };
            if !Output::stream(&text)? {
                return Ok(());
            }
            seen.hit(hit);
            if given.count.is_some_and(|count| seen.calls >= count) {
                return if live { screen.draw(&seen.text(clock::now())) } else { Ok(()) };
            }
        }
    }
}

pub(super) async fn state(bus: &Bus, out: Output, given: &DriverProbe) -> Result<(), Error> {
    let live = stdout().is_terminal() && !out.json;
    let mut screen = Screen::default();
    let mut tick = tokio::time::interval(given.every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looks = 0;
    loop {
        tick.tick().await;
        let fields: Vec<Field> = host(bus, &given.name, "state").await?;
        if live {
            screen.draw(&show::state(&fields))?;
        } else {
            let text = match out.json {
                true => serde_json::to_string(&fields).expect("fields hold only JSON") + "\n",
                // Blank lines part the looks.
                false => format!("{}{}", if looks > 0 { "\n" } else { "" }, show::state(&fields)),
            };
            if !Output::stream(&text)? {
                return Ok(());
            }
        }
        looks += 1;
        if given.count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
    }
}

/// Text that is written over again and again, and stays when the program ends.
#[derive(Default)]
struct Screen {
    /// Lines of the last text, which the cursor goes up by.
    lines: usize,
}

impl Screen {
    fn draw(&mut self, text: &str) -> Result<(), Error> {
        let width =
            rustix::termios::tcgetwinsize(stdout()).map_or(80, |size| usize::from(size.ws_col));
        let drawn = self.next(text, width.max(20));
        Output::text(&drawn)
    }

    /// A line that were longer than the terminal is wide would be two, and the cursor would not go back far enough.
    fn next(&mut self, text: &str, width: usize) -> String {
        let mut drawn = match self.lines {
            0 => String::new(),
            lines => format!("\x1b[{lines}F\x1b[J"),
        };
        for line in text.lines() {
            drawn.extend(line.chars().take(width));
            drawn.push('\n');
        }
        self.lines = text.lines().count();
        drawn
    }
}

/// What a probe has shown so far.
struct Seen {
    functions: BTreeMap<String, Of>,
    calls: u64,
    lost: u64,
    looked: Moment,
}

/// One function.
#[derive(Default)]
struct Of {
    calls: u64,
    /// Since the last look.
    fresh: u64,
    negative: u64,
    durations: VecDeque<u64>,
    last: Option<Hit>,
}

impl Seen {
    fn new(functions: &[String], now: Moment) -> Self {
        let functions = functions.iter().map(|name| (name.clone(), Of::default())).collect();
        Self { functions, calls: 0, lost: 0, looked: now }
    }

    fn hit(&mut self, hit: Hit) {
        self.calls += 1;
        self.lost += hit.lost;
        if !self.functions.contains_key(&hit.function) && self.functions.len() >= FUNCTIONS_MAX {
            return;
        }
        let of = self.functions.entry(hit.function.clone()).or_default();
        of.calls += 1;
        of.fresh += 1;
        of.negative += u64::from(hit.result.is_some_and(|result| result < 0));
        if let Some(duration) = hit.duration_ns {
            if of.durations.len() >= KEPT {
                of.durations.pop_front();
            }
            of.durations.push_back(duration);
        }
        of.last = Some(hit);
    }

    /// The table, and a new interval for the rates.
    fn text(&mut self, now: Moment) -> String {
        let passed = now.since(self.looked);
        self.looked = now;
        let mut table =
            Table::new(&["FUNCTION", ">CALLS", ">PER S", ">ERRORS", ">P50", ">P99", "LAST CALL"]);
        for (name, of) in &mut self.functions {
            let mut sorted: Vec<_> = of.durations.iter().copied().collect();
            sorted.sort_unstable();
            let percentile = |share| at(&sorted, share).map(show::nanos).unwrap_or_default();
            table.row([
                name.into(),
                of.calls.to_string().into(),
                rate(std::mem::take(&mut of.fresh), passed).into(),
                of.negative.to_string().into(),
                percentile(50).into(),
                percentile(99).into(),
                of.last.as_ref().map(made).unwrap_or_default().into(),
            ]);
        }
        let lost = match self.lost {
            0 => String::new(),
            lost => format!("{lost} calls were lost: more than could be read\n"),
        };
        // Without colours: lines are cut to the terminal's width.
        table.render(false) + &lost
    }
}

/// The value that this share (in percent) of all is at or below.
fn at(sorted: &[u64], share: usize) -> Option<u64> {
    let place = (sorted.len() * share).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied()
}

fn rate(calls: u64, passed: Duration) -> String {
    let ms = passed.as_millis();
    if ms == 0 {
        return String::new();
    }
    (u128::from(calls) * 1000 / ms).to_string()
}

/// `write(0x3, 0x7f.., 0x10) = 16`: three arguments, more are seldom any.
fn made(hit: &Hit) -> String {
    const SHOWN: usize = 4;
    let arguments: Vec<_> =
        hit.arguments.iter().take(SHOWN).map(|argument| format!("{argument:#x}")).collect();
    let result = hit.result.map_or_else(|| "...".to_owned(), |result| result.to_string());
    format!("({}) = {result}", arguments.join(", "))
}

fn line_of(hit: &Hit) -> String {
    let lost = match hit.lost {
        0 => String::new(),
        lost => format!("-- {lost} calls lost: more than could be read\n"),
    };
    let took = hit.duration_ns.map(show::nanos).unwrap_or_default();
    let seconds = hit.at_us / 1_000_000;
    format!(
        "{lost}{seconds}.{:06} [{}] {}{} {took}\n",
        hit.at_us % 1_000_000,
        hit.tid,
        clean(&hit.function),
        made(hit)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(function: &str, duration_ns: u64, result: i64) -> Hit {
        Hit {
            function: function.to_owned(),
            tid: 12,
            at_us: 3_000_001,
            arguments: [3, 0x7f00, 16, 0, 5, 6],
            result: Some(result),
            duration_ns: Some(duration_ns),
            lost: 0,
        }
    }

    #[test]
    fn a_call_is_a_line() {
        assert_eq!(
            line_of(&hit("write", 3456, 16)),
            "3.000001 [12] write(0x3, 0x7f00, 0x10, 0x0) = 16 3.4 us\n"
        );
        let open = Hit { result: None, duration_ns: None, lost: 2, ..hit("write", 1, 1) };
        let line = line_of(&open);
        assert!(line.starts_with("-- 2 calls lost") && line.contains("= ..."), "{line}");
    }

    #[test]
    fn the_table_counts_and_takes_rates_since_the_last_look() {
        let begin = clock::now();
        let mut seen = Seen::new(&["write".to_owned(), "read".to_owned()], begin);
        for number in 1..=100 {
            seen.hit(hit("write", number * 1000, if number == 7 { -5 } else { 1 }));
        }
        let text = seen.text(begin + Duration::from_secs(2));
        let row = text.lines().find(|line| line.starts_with("write")).unwrap();
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!(words[..8], ["write", "100", "50", "1", "50.0", "us", "99.0", "us"], "{text}");
        assert!(text.lines().any(|line| line.starts_with("read")), "{text}");
        // Nothing came since.
        let later = seen.text(begin + Duration::from_secs(3));
        let row = later.lines().find(|line| line.starts_with("write")).unwrap();
        assert_eq!(row.split_whitespace().nth(2), Some("0"), "{later}");
    }

    #[test]
    fn memory_stays_bounded_whatever_is_called() {
        let mut seen = Seen::new(&[], clock::now());
        for number in 0..5000 {
            seen.hit(hit(&format!("f{number}"), number, 0));
            seen.hit(hit("f0", number, 0));
        }
        assert_eq!(seen.functions.len(), FUNCTIONS_MAX);
        assert_eq!(seen.functions["f0"].durations.len(), KEPT);
        assert_eq!(seen.calls, 10_000);
    }

    #[test]
    fn what_is_drawn_again_goes_over_what_was_drawn() {
        let mut screen = Screen::default();
        assert_eq!(screen.next("abcdef\nx\n", 4), "abcd\nx\n");
        assert_eq!(screen.next("y\n", 4), "\x1b[2F\x1b[Jy\n");
    }

    #[test]
    fn percentiles_are_of_what_is_there() {
        assert_eq!(at(&[], 50), None);
        assert_eq!(at(&[7], 99), Some(7));
        assert_eq!(at(&[1, 2, 3, 4], 50), Some(2));
    }
}
