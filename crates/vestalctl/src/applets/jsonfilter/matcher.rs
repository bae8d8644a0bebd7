//! Finds what an expression selects in a document. Pure.

use super::{
    expression::{Comparison, Expression, Path, Term},
    posix,
};
use crate::applets::json::{Json, c_text};

/// Everything that an expression selects, in the order of the document.
pub(super) fn all<'a>(expression: &Expression, document: &'a Json) -> Vec<&'a Json> {
    let mut search = Search { root: document, found: Vec::new(), first_only: false };
    search.follow(&expression.path.steps, document);
    search.found
}

struct Search<'a> {
    root: &'a Json,
    found: Vec<&'a Json>,
    /// One that is not `null` is enough.
    first_only: bool,
}

impl<'a> Search<'a> {
    fn done(&self) -> bool {
        self.first_only && !self.found.is_empty()
    }

    fn follow(&mut self, steps: &[Term], at: &'a Json) {
        if self.done() {
            return;
        }
        let Some((step, rest)) = steps.split_first() else {
            if !self.first_only || *at != Json::Null {
                self.found.push(at);
            }
            return;
        };
        match (step, at) {
            (Term::Text(name), _) => {
                if let Some(member) = at.member(name) {
                    self.follow(rest, member);
                }
            }
            (Term::Number(number), Json::Array(elements)) => {
                let number = i64::from(*number);
                let from_end = if number < 0 { elements.len() } else { 0 };
                let place = i64::try_from(from_end).unwrap_or(i64::MAX) + number;
                let element = usize::try_from(place).ok().and_then(|place| elements.get(place));
                if let Some(element) = element.filter(|element| **element != Json::Null) {
                    self.follow(rest, element);
                }
            }
            (Term::Number(_), _) => {}
            (filter, Json::Object(members)) => {
                for (name, member) in members {
                    if self.holds(filter, member, Place::Member(name)) {
                        self.follow(rest, member);
                    }
                }
            }
            (filter, Json::Array(elements)) => {
                for (number, element) in elements.iter().enumerate() {
                    if self.holds(filter, element, Place::Element(number)) {
                        self.follow(rest, element);
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether a filter lets a member or an element through.
    fn holds(&self, filter: &Term, value: &'a Json, place: Place<'_>) -> bool {
        match filter {
            Term::All => true,
            Term::Compare(left, comparison, right) => {
                self.compares(left, *comparison, right, value).unwrap_or(false)
            }
            Term::Path(path) => self.first(path, value).is_some(),
            Term::Not(inner) => !self.holds(inner, value, place),
            Term::And(terms) => terms.iter().all(|term| self.holds(term, value, place)),
            Term::Or(terms) => terms.iter().any(|term| self.holds(term, value, place)),
            Term::Text(name) => matches!(place, Place::Member(member) if member == name),
            Term::Number(number) => match place {
                Place::Element(element) => usize::try_from(*number) == Ok(element),
                Place::Member(_) => *number == -1,
            },
            Term::Bool(_) | Term::Regex { .. } => false,
        }
    }

    fn first(&self, path: &Path, value: &'a Json) -> Option<&'a Json> {
        let from = if path.from_root { self.root } else { value };
        let mut search = Search { root: self.root, found: Vec::new(), first_only: true };
        search.follow(&path.steps, from);
        search.found.pop()
    }

    /// `None`: these can't be compared.
    fn compares(
        &self,
        left: &Term,
        comparison: Comparison,
        right: &Term,
        value: &'a Json,
    ) -> Option<bool> {
        let (left, right) = (self.operand(left, value)?, self.operand(right, value)?);
        if comparison == Comparison::Matches {
            return posix::matches(&left, &right);
        }
        let order = match (&left, &right) {
            (Operand::Bool(left), Operand::Bool(right)) => left.cmp(right),
            (Operand::Number(left), Operand::Number(right)) => left.cmp(right),
            (Operand::Text(left), Operand::Text(right)) => left.cmp(right),
            _ => return None,
        };
        Some(match comparison {
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
            Comparison::Equal => order.is_eq(),
            Comparison::NotEqual => order.is_ne(),
            Comparison::Matches => return None,
        })
    }

    fn operand<'t>(&self, term: &'t Term, value: &'a Json) -> Option<Operand<'t>>
    where
        'a: 't,
    {
        match term {
            Term::Bool(value) => Some(Operand::Bool(*value)),
            Term::Number(number) => Some(Operand::Number(*number)),
            Term::Text(text) => Some(Operand::Text(text)),
            Term::Regex { pattern, extended, any_case, lines } => Some(Operand::Regex {
                pattern,
                extended: *extended,
                any_case: *any_case,
                lines: *lines,
            }),
            Term::Path(path) => match self.first(path, value)? {
                Json::Bool(value) => Some(Operand::Bool(*value)),
                Json::Int(number) => {
                    let bounds = (i128::from(i32::MIN), i128::from(i32::MAX));
                    i32::try_from((*number).clamp(bounds.0, bounds.1)).ok().map(Operand::Number)
                }
                Json::Text(text) => Some(Operand::Text(c_text(text))),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Where a value stands in what holds it.
#[derive(Clone, Copy)]
enum Place<'a> {
    Member(&'a [u8]),
    Element(usize),
}

/// What can be compared.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operand<'a> {
    Bool(bool),
    Number(i32),
    Text(&'a [u8]),
    Regex { pattern: &'a [u8], extended: bool, any_case: bool, lines: bool },
}
