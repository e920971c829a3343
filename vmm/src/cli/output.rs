//! What commands print: aligned columns for people, EC2's JSON shapes for programs.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// How a listing is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// The JSON that EC2 prints for the same thing
    Json,
}

/// The `--output` option of every listing.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct OutputArgs {
    /// How to print the listing
    #[arg(long = "output", value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// The `--dry-run` option of what changes much.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DryRun {
    /// Check the request and say what would be done, but do nothing
    #[arg(long)]
    dry_run: bool,
}

impl DryRun {
    pub fn is_set(self) -> bool {
        self.dry_run
    }

    /// Says what would be done, one thing a line: `would delete vol-…`.
    ///
    /// # Errors
    /// As [`print`].
    pub fn tell<T: fmt::Display>(self, action: &str, things: &[T]) -> io::Result<()> {
        let lines = things
            .iter()
            .map(|thing| format!("would {action} {thing}\n"));
        print(&lines.collect::<String>())
    }
}

/// Colours, for those who see them.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    is_on: bool,
}

impl Paint {
    /// On where standard error is a terminal, unless `NO_COLOR` says anything (no-color.org) or the
    /// terminal is a dumb one.
    pub fn of_stderr() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let is_dumb = set("TERM").is_none_or(|term| term == "dumb");
        Self {
            is_on: io::stderr().is_terminal() && set("NO_COLOR").is_none() && !is_dumb,
        }
    }

    /// The word of an error: bold red.
    pub fn error(self, text: &str) -> String {
        self.with("1;31", text)
    }

    /// The word of what can be done: bold green.
    pub fn help(self, text: &str) -> String {
        self.with("1;32", text)
    }

    fn with(self, codes: &str, text: &str) -> String {
        match self.is_on {
            true => format!("\x1b[{codes}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// Prints `text` to standard output. A reader that went away, as `head` does, is no error.
///
/// # Errors
/// Standard output is closed or on a full disk.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    tolerate_broken_pipe(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Prints `value` as indented JSON.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text)
}

/// Takes a reader that went away for the end of the output.
pub fn tolerate_broken_pipe(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// `rows` under `header`, in columns as wide as their widest cell.
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    });
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths);
        let joined: Vec<_> = padded
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(joined.join("   ").trim_end());
        text.push('\n');
    };
    line(header);
    for row in rows {
        line(row.each_ref().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["a".into(), "long".into(), "x".into()],
            ["bcdef".into(), "é".into(), String::new()],
        ];
        let text = "ID      NAME   Z\na       long   x\nbcdef   é\n";
        assert_eq!(table(["ID", "NAME", "Z"], &rows), text);
    }

    #[test]
    fn colours_are_for_terminals() {
        let paint = |is_on| Paint { is_on }.error("error:");
        assert_eq!(paint(true), "\x1b[1;31merror:\x1b[0m");
        assert_eq!(paint(false), "error:");
    }

    #[test]
    fn reader_that_went_away_is_no_error() {
        let gone = Err(io::ErrorKind::BrokenPipe.into());
        assert!(tolerate_broken_pipe(gone).is_ok());
        assert!(tolerate_broken_pipe(Err(io::ErrorKind::StorageFull.into())).is_err());
    }
}
