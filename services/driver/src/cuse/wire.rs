//! The bytes of /dev/cuse (`linux/fuse.h`, 7.38), as far as a character device needs them: requests are parsed, answers and notices
//! written. Pure; no length is believed before it was checked, and nothing here panics, whatever the bytes are.
//!
//! All numbers are in the machine's own order: the other end is its kernel.

use thiserror::Error;

/// The version that is spoken.
pub(crate) const MAJOR: u32 = 7;
pub(crate) const MINOR: u32 = 38;
/// Bytes before each request, and before each answer.
pub(crate) const IN_HEADER: usize = 40;
pub(crate) const OUT_HEADER: usize = 16;
/// Most bytes that one read or write carries; the kernel makes several requests of more. An ioctl never has more.
pub(crate) const DATA_MAX: usize = 16 << 10;
/// Room for the longest request. The kernel wants a reader to have at least so much.
pub(crate) const REQUEST_MAX: usize = IN_HEADER + 40 + DATA_MAX;
/// A waiting poll(2) wants a notice.
const SCHEDULE_NOTIFY: u32 = 1;
/// Number of the notice that wakes who polls.
const NOTIFY_POLL: i32 = 1;
/// Names of devices are folders of sysfs, too.
const NAME_MAX: usize = 64;

mod opcode {
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const DESTROY: u32 = 38;
    pub(super) const IOCTL: u32 = 39;
    pub(super) const POLL: u32 = 40;
    pub(super) const CUSE_INIT: u32 = 4096;
}

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum Malformed {
    #[error("a request of {0} bytes; at least {IN_HEADER} belong to each")]
    Header(usize),
    #[error("a request of {is} bytes says that it has {says}")]
    Length { is: usize, says: u32 },
    #[error("operation {opcode} with {is} bytes of argument, which takes {wants}")]
    Argument { opcode: u32, is: usize, wants: usize },
    #[error("operation {opcode} says that {says} bytes follow, and {is} do")]
    Data { opcode: u32, is: usize, says: u32 },
    #[error("a request without a number")]
    Unnumbered,
}

/// What the kernel asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Request<'b> {
    /// The answer carries the same number. Never 0.
    pub(crate) unique: u64,
    /// The task that called; 0 where the kernel did on its own.
    pub(crate) pid: u32,
    pub operation: Operation<'b>,
}

/// `file` is what the answer to `Open` gave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Operation<'b> {
    /// The first one of a connection.
    Init {
        major: u32,
        minor: u32,
    },
    Open {
        flags: u32,
    },
    Read {
        file: u64,
        size: u32,
    },
    Write {
        file: u64,
        data: &'b [u8],
    },
    /// Restricted: the kernel knows from the command how much is copied from and to the caller.
    Ioctl {
        file: u64,
        command: u32,
        data: &'b [u8],
        room: u32,
    },
    /// Answered at once. With `notify` the kernel wants to hear of `waiter` when something has changed.
    Poll {
        file: u64,
        waiter: u64,
        events: u32,
        notify: bool,
    },
    /// Has no answer. `unique` is of the request that should end.
    Interrupt {
        unique: u64,
    },
    Release {
        file: u64,
    },
    Destroy,
    /// What character devices don't have.
    Unknown {
        opcode: u32,
    },
}

impl<'b> Request<'b> {
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(bytes: &'b [u8]) -> Result<Self, Malformed> {
        let Some((header, argument)) = bytes.split_first_chunk::<IN_HEADER>() else {
            return Err(Malformed::Header(bytes.len()));
        };
        let says = u32_at(header, 0);
        if usize::try_from(says) != Ok(bytes.len()) {
            return Err(Malformed::Length { is: bytes.len(), says });
        }
        let (opcode, unique) = (u32_at(header, 4), u64_at(header, 8));
        if unique == 0 {
            return Err(Malformed::Unnumbered);
        }
        let operation = Operation::parse(opcode, argument)?;
        Ok(Self { unique, pid: u32_at(header, 32), operation })
    }
}

impl<'b> Operation<'b> {
    fn parse(opcode: u32, argument: &'b [u8]) -> Result<Self, Malformed> {
        Ok(match opcode {
            opcode::CUSE_INIT => {
                let (head, _) = split::<16>(opcode, argument)?;
                Self::Init { major: u32_at(head, 0), minor: u32_at(head, 4) }
            }
            opcode::OPEN => Self::Open { flags: u32_at(split::<8>(opcode, argument)?.0, 0) },
            opcode::READ => {
                let (head, _) = split::<40>(opcode, argument)?;
                Self::Read { file: u64_at(head, 0), size: u32_at(head, 16) }
            }
            opcode::WRITE => {
                let (head, data) = split::<40>(opcode, argument)?;
                let data = exactly(opcode, data, u32_at(head, 16))?;
                Self::Write { file: u64_at(head, 0), data }
            }
            opcode::IOCTL => {
                let (head, data) = split::<32>(opcode, argument)?;
                let data = exactly(opcode, data, u32_at(head, 24))?;
                let (command, room) = (u32_at(head, 12), u32_at(head, 28));
                Self::Ioctl { file: u64_at(head, 0), command, data, room }
            }
            opcode::POLL => {
                let (head, _) = split::<24>(opcode, argument)?;
                Self::Poll {
                    file: u64_at(head, 0),
                    waiter: u64_at(head, 8),
                    events: u32_at(head, 20),
                    notify: u32_at(head, 16) & SCHEDULE_NOTIFY != 0,
                }
            }
            opcode::INTERRUPT => {
                Self::Interrupt { unique: u64_at(split::<8>(opcode, argument)?.0, 0) }
            }
            opcode::RELEASE => Self::Release { file: u64_at(split::<24>(opcode, argument)?.0, 0) },
            opcode::DESTROY => Self::Destroy,
            opcode => Self::Unknown { opcode },
        })
    }
}

/// The operation's own structure, and what follows it. A newer kernel's may be longer where nothing else follows.
fn split<const N: usize>(opcode: u32, argument: &[u8]) -> Result<(&[u8; N], &[u8]), Malformed> {
    let short = Malformed::Argument { opcode, is: argument.len(), wants: N };
    argument.split_first_chunk().ok_or(short)
}

fn exactly(opcode: u32, data: &[u8], says: u32) -> Result<&[u8], Malformed> {
    match usize::try_from(says) {
        Ok(length) if length == data.len() => Ok(data),
        _ => Err(Malformed::Data { opcode, is: data.len(), says }),
    }
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes(std::array::from_fn(|place| bytes[at + place]))
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|place| bytes[at + place]))
}

/// Why a name is none for a device.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error(
    "a device's name has 1 to {NAME_MAX} of the characters a-z, A-Z, 0-9, '-', '_' and '.', and does not begin with '.'"
)]
pub(crate) struct BadName;

/// The answer to `Init`: what the node in /dev is called.
///
/// # Errors
/// The name would be no file's.
pub(crate) fn init(unique: u64, name: &str) -> Result<Vec<u8>, BadName> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(fits) || name.starts_with('.')
    {
        return Err(BadName);
    }
    // Flags: ioctl stays restricted, so that no driver can make the kernel read what a caller did not give. The numbers of the node
    // are the kernel's choice, and the rest is reserved.
    let mut answer = Vec::with_capacity(72);
    for word in [MAJOR, MINOR, 0, 0, limit(), limit()] {
        answer.extend(word.to_ne_bytes());
    }
    answer.resize(72, 0);
    Ok(whole(unique, 0, &[&answer, b"DEVNAME=", name.as_bytes(), &[0]]))
}

fn limit() -> u32 {
    u32::try_from(DATA_MAX).expect("it is 16 KiB")
}

/// The answer to `Open`. The file has no place: `lseek` is refused.
#[must_use]
pub(crate) fn opened(unique: u64, file: u64) -> Vec<u8> {
    /// Reads go past the page cache, and the file is a stream.
    const DIRECT: u32 = 1;
    const NONSEEKABLE: u32 = 4;
    let flags = DIRECT | NONSEEKABLE;
    whole(unique, 0, &[&file.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 4]])
}

/// The answer to `Read`.
#[must_use]
pub(crate) fn data(unique: u64, data: &[u8]) -> Vec<u8> {
    whole(unique, 0, &[data])
}

/// The answer to `Write`.
#[must_use]
pub(crate) fn written(unique: u64, bytes: u32) -> Vec<u8> {
    whole(unique, 0, &[&bytes.to_ne_bytes(), &[0; 4]])
}

/// The answer to `Ioctl`.
#[must_use]
pub(crate) fn controlled(unique: u64, result: i32, data: &[u8]) -> Vec<u8> {
    whole(unique, 0, &[&result.to_ne_bytes(), &[0; 12], data])
}

/// The answer to `Poll`.
#[must_use]
pub(crate) fn polled(unique: u64, events: u32) -> Vec<u8> {
    whole(unique, 0, &[&events.to_ne_bytes(), &[0; 4]])
}

/// The answer to what has none but that it is done.
#[must_use]
pub(crate) fn done(unique: u64) -> Vec<u8> {
    whole(unique, 0, &[])
}

/// The answer that it failed; `errno` is 1 to 511, as the kernel wants it, or becomes EIO.
#[must_use]
pub(crate) fn failed(unique: u64, errno: i64) -> Vec<u8> {
    const EIO: i32 = 5;
    let errno = match i32::try_from(errno) {
        Ok(errno @ 1..512) => errno,
        _ => EIO,
    };
    whole(unique, -errno, &[])
}

/// Nobody asked: who polls the file with this `waiter` asks again.
#[must_use]
pub(crate) fn notice(waiter: u64) -> Vec<u8> {
    whole(0, NOTIFY_POLL, &[&waiter.to_ne_bytes()])
}

fn whole(unique: u64, error: i32, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>() + OUT_HEADER;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).expect("an answer is short").to_ne_bytes());
    bytes.extend(error.to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    for part in parts {
        bytes.extend(*part);
    }
    bytes
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A request as the kernel writes it.
    pub(crate) fn request(opcode: u32, unique: u64, argument: &[u8]) -> Vec<u8> {
        let length = u32::try_from(IN_HEADER + argument.len()).unwrap();
        let mut bytes = Vec::new();
        bytes.extend(length.to_ne_bytes());
        bytes.extend(opcode.to_ne_bytes());
        bytes.extend(unique.to_ne_bytes());
        bytes.extend([0; 8]);
        for word in [1000u32, 100, 77, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(argument);
        bytes
    }

    /// Words of 4 bytes, then data.
    pub(crate) fn argument(words: &[u32], data: &[u8]) -> Vec<u8> {
        let words = words.iter().flat_map(|word| word.to_ne_bytes());
        words.chain(data.iter().copied()).collect()
    }

    fn operation(bytes: &[u8]) -> Operation<'_> {
        Request::parse(bytes).unwrap().operation
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn requests_are_what_fuse_h_says() {
        let bytes = request(16, 6, &argument(&[3, 0, 9, 0, 4, 0, 0, 0, 1, 0], b"data"));
        let parsed = Request::parse(&bytes).unwrap();
        assert_eq!((parsed.unique, parsed.pid), (6, 77));
        assert_eq!(parsed.operation, Operation::Write { file: 3, data: b"data" });
        let bytes = request(15, 6, &argument(&[3, 0, 9, 0, 4096, 0, 0, 0, 0, 0], b""));
        assert_eq!(operation(&bytes), Operation::Read { file: 3, size: 4096 });
        let bytes = request(39, 6, &argument(&[3, 0, 0, 0x8004_5601, 1, 0, 2, 8], b"in"));
        let wanted = Operation::Ioctl { file: 3, command: 0x8004_5601, data: b"in", room: 8 };
        assert_eq!(operation(&bytes), wanted);
        let bytes = request(40, 6, &argument(&[3, 0, 5, 0, 1, 0x41], b""));
        let wanted = Operation::Poll { file: 3, waiter: 5, events: 0x41, notify: true };
        assert_eq!(operation(&bytes), wanted);
        let bytes = request(4096, 2, &argument(&[7, 38, 0, 1], b""));
        assert_eq!(operation(&bytes), Operation::Init { major: 7, minor: 38 });
        let bytes = request(14, 2, &argument(&[0x8002, 0], b""));
        assert_eq!(operation(&bytes), Operation::Open { flags: 0x8002 });
        assert_eq!(operation(&request(18, 2, &[0; 24])), Operation::Release { file: 0 });
        assert_eq!(
            operation(&request(36, 3, &argument(&[2, 0], b""))),
            Operation::Interrupt { unique: 2 }
        );
        assert_eq!(operation(&request(38, 2, &[])), Operation::Destroy);
        assert_eq!(operation(&request(1, 2, b"name\0")), Operation::Unknown { opcode: 1 });
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn answers_are_what_fuse_h_says() {
        assert_eq!(failed(6, 5), [16, 0, 0, 0, 0xfb, 0xff, 0xff, 0xff, 6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(failed(6, 512), failed(6, 5), "the kernel takes no such number");
        assert_eq!(written(6, 4)[..4], [24, 0, 0, 0]);
        assert_eq!(written(6, 4)[16..], [4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(data(6, b"ab")[16..], *b"ab");
        assert_eq!(controlled(6, 3, b"abc").len(), 16 + 16 + 3);
        assert_eq!(opened(6, 9)[16..], [9, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            notice(9),
            [24, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]
        );
        let answer = init(2, "counter0").unwrap();
        assert_eq!(answer.len(), 16 + 72 + "DEVNAME=counter0".len() + 1);
        assert_eq!(answer[16..28], [7, 0, 0, 0, 38, 0, 0, 0, 0, 0, 0, 0]);
        assert!(answer.ends_with(b"DEVNAME=counter0\0"));
    }

    #[test]
    fn a_devices_name_is_that_of_a_file_and_of_nothing_else() {
        for name in ["", "a/b", "..", "a b", "a\0b", "a\nDEVNAME=c", &"x".repeat(65)] {
            assert_eq!(init(2, name), Err(BadName), "{name:?}");
        }
        assert!(init(2, "tty-0_a.b").is_ok());
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let write = request(16, 6, &argument(&[3, 0, 0, 0, 5, 0, 0, 0, 0, 0], b"data"));
        assert_eq!(Request::parse(&write), Err(Malformed::Data { opcode: 16, is: 4, says: 5 }));
        let ioctl = request(39, 6, &argument(&[3, 0, 0, 1, 0, 0, 1, 0], b""));
        assert_eq!(Request::parse(&ioctl), Err(Malformed::Data { opcode: 39, is: 0, says: 1 }));
        let mut longer = write.clone();
        longer.push(0);
        assert!(matches!(Request::parse(&longer), Err(Malformed::Length { .. })));
        assert_eq!(Request::parse(&request(14, 0, &[0; 8])), Err(Malformed::Unnumbered));
        let short = request(40, 2, &[0; 23]);
        assert_eq!(
            Request::parse(&short),
            Err(Malformed::Argument { opcode: 40, is: 23, wants: 24 })
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(&bytes);
        }

        #[test]
        fn whatever_a_request_contains_lies_within_it(
            opcode in prop_oneof![14u32..19, Just(36), 38u32..41, Just(4096)],
            unique in 1u64..,
            argument in proptest::collection::vec(any::<u8>(), 0..120),
            says in proptest::option::of(0u32..80),
        ) {
            let mut argument = argument;
            // Half of the lengths fit, or nearly.
            for at in [16, 24] {
                if let (Some(says), Some(place)) = (says, argument.get_mut(at..at + 4)) {
                    place.copy_from_slice(&says.to_ne_bytes());
                }
            }
            let bytes = request(opcode, unique, &argument);
            if let Ok(parsed) = Request::parse(&bytes) {
                prop_assert_eq!(parsed.unique, unique);
                if let Operation::Write { data, .. } | Operation::Ioctl { data, .. } = parsed.operation {
                    prop_assert!(bytes.ends_with(data));
                    prop_assert!(data.len() <= argument.len());
                }
            }
        }

        #[test]
        fn each_truncation_of_a_request_is_refused(cut in 0usize..84) {
            let write = request(16, 6, &argument(&[3, 0, 0, 0, 4, 0, 0, 0, 0, 0], b"data"));
            prop_assert!(Request::parse(&write[..cut]).is_err());
        }

        #[test]
        fn each_answer_says_how_long_it_is(unique: u64, number: u64, bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let short = u32::try_from(number & 0xffff_ffff).unwrap();
            for answer in [
                opened(unique, number), data(unique, &bytes), written(unique, short), polled(unique, short),
                controlled(unique, 0, &bytes), done(unique), failed(unique, 1), notice(number),
            ] {
                let says = u32::from_ne_bytes(*answer.first_chunk().unwrap());
                prop_assert_eq!(usize::try_from(says).unwrap(), answer.len());
            }
        }
    }
}
