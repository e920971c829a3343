//! The limit: fio with io_uring on a file of the host's, one job, as deep and with the same blocks as the guest's load.
//!
//! `plain` is fio as it comes: a system call a request, no registered file or buffers. `tuned` has both registered and
//! submits and reaps up to 16 requests a call. Neither drops the file from the page cache before it begins, which fio
//! does unless told otherwise, nor tells the kernel what it is going to read.
//!
//! fio's own CPU figure is that of its main thread, but what cannot be done at once, on ext4 each buffered write, io_uring
//! gives to workers of its own. So the job's process is watched from outside, through the middle of the job.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

use crate::Result;
use crate::cpu::{Cpu, Meter};
use crate::job::{Job, Kind, Limit};
use crate::measured::Measured;

/// How often the CPU time of a job is read.
const LOOK: Duration = Duration::from_millis(5);

/// How fio does it.
#[derive(Clone, Copy, Debug)]
pub struct Fio<'a> {
    pub tuned: bool,
    /// Past the page cache.
    pub direct: bool,
    pub file: &'a Path,
}

impl Fio<'_> {
    /// Runs one job.
    ///
    /// # Errors
    /// fio fails, or says something else than usual.
    pub fn run(&self, job: &Job, time: Duration) -> Result<Measured> {
        let mut command = self.command(job, job.limit(time));
        let child = command.spawn().map_err(|error| format!("fio: {error}"))?;
        let mut watch = Watch::new(child.id());
        let child = watch.until_end(child)?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err(format!("{command:?}: {}", output.status).into());
        }
        // Notes may come before the JSON.
        let start = output.stdout.iter().position(|&byte| byte == b'{');
        let said: Value = serde_json::from_slice(&output.stdout[start.unwrap_or(0)..])?;
        let job_said = &said["jobs"][0];
        let side = &job_said[if job.kind.is_read() { "read" } else { "write" }];
        measured(side, &watch).ok_or_else(|| format!("fio said {job_said}").into())
    }

    fn command(&self, job: &Job, limit: Limit) -> Command {
        let mut command = Command::new("fio");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.args(["--name=job", "--ioengine=io_uring", "--numjobs=1"]);
        command.args(["--invalidate=0", "--fadvise_hint=0", "--unlink=0"]);
        command.args(["--random_generator=tausworthe64", "--randrepeat=0"]);
        command.args(["--lat_percentiles=1", "--clat_percentiles=0"]);
        command.args(["--percentile_list=50:99:99.9", "--output-format=json"]);
        command.arg(format!("--filename={}", self.file.display()));
        command.arg(format!("--direct={}", u8::from(self.direct)));
        command.arg(format!("--bs={}", job.block));
        command.arg(format!("--iodepth={}", job.depth));
        match job.kind {
            Kind::First => command.arg("--rw=randwrite"),
            kind => command.args([&format!("--rw={}", kind.word()), "--norandommap"]),
        };
        if let Limit::Time(time) = limit {
            command.arg("--time_based");
            command.arg(format!("--runtime={}ms", time.as_millis()));
        }
        if self.tuned {
            command.args(["--registerfiles", "--fixedbufs"]);
            let batch = job.depth.min(16);
            command.arg(format!("--iodepth_batch_submit={batch}"));
            command.arg("--iodepth_batch_complete_min=1");
            command.arg(format!("--iodepth_batch_complete_max={batch}"));
        }
        command
    }
}

/// What fio says of one direction.
fn measured(side: &Value, watch: &Watch) -> Option<Measured> {
    let percentile = |name: &str| Some(side["lat_ns"]["percentile"][name].as_f64()? / 1e3);
    // `iops` and `bw` are of whole milliseconds.
    let iops = side["iops"].as_f64()?;
    let runtime = Duration::from_millis(side["runtime"].as_u64()?);
    let cpu_us = watch.load(runtime)? * 1e6 / iops;
    Some(Measured {
        iops,
        mib_per_s: side["bw_bytes"].as_f64()? / f64::from(1 << 20),
        p50_us: percentile("50.000000")?,
        p99_us: percentile("99.000000")?,
        p999_us: percentile("99.900000")?,
        io_cpu_us: cpu_us,
        cpu_us,
    })
}

/// The CPU time of fio's job, a process that fio forks.
struct Watch {
    fio: u32,
    job: Option<Meter>,
    seen: Vec<(Instant, Cpu)>,
}

impl Watch {
    fn new(fio: u32) -> Self {
        Self {
            fio,
            job: None,
            seen: Vec::new(),
        }
    }

    fn until_end(&mut self, mut child: Child) -> Result<Child> {
        while child.try_wait()?.is_none() {
            if let Some(job) = &mut self.job {
                let cpu = job.read();
                self.seen.push((Instant::now(), cpu));
            } else {
                let path = format!("/proc/{0}/task/{0}/children", self.fio);
                let children = fs::read_to_string(path).unwrap_or_default();
                let first = children.split_whitespace().next();
                self.job = first.and_then(|id| id.parse().ok()).map(Meter::new);
            }
            thread::sleep(LOOK);
        }
        Ok(child)
    }

    /// The CPUs that were busy on average through the middle 80 % of a job that ran so long and ended when its CPU time
    /// grew last.
    fn load(&self, runtime: Duration) -> Option<f64> {
        let (_, total) = *self.seen.last()?;
        let (end, _) = *self
            .seen
            .iter()
            .find(|(_, cpu)| cpu.others == total.others)?;
        let at = |before_end: Duration| {
            let seen = self.seen.iter();
            seen.min_by_key(|(when, _)| {
                (end - before_end).max(*when) - (end - before_end).min(*when)
            })
        };
        let (from, before) = at(runtime.mul_f64(0.9))?;
        let (to, after) = at(runtime.mul_f64(0.1))?;
        let used = after.since(*before).others as f64 / 1e9;
        Some(used / (*to - *from).as_secs_f64())
    }
}
