//! What the supervisor is told: the hand-over after each of its starts, then every slot that changed.
//!
//! Nothing is queued: what doesn't fit stays marked as changed, and is made again when the channel is writable.

use std::os::fd::AsFd as _;

use protocol::{
    keeper::{Report, VERSION},
    time::Moment,
};
use rustix::event::epoll::EventFlags;

use crate::{
    channel::{Channel, Handover},
    keeper::{Keeper, Token},
    stop::Stop,
};

impl Keeper {
    /// Sends what is to be sent, as far as it fits.
    pub(crate) fn talk(&mut self, now: Moment) {
        let Some(mut channel) = self.channel.take() else { return };
        let fits = self.talk_over(&mut channel, now);
        if self.wants_out == fits {
            self.wants_out = !fits;
            // With an answer unsent nothing more is read: the supervisor is the one to make room.
            let flags = if fits { EventFlags::IN } else { EventFlags::OUT };
            self.rewatch(channel.as_fd(), Token::Channel { start: self.life.starts }, flags);
        }
        self.channel = Some(channel);
    }

    /// `false`: the channel is full.
    fn talk_over(&mut self, channel: &mut Channel, now: Moment) -> bool {
        // What is told of a slot comes before the answer to a request about it; during the hand-over it is part of that.
        let handed_over = |channel: &Channel| {
            matches!(channel.handover, Handover::Sent { .. } | Handover::Acknowledged)
        };
        if handed_over(channel) && !self.tell_changes(channel, now) {
            return false;
        }
        if let Some((request, outcome)) = channel.answer {
            if !channel.send(&Report::Ack { request, outcome }, None, now) {
                return false;
            }
            channel.answer = None;
        }
        while !handed_over(channel) {
            // The ring is for a supervisor that answers: until it has taken what came before, the draining goes on.
            let ring = channel.handover == Handover::Ring;
            if !channel.has_room_for_handover() || (ring && channel.unseen() > 0) {
                return true;
            }
            if !self.hand_over_one(channel, now) {
                return false;
            }
        }
        if !self.tell_changes(channel, now) {
            return false;
        }
        if let Stop::Asked { kind, told: told @ false, .. } = &mut self.stop {
            *told = channel.send(&Report::ShutdownWanted { kind: *kind }, None, now);
            return *told;
        }
        true
    }

    fn tell_changes(&mut self, channel: &mut Channel, now: Moment) -> bool {
        while let Some(slot) = self.slots.take_changed() {
            if !channel.send(&Report::Slot(slot.state), None, now) {
                slot.changed = true;
                return false;
            }
        }
        true
    }

    fn hand_over_one(&mut self, channel: &mut Channel, now: Moment) -> bool {
        match channel.handover {
            Handover::Welcome => {
                let welcome = Report::Welcome {
                    version: VERSION,
                    keeper_pid: std::process::id().cast_signed(),
                    pid_one: self.pid_one.is_some(),
                    supervisor_starts: self.life.starts,
                };
                let sent = channel.send(&welcome, None, now);
                if sent {
                    channel.handover = Handover::Slots { next: 0 };
                }
                sent
            }
            Handover::Slots { next } => {
                let Some(slot) = self.slots.next_used(next) else {
                    channel.handover = Handover::Ring;
                    return true;
                };
                let sent = channel.send(&Report::Slot(slot.state), None, now);
                if sent {
                    slot.changed = false;
                    channel.handover = Handover::Slots { next: slot.state.slot + 1 };
                }
                sent
            }
            Handover::Ring => {
                let sent = !self.drain.has_something() || {
                    self.stop_draining(now);
                    channel.send(
                        &Report::Deposit { name: self.drain.name },
                        Some(self.drain.fd()),
                        now,
                    )
                };
                if sent {
                    channel.handover = Handover::Deposits { next: 0 };
                }
                sent
            }
            Handover::Deposits { next } => {
                let Some((at, name, fd)) = self.deposits.next(next as usize) else {
                    let sent = channel.send(&Report::HandoverEnd, None, now);
                    if sent {
                        channel.handover = Handover::Sent { end: channel.sent };
                    }
                    return sent;
                };
                let next = u32::try_from(at + 1).expect("at most DEPOSITS_MAX");
                let sent = channel.send(&Report::Deposit { name: *name }, Some(fd.as_fd()), now);
                if sent {
                    channel.handover = Handover::Deposits { next };
                }
                sent
            }
            Handover::Sent { .. } | Handover::Acknowledged => true,
        }
    }
}
