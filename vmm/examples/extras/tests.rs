//! The manual has a page for every command, and says what is so.

use clap::Parser;
use clap_mangen::roff::{Roff, roman};

use kami_vmm::exit::Exit;

use super::*;

/// The page of every command, by name.
fn pages() -> Vec<(String, String)> {
    let commands = commands();
    let page = |command: &Command| {
        let name = page::name(command);
        let text = text::of(name).unwrap_or_else(|| panic!("nothing is written about {name}"));
        let page = page::render(command, text, &commands, "2026-11-21").unwrap();
        (name.to_owned(), page)
    };
    commands.iter().map(page).collect()
}

/// As roff writes it.
fn escaped(text: &str) -> String {
    let line = Roff::new().text([roman(text)]).render();
    line.trim_start_matches(&Roff::new().render())
        .trim_end()
        .to_owned()
}

#[test]
fn every_command_has_a_page_and_every_page_a_command() {
    let pages = pages();
    for text in text::all() {
        assert!(
            pages.iter().any(|(name, _)| name == text.name),
            "{}",
            text.name
        );
    }
    for (name, page) in pages {
        assert!(page.contains(".SH DESCRIPTION\n"), "{name}");
        assert!(page.contains(".SH EXAMPLES\n"), "{name}");
        let usage = escaped(Exit::Usage.meaning());
        assert!(page.contains(&usage), "{name}");
        // roff reads nothing else without being told the encoding.
        assert!(page.is_ascii(), "{name}");
    }
}

#[test]
fn every_option_and_argument_has_its_help() {
    for (command, (name, page)) in commands().iter().zip(pages()) {
        for argument in command.get_arguments() {
            let help = argument.get_long_help().or(argument.get_help());
            let Some(help) = help.map(ToString::to_string) else {
                assert!(
                    argument.is_hide_set(),
                    "{name}: {} has no help",
                    argument.get_id()
                );
                continue;
            };
            let is_shown = page.contains(&escaped(&help));
            assert_eq!(is_shown, !argument.is_hide_set(), "{name}: {help}");
            if let Some(long) = argument.get_long() {
                let option = format!("\\fB{}\\fR", escaped(&format!("--{long}")));
                assert_eq!(page.contains(&option), is_shown, "{name}: {option}");
            }
        }
    }
}

/// What a shell makes of an example, as far as the examples need it.
fn words(line: &str) -> Vec<&str> {
    let line = line.trim();
    let inner = line
        .strip_prefix("eval \"$(")
        .and_then(|rest| rest.strip_suffix(")\""));
    inner.unwrap_or(line).split_ascii_whitespace().collect()
}

#[test]
fn every_example_is_a_command_line_that_kami_takes() {
    for text in text::all() {
        assert!(!text.examples.is_empty(), "{}", text.name);
        for line in text.examples.iter().flat_map(|(_, line)| line.split(';')) {
            let parsed = Cli::try_parse_from(words(line));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            let command = words(line).join("-");
            assert!(
                text.name == "kami" || command.starts_with(text.name),
                "{line}"
            );
        }
    }
}

#[test]
fn page_begins_with_its_title_after_one_preamble() {
    let preamble = Roff::new().render();
    for (name, page) in pages() {
        let title = format!("{preamble}.TH {} 1 2026-11-21 \"kami ", name.to_uppercase());
        assert!(page.starts_with(&title), "{name}: {page}");
        assert_eq!(page.matches(&preamble).count(), 1, "{name}");
    }
}
