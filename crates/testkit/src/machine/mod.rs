//! A virtual machine that boots a built image, as a test drives it: its console, a shell in it, QEMU's monitor, ports of the guest.
//!
//! ```text
//!   test --- run(), until() ----> lab      a shell in the guest, on its second serial line
//!        --- until_console() ---> console  what the loader, the kernel and PID 1 print
//!        --- until_event() -----> monitor  QEMU: resets, power, keys
//!        --- port() ------------> a port of this machine that leads to the guest's
//! ```
//!
//! Software emulation on a busy machine takes its time, so nothing is measured by these limits; they end what hangs.

mod image;
mod lab;
mod line;
mod monitor;
mod setup;

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

pub use self::{
    image::{Image, Partition},
    setup::Setup,
};
use self::{
    lab::{Lab, NoAnswer},
    line::{Line, Silence, listen},
    monitor::Monitor,
};
use crate::within;

/// How long anything may take in a machine: a boot is 5 to 10 seconds of processor time, on a processor that others use too.
pub const LIMIT: Duration = Duration::from_secs(180);
/// The lines between a machine and its test, by the names of their sockets.
const LINES: [&str; 3] = ["console", "lab", "monitor"];
/// So much of the console is shown where a test fails.
const TAIL_LINES: usize = 80;

/// A machine that was switched on. Dropping it pulls the plug.
pub struct Machine {
    // Before the folder, so that QEMU is gone when the folder goes.
    qemu: Child,
    console: Line,
    lab: Lab,
    monitor: Monitor,
    /// Up to here a test has read the console.
    read: Cell<usize>,
    folder: TempDir,
}

impl Machine {
    fn start(setup: &Setup<'_>, folder: TempDir) -> Self {
        let listeners = LINES.map(|name| listen(&folder.path().join(name)));
        let said =
            fs::File::create(folder.path().join("qemu")).expect("the scratch folder is ours");
        let mut qemu = setup
            .command(folder.path())
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("descriptors are left"))
            .stderr(said)
            .spawn()
            .expect("QEMU is installed: qemu-system-x86");
        let lines = listeners.map(|listener| Line::accept(&listener, &mut qemu));
        let said = fs::read_to_string(folder.path().join("qemu")).unwrap_or_default();
        let [console, lab, monitor] =
            lines.map(|line| line.unwrap_or_else(|error| panic!("{error}: {said}")));
        Self {
            qemu,
            console,
            lab: Lab::new(lab),
            monitor: Monitor::new(monitor),
            read: Cell::new(0),
            folder,
        }
    }

    /// Waits until the shell in the guest begins (again), and returns the boot's identity.
    #[track_caller]
    pub fn until_lab(&self) -> String {
        let ready = self.lab.until_ready(LIMIT);
        ready.unwrap_or_else(|silence| self.fail("the shell in the guest begins", &silence))
    }

    /// Waits for another boot than this one; returns its identity.
    #[track_caller]
    pub fn until_other_boot(&self, boot: &str) -> String {
        loop {
            let now = self.until_lab();
            if now != boot {
                return now;
            }
        }
    }

    /// Exit code and output (both streams) of a shell command in the guest.
    ///
    /// # Panics
    /// Where there is no answer, because the shell in the guest or the machine has ended meanwhile.
    #[track_caller]
    pub fn run(&self, command: &str) -> (i32, String) {
        match self.lab.run(command, LIMIT) {
            Ok(answer) => answer,
            Err(why) => self.fail(&format!("the answer to {command:?}"), &why),
        }
    }

    /// The output of a shell command in the guest, which must succeed.
    #[track_caller]
    pub fn ok(&self, command: &str) -> String {
        let (code, text) = self.run(command);
        assert_eq!(code, 0, "{command}: {text}");
        text
    }

    /// As [`Machine::ok`], for a command that prints JSON.
    #[track_caller]
    pub fn json(&self, command: &str) -> Value {
        let text = self.ok(command);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"))
    }

    /// Waits until a shell command in the guest succeeds, and returns its output. The shell may be killed meanwhile, and the machine may boot.
    #[track_caller]
    pub fn until(&self, command: &str) -> String {
        // The guest looks again by itself: cheaper than to ask it each time.
        let patient = format!(
            "n=0; until ( {command}\n ) > /tmp/lab.until 2>&1; do \
             n=$((n+1)); [ $n -lt 20 ] || {{ cat /tmp/lab.until; exit 1; }}; usleep 250000; done; cat /tmp/lab.until"
        );
        let mut last = None;
        let seen = within(LIMIT, || match self.lab.run(&patient, LIMIT) {
            Ok((0, text)) => Some(text),
            Ok(failed) => {
                last = Some(failed);
                None
            }
            Err(NoAnswer::Restarted) => None,
            Err(why) => self.fail(&format!("the answer to {command:?}"), &why),
        });
        seen.unwrap_or_else(|| panic!("waited {LIMIT:?} for {command:?}, last: {last:?}"))
    }

    /// Sends a shell command to the guest that won't be answered, because the machine ends by it.
    pub fn send(&self, command: &str) {
        self.lab.send(command);
    }

    /// Waits until the console shows this text, after whatever was waited for before.
    #[track_caller]
    pub fn until_console(&self, text: &str) {
        let from = self.read.get();
        let found = self.console.until(from, LIMIT, |said| Some(said.find(text)? + text.len()));
        match found {
            Ok(length) => self.read.set(from + length),
            Err(silence) => self.fail(&format!("{text:?} on the console"), &silence),
        }
    }

    /// Everything that the console has shown.
    #[must_use]
    pub fn console(&self) -> String {
        self.console.text(0)
    }

    /// Types on the console.
    pub fn type_in(&self, text: &str) {
        self.console.say(text);
    }

    /// Gives QEMU a command: `system_reset`, `system_powerdown`, `quit`, `stop`, `cont`.
    #[track_caller]
    pub fn order(&self, command: &str) {
        self.monitor.execute(command, &json!({}));
    }

    /// Gives QEMU a command with arguments; returns its answer.
    #[track_caller]
    pub fn execute(&self, command: &str, arguments: &Value) -> Value {
        self.monitor.execute(command, arguments)
    }

    /// Waits for an event of QEMU's: `SHUTDOWN`, `RESET`, `WATCHDOG`.
    #[track_caller]
    pub fn until_event(&self, name: &str) -> Value {
        self.monitor.until_event(name)
    }

    /// Presses control, alt and delete.
    #[track_caller]
    pub fn ctrl_alt_del(&self) {
        let keys = ["ctrl", "alt", "delete"].map(|key| json!({ "type": "qcode", "data": key }));
        self.monitor.execute("send-key", &json!({ "keys": keys }));
    }

    /// The port of this machine that leads to the guest's.
    ///
    /// # Panics
    /// Where it wasn't asked for by [`Setup::forward`].
    #[track_caller]
    #[must_use]
    pub fn port(&self, protocol: &str, guest: u16) -> u16 {
        let ask = json!({ "command-line": "info usernet" });
        let told = self.monitor.execute("human-monitor-command", &ask);
        let table = told.as_str().expect("this command returns text");
        forwarded(table, protocol, guest)
            .unwrap_or_else(|| panic!("{protocol} port {guest} is not forwarded: {table}"))
    }

    /// Waits until QEMU ends, and returns why it did, as its event says (`guest-shutdown`, `guest-reset`, `guest-panic`).
    #[track_caller]
    pub fn until_off(&mut self) -> String {
        let why = self.monitor.until_event("SHUTDOWN");
        self.wait();
        why["data"]["reason"].as_str().unwrap_or_default().to_owned()
    }

    fn wait(&mut self) -> ExitStatus {
        let ended = within(LIMIT, || self.qemu.try_wait().expect("it is our child"));
        ended.unwrap_or_else(|| self.fail("QEMU's end", &Silence::Late))
    }

    /// Pulls the plug. What the guest has written is on the disk, whether it asked for that or not.
    pub fn pull_the_plug(&mut self) {
        // It may be off already.
        let _ = self.qemu.kill();
        self.qemu.wait().expect("it is our child");
    }

    /// Its disk: to be read when it is off.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    /// The scratch folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    #[track_caller]
    fn fail(&self, what: &str, why: &impl std::fmt::Debug) -> ! {
        panic!("waited for {what}: {why:?}")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if std::thread::panicking() {
            eprintln!("--- console:\n{}", tail(&self.console.text(0)));
            eprintln!("--- lab:\n{}", tail(&self.lab.text()));
            eprintln!("--- monitor:\n{}", tail(&self.monitor.text()));
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// The host's port in QEMU's table of connections.
fn forwarded(table: &str, protocol: &str, guest: u16) -> Option<u16> {
    let head = format!("{}[HOST_FORWARD]", protocol.to_ascii_uppercase());
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip_while(|field| *field != head);
        // Descriptor and source address, then the port here; destination address, then the port there.
        let here = fields.nth(3)?.parse().ok()?;
        let there: u16 = fields.nth(1)?.parse().ok()?;
        (there == guest).then_some(here)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_here_is_found_by_protocol_and_port_there() {
        let table = "Hub -1 (net):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
            TCP[HOST_FORWARD]  13       127.0.0.1 41235       10.0.2.15  7421     0     0\r\n  \
            UDP[HOST_FORWARD]  14       127.0.0.1 50001       10.0.2.15  7421     0     0\r\n";
        assert_eq!(forwarded(table, "tcp", 7421), Some(41235));
        assert_eq!(forwarded(table, "udp", 7421), Some(50001));
        assert_eq!(forwarded(table, "tcp", 80), None);
    }
}
