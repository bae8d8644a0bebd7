//! How each step is done, and what must be so right after it.

use std::{process::Child, time::Duration};

use anyhow::{Context as _, bail, ensure};

use crate::{
    guest,
    host::VERSIONS,
    plan::{Step, Target},
    soak::Soak,
};

/// Bytes of comments after which the file is begun anew.
const COMMENTS_MAX: &str = "4096";
/// How long QEMU's clock may go between two looks at a push that runs.
const PUSH_LIMIT: Duration = Duration::from_secs(180);

impl Soak<'_> {
    /// Does it; `false` where there was nothing to be done, or it had been too much of it.
    pub(crate) fn perform(&mut self, step: Step) -> anyhow::Result<bool> {
        match step {
            Step::Kill(target) => return self.kill(target),
            Step::KillShell => self.kill_shell(),
            Step::Freeze(target, milliseconds) => return self.freeze(target, milliseconds),
            Step::Edit(port) => self.edit(port)?,
            Step::Comment(number) => self.comment(number)?,
            Step::Invalid(text, port) => self.invalid(text, port)?,
            Step::Push => self.push()?,
            Step::PushKilled(target, milliseconds) => {
                return self.push_killed(target, milliseconds);
            }
            Step::Rollback => return self.roll_back(),
            Step::Reboot => self.reboot()?,
            Step::Jump(seconds) => self.jump(seconds)?,
            Step::Hog => self.hog()?,
            Step::FillMemory(target) => self.fill_memory(target)?,
            Step::FillDisk(target, port) => self.fill_disk(target, port)?,
        }
        Ok(true)
    }

    fn kill(&mut self, target: Target) -> anyhow::Result<bool> {
        let Some(pid) = self.victim(target)? else { return Ok(false) };
        // It may be gone by then: a shell's child that lives as long as a command.
        self.machine.run(&format!("kill -9 {pid}"));
        self.settle(Some(pid))?;
        Ok(true)
    }

    /// Whom to kill; none where it does not run, or where once more would be a reboot.
    fn victim(&mut self, target: Target) -> anyhow::Result<Option<u64>> {
        let view = self.view()?;
        let pid = view.pid(target);
        Ok(pid.filter(|_| self.allowed(target)))
    }

    fn kill_shell(&mut self) {
        self.expect_restart("lab");
        // The command's shell is a child of the one that we talk with.
        self.machine.send("kill -9 $PPID");
        self.machine.until_lab();
    }

    fn freeze(&mut self, target: Target, milliseconds: u64) -> anyhow::Result<bool> {
        let Some(pid) = self.view()?.pid(target) else { return Ok(false) };
        let pause = milliseconds * 1000;
        self.machine.run(&format!("kill -STOP {pid}; usleep {pause}; kill -CONT {pid}"));
        Ok(true)
    }

    /// Waits until the service was started with this port.
    fn until_seen(&self, port: u16) -> anyhow::Result<()> {
        let (code, seen) = self.machine.run(&format!(
            "n=0; until [ \"$(cat /run/soak.seen)\" = {port} ]; do n=$((n+1)); \
             [ $n -lt 300 ] || {{ cat /run/soak.seen; exit 1; }}; usleep 100000; done"
        ));
        ensure!(code == 0, "the service was not reloaded with {port}: it has {seen}");
        Ok(())
    }

    fn edit(&mut self, port: u16) -> anyhow::Result<()> {
        self.expect_restart("soak");
        self.machine.ok(&format!("uci set soak.main.port={port} && uci commit soak"));
        self.until_seen(port)?;
        self.port = port;
        self.settle(None)
    }

    fn comment(&mut self, number: u64) -> anyhow::Result<()> {
        let before = self.view()?.main("soak");
        self.machine.ok(&format!(
            "cd /etc/config; [ $(wc -c < soak) -lt {COMMENTS_MAX} ] || \
             {{ grep -v '^#' soak > /tmp/soak && cat /tmp/soak > soak; }}; \
             echo '# {number}' >> soak; vestalctl config reload"
        ));
        self.settle(None)?;
        ensure!(self.view()?.main("soak") == before, "a comment has restarted the service");
        Ok(())
    }

    fn invalid(&mut self, text: &str, port: u16) -> anyhow::Result<()> {
        let before = self.view()?.main("soak");
        self.machine.ok(&format!(
            "uci set soak.main.port='{text}' && uci commit soak; vestalctl config reload"
        ));
        self.settle(None)?;
        ensure!(self.view()?.main("soak") == before, "{text:?} has restarted the service");
        self.edit(port)
    }

    /// The version that is not in use.
    fn other(&self) -> &'static str {
        let [one, two] = VERSIONS;
        if self.version.as_deref() == Some(one) { two } else { one }
    }

    fn push(&mut self) -> anyhow::Result<()> {
        let version = self.other();
        self.expect_restart("application");
        self.host.push(version)?;
        self.version = Some(version.to_owned());
        self.settle(None)?;
        self.check_version()
    }

    fn push_killed(&mut self, target: Target, milliseconds: u64) -> anyhow::Result<bool> {
        let Some(_) = self.victim(target)? else { return Ok(false) };
        let version = self.other();
        // Once forward, once back where it is not taken, and anew if it was killed itself.
        (0..3).for_each(|_| self.expect_restart("application"));
        let child = self.host.begin_push(version)?;
        self.machine.ok(&format!("usleep {}", milliseconds * 1000));
        // It may be another one meanwhile, or none for a moment.
        if let Some(pid) = guest::look(&self.machine)?.and_then(|view| view.pid(target)) {
            self.machine.run(&format!("kill -9 {pid}"));
        }
        let said = ended(child)?;
        self.settle(None)?;
        self.until_idle()?;
        let now = self.active_version()?;
        if now != self.version && now.as_deref() != Some(version) {
            bail!("{now:?} is active, neither {:?} nor {version}: {said}", self.version);
        }
        self.version = now;
        self.settle(None)?;
        self.check_version()?;
        Ok(true)
    }

    fn roll_back(&mut self) -> anyhow::Result<bool> {
        // Only then the other slot holds something that ran before.
        if self.version.is_none() {
            return Ok(false);
        }
        self.expect_restart("application");
        if let Err(error) = self.host.roll_back() {
            // An upgrade that was cut has taken the other slot, or this was a way back already.
            let text = error.to_string();
            ensure!(text.contains("nothing") || text.contains("not known any more"), "{text}");
            return Ok(false);
        }
        self.until_idle()?;
        self.settle(None)?;
        let now = self.active_version()?;
        ensure!(now != self.version, "{now:?} is still active after a rollback");
        self.version = now;
        self.check_version()?;
        Ok(true)
    }

    fn reboot(&mut self) -> anyhow::Result<()> {
        let boot = self.machine.ok("cat /proc/sys/kernel/random/boot_id");
        self.machine.send("vestalctl system reboot --reason soak");
        self.machine.until_other_boot(&boot);
        self.forget_restarts();
        self.settle(None)?;
        self.check_version()
    }

    fn jump(&mut self, seconds: i64) -> anyhow::Result<()> {
        // Not before the day of the image, and not into another century.
        self.machine.ok(&format!(
            "t=$(($(date +%s) + {seconds})); [ $t -gt 1700000000 ] || t=1700000000; \
             [ $t -lt 2100000000 ] || t=2100000000; date -s @$t"
        ));
        self.settle(None)
    }

    fn hog(&mut self) -> anyhow::Result<()> {
        self.machine.ok("vestalctl service start --no-wait hungry");
        let (code, text) = self.machine.run(
            "n=0; until vestalctl --json service list hungry | grep -q oom; do n=$((n+1)); \
             [ $n -lt 100 ] || exit 1; usleep 100000; done",
        );
        ensure!(code == 0, "the service that wants too much memory was not killed for it: {text}");
        self.machine.ok("vestalctl service stop hungry");
        self.settle(None)
    }

    fn fill_memory(&mut self, target: Target) -> anyhow::Result<()> {
        self.machine.ok("dd if=/dev/zero of=/dev/shm/soak bs=64k \
             count=$(df -k /dev/shm | awk 'NR == 2 { print int($2 * 0.8 / 64) }') 2>/dev/null");
        self.kill(target)?;
        self.machine.ok("rm /dev/shm/soak");
        self.settle(None)
    }

    fn fill_disk(&mut self, target: Target, port: u16) -> anyhow::Result<()> {
        self.machine.run(
            "dd if=/dev/zero of=/data/soak bs=64k; dd if=/dev/zero of=/data/soak-2 bs=512; sync",
        );
        self.expect_restart("soak");
        // Refused or done, but whole.
        self.machine.run(&format!("uci set soak.main.port={port} && uci commit soak"));
        self.kill(target)?;
        let now = self.machine.ok("rm /data/soak /data/soak-2; uci get soak.main.port");
        let allowed = [self.port.to_string(), port.to_string()];
        ensure!(
            allowed.contains(&now),
            "the port is {now} after the disk was full, not one of {allowed:?}"
        );
        self.settle(None)?;
        self.edit(port ^ 1)
    }
}

/// What a push said, which may fail.
fn ended(child: Child) -> anyhow::Result<String> {
    let mut child = child;
    let status = testkit::within(PUSH_LIMIT, || child.try_wait().transpose())
        .context("a push takes longer than its own limit")??;
    let output = child.wait_with_output()?;
    Ok(format!("{status}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
