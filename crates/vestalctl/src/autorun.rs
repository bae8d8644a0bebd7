//! `vestalctl autorun ...`, `hibernate` and `suspend`: from the command line to calls of the object `autorun`.

use std::fmt::Write as _;

use protocol::autorun::{Check, Sleep, Slept, State, Status, Target};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    bus::{Bus, How},
    cli::{AutorunCommand, Hibernate, Kind, Sleeping},
    error::Error,
    output::Output,
    table::{Cell, Paint, Table, clean},
};

pub(crate) async fn run(bus: &Bus, out: Output, command: AutorunCommand) -> Result<(), Error> {
    let nothing = json!({});
    match command {
        AutorunCommand::Arm(sleeping) => {
            status(out, &ask(bus, "arm", &nothing, once(sleeping)).await?)
        }
        AutorunCommand::Disarm(sleeping) => {
            status(out, &ask(bus, "disarm", &nothing, once(sleeping)).await?)
        }
        AutorunCommand::Status => status(out, &ask(bus, "status", &nothing, How::READ).await?),
        AutorunCommand::Run { targets, sleeping } => {
            let args = match targets.is_empty() {
                true => nothing,
                false => json!({ "targets": targets }),
            };
            status(out, &ask(bus, "run", &args, once(sleeping)).await?)
        }
        AutorunCommand::Check => check(out, &ask(bus, "check", &nothing, How::READ).await?),
        AutorunCommand::Invalidate { reason } => {
            let args = match reason {
                Some(reason) => json!({ "reason": reason }),
                None => nothing,
            };
            let answer: Value = ask(bus, "invalidate", &args, How::ONCE).await?;
            out.answer(&answer)
        }
        AutorunCommand::NotifyPost { kind } => {
            let args = json!({ "kind": kind.sleep() });
            status(out, &ask(bus, "notify_post", &args, How::ONCE).await?)
        }
    }
}

/// Arms and writes the image as one step. What is answered is read in the next life: this program is in the image, too.
pub(crate) async fn hibernate(bus: &Bus, out: Output, given: &Hibernate) -> Result<(), Error> {
    sleep(bus, out, Sleep::Hibernate, given.back_end.as_deref(), given.sleeping).await
}

pub(crate) async fn suspend(bus: &Bus, out: Output, sleeping: Sleeping) -> Result<(), Error> {
    sleep(bus, out, Sleep::Suspend, None, sleeping).await
}

async fn sleep(
    bus: &Bus,
    out: Output,
    kind: Sleep,
    back_end: Option<&str>,
    sleeping: Sleeping,
) -> Result<(), Error> {
    let mut args = json!({ "kind": kind });
    if let Some(back_end) = back_end {
        args["back_end"] = back_end.into();
    }
    let slept: Slept = ask(bus, "sleep", &args, once(sleeping)).await?;
    if out.json {
        return Output::json(&slept);
    }
    let run = clean(&slept.run);
    Output::text(&match kind {
        Sleep::Hibernate => format!("resumed: life {} of the image, run {run}\n", slept.ordinal),
        Sleep::Suspend => format!("woken up: run {run}\n"),
    })
}

/// It changes something, and waits for the slow.
fn once(Sleeping { timeout }: Sleeping) -> How {
    How { within: timeout, safe: false }
}

async fn ask<A: Serialize, T: DeserializeOwned>(
    bus: &Bus,
    method: &str,
    args: &A,
    how: How,
) -> Result<T, Error> {
    Ok(bus.ask("autorun", method, args, how).await?)
}

fn check(out: Output, check: &Check) -> Result<(), Error> {
    if out.json {
        Output::json(check)?;
    } else {
        let problems = check.problems.iter().map(|text| format!("{}\n", clean(text)));
        let notes = check.notes.iter().map(|text| format!("note: {}\n", clean(text)));
        Output::text(&problems.chain(notes).collect::<String>())?;
    }
    match check.problems.len() {
        0 => Ok(()),
        1 => Err(Error::failed("arming would fail for this reason: remove it first")),
        count => {
            Err(Error::failed(format!("arming would fail for these {count} reasons: remove them")))
        }
    }
}

fn status(out: Output, status: &Status) -> Result<(), Error> {
    if out.json {
        return Output::json(status);
    }
    Output::text(&summary(status))?;
    if status.targets.is_empty() { Ok(()) } else { out.table(&targets(status)) }
}

fn summary(status: &Status) -> String {
    let mut text = format!("{}: {}\n", name(status.state), meaning(status.state));
    let back_end = match status.back_end.as_str() {
        "" => "nothing here can write an image".to_owned(),
        back_end => format!("images are written by {}", clean(back_end)),
    };
    let _ = writeln!(text, "  {back_end}");
    if let Some(image) = &status.image {
        let lives = status.ordinal.map(|lives| format!(", resumed {lives} times"));
        let _ = writeln!(text, "  image {}{}", clean(image), lives.unwrap_or_default());
    }
    if let Some(run) = &status.run {
        let _ = writeln!(text, "  run {}", clean(run));
    }
    if let Some(reason) = &status.reason {
        let _ = writeln!(text, "  the last attempt failed: {}", clean(reason));
    }
    for note in &status.notes {
        let _ = writeln!(text, "  note: {}", clean(note));
    }
    text
}

fn targets(status: &Status) -> Table {
    let mut table = Table::new(&["TARGET", "STATE", ">STARTED", ">ENDED", "NOTE"]);
    for row in &status.targets {
        let (state, paint) = target(row.state);
        // Since the resume, which is what a start is measured by.
        let at = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        table.row([
            Cell::from(&row.name),
            Cell::painted(state, paint),
            at(row.started_ms).into(),
            at(row.ended_ms).into(),
            Cell::from(row.text.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

fn name(state: State) -> &'static str {
    match state {
        State::Cold => "cold",
        State::Arming => "arming",
        State::Armed => "armed",
        State::Resumed => "resumed",
        State::Running => "running",
        State::Done => "done",
        State::Unknown => "unknown",
    }
}

fn meaning(state: State) -> &'static str {
    match state {
        State::Cold => "nothing is armed, no target runs",
        State::Arming => "services and file systems are prepared",
        State::Armed => "whoever resumes this memory runs the targets",
        State::Resumed => "another life began, nothing ran yet",
        State::Running => "targets run",
        State::Done => "every target had its turn",
        State::Unknown => "this program does not know the state",
    }
}

fn target(state: Target) -> (&'static str, Paint) {
    match state {
        Target::Waiting => ("waiting", Paint::Waiting),
        Target::Running => ("running", Paint::Waiting),
        Target::Done => ("done", Paint::Good),
        Target::Failed => ("failed", Paint::Bad),
        Target::TimedOut => ("timed-out", Paint::Bad),
        Target::Skipped => ("skipped", Paint::Plain),
        Target::Doubtful => ("doubtful", Paint::Bad),
        Target::Unknown => ("unknown", Paint::Plain),
    }
}

impl Kind {
    fn sleep(self) -> Sleep {
        match self {
            Self::Hibernate => Sleep::Hibernate,
            Self::Suspend => Sleep::Suspend,
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::autorun::TargetRow;

    use super::*;

    #[test]
    fn the_status_tells_the_image_the_life_and_each_target() {
        let mut known = Status {
            state: State::Done,
            image: Some("ab12".to_owned()),
            run: Some("cd34".to_owned()),
            ordinal: Some(3),
            back_end: "sysfs".to_owned(),
            notes: vec!["no clock\nhere".to_owned()],
            ..Status::default()
        };
        let text = summary(&known);
        assert!(text.starts_with("done: every target had its turn\n  images are written by sysfs"));
        assert!(text.contains("  image ab12, resumed 3 times\n  run cd34\n"), "{text}");
        assert!(!text.contains("clock\nhere"), "what was told is shown, never obeyed: {text}");
        let row = |name: &str, state, ended_ms| TargetRow {
            name: name.to_owned(),
            state,
            started_ms: Some(4),
            ended_ms,
            text: None,
        };
        known.targets =
            vec![row("logo", Target::Done, Some(120)), row("ui", Target::TimedOut, None)];
        let table = targets(&known).render(false);
        assert!(table.contains("logo    done          4 ms  120 ms"), "{table}");
        assert!(table.contains("ui      timed-out     4 ms       -"), "{table}");
    }

    #[test]
    fn a_device_that_can_not_hibernate_says_so() {
        let reason = Some("no swap".to_owned());
        let text = summary(&Status { reason, ..Status::default() });
        assert!(text.contains("nothing here can write an image"), "{text}");
        assert!(text.contains("the last attempt failed: no swap"), "{text}");
    }
}
