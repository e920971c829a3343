//! Runs a load in the test guest under whatever virtual machine monitor, and reads what it reports on its console.
//!
//! The guest says when a job begins, when it has ended, and after a flush what it came to; at the first two of these the CPU time of the
//! process is read. A short job that nobody counts is the first.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kami_tests::terminal::Terminal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Result;
use crate::cpu::{Cpu, Meter};
use crate::job::{Job, Kind, Limit};
use crate::measured::Measured;
use crate::subject::SPAN_BYTES;

/// What the guest says of a job: before, after, and what it came to.
const BEGIN: &str = "kami-test: load_begins=";
const END: &str = "kami-test: load_ends=";
const REPORT: &str = "kami-test: load=";
const FAILURE: &str = "kami-test: result=fail";

/// How long the job runs that nobody counts.
const WARM_UP: Duration = Duration::from_millis(20);

/// What nothing that runs as it should takes longer than, beside its jobs.
const PATIENCE: Duration = Duration::from_secs(90);

/// A run of several jobs on one disk of the guest.
#[derive(Debug)]
pub struct Load<'a> {
    /// The disk's index, in the order in which the guest finds them.
    pub disk: usize,
    pub jobs: &'a [Job],
    /// How long a job runs that does not end by itself.
    pub time: Duration,
    /// Frequency of the guest's time-stamp counter.
    pub tsc_khz: u64,
}

impl Load<'_> {
    /// The guest's command line.
    pub fn command_line(&self) -> String {
        command_line(self.tsc_khz, &self.wanted().collect::<Vec<_>>())
    }

    /// As the guest names its jobs; the first is not counted.
    fn wanted(&self) -> impl Iterator<Item = String> {
        let warm_up = Job::new(Kind::RandRead, 4096, 32);
        let warm_up = warm_up.for_guest(self.disk, Limit::Time(WARM_UP));
        let jobs = self.jobs.iter();
        let jobs = jobs.map(|job| job.for_guest(self.disk, job.limit(self.time)));
        std::iter::once(warm_up).chain(jobs)
    }

    /// Runs a virtual machine monitor whose guest has this command line.
    ///
    /// # Errors
    /// It cannot be run, a job is not reported or has errors, or nothing happens for too long.
    pub fn run(&self, mut command: Command, terminal: Terminal) -> Result<Vec<Measured>> {
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let mut running = Running::new(child)?;
        let reports = running.until_end();
        running.end();
        drop(terminal);
        let reports = reports?;
        let mut measured = Vec::new();
        for (wanted, report) in self.wanted().zip(&reports) {
            let figures = report.measured(&wanted);
            measured
                .push(figures.ok_or_else(|| format!("{wanted}: the guest reports {report:?}"))?);
        }
        if measured.len() == self.jobs.len() + 1 {
            return Ok(measured.split_off(1));
        }
        let said = String::from_utf8_lossy(&running.console).into_owned();
        Err(format!("{command:?} reported {} jobs only:\n{said}", reports.len()).into())
    }
}

/// The guest's command line for jobs.
pub fn command_line(tsc_khz: u64, jobs: &[String]) -> String {
    let jobs = jobs.join(",");
    format!("kami.test=load kami.tsc_khz={tsc_khz} kami.span={SPAN_BYTES} kami.load={jobs}")
}

/// What a job came to, and the CPU time that it took.
#[derive(Debug)]
struct Report {
    words: HashMap<String, String>,
    used: Cpu,
}

impl Report {
    /// `load=JOB ops=N errors=N bytes=N ns=N p50=N …`.
    fn new(line: &str, used: Cpu) -> Self {
        let words = line.split_whitespace();
        let pairs = words.filter_map(|word| word.split_once('='));
        Self {
            words: pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).collect(),
            used,
        }
    }

    /// `None` of another job, where a number is missing, or a request failed.
    fn measured(&self, wanted: &str) -> Option<Measured> {
        let number = |name: &str| self.words.get(name)?.parse::<f64>().ok();
        if self.words.get("load")? != wanted || number("errors")? > 0.0 {
            return None;
        }
        let (ops, seconds) = (number("ops")?, number("ns")? / 1e9);
        Some(Measured {
            iops: ops / seconds,
            mib_per_s: number("bytes")? / seconds / f64::from(1 << 20),
            p50_us: number("p50")? / 1e3,
            p99_us: number("p99")? / 1e3,
            p999_us: number("p999")? / 1e3,
            io_cpu_us: self.used.others as f64 / 1e3 / ops,
            cpu_us: (self.used.others + self.used.vcpus) as f64 / 1e3 / ops,
        })
    }
}

/// A virtual machine monitor that runs, and its guest's console.
struct Running {
    child: Child,
    output: File,
    meter: Meter,
    console: Vec<u8>,
}

impl Running {
    fn new(mut child: Child) -> Result<Self> {
        let output = child.stdout.take().ok_or("the output is no pipe")?;
        Ok(Self {
            meter: Meter::new(child.id()),
            child,
            output: std::os::fd::OwnedFd::from(output).into(),
            console: Vec::new(),
        })
    }

    /// Reads the console until it is closed.
    fn until_end(&mut self) -> Result<Vec<Report>> {
        let mut reports = Vec::new();
        let mut line_start = 0;
        let (mut begin, mut end) = (Cpu::default(), Cpu::default());
        let mut deadline = Instant::now() + PATIENCE;
        let mut bytes = [0; 4096];
        loop {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
            let mut ready = [PollFd::new(&self.output, PollFlags::IN)];
            if poll(&mut ready, Some(&left))? == 0 {
                let said = String::from_utf8_lossy(&self.console);
                return Err(format!("nothing from the guest for {PATIENCE:?}:\n{said}").into());
            }
            let read = self.output.read(&mut bytes)?;
            if read == 0 {
                return Ok(reports);
            }
            self.console.extend_from_slice(&bytes[..read]);
            while let Some(length) = self.console[line_start..].iter().position(|&b| b == b'\n') {
                let line = String::from_utf8_lossy(&self.console[line_start..line_start + length]);
                if line.contains(FAILURE) {
                    return Err(line.into());
                }
                if line.contains(BEGIN) {
                    begin = self.meter.read();
                } else if line.contains(END) {
                    end = self.meter.read();
                } else if line.contains(REPORT) {
                    reports.push(Report::new(&line, end.since(begin)));
                    deadline = Instant::now() + PATIENCE;
                }
                line_start += length + 1;
            }
        }
    }

    /// Waits for the process, which ends with its guest; one that does not is killed.
    fn end(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
