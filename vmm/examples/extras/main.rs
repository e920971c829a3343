//! Writes what a release carries beside the binary: `extras FOLDER DATE` makes the manual, one page a command, in
//! FOLDER/man1 (`kami.1`, `kami-run.1`, …), and the shells' completions in FOLDER/completions, named like the shells.
//!
//! Synopsis and options come from the definition that parses the command line, exit statuses from the list that
//! the code uses, the rest from [`text`]. An example of the crate, so that the `kami` that is shipped
//! carries no manual; scripts/release runs it.

mod page;
mod text;

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory, ValueEnum};
use kami_vmm::cli::Cli;
use kami_vmm::cli::completion::Shell;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [folder, date] = args.as_slice() else {
        return Err("usage: extras FOLDER DATE".into());
    };
    let folder = Path::new(folder);
    write_manual(&folder.join("man1"), date)?;
    write_completions(&folder.join("completions"))?;
    Ok(())
}

fn write_manual(folder: &Path, date: &str) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let commands = commands();
    for command in &commands {
        let name = page::name(command);
        let text = text::of(name).ok_or_else(|| format!("nothing is written about {name}"))?;
        let page = page::render(command, text, &commands, date)?;
        fs::write(folder.join(format!("{name}.1")), page)?;
    }
    Ok(())
}

fn write_completions(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for shell in Shell::value_variants() {
        fs::write(folder.join(shell.to_string()), shell.script())?;
    }
    Ok(())
}

/// kami and all its commands, each with its full name.
fn commands() -> Vec<Command> {
    let mut top = Cli::command();
    top.build();
    let mut all = vec![top];
    let mut next = 0;
    while let Some(command) = all.get(next) {
        let visible = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        let subs: Vec<_> = visible.cloned().collect();
        all.extend(subs);
        next += 1;
    }
    all
}

#[cfg(test)]
mod tests;
