//! The device of the tests: a set of kernel and rootfs, an application, a boot record with its loader, and a bundle that
//! brings the next version of all three.

use std::{io, sync::LazyLock, time::Duration};

use bundle::{
    Codec, Component, Header, Kind, Manifest,
    index::{Chunk, Page, PageTable},
};
use protocol::time::Moment;

use super::{
    code::{DRIVER, PATCH},
    world::{Faults, Random, Shared, SimDisk, SimStore, World},
};
use crate::{
    disk::{Disk, Store},
    engine::{
        Limits,
        choice::Choice,
        contract::{
            Access, Activation, BootControl, ComponentRules, Fact, Letter, Now, Platform, Record,
            Rules, SlotId, Start,
        },
    },
    records::{RECORDS, Records},
};

/// Small, so that an upgrade has few operations and all of them can be cut.
pub(crate) const LIMITS: Limits =
    Limits { run: 16 << 10, checkpoint: 20 << 10, distrust: 2, slice: 32 << 10 };
/// Bytes of a chunk; not whole blocks, so that every run has ragged ends.
const CHUNK: usize = 7000;
const BOOT_MAGIC: [u8; 8] = *b"SIMBOOT1";
pub(crate) const NOW: Now = Now { moment: Moment(1_000_000_000), wall: 1_700_000_000 };

/// Names and bytes of the images of the device.
pub(crate) const IMAGES: [(&str, usize); 3] =
    [("kernel", 20_000), ("rootfs", 61_440), ("application", 30_011)];

/// As [`IMAGES`], of what is loaded into memory.
pub(crate) const LOADED: [(&str, usize); 2] = [(DRIVER, 9_001), (PATCH, 7_300)];

/// All of them.
pub(crate) fn images() -> impl Iterator<Item = (&'static str, usize)> {
    IMAGES.into_iter().chain(LOADED)
}

pub(crate) struct SimPlatform {
    world: Shared,
    rules: Rules,
    journal: SimDisk,
    active: SimDisk,
    floor: SimDisk,
    store: SimStore,
    boot: SimBoot,
}

/// The record that the loader of the tests goes by, in two sectors of its own disk.
pub(crate) struct SimBoot(SimDisk);

pub(crate) fn rules() -> Rules {
    let component = |name: &str, activation| ComponentRules {
        name: name.to_owned(),
        single: false,
        activation,
        directory: false,
    };
    Rules {
        product: "demo".to_owned(),
        revision: "a1".to_owned(),
        components: vec![
            component("kernel", Activation::Reboot),
            component("rootfs", Activation::Reboot),
            component("application", Activation::Restart),
            component("boot", Activation::Mirror),
            component(DRIVER, Activation::Driver),
            component(PATCH, Activation::Livepatch),
        ],
        tries: 3,
        activate: true,
        health_timeout: Duration::from_secs(60),
        stable: Duration::from_secs(5),
    }
}

/// What the factory installed: version 1 in the slots A, noise in the slots B.
pub(crate) fn factory() -> World {
    static FACTORY: LazyLock<World> = LazyLock::new(make_factory);
    FACTORY.clone()
}

fn make_factory() -> World {
    let mut world = World::default();
    for (name, size) in images().chain([("boot", 9000)]) {
        let room = size.next_multiple_of(4096) + 4096;
        let mut a = image(name, 1, size);
        a.resize(room, 0);
        world.add(&format!("{name}-A"), a);
        world.add(&format!("{name}-B"), noise(99, room));
    }
    for name in ["journal", "active", "floor", "boot-record"] {
        world.add(name, vec![0; usize::try_from(RECORDS).expect("it is 8 KiB")]);
    }
    let shared = Shared::new(world);
    let choice =
        Choice { order: [Some(Letter::A), Some(Letter::B)], tries: [3, 0], good: [true, false] };
    SimBoot(shared.disk("boot-record", true)).store(&choice).expect("nothing fails yet");
    let mut world = shared.0.borrow().clone();
    world.faults = Faults::default();
    world
}

/// As [`image`], of one that is in [`IMAGES`].
pub(crate) fn kept_image(name: &str, version: u64) -> &'static [u8] {
    static KEPT: LazyLock<Vec<(&str, u64, Vec<u8>)>> = LazyLock::new(|| {
        let all = images().flat_map(|(name, size)| (1..=3).map(move |v| (name, v, size)));
        all.map(|(name, version, size)| (name, version, image(name, version, size))).collect()
    });
    let found = KEPT.iter().find(|(known, of, _)| *known == name && *of == version);
    let (_, _, image) = found.unwrap_or_else(|| panic!("no image {version} of {name}"));
    image
}

pub(crate) fn start(running: Letter, boot: u32, untold: bool) -> Start {
    static HASHES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let hash = |name| bundle::hex::encode(&bundle::sha256(kept_image(name, 1)));
        images().map(|(name, _)| hash(name)).collect()
    });
    let told = if untold { IMAGES.len() } else { usize::MAX };
    let factory = images().zip(&*HASHES).take(told).map(|((name, size), hash)| {
        let (version, hash) = ("1.0".to_owned(), hash.clone());
        (name.to_owned(), Fact { version, rollback_index: 1, hash, size: size as u64 })
    });
    Start {
        running: Some(running),
        boot_id: format!("boot-{boot}"),
        floors: vec![("rootfs".to_owned(), 1)],
        factory: factory.collect(),
        ended: None,
    }
}

/// An image of a version: zeros in the middle, and half of it is the same in every version.
pub(crate) fn image(name: &str, version: u64, size: usize) -> Vec<u8> {
    let seed = name.bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte));
    let mut bytes = noise(seed, size);
    let changed = noise(seed + 1000 * version, size);
    for (at, byte) in bytes.iter_mut().enumerate() {
        match at / CHUNK % 3 {
            0 => *byte = changed[at],
            1 if name == "rootfs" => *byte = 0,
            _ => {}
        }
    }
    bytes
}

pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let words = std::iter::repeat_with(|| random.next().to_le_bytes());
    words.flat_map(|word| [word[0], word[1], word[2], word[3]]).take(size).collect()
}

impl SimPlatform {
    pub(crate) fn new(world: &Shared) -> Self {
        Self {
            world: world.clone(),
            rules: rules(),
            journal: world.disk("journal", true),
            active: world.disk("active", true),
            floor: world.disk("floor", true),
            store: SimStore(world.clone()),
            boot: SimBoot(world.disk("boot-record", true)),
        }
    }
}

impl Platform for SimPlatform {
    fn open(&mut self, slot: SlotId, access: Access) -> io::Result<Box<dyn Disk>> {
        let name = &self.rules.components[slot.component].name;
        let name = format!("{name}-{}", slot.letter.as_char());
        Ok(Box::new(self.world.disk(&name, access == Access::Write)))
    }

    fn seal(&mut self, _slot: SlotId, _size: u64) -> io::Result<()> {
        Ok(())
    }

    fn record(&mut self, record: Record) -> io::Result<&mut dyn Disk> {
        Ok(match record {
            Record::Journal => &mut self.journal,
            Record::Active => &mut self.active,
            Record::Floor => &mut self.floor,
        })
    }

    fn store(&mut self) -> &mut dyn Store {
        &mut self.store
    }

    fn invalidate_image(&mut self, reason: &str) -> io::Result<()> {
        assert!(!reason.is_empty());
        let image = &mut self.world.0.borrow_mut().image;
        image.told += 1;
        match image.stuck {
            true => Err(io::Error::other("the journal's medium is read-only")),
            false => {
                image.valid = false;
                Ok(())
            }
        }
    }

    fn boot(&mut self) -> Option<&mut dyn BootControl> {
        Some(&mut self.boot)
    }
}

impl BootControl for SimBoot {
    fn load(&mut self) -> io::Result<Choice> {
        let (_, contents) = Records::open(&mut self.0, &BOOT_MAGIC)?;
        let bytes = contents.unwrap_or_default();
        let [first, second, a, b, good_a, good_b] = bytes[..] else {
            return Err(io::Error::other("no boot record"));
        };
        let letter = |byte: u8| Letter::parse(std::str::from_utf8(&[byte]).unwrap_or(""));
        Ok(Choice {
            order: [letter(first), letter(second)],
            tries: [u32::from(a), u32::from(b)],
            good: [good_a == 1, good_b == 1],
        })
    }

    fn store(&mut self, choice: &Choice) -> io::Result<()> {
        let letter = |letter: Option<Letter>| match letter {
            Some(Letter::A) => b'A',
            Some(Letter::B) => b'B',
            None => 0,
        };
        let count = |tries: u32| u8::try_from(tries).expect("tests try a few times");
        let bytes = [
            letter(choice.order[0]),
            letter(choice.order[1]),
            count(choice.tries[0]),
            count(choice.tries[1]),
            u8::from(choice.good[0]),
            u8::from(choice.good[1]),
        ];
        let (mut records, _) = Records::open(&mut self.0, &BOOT_MAGIC)?;
        records.write(&mut self.0, &BOOT_MAGIC, &bytes)
    }
}

impl SimBoot {
    pub(crate) fn of(world: &Shared) -> Self {
        Self(world.disk("boot-record", true))
    }

    /// What the loader does at every boot: takes a try off the set that it boots. Its own write is not cut.
    pub(crate) fn boot(world: &Shared) -> Result<Letter, String> {
        let mut boot = Self::of(world);
        let mut choice = boot.load().map_err(|error| format!("I1: {error}"))?;
        let letter = choice.primary().ok_or("I1: the loader has nothing to boot")?;
        choice.tries[letter.index()] -= 1;
        boot.store(&choice).map_err(|error| error.to_string())?;
        Ok(letter)
    }
}

/// The bytes of a page, and of each chunk that it names.
pub(crate) type PageAndChunks = (Vec<u8>, Vec<Vec<u8>>);

/// A bundle, taken apart as a sender does it.
#[derive(Clone)]
pub(crate) struct Parcel {
    /// Header, signatures, manifest.
    pub(crate) begin: Vec<u8>,
    pub(crate) manifest: Manifest,
    /// By number in the manifest: the table, and each page with its chunks.
    pub(crate) tables: Vec<Vec<u8>>,
    pub(crate) pages: Vec<Vec<PageAndChunks>>,
}

/// A bundle of these components, unsigned.
pub(crate) fn parcel(names: &[(&str, usize)], version: u64) -> Parcel {
    let mut components = Vec::new();
    let (mut tables, mut pages) = (Vec::new(), Vec::new());
    for (name, size) in names {
        let image = image(name, version, *size);
        let mut stored = 0;
        let chunks: Vec<Chunk> = image.chunks(CHUNK).map(chunk).collect();
        let page = Page { number: 0, first_target: 0, first_stored: 0, chunks };
        stored += page.chunks.iter().map(|chunk| u64::from(chunk.stored_len)).sum::<u64>();
        let bytes = page.encode();
        let table = PageTable::of(std::slice::from_ref(&bytes));
        components.push(Component {
            allow_special: false,
            chunks: u32::try_from(page.chunks.len()).expect("few"),
            id: (*name).to_owned(),
            image_hash: bundle::sha256(&image),
            index_root: table.root(),
            kind: Kind::Image,
            pages: 1,
            requires: Vec::new(),
            rollback_index: version,
            size: *size as u64,
            stored,
            version: format!("{version}.0"),
        });
        tables.push(table.encode());
        pages.push(vec![(bytes, image.chunks(CHUNK).map(<[u8]>::to_vec).collect())]);
    }
    let manifest = Manifest {
        activate: None,
        build: None,
        components,
        created: None,
        health: None,
        product: "demo".to_owned(),
        revisions: vec!["a1".to_owned()],
        version: format!("{version}.0"),
    };
    let begin = begin(&manifest, &[]);
    Parcel { begin, manifest, tables, pages }
}

/// What a push begins with.
pub(crate) fn begin(manifest: &Manifest, signatures: &[u8]) -> Vec<u8> {
    let bytes = manifest.encode();
    let stored: u64 = manifest.components.iter().map(|component| component.stored).sum();
    let mut header = Header {
        signatures_len: signatures.len() as u64,
        manifest_len: bytes.len() as u64,
        index_len: manifest.index_len(),
        total_len: 0,
    };
    header.total_len = header.data_at() + stored;
    [&header.encode()[..], signatures, &bytes].concat()
}

fn chunk(raw: &[u8]) -> Chunk {
    let length = u32::try_from(raw.len()).expect("a chunk is small");
    let zero = raw.iter().all(|byte| *byte == 0);
    Chunk {
        hash: bundle::sha256(raw),
        raw_len: length,
        stored_len: if zero { 0 } else { length },
        codec: if zero { Codec::Zero } else { Codec::Store },
    }
}
