//! Scenarios, told as events on a clock that the test owns, against models of the processes and the supervisor.

mod activation;
mod broadcast;
mod house;
mod lookups;
mod policy;
mod registering;
mod restarts;

use std::time::Duration;

use protocol::{
    failure::Code,
    objects::{Served, version},
    policy::{Rule, Verb, Verdict, Who},
};
use serde_json::{Value, json};

use self::house::House;
use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// The registry's own user, and two strangers.
const OWN: u32 = 870;
const CAM: u32 = 1001;
const WEB: u32 = 1002;

fn served(name: &str, token: u32) -> Served {
    Served {
        name: name.to_owned(),
        token,
        generation: 1,
        interface: format!("demo.{}", name.replace('/', ".")),
        version: version(1, 2),
        hash: 7,
    }
}

fn rule(verdict: Verdict, verb: Verb, what: &str, who: Who) -> Rule {
    let source = format!("{verdict:?} {verb:?} {what}").to_lowercase();
    Rule { verdict, verb, what: what.to_owned(), methods: Vec::new(), who, source }
}

fn allow(verb: Verb, what: &str, uid: u32) -> Rule {
    rule(Verdict::Allow, verb, what, Who { users: vec![uid], ..Who::default() })
}

fn deny(verb: Verb, what: &str, uid: u32) -> Rule {
    rule(Verdict::Deny, verb, what, Who { users: vec![uid], ..Who::default() })
}

fn code(result: Result<Value, Failure>) -> Code {
    result.expect_err("it is refused").code
}
