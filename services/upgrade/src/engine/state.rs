//! The states of an upgrade, and the one table of what leads from one to another. `docs/upgrade.md` draws it.
//!
//! Every step goes into the journal before its first effect, so after a crash the journal says what may have been done.

use protocol::upgrade::State;

/// What moves an upgrade on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// A bundle is taken.
    Begin,
    /// All chunks are in their slots.
    Finish,
    /// Every slot was read back and is what was signed.
    Verified,
    /// What was written is to be used.
    Activate,
    /// What was activated runs.
    Run,
    /// It is healthy, or somebody says that it is good.
    Confirm,
    /// The old slots are to be used again: somebody says so, it is not healthy, or the loader did it.
    GoBack,
    /// It can't be written, or is not what was signed.
    Fail,
    /// Power was lost before the loader was told: everything is still as it was written.
    Unswitched,
}

/// The state after a step; nothing where the step is not possible.
pub(crate) fn after(state: State, step: Step) -> Option<State> {
    Some(match (state, step) {
        (
            State::Idle
            | State::Receiving
            | State::Verifying
            | State::Written
            | State::Confirmed
            | State::RolledBack
            | State::Failed,
            Step::Begin,
        ) => State::Receiving,
        (State::Receiving, Step::Finish) => State::Verifying,
        (State::Verifying, Step::Verified) => State::Written,
        (State::Receiving | State::Verifying | State::Written, Step::Fail) => State::Failed,
        (State::Written, Step::Activate) => State::Activated,
        // Nothing but the loader's choice was made, and it can be taken back.
        (State::Activated, Step::Run) => State::Trial,
        (State::Activated, Step::Unswitched) => State::Written,
        (State::Trial, Step::Confirm) => State::Confirmed,
        (State::Activated | State::Trial | State::Confirmed, Step::GoBack) => State::RolledBack,
        _ => return None,
    })
}

/// As it is written in JSON, for texts.
pub(crate) fn name(state: State) -> &'static str {
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

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 9] = [
        State::Idle,
        State::Receiving,
        State::Verifying,
        State::Written,
        State::Activated,
        State::Trial,
        State::Confirmed,
        State::RolledBack,
        State::Failed,
    ];

    #[test]
    fn nothing_begins_while_the_last_upgrade_is_unproven() {
        for state in STATES {
            let unproven = matches!(state, State::Activated | State::Trial);
            assert_eq!(after(state, Step::Begin).is_none(), unproven, "{state:?}");
        }
    }

    #[test]
    fn only_a_trial_is_confirmed_and_nothing_unverified_is_activated() {
        for state in STATES {
            assert_eq!(after(state, Step::Confirm).is_some(), state == State::Trial);
            assert_eq!(after(state, Step::Activate).is_some(), state == State::Written);
            assert_eq!(after(state, Step::Verified).is_some(), state == State::Verifying);
        }
    }
}
