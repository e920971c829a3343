//! `kami completion`: what a shell needs to complete kami's command lines.
//!
//! Commands, options, files and the values that an option's definition names. Left out on purpose: the ids and
//! names in the store, for which a shell would have to run kami at every press of a key.

use std::fmt;

use clap::{Command, CommandFactory};
use clap_complete::generate;
use clap_complete::shells::{Bash, Fish, Zsh};

use super::output::print;
use super::{Cli, Error};
use crate::exit::Exit;

const AFTER_LONG_HELP: &str = "\
Where shells look for it, for one user:
  bash  ~/.local/share/bash-completion/completions/kami
  fish  ~/.config/fish/completions/kami.fish
  zsh   a file named _kami in a folder of $fpath";

#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// The shells that completions are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    Bash,
    Fish,
    Zsh,
}

impl Args {
    pub fn run(self) -> Result<Exit, Error> {
        print(&self.shell.script())?;
        Ok(Exit::Done)
    }
}

impl Shell {
    /// The completions in the shell's language.
    pub fn script(self) -> String {
        let mut command = visible(Cli::command());
        let mut script = Vec::new();
        match self {
            Self::Bash => generate(Bash, &mut command, "kami", &mut script),
            Self::Fish => generate(Fish, &mut command, "kami", &mut script),
            Self::Zsh => generate(Zsh, &mut command, "kami", &mut script),
        }
        String::from_utf8_lossy(&script).into_owned()
    }
}

impl fmt::Display for Shell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bash => "bash",
            Self::Fish => "fish",
            Self::Zsh => "zsh",
        })
    }
}

/// The command without what only kami itself says to it: the generators would offer hidden options too.
fn visible(command: Command) -> Command {
    let command = command.mut_subcommands(visible);
    if !command.get_arguments().any(clap::Arg::is_hide_set) {
        return command;
    }
    let shown = command.get_arguments().filter(|it| !it.is_hide_set());
    // clap's names are static, and this process ends when it has printed the script.
    let name: &'static str = command.get_name().to_owned().leak();
    let visible = Command::new(name).args(shown);
    visible.about(command.get_about().cloned().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    fn walk(command: &Command, visit: &mut dyn FnMut(&Command)) {
        visit(command);
        command.get_subcommands().for_each(|sub| walk(sub, visit));
    }

    /// Whether the script has the option as a whole word: fish writes `-l memory`, the others `--memory`.
    fn offers(script: &str, option: &str) -> bool {
        let goes_on = |c: char| c.is_ascii_alphanumeric() || c == '-';
        ["--", "-l "].iter().any(|dash| {
            let word = format!("{dash}{option}");
            let mut found = script.match_indices(&word);
            found.any(|(at, word)| !script[at + word.len()..].starts_with(goes_on))
        })
    }

    #[test]
    fn every_visible_option_and_no_hidden_one_is_completed() {
        for &shell in Shell::value_variants() {
            let script = shell.script();
            walk(&Cli::command(), &mut |command| {
                assert!(script.contains(command.get_name()), "{shell:?}");
                for argument in command.get_arguments() {
                    let Some(option) = argument.get_long() else {
                        continue;
                    };
                    let is_wanted = !argument.is_hide_set();
                    assert_eq!(offers(&script, option), is_wanted, "{shell:?}: {option}");
                }
            });
        }
    }

    #[test]
    fn values_that_an_option_names_are_completed() {
        for &shell in Shell::value_variants() {
            assert!(shell.script().contains("table"), "{shell:?}");
        }
    }
}
