//! What the two processes of the agent say to each other, over a pair of stream sockets. The one that parses what comes from a
//! network and has no rights gives orders; the one that writes takes them for what a stranger may have said, and believes only
//! what is signed or hashed.
//!
//! A frame, little-endian: u32 length of the head, u32 length of the data, the head (JSON), the data (raw).

use std::io;

use protocol::{
    failure::Failure,
    frame::BODY_MAX,
    upgrade::{Finish, Progress, Rollback, Status},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest head: a history has the longest.
const HEAD_MAX: usize = 1 << 20;
/// Longest data: a raw chunk, a page, or what a transfer begins with.
const DATA_MAX: usize = BODY_MAX;

/// An order, and whose. Answered by one [`Word::Answer`] with its number.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Order {
    pub(crate) number: u64,
    /// `uid 0`, or the fingerprint of an operator's key.
    pub(crate) who: String,
    /// Root, on the Unix socket. The writer believes it only with an approval, where it decides anything.
    #[serde(default)]
    pub(crate) local_root: bool,
    pub(crate) what: What,
}

/// The methods of the `upgrade` object, as far as the writer has a part in them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// Data: the bundle's header, signatures and manifest. Flags as in `protocol::upgrade`.
    Begin {
        flags: u32,
    },
    /// Data: a component's table of pages, or one page. The answer's data is the bitmap.
    Pages {
        session: u64,
        component: u32,
        page: u32,
    },
    /// Data: the raw bytes of a chunk, already decoded.
    Chunk {
        session: u64,
        component: u32,
        chunk: u32,
    },
    Finish(Finish),
    Activate,
    Abort,
    /// The connection of this session is gone: the transfer may be taken up again where it was. Answered by `null`, always.
    Leave {
        session: u64,
    },
    Confirm,
    Rollback(Rollback),
    Status,
    Slots,
    History,
    /// Data: a keyring, then its signatures; `length` is the keyring's.
    Keyring {
        length: u32,
    },
    /// Data: a permission to go below a rollback floor, then its signatures.
    Permission {
        length: u32,
    },
    /// What the network side must know of the device: answered by a [`Device`].
    Device,
}

/// What the network side must know of the device.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Device {
    pub(crate) product: String,
    pub(crate) revision: String,
    /// 0: there is none.
    pub(crate) keyring: u64,
    /// Public keys of the operators, in hexadecimal digits.
    pub(crate) operators: Vec<String>,
}

/// What the writer says.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Word {
    Answer {
        number: u64,
        outcome: Result<serde_json::Value, Failure>,
    },
    /// Its state changed: published as `upgrade.state`.
    Status(Status),
    /// Published as `upgrade.progress`.
    Progress(Progress),
    /// The operators' keys changed, or the keyring's version.
    Device(Device),
    /// What was to be decided before any service starts is decided, and links point where they must.
    Ready,
}

/// Writes a frame.
///
/// # Errors
/// As writing, and where head or data are too long.
pub(crate) async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    head: &T,
    data: &[u8],
) -> io::Result<()> {
    let head = serde_json::to_vec(head).map_err(io::Error::other)?;
    let length = |bytes: &[u8], limit| match u32::try_from(bytes.len()) {
        Ok(length) if bytes.len() <= limit => Ok(length.to_le_bytes()),
        _ => Err(io::Error::other(format!("{} bytes, at most {limit} fit", bytes.len()))),
    };
    let mut frame = Vec::with_capacity(8 + head.len());
    frame.extend(length(&head, HEAD_MAX)?);
    frame.extend(length(data, DATA_MAX)?);
    frame.extend(head);
    stream.write_all(&frame).await?;
    stream.write_all(data).await
}

/// Reads a frame; `None` where the other side has ended. Not to be given up half-way: what was read would be lost.
///
/// # Errors
/// As reading, where a length is beyond its limit, and where the head makes no sense.
pub(crate) async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<(T, Vec<u8>)>> {
    let mut lengths = [0; 8];
    match stream.read_exact(&mut lengths).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let [a, b, c, d, e, f, g, h] = lengths;
    let head = bytes(stream, u32::from_le_bytes([a, b, c, d]), HEAD_MAX).await?;
    let data = bytes(stream, u32::from_le_bytes([e, f, g, h]), DATA_MAX).await?;
    let head = serde_json::from_slice(&head)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some((head, data)))
}

async fn bytes(
    stream: &mut (impl AsyncRead + Unpin),
    length: u32,
    limit: usize,
) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > limit {
        let text = format!("{length} bytes were announced, at most {limit} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        let what = What::Chunk { session: 7, component: 1, chunk: 9 };
        Order { number: 3, who: "uid 0".to_owned(), local_root: true, what }
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_an_end_is_an_end() {
        let (mut here, mut there) = tokio::io::duplex(64 << 10);
        write(&mut here, &order(), b"raw").await.unwrap();
        write(&mut here, &order(), b"").await.unwrap();
        drop(here);
        assert_eq!(read::<Order>(&mut there).await.unwrap(), Some((order(), b"raw".to_vec())));
        assert_eq!(read::<Order>(&mut there).await.unwrap(), Some((order(), Vec::new())));
        assert_eq!(read::<Order>(&mut there).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_length_beyond_the_limit_is_refused_before_anything_is_kept_for_it() {
        let mut lie = &[0xff_u8, 0xff, 0xff, 0xff, 0, 0, 0, 0][..];
        let told = read::<Order>(&mut lie).await.unwrap_err().to_string();
        assert!(told.contains("4294967295"), "{told}");
        let mut cut = &[4_u8, 0, 0, 0, 0, 0, 0, 0, b'{'][..];
        assert!(read::<Order>(&mut cut).await.is_err());
        let mut junk = &b"\x02\0\0\0\0\0\0\0{}"[..];
        assert!(read::<Order>(&mut junk).await.is_err());
        let long = vec![0; DATA_MAX + 1];
        assert!(write(&mut tokio::io::sink(), &order(), &long).await.is_err());
    }
}
