//! Architectures in EC2's words: what kernels and this host are called in manifests, listings and options.
//!
//! [`kami_kernels::Architecture`] says what code runs where, [`Word`] is what EC2's `Architecture` member says.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
pub use kami_image::manifest::Architecture as Word;
use kami_kernels::Architecture;

/// This host's.
pub const HOST: Word = word(Architecture::HOST);

/// Every architecture that images are launched for, with the words that others have for it: Debian's and those
/// of `uname -m`.
const NAMED: [(Architecture, &str); 3] = [
    (Architecture::X86_64, "amd64"),
    (Architecture::Aarch64, "aarch64"),
    (Architecture::I386, "i686"),
];

/// EC2's word for `architecture`.
pub const fn word(architecture: Architecture) -> Word {
    match architecture {
        Architecture::X86_64 => Word::X86_64,
        Architecture::I386 => Word::I386,
        Architecture::Aarch64 => Word::Arm64,
    }
}

/// What `word` stands for; nothing where it is a Mac's, whose images are not launched.
pub fn of_word(word: Word) -> Option<Architecture> {
    let mut known = NAMED.iter().map(|&(architecture, _)| architecture);
    known.find(|&architecture| self::word(architecture) == word)
}

/// Whether programs for `word` run under a kernel for `kernel`, or on a host with one.
pub fn runs_on(word: Word, kernel: Architecture) -> bool {
    of_word(word).is_some_and(|architecture| architecture.runs_on(kernel))
}

/// What runs on this host, for people.
pub fn all_of_host() -> String {
    let run = NAMED
        .iter()
        .filter(|(architecture, _)| architecture.runs_on(Architecture::HOST));
    let words: Vec<_> = run
        .map(|(architecture, _)| architecture.to_string())
        .collect();
    words.join(" and ")
}

/// The values of an option that names an architecture.
pub fn values() -> impl TypedValueParser<Value = Word> {
    let values = NAMED
        .map(|(architecture, alias)| PossibleValue::new(word(architecture).as_str()).alias(alias));
    PossibleValuesParser::new(values).map(|text| named(&text))
}

fn named(text: &str) -> Word {
    let alias = NAMED.iter().find(|(_, alias)| *alias == text);
    match alias {
        Some(&(architecture, _)) => word(architecture),
        // The parser lets nothing else through.
        None => text.parse().unwrap_or(HOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_that_kernels_are_shown_with() {
        for (architecture, alias) in NAMED {
            let word = word(architecture);
            assert_eq!(word.as_str(), architecture.to_string());
            assert_eq!(of_word(word), Some(architecture));
            assert_eq!((named(alias), named(word.as_str())), (word, word));
        }
        assert_eq!(
            (of_word(Word::X86_64Mac), of_word(Word::Arm64Mac)),
            (None, None)
        );
    }

    #[test]
    fn programs_of_i386_run_under_x86_64_and_not_the_other_way() {
        let (wide, narrow, arm) = (
            Architecture::X86_64,
            Architecture::I386,
            Architecture::Aarch64,
        );
        assert!(runs_on(Word::I386, wide) && runs_on(Word::I386, narrow));
        assert!(runs_on(Word::X86_64, wide) && !runs_on(Word::X86_64, narrow));
        assert!(runs_on(Word::Arm64, arm) && !runs_on(Word::Arm64, wide));
        assert!(!runs_on(Word::I386, arm) && !runs_on(Word::Arm64Mac, arm));
    }
}
