//! The state that a re-executed keeper goes on from, in a sealed memfd: written by the old image, checked and read by the
//! new one. Knows the layout only; what is done with it is [`crate::reexec`]'s.
//!
//! Blocks of 256 bytes: the head, one for each slot, one for each deposit, one for the hardware watchdog if it is open; then
//! a CRC-32 of them all. Slots, dispositions, names and the watchdog's settings are in it as the channel's own messages. Numbers are little-endian; descriptors are the numbers that they
//! keep over exec, -1 where there is none; a moment is 0 where there is none.

use std::{
    io,
    os::fd::{OwnedFd, RawFd},
};

use protocol::{
    keeper::{MESSAGE_SIZE, Outcome, Report, Request, ShutdownKind, Stage},
    time::Moment,
};
use rustix::{
    fs::{MemfdFlags, SealFlags},
    process::Rlimit,
};

use crate::{
    block::{BLOCK, Block, Fields, crc},
    channel::{Channel, Handover},
    deposits::Deposits,
    keeper::Keeper,
    pid1::Feeding,
    slot::{After, Slot},
    stop::Stop,
    supervisor::Life,
    sys,
    table::Table,
};

const MAGIC: u64 = u64::from_le_bytes(*b"VESKEEP2");
/// With a block for the watchdog: who doesn't know that must not go on, for nobody would feed it.
const MAGIC_WATCHDOG: u64 = u64::from_le_bytes(*b"VESKEEP3");

/// What the state says; the descriptors are ours once this is made.
pub(crate) struct Resumed {
    pub(crate) lock: Option<OwnedFd>,
    pub(crate) channel: Option<Channel>,
    pub(crate) life: Life,
    pub(crate) limit: Rlimit,
    pub(crate) stop: Stop,
    pub(crate) slots: Table,
    pub(crate) deposits: Deposits,
    /// The log ring's memory.
    pub(crate) ring: Option<OwnedFd>,
    /// The hardware watchdog, if it is open.
    pub(crate) feeding: Option<Feeding>,
    /// Since when no supervisor has been there.
    pub(crate) away_since: Option<Moment>,
    /// How often the program was started, this time included.
    pub(crate) starts: u32,
}

fn shutdown_kind(number: u32) -> Option<ShutdownKind> {
    use ShutdownKind::{Exit, Halt, Poweroff, Reboot};
    [Exit, Reboot, Poweroff, Halt].get(number as usize).copied()
}

impl Keeper {
    /// Everything that a successor needs, in a sealed memfd.
    pub(crate) fn write_state(&self) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let state = rustix::fs::memfd_create(c"keeper-state", flags)?;
        let mut sum = !0;
        let mut write = |block: &Block| -> io::Result<()> {
            sum = crc(sum, &block.bytes);
            match rustix::io::write(&state, &block.bytes)? {
                BLOCK => Ok(()),
                _ => Err(io::ErrorKind::WriteZero.into()),
            }
        };
        write(&self.head())?;
        for slot in self.slots.iter() {
            write(&slot_block(slot))?;
        }
        for (name, fd) in self.deposits.iter() {
            let mut block = Block::new();
            block.put(&Request::Deposit { name: *name }.encode(0)).fd(Some(fd));
            write(&block)?;
        }
        if let Some(feeding) = &self.feeding {
            write(&watchdog_block(feeding))?;
        }
        rustix::io::write(&state, &sum.to_le_bytes())?;
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
        rustix::fs::fcntl_add_seals(&state, seals)?;
        Ok(state)
    }

    fn head(&self) -> Block {
        let mut block = Block::new();
        let count = |count: usize| u32::try_from(count).expect("both tables are bounded");
        block.number(if self.feeding.is_some() { MAGIC_WATCHDOG } else { MAGIC });
        block.small(count(self.slots.iter().count())).small(count(self.deposits.iter().count()));
        block.fd(Some(&self.reexec.lock)).fd(Some(&self.drain.memfd));
        block.moment(self.drain.away_since).small(self.reexec.starts);
        let life = &self.life;
        block.small(life.pid.cast_unsigned()).small(life.starts).small(life.failures);
        block.small(life.ever_ready.into()).moment(life.start_at).moment(life.kill_at);
        block.number(self.limit.current.unwrap_or(u64::MAX));
        block.number(self.limit.maximum.unwrap_or(u64::MAX));
        let (asked, kind, deadline) = match self.stop {
            Stop::Asked { kind, told, deadline } => (1 + u32::from(told), kind, Some(deadline)),
            _ => (0, ShutdownKind::Exit, None),
        };
        block.small(asked).small(kind as u32).moment(deadline);
        block.fd(self.channel.as_ref().map(|channel| &channel.socket));
        if let Some(channel) = &self.channel {
            let (step, value) = match channel.handover {
                Handover::Welcome => (0, 0),
                Handover::Slots { next } => (1, next),
                Handover::Deposits { next } => (2, next),
                Handover::Sent { end } => (3, end),
                Handover::Acknowledged => (4, 0),
                Handover::Ring => (5, 0),
            };
            block.small(channel.sent).small(channel.seen).moment(channel.waiting_since);
            block.small(step).small(value);
            // The answer to the request that led here.
            let answer = channel.answer.map_or(0, |(request, _)| request);
            block.small(channel.answer.is_some().into()).small(answer);
        }
        block
    }
}

fn slot_block(slot: &Slot) -> Block {
    let mut block = Block::new();
    block.put(&Report::Slot(slot.state).encode(0));
    let dispose = Request::Dispose { slot: slot.state.slot, disposition: slot.disposition };
    // Of a Dispose only the first bytes are used; the rest is zeros.
    block.put(&dispose.encode(0)[..DISPOSE_SIZE]);
    let (after, at) = match slot.after {
        After::Rest => (0, None),
        After::Respawn { at } => (1, Some(at)),
        After::Retry => (2, None),
    };
    block.small(slot.changed.into()).small(after).moment(at).moment(slot.due);
    block.moment(Some(slot.emptying_since)).small(slot.lock_tries.into());
    block.small(slot.session.cast_unsigned()).small(slot.oom_kills).small(slot.inherited.into());
    block.small(slot.enters_itself.into()).small(slot.has_executor.into());
    let (stage, errno) = slot.failure.map_or((u32::MAX, 0), |it| (it.0.number().into(), it.1));
    block.small(stage).small(errno.cast_unsigned());
    block.fd(slot.plan.as_ref()).fd(slot.cgroup.as_ref());
    block.fd(slot.pidfd.as_ref()).fd(slot.errors.as_ref());
    block
}

fn watchdog_block(feeding: &Feeding) -> Block {
    let mut block = Block::new();
    block.put(&Request::Watchdog(feeding.settings).encode(0));
    block.fd(Some(&feeding.device)).moment(Some(feeding.lease_ends));
    block
}

/// Head, slot number, two optional numbers and two bools.
const DISPOSE_SIZE: usize = 8 + 4 + 5 + 5 + 2;

/// Reads a state from its bytes. `own` says what becomes of descriptor numbers: a check owns none.
fn read(bytes: &[u8], own: fn(RawFd) -> Option<OwnedFd>) -> Option<Resumed> {
    let (blocks, sum) = bytes.split_last_chunk::<4>()?;
    if crc(!0, blocks) != u32::from_le_bytes(*sum) || blocks.len() % BLOCK != 0 {
        return None;
    }
    let mut blocks = blocks.chunks_exact(BLOCK);
    let mut head = Fields(blocks.next()?);
    let has_watchdog = match head.number()? {
        MAGIC => false,
        MAGIC_WATCHDOG => true,
        _ => return None,
    };
    let (slot_count, deposit_count) = (head.small()? as usize, head.small()? as usize);
    if blocks.len() != slot_count + deposit_count + usize::from(has_watchdog) {
        return None;
    }
    let (lock, ring) = (own(head.fd()?), own(head.fd()?));
    let (away_since, starts) = (head.moment()?, head.small()?.saturating_add(1));
    let life = Life {
        pid: head.small()?.cast_signed(),
        starts: head.small()?,
        failures: head.small()?,
        ever_ready: head.small()? != 0,
        start_at: head.moment()?,
        kill_at: head.moment()?,
    };
    let mut unlimited = || Some(Some(head.number()?).filter(|limit| *limit != u64::MAX));
    let limit = Rlimit { current: unlimited()?, maximum: unlimited()? };
    let (asked, kind, deadline) = (head.small()?, head.small()?, head.moment()?);
    let stop = match deadline {
        Some(deadline) if asked > 0 => {
            Stop::Asked { kind: shutdown_kind(kind)?, told: asked > 1, deadline }
        }
        _ => Stop::No,
    };
    let socket = own(head.fd()?);
    let channel = read_channel(&mut head, socket)?;

    let mut slots = Table::new();
    let mut deposits = Deposits::new();
    for block in blocks.by_ref().take(slot_count) {
        read_slot(Fields(block), &mut slots, own)?;
    }
    for block in blocks.by_ref().take(deposit_count) {
        let mut fields = Fields(block);
        let (_, Request::Deposit { name }) = Request::decode(fields.take(MESSAGE_SIZE)?).ok()?
        else {
            return None;
        };
        if let Some(fd) = own(fields.fd()?) {
            deposits.put(name, fd);
        }
    }
    let feeding = match blocks.next() {
        Some(block) => read_watchdog(Fields(block), own)?,
        None => None,
    };
    Some(Resumed {
        lock,
        channel,
        life,
        limit,
        stop,
        slots,
        deposits,
        ring,
        feeding,
        away_since,
        starts,
    })
}

/// The image that wrote this may have fed it a while ago: it is due at once.
fn read_watchdog(
    mut fields: Fields<'_>,
    own: fn(RawFd) -> Option<OwnedFd>,
) -> Option<Option<Feeding>> {
    let (_, Request::Watchdog(settings)) = Request::decode(fields.take(MESSAGE_SIZE)?).ok()? else {
        return None;
    };
    let (device, lease_ends) = (own(fields.fd()?), fields.moment()?.unwrap_or_default());
    Some(device.map(|device| Feeding { device, settings, next: Moment(0), lease_ends }))
}

fn read_channel(head: &mut Fields<'_>, socket: Option<OwnedFd>) -> Option<Option<Channel>> {
    let (sent, seen, waiting_since) = (head.small()?, head.small()?, head.moment()?);
    let handover = match (head.small()?, head.small()?) {
        (0, _) => Handover::Welcome,
        (1, next) => Handover::Slots { next },
        (2, next) => Handover::Deposits { next },
        (3, end) => Handover::Sent { end },
        (4, _) => Handover::Acknowledged,
        (5, _) => Handover::Ring,
        _ => return None,
    };
    let (answered, request) = (head.small()?, head.small()?);
    let answer = (answered != 0).then_some((request, Outcome::Done));
    Some(socket.map(|socket| Channel { socket, sent, seen, waiting_since, handover, answer }))
}

fn read_slot(
    mut fields: Fields<'_>,
    slots: &mut Table,
    own: fn(RawFd) -> Option<OwnedFd>,
) -> Option<()> {
    let (_, Report::Slot(state)) = Report::decode(fields.take(MESSAGE_SIZE)?).ok()? else {
        return None;
    };
    let mut dispose = [0; MESSAGE_SIZE];
    dispose[..DISPOSE_SIZE].copy_from_slice(fields.take(DISPOSE_SIZE)?);
    let (_, Request::Dispose { disposition, .. }) = Request::decode(&dispose).ok()? else {
        return None;
    };
    let slot = slots.place(state.slot)?;
    slot.state = state;
    slot.used = true;
    slot.disposition = disposition;
    slot.changed = fields.small()? != 0;
    slot.after = match (fields.small()?, fields.moment()?) {
        (0, _) => After::Rest,
        (1, at) => After::Respawn { at: at.unwrap_or_default() },
        (2, _) => After::Retry,
        _ => return None,
    };
    slot.due = fields.moment()?;
    slot.emptying_since = fields.moment()?.unwrap_or_default();
    slot.lock_tries = u8::try_from(fields.small()?).ok()?;
    slot.session = fields.small()?.cast_signed();
    slot.oom_kills = fields.small()?;
    slot.inherited = fields.small()? != 0;
    slot.enters_itself = fields.small()? != 0;
    slot.has_executor = fields.small()? != 0;
    let (stage, errno) = (fields.small()?, fields.small()?.cast_signed());
    slot.failure = u8::try_from(stage).ok().and_then(Stage::from_number).map(|it| (it, errno));
    slot.plan = own(fields.fd()?);
    slot.cgroup = own(fields.fd()?);
    slot.pidfd = own(fields.fd()?);
    slot.errors = own(fields.fd()?);
    Some(())
}

/// The whole state file. Allocates: called before the loop.
pub(crate) fn load(fd: RawFd, own: fn(RawFd) -> Option<OwnedFd>) -> Option<Resumed> {
    let file = sys::own(fd)?;
    let size = usize::try_from(rustix::fs::fstat(&file).ok()?.st_size).ok()?;
    let mut bytes = vec![0; size];
    let mut length = 0;
    while let Some(rest @ [_, ..]) = bytes.get_mut(length..) {
        match rustix::io::pread(&file, rest, length as u64) {
            Ok(0) | Err(_) => return None,
            Ok(more) => length += more,
        }
    }
    read(&bytes, own)
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd as _;

    use protocol::keeper::Watchdog;

    use super::*;
    use crate::start::tests::idle_keeper;

    const SETTINGS: Watchdog =
        Watchdog { run: true, magic_close: true, timeout_s: 30, frequency_s: 5, lease_s: 60 };

    #[test]
    fn a_damaged_state_is_not_gone_on_from() {
        let mut table = Table::new();
        let slot = table.place(5).unwrap();
        slot.used = true;
        slot.begin(Moment(7), true);
        slot.started(99, false);
        slot.disposition.armed_after_ms = Some(3);
        slot.after = After::Respawn { at: Moment(11) };
        let mut head = Block::new();
        head.number(MAGIC).small(1).small(0);
        let mut bytes = [head.bytes, slot_block(slot).bytes].concat();
        bytes.extend(crc(!0, &bytes).to_le_bytes());

        let mut resumed = read(&bytes, |_| None).unwrap();
        let again = resumed.slots.used(5).unwrap();
        assert_eq!((again.state, again.disposition), (slot.state, slot.disposition));
        assert_eq!((again.after, again.session), (slot.after, 99));
        for at in [0, 9, 300, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(read(&damaged, |_| None).is_none(), "byte {at}");
        }
        assert!(read(&bytes[..BLOCK], |_| None).is_none());
    }

    /// As the successor does, which has all the descriptors already; here they are opened a second time.
    fn read_again(state: OwnedFd) -> Option<Resumed> {
        let open_again = |fd: RawFd| {
            let path = format!("/proc/self/fd/{fd}");
            std::fs::File::options().write(true).open(path).ok().map(OwnedFd::from)
        };
        load(state.into_raw_fd(), open_again)
    }

    #[test]
    fn an_open_watchdog_goes_along_and_is_due_at_once() {
        let (folder, mut keeper) = idle_keeper("state-watchdog");
        let name = protocol::keeper::DepositName::new("web.80").unwrap();
        keeper.deposits.put(name, tempfile::tempfile().unwrap().into());
        keeper.slots.place(3).unwrap().used = true;
        let without = keeper.write_state().unwrap();
        let mut magic = [0; 8];
        rustix::io::pread(&without, &mut magic, 0).unwrap();
        assert_eq!(u64::from_le_bytes(magic), MAGIC, "as the version before it wrote it");
        let resumed = read_again(without).unwrap();
        assert!(resumed.feeding.is_none());
        assert_eq!((resumed.slots.iter().count(), resumed.deposits.iter().count()), (1, 1));

        let device: OwnedFd = std::fs::File::create(folder.join("watchdog")).unwrap().into();
        let (settings, next, lease_ends) = (SETTINGS, Moment(40), Moment(60_000_000_000));
        keeper.feeding = Some(Feeding { device, settings, next, lease_ends });
        let with = keeper.write_state().unwrap();
        rustix::io::pread(&with, &mut magic, 0).unwrap();
        assert_ne!(u64::from_le_bytes(magic), MAGIC, "a version that forgets it must refuse");
        let resumed = read_again(with).unwrap();
        assert_eq!((resumed.slots.iter().count(), resumed.deposits.iter().count()), (1, 1));
        let mut feeding = resumed.feeding.unwrap();
        assert_eq!((feeding.settings, feeding.lease_ends), (settings, lease_ends));
        feeding.feed(Moment(7));
        assert_eq!(std::fs::read(folder.join("watchdog")).unwrap(), [0], "the same device");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_state_with_more_or_fewer_blocks_than_it_says_is_refused() {
        let state = |magic: u64, blocks: usize| {
            let mut head = Block::new();
            head.number(magic).small(0).small(0);
            let mut bytes = head.bytes.to_vec();
            let watchdog = Request::Watchdog(SETTINGS).encode(0);
            for _ in 0..blocks {
                let mut block = Block::new();
                block.put(&watchdog).fd(None).moment(None);
                bytes.extend(block.bytes);
            }
            bytes.extend(crc(!0, &bytes).to_le_bytes());
            read(&bytes, |_| None).is_some()
        };
        assert!(state(MAGIC, 0) && state(MAGIC_WATCHDOG, 1));
        assert!(!state(MAGIC, 1) && !state(MAGIC_WATCHDOG, 0) && !state(MAGIC_WATCHDOG, 2));
        assert!(!state(MAGIC + 1, 0));
    }
}
