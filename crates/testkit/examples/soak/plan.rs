//! What is done to the device, one step after the other: a pure function of the seed, so that a run can be repeated.

use std::fmt;

/// Whom a step hits. By name, for numbers differ from run to run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    Supervisor,
    /// The main process of a service.
    Service(&'static str),
    /// The part of the upgrade agent that writes the slots.
    Writer,
    /// What the application's script has started.
    Application,
}

/// Everything that runs, but PID 1.
const TARGETS: [Target; 12] = [
    Target::Supervisor,
    Target::Service("registry"),
    Target::Service("config"),
    Target::Service("heartbeat"),
    Target::Service("log"),
    Target::Service("upgrade"),
    Target::Writer,
    Target::Service("web"),
    Target::Service("vital"),
    Target::Service("soak"),
    Target::Service("application"),
    Target::Application,
];
/// Who has something to write when the disk is full.
const WRITERS: [Target; 4] = [
    Target::Supervisor,
    Target::Service("registry"),
    Target::Service("config"),
    Target::Service("log"),
];
const INVALID: [&str; 4] = ["none", "65536", "-1", "80 81"];

/// One thing that happens to the device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Kill(Target),
    /// The shell that we talk with, which is a service as well.
    KillShell,
    /// SIGSTOP, and SIGCONT so many milliseconds later.
    Freeze(Target, u64),
    Edit(u16),
    Comment(u64),
    /// A value that the rules of a service forbid, then one that they allow.
    Invalid(&'static str, u16),
    Push,
    /// An upgrade during which somebody is killed, so many milliseconds after its start.
    PushKilled(Target, u64),
    Rollback,
    Reboot,
    /// The clock is set so many seconds forward, or back.
    Jump(i64),
    Hog,
    FillMemory(Target),
    FillDisk(Target, u16),
}

impl Target {
    /// The service that is restarted for it.
    pub(crate) fn service(self) -> Option<&'static str> {
        match self {
            Self::Supervisor => None,
            Self::Service(name) => Some(name),
            Self::Writer => Some("upgrade"),
            Self::Application => Some("application"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Supervisor => "the supervisor",
            Self::Service(name) => name,
            Self::Writer => "the writer of upgrade",
            Self::Application => "the application's child",
        })
    }
}

impl Step {
    /// What the report counts it as.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Kill(_) | Self::KillShell => "kill",
            Self::Freeze(..) => "freeze",
            Self::Edit(_) => "edit",
            Self::Comment(_) => "comment",
            Self::Invalid(..) => "invalid value",
            Self::Push => "upgrade",
            Self::PushKilled(..) => "kill in upgrade",
            Self::Rollback => "rollback",
            Self::Reboot => "reboot",
            Self::Jump(_) => "time jump",
            Self::Hog => "memory hog",
            Self::FillMemory(_) => "memory full",
            Self::FillDisk(..) => "disk full",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(target) => write!(f, "kill {target}"),
            Self::KillShell => write!(f, "kill the shell that we talk with"),
            Self::Freeze(target, ms) => write!(f, "freeze {target} for {ms} ms"),
            Self::Edit(port) => write!(f, "set the port to {port}"),
            Self::Comment(number) => write!(f, "add comment {number}"),
            Self::Invalid(text, port) => write!(f, "set the port to {text:?}, then to {port}"),
            Self::Push => write!(f, "push an upgrade"),
            Self::PushKilled(target, ms) => {
                write!(f, "push an upgrade, kill {target} after {ms} ms")
            }
            Self::Rollback => write!(f, "roll back"),
            Self::Reboot => write!(f, "reboot"),
            Self::Jump(seconds) => write!(f, "set the clock by {seconds:+} s"),
            Self::Hog => write!(f, "let a service want more memory than it may have"),
            Self::FillMemory(target) => write!(f, "fill the memory, kill {target}"),
            Self::FillDisk(target, port) => {
                write!(f, "fill the disk, set the port to {port}, kill {target}")
            }
        }
    }
}

/// The steps of a seed (xorshift64*), without an end.
pub(crate) struct Plan(u64);

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero would stay zero; neighbours shall differ from the first step on.
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        // The low bits are the weak ones.
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % limit
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let index = self.below(all.len() as u64);
        all[usize::try_from(index).expect("it is below a length")]
    }

    fn target(&mut self) -> Target {
        self.one_of(&TARGETS)
    }

    fn port(&mut self) -> u16 {
        u16::try_from(1024 + self.below(60_000)).expect("it is below 61024")
    }

    fn jump(&mut self) -> i64 {
        // From a minute to forty days, either way.
        let seconds = i64::try_from(60 + self.below(40 * 86_400)).expect("days are few seconds");
        if self.below(2) == 0 { seconds } else { -seconds }
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        // Of a hundred; a reboot and an upgrade take long, and many steps shall find room in a minute.
        Some(match self.below(100) {
            0..40 => Step::Kill(self.target()),
            40..43 => Step::KillShell,
            43..55 => Step::Freeze(self.target(), 50 + self.below(1500)),
            55..67 => Step::Edit(self.port()),
            67..72 => Step::Comment(self.below(1 << 32)),
            72..76 => Step::Invalid(self.one_of(&INVALID), self.port()),
            76..80 => Step::Push,
            80..83 => Step::PushKilled(self.target(), self.below(3000)),
            83..85 => Step::Rollback,
            85..87 => Step::Reboot,
            87..92 => Step::Jump(self.jump()),
            92..95 => Step::Hog,
            95..97 => Step::FillMemory(self.target()),
            _ => Step::FillDisk(self.one_of(&WRITERS), self.port()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_is_always_the_same_steps_and_another_one_others() {
        let steps = |seed| Plan::new(seed).take(100).collect::<Vec<_>>();
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
        assert_ne!(steps(0), steps(1));
    }

    #[test]
    fn every_kind_of_step_and_every_target_comes_up() {
        let kinds: BTreeSet<&str> = Plan::new(1).take(2000).map(|step| step.kind()).collect();
        assert_eq!(kinds.len(), 13, "{kinds:?}");
        for target in TARGETS {
            assert!(Plan::new(1).take(2000).any(|step| step == Step::Kill(target)), "{target}");
        }
    }
}
