//! The full-screen view in a terminal of its own. What it shows is tested beside the code.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    process::{Child, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetattr, tcsetwinsize},
};

use crate::fake::{Fake, LIMIT, command};

/// The other side of the terminal.
struct Screen {
    file: File,
    /// The side the program has, kept to look at its modes.
    inner: File,
    seen: String,
    child: Child,
}

impl Screen {
    fn top(fake: &Fake) -> Self {
        let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&outer).unwrap();
        unlockpt(&outer).unwrap();
        let name = ptsname(&outer, Vec::new()).unwrap();
        let inner = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let size = Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&inner, size).unwrap();
        let end = || Stdio::from(inner.try_clone().unwrap());
        let mut command = command(fake.run_dir(), "vestalctl", &["top"]);
        command.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().unwrap();
        Self { file: File::from(outer), inner, seen: String::new(), child }
    }

    /// Reads until this is on the screen.
    fn until(&mut self, text: &str) {
        let mut piece = [0; 4096];
        let began = daemon::clock::now();
        while !self.seen.contains(text) {
            let left = LIMIT.saturating_sub(daemon::clock::now().since(began));
            let limit = Timespec::try_from(left).unwrap();
            let mut ready = [PollFd::new(&self.file, PollFlags::IN)];
            assert_eq!(poll(&mut ready, Some(&limit)).unwrap(), 1, "only this came: {}", self.seen);
            let got = self.file.read(&mut piece).unwrap();
            self.seen.push_str(&String::from_utf8_lossy(&piece[..got]));
        }
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.inner).unwrap().local_modes;
        !modes.contains(rustix::termios::LocalModes::ICANON)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Leaves the alternate screen.
const LEFT: &str = "\u{1b}[?1049l";

#[test]
fn the_view_shows_services_and_the_log_and_gives_the_terminal_back() {
    let fake = Fake::with_bus();
    let mut screen = Screen::top(&fake);
    screen.until("SERVICEv");
    screen.until("q quit");
    assert!(screen.is_raw());
    // The second service of the list is the one that the log speaks of.
    screen.file.write_all(b"j").unwrap();
    screen.until("one");
    screen.file.write_all(b"q").unwrap();
    screen.until(LEFT);
    assert!(screen.child.wait().unwrap().success());
    assert!(!screen.is_raw());
}

#[test]
fn a_signal_gives_the_terminal_back_too() {
    let fake = Fake::with_bus();
    let mut screen = Screen::top(&fake);
    screen.until("q quit");
    let pid = rustix::process::Pid::from_child(&screen.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    screen.until(LEFT);
    assert!(screen.child.wait().unwrap().success());
    assert!(!screen.is_raw());
}

#[test]
fn without_a_terminal_there_is_no_view() {
    Fake::start().ctl(&["top"]).fails(2, "top needs a terminal; `vestalctl status`");
}
