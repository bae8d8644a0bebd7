//! What services, the kernel and syslog said: `vestalctl log`, and OpenWrt's `logread` and `logger` by name.
//!
//! Reading follows the log over its restarts: the next one is asked for what came after the last record that was seen.

pub(crate) mod applets;
pub(crate) mod line;
pub(crate) mod priority;

use std::time::Duration;

use endpoint::{CallError, Code, Stream};
use protocol::{
    log::{Record, Select, Source, Status},
    objects::{LOG_LEVEL, TABLE, nearest},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    bus::{Bus, How},
    cli::{self, Common},
    error::{Error, Exit},
    lines::Lines,
    output::{Output, Style},
};

/// How many lines of before `--follow` shows when nothing was said about it.
const FOLLOWED: u64 = 10;
/// How long a log may be away before following it ends.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Between two looks for it; doubles up to the second.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// `vestalctl log`.
pub(crate) async fn log(common: &Common, out: Output, given: &cli::Log) -> Result<(), Error> {
    let bus = Bus::new(common)?;
    let select = selected(given)?;
    let show = |record: &Record| {
        if out.json {
            return serde_json::to_string(record).unwrap_or_default();
        }
        out.styled(&line::text(record, given.monotonic), style(record.priority))
    };
    read(&bus, select, given.follow, show).await.map_err(|error| absent(common, error))
}

fn selected(given: &cli::Log) -> Result<Select, Error> {
    let now = u64::try_from(daemon::clock::wall().as_micros()).unwrap_or(u64::MAX);
    let source = given.source.as_deref().map(|source| {
        serde_json::from_value::<Source>(source.into()).expect("the command line allows no other")
    });
    let lines = given.lines.or(given.follow.then_some(FOLLOWED).filter(|_| given.since.is_none()));
    let select = Select {
        lines,
        since_us: given.since.map(|when| when.resolve(now)),
        until_us: given.until.map(|when| when.resolve(now)),
        priority: given.priority,
        grep: given.grep.clone(),
        services: given.services.clone(),
        instance: given.instance.clone(),
        source,
        ..Select::default()
    };
    match (select.since_us, select.until_us) {
        (Some(since), Some(until)) if since >= until => {
            Err(Error::usage("--since is not before --until: no line can lie between them"))
        }
        _ => Ok(select),
    }
}

fn style(priority: u8) -> Style {
    match priority {
        0..=3 => Style::Bad,
        4 => Style::Waiting,
        5 => Style::Strong,
        6 => Style::Plain,
        _ => Style::Faint,
    }
}

/// Without a log service the lines are elsewhere.
fn absent(common: &Common, mut error: Error) -> Error {
    let mut options = daemon::options::Options::default();
    options.run_dir.clone_from(&common.run_dir);
    options.state_dir.clone_from(&common.state_dir);
    if error.exit == Exit::Unreachable
        && let Ok(places) = daemon::places::Places::locate(&options)
        && places.run.is_dir()
    {
        error.text = if places.socket("log").exists() {
            format!(
                "the log service does not answer ({}); `vestalctl status log` says why",
                error.text
            )
        } else {
            let files = places.state.join("supervisor/log");
            format!(
                "no log service runs here ({}); while it is not defined the supervisor keeps what services print in {}",
                error.text,
                files.display()
            )
        };
    }
    error
}

/// Reads or follows, and prints each record as `show` writes it, until the reader has left.
async fn read(
    bus: &Bus,
    mut select: Select,
    follow: bool,
    show: impl Fn(&Record) -> String,
) -> Result<(), Error> {
    let method = if follow { "follow" } else { "read" };
    let mut seen: Option<u64> = None;
    // Since when the log is away, and how long the next pause is.
    let mut away: Option<(Instant, Duration)> = None;
    loop {
        let ended = match bus.follow("log", method, &select).await {
            Ok(stream) => {
                if away.take().is_some() {
                    eprintln!("vestalctl: the log is back");
                }
                match print(stream, &mut seen, &show).await? {
                    Ended::ReaderLeft => return Ok(()),
                    Ended::Whole => None,
                    Ended::Broken(error) => Some(error),
                }
            }
            // One that never answered is not waited for.
            Err(error) if seen.is_none() && away.is_none() => return Err(error.into()),
            Err(error) => Some(error),
        };
        if !follow || ended.as_ref().is_some_and(|error| !comes_back(error)) {
            return ended.map_or(Ok(()), |error| Err(error.into()));
        }
        let now = Instant::now();
        let (since, pause) = *away.get_or_insert_with(|| {
            eprintln!("vestalctl: the log ended; waiting for the next one");
            (now, PAUSE)
        });
        if now.duration_since(since) > AWAY_MAX {
            let text = format!(
                "the log did not come back within {AWAY_MAX:?}; see `vestalctl status log`"
            );
            return Err(Error::new(Exit::Unreachable, text));
        }
        tokio::time::sleep(pause).await;
        away = Some((since, (pause * 2).min(PAUSE_MAX)));
        if let Some(seen) = seen {
            let how = How { within: Duration::from_secs(1), safe: true };
            let status: Status =
                bus.ask("log", "status", &json!({}), how).await.unwrap_or_default();
            select = resumed(select, seen, &status);
        }
    }
}

/// How one answer ended.
enum Ended {
    ReaderLeft,
    Whole,
    Broken(CallError),
}

/// Prints what comes, and remembers the last record.
async fn print(
    mut stream: Stream,
    seen: &mut Option<u64>,
    show: impl Fn(&Record) -> String,
) -> Result<Ended, Error> {
    let mut lines = Lines::default();
    loop {
        let piece = match stream.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(Ended::Whole),
            Err(error) => return Ok(Ended::Broken(error)),
        };
        let records: Vec<Record> = lines.push(&piece)?;
        *seen = records.last().map(|record| record.sequence).or(*seen);
        let text: String = records.iter().map(|record| show(record) + "\n").collect();
        if !Output::stream(&text)? {
            return Ok(Ended::ReaderLeft);
        }
    }
}

/// Whether the next log may answer what this one did not.
fn comes_back(error: &CallError) -> bool {
    match error {
        CallError::Lost { .. } | CallError::Unreachable { .. } => true,
        CallError::Refused(failure) => matches!(failure.code, Code::Gone | Code::NotFound),
        _ => false,
    }
}

/// What is left to ask for. A log whose store began anew counts from the beginning.
fn resumed(select: Select, seen: u64, status: &Status) -> Select {
    let began_anew = status.next_sequence != 0 && status.next_sequence <= seen;
    Select { lines: None, after: (!began_anew).then_some(seen), ..select }
}

/// `vestalctl log-level`.
pub(crate) async fn level(bus: &Bus, out: Output, given: &cli::LogLevel) -> Result<(), Error> {
    let short = given.daemon.strip_prefix("vestal-").unwrap_or(&given.daemon);
    if short.is_empty() || short.contains('/') || !bus.socket(short).exists() {
        let known = TABLE.iter().map(|(_, short)| *short);
        let hint = nearest(short, known.clone().filter(|name| *name != short)).map_or_else(
            || {
                let mut all: Vec<_> = known.collect();
                all.dedup();
                format!("the suite's are {}", all.join(", "))
            },
            |near| format!("did you mean {near:?}?"),
        );
        let text = format!("no daemon {:?} runs here; {hint}", given.daemon);
        return Err(Error::new(Exit::NotFound, text));
    }
    let asked = protocol::objects::LogLevel { level: given.level.clone() };
    let answer = bus.call_daemon(short, LOG_LEVEL, &asked).await?;
    if out.json {
        return Output::json(&answer);
    }
    let level = match &answer {
        Value::String(level) => level.as_str(),
        other => other["level"].as_str().unwrap_or_default(),
    };
    Output::text(&format!("{}\n", crate::table::clean(level)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::When;

    #[test]
    fn following_begins_with_ten_lines_unless_a_time_or_a_number_is_given() {
        let lines = |given: cli::Log| selected(&given).unwrap().lines;
        assert_eq!(lines(cli::Log::default()), None);
        assert_eq!(lines(cli::Log { follow: true, ..Default::default() }), Some(10));
        assert_eq!(lines(cli::Log { follow: true, lines: Some(0), ..Default::default() }), Some(0));
        let since = Some(When::At(1));
        assert_eq!(lines(cli::Log { follow: true, since, ..Default::default() }), None);
    }

    #[test]
    fn a_log_that_began_anew_is_read_from_its_beginning() {
        let after = |next_sequence| {
            let status = Status { next_sequence, ..Status::default() };
            resumed(Select { lines: Some(10), ..Select::default() }, 7, &status)
        };
        assert_eq!((after(8).after, after(8).lines), (Some(7), None));
        assert_eq!(after(7).after, None);
        // It didn't say.
        assert_eq!(after(0).after, Some(7));
    }

    #[test]
    fn an_empty_span_of_time_is_wrong_usage() {
        let (since, until) = (Some(When::At(2)), Some(When::At(2)));
        let error = selected(&cli::Log { since, until, ..Default::default() }).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
    }
}
