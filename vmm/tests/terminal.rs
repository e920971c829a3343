//! `kami run` on a terminal: raw while the guest runs, and as it was before whatever the end.

mod common;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use common::{Lab, finish, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};

/// A terminal, and everything that was shown on it.
struct Terminal {
    keyboard: File,
    side: File,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn new() -> Self {
        let main: OwnedFd =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&main).unwrap();
        unlockpt(&main).unwrap();
        let name = ptsname(&main, Vec::new()).unwrap();
        let side = OpenOptions::new()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let keyboard = File::from(main);
        let mut screen = keyboard.try_clone().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let writer = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Ends when the last descriptor of the other side does.
            while let Ok(len @ 1..) = screen.read(&mut buffer) {
                writer
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&buffer[..len]));
            }
        });
        Self {
            keyboard,
            side,
            shown,
        }
    }

    /// Starts the guest with this as its controlling terminal.
    fn run(&self, lab: &Lab, mode: &str, more: &[&str]) -> Child {
        let side = || Stdio::from(self.side.try_clone().unwrap());
        lab.command("setsid")
            .args(["-c", common::KAMI])
            .args(lab.guest_args(mode, more))
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap()
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.side).unwrap()
    }

    fn is_raw(&self) -> bool {
        !self.modes().local_modes.contains(LocalModes::ICANON)
    }

    fn wait_for(&self, text: &str) {
        wait_until(text, || self.shown.lock().unwrap().contains(text));
    }

    fn types(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }
}

/// Runs the guest until it has `printed`, ends it by `end`, and asserts its status and that the
/// terminal is what it was.
fn restored_after(mode: &str, printed: &str, code: i32, end: impl Fn(&mut Terminal, Pid)) {
    let lab = Lab::with_guest();
    let mut terminal = Terminal::new();
    let before = format!("{:?}", terminal.modes());
    let child = terminal.run(&lab, mode, &["--timeout", "100s"]);
    wait_until("the terminal is raw", || terminal.is_raw());
    terminal.wait_for(printed);
    // setsid forks only where it leads a group already, and here it does not.
    end(&mut terminal, Pid::from_child(&child));
    assert_eq!(
        finish(child).code,
        Some(code),
        "{mode}: {:?}",
        terminal.shown
    );
    assert_eq!(format!("{:?}", terminal.modes()), before, "{mode}");
}

#[test]
fn keys_reach_the_guest_and_its_power_off_restores_the_terminal() {
    restored_after("echo", "echo=ready", 0, |terminal, _| {
        // Ctrl-C is the guest's, too.
        terminal.types(b"ab\x03c");
        terminal.wait_for("ab\x03c");
        terminal.types(b"q");
    });
}

#[test]
fn menu_presses_the_power_button_and_quits() {
    restored_after("button", "button=waiting", 0, |terminal, _| {
        terminal.types(b"\x1d");
        terminal.wait_for("p power button, r reset, q quit");
        terminal.types(b"p");
    });
    restored_after("hang", "Ctrl-]", 137, |terminal, _| {
        terminal.types(b"\x1dq")
    });
}

#[test]
fn menu_resets_the_guest_and_sends_its_own_key() {
    restored_after("echo", "echo=ready", 0, |terminal, _| {
        terminal.types(b"\x1dr");
        wait_until("the second boot", || {
            terminal.shown.lock().unwrap().matches("echo=ready").count() == 2
        });
        terminal.types(b"\x1d\x1d!");
        terminal.wait_for("\x1d!");
        terminal.types(b"q");
    });
}

#[test]
fn signals_restore_the_terminal() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        restored_after("button", "button=waiting", 0, |_, pid| {
            kill_process(pid, signal).unwrap();
        });
    }
}

#[test]
fn failing_guests_restore_the_terminal() {
    let lab = Lab::with_guest();
    for (mode, code) in [
        ("panic", 100),
        ("triple-fault", common::TRIPLE_FAULT),
        ("hang", 124),
    ] {
        let terminal = Terminal::new();
        let before = format!("{:?}", terminal.modes());
        let child = terminal.run(&lab, mode, &["--rm", "--timeout", "500ms"]);
        assert_eq!(finish(child).code, Some(code), "{mode}");
        assert_eq!(format!("{:?}", terminal.modes()), before, "{mode}");
    }
}

#[test]
fn errors_have_colours_on_a_terminal_unless_they_are_not_wanted() {
    let lab = Lab::new();
    for (variable, is_coloured) in [("KAMI_LOG", true), ("NO_COLOR", false)] {
        let terminal = Terminal::new();
        let child = lab
            .command(common::KAMI)
            .args(["image", "show", "nothing"])
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .env(variable, "warn")
            .stderr(terminal.side.try_clone().unwrap())
            .spawn()
            .unwrap();
        assert_eq!(finish(child).code, Some(4));
        let shown = || terminal.shown.lock().unwrap().clone();
        wait_until("the help is shown", || shown().contains("lists the images"));
        let error = match is_coloured {
            true => "kami: \x1b[1;31merror:\x1b[0m The image id '[nothing]' does not exist",
            false => "kami: error: The image id '[nothing]' does not exist",
        };
        assert!(shown().contains(error), "{:?}", shown());
    }
}
