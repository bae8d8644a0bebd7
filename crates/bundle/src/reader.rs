//! Reads a bundle from anything that can be read at any place. Memory is one page table, one page and one chunk,
//! however large the bundle is. What it hands out is bounded and agrees with the manifest; whether the manifest may be
//! believed is for [`Reader::verify`] to say.

use std::io::{self, Read, Seek, SeekFrom};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::{
    CHUNK_MAX, Code, Component, Decoder, HEADER, Header, Keyring, Manifest, Refusal, Role,
    Verified, hex,
    index::{self, Chunk, Page, PageTable},
    verify,
};

/// Why a bundle can't be read.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error("read the bundle: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// An opened bundle.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    header: Header,
    signatures: Vec<u8>,
    bytes: Vec<u8>,
    manifest: Manifest,
}

/// What [`Reader::check_all`] found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Checked {
    pub chunks: u64,
    /// Bytes of images.
    pub size: u64,
    /// Bytes of stored chunks.
    pub stored: u64,
}

impl<R: Read + Seek> Reader<R> {
    /// Reads header, signatures and manifest.
    ///
    /// # Errors
    /// No bundle, one that is cut short or longer than it says, or a manifest that can't be.
    pub fn open(mut input: R) -> Result<Self, ReadError> {
        let length = input.seek(SeekFrom::End(0))?;
        if length < HEADER as u64 {
            let text = format!("{length} bytes: not a bundle, whose header alone has {HEADER}");
            return Err(Refusal::new(Code::Truncated, text).into());
        }
        let mut head = [0; HEADER];
        read_at(&mut input, 0, &mut head)?;
        let header = Header::parse(&head)?;
        if header.total_len != length {
            let code = if header.total_len > length { Code::Truncated } else { Code::TooLong };
            let text = format!(
                "{length} bytes, but the header says {}: copy the bundle again",
                header.total_len
            );
            return Err(Refusal::new(code, text).into());
        }
        let part = |input: &mut R, at: u64, length: u64| {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            read_at(input, at, &mut bytes).map(|()| bytes)
        };
        let signatures = part(&mut input, header.signatures_at(), header.signatures_len)?;
        let bytes = part(&mut input, header.manifest_at(), header.manifest_len)?;
        let manifest = Manifest::parse(&bytes)?;
        header.check(&manifest)?;
        Ok(Self { input, header, signatures, bytes, manifest })
    }

    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The signatures as they stand in the file.
    #[must_use]
    pub fn signatures(&self) -> &[u8] {
        &self.signatures
    }

    /// What is signed.
    #[must_use]
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the bundle says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Who signed it.
    ///
    /// # Errors
    /// As [`verify`].
    pub fn verify(&self, keyring: &Keyring) -> Result<Verified, Refusal> {
        verify(&self.bytes, &self.signatures, keyring, Role::Bundle)
    }

    /// The input, for what is copied as it is.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn component(&self, number: usize) -> Result<(&Component, u64), Refusal> {
        let component = self.manifest.components.get(number).ok_or_else(|| {
            let count = self.manifest.components.len();
            Refusal::new(
                Code::UnknownComponent,
                format!("component {number}: the bundle has {count}"),
            )
        })?;
        let before = self.manifest.components[..number].iter();
        let before: u64 = before.map(|component| index::octets(component.chunks)).sum();
        Ok((component, self.header.index_at() + before))
    }

    /// The octets of a component's page table.
    ///
    /// # Errors
    /// As the input is read, and where there is no such component.
    pub fn table_bytes(&mut self, component: usize) -> Result<Vec<u8>, ReadError> {
        let (row, at) = self.component(component)?;
        let mut bytes = vec![0; index::table_len(row.chunks)];
        read_at(&mut self.input, at, &mut bytes)?;
        Ok(bytes)
    }

    /// A component's page table.
    ///
    /// # Errors
    /// As [`Reader::table_bytes`], and where it is not the one that the manifest names.
    pub fn table(&mut self, component: usize) -> Result<PageTable, ReadError> {
        let bytes = self.table_bytes(component)?;
        let (row, _) = self.component(component)?;
        Ok(PageTable::parse(&bytes, row)?)
    }

    /// The octets of a page.
    ///
    /// # Errors
    /// As the input is read, and where there is no such page.
    pub fn page_bytes(&mut self, component: usize, page: u32) -> Result<Vec<u8>, ReadError> {
        let (row, at) = self.component(component)?;
        let (offset, length) = index::place(row.chunks, page).ok_or_else(|| {
            let text = format!("{}: page {page}: there are {}", row.id, row.pages);
            Refusal::new(Code::BadIndex, text)
        })?;
        let mut bytes = vec![0; length];
        read_at(&mut self.input, at + offset, &mut bytes)?;
        Ok(bytes)
    }

    /// A page of a component's index.
    ///
    /// # Errors
    /// As [`Reader::page_bytes`], and where it is not the one that was signed, or points out of the bundle.
    pub fn page(
        &mut self,
        component: usize,
        table: &PageTable,
        page: u32,
    ) -> Result<Page, ReadError> {
        let bytes = self.page_bytes(component, page)?;
        let (row, _) = self.component(component)?;
        let page = table.page(page, &bytes, row)?;
        let room = self.header.total_len - self.header.data_at();
        if page.end_stored() > room {
            let text = format!(
                "{}: page {}: chunks up to {} of {room}",
                row.id,
                page.number,
                page.end_stored()
            );
            return Err(Refusal::new(Code::BadIndex, text).into());
        }
        Ok(page)
    }

    /// The stored bytes of a chunk; `stored_at` is from [`Page::placed`].
    ///
    /// # Errors
    /// As the input is read.
    pub fn stored(&mut self, chunk: &Chunk, stored_at: u64) -> Result<Vec<u8>, ReadError> {
        let at = self.header.data_at().checked_add(stored_at).ok_or_else(|| {
            Refusal::new(
                Code::BadIndex,
                format!("a chunk at {stored_at}, which is beyond all bounds"),
            )
        })?;
        let mut bytes = vec![0; (chunk.stored_len as usize).min(CHUNK_MAX)];
        read_at(&mut self.input, at, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads, decodes and hashes every chunk and every image, and hands out each raw chunk with its component; whatever
    /// is not as the manifest says is an error.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check_all(&mut self, mut seen: impl FnMut(usize, &[u8])) -> Result<Checked, ReadError> {
        let mut checked = Checked::default();
        let mut decoder = Decoder::new()?;
        let mut buffer = vec![0; CHUNK_MAX];
        for number in 0..self.manifest.components.len() {
            let table = self.table(number)?;
            let (mut hash, mut before) = (Sha256::new(), None::<Page>);
            for page in 0..self.manifest.components[number].pages {
                let page = self.page(number, &table, page)?;
                match &before {
                    Some(before) => page.check_follows(before)?,
                    None => self.check_first(number, &page, checked.stored)?,
                }
                for (chunk, target, stored_at) in page.placed() {
                    let stored = self.stored(chunk, stored_at)?;
                    let raw = decoder
                        .decode(chunk.codec, &stored, chunk.raw_len, &mut buffer)
                        .and_then(|raw| chunk.check(raw).map(|()| raw))
                        .map_err(|refusal| self.at(number, target, refusal))?;
                    hash.update(raw);
                    seen(number, raw);
                    checked.chunks += 1;
                    checked.size += raw.len() as u64;
                    checked.stored += stored.len() as u64;
                }
                before = Some(page);
            }
            self.check_image(number, hash.finalize().into())?;
        }
        if checked.stored != self.header.total_len - self.header.data_at() {
            let text = format!(
                "chunks of {} bytes, which is not all that the bundle stores",
                checked.stored
            );
            return Err(Refusal::new(Code::BadHeader, text).into());
        }
        Ok(checked)
    }

    /// The same refusal, with the place of the chunk that it is about.
    fn at(&self, component: usize, target: u64, refusal: Refusal) -> Refusal {
        let id = &self.manifest.components[component].id;
        Refusal { text: format!("{id}: at byte {target}: {}", refusal.text), ..refusal }
    }

    fn check_first(&self, component: usize, page: &Page, stored: u64) -> Result<(), Refusal> {
        if page.first_stored == stored {
            return Ok(());
        }
        let id = &self.manifest.components[component].id;
        let text = format!("{id}: the first chunk is at {}, not at {stored}", page.first_stored);
        Err(Refusal::new(Code::BadIndex, text))
    }

    fn check_image(&self, component: usize, hash: [u8; 32]) -> Result<(), Refusal> {
        let row = &self.manifest.components[component];
        if row.image_hash == hash {
            return Ok(());
        }
        let (is, signed) = (hex::encode(&hash), hex::encode(&row.image_hash));
        Err(Refusal::new(
            Code::BadImage,
            format!("{}: the image hashes to {is}, the manifest says {signed}", row.id),
        ))
    }
}

fn read_at<R: Read + Seek>(input: &mut R, at: u64, buffer: &mut [u8]) -> io::Result<()> {
    input.seek(SeekFrom::Start(at))?;
    input.read_exact(buffer)
}
