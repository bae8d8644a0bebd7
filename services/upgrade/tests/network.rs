//! The real agent, both processes of it, as a host on the network and root on the device see it.

use std::{
    fs,
    io::Cursor,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    sync::Arc,
    time::Duration,
};

use bundle::{
    Keyring, Kind, Reader, RoleKeys, Roles, SecretKey, Signatures, build, hex,
    push::{Outcome, Sender, Sent, Step},
};
use endpoint::{
    CallError, CallOptions, Client, Code, Dial, Options,
    tls::{Connector, KeyPair},
};
use protocol::upgrade::{Approval, Identity, State, Status};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    net::{TcpStream, UnixStream},
    task::JoinSet,
    time::{sleep, timeout},
};

const ROOT: [u8; 32] = [1; 32];
const BUNDLE: [u8; 32] = [2; 32];
const OPERATOR: [u8; 32] = [3; 32];
const STRANGER: [u8; 32] = [4; 32];
/// No step takes longer, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// A scratch folder with an agent in it.
struct Device {
    folder: TempDir,
    agent: Option<Child>,
}

impl Device {
    async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("up").tempdir_in("/tmp").unwrap();
        // The agent gives up root and must find its sockets all the same.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = |name: &str| folder.path().join(name).display().to_string();
        fs::create_dir(folder.path().join("config")).unwrap();
        let (a, b, link) = (place("a.img"), place("b.img"), place("app"));
        let text = format!(
            r#"
product = "demo"
revision = "a1"
health = {{ timeout = "30s", stable = "0ms" }}
[components.application]
slots = [{{ path = "{a}", size = "16MiB" }}, {{ path = "{b}", size = "16MiB" }}]
method = "symlink"
link = "{link}"
"#
        );
        fs::write(folder.path().join("config/upgrade.toml"), text).unwrap();
        let mut device = Self { folder, agent: None };
        device.spawn().await;
        let approved = Approval::Keyring.file(&hex::encode(&bundle::sha256(&keyring())));
        let folder = device.path("state/upgrade").join(Approval::FOLDER);
        fs::write(folder.join(approved), "").unwrap();
        let answer = device.local().call_bytes("upgrade", "keyring", &keyring(), once()).await;
        assert_eq!(answer.unwrap().parse::<u64>().unwrap(), 1);
        device
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn spawn(&mut self) {
        let _ = fs::remove_file(self.path("run/upgrade/addr"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_vestal-upgrade"));
        command.env_clear().args(["--listen", "127.0.0.1:0", "--log-level", "error"]);
        for (option, name) in
            [("--run-dir", "run"), ("--config-dir", "config"), ("--state-dir", "state")]
        {
            command.arg(option).arg(self.path(name));
        }
        self.agent = Some(command.spawn().unwrap());
        let local = self.local();
        within(async || local.call("upgrade", "status", &json!({}), once()).await.ok()).await;
    }

    fn pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    /// The writing process.
    fn writer(&self) -> i32 {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().next().unwrap().parse().unwrap()
    }

    async fn ended(&mut self) -> ExitStatus {
        let mut agent = self.agent.take().unwrap();
        within(async || agent.try_wait().unwrap()).await
    }

    /// Root on the Unix socket.
    fn local(&self) -> Client {
        let options = Options { patience: Duration::ZERO, ..Options::default() };
        Client::new(self.path("run/upgrade.sock"), options)
    }

    async fn host(&self, seed: &[u8; 32]) -> Client {
        let address = fs::read_to_string(self.path("run/upgrade/addr")).unwrap();
        let address: SocketAddr = address.trim().parse().unwrap();
        let identity = self.local().call("upgrade", "identity", &json!({}), once()).await.unwrap();
        let key: [u8; 32] = hex::decode(&identity.parse::<Identity>().unwrap().key).unwrap();
        let pair = KeyPair::from_seed(seed).unwrap();
        let connector = Connector::new(&pair, Arc::new(move |shown| *shown == key)).unwrap();
        let dial: Dial = Arc::new(move || {
            let connector = connector.clone();
            Box::pin(async move {
                let (carrier, _) = connector.connect(TcpStream::connect(address).await?).await?;
                let (here, there) = UnixStream::pair()?;
                tokio::spawn(carrier.carry(there, LIMIT));
                Ok(here)
            })
        });
        Client::over("device", dial, Options { patience: Duration::ZERO, ..Options::default() })
    }

    /// Until the upgrade is in such a state.
    async fn until(&self, client: &Client, wanted: State) {
        within(async || {
            let answer = client.call("upgrade", "status", &json!({}), once()).await.ok()?;
            let status: Status = answer.parse().unwrap();
            assert_ne!(status.state, State::Failed, "{status:?}");
            (status.state == wanted).then_some(())
        })
        .await;
    }

    /// What the application sees.
    fn in_use(&self, length: usize) -> Vec<u8> {
        let mut bytes = fs::read(self.path("app")).unwrap();
        bytes.truncate(length);
        bytes
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            // It may have ended already; the writer ends with it.
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

fn once() -> CallOptions<'static> {
    CallOptions::default()
}

async fn within<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(LOOK).await;
        }
    };
    timeout(LIMIT, looking).await.expect("it happens in time")
}

/// A keyring, and its signature behind it.
fn keyring() -> Vec<u8> {
    let one = |seed| RoleKeys::new(1, &[SecretKey::new(seed).public()]);
    let roles = Roles {
        bundle: Some(one(&BUNDLE)),
        operator: Some(one(&OPERATOR)),
        recovery: None,
        root: one(&ROOT),
    };
    let keyring = Keyring { version: 1, roles }.encode();
    let mut signatures = Signatures::default();
    signatures.add(Keyring::sign(&keyring, &SecretKey::new(&ROOT))).unwrap();
    [keyring, signatures.encode()].concat()
}

/// A signed bundle and its image.
fn bundle_of(product: &str, size: usize) -> (Vec<u8>, Vec<u8>) {
    let mut word = 7_u64;
    let image: Vec<u8> = std::iter::repeat_with(|| {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        word.to_be_bytes()[0] & 0x3f
    })
    .take(size)
    .collect();
    let outline = build::Outline {
        product: product.to_owned(),
        revisions: vec!["a1".to_owned()],
        version: "2".to_owned(),
        ..build::Outline::default()
    };
    let part = build::Part {
        id: "application".to_owned(),
        version: "2".to_owned(),
        rollback_index: 1,
        kind: Kind::Image,
        allow_special: false,
        requires: Vec::new(),
        image: Box::new(&image[..]),
        size: size as u64,
    };
    let (mut scratch, mut output) = (Cursor::new(Vec::new()), Vec::new());
    let options = build::Options { level: 1, ..build::Options::default() };
    let key = SecretKey::new(&BUNDLE);
    let (parts, keys) = (vec![part], [&key]);
    build::build(outline, parts, &keys, options, &mut scratch, &mut output, &mut |_| {}).unwrap();
    (output, image)
}

/// Sends a bundle once; `seen` hears what was sent before each call.
async fn push(
    client: &Client,
    bundle: &[u8],
    mut seen: impl FnMut(Sent),
) -> Result<(Outcome, Sent), CallError> {
    let mut sender = Sender::new(Reader::open(Cursor::new(bundle)).unwrap(), 0, None);
    let mut calls = JoinSet::new();
    loop {
        seen(sender.sent());
        match sender.next_step().unwrap() {
            Step::Done(outcome) => return Ok((outcome, sender.sent())),
            Step::Call(call) => {
                let client = client.clone();
                calls.spawn(async move {
                    let answer = client.call_bytes("upgrade", call.method, &call.args, once());
                    (call.id, answer.await)
                });
            }
            Step::Wait => {
                let (id, answer) = calls.join_next().await.unwrap().unwrap();
                sender.answered(id, &answer?.result).unwrap();
            }
        }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test]
async fn an_application_that_is_pushed_over_the_network_is_in_use_afterwards() {
    let device = Device::start().await;
    let (bundle, image) = bundle_of("demo", 3 << 20);
    let host = device.host(&OPERATOR).await;
    push(&host, &bundle, |_| {}).await.unwrap();
    device.until(&host, State::Trial).await;
    assert!(device.in_use(image.len()) == image);
}

#[tokio::test]
async fn a_stranger_and_a_bundle_for_another_product_change_nothing() {
    let device = Device::start().await;
    let (bundle, _) = bundle_of("demo", 1 << 20);
    let turned_away = push(&device.host(&STRANGER).await, &bundle, |_| {}).await;
    assert!(matches!(turned_away, Err(CallError::Unreachable { .. })), "{turned_away:?}");
    let (other, _) = bundle_of("other", 1 << 20);
    let host = device.host(&OPERATOR).await;
    match push(&host, &other, |_| {}).await {
        Err(CallError::Refused(failure)) => {
            assert_eq!(failure.details.unwrap()["reason"], "wrong-product");
        }
        other => panic!("{other:?}"),
    }
    device.until(&host, State::Idle).await;
    push(&host, &bundle, |_| {}).await.unwrap();
}

#[tokio::test]
async fn after_a_kill_of_the_writer_only_what_is_not_on_disk_travels_again() {
    let mut device = Device::start().await;
    let (bundle, image) = bundle_of("demo", 12 << 20);
    let host = device.host(&OPERATOR).await;
    let writer = rustix::process::Pid::from_raw(device.writer()).unwrap();
    let most = bundle.len() as u64 / 8 * 7;
    let mut first = 0;
    let cut = push(&host, &bundle, |sent| {
        first = sent.sent;
        if first >= most {
            // It is killed once; later on it is gone already.
            let _ = rustix::process::kill_process(writer, rustix::process::Signal::KILL);
        }
    })
    .await;
    let cut = cut.unwrap_err();
    let gone = matches!(&cut, CallError::Refused(failure) if failure.code == Code::Gone);
    assert!(
        gone || matches!(cut, CallError::Lost { .. } | CallError::Unreachable { .. }),
        "{cut:?}"
    );
    if is_root() {
        // Without rights the other process can't start a writer: the supervisor starts both.
        assert_eq!(device.ended().await.code(), Some(1));
        device.spawn().await;
    } else {
        within(async || (device.writer() != writer.as_raw_nonzero().get()).then_some(())).await;
    }
    let host = device.host(&OPERATOR).await;
    let (_, again) = push(&host, &bundle, |_| {}).await.unwrap();
    assert!(first + again.sent < bundle.len() as u64 + (3 << 20), "{first} and {}", again.sent);
    device.until(&host, State::Trial).await;
    assert!(device.in_use(image.len()) == image);
}

#[tokio::test]
async fn the_process_that_speaks_with_the_network_has_no_rights() {
    let device = Device::start().await;
    if !is_root() {
        eprintln!("not root: there are no rights to give up");
        return;
    }
    let status = fs::read_to_string(format!("/proc/{}/status", device.pid())).unwrap();
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    for ids in [line("Uid:"), line("Gid:")] {
        assert_eq!(ids.len(), 4);
        assert!(ids.iter().all(|id| *id == ids[0] && id != "0"), "{ids:?}");
    }
    assert!(line("Groups:").is_empty());
    assert_eq!(line("NoNewPrivs:"), ["1"]);
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(line(set), ["0000000000000000"], "{set}");
    }
    let writer = fs::read_to_string(format!("/proc/{}/status", device.writer())).unwrap();
    assert!(writer.contains("Uid:\t0\t0\t0\t0"));
}

#[tokio::test]
async fn told_to_stop_both_processes_do() {
    let mut device = Device::start().await;
    let writer = device.writer();
    let agent = rustix::process::Pid::from_raw(device.pid().cast_signed()).unwrap();
    rustix::process::kill_process(agent, rustix::process::Signal::TERM).unwrap();
    assert_eq!(device.ended().await.code(), Some(0));
    // A zombie that nobody waits for yet is gone, too.
    let is_gone = || match fs::read_to_string(format!("/proc/{writer}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")),
        Err(_) => true,
    };
    within(async || is_gone().then_some(())).await;
}
