//! What the block device costs without a hypervisor: a driver that polls, on the memory of a guest
//! that is not there, against the real device, the real ring and real files.
//!
//! `cargo bench -p kami-devices --bench block -- [VOLUME:KIND:BLOCK:DEPTH[:QUEUES]]…` prints a line
//! a job: operations a second, the processor time of an operation beside the driver's, latencies.
//! VOLUME is `plain` (one file has every byte), `held` (a snapshot's copy that has copied all),
//! `snapshot` (one that has copied nothing), `zero` (an empty file). KIND is `read`, `write`,
//! `randread`, `randwrite`, or `first` (writes each block once). With `FIO=1` in the environment, fio
//! does the same by io_uring on the host's file of the same bytes; with `PIN=1` the driver and the device
//! have a processor each; `SIZE` is the volume's size in MiB,
//! `MILLIS` how long a job runs; the files lie in `TMPDIR`.
//! Left out on purpose: comparisons and medians (`scripts/bench disk` has them). This tells why.

mod driver;
mod fio;
mod subject;

use std::env;
use std::error::Error;
use std::str::FromStr;
use std::time::Duration;

use driver::Driver;
use subject::Subject;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const JOBS: &[&str] = &[
    "plain:randread:4096:32",
    "plain:randread:4096:1",
    "plain:read:4096:32",
    "plain:read:1048576:8",
    "plain:randwrite:4096:32",
    "plain:randwrite:4096:1",
    "plain:write:4096:32",
    "plain:write:1048576:8",
    "held:randread:4096:32",
    "held:randwrite:4096:32",
    "snapshot:randread:4096:32",
    "snapshot:first:4096:32",
    "snapshot:first:65536:32",
    "zero:randread:4096:32",
];

/// In which order blocks come, and what is done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    RandRead,
    RandWrite,
    First,
}

impl Kind {
    fn is_write(self) -> bool {
        matches!(self, Self::Write | Self::RandWrite | Self::First)
    }
}

#[derive(Clone, Debug)]
struct Job {
    name: String,
    volume: subject::Kind,
    kind: Kind,
    block_bytes: u32,
    depth: u16,
    queues: u16,
}

impl FromStr for Job {
    type Err = Box<dyn Error>;

    fn from_str(name: &str) -> Result<Self> {
        let parts: Vec<_> = name.split(':').collect();
        let (volume, kind, block, depth, queues) = match parts[..] {
            [v, k, b, d] => (v, k, b, d, "1"),
            [v, k, b, d, q] => (v, k, b, d, q),
            _ => return Err(format!("no job: {name}").into()),
        };
        Ok(Self {
            name: name.to_owned(),
            volume: volume.parse()?,
            kind: match kind {
                "read" => Kind::Read,
                "write" => Kind::Write,
                "randread" => Kind::RandRead,
                "randwrite" => Kind::RandWrite,
                "first" => Kind::First,
                _ => return Err(format!("no kind of job: {kind}").into()),
            },
            block_bytes: block.parse()?,
            depth: depth.parse()?,
            queues: queues.parse()?,
        })
    }
}

/// What a job came to.
struct Report {
    operations: u64,
    elapsed: Duration,
    /// Of all threads but the driver's.
    processor: Duration,
    /// Sorted, in nanoseconds.
    latencies: Vec<u64>,
    doorbells: u64,
}

impl Report {
    fn print(&self, job: &Job, fio: Option<f64>) {
        let rate = per_second(self.operations, self.elapsed);
        let micros = |it: Duration| it.as_secs_f64() * 1e6 / count(self.operations);
        let latency = |mille: usize| {
            let index = self.latencies.len() * mille / 1000;
            self.latencies.get(index).map_or(0.0, |it| count(*it) / 1e3)
        };
        print!(
            "{:28} {:9.0}/s {:7.0} MiB/s {:6.2} us cpu/op {:7.1} us p50 {:7.1} p99 {:8.1} p99.9 {:5.2} rings/op",
            job.name,
            rate,
            rate * f64::from(job.block_bytes) / f64::from(1 << 20),
            micros(self.processor),
            latency(500),
            latency(990),
            latency(999),
            count(self.doorbells) / count(self.operations),
        );
        match fio {
            Some(fio) => println!("  fio {fio:9.0}/s, {:.2} of it", rate / fio),
            None => println!(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn count(n: u64) -> f64 {
    n as f64
}

fn per_second(operations: u64, elapsed: Duration) -> f64 {
    count(operations) / elapsed.as_secs_f64()
}

fn number(name: &str, default: u64) -> Result<u64> {
    env::var(name).map_or(Ok(default), |it| Ok(it.parse()?))
}

fn main() -> Result<()> {
    let named: Vec<_> = env::args().skip(1).filter(|it| it != "--bench").collect();
    let jobs = match named.is_empty() {
        true => JOBS.iter().map(|it| it.parse()).collect(),
        false => named
            .iter()
            .map(|it| it.parse())
            .collect::<Result<Vec<Job>>>(),
    }?;
    let size_bytes = number("SIZE", 512)? << 20;
    let time = Duration::from_millis(number("MILLIS", 2000)?);
    let with_fio = number("FIO", 0)? != 0;
    let home = tempfile::tempdir()?;
    let snapshot = match jobs.iter().any(|job| job.volume.has_snapshot()) {
        true => Some(subject::snapshot(home.path(), size_bytes)?),
        false => None,
    };
    for job in jobs {
        let subject = Subject::new(home.path(), job.volume, snapshot, size_bytes)?;
        let fio = match with_fio {
            true => fio::run(&job, &subject.host_file, size_bytes, time)?,
            false => None,
        };
        let report = Driver::new(subject.volume, &job)?.run(&job, size_bytes, time)?;
        report.print(&job, fio);
    }
    Ok(())
}
