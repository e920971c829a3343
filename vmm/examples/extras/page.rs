//! The layout of a page: man-pages(7)'s sections in its order, in the macros of man(7).

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use kami_vmm::exit::Exit;

use crate::text::{ENVIRONMENT, FILES, Text};

/// The name of a command's page: `kami-image-import`.
pub fn name(command: &Command) -> &str {
    let full = command.get_display_name();
    full.unwrap_or_else(|| command.get_name())
}

/// The page of `command`, in roff. `all` are the commands that it may refer to.
pub fn render(command: &Command, text: &Text, all: &[Command], date: &str) -> io::Result<String> {
    let man = Man::new(command.clone())
        .title(name(command).to_uppercase())
        .date(date)
        .source(concat!("kami ", env!("CARGO_PKG_VERSION")))
        .manual("Kami manual");
    let mut parts = vec![
        rendered(|to| man.render_title(to))?,
        rendered(|to| man.render_name_section(to))?,
        rendered(|to| man.render_synopsis_section(to))?,
        paragraphs("DESCRIPTION", text.description),
        rendered(|to| man.render_options_section(to))?,
    ];
    if command.has_subcommands() {
        parts.push(rendered(|to| man.render_subcommands_section(to))?);
    }
    parts.push(exit_status(text));
    if text.has_store {
        parts.push(list("ENVIRONMENT", ENVIRONMENT));
        parts.push(list("FILES", FILES));
    }
    parts.push(examples(text));
    parts.push(see_also(name(command), all));
    Ok(joined(&parts))
}

fn rendered(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<String> {
    let mut bytes = Vec::new();
    render(&mut bytes)?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// Each part was rendered as a document of its own, so each begins with roff's definition of the apostrophe.
fn joined(parts: &[String]) -> String {
    let preamble = Roff::new().render();
    let bare = parts.iter().map(|part| part.trim_start_matches(&preamble));
    bare.fold(preamble.clone(), |page, part| page + part)
}

fn paragraphs(title: &str, paragraphs: &[&str]) -> String {
    let mut roff = section(title);
    for (number, paragraph) in paragraphs.iter().enumerate() {
        if number > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(*paragraph)]);
    }
    roff.render()
}

fn list(title: &str, items: &[(&str, &str)]) -> String {
    let mut roff = section(title);
    for (term, meaning) in items {
        item(&mut roff, term, meaning);
    }
    roff.render()
}

fn exit_status(text: &Text) -> String {
    let mut roff = section("EXIT STATUS");
    for exit in Exit::ALL.iter().filter(|exit| text.exits.contains(exit)) {
        let meaning = match exit {
            Exit::Done if !text.exits.contains(&Exit::Killed) => "done",
            _ => exit.meaning(),
        };
        item(&mut roff, &exit.code().to_string(), meaning);
    }
    roff.render()
}

fn examples(text: &Text) -> String {
    let mut roff = section("EXAMPLES");
    for (purpose, line) in text.examples {
        item(&mut roff, purpose, "");
        roff.control("EX", [])
            .text([roman(*line)])
            .control("EE", []);
    }
    roff.render()
}

/// The command above and those below; on kami's own page, all.
fn see_also(name: &str, all: &[Command]) -> String {
    let mut related: Vec<_> = all.iter().map(self::name).collect();
    related.retain(|other| *other != name);
    related.retain(|other| other.starts_with(name) || name.starts_with(other));
    related.sort_unstable();
    let mut roff = section("SEE ALSO");
    let mut line = Vec::new();
    for other in related {
        let comma = if line.is_empty() { "" } else { ", " };
        line.extend([roman(comma), bold(other), roman("(1)")]);
    }
    roff.text(line).render()
}

fn section(title: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    roff
}

fn item(roff: &mut Roff, term: &str, meaning: &str) {
    roff.control("TP", []).text([bold(term)]);
    if !meaning.is_empty() {
        roff.text([roman(meaning)]);
    }
}
