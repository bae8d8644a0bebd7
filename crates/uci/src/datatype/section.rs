//! The rules of a whole section, written `option:expression[:default]`, and what they say of one. What `validate_data`
//! prints for it is kept beside; `command` puts it together.

use super::{
    EXPRESSION_MAX, Mode, RULES_MAX, Refusal, Shown, VALUE_MAX, World,
    command::{assignment, shell_value, unset},
    evaluate,
    parse::{self, Fault, Op},
};
use crate::{Problem, Section, Value, is_name};

/// The rules of one type of sections.
#[derive(Debug, Clone)]
pub struct Rules {
    mode: Mode,
    rules: Vec<SectionRule>,
}

#[derive(Debug, Clone)]
pub(super) struct SectionRule {
    pub(super) option: String,
    /// `None` if the rule names no expression: never in `Strict`.
    pub(super) expression: Option<String>,
    default: Option<String>,
    ops: Result<Vec<Op>, Fault>,
}

/// What became of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its value follows the rule. In `Compatible` only the last of a list must.
    Valid,
    /// It has no value, and the rule has no default.
    Absent,
    /// It has no value; the default is shown.
    Default,
    /// Its value does not follow the rule, or the rule cannot be read.
    Invalid,
}

/// What one rule says of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The option's name.
    pub option: String,
    /// The expression.
    pub rule: String,
    /// What became of it.
    pub verdict: Verdict,
    /// The value, the elements of a list or the default, as they are exported.
    pub shown: Vec<Shown>,
    /// Why values were refused; in `Compatible` also those that don't make the option invalid.
    pub refusals: Vec<Refusal>,
    /// What is wrong with the rule itself, in `Compatible`.
    pub problem: Option<Problem>,
    /// What `validate_data` prints.
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Rules {
    /// Reads rules as they are given to `uci_validate_section`.
    ///
    /// # Errors
    /// Too many rules. In `Strict` also the first rule that does not follow the language; its column counts in the rule and
    /// its line is the rule's number. In `Compatible` such a rule makes its option invalid.
    pub fn parse<T: AsRef<str>>(rules: &[T], mode: Mode) -> Result<Self, Problem> {
        let mut all = Self { mode, rules: Vec::new() };
        for (index, rule) in rules.iter().enumerate() {
            let rule = rule.as_ref();
            let (option, expression, default) = match mode {
                Mode::Compatible => split_compatible(rule),
                Mode::Strict => split_strict(rule),
            };
            all.add(index, rule, option, expression, default)?;
        }
        Ok(all)
    }

    /// Takes rules as the service's message has them: names of options with their expressions.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn of<'a>(
        rules: impl IntoIterator<Item = (&'a str, &'a str)>,
        mode: Mode,
    ) -> Result<Self, Problem> {
        let mut all = Self { mode, rules: Vec::new() };
        for (index, (option, expression)) in rules.into_iter().enumerate() {
            all.add(index, expression, option, Some(expression), None)?;
        }
        Ok(all)
    }

    fn add(
        &mut self,
        index: usize,
        written: &str,
        option: &str,
        expression: Option<&str>,
        default: Option<&str>,
    ) -> Result<(), Problem> {
        let wrong = |column: usize, text: String| Problem { line: index + 1, column, text };
        if index >= RULES_MAX {
            return Err(wrong(1, format!("more than {RULES_MAX} rules for one section")));
        }
        if written.len() > EXPRESSION_MAX + VALUE_MAX {
            let length = written.len();
            return Err(wrong(1, format!("a rule of {length} bytes is longer than any can be")));
        }
        let start = written.find(':').map_or(0, |colon| colon + 1);
        let start = if expression == Some(written) { 0 } else { start };
        let ops = parse::parse(expression.unwrap_or_default(), self.mode);
        if self.mode == Mode::Strict {
            if !is_name(option) {
                return Err(wrong(1, format!("{option:?} is not the name of an option")));
            }
            if expression.is_none() {
                let text =
                    format!("the rule {written:?} has no expression: write option:expression");
                return Err(wrong(1, text));
            }
            if self.rules.iter().any(|rule| rule.option == option) {
                return Err(wrong(1, format!("there are two rules for the option {option:?}")));
            }
            if let Err(fault) = &ops {
                return Err(wrong(start + fault.at + 1, fault.text.clone()));
            }
        }
        self.rules.push(SectionRule {
            option: option.to_owned(),
            expression: expression.map(str::to_owned),
            default: default.map(str::to_owned),
            ops,
        });
        Ok(())
    }

    /// What each rule says of a section; `None` is a section that isn't there, whose defaults count. `package` and `name`
    /// are for the messages.
    #[must_use]
    pub fn check(
        &self,
        package: &str,
        name: &str,
        section: Option<&Section>,
        world: &dyn World,
    ) -> Vec<Outcome> {
        let check = Check { mode: self.mode, package, name, world };
        self.rules
            .iter()
            .map(|rule| {
                let option = section.and_then(|section| section.option(&rule.option));
                check.option(rule, option.map(|option| &option.value))
            })
            .collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &SectionRule> {
        self.rules.iter()
    }
}

/// One section under its rules.
struct Check<'a> {
    mode: Mode,
    package: &'a str,
    name: &'a str,
    world: &'a dyn World,
}

impl Check<'_> {
    fn option(&self, rule: &SectionRule, value: Option<&Value>) -> Outcome {
        let mut outcome = Outcome {
            option: rule.option.clone(),
            rule: rule.expression.clone().unwrap_or_default(),
            verdict: Verdict::Absent,
            shown: Vec::new(),
            refusals: Vec::new(),
            problem: None,
            stdout: String::new(),
            stderr: String::new(),
        };
        if rule.expression.is_none() {
            outcome.verdict = Verdict::Invalid;
            outcome.problem =
                Some(Problem { line: 1, column: 1, text: "the rule has no expression".to_owned() });
            outcome.stderr = format!("{} is not a valid option\n", rule.option);
            return outcome;
        }
        if let Err(fault) = &rule.ops {
            outcome.problem = Some(fault.problem(&outcome.rule, 0));
        }
        match value {
            Some(Value::List(all)) if all.iter().any(|one| !one.is_empty()) => {
                self.list(rule, all, &mut outcome);
            }
            Some(Value::Text(text)) if !text.is_empty() => self.text(rule, text, &mut outcome),
            _ => self.absent(rule, &mut outcome),
        }
        outcome
    }

    /// Checks a value; a rule that can't be read refuses it, and says so where upstream does.
    fn value(&self, rule: &SectionRule, value: &str, outcome: &mut Outcome) -> Option<Shown> {
        let result = match &rule.ops {
            Ok(ops) => evaluate(ops, self.mode, value, self.world),
            Err(fault) => {
                if !value.is_empty() {
                    outcome.stdout.push_str(&syntax_error(fault));
                }
                let allowed = format!("nothing, as the rule can't be read: {}", fault.text);
                Err(Refusal { value: super::allowed::shortened(value), allowed })
            }
        };
        result.map_err(|refusal| outcome.refusals.push(refusal)).ok()
    }

    fn list(&self, rule: &SectionRule, all: &[String], outcome: &mut Outcome) {
        let mut last_valid = false;
        let assignment = format!("{}=", rule.option);
        for (index, one) in all.iter().filter(|one| !one.is_empty()).enumerate() {
            outcome.stdout.push_str(if index == 0 { &assignment } else { "\\ " });
            let shown = self.value(rule, one, outcome);
            last_valid = shown.is_some();
            let place = format!("{}[{index}]", rule.option);
            self.note(&place, one, last_valid, outcome);
            if let Some(shown) = shown {
                outcome.stdout.push_str(&shell_value(&shown));
                outcome.shown.push(shown);
            }
        }
        outcome.stdout.push_str("; ");
        let valid = match self.mode {
            Mode::Compatible => last_valid,
            Mode::Strict => outcome.refusals.is_empty(),
        };
        outcome.verdict = if valid { Verdict::Valid } else { Verdict::Invalid };
        if !valid && self.mode == Mode::Strict {
            outcome.shown.clear();
            outcome.stdout = unset(&rule.option);
        }
    }

    fn text(&self, rule: &SectionRule, text: &str, outcome: &mut Outcome) {
        let shown = self.value(rule, text, outcome);
        self.note(&rule.option, text, shown.is_some(), outcome);
        outcome.verdict = if shown.is_some() { Verdict::Valid } else { Verdict::Invalid };
        match shown {
            Some(shown) => {
                outcome.stdout.push_str(&assignment(&rule.option, &shown));
                outcome.shown.push(shown);
            }
            None => outcome.stdout.push_str(&unset(&rule.option)),
        }
    }

    fn absent(&self, rule: &SectionRule, outcome: &mut Outcome) {
        let default = rule.default.as_deref();
        let place = self.place(&rule.option);
        let shown = match default {
            None | Some("") => None,
            Some(default) => match (self.value(rule, default, outcome), self.mode) {
                (Some(shown), _) => Some(shown),
                (None, Mode::Compatible) => Some(Shown::Text(default.to_owned())),
                (None, Mode::Strict) => {
                    outcome.verdict = Verdict::Invalid;
                    outcome.stdout.push_str(&unset(&rule.option));
                    self.note(&rule.option, default, false, outcome);
                    return;
                }
            },
        };
        let named = match self.mode {
            Mode::Compatible => default.unwrap_or("(null)"),
            Mode::Strict => default.unwrap_or("nothing"),
        };
        outcome.stderr = format!("{place} is unset and defaults to {} {named}\n", outcome.rule);
        match shown {
            Some(shown) => {
                outcome.verdict = Verdict::Default;
                outcome.stdout.push_str(&assignment(&rule.option, &shown));
                outcome.shown.push(shown);
            }
            None => outcome.stdout.push_str(&unset(&rule.option)),
        }
    }

    fn place(&self, option: &str) -> String {
        format!("{}.{}.{option}", self.package, self.name)
    }

    /// The line on stderr for one value.
    fn note(&self, option: &str, value: &str, valid: bool, outcome: &mut Outcome) {
        let place = self.place(option);
        let rule = &outcome.rule;
        let mut line = format!("{place}={value} validates as {rule} with {valid}");
        if self.mode == Mode::Strict
            && !valid
            && let Some(refusal) = outcome.refusals.last()
        {
            line.push_str(": allowed is ");
            line.push_str(&refusal.allowed);
        }
        line.push('\n');
        outcome.stderr.push_str(&line);
    }
}

/// What upstream prints on stdout for an expression that it can't read.
pub(super) fn syntax_error(fault: &Fault) -> String {
    format!("Syntax error, {}\n", fault.upstream)
}

/// Whether the colon at `place` is that of `uinteger(1:200)`.
fn within_range(rule: &str, place: usize) -> bool {
    let before = &rule[..place];
    let Some(open) = before.rfind('(') else { return false };
    let name = before[..open].rsplit([':', ',', '(', ' ']).next().unwrap_or_default();
    let range = parse::colon_range(&rule[open + 1..]);
    parse::is_integer(name) && range.is_some_and(|(.., length)| place < open + 1 + length)
}

type Parts<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

/// Upstream takes a letter behind a colon as it is, and cuts off what follows a third one.
fn split_compatible(rule: &str) -> Parts<'_> {
    let mut colons = Vec::new();
    let (mut escaped, mut skip) = (false, false);
    for (place, byte) in rule.bytes().enumerate() {
        if skip {
            skip = false;
            continue;
        }
        if !escaped && byte == b'\\' {
            escaped = true;
            continue;
        }
        let colon = !escaped && byte == b':';
        if colon && !(colons.len() == 1 && within_range(rule, place)) {
            colons.push(place);
            skip = true;
        }
        escaped = false;
        if colons.len() == 3 {
            break;
        }
    }
    let end = colons.get(2).copied().unwrap_or(rule.len());
    match colons[..] {
        [] => (rule, None, None),
        [first] => (&rule[..first], Some(&rule[first + 1..]), None),
        [first, second, ..] => {
            (&rule[..first], Some(&rule[first + 1..second]), Some(&rule[second + 1..end]))
        }
    }
}

/// The first colon ends the option; the next one outside of quotes and parentheses ends the expression.
fn split_strict(rule: &str) -> Parts<'_> {
    let Some((option, rest)) = rule.split_once(':') else { return (rule, None, None) };
    let (mut quote, mut escaped, mut open) = (None, false, 0_i64);
    for (place, byte) in rest.bytes().enumerate() {
        match (quote, byte) {
            _ if escaped => escaped = false,
            (_, b'\\') => escaped = true,
            (Some(end), byte) if end == byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'(') => open += 1,
            (None, b')') => open -= 1,
            (None, b':') if open <= 0 => {
                return (option, Some(&rest[..place]), Some(&rest[place + 1..]));
            }
            _ => {}
        }
    }
    (option, Some(rest), None)
}
