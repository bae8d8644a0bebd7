//! A device that wants some chunks gets those, in order and within its window.

use std::{collections::VecDeque, io::Cursor};

use bundle::{
    CHUNK_MAX, Code, Manifest, decode_chunk,
    index::{Page, PageTable, Wanted},
    push::{Call, Outcome, Sender, Step},
};
use protocol::upgrade::{ALLOW_UNSIGNED, Begun, DRY_RUN, Finish, PAGE_TABLE, split_head};

use crate::support::{built, noise, open, text};

/// A device that has some chunks already.
struct Device {
    manifest: Option<Manifest>,
    table: Option<PageTable>,
    pages: Vec<Page>,
    /// By component: what came, at its place.
    slots: Vec<Vec<u8>>,
    has: fn(usize) -> bool,
    components: Vec<u32>,
    window: u32,
    chunks: usize,
}

impl Device {
    fn new(has: fn(usize) -> bool, components: &[u32]) -> Self {
        let (manifest, table, pages, slots) = (None, None, Vec::new(), Vec::new());
        Self {
            manifest,
            table,
            pages,
            slots,
            has,
            components: components.to_vec(),
            window: 3,
            chunks: 0,
        }
    }

    fn answer(&mut self, call: &Call) -> Vec<u8> {
        match call.method {
            "begin" => self.begin(&call.args),
            "pages" => self.page(&call.args),
            "chunk" => self.chunk(&call.args),
            "finish" => {
                let finish: Finish = serde_json::from_slice(&call.args).expect("it is JSON");
                assert_eq!(finish, Finish { session: 77, activate: Some(false) });
                b"{}".to_vec()
            }
            other => panic!("{other} is not called"),
        }
    }

    fn begin(&mut self, args: &[u8]) -> Vec<u8> {
        assert_eq!(args[..12], *b"VESTALU1\x01\0\0\0");
        let parts = bundle::split(&args[12..]).expect("it is whole");
        let manifest = Manifest::parse(parts.manifest).expect("it can be read");
        self.slots = manifest.components.iter().map(|row| vec![0; place(row.size)]).collect();
        self.manifest = Some(manifest);
        let begun = Begun {
            session: 77,
            window: self.window,
            components: self.components.clone(),
            current: false,
        };
        serde_json::to_vec(&begun).expect("it can be written")
    }

    fn page(&mut self, args: &[u8]) -> Vec<u8> {
        let (session, component, number, bytes) = split_head(args).expect("it has a head");
        assert_eq!(session, 77);
        let row = &self.manifest.as_ref().expect("it has begun").components[component as usize];
        if number == PAGE_TABLE {
            self.table = Some(PageTable::parse(bytes, row).expect("it is signed"));
            self.pages.clear();
            return Vec::new();
        }
        let table = self.table.as_ref().expect("the table comes first");
        let page = table.page(number, bytes, row).expect("it is signed");
        let mut wanted = Wanted::none(page.chunks.len());
        (0..page.chunks.len()).filter(|at| !(self.has)(*at)).for_each(|at| wanted.want(at));
        self.pages.push(page);
        wanted.bytes().to_vec()
    }

    fn chunk(&mut self, args: &[u8]) -> Vec<u8> {
        let (_, component, number, stored) = split_head(args).expect("it has a head");
        let page = &self.pages[number as usize / 512];
        let at = number as usize % 512;
        assert!(!(self.has)(at), "chunk {number} is not wanted");
        let (chunk, target, _) = page.placed().nth(at).expect("there is such a chunk");
        let mut buffer = vec![0; CHUNK_MAX];
        let raw =
            decode_chunk(chunk.codec, stored, chunk.raw_len, &mut buffer).expect("it decodes");
        chunk.check(raw).expect("it is the one that was signed");
        self.slots[component as usize][place(target)..][..raw.len()].copy_from_slice(raw);
        self.chunks += 1;
        Vec::new()
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number).expect("it is small")
}

type MemorySender<'b> = Sender<Cursor<&'b [u8]>>;

/// Pushes to the end; the device answers as late as it may. How many calls were under way at most.
fn push(sender: &mut MemorySender<'_>, device: &mut Device) -> (Outcome, usize) {
    let (mut under_way, mut most) = (VecDeque::new(), 0);
    loop {
        match sender.next_step().expect("the bundle is in order") {
            Step::Call(call) => {
                assert!(
                    call.method != "finish" || under_way.is_empty(),
                    "a chunk is not yet written"
                );
                under_way.push_back((call.id, device.answer(&call)));
            }
            Step::Wait => {
                let (id, answer) = under_way.pop_front().expect("it waits for something");
                sender.answered(id, &answer).expect("it makes sense");
            }
            Step::Done(outcome) => {
                assert!(under_way.is_empty());
                return (outcome, most);
            }
        }
        most = most.max(under_way.len());
    }
}

#[test]
fn a_device_that_has_nothing_gets_all_and_never_more_at_once_than_it_takes() {
    // More than one page: 513 chunks at least.
    let large = noise(1, 60 << 20);
    let small = [noise(2, 9000), vec![0; 90_000], text(90_000)].concat();
    let bytes = built(&[("rootfs", &large), ("application", &small)]);
    let mut sender = Sender::new(open(&bytes), ALLOW_UNSIGNED, Some(false));
    let mut device = Device::new(|_| false, &[0, 1]);
    let (outcome, most) = push(&mut sender, &mut device);
    assert_eq!(outcome, Outcome::Finished(b"{}".to_vec()));
    assert!(device.slots[0] == large && device.slots[1] == small);
    assert_eq!(most, 3);
    let sent = sender.sent();
    assert_eq!((sent.settled, sent.total), (sent.total, (large.len() + small.len()) as u64));
    assert_eq!(sent.chunks, device.chunks as u64);
    assert!(sent.sent < sent.total);
}

#[test]
fn only_what_is_wanted_is_sent() {
    let (one, other) = (noise(1, 1 << 19), noise(2, 3 << 16));
    let bytes = built(&[("rootfs", &one), ("application", &other)]);
    let mut sender = Sender::new(open(&bytes), ALLOW_UNSIGNED, Some(false));
    let mut device = Device::new(|at| at != 1, &[1]);
    push(&mut sender, &mut device);
    assert_eq!(device.chunks, 1);
    assert_eq!(device.slots[1][1 << 16..2 << 16], other[1 << 16..2 << 16]);
    assert_eq!((sender.sent().sent, sender.sent().settled), (1 << 16, sender.sent().total));
}

#[test]
fn a_device_that_has_all_is_left_alone() {
    let bytes = built(&[("rootfs", &noise(1, 1000))]);
    for (current, flags, wanted) in
        [(true, 0, Outcome::Current), (false, DRY_RUN, Outcome::Acceptable)]
    {
        let mut sender = Sender::new(open(&bytes), flags, None);
        let Step::Call(call) = sender.next_step().expect("it is in order") else {
            panic!("it begins")
        };
        assert_eq!(sender.next_step().expect("it is in order"), Step::Wait);
        let begun = Begun { session: 1, window: 1, components: vec![], current };
        sender
            .answered(call.id, &serde_json::to_vec(&begun).expect("it is JSON"))
            .expect("it makes sense");
        assert_eq!(sender.next_step().expect("it is in order"), Step::Done(wanted));
    }
}

#[test]
fn an_answer_that_makes_no_sense_is_refused() {
    let bytes = built(&[("rootfs", &noise(1, 1000))]);
    for answer in [
        "",
        "{}",
        r#"{"session":1,"window":1,"components":[1]}"#,
        r#"{"session":1,"window":1,"components":[0,0]}"#,
    ] {
        let mut sender = Sender::new(open(&bytes), 0, None);
        let Step::Call(call) = sender.next_step().expect("it is in order") else {
            panic!("it begins")
        };
        assert_eq!(sender.answered(call.id, answer.as_bytes()).unwrap_err().code, Code::Unknown);
        assert!(sender.answered(call.id, b"").unwrap_err().text.contains("not under way"));
    }
}
