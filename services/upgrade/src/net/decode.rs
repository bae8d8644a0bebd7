//! Unpacks chunks on a thread of its own, so that unpacking, the writer's hashing and its writing go on beside each other.
//! One after the other, in the order in which they came. What comes out is never longer than a chunk; whether it is what was
//! signed is for the writer to see.

use std::{io, thread};

use bundle::{CHUNK_MAX, Codec, Decoder};
use protocol::upgrade::HEAD;
use tokio::sync::{mpsc, oneshot};

use super::{
    desk::refused,
    link::{Answer, From, Link, Request},
};
use crate::channel::What;

/// A chunk as it came.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) from: From,
    pub(super) what: What,
    pub(super) codec: Codec,
    pub(super) raw_len: u32,
    /// The call's arguments: the numbers, then the stored bytes.
    pub(super) args: Vec<u8>,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// Starts the thread. It ends when the sender is dropped.
///
/// # Errors
/// No memory, or no thread.
pub(super) fn start(link: Link, room: usize) -> io::Result<mpsc::Sender<Job>> {
    let (jobs, mut waiting) = mpsc::channel::<Job>(room);
    let mut decoder = Decoder::new()?;
    thread::Builder::new().name("decode".to_owned()).spawn(move || {
        let mut buffer = vec![0; CHUNK_MAX];
        while let Some(Job { from, what, codec, raw_len, args, answer }) = waiting.blocking_recv() {
            let stored = args.get(HEAD..).unwrap_or_default();
            let decoded = decoder.decode(codec, stored, raw_len, &mut buffer).map(<[u8]>::to_vec);
            drop(args);
            match decoded {
                Ok(data) => {
                    if !link.order(Request { from, what, data, answer }) {
                        return;
                    }
                }
                // Whoever asked may have left.
                Err(refusal) => drop(answer.send(Err(refused(refusal)))),
            }
        }
    })?;
    Ok(jobs)
}
