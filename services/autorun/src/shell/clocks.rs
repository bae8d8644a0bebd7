//! Hears when the machine's clock was set, which a wake-up does too. Costs nothing while nothing happens.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

use super::programs::watched;

/// So far away that it never comes.
const NEVER: i64 = i64::MAX / 2_000_000_000;

pub(super) struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    pub(super) fn open() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
        arm(&timer)?;
        Ok(Self(watched(timer, Interest::READABLE)?))
    }

    /// Returns when it was set.
    pub(super) async fn changed(&self) {
        loop {
            let Ok(mut ready) = self.0.readable().await else {
                // Wake-ups are then told by others only.
                return std::future::pending().await;
            };
            let mut count = [0; 8];
            let told = rustix::io::read(self.0.get_ref(), &mut count);
            ready.clear_ready();
            match told {
                Err(Errno::CANCELED) | Ok(_) => {
                    let _ = arm(self.0.get_ref());
                    return;
                }
                Err(_) => {}
            }
        }
    }
}

fn arm(timer: &OwnedFd) -> io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let never = Timespec { tv_sec: NEVER, tv_nsec: 0 };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &Itimerspec { it_interval: zero, it_value: never })?;
    Ok(())
}
