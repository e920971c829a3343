//! What is aimed at, 4 KiB requests, 32 in flight, and what this run has reached.

use std::fmt::Write as _;

use crate::job::{Job, Kind};
use crate::profile::{BLOCK, DEPTH};
use crate::results::{Line, PanelResults, Results};

/// A part of a disk, and the share of fio's rate that is aimed at.
struct Aim {
    what: &'static str,
    panel: &'static str,
    kind: Kind,
    subject: &'static str,
    of_fio: f64,
}

const AIMS: [Aim; 4] = [
    Aim {
        what: "reads of the copied part",
        panel: "randread-depth",
        kind: Kind::RandRead,
        subject: "kami, root 100 %",
        of_fio: 0.9,
    },
    Aim {
        what: "rewrites of the copied part",
        panel: "randwrite-depth",
        kind: Kind::RandWrite,
        subject: "kami, root 100 %",
        of_fio: 0.9,
    },
    Aim {
        what: "reads of the snapshot part",
        panel: "randread-depth",
        kind: Kind::RandRead,
        subject: "kami, root 0 %",
        of_fio: 0.9,
    },
    Aim {
        what: "first writes",
        panel: "first",
        kind: Kind::First,
        subject: "kami, root",
        of_fio: 0.6,
    },
];

/// Others on a raw file.
const RAW_PEERS: [&str; 3] = ["qemu, raw", "alioth", "alioth, io_uring"];
/// And on a copy-on-write one.
const OVERLAY: &str = "qemu, qcow2";
const OVERLAY_AIM: f64 = 2.0;

pub fn of(results: &Results) -> String {
    let mut text = String::from("Aims, at 4 KiB and 32 in flight\n");
    for aim in AIMS {
        let Some(panel) = results.panel(aim.panel) else {
            continue;
        };
        let (job, line) = (
            panel.job(&Job::new(aim.kind, BLOCK, DEPTH)),
            panel.line(aim.subject),
        );
        let (Some(job), Some(line)) = (job, line) else {
            continue;
        };
        let mut say = |of: &str, ratio: f64, least: f64| {
            let word = if ratio >= least { "reached" } else { "missed" };
            let _ = writeln!(
                text,
                "{:<28} {ratio:>5.2} of {of:<24} aim {least:.2}  {word}",
                aim.what
            );
        };
        if let Some(ratio) = panel.of_fio(line, job) {
            say("fio", ratio, aim.of_fio);
        }
        if let Some(best) = best_peer(panel, |peer| panel.ratio(line, peer, job)) {
            say(best.subject, panel.ratio(line, best, job), 1.0);
        }
        let cpu = |line: &Line| line.median(job).io_cpu_us;
        if let Some(best) = best_peer(panel, cpu) {
            say(
                &format!("the CPU of {}", best.subject),
                cpu(best) / cpu(line),
                1.0,
            );
        }
        if let Some(overlay) = panel.line(OVERLAY) {
            say(OVERLAY, panel.ratio(line, overlay, job), OVERLAY_AIM);
        }
    }
    text
}

/// The one of the others on a raw file with the least of something.
fn best_peer(panel: &PanelResults, least: impl Fn(&Line) -> f64) -> Option<&Line> {
    let peers = panel
        .lines
        .iter()
        .filter(|line| RAW_PEERS.contains(&line.subject));
    peers.min_by(|a, b| least(a).total_cmp(&least(b)))
}
