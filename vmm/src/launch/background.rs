//! `kami run -d`: the instance as a process of its own, behind no terminal.
//!
//! The command starts itself once more, with `--background`, and waits on a pipe: the child's
//! standard output. The child becomes a session of its own, launches, and writes its instance's id
//! there when the guest runs. Its errors go to the standard error that both share, so they look
//! like the command's own, and its exit status is passed on. Forking without exec would spare
//! a millisecond and cost `unsafe`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

use crate::exit::Exit;

/// What keeps an instance from the background.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct Error {
    action: &'static str,
    source: io::Error,
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error { action, source }
}

/// How the background process began.
#[derive(Debug, PartialEq, Eq)]
pub enum Started {
    /// The instances of these ids run: one, or those of an earlier launch with the same client token.
    Running(Vec<String>),
    /// It ended before, with this exit status, and has said why.
    Ended(u8),
}

/// Starts the background process with the arguments of this one, and waits until its guest runs
/// or it ends.
///
/// # Errors
/// The process cannot be started.
pub fn start(args: impl Iterator<Item = OsString>) -> Result<Started, Error> {
    let mut child = Command::new("/proc/self/exe")
        .args(args)
        .arg("--background")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed("start the background process"))?;
    let mut id = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut id)
            .map_err(failed("hear from the background process"))?;
    }
    if id.ends_with('\n') {
        return Ok(Started::Running(id.lines().map(str::to_owned).collect()));
    }
    let status = child
        .wait()
        .map_err(failed("wait for the background process"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(Started::Ended(code.unwrap_or(Exit::Failed.code())))
}

/// In the background process: leaves the session of the command that started it.
///
/// # Errors
/// The process leads a group already, so it was not started by [`start`].
pub fn leave_session() -> Result<(), Error> {
    rustix::process::setsid()
        .map(|_| ())
        .map_err(|e| failed("leave the session")(e.into()))
}

/// In the background process: tells the command that started it the instance's id, and lets go of
/// everything that belongs to it. Who gave up waiting meanwhile does not end the instance.
pub fn report(id: &str) {
    let _ = writeln!(io::stdout(), "{id}");
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    let _ = rustix::process::chdir("/");
}
