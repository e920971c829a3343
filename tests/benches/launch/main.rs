//! Measures what a launch costs: `kami run` of the built-in test guest from a stored image, next to other ways to
//! boot the same guest on the same host. Driven by `scripts/bench launch`, which makes the subjects.
//!
//! Times come from untraced runs, interleaved so that a change of the host's load meets every subject alike; memory and
//! system calls come from traced runs of their own ([`traced`]). All figures are medians. Left out on purpose:
//! benchmarks of anything but a launch, statistics beyond the median.

mod subject;
mod timed;
mod traced;

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use kami_tests::measure::median;
use subject::Subject;

/// What `scripts/bench` tells.
struct Options {
    rounds: usize,
    traced_rounds: usize,
    json: PathBuf,
    subjects: Vec<Subject>,
}

/// One line of the table.
struct Row {
    subject: String,
    first_byte_ms: f64,
    exit_ms: f64,
    rss_kib: u64,
    syscalls: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse(env::args().skip(1))?;
    let count = options.subjects.len();
    let mut times: Vec<Vec<timed::Times>> = vec![Vec::new(); count];
    let mut costs: Vec<Vec<traced::Cost>> = vec![Vec::new(); count];
    // The first round fills caches and is dropped.
    for round in 0..=options.rounds {
        for (subject, times) in options.subjects.iter().zip(&mut times) {
            let measured = timed::run(subject)?;
            if round > 0 {
                times.push(measured);
            }
        }
    }
    for _ in 0..options.traced_rounds {
        for (subject, costs) in options.subjects.iter().zip(&mut costs) {
            costs.push(traced::run(subject)?);
        }
    }
    let rows = options.subjects.iter().zip(&times).zip(&costs);
    let rows: Vec<Row> = rows
        .map(|((subject, times), costs)| Row {
            subject: subject.name.clone(),
            first_byte_ms: median(times.iter().map(|t| t.first_byte.as_secs_f64() * 1e3)),
            exit_ms: median(times.iter().map(|t| t.exit.as_secs_f64() * 1e3)),
            rss_kib: median(costs.iter().map(|c| c.rss_kib)),
            syscalls: median(costs.iter().map(|c| c.syscalls)),
        })
        .collect();
    fs::write(&options.json, json(&rows))?;
    print!("{}", table(&rows));
    Ok(())
}

impl Options {
    /// `--rounds N --traced-rounds N --json FILE`, then subjects, each `--subject NAME [--tty] [--after COMMAND] --
    /// PROGRAM [ARGUMENT]… ;`. What cargo itself adds (`--bench`) is passed over.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            rounds: 41,
            traced_rounds: 5,
            json: PathBuf::from("launch.json"),
            subjects: Vec::new(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--bench" => {}
                "--rounds" => options.rounds = value()?.parse()?,
                "--traced-rounds" => options.traced_rounds = value()?.parse()?,
                "--json" => options.json = value()?.into(),
                "--subject" => options.subjects.push(Subject::parse(value()?, &mut words)?),
                _ => return Err(format!("unknown option {word}").into()),
            }
        }
        if options.subjects.is_empty() {
            return Err("no subjects; scripts/bench names them".into());
        }
        Ok(options)
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<14} {:>14} {:>10} {:>9} {:>9}\n",
        "subject", "first byte, ms", "exit, ms", "RSS, KiB", "syscalls"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "{:<14} {:>14.2} {:>10.2} {:>9} {:>9}",
            row.subject, row.first_byte_ms, row.exit_ms, row.rss_kib, row.syscalls
        );
    }
    text
}

/// The rows as JSON; subjects' names need no escapes.
fn json(rows: &[Row]) -> String {
    let rows: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                "  {{\"subject\": \"{}\", \"first_byte_ms\": {:.3}, \"exit_ms\": {:.3}, \"rss_kib\": {}, \"syscalls\": {}}}",
                row.subject, row.first_byte_ms, row.exit_ms, row.rss_kib, row.syscalls
            )
        })
        .collect();
    format!("{{\"rows\": [\n{}\n]}}\n", rows.join(",\n"))
}
