//! Who may change what a driver runs: root with CAP_SYS_ADMIN; without root the run directory's owner. Reads nothing itself.

/// `CAP_SYS_ADMIN` and `CAP_SYS_RESOURCE` of capabilities(7).
const SYS_ADMIN: u32 = 21;
const SYS_RESOURCE: u32 = 24;

/// What the kernel says of a caller.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Facts {
    /// When it connected.
    pub(crate) uid: u32,
    pub(crate) pid: i32,
    /// The manager's own.
    pub(crate) own_uid: u32,
    /// Of the run directory.
    pub(crate) owner: u32,
    /// What `/proc/PID/status` said while the process that connected was there; else why it can't be known.
    pub(crate) status: Result<Status, String>,
}

/// What counts of `/proc/PID/status`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Status {
    pub(crate) effective_uid: u32,
    pub(crate) effective_capabilities: u64,
}

impl Status {
    /// `None` where it is no such file.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let effective_uid = value("Uid:")?.split_whitespace().nth(1)?.parse().ok()?;
        let capabilities = value("CapEff:")?.trim();
        let effective_capabilities = u64::from_str_radix(capabilities, 16).ok()?;
        Some(Self { effective_uid, effective_capabilities })
    }
}

impl Status {
    /// Beyond the hard limits.
    pub(crate) fn may_raise_limits(&self) -> bool {
        self.effective_capabilities & (1 << SYS_RESOURCE) != 0
    }
}

impl Facts {
    /// # Errors
    /// Why it may not, with the cure.
    pub(crate) fn judge(&self) -> Result<(), String> {
        let Self { uid, pid, own_uid, owner, status } = self;
        if *own_uid != 0 {
            return match uid == owner {
                true => Ok(()),
                false => Err(format!(
                    "user {uid} (pid {pid}) is not user {owner}, who owns the run directory"
                )),
            };
        }
        if *uid != 0 {
            return Err(format!(
                "user {uid} (pid {pid}) is not root; only root changes a driver's code"
            ));
        }
        let status =
            status.as_ref().map_err(|why| format!("root (pid {pid}) is not believed: {why}"))?;
        if status.effective_uid != 0 {
            return Err(format!("pid {pid} is user {} by now and not root", status.effective_uid));
        }
        if status.effective_capabilities & (1 << SYS_ADMIN) == 0 {
            return Err(format!(
                "root (pid {pid}) has no CAP_SYS_ADMIN; call it from a process that was not confined"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str =
        "Name:\tvestalctl\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n";

    fn facts(uid: u32, own_uid: u32, status: &str) -> Facts {
        let status = Status::parse(status).ok_or_else(|| "it is gone".to_owned());
        Facts { uid, pid: 7, own_uid, owner: own_uid, status }
    }

    #[test]
    fn root_needs_the_capability_now_and_in_effect() {
        assert_eq!(facts(0, 0, STATUS).judge(), Ok(()));
        let confined = STATUS.replace("1ffffffffff", "1ffffdfffff");
        assert!(facts(0, 0, &confined).judge().unwrap_err().contains("CAP_SYS_ADMIN"));
        let dropped = STATUS.replace("Uid:\t0\t0", "Uid:\t0\t33");
        assert!(facts(0, 0, &dropped).judge().unwrap_err().contains("user 33 by now"));
    }

    #[test]
    fn whoever_is_not_root_or_not_there_any_more_is_refused() {
        assert!(facts(874, 0, STATUS).judge().unwrap_err().contains("user 874"));
        for damaged in ["", "Uid:\t0\t0\n", "Uid:\t0\t0\nCapEff:\tx\n", "CapEff:\t1ffffffffff\n"] {
            assert!(
                facts(0, 0, damaged).judge().unwrap_err().contains("not believed"),
                "{damaged}"
            );
        }
    }

    #[test]
    fn without_root_it_is_the_owner_of_the_run_directory_and_nobody_else_not_even_root() {
        assert_eq!(facts(1000, 1000, "").judge(), Ok(()));
        assert!(facts(1001, 1000, STATUS).judge().is_err());
        assert!(facts(0, 1000, STATUS).judge().is_err());
    }
}
