//! The terminal as the guest's serial line: raw modes that are always given back, and the
//! `Ctrl-]` menu.
//!
//! The modes are restored when [`RawMode`] is dropped, and by a panic hook, because a release build
//! aborts on a panic without dropping anything. Signals end `kami run` through its event loop, so
//! they drop it too. Left out: `SIGKILL`, which no process outlives.

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::stdio::stdin;
use rustix::termios::{self, OptionalActions, Termios};

/// The modes to restore while the terminal is raw. Only the thread that enters or leaves raw mode
/// and a panic hook lock it.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);
static HOOKED: AtomicBool = AtomicBool::new(false);

/// Raw mode of the terminal on standard input, until dropped.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Makes the terminal raw. `None` where standard input is no terminal, or where this process is
    /// in its background, which must not touch it.
    ///
    /// # Errors
    /// The terminal refuses to tell or to take its modes.
    pub fn enter() -> io::Result<Option<Self>> {
        if !termios::isatty(stdin()) || !in_foreground() {
            return Ok(None);
        }
        let modes = termios::tcgetattr(stdin())?;
        restore_on_panic();
        let mut raw = modes.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(|e| e.into_inner()) = Some(modes);
        let entered = Self(());
        termios::tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(entered))
    }

    /// Makes the terminal raw again, after a stop and a continue gave it to the shell meanwhile.
    pub fn renew(&self) {
        if let (true, Ok(mut modes)) = (in_foreground(), termios::tcgetattr(stdin())) {
            modes.make_raw();
            let _ = termios::tcsetattr(stdin(), OptionalActions::Now, &modes);
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal its modes back, if it is raw.
pub fn restore() {
    // `try_lock`: a panic while the lock is held must not hang in the hook.
    if let Ok(mut saved) = SAVED.try_lock()
        && let Some(modes) = saved.take()
    {
        let _ = termios::tcsetattr(stdin(), OptionalActions::Now, &modes);
    }
}

/// How a line ends now: raw mode has no output processing, so a message needs its own return.
pub fn line_end() -> &'static str {
    match SAVED.try_lock() {
        Ok(saved) if saved.is_none() => "\n",
        _ => "\r\n",
    }
}

/// Standard error for messages of one line each, which end as the terminal's modes want it.
#[derive(Debug)]
pub struct Messages;

impl Write for Messages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut err = io::stderr().lock();
        match bytes.strip_suffix(b"\n") {
            Some(line) => {
                err.write_all(line)?;
                err.write_all(line_end().as_bytes())?;
            }
            None => err.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn restore_on_panic() {
    if !HOOKED.swap(true, Ordering::Relaxed) {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            print(info);
        }));
    }
}

fn in_foreground() -> bool {
    termios::tcgetpgrp(stdin()).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// The key that opens the menu: Ctrl-].
const MENU_KEY: u8 = 0x1d;

/// What the menu shows.
pub const MENU: &str =
    "kami: p power button, r reset, q quit, Ctrl-] send Ctrl-], any other key: back to the guest";

/// What a key press asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// Bytes for the guest.
    Input(&'a [u8]),
    OpenMenu,
    CloseMenu,
    PowerButton,
    Reset,
    Quit,
}

/// Tells the guest's keys from the menu's.
#[derive(Debug, Default)]
pub struct Keyboard {
    in_menu: bool,
}

impl Keyboard {
    /// Splits what was typed into `press`ed keys, in order.
    pub fn typed<'a>(&mut self, mut bytes: &'a [u8], mut press: impl FnMut(Key<'a>)) {
        while !bytes.is_empty() {
            if self.in_menu {
                let (key, rest) = bytes.split_at(1);
                self.in_menu = false;
                bytes = rest;
                press(Key::CloseMenu);
                match key[0] {
                    b'p' | b'P' => press(Key::PowerButton),
                    b'r' | b'R' => press(Key::Reset),
                    b'q' | b'Q' => press(Key::Quit),
                    MENU_KEY => press(Key::Input(key)),
                    _ => {}
                }
                continue;
            }
            let end = bytes.iter().position(|&b| b == MENU_KEY);
            let (input, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            if !input.is_empty() {
                press(Key::Input(input));
            }
            bytes = rest.get(1..).unwrap_or_default();
            if end.is_some() {
                self.in_menu = true;
                press(Key::OpenMenu);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(typed: &[&[u8]]) -> Vec<String> {
        let mut keyboard = Keyboard::default();
        let mut keys = Vec::new();
        for bytes in typed {
            keyboard.typed(bytes, |key| {
                keys.push(match key {
                    Key::Input(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    other => format!("{other:?}"),
                });
            });
        }
        keys
    }

    #[test]
    fn plain_keys_reach_the_guest_whole() {
        assert_eq!(pressed(&[b"ls\r", b"\x03p"]), ["ls\r", "\x03p"]);
    }

    #[test]
    fn menu_takes_one_key_also_from_a_later_read() {
        assert_eq!(
            pressed(&[b"a\x1d", b"pb"]),
            ["a", "OpenMenu", "CloseMenu", "PowerButton", "b"]
        );
        assert_eq!(pressed(&[b"\x1dr"]), ["OpenMenu", "CloseMenu", "Reset"]);
        assert_eq!(pressed(&[b"\x1dQ"]), ["OpenMenu", "CloseMenu", "Quit"]);
    }

    #[test]
    fn unknown_key_leaves_the_menu_and_is_swallowed() {
        assert_eq!(pressed(&[b"\x1dxy"]), ["OpenMenu", "CloseMenu", "y"]);
    }

    #[test]
    fn menu_key_twice_sends_itself() {
        assert_eq!(
            pressed(&[b"\x1d\x1dz"]),
            ["OpenMenu", "CloseMenu", "\x1d", "z"]
        );
    }
}
