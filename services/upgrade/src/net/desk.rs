//! The methods of the object `upgrade`, for callers of the Unix socket and of the network alike: takes a call apart, sees
//! whose transfer it belongs to, and gives the writer its order. No call waits for another one here, so that a status is told
//! and a transfer is given up however busy the writer is.
//!
//! Nothing here decides what is written: the writer believes only what is signed.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
};

use bundle::{Codec, Refusal, index::Page};
use daemon::clock;
use endpoint::{Incoming, Peer};
use protocol::{
    failure::{Code, Failure},
    upgrade::{
        ALLOW_UNSIGNED, BEGIN_MAGIC, Begun, DRY_RUN, Finish, Identity, PAGE_TABLE, Rollback,
        split_head,
    },
};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{
    decode::{self, Job},
    hold::{Hold, Line},
    link::{Answer, From, Link, received},
};
use crate::channel::{Device, What};

/// Chunks that may be on their way from here to the writer: what a client may send at once, and the memory that it costs.
pub(super) const WINDOW: usize = 8;
/// Questions that only read and are with the writer at once; more wait here, so that they don't hold a transfer up.
const QUESTIONS: usize = 4;
/// Longest `begin`, without magic and flags.
const OFFER_MAX: usize =
    bundle::HEADER + bundle::SIGNATURES_MAX * bundle::SIGNATURE + bundle::MANIFEST_MAX;
/// Longest permission with its signatures and its length.
const PERMISSION_MAX: usize =
    4 + bundle::PERMISSION_MAX + bundle::SIGNATURES_MAX * bundle::SIGNATURE;
/// Longest keyring with its signatures.
const KEYRING_MAX: usize = bundle::MANIFEST_MAX + bundle::SIGNATURES_MAX * bundle::SIGNATURE;

/// What all callers share.
pub(super) struct Desk {
    link: Link,
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    questions: Semaphore,
    state: Mutex<State>,
    device: watch::Sender<Device>,
    /// The device's public key, in hexadecimal digits, and its fingerprint.
    key: String,
    fingerprint: String,
}

#[derive(Default)]
struct State {
    hold: Hold,
    /// What the chunks that come now look like.
    page: Option<(u32, Page)>,
    /// Connections whose end is waited for.
    watched: HashSet<Line>,
}

/// Who calls, and over which connection.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) from: From,
    pub(super) line: Line,
}

/// The answer to a call.
enum Told {
    Json(Value),
    Raw(Vec<u8>),
}

impl Desk {
    /// # Errors
    /// Where the thread that unpacks can't be started.
    pub(super) fn new(link: Link, key: &bundle::PublicKey) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            jobs: decode::start(link.clone(), WINDOW)?,
            link,
            room: Arc::new(Semaphore::new(WINDOW)),
            questions: Semaphore::new(QUESTIONS),
            state: Mutex::default(),
            device: watch::Sender::default(),
            key: key.to_string(),
            fingerprint: bundle::hex::encode(&key.fingerprint()),
        }))
    }

    /// Asks the writer what must be known of the device.
    ///
    /// # Errors
    /// As the writer answers.
    pub(super) async fn learn(&self) -> Result<(), Failure> {
        let from = From { who: "the network side".to_owned(), local_root: false };
        let device = self.link.ask_for(&from, What::Device, Vec::new()).await?;
        self.know(device);
        Ok(())
    }

    /// What the writer says of the device now.
    pub(super) fn know(&self, device: Device) {
        self.device.send_replace(device);
    }

    /// The writer is gone, and all transfers with it.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        state.hold.clear();
        state.page = None;
    }

    /// Whether a key is an operator's.
    pub(super) fn is_operator(&self, key: &[u8; 32]) -> bool {
        is_operator(&self.device.borrow(), key)
    }

    /// Returns when a key is no operator's any more.
    pub(super) async fn until_stranger(&self, key: &[u8; 32]) {
        // It never ends: the sender is here.
        let _ = self.device.subscribe().wait_for(|device| !is_operator(device, key)).await;
    }

    pub(super) fn has_operators(&self) -> bool {
        !self.device.borrow().operators.is_empty()
    }

    /// A chunk: in order, so it is handed on before the next call is looked at.
    pub(super) fn chunk(&self, caller: Caller, call: Incoming) {
        let Incoming { args, responder, .. } = call;
        let begun = self.job(caller, args);
        let (answered, place) = match begun {
            Ok(begun) => begun,
            Err(failure) => return responder.fail(failure),
        };
        tokio::spawn(async move {
            let answer = received(answered).await;
            drop(place);
            responder.finish(answer.map(|(value, _)| value));
        });
    }

    fn job(
        &self,
        caller: Caller,
        args: Vec<u8>,
    ) -> Result<(oneshot::Receiver<Answer>, tokio::sync::OwnedSemaphorePermit), Failure> {
        let (session, component, chunk, _) = split_head(&args).ok_or_else(|| short("chunk"))?;
        let (codec, raw_len) = {
            let mut state = self.lock();
            state.hold.goes_on(caller.line, session, clock::now())?;
            state.look_up(component, chunk)?
        };
        let full = || {
            let text = format!("more than {WINDOW} chunks are under way; wait for answers");
            Failure::new(Code::Busy, text)
        };
        let place = Arc::clone(&self.room).try_acquire_owned().map_err(|_| full())?;
        let (answer, answered) = oneshot::channel();
        let what = What::Chunk { session, component, chunk };
        let job = Job { from: caller.from, what, codec, raw_len, args, answer };
        self.jobs.try_send(job).map_err(|_| full())?;
        Ok((answered, place))
    }

    /// Any other call.
    pub(super) async fn answer(self: Arc<Self>, caller: Caller, call: Incoming) {
        self.lock().hold.heard(caller.line, clock::now());
        let told = match &*call.method {
            "begin" => self.begin(&caller, &call).await.map(Told::Json),
            "pages" => self.pages(&caller, &call.args).await.map(Told::Raw),
            "finish" => self.finish(&caller, &call).await.map(Told::Json),
            "abort" => self.abort(&caller).await.map(Told::Json),
            "activate" => self.json(&caller, What::Activate).await,
            "confirm" => self.json(&caller, What::Confirm).await,
            "rollback" => match call.parse::<Rollback>() {
                Ok(rollback) => self.json(&caller, What::Rollback(rollback)).await,
                Err(failure) => Err(failure),
            },
            "keyring" => self.keyring(&caller, &call.args).await.map(Told::Json),
            "permission" => self.permission(&caller, &call.args).await.map(Told::Json),
            "status" => self.question(&caller, What::Status).await,
            "slots" => self.question(&caller, What::Slots).await,
            "history" => self.question(&caller, What::History).await,
            "identity" => return call.responder.reply(&self.identity()),
            // The endpoint lets only described methods through; an answer is sent when the call is dropped.
            _ => return,
        };
        match told {
            Ok(Told::Json(value)) => call.responder.reply(&value),
            Ok(Told::Raw(bytes)) => call.responder.reply_bytes(bytes),
            Err(failure) => call.responder.fail(failure),
        }
    }

    async fn json(&self, caller: &Caller, what: What) -> Result<Told, Failure> {
        let (value, _) = self.link.ask(&caller.from, what, Vec::new()).await?;
        Ok(Told::Json(value))
    }

    async fn question(&self, caller: &Caller, what: What) -> Result<Told, Failure> {
        let _turn = self.questions.acquire().await.expect("the questions are never closed");
        self.json(caller, what).await
    }

    fn identity(&self) -> Identity {
        let Device { product, revision, keyring, .. } = self.device.borrow().clone();
        let (fingerprint, key) = (self.fingerprint.clone(), self.key.clone());
        Identity { product, revision, fingerprint, keyring, key }
    }

    async fn begin(self: &Arc<Self>, caller: &Caller, call: &Incoming) -> Result<Value, Failure> {
        let (flags, offer) = offer(&call.args)?;
        if flags & ALLOW_UNSIGNED != 0 && !caller.from.local_root {
            let text = "only root on the device itself may install a bundle without a valid signature; sign it with vestal bundle sign";
            return Err(Failure::new(Code::Denied, text));
        }
        let what = What::Begin { flags };
        if flags & DRY_RUN != 0 {
            return Ok(self.link.ask(&caller.from, what, offer.to_vec()).await?.0);
        }
        let wall = clock::wall().as_secs();
        let before = self.lock().hold.begin(&caller.from.who, caller.line, wall, clock::now())?;
        self.watch(caller, call.responder.peer());
        if let Some(session) = before {
            self.leave(&caller.from, session).await;
        }
        match self.link.ask_for::<Begun>(&caller.from, what, offer.to_vec()).await {
            Ok(begun) => {
                self.has_begun(caller, &begun).await;
                serde_json::to_value(begun).map_err(|error| {
                    Failure::new(Code::Failed, format!("write the answer: {error}"))
                })
            }
            Err(failure) => {
                self.lock().hold.done(caller.line);
                Err(failure)
            }
        }
    }

    async fn has_begun(&self, caller: &Caller, begun: &Begun) {
        let stays = {
            let mut state = self.lock();
            state.page = None;
            if begun.current {
                state.hold.done(caller.line);
                return;
            }
            state.hold.begun(caller.line, begun.session)
        };
        if !stays {
            self.leave(&caller.from, begun.session).await;
        }
    }

    /// Waits, once a connection, for its end.
    fn watch(self: &Arc<Self>, caller: &Caller, peer: Peer) {
        if !self.lock().watched.insert(caller.line) {
            return;
        }
        let (desk, caller) = (Arc::clone(self), caller.clone());
        tokio::spawn(async move {
            peer.closed().await;
            let session = {
                let mut state = desk.lock();
                state.watched.remove(&caller.line);
                state.hold.leave(caller.line, clock::now())
            };
            if let Some(session) = session {
                tracing::info!(
                    who = caller.from.who,
                    "a transfer lost its connection; it can be taken up again"
                );
                desk.leave(&caller.from, session).await;
            }
        });
    }

    async fn leave(&self, from: &From, session: u64) {
        if let Err(failure) = self.link.ask(from, What::Leave { session }, Vec::new()).await {
            tracing::debug!("leave session {session}: {failure}");
        }
    }

    async fn pages(&self, caller: &Caller, args: &[u8]) -> Result<Vec<u8>, Failure> {
        let (session, component, page, data) = split_head(args).ok_or_else(|| short("pages"))?;
        self.lock().hold.goes_on(caller.line, session, clock::now())?;
        self.chunks_before().await;
        let what = What::Pages { session, component, page };
        let (_, bitmap) = self.link.ask(&caller.from, what, data.to_vec()).await?;
        if page != PAGE_TABLE {
            let parsed = Page::parse(page, data)
                .map_err(|text| Failure::new(Code::InvalidArgument, text))?;
            let mut state = self.lock();
            // Somebody else may have begun meanwhile.
            state.hold.goes_on(caller.line, session, clock::now())?;
            state.page = Some((component, parsed));
        }
        Ok(bitmap)
    }

    /// Chunks that came before are still being unpacked, and a page must not overtake them.
    async fn chunks_before(&self) {
        let all = u32::try_from(WINDOW).expect("the window is small");
        drop(self.room.acquire_many(all).await.expect("the room is never closed"));
    }

    async fn finish(&self, caller: &Caller, call: &Incoming) -> Result<Value, Failure> {
        let finish = call.parse::<Finish>()?;
        self.lock().hold.goes_on(caller.line, finish.session, clock::now())?;
        let answer = self.link.ask(&caller.from, What::Finish(finish), Vec::new()).await;
        let is_over = !matches!(&answer, Err(failure) if failure.code == Code::InvalidArgument);
        if is_over {
            self.lock().hold.done(caller.line);
        }
        Ok(answer?.0)
    }

    async fn abort(&self, caller: &Caller) -> Result<Value, Failure> {
        let Caller { from, .. } = caller;
        self.lock().hold.may_abort(&from.who, from.local_root, clock::now())?;
        let (value, _) = self.link.ask(from, What::Abort, Vec::new()).await?;
        self.lock().hold.clear();
        Ok(value)
    }

    async fn keyring(&self, caller: &Caller, args: &[u8]) -> Result<Value, Failure> {
        if args.len() > KEYRING_MAX {
            let text = format!("{} bytes of keyring; at most {KEYRING_MAX}", args.len());
            return Err(Failure::new(Code::Limit, text));
        }
        let length = keyring_len(args)?;
        Ok(self.link.ask(&caller.from, What::Keyring { length }, args.to_vec()).await?.0)
    }

    async fn permission(&self, caller: &Caller, args: &[u8]) -> Result<Value, Failure> {
        if args.len() > PERMISSION_MAX {
            let text = format!("{} bytes of permission; at most {PERMISSION_MAX}", args.len());
            return Err(Failure::new(Code::Limit, text));
        }
        let (length, data) = args.split_first_chunk().ok_or_else(|| short("permission"))?;
        let what = What::Permission { length: u32::from_le_bytes(*length) };
        Ok(self.link.ask(&caller.from, what, data.to_vec()).await?.0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state")
    }
}

impl State {
    /// How a chunk is stored, by the page that the writer took last.
    fn look_up(&self, component: u32, chunk: u32) -> Result<(Codec, u32), Failure> {
        let page = self.page.as_ref().filter(|(of, _)| *of == component);
        let found = page.and_then(|(_, page)| {
            let at = chunk.checked_sub(page.first_chunk())?;
            page.chunks.get(usize::try_from(at).ok()?)
        });
        let chunk = found.ok_or_else(|| {
            let text = format!(
                "chunk {chunk} of component {component} is not on the page that was sent last; send its page first"
            );
            Failure::new(Code::InvalidArgument, text)
        })?;
        Ok((chunk.codec, chunk.raw_len))
    }
}

fn is_operator(device: &Device, key: &[u8; 32]) -> bool {
    device.operators.contains(&bundle::hex::encode(key))
}

/// A refusal as it travels: with its reason code.
pub(super) fn refused(refusal: Refusal) -> Failure {
    let details = serde_json::json!({ "reason": refusal.code });
    Failure::new(Code::Denied, refusal.text).with_details(details)
}

fn short(method: &str) -> Failure {
    Failure::new(Code::InvalidArgument, format!("arguments of {method}: fewer bytes than the head"))
}

/// Flags, and header, signatures and manifest.
fn offer(args: &[u8]) -> Result<(u32, &[u8]), Failure> {
    let wrong = |text: String| Failure::new(Code::InvalidArgument, text);
    let rest = args.strip_prefix(&BEGIN_MAGIC);
    let Some((flags, offer)) = rest.and_then(|rest| rest.split_first_chunk::<4>()) else {
        return Err(wrong("arguments of begin: VESTALU1 and flags are missing".to_owned()));
    };
    let flags = u32::from_le_bytes(*flags);
    let unknown = flags & !(ALLOW_UNSIGNED | DRY_RUN);
    if unknown != 0 {
        return Err(wrong(format!("flags {unknown:#x} are unknown: upgrade this device first")));
    }
    if offer.len() > OFFER_MAX {
        let text = format!("{} bytes of header, signatures and manifest", offer.len());
        return Err(Failure::new(Code::Limit, format!("{text}; at most {OFFER_MAX} are allowed")));
    }
    Ok((flags, offer))
}

/// Where a keyring ends and its signatures begin: it is JSON, and a signature begins with octet 1.
fn keyring_len(args: &[u8]) -> Result<u32, Failure> {
    let mut values =
        serde_json::Deserializer::from_slice(args).into_iter::<serde::de::IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => {}
        _ => {
            let text = "arguments of keyring: a keyring, which is JSON, and then its signatures";
            return Err(Failure::new(Code::InvalidArgument, text));
        }
    }
    let end = values.byte_offset();
    let blanks = args[end..].iter().take_while(|octet| octet.is_ascii_whitespace()).count();
    Ok(u32::try_from(end + blanks).expect("its length was compared with the limit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Desk {
        /// All places are taken, and everything is unpacked.
        pub(in crate::net) fn is_full(&self) -> bool {
            self.room.available_permits() == 0 && self.jobs.capacity() == WINDOW
        }
    }

    #[test]
    fn a_keyring_ends_where_its_json_and_its_line_end() {
        assert_eq!(keyring_len(b"{\"version\":1}\n\x01\x01\0\0"), Ok(14));
        assert_eq!(keyring_len(b"{}"), Ok(2));
        assert!(keyring_len(b"\x01\x01").is_err());
        assert!(keyring_len(b"").is_err());
    }

    #[test]
    fn an_offer_has_magic_known_flags_and_a_limit() {
        let args = |flags: u32, length: usize| {
            [&BEGIN_MAGIC[..], &flags.to_le_bytes(), &vec![0; length]].concat()
        };
        assert_eq!(offer(&args(3, 5)), Ok((3, &[0; 5][..])));
        assert!(offer(&args(4, 5)).is_err());
        assert!(offer(b"VESTALU1abc").is_err());
        assert!(offer(b"VESTALB1aaaa").is_err());
        assert_eq!(offer(&args(0, OFFER_MAX + 1)).unwrap_err().code, Code::Limit);
    }
}
