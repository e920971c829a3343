//! Measures what reading and writing disks costs a guest: kami's disks, next to fio with io_uring on the host's own file, which is
//! the limit, and other virtual machine monitors with the same guest. Driven by `scripts/bench disk`, which makes the release binary and the
//! test guest and finds the other programs.
//!
//! What is loaded is the first 256 MiB of each disk, noise, through the page cache, which has all of it: no figure depends on the host's disk. One guest
//! or one fio runs at a time. Within a panel (one thing varied) all subjects run one after the other, in every second
//! round the other way round, so a change of the host's load meets all alike; all figures are medians, ratios are those of a
//! panel's run. Left out on purpose: file systems in the guest, and mixes of reads and writes.

mod cpu;
mod fio;
mod guest;
mod job;
mod kami;
mod measured;
mod peers;
mod plot;
mod profile;
mod reach;
mod results;
mod subject;
mod table;
#[cfg(target_arch = "aarch64")]
#[path = "tsc/aarch64.rs"]
mod tsc;
#[cfg(target_arch = "x86_64")]
#[path = "tsc/x86_64.rs"]
mod tsc;

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, fs};

use profile::Profile;
use results::Results;
use subject::{House, SPAN_BYTES};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// As many disks as are there at a time, and some room.
const ROOM: u64 = 10 * SPAN_BYTES;

/// How long the page cache is trusted to keep the disks: some hosts reclaim what is idle.
const WARM_FOR: Duration = Duration::from_secs(20);

/// What `scripts/bench` tells.
struct Options {
    profile: Profile,
    peers: bool,
    kami: PathBuf,
    /// The test guest, an ELF kernel.
    kernel: PathBuf,
    /// A folder for the disks, removed at the end.
    work: PathBuf,
    /// A folder for `disk.json` and the plots.
    out: PathBuf,
}

fn main() -> Result<()> {
    let mut options = Options::parse(env::args().skip(1))?;
    if options.work.exists() {
        fs::remove_dir_all(&options.work)?;
    }
    fs::create_dir_all(&options.work)?;
    // An overlay names its base from where it lies.
    options.work = options.work.canonicalize()?;
    let results = measure(&options);
    fs::remove_dir_all(&options.work)?;
    let results = results?;
    fs::write(options.out.join("disk.json"), results.json()?)?;
    plot::draw(&results, &options.out)?;
    print!("{}", table::of(&results));
    print!("{}", reach::of(&results));
    Ok(())
}

fn measure(options: &Options) -> Result<Results> {
    let room = rustix::fs::statvfs(&options.work)?;
    if room.f_bavail * room.f_frsize < ROOM {
        let place = options.work.display();
        return Err(format!("{place}: the disks take {} MiB", ROOM >> 20).into());
    }
    let began = Instant::now();
    eprintln!("making the disks");
    let house = House::build(
        &options.kami,
        &options.kernel,
        &options.work,
        tsc::khz(),
        options.peers,
    )?;
    let subjects = subject::all(options.peers);
    let profile = &options.profile;
    let mut results = Results::new(profile);
    let mut warmed = began;
    for round in 0..profile.rounds {
        for (index, panel) in profile.panels.iter().enumerate() {
            if warmed.elapsed() > WARM_FOR || index == 0 {
                house.warm()?;
                warmed = Instant::now();
            }
            let seconds = began.elapsed().as_secs();
            eprintln!(
                "{seconds:4} s: round {} of {}: {}",
                round + 1,
                profile.rounds,
                panel.name
            );
            let mut order: Vec<_> = subjects.iter().filter(|s| s.is_in(panel)).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for subject in order {
                let measured = subject.run(&house, panel.disks, &panel.jobs, profile.time)?;
                results.add(index, subject.name, &measured);
            }
        }
    }
    results.sort(&subjects);
    Ok(results)
}

impl Options {
    /// `[--quick] [--no-peers] [--rounds N] --kami FILE --kernel FILE --work FOLDER --out FOLDER`. What cargo itself adds
    /// (`--bench`) is passed over.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let (mut profile, mut peers, mut rounds) = (Profile::full(), true, None);
        let mut paths = [const { None }; 4];
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--bench" => {}
                "--quick" => profile = Profile::quick(),
                "--no-peers" => peers = false,
                "--rounds" => rounds = Some(value()?.parse()?),
                "--kami" => paths[0] = Some(value()?),
                "--kernel" => paths[1] = Some(value()?),
                "--work" => paths[2] = Some(value()?),
                "--out" => paths[3] = Some(value()?),
                _ => return Err(format!("unknown option {word}").into()),
            }
        }
        let [Some(kami), Some(kernel), Some(work), Some(out)] = paths else {
            return Err("scripts/bench disk names the files".into());
        };
        profile.rounds = rounds.unwrap_or(profile.rounds);
        Ok(Self {
            profile,
            peers,
            kami: kami.into(),
            kernel: kernel.into(),
            work: work.into(),
            out: out.into(),
        })
    }
}
