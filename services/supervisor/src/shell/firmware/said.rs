//! What `vestalctl upgrade install` says, read: whether a bundle would be taken, and how an installation ended. Looks at nothing
//! else; what is right for a device the upgrade agent alone decides.

use protocol::{
    failure::{Code, Failure},
    system::{Installed, Tests, Validation},
    upgrade::State,
};
use serde::Deserialize;
use serde_json::json;

use crate::machine::Ended;

/// What its lines on standard error begin with.
const NAME: &str = "vestalctl: ";
/// Reasons that `--allow-unsigned` sets aside: nobody whom the device believes stands for the bundle.
const UNTRUSTED: [&str; 7] = [
    "unsigned",
    "unknown-key",
    "wrong-role",
    "threshold",
    "bad-signature",
    "bad-signatures",
    "no-keyring",
];
/// Reasons that are looked at when it is known who stands for it: it is not for this device as it is now.
const UNFIT: [&str; 6] = [
    "wrong-product",
    "wrong-revision",
    "rollback",
    "requires",
    "unknown-component",
    "slot-too-small",
];

/// Why a bundle is not taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Complaint {
    /// As in `docs/upgrade.md`; absent where the bundle was not the trouble.
    pub(super) code: Option<String>,
    pub(super) text: String,
}

impl Complaint {
    /// The last thing that was said on standard error.
    fn of(errors: &str) -> Option<Self> {
        let line = errors.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        let text = line.strip_prefix(NAME).unwrap_or(line).to_owned();
        let is_code = |word: &&str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        };
        let inner = text.strip_suffix(')').and_then(|text| text.rsplit_once('('));
        let code = inner.map(|(_, word)| word).filter(is_code).map(str::to_owned);
        Some(Self { code, text })
    }

    pub(super) fn is_forceable(&self) -> bool {
        self.code.as_deref().is_some_and(|code| UNTRUSTED.contains(&code))
    }

    /// As `sysupgrade` refuses it: the message where procd has it, and procd's status.
    pub(super) fn failure(self) -> Failure {
        let details = json!({ "reason": self.code, "error": { "message": self.text } });
        Failure::new(Code::Unsupported, self.text).with_details(details)
    }

    fn tests(&self) -> Tests {
        let is_one_of =
            |codes: &[&str]| self.code.as_deref().is_some_and(|code| codes.contains(&code));
        let is_unfit = is_one_of(&UNFIT);
        Tests {
            fwtool_signature: (is_unfit || is_one_of(&UNTRUSTED)).then_some(is_unfit),
            fwtool_device_match: is_unfit.then_some(false),
        }
    }
}

/// Whether the device would take a bundle.
#[derive(Debug)]
pub(super) enum Verdict {
    Good,
    Refused(Complaint),
    /// Nobody knows: it could not be asked.
    Unknown(Failure),
}

impl Verdict {
    /// By how `--dry-run` ended, and what it said on standard error.
    pub(super) fn of(ended: &Ended, errors: &str) -> Self {
        let complaint = Complaint::of(errors);
        match (ended, complaint) {
            (Ended::Code(0), _) => Self::Good,
            (Ended::Code(1), Some(complaint)) if complaint.code.is_some() => {
                Self::Refused(complaint)
            }
            (ended, complaint) => {
                // The exit codes are a promise of vestalctl's.
                let code = match ended {
                    Ended::Code(3) => Code::NotFound,
                    Ended::Code(5) | Ended::Timeout => Code::Timeout,
                    _ => Code::Failed,
                };
                let text = complaint.map_or_else(|| end_of(ended), |complaint| complaint.text);
                let details = json!({ "error": { "message": text } });
                Self::Unknown(Failure::new(code, text).with_details(details))
            }
        }
    }

    /// # Errors
    /// Where nobody knows.
    pub(super) fn validation(self) -> Result<Validation, Failure> {
        match self {
            Self::Good => Ok(Validation {
                tests: Tests { fwtool_signature: Some(true), fwtool_device_match: Some(true) },
                valid: true,
                allow_backup: true,
                ..Validation::default()
            }),
            Self::Refused(complaint) => Ok(Validation {
                tests: complaint.tests(),
                valid: false,
                forceable: complaint.is_forceable(),
                allow_backup: true,
                code: complaint.code,
                text: Some(complaint.text),
            }),
            Self::Unknown(failure) => Err(failure),
        }
    }
}

/// How an installation ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Outcome {
    pub(super) result: Installed,
    pub(super) state: Option<State>,
    pub(super) complaint: Option<Complaint>,
}

/// The last line on standard output.
#[derive(Deserialize)]
struct Last {
    outcome: String,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
struct Status {
    state: State,
}

impl Outcome {
    /// By what it printed, and by how it ended; `None` where that is not known, because it was no child of ours.
    pub(super) fn of(ended: Option<&Ended>, output: &str, errors: &str) -> Self {
        let last = output.lines().rfind(|line| !line.trim().is_empty());
        let last = last.and_then(|line| serde_json::from_str::<Last>(line).ok());
        let state = last.as_ref().and_then(|last| last.status.as_ref()).map(|it| it.state);
        let went_well = ended.is_none_or(|ended| *ended == Ended::Code(0));
        let complaint = Complaint::of(errors);
        match last {
            Some(last) if went_well && complaint.is_none() => {
                let is_current = last.outcome == "current";
                let result = if is_current { Installed::Current } else { Installed::Done };
                Self { result, state, complaint: None }
            }
            _ => {
                let unsaid = || {
                    let text = ended.map_or_else(
                        || {
                            "vestalctl ended without saying why; see vestalctl upgrade history"
                                .to_owned()
                        },
                        end_of,
                    );
                    Complaint { code: None, text }
                };
                let complaint = Some(complaint.unwrap_or_else(unsaid));
                Self { result: Installed::Failed, state, complaint }
            }
        }
    }
}

fn end_of(ended: &Ended) -> String {
    match ended {
        Ended::Code(code) => format!("vestalctl ended with code {code} and said nothing"),
        Ended::Signal(signal) => format!("vestalctl was ended by signal {signal}"),
        Ended::Timeout => "vestalctl took too long and was ended".to_owned(),
        Ended::NotStarted(why) => {
            format!("vestalctl can't be started: {why}; it belongs beside the supervisor")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validation(code: i32, errors: &str) -> Validation {
        Verdict::of(&Ended::Code(code), errors).validation().unwrap()
    }

    fn failure(ended: &Ended, errors: &str) -> Failure {
        Verdict::of(ended, errors).validation().unwrap_err()
    }

    #[test]
    fn a_bundle_that_the_agent_would_take_is_valid() {
        let good = validation(0, "");
        assert!(good.valid && !good.forceable && good.allow_backup);
        assert_eq!(good.tests.fwtool_signature, Some(true));
    }

    #[test]
    fn a_bundle_without_a_believed_signature_can_be_forced_and_another_one_can_not() {
        let unsigned = validation(1, "vestalctl: refused: it has no signature (unsigned)\n");
        assert!(!unsigned.valid && unsigned.forceable);
        assert_eq!(unsigned.code.as_deref(), Some("unsigned"));
        assert_eq!(unsigned.text.as_deref(), Some("refused: it has no signature (unsigned)"));
        assert_eq!(unsigned.tests, Tests { fwtool_signature: Some(false), ..Tests::default() });
        let other = validation(1, "vestalctl: for product \"a\" (wrong-product)\n");
        assert!(!other.valid && !other.forceable);
        let tests = Tests { fwtool_signature: Some(true), fwtool_device_match: Some(false) };
        assert_eq!(other.tests, tests);
        let broken = validation(1, "vestalctl: no bundle (bad-magic)");
        assert!(!broken.valid && !broken.forceable && broken.tests == Tests::default());
    }

    #[test]
    fn what_is_not_the_bundles_fault_is_no_verdict_on_it() {
        let of = |code, errors| failure(&Ended::Code(code), errors);
        let missing = of(3, "vestalctl: /x: No such file or directory (os error 2)\n");
        assert_eq!(missing.code, Code::NotFound);
        assert_eq!(missing.details.unwrap()["error"]["message"], missing.text);
        assert_eq!(of(1, "vestalctl: uid 0 installs an upgrade\n").code, Code::Failed);
        assert_eq!(of(4, "vestalctl: nobody answers (gone)\n").code, Code::Failed);
        assert_eq!(of(5, "").code, Code::Timeout);
        assert_eq!(failure(&Ended::Timeout, "").code, Code::Timeout);
        let absent = failure(&Ended::NotStarted("No such file".to_owned()), "");
        assert!(absent.text.contains("beside the supervisor"), "{absent}");
    }

    #[test]
    fn an_installation_ended_well_where_its_last_line_says_so_and_nothing_contradicts() {
        let output = "{\"state\":\"receiving\",\"done\":1}\n{\"outcome\":\"finished\",\"status\":{\"state\":\"trial\"}}\n";
        let good = Outcome { result: Installed::Done, state: Some(State::Trial), complaint: None };
        assert_eq!(Outcome::of(Some(&Ended::Code(0)), output, ""), good);
        assert_eq!(Outcome::of(None, output, ""), good);
        let current = Outcome::of(None, "{\"outcome\":\"current\"}\n", "");
        assert_eq!((current.result, current.state), (Installed::Current, None));
        let said = "vestalctl: the upgrade is rolled-back: ill\n";
        let bad = Outcome::of(Some(&Ended::Code(1)), output, said);
        assert_eq!((bad.result, bad.state), (Installed::Failed, Some(State::Trial)));
        assert_eq!(bad.complaint.unwrap().text, "the upgrade is rolled-back: ill");
        let cut = Outcome::of(Some(&Ended::Signal(9)), "{\"state\":\"receiving\"}\n", "");
        assert!(cut.complaint.unwrap().text.contains("signal 9"));
        assert_eq!(Outcome::of(None, "{\"outco", "").result, Installed::Failed);
        assert_eq!(Outcome::of(None, output, said).result, Installed::Failed);
    }
}
