//! The plots, by gnuplot: it is in every distribution, writes SVG that needs no further program to be read, and costs this workspace no
//! dependency.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Result;
use crate::job::{Job, Kind, size};
use crate::profile::{Axis, BLOCK, DEPTH};
use crate::results::{PanelResults, Results};
use crate::table::{rate, unit};

/// Of each family its colours, one a subject: fio grey, kami blue, qemu red, alioth green.
const COLOURS: [(&str, &[&str]); 4] = [
    ("fio", &["#222222", "#888888"]),
    ("kami", &["#08306b", "#2171b5", "#41a6d9", "#7fc8ec"]),
    ("qemu", &["#a50f15", "#ef3b2c", "#fc8d62"]),
    ("alioth", &["#1b7837", "#74c476"]),
];

/// What a plot of bars shows.
type Figure = fn(&PanelResults, usize, usize) -> f64;

/// Draws `disk-depth.svg`, `disk-block.svg`, `disk-rate.svg`, `disk-cpu.svg` and `disk-latency.svg`.
///
/// # Errors
/// gnuplot cannot be run, or fails.
pub fn draw(results: &Results, out: &Path) -> Result<()> {
    let panels = |axis| {
        results
            .panels
            .iter()
            .filter(move |panel| panel.axis == axis)
    };
    let mut depth = page(out, "disk-depth", 1);
    panels(Axis::Depth).for_each(|panel| curves(panel, &mut depth));
    gnuplot(&depth)?;
    let mut block = page(out, "disk-block", 2);
    panels(Axis::Block).for_each(|panel| curves(panel, &mut block));
    gnuplot(&block)?;
    let figures: [(&str, &str, Figure); 3] = [
        ("disk-rate", "1000 requests/s", rate),
        (
            "disk-cpu",
            "CPU time of a request without vCPUs, µs",
            |panel, line, job| panel.lines[line].median(job).io_cpu_us,
        ),
        (
            "disk-latency",
            "99th percentile of the latency, µs",
            |panel, line, job| panel.lines[line].median(job).p99_us,
        ),
    ];
    for (name, what, figure) in figures {
        let mut script = page(out, name, 1);
        for (panel, kind) in [
            ("randread-depth", Kind::RandRead),
            ("randwrite-depth", Kind::RandWrite),
            ("first", Kind::First),
        ] {
            if let Some(panel) = results.panel(panel) {
                bars(
                    panel,
                    &Job::new(kind, BLOCK, DEPTH),
                    what,
                    figure,
                    &mut script,
                );
            }
        }
        gnuplot(&script)?;
    }
    Ok(())
}

/// A file with plots in so many rows; bars are three in a row, curves two.
fn page(out: &Path, name: &str, rows: u32) -> String {
    let file = out.join(name).with_extension("svg");
    let columns = if name == "disk-depth" || name == "disk-block" {
        2
    } else {
        3
    };
    format!(
        "set terminal svg size 1500,{} font 'sans-serif,14' background 'white'\n\
         set output '{}'\n\
         set multiplot layout {rows},{columns}\n\
         set grid lc rgb '#dddddd' lt 1\nset border 3\nset tics nomirror\n",
        rows * 560,
        file.display(),
    )
}

/// A panel's rates over the depth or size of requests.
fn curves(panel: &PanelResults, script: &mut String) {
    let mut plots = Vec::new();
    let _ = writeln!(script, "unset key\nset title '{}'", panel.title);
    for (index, line) in panel.lines.iter().enumerate() {
        let _ = writeln!(script, "$line{index} << EOD");
        for at in 0..panel.jobs.len() {
            let _ = writeln!(script, "{at} {}", rate(panel, index, at));
        }
        script.push_str("EOD\n");
        let (colour, is_limit) = colour(panel, index);
        let dash = if is_limit { 2 } else { 1 };
        plots.push(format!(
            "$line{index} with linespoints lw 2 dt {dash} pt {} ps 0.8 lc rgb '{colour}' title '{}'",
            4 + index,
            line.subject
        ));
    }
    let tics = panel
        .jobs
        .iter()
        .enumerate()
        .map(|(at, job)| match panel.axis {
            Axis::Block => format!("'{}' {at}", size(job.block)),
            Axis::Depth | Axis::Mixed => format!("'{}' {at}", job.depth),
        });
    let tics: Vec<String> = tics.collect();
    let what = if panel.axis == Axis::Block {
        "bytes of a request"
    } else {
        "requests in flight"
    };
    let _ = writeln!(
        script,
        "set xtics ({})\nset xlabel '{what}'\nset ylabel '{}'\nset yrange [0:*]\nset xrange [-0.2:{}]\n\
         set key outside right top vertical Left reverse samplen 2\nplot {}",
        tics.join(", "),
        unit(panel.axis),
        panel.jobs.len() as f64 - 0.8,
        plots.join(", "),
    );
}

/// A figure of one job, a bar for each subject, with the number beside it.
fn bars(panel: &PanelResults, job: &Job, what: &str, figure: Figure, script: &mut String) {
    let Some(job) = panel.job(job) else {
        return;
    };
    let _ = writeln!(
        script,
        "unset key\nset title \"{}\"\n$bars << EOD",
        panel.title
    );
    let mut most: f64 = 0.0;
    for (index, line) in panel.lines.iter().enumerate() {
        let value = figure(panel, index, job);
        most = most.max(value);
        let (colour, _) = colour(panel, index);
        let colour = colour.replace('#', "0x");
        let _ = writeln!(script, "\"{}\" {value} {colour}", line.subject);
    }
    let _ = writeln!(
        script,
        "EOD\nset xrange [0:{}]\nset yrange [{}:-0.6]\nset xlabel '{what}'\nset ytics scale 0\nset style fill solid\n\
         plot $bars using 2:0:(0):2:($0-0.35):($0+0.35):3:ytic(1) with boxxyerror lc rgb variable, \
         $bars using 2:0:(sprintf(' %.3g', $2)) with labels left",
        most * 1.2,
        panel.lines.len() as f64 - 0.4,
    );
}

/// The colour of a line, and whether it is a limit.
fn colour(panel: &PanelResults, index: usize) -> (&'static str, bool) {
    let name = panel.lines[index].subject;
    let family = COLOURS.iter().find(|(family, _)| name.starts_with(family));
    let Some((family, colours)) = family else {
        return ("#000000", false);
    };
    let before = panel.lines[..index].iter();
    let place = before
        .filter(|line| line.subject.starts_with(family))
        .count();
    (colours[place % colours.len()], *family == "fio")
}

fn gnuplot(script: &str) -> Result<()> {
    let mut command = Command::new("gnuplot");
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().ok_or("no way to gnuplot")?;
    input.write_all(script.as_bytes())?;
    drop(input);
    let status = child.wait()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("gnuplot: {status}").into())
    }
}
