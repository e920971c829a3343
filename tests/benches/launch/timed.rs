//! One untraced run: when the guest's first byte came out, and when the process had ended.

use std::error::Error;
use std::io::Read;
use std::time::{Duration, Instant};

use crate::subject::{FIRST_BYTE, Subject};

/// Both since just before the process was made.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub first_byte: Duration,
    pub exit: Duration,
}

/// Runs a subject once.
///
/// # Errors
/// It could not be started, or its output does not begin with the guest's first byte.
pub fn run(subject: &Subject) -> Result<Times, Box<dyn Error>> {
    let (mut command, _terminal) = subject.command()?;
    let start = Instant::now();
    let mut child = command
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", subject.name))?;
    let mut output = child.stdout.take().ok_or("the output is no pipe")?;
    let mut byte = [0];
    let read = output.read(&mut byte)?;
    let first_byte = start.elapsed();
    let status = child.wait()?;
    let exit = start.elapsed();
    if read != 1 || byte[0] != FIRST_BYTE {
        let mut rest = String::from_utf8_lossy(&byte[..read]).into_owned();
        output.read_to_string(&mut rest)?;
        let name = &subject.name;
        return Err(format!("{name} ({status}) did not boot the test guest: {rest}").into());
    }
    subject.clean()?;
    Ok(Times { first_byte, exit })
}
