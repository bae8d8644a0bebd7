//! `vestalctl upgrade` against an agent that keeps chunks in memory.

use std::{
    collections::BTreeMap,
    fs,
    io::{Cursor, Write as _},
    os::unix::net::UnixListener,
    process::Stdio,
    sync::{Arc, Mutex, mpsc},
};

use bundle::{
    Kind, build,
    index::{Page, Wanted},
};
use endpoint::{Code, Description, Failure, Incoming, Serve, Server, Settings};
use protocol::upgrade::{
    ALLOW_UNSIGNED, Begun, Entry, Identity, PAGE_TABLE, Slot, SlotState, State, Status,
    Transaction, split_head,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::fake::{Reply, command, run};

/// A run directory with an agent in it; dropping it ends it.
struct Agent {
    folder: TempDir,
    kept: Arc<Mutex<Kept>>,
    _end: oneshot::Sender<()>,
}

#[derive(Default)]
struct Kept {
    /// By component and number.
    chunks: BTreeMap<(u32, u32), Vec<u8>>,
    keyring: Vec<u8>,
    permission: Vec<u8>,
    /// Where what root approves is looked for, and what was there when it was asked for.
    approved: std::path::PathBuf,
    seen: Vec<String>,
    /// It takes unsigned bundles that root approved, and each approval once.
    takes_unsigned: bool,
    /// Its writer has ended, and the next one empties the folder before it answers anything.
    restarts: bool,
    begun: u64,
    /// The writer ends, once, when this many chunks have come.
    gone_at: Option<usize>,
    /// What `status` answers, one after the other; the last one stays.
    states: Vec<State>,
}

struct Upgrade(Arc<Mutex<Kept>>);

impl Agent {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("vu").tempdir_in("/tmp").unwrap();
        let listener = UnixListener::bind(folder.path().join("upgrade.sock")).unwrap();
        let approved = folder.path().join("state/upgrade/approved");
        fs::create_dir_all(&approved).unwrap();
        let kept = Arc::new(Mutex::new(Kept { approved, ..Kept::default() }));
        let object = Upgrade(Arc::clone(&kept));
        let (end, ended) = oneshot::channel::<()>();
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let server = Server::new(Settings::default()).unwrap();
                server.add("upgrade", object).unwrap();
                server.listen(listener).unwrap();
                ready.send(()).unwrap();
                let _ = ended.await;
            });
        });
        is_ready.recv().unwrap();
        Self { folder, kept, _end: end }
    }

    fn ctl(&self, args: &[&str]) -> Reply {
        let args: Vec<&str> = std::iter::once("upgrade").chain(args.iter().copied()).collect();
        run(&mut command(self.folder.path(), "vestalctl", &args), "")
    }

    /// Writes a bundle of a megabyte; its path and the SHA-256 of its image.
    fn bundle(&self) -> (String, Vec<u8>) {
        let image: Vec<u8> = (0..400_000_u32).flat_map(|number| number.to_le_bytes()).collect();
        let outline = build::Outline {
            product: "demo".to_owned(),
            revisions: vec!["*".to_owned()],
            version: "2".to_owned(),
            ..build::Outline::default()
        };
        let part = build::Part {
            id: "app".to_owned(),
            version: "2".to_owned(),
            rollback_index: 1,
            kind: Kind::Image,
            allow_special: false,
            requires: Vec::new(),
            image: Box::new(&image[..]),
            size: image.len() as u64,
        };
        let (mut scratch, mut bytes) = (Cursor::new(Vec::new()), Vec::new());
        let (parts, options) = (vec![part], build::Options::default());
        build::build(outline, parts, &[], options, &mut scratch, &mut bytes, &mut |_| {}).unwrap();
        let path = self.folder.path().join("app.vestal");
        fs::write(&path, &bytes).unwrap();
        (path.display().to_string(), bytes)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }
}

impl Serve for Upgrade {
    fn describe(&self) -> Description {
        protocol::upgrade::description()
    }

    async fn call(&mut self, call: Incoming) {
        let mut kept = self.0.lock().unwrap();
        if matches!(&*call.method, "begin" | "status") && std::mem::take(&mut kept.restarts) {
            kept.empty();
        }
        match &*call.method {
            "begin" => call.responder.finish(kept.begin(&call.args)),
            "pages" => {
                let (_, component, number, data) = split_head(&call.args).unwrap();
                if number == PAGE_TABLE {
                    return call.responder.reply(&Value::Null);
                }
                let page = Page::parse(number, data).unwrap();
                let mut wanted = Wanted::none(page.chunks.len());
                for at in 0..page.chunks.len() {
                    let number = page.first_chunk() + u32::try_from(at).unwrap();
                    if !kept.chunks.contains_key(&(component, number)) {
                        wanted.want(at);
                    }
                }
                call.responder.reply_bytes(wanted.bytes().to_vec());
            }
            "chunk" => {
                let (session, component, number, data) = split_head(&call.args).unwrap();
                if kept.gone_at == Some(kept.chunks.len()) {
                    kept.gone_at = None;
                    kept.begun += 1;
                    kept.restarts = kept.takes_unsigned;
                }
                if session != kept.begun {
                    return call.responder.fail(Failure::new(Code::Gone, "begin again"));
                }
                kept.chunks.insert((component, number), data.to_vec());
                call.responder.reply(&Value::Null);
            }
            "finish" | "confirm" | "rollback" => call.responder.reply(&status(State::Verifying)),
            "status" => {
                let state = kept.states.first().copied().unwrap_or(State::Trial);
                if kept.states.len() > 1 {
                    kept.states.remove(0);
                }
                call.responder.reply(&status(state));
            }
            "keyring" => {
                kept.keyring.clone_from(&call.args);
                kept.look();
                call.responder.reply(&7);
            }
            "permission" => {
                kept.permission.clone_from(&call.args);
                call.responder.reply(&Value::Null);
            }
            "abort" => {
                let failure = Failure::new(Code::NotFound, "there is no transfer");
                call.responder.fail(failure);
            }
            "slots" => call.responder.reply(&[slot()]),
            "history" => call.responder.reply(&[entry()]),
            "identity" => call.responder.reply(&Identity {
                product: "demo".to_owned(),
                revision: "a1".to_owned(),
                fingerprint: "f".repeat(64),
                keyring: 0,
                key: "a".repeat(64),
            }),
            _ => {}
        }
    }
}

impl Kept {
    fn empty(&self) {
        for entry in fs::read_dir(&self.approved).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    fn look(&mut self) {
        let found = fs::read_dir(&self.approved).into_iter().flatten();
        self.seen = found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    }

    fn begin(&mut self, args: &[u8]) -> Result<Begun, Failure> {
        if args[8] & 1 != 0 {
            assert_eq!(u32::from(args[8]), ALLOW_UNSIGNED);
            self.look();
            let hash = bundle::hex::encode(&bundle::sha256(&args[12..]));
            assert_eq!(self.seen, [format!("unsigned-{hash}")]);
            let details = json!({ "reason": "unsigned" });
            if self.takes_unsigned {
                self.empty();
                self.begun += 1;
                let (session, window) = (self.begun, 8);
                return Ok(Begun { session, window, components: vec![0], current: false });
            }
            return Err(Failure::new(Code::Denied, "nobody signed it").with_details(details));
        }
        self.begun += 1;
        Ok(Begun { session: self.begun, window: 8, components: vec![0], current: false })
    }
}

fn status(state: State) -> Status {
    let reason = (state == State::RolledBack).then(|| "camera did not become ready".to_owned());
    Status { state, reason, ..Status::default() }
}

fn slot() -> Slot {
    Slot {
        component: "app".to_owned(),
        letter: 'B',
        target: "/dev/b\u{1b}".to_owned(),
        state: SlotState::Trial,
        version: Some("2".to_owned()),
        rollback_index: Some(4),
        hash: None,
        tries: Some(3),
    }
}

fn entry() -> Entry {
    Entry {
        sequence: 1,
        time: 1_795_320_320,
        state: State::RolledBack,
        transaction: Transaction {
            version: "2".to_owned(),
            who: "uid 0".to_owned(),
            ..Transaction::default()
        },
        reason: "camera did not become ready".to_owned(),
        outage_ms: Some(41),
    }
}

#[test]
fn a_bundle_is_installed_and_what_became_of_it_is_told() {
    let agent = Agent::start();
    let (path, _) = agent.bundle();
    agent.kept().states = vec![State::Verifying, State::Written, State::Trial];
    let reply = agent.ctl(&["install", &path]);
    assert_eq!(reply.code, 0, "{reply:?}");
    assert!(reply.stdout.starts_with("trial: "), "{reply:?}");
    assert!(agent.kept().chunks.len() > 5);
    agent.kept().states = vec![State::Trial, State::Confirmed];
    let reply = agent.ctl(&["install", &path, "--wait", "--json"]);
    let last: Value = serde_json::from_str(reply.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["status"]["state"], "confirmed");
}

#[test]
fn a_bundle_comes_from_standard_input_through_a_pipe_too() {
    let agent = Agent::start();
    let (_, bytes) = agent.bundle();
    let mut command = command(agent.folder.path(), "vestalctl", &["upgrade", "install", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(agent.kept().chunks.len() > 5);
}

#[test]
fn an_upgrade_that_goes_back_is_a_failure_with_its_reason() {
    let agent = Agent::start();
    let (path, _) = agent.bundle();
    agent.kept().states = vec![State::Trial, State::RolledBack];
    let reply = agent.ctl(&["install", &path, "--wait"]);
    assert_eq!(reply.code, 1, "{reply:?}");
    assert!(reply.stderr.contains("rolled-back: camera did not become ready"), "{reply:?}");
    agent.kept().states = vec![State::Trial];
    agent.ctl(&["install", &path, "--wait", "--timeout", "1s"]).fails(5, "still trial");
}

#[test]
fn a_transfer_whose_writer_ended_is_taken_up_again() {
    let agent = Agent::start();
    let (path, _) = agent.bundle();
    agent.kept().gone_at = Some(4);
    let reply = agent.ctl(&["install", &path]);
    assert_eq!(reply.code, 0, "{reply:?}");
    let kept = agent.kept();
    assert_eq!((kept.gone_at, kept.begun), (None, 3));
}

#[test]
fn a_transfer_that_root_approved_is_approved_again_when_it_is_taken_up_again() {
    let agent = Agent::start();
    let (path, _) = agent.bundle();
    let mut kept = agent.kept();
    (kept.takes_unsigned, kept.gone_at) = (true, Some(4));
    drop(kept);
    let reply = agent.ctl(&["install", &path, "--allow-unsigned"]);
    assert_eq!(reply.code, 0, "{reply:?}");
    let kept = agent.kept();
    assert_eq!((kept.gone_at, kept.begun), (None, 3));
}

#[test]
fn refusals_come_with_their_reason_code_and_exit_codes_are_kept() {
    let agent = Agent::start();
    let (path, bytes) = agent.bundle();
    agent.ctl(&["install", &path, "--allow-unsigned"]).fails(1, "nobody signed it (unsigned)");
    let left = fs::read_dir(&agent.kept().approved).unwrap().count();
    assert_eq!(left, 0, "what was approved is taken back");
    agent.ctl(&["install", "/nonexistent"]).fails(3, "/nonexistent");
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    agent.ctl(&["install", &path]).fails(1, "truncated");
    agent.ctl(&["abort"]).fails(3, "there is no transfer");
    let nowhere = tempfile::tempdir_in("/tmp").unwrap();
    let mut command = command(nowhere.path(), "vestalctl", &["upgrade", "status"]);
    run(&mut command, "").fails(4, "upgrade.sock");
}

#[test]
fn slots_history_and_identity_are_tables_without_control_characters() {
    let agent = Agent::start();
    let slots = agent.ctl(&["slots"]).stdout;
    assert!(slots.contains("app        B     trial (3 tries left)"), "{slots}");
    assert!(slots.contains("/dev/b\\u{1b}"), "{slots}");
    let history = agent.ctl(&["history"]).stdout;
    assert!(history.contains("2026-11-22T04:05:20Z") && history.contains("41 ms"), "{history}");
    let identity = agent.ctl(&["identity"]).stdout;
    assert!(identity.contains("none: every bundle is refused"), "{identity}");
    assert_eq!(agent.ctl(&["slots", "--json"]).json()[0]["tries"], 3);
}

#[test]
fn a_keyring_goes_with_the_signatures_beside_it() {
    let agent = Agent::start();
    let path = agent.folder.path().join("keyring.json");
    fs::write(&path, "{}\n").unwrap();
    let file = path.display().to_string();
    agent.ctl(&["keyring", "install", &file]).fails(3, "keyring.json.sig");
    fs::write(path.with_extension("json.sig"), [1; 76]).unwrap();
    let reply = agent.ctl(&["keyring", "install", &file]);
    assert!(reply.stdout.contains("version 7"), "{reply:?}");
    let kept = agent.kept();
    assert_eq!(kept.keyring, [b"{}\n".as_slice(), &[1; 76]].concat());
    let hash = bundle::hex::encode(&bundle::sha256(&kept.keyring));
    assert_eq!(kept.seen, [format!("keyring-{hash}")], "root has approved it");
    assert_eq!(fs::read_dir(&kept.approved).unwrap().count(), 0);
}

#[test]
fn what_root_approves_is_beside_the_agent_s_state_or_the_agent_says_where_it_looked() {
    let agent = Agent::start();
    let path = agent.folder.path().join("keyring.json");
    fs::write(&path, "{}\n").unwrap();
    fs::write(path.with_extension("json.sig"), [1; 76]).unwrap();
    let file = path.display().to_string();
    let elsewhere = agent.folder.path().join("elsewhere");
    fs::create_dir_all(elsewhere.join("upgrade/approved")).unwrap();
    agent.ctl(&["keyring", "install", &file, "--state-dir", elsewhere.to_str().unwrap()]);
    assert!(agent.kept().seen.is_empty());
    fs::remove_dir_all(&elsewhere).unwrap();
    // It is the agent that knows what is missing; here it takes everything.
    let reply =
        agent.ctl(&["keyring", "install", &file, "--state-dir", elsewhere.to_str().unwrap()]);
    assert_eq!(reply.code, 0, "{reply:?}");
    assert!(!elsewhere.exists());
    fs::create_dir_all(elsewhere.join("upgrade")).unwrap();
    fs::write(elsewhere.join("upgrade/approved"), "").unwrap();
    agent
        .ctl(&["keyring", "install", &file, "--state-dir", elsewhere.to_str().unwrap()])
        .fails(1, "elsewhere/upgrade/approved/keyring-");
}

#[test]
fn a_permission_goes_with_its_length_and_the_signatures_beside_it() {
    let agent = Agent::start();
    let path = agent.folder.path().join("down.json");
    fs::write(&path, "{}\n").unwrap();
    let file = path.display().to_string();
    agent.ctl(&["permit", &file]).fails(3, "down.json.sig");
    fs::write(path.with_extension("json.sig"), [1; 76]).unwrap();
    let reply = agent.ctl(&["permit", &file]);
    assert!(reply.stdout.contains("may be installed now, once"), "{reply:?}");
    assert_eq!(agent.kept().permission, [&[3, 0, 0, 0], b"{}\n".as_slice(), &[1; 76]].concat());
}
