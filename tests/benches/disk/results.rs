//! All figures of a run, and their JSON.

use kami_tests::measure::median;
use serde_json::{Value, json};

use crate::Result;
use crate::job::Job;
use crate::measured::Measured;
use crate::profile::{Axis, Panel, Profile};
use crate::subject::{FIO, Subject};

#[derive(Debug)]
pub struct Results {
    pub panels: Vec<PanelResults>,
}

#[derive(Debug)]
pub struct PanelResults {
    pub name: &'static str,
    pub title: &'static str,
    pub axis: Axis,
    pub jobs: Vec<Job>,
    pub lines: Vec<Line>,
}

/// A subject's figures in a panel.
#[derive(Debug)]
pub struct Line {
    pub subject: &'static str,
    /// Of each round those of each job.
    rounds: Vec<Vec<Measured>>,
}

impl Results {
    pub fn new(profile: &Profile) -> Self {
        let panels = profile.panels.iter().map(|panel: &Panel| PanelResults {
            name: panel.name,
            title: panel.title,
            axis: panel.axis,
            jobs: panel.jobs.clone(),
            lines: Vec::new(),
        });
        Self {
            panels: panels.collect(),
        }
    }

    /// Adds a subject's next round.
    pub fn add(&mut self, panel: usize, subject: &'static str, measured: &[Measured]) {
        let lines = &mut self.panels[panel].lines;
        let line = lines.iter().position(|line| line.subject == subject);
        let line = line.unwrap_or_else(|| {
            lines.push(Line {
                subject,
                rounds: Vec::new(),
            });
            lines.len() - 1
        });
        lines[line].rounds.push(measured.to_vec());
    }

    /// Brings the lines of each panel into the order of the subjects.
    pub fn sort(&mut self, subjects: &[Subject]) {
        let place = |line: &Line| subjects.iter().position(|s| s.name == line.subject);
        for panel in &mut self.panels {
            panel.lines.sort_by_key(place);
        }
    }

    pub fn panel(&self, name: &str) -> Option<&PanelResults> {
        self.panels.iter().find(|panel| panel.name == name)
    }

    /// A row for each subject and job.
    ///
    /// # Errors
    /// None that is known of.
    pub fn json(&self) -> Result<String> {
        let mut rows = Vec::new();
        for panel in &self.panels {
            for line in &panel.lines {
                rows.extend((0..panel.jobs.len()).map(|job| panel.row(line, job)));
            }
        }
        Ok(serde_json::to_string_pretty(&json!({ "rows": rows }))? + "\n")
    }
}

impl PanelResults {
    pub fn line(&self, subject: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.subject == subject)
    }

    /// The place of a job.
    pub fn job(&self, wanted: &Job) -> Option<usize> {
        self.jobs.iter().position(|job| job == wanted)
    }

    /// How many times as many requests as another subject a subject gets done: the median of the rounds' ratios.
    pub fn ratio(&self, line: &Line, other: &Line, job: usize) -> f64 {
        let rounds = line.rounds.iter().zip(&other.rounds);
        median(rounds.map(|(ours, theirs)| ours[job].iops / theirs[job].iops))
    }

    pub fn of_fio(&self, line: &Line, job: usize) -> Option<f64> {
        Some(self.ratio(line, self.line(FIO)?, job))
    }

    fn row(&self, line: &Line, at: usize) -> Value {
        let (job, figures) = (&self.jobs[at], line.median(at));
        let iops = line.rounds.iter().map(|round| round[at].iops.round());
        json!({
            "panel": self.name,
            "subject": line.subject,
            "kind": job.kind.word(),
            "block_bytes": job.block,
            "depth": job.depth,
            "queues": job.queues,
            "interrupts": job.irq,
            "iops": figures.iops.round(),
            "iops_of_rounds": iops.collect::<Vec<_>>(),
            "iops_of_fio": self.of_fio(line, at).map(thousandths),
            "mib_per_s": thousandths(figures.mib_per_s),
            "latency_us": {
                "p50": thousandths(figures.p50_us),
                "p99": thousandths(figures.p99_us),
                "p99.9": thousandths(figures.p999_us),
            },
            "cpu_us_per_request": thousandths(figures.cpu_us),
            "cpu_us_per_request_without_vcpus": thousandths(figures.io_cpu_us),
        })
    }
}

impl Line {
    pub fn median(&self, job: usize) -> Measured {
        let rounds: Vec<Measured> = self.rounds.iter().map(|round| round[job]).collect();
        Measured::median(&rounds)
    }
}

fn thousandths(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
