//! The exit statuses of `kami`, one documented list for code, `kami run --help` and tests.
//!
//! 124, 130 and 137 are what `timeout(1)` and a shell use for the same ends.

use std::fmt::Write as _;
use std::process::ExitCode;

/// How a `kami` command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command did what was asked; of `run`: the guest powered itself off.
    Done,
    /// The command failed, before or beside the guest.
    Failed,
    /// The command line was wrong.
    Usage,
    /// A manifest, a disk file, a kernel, the settings or a request's values were bad.
    BadInput,
    /// Something that was named does not exist.
    NotFound,
    /// The guest's kernel panicked.
    GuestPanicked,
    /// The guest shut its processor down by a triple fault.
    TripleFault,
    /// KVM could not go on with the guest.
    KvmError,
    /// `--timeout` passed.
    TimedOut,
    /// A signal ended an import, a registration or a launch, which was undone.
    Interrupted,
    /// The guest was ended by force: a stop whose grace time passed, or the menu's quit.
    Killed,
}

impl Exit {
    /// Every exit, in the order of the codes.
    pub const ALL: [Self; 11] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::BadInput,
        Self::NotFound,
        Self::GuestPanicked,
        Self::TripleFault,
        Self::KvmError,
        Self::TimedOut,
        Self::Interrupted,
        Self::Killed,
    ];

    /// The process's exit status.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::BadInput => 3,
            Self::NotFound => 4,
            Self::GuestPanicked => 100,
            Self::TripleFault => 101,
            Self::KvmError => 102,
            Self::TimedOut => 124,
            Self::Interrupted => 130,
            Self::Killed => 137,
        }
    }

    /// The exit of a process that ended with `code`; what is none of these has failed.
    pub fn from_code(code: u8) -> Self {
        let known = Self::ALL.into_iter().find(|exit| exit.code() == code);
        known.unwrap_or(Self::Failed)
    }

    /// What the status says, for the help text.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "the guest powered off (other commands: done)",
            Self::Failed => "kami failed, before or beside the guest",
            Self::Usage => "the command line is wrong",
            Self::BadInput => "a manifest, file, setting or value is bad",
            Self::NotFound => "something that was named does not exist",
            Self::GuestPanicked => "the guest's kernel panicked",
            Self::TripleFault => "the guest ended by a triple fault",
            Self::KvmError => "KVM could not go on with the guest",
            Self::TimedOut => "the time of --timeout passed",
            Self::Interrupted => "an import or a launch was interrupted and undone",
            Self::Killed => "the guest was ended by force",
        }
    }

    /// The table of all statuses, one a line.
    pub fn table() -> String {
        Self::ALL
            .iter()
            .fold(String::from("Exit status:\n"), |mut table, exit| {
                let _ = writeln!(table, "  {:>3}  {}", exit.code(), exit.meaning());
                table
            })
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_ascending_and_all_are_told() {
        assert!(Exit::ALL.is_sorted_by(|a, b| a.code() < b.code()));
        let table = Exit::table();
        for exit in Exit::ALL {
            let line = format!("{:>3}  {}", exit.code(), exit.meaning());
            assert!(table.contains(&line), "{line}");
        }
    }
}
