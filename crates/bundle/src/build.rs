//! Builds a bundle: reads each image once, keeps its index in memory (48 octets a chunk) and its stored chunks in a
//! scratch file, and writes header, signatures, manifest, index and chunks one after the other. The same input gives
//! the same bytes, however many threads compress.

use std::{
    io::{self, Read, Seek, SeekFrom, Write},
    num::NonZeroUsize,
    sync::OnceLock,
};

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use zstd::bulk::Compressor;

use crate::{
    Activate, CHUNK_MAX, CHUNKS_MAX, Codec, Component, HASH, HEADER, Header, Health, Kind,
    Manifest, PAGE_ENTRIES, Refusal, Require, SecretKey, Signatures,
    chunker::Chunker,
    codec::encode_chunk,
    index::{Chunk, Page, PageTable},
    sha256, sign_manifest,
};

/// The zstd level that nobody has to choose.
pub const LEVEL: i32 = 9;
/// Chunks that one thread has in hand: what is in memory is this many a thread, raw and stored.
const CHUNKS_A_THREAD: usize = 8;

/// What the manifest says beside its components.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    pub product: String,
    pub revisions: Vec<String>,
    pub version: String,
    pub build: Option<String>,
    /// Seconds since 1970.
    pub created: Option<u64>,
    pub activate: Option<Activate>,
    pub health: Option<Health>,
}

/// One component and where its image comes from.
pub struct Part<'p> {
    pub id: String,
    pub version: String,
    pub rollback_index: u64,
    pub kind: Kind,
    pub allow_special: bool,
    pub requires: Vec<Require>,
    pub image: Box<dyn Read + 'p>,
    /// Bytes that the image will give: as many are read, neither more nor fewer.
    pub size: u64,
}

/// How it is built. None of it changes what the bundle means.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Of zstd, 1 to 22.
    pub level: i32,
    pub threads: NonZeroUsize,
}

impl Default for Options {
    fn default() -> Self {
        Self { level: LEVEL, threads: NonZeroUsize::MIN }
    }
}

/// Why there is no bundle.
#[derive(Debug, Error)]
pub enum BuildError {
    #[error("read the image of {component}: {error}")]
    Read { component: String, error: io::Error },
    #[error("write the bundle: {0}")]
    Write(io::Error),
    #[error("compress a chunk: {0}")]
    Compress(io::Error),
    #[error(
        "{component}: the image is longer than the {size} bytes that it had: leave it alone while it is read"
    )]
    Grew { component: String, size: u64 },
    #[error(
        "{component}: the image has only {read} of the {size} bytes that it had: leave it alone while it is read"
    )]
    Shrank { component: String, read: u64, size: u64 },
    #[error("{component}: the image has more than {CHUNKS_MAX} chunks: split it into components")]
    TooManyChunks { component: String },
    #[error("{0}")]
    Refused(#[from] Refusal),
}

/// Builds a bundle and signs it with these keys. `scratch` is empty and is for the builder alone; `progress` is told how
/// many bytes of the images were read.
///
/// # Errors
/// An image that can't be read or changes meanwhile, a manifest that can't be, or a file that can't be written.
pub fn build<S: Read + Write + Seek, W: Write>(
    outline: Outline,
    parts: Vec<Part<'_>>,
    keys: &[&SecretKey],
    options: Options,
    scratch: &mut S,
    output: &mut W,
    progress: &mut dyn FnMut(u64),
) -> Result<Manifest, BuildError> {
    let mut store = Store { scratch, stored: 0, read: 0, progress };
    let mut components = Vec::new();
    let mut index = Vec::new();
    for part in parts {
        let (component, octets) = store.part(part, options)?;
        components.push(component);
        index.extend(octets);
    }
    let Store { scratch, stored, .. } = store;
    let Outline { product, revisions, version, build, created, activate, health } = outline;
    let manifest =
        Manifest { activate, build, components, created, health, product, revisions, version };
    manifest.check()?;
    let bytes = manifest.encode();
    Manifest::check_len(&bytes)?;
    let mut signatures = Signatures::default();
    for key in keys {
        signatures.add(sign_manifest(&bytes, key))?;
    }
    write_front(output, &signatures, &bytes, &index, stored).map_err(BuildError::Write)?;
    let copied = scratch
        .seek(SeekFrom::Start(0))
        .and_then(|_| io::copy(&mut scratch.take(stored), output))
        .map_err(BuildError::Write)?;
    if copied != stored {
        let text = format!("the scratch file has {copied} of {stored} bytes");
        return Err(BuildError::Write(io::Error::other(text)));
    }
    output.flush().map_err(BuildError::Write)?;
    Ok(manifest)
}

/// Header, signatures, manifest and index.
fn write_front<W: Write>(
    output: &mut W,
    signatures: &Signatures,
    manifest: &[u8],
    index: &[u8],
    stored: u64,
) -> io::Result<()> {
    let signatures = signatures.encode();
    let lengths = [signatures.len(), manifest.len(), index.len()].map(|length| length as u64);
    let header = Header {
        signatures_len: lengths[0],
        manifest_len: lengths[1],
        index_len: lengths[2],
        total_len: HEADER as u64 + lengths.iter().sum::<u64>() + stored,
    };
    output.write_all(&header.encode())?;
    output.write_all(&signatures)?;
    output.write_all(manifest)?;
    output.write_all(index)
}

struct Store<'s, S> {
    scratch: &'s mut S,
    /// Bytes in it.
    stored: u64,
    /// Bytes of all images so far.
    read: u64,
    progress: &'s mut dyn FnMut(u64),
}

impl<S: Write> Store<'_, S> {
    /// Stores a component's chunks; its row of the manifest, and its index.
    fn part(
        &mut self,
        part: Part<'_>,
        options: Options,
    ) -> Result<(Component, Vec<u8>), BuildError> {
        let Part { id, version, rollback_index, kind, allow_special, requires, image, size } = part;
        let first_stored = self.stored;
        let mut chunker = Chunker::new(image.take(size.saturating_add(1)), size);
        let (mut chunks, mut hash, mut read) = (Vec::new(), Sha256::new(), 0_u64);
        loop {
            let limit = options.threads.get() * CHUNKS_A_THREAD;
            let mut batch: Vec<Vec<u8>> = Vec::new();
            while batch.len() < limit {
                let next = chunker.next_chunk();
                let Some(raw) =
                    next.map_err(|error| BuildError::Read { component: id.clone(), error })?
                else {
                    break;
                };
                read += raw.len() as u64;
                hash.update(raw);
                batch.push(raw.to_vec());
            }
            if read > size {
                return Err(BuildError::Grew { component: id, size });
            }
            if batch.is_empty() {
                break;
            }
            if chunks.len() + batch.len() > CHUNKS_MAX as usize {
                return Err(BuildError::TooManyChunks { component: id });
            }
            self.batch(&batch, options, &mut chunks)?;
            (self.progress)(self.read + read);
        }
        if read < size {
            return Err(BuildError::Shrank { component: id, read, size });
        }
        self.read += read;
        let (table, pages) = paged(&chunks, first_stored);
        let root = table.root();
        let octets = [table.encode(), pages.concat()].concat();
        let count = u32::try_from(chunks.len())
            .map_err(|_| BuildError::TooManyChunks { component: id.clone() })?;
        let component = Component {
            allow_special,
            chunks: count,
            id,
            image_hash: hash.finalize().into(),
            index_root: root,
            kind,
            pages: count.div_ceil(PAGE_ENTRIES),
            requires,
            rollback_index,
            size,
            stored: self.stored - first_stored,
            version,
        };
        Ok((component, octets))
    }

    /// Compresses some chunks beside one another, and stores them in their order.
    fn batch(
        &mut self,
        batch: &[Vec<u8>],
        options: Options,
        chunks: &mut Vec<Chunk>,
    ) -> Result<(), BuildError> {
        let share = batch.len().div_ceil(options.threads.get()).max(1);
        let encoded = std::thread::scope(|scope| {
            let threads: Vec<_> = batch
                .chunks(share)
                .map(|share| scope.spawn(move || encode_all(share, options.level)))
                .collect();
            let ended = threads.into_iter().map(|thread| thread.join());
            let ended =
                ended.map(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            ended.collect::<io::Result<Vec<_>>>()
        });
        for (raw, (hash, codec, stored)) in
            batch.iter().zip(encoded.map_err(BuildError::Compress)?.concat())
        {
            let bytes = match codec {
                Codec::Zero => &[],
                Codec::Store => &raw[..],
                Codec::Zstd => stored.as_deref().unwrap_or_default(),
            };
            self.scratch.write_all(bytes).map_err(BuildError::Write)?;
            self.stored += bytes.len() as u64;
            let length =
                |bytes: &[u8]| u32::try_from(bytes.len()).expect("a chunk has at most 256 KiB");
            chunks.push(Chunk { hash, raw_len: length(raw), stored_len: length(bytes), codec });
        }
        Ok(())
    }
}

/// A chunk's hash, how it is stored, and the bytes where they are not the raw ones.
type Encoded = ([u8; HASH], Codec, Option<Vec<u8>>);

fn encode_all(chunks: &[Vec<u8>], level: i32) -> io::Result<Vec<Encoded>> {
    let mut zstd = Compressor::new(level)?;
    let encode = |raw: &Vec<u8>| {
        let (codec, stored) = encode_chunk(raw, &mut zstd)?;
        let hash = if codec == Codec::Zero { zero_hash(raw) } else { sha256(raw) };
        Ok((hash, codec, stored))
    };
    chunks.iter().map(encode).collect()
}

/// The hash of zeros; most of those of a sparse image are chunks of the greatest length.
fn zero_hash(zeros: &[u8]) -> [u8; HASH] {
    static GREATEST: OnceLock<[u8; HASH]> = OnceLock::new();
    if zeros.len() == CHUNK_MAX {
        return *GREATEST.get_or_init(|| sha256(zeros));
    }
    sha256(zeros)
}

/// The index of these chunks.
fn paged(chunks: &[Chunk], first_stored: u64) -> (PageTable, Vec<Vec<u8>>) {
    let (mut target, mut stored) = (0, first_stored);
    let mut pages = Vec::new();
    for (number, chunks) in (0..).zip(chunks.chunks(PAGE_ENTRIES as usize)) {
        let page =
            Page { number, first_target: target, first_stored: stored, chunks: chunks.to_vec() };
        (target, stored) = (page.end_target(), page.end_stored());
        pages.push(page.encode());
    }
    (PageTable::of(&pages), pages)
}
