//! The octets of every segment, in both directions; the only file that knows them. Keeps no state and reads no state.
//!
//! Integers are big-endian. The checksum is always the last two octets of the header, also where the header's length is odd.
//! Decoding never panics and never allocates; what it returns borrows from the datagram.

use crate::error::PacketError;

/// Octets of the shortest segment, and of the header in front of user data.
pub const HEADER: usize = 6;
/// Octets of the draft's SYN.
pub const SYN: usize = 28;
/// Octets of a SYN of the Java dialect: without transfer timeout and connection identifier.
pub const SYN_JAVA: usize = 22;
/// Octets of a TCS.
pub const TRANSFER: usize = 12;
/// The only version there is.
pub const VERSION: u8 = 1;

const FLAG_SYN: u8 = 0x80;
const FLAG_ACK: u8 = 0x40;
const FLAG_EACK: u8 = 0x20;
const FLAG_RST: u8 = 0x10;
const FLAG_NUL: u8 = 0x08;
const FLAG_CHK: u8 = 0x04;
const FLAG_TCS: u8 = 0x02;

/// Bit 0 of the option octet by the draft's figures, which must always be 1.
const OPTION_ONE: u8 = 0x80;
const OPTION_CHK: u8 = 0x40;
const OPTION_REUSE: u8 = 0x20;
/// The same three as peers write them that count bits from the other end.
const LOW_ONE: u8 = 0x01;
const LOW_CHK: u8 = 0x02;
const LOW_REUSE: u8 = 0x04;

/// Which reading of the draft a peer speaks; its SYN tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    /// The draft, to the letter.
    Draft,
    /// SYN of 22 octets, numbers modulo 255, checksum 0, closes with 0x02.
    Java,
}

/// What the two sides must agree on; times in milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Terms {
    /// The checksum covers user data too.
    pub checksum_data: bool,
    /// Unacknowledged segments are sent again after this time; at least 100.
    pub retransmission_ms: u16,
    /// An acknowledgement waits at most this long for something to travel with; at least 100.
    pub cumulative_ack_ms: u16,
    /// The client sends a NUL after this time without data, the server gives up after twice as long. 0: never.
    pub null_ms: u16,
    /// How long a broken connection waits before its auto reset. 0: not at all.
    pub transfer_ms: u16,
    /// How often a segment is sent again before the connection counts as broken. 0: for ever.
    pub max_retransmissions: u8,
    /// How many segments may wait for an acknowledgement. 0: each is acknowledged at once.
    pub max_cumulative_ack: u8,
    /// How many segments may arrive out of sequence before the peer is told. 0: it is told at once.
    pub max_out_of_sequence: u8,
    /// How many auto resets may follow one another without the connection opening. 0: none.
    pub max_auto_reset: u8,
}

/// What a SYN carries beside its numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Syn {
    /// Told by its length.
    pub dialect: Dialect,
    /// How many segments its sender takes without having acknowledged them. Not negotiable.
    pub max_outstanding: u8,
    /// Longest datagram its sender takes, header included. Not negotiable. 0 in an auto reset.
    pub max_segment: u16,
    /// An auto reset: the terms stay, and most fields are zero.
    pub reuse: bool,
    pub terms: Terms,
    /// The sender's own, or the receiver's in an auto reset. 0 in the Java dialect.
    pub connection_id: u32,
}

/// What a TCS carries beside its numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Transfer {
    /// How the numbers of the old connection are to be shifted; the draft doesn't say by what rule.
    pub adjustment: u8,
    /// Which connection is moved to this one.
    pub connection_id: u32,
}

/// One datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet<'a> {
    /// Its own number; in a stand-alone acknowledgement the next one to be sent.
    pub number: u8,
    /// The last number received in sequence; `None` where the ACK flag is not set.
    pub acknowledged: Option<u8>,
    pub body: Body<'a>,
}

/// What a segment is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Body<'a> {
    Syn(Syn),
    Acknowledgement,
    /// `covered`: the checksum covers the payload.
    Data {
        payload: &'a [u8],
        covered: bool,
    },
    /// Numbers received out of sequence, at least one.
    Extended(&'a [u8]),
    Null,
    Reset,
    /// The end of a connection, in the Java dialect only.
    Finish,
    Transfer(Transfer),
}

/// Reads one datagram. A SYN is read in whatever dialect it is; the others in `dialect`.
///
/// # Errors
/// Where the draft's table of segments doesn't have it, or its checksum is wrong.
pub fn decode(datagram: &[u8], dialect: Dialect) -> Result<Packet<'_>, PacketError> {
    let &[flags, header, number, ack, _, _, ..] = datagram else {
        return Err(PacketError::Short { length: datagram.len() });
    };
    let length = usize::from(header);
    if length < HEADER || length > datagram.len() {
        return Err(PacketError::HeaderLength { header, datagram: datagram.len() });
    }
    let (head, payload) = datagram.split_at(length);
    let covered = flags & FLAG_CHK != 0;
    let body = body(flags & !FLAG_CHK, head, payload, covered, dialect)?;
    let optional = match &body {
        Body::Syn(syn) => syn.dialect == Dialect::Java,
        _ => dialect == Dialect::Java,
    };
    verify(head, if covered { payload } else { &[] }, optional)?;
    let acknowledged = (flags & FLAG_ACK != 0).then_some(ack);
    Ok(Packet { number, acknowledged, body })
}

/// Decides by the flags what a segment is, and holds its length against what that allows.
fn body<'a>(
    flags: u8,
    head: &'a [u8],
    payload: &'a [u8],
    covered: bool,
    dialect: Dialect,
) -> Result<Body<'a>, PacketError> {
    const SYN_ACK: u8 = FLAG_SYN | FLAG_ACK;
    const EACK: u8 = FLAG_EACK | FLAG_ACK;
    const RST_ACK: u8 = FLAG_RST | FLAG_ACK;
    const NUL_ACK: u8 = FLAG_NUL | FLAG_ACK;
    const TCS_ACK: u8 = FLAG_TCS | FLAG_ACK;

    let java = dialect == Dialect::Java;
    let wrong = || PacketError::HeaderLength {
        header: u8::try_from(head.len()).unwrap_or(u8::MAX),
        datagram: head.len() + payload.len(),
    };
    let body = match (flags, head.len()) {
        (FLAG_SYN | SYN_ACK, SYN) => Body::Syn(draft_syn(head).ok_or_else(wrong)?),
        (FLAG_SYN | SYN_ACK, SYN_JAVA) => Body::Syn(java_syn(head).ok_or_else(wrong)?),
        (FLAG_ACK, HEADER) if payload.is_empty() => Body::Acknowledgement,
        (FLAG_ACK, HEADER) => return Ok(Body::Data { payload, covered }),
        (EACK, HEADER) => return Err(wrong()),
        (EACK, length) => Body::Extended(head.get(4..length - 2).ok_or_else(wrong)?),
        (NUL_ACK, HEADER) => Body::Null,
        // Java leaves the flag out where it has nothing to acknowledge.
        (FLAG_NUL, HEADER) if java => Body::Null,
        (FLAG_RST | RST_ACK, HEADER) => Body::Reset,
        (FLAG_TCS | TCS_ACK, HEADER) if java => Body::Finish,
        (FLAG_TCS | TCS_ACK, TRANSFER) => Body::Transfer(transfer(head).ok_or_else(wrong)?),
        (FLAG_SYN | SYN_ACK | FLAG_ACK | NUL_ACK | FLAG_RST | RST_ACK | FLAG_TCS | TCS_ACK, _) => {
            return Err(wrong());
        }
        _ => return Err(PacketError::Flags { flags }),
    };
    if let Body::Syn(_) = body {
        let version = head.get(4).map_or(0, |octet| octet >> 4);
        if version != VERSION {
            return Err(PacketError::Version { version });
        }
    }
    if payload.is_empty() { Ok(body) } else { Err(PacketError::Payload { length: payload.len() }) }
}

fn draft_syn(head: &[u8]) -> Option<Syn> {
    let head: &[u8; SYN] = head.try_into().ok()?;
    let pair = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let (checksum_data, reuse) = options(head[6]);
    let terms = Terms {
        checksum_data,
        retransmission_ms: pair(10),
        cumulative_ack_ms: pair(12),
        null_ms: pair(14),
        transfer_ms: pair(16),
        max_retransmissions: head[18],
        max_cumulative_ack: head[19],
        max_out_of_sequence: head[20],
        max_auto_reset: head[21],
    };
    Some(Syn {
        dialect: Dialect::Draft,
        max_outstanding: head[5],
        max_segment: pair(8),
        reuse,
        terms,
        connection_id: u32::from_be_bytes([head[22], head[23], head[24], head[25]]),
    })
}

fn java_syn(head: &[u8]) -> Option<Syn> {
    let head: &[u8; SYN_JAVA] = head.try_into().ok()?;
    let pair = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let (checksum_data, _) = options(head[6]);
    let terms = Terms {
        checksum_data,
        retransmission_ms: pair(10),
        cumulative_ack_ms: pair(12),
        null_ms: pair(14),
        transfer_ms: 0,
        max_retransmissions: head[16],
        max_cumulative_ack: head[17],
        max_out_of_sequence: head[18],
        max_auto_reset: head[19],
    };
    Some(Syn {
        dialect: Dialect::Java,
        max_outstanding: head[5],
        max_segment: pair(8),
        reuse: false,
        terms,
        connection_id: 0,
    })
}

/// Checksum of data, and auto reset, from an option octet that counts its bits from either end.
fn options(octet: u8) -> (bool, bool) {
    if octet & 0xf0 == 0 {
        (octet & LOW_CHK != 0, octet & LOW_REUSE != 0)
    } else {
        (octet & OPTION_CHK != 0, octet & OPTION_REUSE != 0)
    }
}

fn transfer(head: &[u8]) -> Option<Transfer> {
    let &[_, _, _, _, adjustment, _, i0, i1, i2, i3, _, _] = head else { return None };
    Some(Transfer { adjustment, connection_id: u32::from_be_bytes([i0, i1, i2, i3]) })
}

fn verify(head: &[u8], payload: &[u8], optional: bool) -> Result<(), PacketError> {
    let Some((covered, &found)) = head.split_last_chunk::<2>() else {
        return Err(PacketError::Short { length: head.len() });
    };
    let found = u16::from_be_bytes(found);
    let expected = checksum(covered, payload);
    // Like UDP, some peers write ones where the sum is zero.
    let equal = found == expected || (expected == 0 && found == u16::MAX);
    if equal || (optional && found == 0) {
        Ok(())
    } else {
        Err(PacketError::Checksum { found, expected })
    }
}

/// RFC 1071 over the header without its last two octets, and over the payload where it is covered.
/// A payload only ever follows a header of even length.
fn checksum(head: &[u8], payload: &[u8]) -> u16 {
    let mut sum = sum(head) + sum(payload);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("the loop ends at 16 bits")
}

/// At most 65,535 octets, so that 32 bits are enough for all carries.
fn sum(octets: &[u8]) -> u32 {
    let (pairs, rest) = octets.as_chunks::<2>();
    let whole: u32 = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    whole + rest.first().map_or(0, |last| u32::from(*last) << 8)
}

/// Appends one datagram to `out`. A SYN is written in its own dialect, the others in `dialect`.
pub fn encode(packet: &Packet<'_>, dialect: Dialect, out: &mut Vec<u8>) {
    let start = out.len();
    let (flags, header) = shape(&packet.body);
    let flags = if packet.acknowledged.is_some() { flags | FLAG_ACK } else { flags };
    let header_octet = u8::try_from(header).expect("a list of numbers is cut to what fits");
    out.extend_from_slice(&[flags, header_octet, packet.number, packet.acknowledged.unwrap_or(0)]);
    let mut payload: &[u8] = &[];
    let mut covered = false;
    match &packet.body {
        Body::Syn(syn) => encode_syn(syn, out),
        Body::Extended(numbers) => out.extend_from_slice(&numbers[..header - HEADER]),
        Body::Transfer(transfer) => {
            out.extend_from_slice(&[transfer.adjustment, 0]);
            out.extend_from_slice(&transfer.connection_id.to_be_bytes());
        }
        Body::Data { payload: data, covered: also } => (payload, covered) = (data, *also),
        Body::Acknowledgement | Body::Null | Body::Reset | Body::Finish => {}
    }
    let dialect = if let Body::Syn(syn) = &packet.body { syn.dialect } else { dialect };
    let value = match dialect {
        Dialect::Draft => checksum(&out[start..], if covered { payload } else { &[] }),
        Dialect::Java => 0,
    };
    out.extend_from_slice(&value.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Flags but for ACK, and length of the header.
fn shape(body: &Body<'_>) -> (u8, usize) {
    match body {
        Body::Syn(syn) if syn.dialect == Dialect::Java => (FLAG_SYN, SYN_JAVA),
        Body::Syn(_) => (FLAG_SYN, SYN),
        Body::Acknowledgement | Body::Data { covered: false, .. } => (0, HEADER),
        Body::Data { covered: true, .. } => (FLAG_CHK, HEADER),
        Body::Extended(numbers) => (FLAG_EACK, (HEADER + numbers.len()).min(usize::from(u8::MAX))),
        Body::Null => (FLAG_NUL, HEADER),
        Body::Reset => (FLAG_RST, HEADER),
        Body::Finish => (FLAG_TCS, HEADER),
        Body::Transfer(_) => (FLAG_TCS, TRANSFER),
    }
}

fn encode_syn(syn: &Syn, out: &mut Vec<u8>) {
    let java = syn.dialect == Dialect::Java;
    let (one, chk, reuse) =
        if java { (LOW_ONE, LOW_CHK, LOW_REUSE) } else { (OPTION_ONE, OPTION_CHK, OPTION_REUSE) };
    let mut options = one;
    if syn.terms.checksum_data {
        options |= chk;
    }
    if syn.reuse {
        options |= reuse;
    }
    let Terms { retransmission_ms, cumulative_ack_ms, null_ms, transfer_ms, .. } = syn.terms;
    // An auto reset leaves out everything but its window, its NUL time and its transfer time.
    let kept = |value: u16| if syn.reuse { 0 } else { value };
    out.extend_from_slice(&[VERSION << 4, syn.max_outstanding, options, 0]);
    out.extend_from_slice(&kept(syn.max_segment).to_be_bytes());
    out.extend_from_slice(&kept(retransmission_ms).to_be_bytes());
    out.extend_from_slice(&kept(cumulative_ack_ms).to_be_bytes());
    out.extend_from_slice(&null_ms.to_be_bytes());
    if !java {
        out.extend_from_slice(&transfer_ms.to_be_bytes());
    }
    let counters = [
        syn.terms.max_retransmissions,
        syn.terms.max_cumulative_ack,
        syn.terms.max_out_of_sequence,
        syn.terms.max_auto_reset,
    ];
    out.extend_from_slice(&if syn.reuse { [0; 4] } else { counters });
    if !java {
        out.extend_from_slice(&syn.connection_id.to_be_bytes());
    }
}
