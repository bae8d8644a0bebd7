//! The least that answers a crash: one posix_spawn (which is a vfork) a child, a pidfd each, and nothing else. What any
//! supervisor needs beyond this is its own.

use std::{
    collections::BTreeMap,
    process::{Child, Command},
};

use rustix::{
    buffer::spare_capacity,
    event::epoll,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

/// Stands for the end of standard input, which is how the floor is asked to stop.
const STOP: u64 = u64::MAX;

/// Keeps `count` children alive until standard input ends, then stops them.
pub(crate) fn run(count: usize, program: &str) -> anyhow::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, std::io::stdin(), epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
    let mut children = BTreeMap::new();
    let spawn = |children: &mut BTreeMap<u64, _>, key| {
        let child = Command::new(program).spawn()?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        epoll::add(&epoll, &pidfd, epoll::EventData::new_u64(key), epoll::EventFlags::IN)?;
        children.insert(key, (child, pidfd));
        anyhow::Ok(())
    };
    for key in 0..count {
        spawn(&mut children, u64::try_from(key)?)?;
    }
    let mut events = Vec::with_capacity(64);
    loop {
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let key = event.data.u64();
            if key == STOP {
                return stop(children.into_values().map(|(child, _)| child).collect());
            }
            if let Some((mut child, _)) = children.remove(&key) {
                child.wait()?;
                spawn(&mut children, key)?;
            }
        }
    }
}

fn stop(mut children: Vec<Child>) -> anyhow::Result<()> {
    for child in &children {
        kill_process(Pid::from_child(child), Signal::TERM)?;
    }
    for child in &mut children {
        child.wait()?;
    }
    Ok(())
}
