//! The line itself: a pair of descriptors, its speed, and what has gone over it.
//!
//! Nothing here waits: where nothing is there, the answer is `EAGAIN`, and [`crate::edge`] leaves the driver to wait.

use std::{
    io,
    os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd, RawFd},
};

use driver_abi::{State, events};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{Mode, OFlags},
    io::Errno,
    pty::OpenptFlags,
    termios::{self, OptionalActions},
};

/// The state's layout.
pub(crate) const LAYOUT: u32 = 1;
/// A line that nobody has set.
const SPEED: u32 = 115_200;
/// Slower is none, faster is a mistake.
const SPEEDS: std::ops::RangeInclusive<u32> = 50..=4_000_000;

/// Fields of the state.
pub(crate) mod field {
    pub(crate) const PROCESS: u16 = 1;
    pub(crate) const MASTER: u16 = 2;
    pub(crate) const KEEPER: u16 = 3;
    pub(crate) const TERMINAL: u16 = 4;
    pub(crate) const SPEED: u16 = 5;
    pub(crate) const READ: u16 = 6;
    pub(crate) const WRITTEN: u16 = 7;
}

#[derive(Debug)]
pub(crate) struct Line {
    master: OwnedFd,
    /// The other side, held open so that the line does not hang up whenever its user closes it.
    keeper: OwnedFd,
    terminal: String,
    speed: u32,
    read: u64,
    written: u64,
}

/// What a version before gave away.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Carried {
    process: u64,
    pub(crate) master: RawFd,
    pub(crate) keeper: RawFd,
    terminal: String,
    speed: u32,
    read: u64,
    written: u64,
}

impl Line {
    /// A new pair.
    pub(crate) fn new() -> io::Result<Self> {
        Self::open(SPEED)
    }

    fn open(speed: u32) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        rustix::fs::fcntl_setfl(&master, rustix::fs::fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
        let terminal = name(&master)?;
        let keeper = rustix::fs::open(
            &*terminal,
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut line = Self { master, keeper, terminal, speed, read: 0, written: 0 };
        let mut attributes = termios::tcgetattr(&line.keeper)?;
        attributes.make_raw();
        termios::tcsetattr(&line.keeper, OptionalActions::Now, &attributes)?;
        line.set_speed(speed)?;
        Ok(line)
    }

    /// What a state says, where it is one of ours.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Carried> {
        let state = State::parse(bytes).ok().filter(|state| state.layout == LAYOUT)?;
        let number = |id| {
            let bytes = state.fields.get(&id)?;
            Some(u64::from_le_bytes(bytes.as_slice().try_into().ok()?))
        };
        let small = |id| i32::try_from(number(id)?).ok();
        Some(Carried {
            process: number(field::PROCESS)?,
            master: small(field::MASTER)?,
            keeper: small(field::KEEPER)?,
            terminal: String::from_utf8(state.fields.get(&field::TERMINAL)?.clone()).ok()?,
            speed: u32::try_from(number(field::SPEED)?)
                .ok()
                .filter(|speed| SPEEDS.contains(speed))?,
            read: number(field::READ)?,
            written: number(field::WRITTEN)?,
        })
    }

    /// Goes on with the descriptors of the version before, if they are still that terminal's. `own` makes them ours.
    pub(crate) fn resume(
        carried: &Carried,
        own: impl FnOnce(RawFd, RawFd) -> (OwnedFd, OwnedFd),
    ) -> io::Result<Self> {
        let mut line = if carried.process == u64::from(std::process::id()) {
            let (master, keeper) = own(carried.master, carried.keeper);
            if name(&master).ok().as_ref() != Some(&carried.terminal) {
                // Numbers that mean something else by now belong to whoever opened that.
                let _ = (master.into_raw_fd(), keeper.into_raw_fd());
                return Err(Errno::PROTO.into());
            }
            let (terminal, speed) = (carried.terminal.clone(), carried.speed);
            Self { master, keeper, terminal, speed, read: 0, written: 0 }
        } else {
            // Another process had them, and they ended with it.
            Self::open(carried.speed)?
        };
        (line.read, line.written) = (carried.read, carried.written);
        Ok(line)
    }

    /// Gives the descriptors away, to the version that has them from the state.
    pub(crate) fn give_away(self) {
        let _ = (self.master.into_raw_fd(), self.keeper.into_raw_fd());
    }

    pub(crate) fn export(&self) -> Vec<u8> {
        let descriptor = |fd: &OwnedFd| u64::try_from(fd.as_raw_fd()).unwrap_or(u64::MAX);
        let number = |number: u64| number.to_le_bytes().to_vec();
        let fields = [
            (field::PROCESS, number(std::process::id().into())),
            (field::MASTER, number(descriptor(&self.master))),
            (field::KEEPER, number(descriptor(&self.keeper))),
            (field::TERMINAL, self.terminal.clone().into_bytes()),
            (field::SPEED, number(self.speed.into())),
            (field::READ, number(self.read)),
            (field::WRITTEN, number(self.written)),
        ];
        let state = State { layout: LAYOUT, fields: fields.into() };
        state.encode().expect("seven short fields fit")
    }

    /// The number to wait on.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.master.as_raw_fd()
    }

    pub(crate) fn terminal(&self) -> &str {
        &self.terminal
    }

    pub(crate) fn speed(&self) -> u32 {
        self.speed
    }

    pub(crate) fn set_speed(&mut self, speed: u32) -> io::Result<()> {
        if !SPEEDS.contains(&speed) {
            return Err(Errno::INVAL.into());
        }
        let mut attributes = termios::tcgetattr(&self.keeper)?;
        attributes.set_speed(speed)?;
        termios::tcsetattr(&self.keeper, OptionalActions::Now, &attributes)?;
        self.speed = speed;
        Ok(())
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = rustix::io::read(&self.master, buffer)?;
        self.read = self.read.saturating_add(count as u64);
        Ok(count)
    }

    pub(crate) fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = rustix::io::write(&self.master, data)?;
        self.written = self.written.saturating_add(count as u64);
        Ok(count)
    }

    /// Which of these events are there now.
    pub(crate) fn ready(&self, wanted: u32) -> io::Result<u32> {
        let pairs = [
            (events::IN, PollFlags::IN),
            (events::OUT, PollFlags::OUT),
            (events::ERR, PollFlags::ERR),
            (events::HUP, PollFlags::HUP),
        ];
        let mut flags = PollFlags::empty();
        for (event, flag) in pairs {
            flags.set(flag, wanted & event != 0);
        }
        let mut polled = [PollFd::new(&self.master, flags)];
        rustix::event::poll(&mut polled, Some(&Timespec::default()))?;
        let there = polled[0].revents();
        Ok(pairs
            .iter()
            .filter(|(_, flag)| there.contains(*flag))
            .fold(0, |all, (event, _)| all | event))
    }
}

/// The name of the terminal at the other side.
fn name(master: &OwnedFd) -> io::Result<String> {
    let name = rustix::pty::ptsname(master, Vec::new())?;
    name.into_string().map_err(|_| Errno::ILSEQ.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_another_process_begins_a_new_pair_with_the_same_speed() {
        let mut line = Line::new().unwrap();
        line.set_speed(9600).unwrap();
        line.write(b"xyz").unwrap();
        let mut carried = Line::parse(&line.export()).unwrap();
        carried.process += 1;
        let next = Line::resume(&carried, |_, _| unreachable!("nothing is taken over")).unwrap();
        assert_ne!(next.terminal(), line.terminal());
        assert_eq!((next.speed(), next.written), (9600, 3));
    }

    #[test]
    fn numbers_that_mean_something_else_are_not_taken() {
        let (one, other) = (Line::new().unwrap(), Line::new().unwrap());
        let carried = Line::parse(&one.export()).unwrap();
        let copies = || (other.master.try_clone().unwrap(), other.keeper.try_clone().unwrap());
        let error = Line::resume(&carried, |_, _| copies()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::PROTO.raw_os_error()));
    }

    #[test]
    fn a_state_that_is_none_of_ours_is_refused() {
        let bytes = Line::new().unwrap().export();
        for cut in 0..bytes.len() {
            assert_eq!(Line::parse(&bytes[..cut]), None, "{cut}");
        }
        let mut state = State::parse(&bytes).unwrap();
        state.layout += 1;
        assert_eq!(Line::parse(&state.encode().unwrap()), None);
    }

    #[test]
    fn speeds_have_limits() {
        let mut line = Line::new().unwrap();
        assert!(line.set_speed(0).is_err() && line.set_speed(u32::MAX).is_err());
        assert_eq!(line.speed(), SPEED);
    }

    #[test]
    fn what_is_not_there_is_not_waited_for() {
        let mut line = Line::new().unwrap();
        let error = line.read(&mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(line.ready(events::IN | events::OUT).unwrap(), events::OUT);
    }
}
