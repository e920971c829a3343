//! A terminal for a program that insists on one as its standard input.

use std::fs::File;
use std::io;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Keeps the other end of a program's terminal open.
#[derive(Debug, Default)]
pub struct Terminal(#[expect(dead_code, reason = "held, never read")] Option<File>);

impl Terminal {
    /// Gives a command a terminal as its standard input, else nothing to read.
    ///
    /// # Errors
    /// No terminal could be made.
    pub fn input_of(command: &mut Command, wanted: bool) -> io::Result<Self> {
        if !wanted {
            command.stdin(Stdio::null());
            return Ok(Self(None));
        }
        let (ours, theirs) = open_terminal()?;
        command.stdin(theirs);
        Ok(Self(Some(ours)))
    }
}

fn open_terminal() -> io::Result<(File, File)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let path = ptsname(&ours, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(path, flags, Mode::empty())?;
    Ok((ours.into(), theirs.into()))
}
