//! `kami doctor`: what this host has of what Kami needs, how to mend what is missing, and a test
//! guest that proves it.

pub mod checks;
mod self_test;

use std::fmt::Write as _;
use std::path::Path;

use crate::exit::Exit;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    pub verdict: Verdict,
    /// What was found, in a few words.
    pub detail: String,
    /// What the user can do about it.
    pub help: Option<String>,
}

/// What was found about one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    /// It works, and there is something to know about it.
    Note,
    /// Without it, guests do not run.
    Missing,
}

impl Finding {
    pub fn ok(subject: &'static str, detail: impl Into<String>) -> Self {
        Self::new(subject, Verdict::Ok, detail.into(), None)
    }

    pub fn note(subject: &'static str, detail: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(subject, Verdict::Note, detail.into(), Some(help.into()))
    }

    pub fn missing(
        subject: &'static str,
        detail: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self::new(subject, Verdict::Missing, detail.into(), Some(help.into()))
    }

    fn new(subject: &'static str, verdict: Verdict, detail: String, help: Option<String>) -> Self {
        Self {
            subject,
            verdict,
            detail,
            help,
        }
    }

    /// The finding as the doctor prints it: a line, and one for the help.
    pub fn show(&self) -> String {
        let word = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Missing => "missing",
        };
        let mut text = format!("{word:<8} {:<16} {}\n", self.subject, self.detail);
        if let Some(help) = &self.help {
            let _ = writeln!(text, "{:25} help: {help}", "");
        }
        text
    }
}

/// Checks the host for a store at `home`, then boots the test guest. `print` is given each finding as
/// it is made.
pub fn run(home: &Path, print: &mut dyn FnMut(&str)) -> Exit {
    let mut is_fine = true;
    for check in checks::ALL {
        let finding = check(home);
        is_fine &= finding.verdict != Verdict::Missing;
        print(&finding.show());
    }
    if !is_fine {
        print("the test guest was not started, since something is missing\n");
        return Exit::Failed;
    }
    let (finding, report) = self_test::run();
    print(&finding.show());
    report
        .lines()
        .for_each(|line| print(&format!("{:25} {line}\n", "")));
    match finding.verdict {
        Verdict::Missing => Exit::Failed,
        Verdict::Ok | Verdict::Note => Exit::Done,
    }
}
