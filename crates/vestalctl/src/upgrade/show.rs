//! What the upgrade agent answers, for people.

use protocol::upgrade::{Entry, Identity, Slot, SlotState, State, Status};

use crate::{
    stamp,
    table::{Cell, Paint, Table, clean},
    units,
};

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

/// What a state means for whoever installs.
fn meaning(state: State) -> &'static str {
    match state {
        State::Idle => "nothing is under way",
        State::Receiving => "chunks are received and written",
        State::Verifying => "what was written is read back",
        State::Written => {
            "it is whole and verified, and not in use: activate it by installing it again"
        }
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
        text.push_str(&format!(
            "  version {} of {} ({})\n  by {} since {}\n",
            clean(&transaction.version),
            clean(&transaction.components.join(", ")),
            clean(&transaction.id),
            who(&transaction.who),
            time(transaction.since)
        ));
    }
    if let Some(progress) = status.progress.as_ref().filter(|progress| progress.total > 0) {
        let share = u128::from(progress.done) * 100 / u128::from(progress.total);
        let size = units::size(progress.total);
        text.push_str(&format!("  {share} % of {size}"));
        let component = progress.component.as_deref().map(clean);
        text.push_str(&component.map(|name| format!(", at {name}")).unwrap_or_default());
        text.push('\n');
    }
    if let Some(set) = status.set {
        text.push_str(&format!("  set {} runs\n", clean(&set.to_string())));
    }
    if let Some(reason) = &status.reason {
        text.push_str(&format!("  {}\n", clean(reason)));
    }
    text
}

pub(super) fn slots(slots: &[Slot]) -> Table {
    let mut table =
        Table::new(&["COMPONENT", "SLOT", "STATE", "VERSION", ">INDEX", "IMAGE", "TARGET"]);
    for slot in slots {
        let (state, paint) = slot_state(slot);
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let hash = slot.hash.as_deref().map(|hash| hash.chars().take(SHORT).collect());
        table.row([
            Cell::from(&slot.component),
            slot.letter.to_string().into(),
            Cell::painted(&state, paint),
            or_dash(slot.version.clone()).into(),
            or_dash(slot.rollback_index.map(|index| index.to_string())).into(),
            or_dash(hash).into(),
            Cell::from(&slot.target),
        ]);
    }
    table
}

fn slot_state(slot: &Slot) -> (String, Paint) {
    let (name, paint) = match slot.state {
        SlotState::Active => ("active", Paint::Good),
        SlotState::Trial => ("trial", Paint::Waiting),
        SlotState::Good => ("good", Paint::Plain),
        SlotState::Next => ("next", Paint::Waiting),
        SlotState::Writing => ("writing", Paint::Waiting),
        SlotState::Bad => ("bad", Paint::Bad),
        SlotState::Empty => ("empty", Paint::Plain),
        SlotState::Unknown => ("unknown", Paint::Plain),
    };
    let tries = slot.tries.map(|tries| format!(" ({tries} tries left)")).unwrap_or_default();
    (format!("{name}{tries}"), paint)
}

pub(super) fn history(entries: &[Entry]) -> Table {
    let mut table =
        Table::new(&["TIME", "VERSION", "COMPONENTS", "END", "BY", ">OUTAGE", "REASON"]);
    for entry in entries {
        let paint = match entry.state {
            State::Confirmed => Paint::Good,
            State::RolledBack | State::Failed => Paint::Bad,
            _ => Paint::Waiting,
        };
        let outage = entry.outage_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        table.row([
            time(entry.time).into(),
            Cell::from(&entry.transaction.version),
            entry.transaction.components.join(",").into(),
            Cell::painted(name(entry.state), paint),
            who(&entry.transaction.who).into(),
            outage.into(),
            Cell::from(&entry.reason),
        ]);
    }
    table
}

pub(super) fn identity(identity: &Identity) -> String {
    let keyring = match identity.keyring {
        0 => "none: every bundle is refused; vestalctl upgrade keyring install FILE".to_owned(),
        version => format!("version {version}"),
    };
    format!(
        "fingerprint  {}\nproduct      {}\nrevision     {}\nkeyring      {keyring}\n",
        clean(&identity.fingerprint),
        clean(&identity.product),
        clean(&identity.revision)
    )
}

/// `uid 0`, or the beginning of an operator's fingerprint.
fn who(who: &str) -> String {
    let is_long = who.len() > SHORT && who.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_long { format!("operator {}", &who[..SHORT]) } else { clean(who) }
}

fn time(seconds: u64) -> String {
    let text = stamp::full(seconds.saturating_mul(1_000_000));
    text.split_once('.').map_or(text.clone(), |(time, _)| format!("{time}Z"))
}

#[cfg(test)]
mod tests {
    use protocol::upgrade::Transaction;

    use super::*;

    #[test]
    fn a_status_says_what_it_means_and_who_it_was() {
        let transaction = Transaction {
            id: "ab".to_owned(),
            version: "2\u{1b}[2J".to_owned(),
            components: vec!["kernel".to_owned(), "rootfs".to_owned()],
            since: 1_795_320_320,
            who: "0123456789abcdef".repeat(4),
        };
        let reason = Some("the slot is bad".to_owned());
        let transaction = Some(transaction);
        let given = Status { state: State::RolledBack, transaction, reason, ..Status::default() };
        let text = status(&given);
        assert!(text.contains("rolled-back: what ran before runs again\n"), "{text}");
        assert!(text.contains("of kernel, rootfs (ab)"), "{text}");
        assert!(text.contains("by operator 0123456789abcdef since 2026-11-22T04:05:20Z"), "{text}");
        assert!(text.contains("the slot is bad") && !text.contains('\u{1b}'), "{text}");
    }
}
