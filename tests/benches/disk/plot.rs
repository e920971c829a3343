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
use crate::subject::FIO;
use crate::table::{rate, unit};

/// The colour of each subject, the same in all plots: fio grey, kami blue, qemu red, alioth green.
const COLOURS: [(&str, &str); 13] = [
    ("fio", "#222222"),
    ("fio, tuned", "#888888"),
    ("kami, plain", "#08306b"),
    ("kami, root 0 %", "#9ecae1"),
    ("kami, root 50 %", "#4ea3d8"),
    ("kami, root 100 %", "#2171b5"),
    ("kami, root", "#2171b5"),
    ("kami, ephemeral", "#08306b"),
    ("qemu, raw", "#a50f15"),
    ("qemu, qcow2 0 %", "#fcae91"),
    ("qemu, qcow2 100 %", "#ef3b2c"),
    ("qemu, qcow2", "#ef3b2c"),
    ("alioth", "#1b7837"),
];
/// Of the one that is left.
const COLOUR: &str = "#74c476";

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
    let mut depth = page(out, "disk-depth", 2, 1);
    panels(Axis::Depth).for_each(|panel| curves(panel, &mut depth));
    gnuplot(&depth)?;
    let rows = panels(Axis::Block).count().div_ceil(2);
    let mut block = page(out, "disk-block", 2, rows);
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
        let mut script = page(out, name, 3, 1);
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

/// A file with plots in columns and rows.
fn page(out: &Path, name: &str, columns: usize, rows: usize) -> String {
    let file = out.join(name).with_extension("svg");
    format!(
        "set terminal svg noenhanced size 1500,{} font 'sans-serif,14' background 'white'\n\
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

/// The colour of a line, and whether it is the limit.
fn colour(panel: &PanelResults, index: usize) -> (&'static str, bool) {
    let name = panel.lines[index].subject;
    let colour = COLOURS.iter().find(|(subject, _)| *subject == name);
    (
        colour.map_or(COLOUR, |(_, colour)| colour),
        name.starts_with(FIO),
    )
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
