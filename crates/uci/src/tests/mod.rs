//! What libuci prints for the same files and commands was recorded from the program itself (uci 66127cd).

mod canonical;
mod delta;
mod edit;
mod language;
mod print;
mod properties;

use crate::{Mode, Package, Parsed, Problem, parse};

/// A package called `p`, read strictly.
fn package(text: &str) -> Package {
    match parse("p", text.as_bytes(), Mode::Strict) {
        Ok(parsed) => parsed.package,
        Err(problem) => panic!("{text:?}: {problem}"),
    }
}

fn refused(text: &str) -> Problem {
    parse("p", text.as_bytes(), Mode::Strict).expect_err(text)
}

fn lenient(text: &str) -> Parsed {
    parse("p", text.as_bytes(), Mode::Lenient).expect("only limits stop a lenient reader")
}
