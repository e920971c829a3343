//! What is measured: a command that boots the test guest and shows the guest's console on its standard output.

use std::error::Error;
use std::io;
use std::process::{Command, Stdio};

use kami_tests::terminal::Terminal;

/// The guest's first byte, at once after its entry.
pub const FIRST_BYTE: u8 = b'K';

/// A way to boot the test guest.
#[derive(Debug)]
pub struct Subject {
    pub name: String,
    program: String,
    arguments: Vec<String>,
    /// Run after each measured run, outside the measure: what removes the run's traces.
    after: Option<String>,
    /// Whether it insists on a terminal as standard input.
    tty: bool,
}

impl Subject {
    /// Reads `[--tty] [--after COMMAND] -- PROGRAM [ARGUMENT]… ;`.
    ///
    /// # Errors
    /// The words are something else.
    pub fn parse(
        name: String,
        words: &mut impl Iterator<Item = String>,
    ) -> Result<Self, Box<dyn Error>> {
        let (mut tty, mut after) = (false, None);
        loop {
            match words.next().as_deref() {
                Some("--tty") => tty = true,
                Some("--after") => after = words.next(),
                Some("--") => break,
                other => return Err(format!("subject {name}: unexpected {other:?}").into()),
            }
        }
        let program = words.next().ok_or("a subject without a program")?;
        let arguments = words.take_while(|word| word != ";").collect();
        Ok(Self {
            name,
            program,
            arguments,
            after,
            tty,
        })
    }

    /// The command, its standard output a pipe.
    ///
    /// # Errors
    /// No terminal could be made.
    pub fn command(&self) -> io::Result<(Command, Terminal)> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdout(Stdio::piped());
        let terminal = Terminal::input_of(&mut command, self.tty)?;
        Ok((command, terminal))
    }

    /// Removes the traces of a run.
    ///
    /// # Errors
    /// The command for it failed.
    pub fn clean(&self) -> Result<(), Box<dyn Error>> {
        let Some(after) = &self.after else {
            return Ok(());
        };
        let mut command = Command::new("sh");
        let status = command.args(["-c", after]).stdout(Stdio::null()).status()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{after}: {status}").into())
        }
    }
}
