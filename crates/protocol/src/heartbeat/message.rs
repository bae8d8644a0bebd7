//! The 40 octets that an application and the broker exchange as user data of Reliable UDP, and the key that an instance
//! inherits.
//!
//! Only a message whose tag is right for the key, the nonce of this session and its direction says anything about an
//! application; everything else is noise that somebody on the network made.

use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};

/// Octets of every message.
pub const MESSAGE_LENGTH: usize = 40;
/// What `GMI_KEY_FD` yields, in octets.
pub const KEY_BLOCK_LENGTH: usize = 44;

const VERSION: u8 = 1;
/// What a tag is over, besides the message: so that no other use of the key makes the same.
const DOMAIN: &[u8] = b"gmi-hb1";

/// The secret of one instance start. Never printed.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Key(pub [u8; 16]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Drawn by the broker for each session.
pub type Nonce = [u8; 16];

/// Who speaks; part of every tag, so that an answer is never taken for a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    ToBroker,
    FromBroker,
}

/// One message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message {
    /// The AppId of `GMI_DaemonInit`.
    pub app_id: i32,
    /// Which start of the application this is; 0 without a key.
    pub generation: u32,
    pub body: Body,
}

/// What it says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Body {
    /// Opens the session: asks for a challenge.
    Hello,
    Challenge {
        nonce: Nonce,
    },
    /// Period 0 asks for the broker's default.
    Register {
        pid: u32,
        period_ms: u32,
    },
    /// The answer to Register; misses so many periods in a row are allowed.
    Result {
        code: ResultCode,
        misses: u8,
        period_ms: u32,
    },
    /// The counter rises with every Report and Bye of a generation.
    Report {
        status: u8,
        counter: u64,
        progress: u32,
    },
    Bye {
        status: u8,
        counter: u64,
        progress: u32,
    },
}

/// The broker's answer to Register.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ResultCode {
    Ok,
    UnknownApplication,
    BadTag,
    WrongGeneration,
    Busy,
    Limit,
}

impl ResultCode {
    const ALL: [Self; 6] = [
        Self::Ok,
        Self::UnknownApplication,
        Self::BadTag,
        Self::WrongGeneration,
        Self::Busy,
        Self::Limit,
    ];

    fn number(self) -> u8 {
        self as u8
    }
}

/// Why octets are no message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MessageError {
    #[error("{0} octets, a heartbeat message has {MESSAGE_LENGTH}")]
    Length(usize),
    #[error("version {0}, this side speaks {VERSION}")]
    Version(u8),
    #[error("type {0:#04x} is unknown")]
    Type(u8),
    #[error("result code {0} is unknown")]
    Code(u8),
}

impl Message {
    /// The octets; `secret` makes the tag where the message carries one.
    #[must_use]
    pub fn encode(&self, secret: Option<(&Key, &Nonce)>) -> [u8; MESSAGE_LENGTH] {
        let mut octets = [0; MESSAGE_LENGTH];
        octets[0] = VERSION;
        octets[1] = self.body.number();
        octets[4..8].copy_from_slice(&self.app_id.to_be_bytes());
        octets[8..12].copy_from_slice(&self.generation.to_be_bytes());
        match self.body {
            Body::Hello => return octets,
            Body::Challenge { nonce } => {
                octets[12..28].copy_from_slice(&nonce);
                return octets;
            }
            Body::Register { pid, period_ms } => {
                octets[12..16].copy_from_slice(&pid.to_be_bytes());
                octets[16..20].copy_from_slice(&period_ms.to_be_bytes());
            }
            Body::Result { code, misses, period_ms } => {
                octets[2] = code.number();
                octets[3] = misses;
                octets[12..16].copy_from_slice(&period_ms.to_be_bytes());
            }
            Body::Report { status, counter, progress }
            | Body::Bye { status, counter, progress } => {
                octets[2] = status;
                octets[12..20].copy_from_slice(&counter.to_be_bytes());
                octets[20..24].copy_from_slice(&progress.to_be_bytes());
            }
        }
        if let Some((key, nonce)) = secret {
            let tag = tag(key, nonce, self.body.direction(), &octets[..24]);
            octets[24..].copy_from_slice(&tag);
        }
        octets
    }

    /// Reads a message; whether its tag is right is asked of [`is_authentic`].
    ///
    /// # Errors
    /// Where the octets are no message of this version.
    pub fn decode(octets: &[u8]) -> Result<Self, MessageError> {
        let octets: &[u8; MESSAGE_LENGTH] =
            octets.try_into().map_err(|_| MessageError::Length(octets.len()))?;
        if octets[0] != VERSION {
            return Err(MessageError::Version(octets[0]));
        }
        let u32_at = |at: usize| u32::from_be_bytes(four(octets, at));
        let counter = || u64::from(u32_at(12)) << 32 | u64::from(u32_at(16));
        let body = match octets[1] {
            0 => Body::Hello,
            0x80 => {
                let mut nonce = [0; 16];
                nonce.copy_from_slice(&octets[12..28]);
                Body::Challenge { nonce }
            }
            1 => Body::Register { pid: u32_at(12), period_ms: u32_at(16) },
            0x81 => {
                let code = ResultCode::ALL.into_iter().find(|code| code.number() == octets[2]);
                let code = code.ok_or(MessageError::Code(octets[2]))?;
                Body::Result { code, misses: octets[3], period_ms: u32_at(12) }
            }
            2 => Body::Report { status: octets[2], counter: counter(), progress: u32_at(20) },
            3 => Body::Bye { status: octets[2], counter: counter(), progress: u32_at(20) },
            other => return Err(MessageError::Type(other)),
        };
        let app_id = i32::from_be_bytes(four(octets, 4));
        Ok(Self { app_id, generation: u32_at(8), body })
    }
}

impl Body {
    fn number(&self) -> u8 {
        match self {
            Self::Hello => 0,
            Self::Challenge { .. } => 0x80,
            Self::Register { .. } => 1,
            Self::Result { .. } => 0x81,
            Self::Report { .. } => 2,
            Self::Bye { .. } => 3,
        }
    }

    /// Who sends such a message.
    #[must_use]
    pub fn direction(&self) -> Direction {
        match self {
            Self::Challenge { .. } | Self::Result { .. } => Direction::FromBroker,
            _ => Direction::ToBroker,
        }
    }
}

/// Whether the tag of a message is the one that the key's holder makes. Takes the same time wherever it differs.
#[must_use]
pub fn is_authentic(octets: &[u8], key: &Key, nonce: &Nonce, direction: Direction) -> bool {
    let Some((message, found)) = octets.split_at_checked(24) else { return false };
    let expected = tag(key, nonce, direction, message);
    found.len() == expected.len()
        && found.iter().zip(expected).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Whether the tag is all zero: the application has no key.
#[must_use]
pub fn is_keyless(octets: &[u8]) -> bool {
    octets.len() == MESSAGE_LENGTH && octets[24..].iter().all(|octet| *octet == 0)
}

fn tag(key: &Key, nonce: &Nonce, direction: Direction, message: &[u8]) -> [u8; 16] {
    let mut hasher = SipHasher24::new_with_key(&key.0);
    hasher.write(DOMAIN);
    hasher.write(nonce);
    hasher.write(&[u8::from(direction == Direction::FromBroker)]);
    hasher.write(message);
    hasher.finish128().as_bytes()
}

fn four(octets: &[u8; MESSAGE_LENGTH], at: usize) -> [u8; 4] {
    [octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]
}

/// What an instance reads once from the pipe `GMI_KEY_FD`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyBlock {
    pub app_id: i32,
    pub generation: u32,
    /// The broker's UDP port on loopback.
    pub port: u32,
    pub period_ms: u32,
    pub misses: u32,
    pub key: Key,
}

impl KeyBlock {
    #[must_use]
    pub fn encode(&self) -> [u8; KEY_BLOCK_LENGTH] {
        let mut octets = [0; KEY_BLOCK_LENGTH];
        octets[..4].copy_from_slice(b"GMIK");
        let numbers = [
            u32::from(VERSION),
            self.app_id.cast_unsigned(),
            self.generation,
            self.port,
            self.period_ms,
            self.misses,
        ];
        for (place, number) in octets[4..28].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        octets[28..].copy_from_slice(&self.key.0);
        octets
    }

    /// `None` where the octets are no key block of this version.
    #[must_use]
    pub fn decode(octets: &[u8]) -> Option<Self> {
        let octets: &[u8; KEY_BLOCK_LENGTH] = octets.try_into().ok()?;
        let number = |at: usize| {
            u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
        };
        if &octets[..4] != b"GMIK" || number(4) != u32::from(VERSION) {
            return None;
        }
        let mut key = [0; 16];
        key.copy_from_slice(&octets[28..]);
        Some(Self {
            app_id: number(8).cast_signed(),
            generation: number(12),
            port: number(16),
            period_ms: number(20),
            misses: number(24),
            key: Key(key),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: Key = Key([7; 16]);
    const NONCE: Nonce = [9; 16];

    fn report(counter: u64) -> Message {
        let body = Body::Report { status: 3, counter, progress: 77 };
        Message { app_id: -5, generation: 2, body }
    }

    #[test]
    fn every_message_has_its_documented_octets() {
        let octets = report(0x0102_0304_0506_0708).encode(None);
        assert_eq!(octets[..4], [1, 2, 3, 0]);
        assert_eq!(octets[4..12], [0xff, 0xff, 0xff, 0xfb, 0, 0, 0, 2]);
        assert_eq!(octets[12..24], [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 77]);
        assert!(is_keyless(&octets));
        let body = Body::Result { code: ResultCode::Limit, misses: 3, period_ms: 1000 };
        let octets = Message { app_id: 1, generation: 0, body }.encode(None);
        assert_eq!(octets[..4], [1, 0x81, 5, 3]);
        assert_eq!(octets[12..16], [0, 0, 3, 0xe8]);
        let body = Body::Challenge { nonce: NONCE };
        let octets = Message { app_id: 1, generation: 0, body }.encode(Some((&KEY, &NONCE)));
        assert_eq!((&octets[12..28], &octets[28..]), (&[9; 16][..], &[0; 12][..]));
    }

    #[test]
    fn a_tag_is_worth_something_for_its_key_nonce_direction_and_octets_only() {
        let octets = report(1).encode(Some((&KEY, &NONCE)));
        let good = |octets: &[u8], key: &Key, nonce: &Nonce, direction| {
            is_authentic(octets, key, nonce, direction)
        };
        assert!(good(&octets, &KEY, &NONCE, Direction::ToBroker));
        assert!(!good(&octets, &Key([8; 16]), &NONCE, Direction::ToBroker));
        assert!(!good(&octets, &KEY, &[8; 16], Direction::ToBroker));
        assert!(!good(&octets, &KEY, &NONCE, Direction::FromBroker));
        assert!(!good(&octets[..39], &KEY, &NONCE, Direction::ToBroker));
        for bit in 0..MESSAGE_LENGTH * 8 {
            let mut bad = octets;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!good(&bad, &KEY, &NONCE, Direction::ToBroker), "bit {bit}");
        }
    }

    #[test]
    fn the_key_block_is_read_as_it_is_written_and_never_printed() {
        let block = KeyBlock {
            app_id: -7,
            generation: 4,
            port: 7420,
            period_ms: 500,
            misses: 3,
            key: Key([0xab; 16]),
        };
        let octets = block.encode();
        assert_eq!(&octets[..8], b"GMIK\0\0\0\x01");
        assert_eq!(KeyBlock::decode(&octets), Some(block));
        assert_eq!(KeyBlock::decode(&octets[..43]), None);
        let printed = format!("{block:?}");
        assert!(!printed.contains("171") && !printed.contains("ab, "), "{printed}");
    }

    proptest! {
        #[test]
        fn noise_is_never_a_panic_and_what_decodes_is_written_the_same(octets in any::<[u8; MESSAGE_LENGTH]>()) {
            if let Ok(message) = Message::decode(&octets) {
                let written = message.encode(None);
                prop_assert_eq!(Message::decode(&written), Ok(message));
            }
        }
    }
}
