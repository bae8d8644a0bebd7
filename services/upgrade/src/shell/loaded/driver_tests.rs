//! What is decided, and a manager that plays along.

use std::sync::{Arc, Mutex};

use endpoint::{Description, Failure, Incoming, Serve, Server};
use protocol::driver::Version;
use serde_json::{Value, json};

use super::*;
use crate::{
    engine::contract::{Letter, SlotId},
    settings::Target,
};

const SLOT: SlotId = SlotId { component: 0, letter: Letter::B };

fn fact(bytes: &[u8], version: &str) -> Fact {
    let hash = bundle::hex::encode(&bundle::sha256(bytes));
    Fact { version: version.to_owned(), rollback_index: 2, hash, size: bytes.len() as u64 }
}

fn version(fact: &Fact) -> Version {
    Version { version: fact.version.clone(), hash: fact.hash.clone(), rollback_index: 2 }
}

fn using(wanted: Option<&Fact>, other: Option<&Fact>) -> Use {
    let (fact, other) = (wanted.cloned(), other.cloned());
    Use { slot: SLOT, fact, other, first: false, permitted: false }
}

fn serving(serves: &Fact, previous: Option<&Fact>) -> Status {
    let previous = previous.map(version);
    Status { name: "serial".to_owned(), version: version(serves), previous, ..Status::default() }
}

#[test]
fn a_driver_is_brought_to_its_slot_by_the_shortest_way() {
    let (one, two, three) = (fact(b"1", "1"), fact(b"2", "2"), fact(b"3", "3"));
    let back = Purpose::Back("it is ill");
    for (status, wanted, other, purpose, step) in [
        (serving(&one, None), Some(&two), Some(&one), Purpose::Try, Step::Upgrade),
        (serving(&two, Some(&one)), Some(&two), Some(&one), Purpose::Try, Step::Nothing),
        (serving(&two, Some(&one)), Some(&one), Some(&two), Purpose::Try, Step::Upgrade),
        (serving(&two, Some(&one)), Some(&one), Some(&two), back, Step::Rollback),
        (serving(&two, Some(&three)), Some(&one), Some(&two), back, Step::Upgrade),
        (serving(&one, Some(&two)), Some(&one), Some(&two), back, Step::Nothing),
        (serving(&two, Some(&one)), Some(&one), Some(&two), Purpose::Start, Step::Rollback),
        (serving(&one, None), Some(&two), Some(&one), Purpose::Start, Step::Upgrade),
        // Of the factory's nothing is known: the manager has it.
        (serving(&two, Some(&one)), None, Some(&two), back, Step::Rollback),
        (serving(&two, Some(&one)), None, Some(&two), Purpose::Start, Step::Rollback),
        (serving(&one, Some(&three)), None, Some(&two), back, Step::Nothing),
        (serving(&one, None), None, None, Purpose::Start, Step::Nothing),
    ] {
        let what = (status.version.version.clone(), wanted, other, purpose);
        assert_eq!(next(&status, &using(wanted, other), purpose), step, "{what:?}");
    }
}

#[test]
fn what_the_manager_gave_up_is_not_tried_again_by_a_start_but_by_a_person() {
    let (one, two) = (fact(b"1", "1"), fact(b"2", "2"));
    let reason = Some("errors: 9 of 10 calls".to_owned());
    let (outcome, tried, serves) = (Outcome::RolledBack, version(&two), version(&one));
    let last = Settled { name: "serial".to_owned(), outcome, tried, serves, reason };
    let status = Status { last: Some(last), ..serving(&one, None) };
    let using = using(Some(&two), Some(&one));
    match next(&status, &using, Purpose::Start) {
        Step::Leave(why) => assert!(why.contains("errors: 9 of 10 calls"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(next(&status, &using, Purpose::Try), Step::Upgrade);
    let first = Use { first: true, ..using };
    assert_eq!(next(&status, &first, Purpose::Start), Step::Upgrade, "a set brought it");
}

/// A manager with one driver.
#[derive(Clone)]
struct Fake(Arc<Mutex<State>>);

struct State {
    status: Status,
    /// What `upgrade` answers, one after the other; then it does it.
    refusals: Vec<Failure>,
    settled: Option<Settled>,
    calls: Vec<String>,
    waiting: Vec<Incoming>,
    /// What came with the last descriptor.
    object: Vec<u8>,
    /// Whether the last one came with a permission.
    permitted: Value,
}

impl Serve for Fake {
    fn describe(&self) -> Description {
        protocol::driver::description()
    }

    async fn call(&mut self, mut call: Incoming) {
        let args = call.parse::<Value>().unwrap_or_default();
        let mut state = self.0.lock().unwrap();
        state.calls.push(call.method.to_string());
        let answer = match &*call.method {
            "list" => Ok(json!([state.status])),
            "settled" => match &state.settled {
                Some(settled) => Ok(json!(settled)),
                // The caller does not wait for ever.
                None => return state.waiting.push(call),
            },
            "upgrade" => match state.refusals.pop() {
                Some(refusal) => Err(refusal),
                None => {
                    let file = std::fs::File::from(call.fds.pop().unwrap());
                    let mut bytes = vec![0; 64];
                    let count = std::os::unix::fs::FileExt::read_at(&file, &mut bytes, 0).unwrap();
                    state.object = bytes[..count].to_vec();
                    state.permitted = args["permitted"].clone();
                    let to: Version = serde_json::from_value(args).unwrap();
                    let from = std::mem::replace(&mut state.status.version, to.clone());
                    state.status.previous = Some(from.clone());
                    let name = state.status.name.clone();
                    Ok(json!(Report { name, from, to, pause_us: 41, ..Report::default() }))
                }
            },
            "rollback" => {
                let to = state.status.previous.take().unwrap();
                let from = std::mem::replace(&mut state.status.version, to.clone());
                Ok(json!(Report { name: "serial".to_owned(), from, to, ..Report::default() }))
            }
            method => Err(Failure::new(Code::UnknownMethod, method)),
        };
        call.responder.finish(answer);
    }
}

struct House {
    manager: Manager,
    fake: Fake,
    folder: tempfile::TempDir,
    _server: Server,
}

fn house(status: Status) -> House {
    let folder = tempfile::tempdir().unwrap();
    let (refusals, calls, object) = (Vec::new(), Vec::new(), Vec::new());
    let (waiting, permitted) = (Vec::new(), Value::Null);
    let state = State { status, refusals, settled: None, calls, waiting, object, permitted };
    let fake = Fake(Arc::new(Mutex::new(state)));
    let server = Server::new(endpoint::Settings::default()).unwrap();
    server.add("driver", fake.clone()).unwrap();
    let socket = folder.path().join("driver.sock");
    server.listen(std::os::unix::net::UnixListener::bind(socket).unwrap()).unwrap();
    let manager = Manager::new(Bus::new(folder.path(), endpoint::Options::default()));
    House { manager, fake, folder, _server: server }
}

impl House {
    async fn bring(&self, using: &Use, purpose: Purpose<'_>) -> Result<Vec<String>, String> {
        let (path, fact) = (self.folder.path().join("slot"), using.fact.clone());
        std::fs::write(&path, b"2").unwrap();
        let target = Target { path, offset: 0, size: None };
        let image = || async { Image::read("serial", &target, fact.as_ref().unwrap()) };
        self.manager.bring("serial", using, purpose, image).await
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.fake.0.lock().unwrap()
    }
}

#[tokio::test]
async fn a_new_version_is_handed_over_and_the_old_one_comes_back() {
    let (one, two) = (fact(b"1", "1"), fact(b"2", "2"));
    let house = house(serving(&one, None));
    let remarks = house.bring(&using(Some(&two), None), Purpose::Try).await.unwrap();
    assert_eq!(remarks, ["serial stood still for 41 us"]);
    assert_eq!(house.state().object, b"2");
    assert_eq!(house.bring(&using(Some(&two), None), Purpose::Try).await, Ok(Vec::new()));
    let back = Purpose::Back("it is ill");
    house.bring(&using(None, Some(&two)), back).await.unwrap();
    assert_eq!(house.state().status.version.version, "1");
    let calls = house.state().calls.clone();
    assert_eq!(calls, ["list", "upgrade", "list", "list", "rollback"]);
}

#[tokio::test]
async fn a_permission_goes_along_with_the_version_that_it_is_for() {
    let (one, two) = (fact(b"1", "1"), fact(b"2", "2"));
    let house = house(serving(&one, None));
    for permitted in [true, false] {
        let using = Use { permitted, ..using(Some(&two), Some(&one)) };
        house.bring(&using, Purpose::Try).await.unwrap();
        let told = if permitted { json!(true) } else { Value::Null };
        assert_eq!(house.state().permitted, told);
        house.state().status = serving(&one, None);
    }
}

#[tokio::test]
async fn a_manager_that_is_busy_is_asked_again_and_one_that_refuses_is_not() {
    let (one, two) = (fact(b"1", "1"), fact(b"2", "2"));
    let house = house(serving(&one, None));
    house.state().refusals = vec![
        Failure::new(Code::Denied, "the canary: self_test answered -5"),
        Failure::new(Code::Busy, "another version is on probation"),
    ];
    let using = using(Some(&two), None);
    let told = house.bring(&using, Purpose::Try).await.unwrap_err();
    assert!(told.contains("the driver serial") && told.contains("self_test"), "{told}");
    assert_eq!(house.state().calls, ["list", "upgrade", "list", "upgrade"]);
    house.state().status.name = "other".to_owned();
    let told = house.bring(&using, Purpose::Try).await.unwrap_err();
    assert!(told.contains("name it in driver.toml"), "{told}");
}

#[tokio::test]
async fn only_a_version_that_serves_and_has_proved_itself_is_healthy() {
    let (one, two) = (fact(b"1", "1"), fact(b"2", "2"));
    let house = house(serving(&two, Some(&one)));
    let settled = |outcome, serves: &Fact| {
        let reason = Some("errors: 9 of 10 calls".to_owned());
        let (tried, serves) = (version(&two), version(serves));
        Some(Settled { name: "serial".to_owned(), outcome, tried, serves, reason })
    };
    match house.manager.settled("serial", &two).await {
        Err(Trouble::Yet(text)) => assert!(text.contains("still on probation"), "{text}"),
        other => panic!("{other:?}"),
    }
    house.state().settled = settled(Outcome::Confirmed, &two);
    assert_eq!(house.manager.settled("serial", &two).await, Ok(()));
    house.state().settled = settled(Outcome::RolledBack, &one);
    match house.manager.settled("serial", &two).await {
        Err(Trouble::Final(text)) => assert!(text.contains("9 of 10"), "{text}"),
        other => panic!("{other:?}"),
    }
    house.state().settled = settled(Outcome::Confirmed, &one);
    let told = house.manager.settled("serial", &two).await;
    assert!(matches!(told, Err(Trouble::Final(text)) if text.contains("serves version 1")));
}
