//! Looks at what a pipe holds without taking it, by tee(2): what is not stored yet stays in the pipe, where no death of ours
//! can lose it.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, pipe_with, tee},
};

/// A pipe's whole buffer (pipe(7)).
const SIZE: usize = 64 << 10;

/// A pipe of our own, into which others are copied. Empty between two calls.
#[derive(Debug)]
pub(crate) struct Peek {
    read: OwnedFd,
    write: OwnedFd,
}

impl Peek {
    pub(crate) fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { read, write })
    }

    /// What a pipe holds, or as much of it as is looked at at once. Nothing where it is empty.
    pub(crate) fn look(&mut self, pipe: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
        let length = loop {
            match tee(pipe, &self.write, SIZE, SpliceFlags::NONBLOCK) {
                Ok(length) => break length,
                Err(Errno::AGAIN) => break 0,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        take(self.read.as_fd(), length)
    }
}

/// Takes so many bytes from a pipe that holds them.
pub(crate) fn take(pipe: BorrowedFd<'_>, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut taken = 0;
    while taken < length {
        match rustix::io::read(pipe, &mut bytes[taken..]) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(read) => taken += read,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(taken);
    Ok(bytes)
}

/// Whether who writes to this pipe must wait.
pub(crate) fn is_full(pipe: BorrowedFd<'_>) -> bool {
    let mut one = [PollFd::from_borrowed_fd(pipe, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Where the kernel doesn't tell, nobody must wait because of that.
    poll(&mut one, Some(&at_once)).is_err() || !one[0].revents().contains(PollFlags::OUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_at_is_still_in_the_pipe() {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut peek = Peek::new().unwrap();
        assert_eq!(peek.look(read.as_fd()).unwrap(), b"");
        rustix::io::write(&write, b"line\nrest").unwrap();
        assert_eq!(peek.look(read.as_fd()).unwrap(), b"line\nrest");
        assert_eq!(take(read.as_fd(), 5).unwrap(), b"line\n");
        rustix::io::write(&write, b" of it").unwrap();
        assert_eq!(peek.look(read.as_fd()).unwrap(), b"rest of it");
        assert_eq!(take(read.as_fd(), 100).unwrap(), b"rest of it");
    }

    #[test]
    fn a_pipe_without_room_is_full() {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        assert!(!is_full(write.as_fd()));
        while rustix::io::write(&write, &[0; 4096]).is_ok() {}
        assert!(is_full(write.as_fd()));
        let mut peek = Peek::new().unwrap();
        assert_eq!(peek.look(read.as_fd()).unwrap().len(), SIZE);
    }
}
