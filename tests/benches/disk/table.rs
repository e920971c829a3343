//! The table on the terminal: of each panel the requests or MiB in a second and their share of fio's, then latencies and CPU time where it
//! has 4 KiB requests, 32 in flight.

use std::fmt::Write as _;

use crate::job::{Job, size};
use crate::profile::{Axis, BLOCK, DEPTH};
use crate::results::{PanelResults, Results};

pub fn of(results: &Results) -> String {
    let mut text = String::new();
    for panel in &results.panels {
        let _ = writeln!(text, "{}", panel.title);
        rates(panel, &mut text);
        text.push('\n');
    }
    for panel in &results.panels {
        if panel.axis == Axis::Block {
            continue;
        }
        let usual =
            |job: &&Job| job.block == BLOCK && job.depth == DEPTH && job.queues == 1 && !job.irq;
        if let Some(job) = panel.jobs.iter().find(usual).and_then(|job| panel.job(job)) {
            costs(panel, job, &mut text);
        }
    }
    text
}

/// What a panel's plots and table show of a job.
pub fn rate(panel: &PanelResults, line: usize, job: usize) -> f64 {
    let figures = panel.lines[line].median(job);
    match panel.axis {
        Axis::Block => figures.mib_per_s,
        Axis::Depth | Axis::Mixed => figures.iops / 1e3,
    }
}

/// Its unit.
pub fn unit(axis: Axis) -> &'static str {
    match axis {
        Axis::Block => "MiB/s",
        Axis::Depth | Axis::Mixed => "1000/s",
    }
}

fn rates(panel: &PanelResults, text: &mut String) {
    let _ = write!(text, "{:<18}", unit(panel.axis));
    for job in &panel.jobs {
        let heading = match panel.axis {
            Axis::Depth => format!("{} in flight", job.depth),
            Axis::Block => size(job.block),
            Axis::Mixed => job.to_string(),
        };
        let _ = write!(text, " {heading:>16}");
    }
    text.push('\n');
    for (index, line) in panel.lines.iter().enumerate() {
        let _ = write!(text, "{:<18}", line.subject);
        for job in 0..panel.jobs.len() {
            let of_fio = panel.of_fio(line, job);
            let of_fio = of_fio.map(|ratio| format!(" ({ratio:.2})"));
            let rate = format!(
                "{:.1}{}",
                rate(panel, index, job),
                of_fio.unwrap_or_default()
            );
            let _ = write!(text, " {rate:>16}");
        }
        text.push('\n');
    }
}

fn costs(panel: &PanelResults, job: usize, text: &mut String) {
    let _ = writeln!(text, "{}: {}, µs a request", panel.title, panel.jobs[job]);
    let _ = writeln!(
        text,
        "{:<18} {:>9} {:>9} {:>9} {:>9} {:>16}",
        "", "p50", "p99", "p99.9", "CPU", "without vCPUs"
    );
    for line in &panel.lines {
        let figures = line.median(job);
        let _ = writeln!(
            text,
            "{:<18} {:>9.1} {:>9.1} {:>9.1} {:>9.2} {:>16.2}",
            line.subject,
            figures.p50_us,
            figures.p99_us,
            figures.p999_us,
            figures.cpu_us,
            figures.io_cpu_us
        );
    }
    text.push('\n');
}
