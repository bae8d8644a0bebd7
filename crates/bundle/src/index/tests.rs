use super::*;
use crate::{CHUNK_MAX, Kind};

const ZERO: Chunk =
    Chunk { hash: [5; 32], raw_len: CHUNK_LEN_MAX, stored_len: 0, codec: Codec::Zero };

/// An image of so many zero chunks with its index.
fn component(chunks: u32) -> (Component, PageTable, Vec<Vec<u8>>) {
    let mut pages = Vec::new();
    for number in 0..chunks.div_ceil(PAGE_ENTRIES) {
        let first = u64::from(number * PAGE_ENTRIES);
        let count = entries(chunks, number).expect("there is such a page");
        let page = Page {
            number,
            first_target: first * CHUNK_MAX as u64,
            first_stored: 0,
            chunks: vec![ZERO; count as usize],
        };
        pages.push(page.encode());
    }
    let table = PageTable::of(&pages);
    let component = Component {
        allow_special: false,
        chunks,
        id: "rootfs".to_owned(),
        image_hash: [0; 32],
        index_root: table.root(),
        kind: Kind::Image,
        pages: chunks.div_ceil(PAGE_ENTRIES),
        requires: Vec::new(),
        rollback_index: 0,
        size: u64::from(chunks) * CHUNK_MAX as u64,
        stored: 0,
        version: "1".to_owned(),
    };
    (component, table, pages)
}

#[test]
fn the_largest_index_is_read_page_by_page_and_its_places_follow_from_the_number_of_chunks() {
    let (component, table, pages) = component(crate::CHUNKS_MAX);
    assert_eq!(PageTable::parse(&table.encode(), &component), Ok(table.clone()));
    let mut at = table_len(component.chunks) as u64;
    let mut before: Option<Page> = None;
    for (number, bytes) in (0..).zip(&pages) {
        assert_eq!(place(component.chunks, number), Some((at, bytes.len())));
        at += bytes.len() as u64;
        let page = table.page(number, bytes, &component).expect("it was signed so");
        if let Some(before) = &before {
            assert_eq!(page.check_follows(before), Ok(()));
        }
        before = Some(page);
    }
    assert_eq!(at, octets(component.chunks));
    assert_eq!(place(component.chunks, 2048), None);
    assert_eq!(before.expect("there are some").end_target(), 1 << 38);
}

#[test]
fn every_bit_of_table_and_pages_counts() {
    let (component, table, pages) = component(513);
    let bytes = table.encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(PageTable::parse(&flipped, &component).is_err(), "bit {bit} of the table");
    }
    for bit in 0..pages[1].len() * 8 {
        let mut flipped = pages[1].clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(table.page(1, &flipped, &component).is_err(), "bit {bit} of the page");
    }
    assert!(table.page(0, &pages[1], &component).is_err());
    assert!(table.page(1, &pages[0], &component).is_err());
    assert!(table.page(2, &pages[0], &component).is_err());
}

#[test]
fn a_signed_page_that_cannot_be_is_refused_all_the_same() {
    let refused = |change: &dyn Fn(&mut Page)| {
        let (mut component, _, mut pages) = component(513);
        let mut page = Page::parse(1, &pages[1]).expect("it can be");
        change(&mut page);
        pages[1] = page.encode();
        let table = PageTable::of(&pages);
        component.index_root = table.root();
        table.page(1, &pages[1], &component).expect_err("it is refused").text
    };
    assert!(refused(&|page| page.first_target += 1).contains("of an image of"));
    assert!(refused(&|page| page.first_target = 0).contains("of an image of"));
    assert!(refused(&|page| page.first_target = u64::MAX).contains("beyond all bounds"));
    assert!(refused(&|page| page.chunks[0].raw_len = 0).contains("at most 262144"));
    assert!(refused(&|page| page.chunks[0].raw_len = CHUNK_LEN_MAX + 1).contains("at most 262144"));
    assert!(refused(&|page| page.chunks[0].stored_len = 1).contains("stored as 1 by zero"));
    assert!(refused(&|page| page.chunks[0].codec = Codec::Store).contains("stored as 0 by store"));
    assert!(refused(&|page| page.chunks[0].codec = Codec::Zstd).contains("stored as 0 by zstd"));
}

#[test]
fn reserved_octets_and_codecs_are_refused() {
    let (_, _, pages) = component(1);
    for (at, value) in [(20, 1), (16, 0), (24 + 40, 3), (24 + 40, 4), (24 + 41, 1), (24 + 47, 1)] {
        let mut bytes = pages[0].clone();
        bytes[at] = value;
        assert!(Page::parse(0, &bytes).is_err(), "{value} at {at}");
    }
}

#[test]
fn a_chunk_is_its_raw_bytes_and_no_others() {
    let chunk = Chunk { hash: sha256(b"abc"), raw_len: 3, stored_len: 3, codec: Codec::Store };
    assert_eq!(chunk.check(b"abc"), Ok(()));
    for wrong in [&b"abd"[..], b"ab", b"abcd", b""] {
        assert_eq!(chunk.check(wrong).unwrap_err().code, Code::BadChunk);
    }
}

#[test]
fn a_gap_between_pages_is_seen() {
    let (_, _, pages) = component(1024);
    let (first, second) = (Page::parse(0, &pages[0]), Page::parse(1, &pages[1]));
    let (first, mut second) = (first.expect("it can be"), second.expect("it can be"));
    assert_eq!(second.check_follows(&first), Ok(()));
    second.first_stored = 1;
    assert_eq!(second.check_follows(&first).unwrap_err().code, Code::BadIndex);
}

#[test]
fn a_bitmap_says_which_chunks_are_wanted_and_fits_the_page() {
    let mut wanted = Wanted::none(9);
    wanted.want(0);
    wanted.want(8);
    wanted.want(9);
    assert_eq!(wanted.bytes(), [1, 1]);
    assert!(wanted.wants(8) && !wanted.wants(1) && !wanted.wants(9));
    assert_eq!(Wanted::parse(&[1, 1], 9), Ok(wanted));
    assert!(Wanted::parse(&[1, 2], 9).is_err());
    assert!(Wanted::parse(&[1], 9).is_err());
    assert!(Wanted::parse(&[1, 1, 0], 9).is_err());
}
