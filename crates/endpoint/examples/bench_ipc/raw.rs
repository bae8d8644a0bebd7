//! The baseline: a length, 64 bytes, one read and one write a message, nothing else.

use std::{os::unix::net::UnixListener, path::Path};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::Instant,
};

use crate::{Outcome, connect, summary};

pub(crate) async fn serve(listener: UnixListener) -> Outcome<()> {
    listener.set_nonblocking(true)?;
    let (mut stream, _) = tokio::net::UnixListener::from_std(listener)?.accept().await?;
    let mut buffer = Vec::with_capacity(4096);
    while let Some(length) = frame(&mut stream, &mut buffer).await? {
        stream.write_all(&buffer[..length]).await?;
        buffer.drain(..length);
    }
    Ok(())
}

pub(crate) async fn sequential(path: &Path, warm: usize, count: usize) -> Outcome<(f64, f64)> {
    let mut stream = connect(path).await?;
    let mut message = 64_u32.to_le_bytes().to_vec();
    message.extend([7; 64]);
    let mut buffer = Vec::with_capacity(4096);
    let mut times = Vec::with_capacity(count);
    for at in 0..warm + count {
        let before = Instant::now();
        stream.write_all(&message).await?;
        frame(&mut stream, &mut buffer).await?.ok_or("the other side closed it")?;
        buffer.clear();
        if at >= warm {
            times.push(before.elapsed());
        }
    }
    Ok(summary(times))
}

/// Reads until one frame is in the buffer; its length, or nothing at the end.
async fn frame(stream: &mut UnixStream, buffer: &mut Vec<u8>) -> Outcome<Option<usize>> {
    loop {
        if let Some((length, _)) = buffer.split_first_chunk::<4>() {
            let length = 4 + usize::try_from(u32::from_le_bytes(*length))?;
            if buffer.len() >= length {
                return Ok(Some(length));
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}
