//! Measures what a store costs: importing a disk, making a root volume of a snapshot, each next to other tools that
//! do the same on the same files. Driven by `scripts/bench store`, which makes the release binary and the disk.
//!
//! What is measured together runs interleaved, so that a change of the host's load meets every subject alike; the first
//! round fills caches and is dropped; all figures are medians. Before a run the host's dirty pages are written, so
//! that no subject waits for another's. Space is what the files take on the disk, holes left out. Left out on purpose: the
//! launch as a whole (`scripts/bench launch`), statistics beyond the median.

mod import;
mod listing;
mod materialise;
mod random;
mod snapshot;
mod space;

use std::error::Error;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use kami_tests::measure::median;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

type Cost = (Duration, Option<u64>);

/// What `scripts/bench` tells.
struct Bench {
    /// How often what takes seconds runs; what takes milliseconds runs four times as often.
    rounds: usize,
    kami: PathBuf,
    /// A disk of a real system, qcow2.
    disk: PathBuf,
    /// A folder for everything that is made.
    work: PathBuf,
    json: PathBuf,
}

/// One line of the table.
struct Row {
    what: String,
    subject: &'static str,
    ms: f64,
    kib: Option<u64>,
}

/// A way to do something, which returns how long it took and the KiB that it left on the disk, if that is of interest.
struct Subject<'a> {
    what: String,
    name: &'static str,
    run: Box<dyn FnMut() -> Result<Cost> + 'a>,
}

fn main() -> Result<()> {
    let bench = Bench::parse(env::args().skip(1))?;
    fs::create_dir_all(&bench.work)?;
    let mut rows = import::measure(&bench)?;
    rows.extend(materialise::measure(&bench)?);
    rows.extend(snapshot::measure(&bench)?);
    rows.extend(space::measure(&bench)?);
    rows.extend(listing::measure(&bench)?);
    fs::write(&bench.json, json(&rows))?;
    print!("{}", table(&rows));
    Ok(())
}

impl Bench {
    /// `--rounds N --kami FILE --disk FILE --work FOLDER --json FILE`. What cargo itself adds (`--bench`) is passed over.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let (mut rounds, mut paths) = (5, [const { None }; 4]);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--bench" => {}
                "--rounds" => rounds = value()?.parse()?,
                "--kami" => paths[0] = Some(value()?),
                "--disk" => paths[1] = Some(value()?),
                "--work" => paths[2] = Some(value()?),
                "--json" => paths[3] = Some(value()?),
                _ => return Err(format!("unknown option {word}").into()),
            }
        }
        let [Some(kami), Some(disk), Some(work), Some(json)] = paths else {
            return Err("scripts/bench store names the files".into());
        };
        Ok(Self {
            rounds,
            kami: kami.into(),
            disk: disk.into(),
            work: work.into(),
            json: json.into(),
        })
    }

    /// `kami` with the store `home` of the work folder.
    fn kami(&self, home: &str) -> Command {
        let mut command = Command::new(&self.kami);
        command.env("KAMI_HOME", self.work.join(home));
        command
    }

    /// A path in the work folder at which nothing is.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.work.join(name);
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        } else if path.exists() {
            fs::remove_file(&path)?;
        }
        Ok(path)
    }
}

/// Makes a raw disk of `size_bytes` that begins with `data_bytes` of noise.
fn raw_disk(bench: &Bench, name: &str, size_bytes: u64, data_bytes: u64) -> Result<PathBuf> {
    let path = bench.fresh(name)?;
    let mut file = File::create(&path)?;
    let mut noise = File::open("/dev/urandom")?.take(data_bytes);
    std::io::copy(&mut noise, &mut file)?;
    file.set_len(size_bytes)?;
    Ok(path)
}

/// Runs all subjects in turn, `rounds` times and once more before.
fn interleave(rounds: usize, mut subjects: Vec<Subject<'_>>) -> Result<Vec<Row>> {
    let mut measured = vec![Vec::new(); subjects.len()];
    for round in 0..=rounds {
        for (subject, measured) in subjects.iter_mut().zip(&mut measured) {
            rustix::fs::sync();
            let costs = (subject.run)()?;
            if round > 0 {
                measured.push(costs);
            }
        }
    }
    let rows = subjects.into_iter().zip(measured);
    Ok(rows
        .map(|(subject, measured)| Row {
            what: subject.what,
            subject: subject.name,
            ms: median(measured.iter().map(|(took, _)| took.as_secs_f64() * 1e3)),
            kib: median(measured.iter().map(|(_, kib)| *kib)),
        })
        .collect())
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<26} {:<28} {:>10} {:>12}\n",
        "what", "subject", "ms", "disk, KiB"
    );
    for row in rows {
        let kib = row.kib.map(|kib| kib.to_string()).unwrap_or_default();
        let line = format!(
            "{:<26} {:<28} {:>10.2} {:>12}",
            row.what, row.subject, row.ms, kib
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// The rows as JSON; neither names need escapes.
fn json(rows: &[Row]) -> String {
    let rows: Vec<String> = rows
        .iter()
        .map(|row| {
            let kib = row.kib.map_or("null".to_owned(), |kib| kib.to_string());
            format!(
                "  {{\"what\": \"{}\", \"subject\": \"{}\", \"ms\": {:.3}, \"disk_kib\": {kib}}}",
                row.what, row.subject, row.ms
            )
        })
        .collect();
    format!("{{\"rows\": [\n{}\n]}}\n", rows.join(",\n"))
}
