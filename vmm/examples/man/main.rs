//! Writes kami's manual: `man FOLDER DATE` makes one page a command in FOLDER, `kami.1`, `kami-run.1`, ….
//!
//! Synopsis and options come from the definition that parses the command line, exit statuses from the list that
//! the code uses, the rest from [`text`]. An example of the crate, so that the `kami` that is shipped
//! carries none of it; scripts/release runs it.

mod page;
mod text;

use std::error::Error;
use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};
use kami_vmm::cli::Cli;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [folder, date] = args.as_slice() else {
        return Err("usage: man FOLDER DATE".into());
    };
    fs::create_dir_all(folder)?;
    let commands = commands();
    for command in &commands {
        let name = page::name(command);
        let text = text::of(name).ok_or_else(|| format!("nothing is written about {name}"))?;
        let page = page::render(command, text, &commands, date)?;
        fs::write(Path::new(folder).join(format!("{name}.1")), page)?;
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
