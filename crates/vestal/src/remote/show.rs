//! What a device answers, for people. It is shown, never obeyed: control characters come out escaped.

use std::fmt::Write as _;

use protocol::upgrade::{Entry, Slot, SlotState, State, Status};

use crate::output::{clean, size, time};

/// Hexadecimal digits that tell images and operators apart for people.
const SHORT: usize = 16;

/// A state in one word.
pub(super) fn name(state: State) -> &'static str {
    match state {
        State::Idle => "idle",
        State::Receiving => "receiving",
        State::Verifying => "verifying",
        State::Written => "written",
        State::Activated => "activated",
        State::Trial => "trial",
        State::Confirmed => "confirmed",
        State::RolledBack => "rolled-back",
        State::Failed => "failed",
        State::Unknown => "unknown",
    }
}

fn meaning(state: State) -> &'static str {
    match state {
        State::Idle => "nothing is under way",
        State::Receiving => "chunks are received and written",
        State::Verifying => "what was written is read back",
        State::Written => "it is whole and verified, and not in use",
        State::Activated => "it is used after the next reboot",
        State::Trial => "it runs, and is watched before it is kept",
        State::Confirmed => "it runs, and is kept",
        State::RolledBack => "what ran before runs again",
        State::Failed => "nothing was changed",
        State::Unknown => "this program does not know the state",
    }
}

pub(super) fn status(status: &Status) -> String {
    let mut text = format!("{}: {}\n", name(status.state), meaning(status.state));
    if let Some(transaction) = &status.transaction {
        let components = transaction.components.join(", ");
        let (version, by) = (&transaction.version, who(&transaction.who));
        let _ = writeln!(text, "  version {version} of {components} ({}), by {by}", transaction.id);
    }
    if let Some(progress) = status.progress.as_ref().filter(|progress| progress.total > 0) {
        let share = u128::from(progress.done) * 100 / u128::from(progress.total);
        let _ = writeln!(text, "  {share} % of {}", size(progress.total));
    }
    if let Some(set) = status.set {
        let _ = writeln!(text, "  set {set} runs");
    }
    if let Some(reason) = &status.reason {
        let _ = writeln!(text, "  {reason}");
    }
    clean(&text)
}

pub(super) fn slots(slots: &[Slot]) -> String {
    let titles = ["COMPONENT", "SLOT", "STATE", "VERSION", "INDEX", "IMAGE", "TARGET"];
    let dash = || "-".to_owned();
    let rows = slots.iter().map(|slot| {
        let tries = slot.tries.map(|tries| format!(" ({tries} tries left)")).unwrap_or_default();
        let hash = slot.hash.as_deref().map(|hash| hash.chars().take(SHORT).collect());
        vec![
            slot.component.clone(),
            slot.letter.to_string(),
            format!("{}{tries}", slot_state(slot.state)),
            slot.version.clone().unwrap_or_else(dash),
            slot.rollback_index.map_or_else(dash, |index| index.to_string()),
            hash.unwrap_or_else(dash),
            slot.target.clone(),
        ]
    });
    columns(&titles, rows)
}

fn slot_state(state: SlotState) -> &'static str {
    match state {
        SlotState::Active => "active",
        SlotState::Trial => "trial",
        SlotState::Good => "good",
        SlotState::Next => "next",
        SlotState::Writing => "writing",
        SlotState::Bad => "bad",
        SlotState::Empty => "empty",
        SlotState::Unknown => "unknown",
    }
}

pub(super) fn history(entries: &[Entry]) -> String {
    let titles = ["TIME", "VERSION", "COMPONENTS", "END", "BY", "OUTAGE", "REASON"];
    let rows = entries.iter().map(|entry| {
        vec![
            time(entry.time),
            entry.transaction.version.clone(),
            entry.transaction.components.join(","),
            name(entry.state).to_owned(),
            who(&entry.transaction.who),
            entry.outage_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")),
            entry.reason.clone(),
        ]
    });
    columns(&titles, rows)
}

/// `uid 0`, or the beginning of an operator's fingerprint.
fn who(who: &str) -> String {
    let is_long = who.len() > SHORT && who.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_long { format!("operator {}", &who[..SHORT]) } else { who.to_owned() }
}

/// Columns that line up; no line ends in blanks.
fn columns(titles: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let titles = titles.iter().map(|title| (*title).to_owned()).collect();
    let one_line = |cell: String| clean(&cell).replace('\n', " ");
    let rows: Vec<Vec<String>> = std::iter::once(titles)
        .chain(rows)
        .map(|row| row.into_iter().map(one_line).collect())
        .collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    rows.iter().fold(String::new(), |text, row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{text}{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_show_control_characters() {
        let rows =
            [vec!["ü".to_owned(), "1".to_owned()], vec!["a\u{1b}".to_owned(), String::new()]];
        assert_eq!(columns(&["A", "B"], rows.into_iter()), "A        B\nü        1\na\\u{1b}\n");
    }
}
