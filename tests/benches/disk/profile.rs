//! What is measured: panels of jobs that vary one thing, as the table and the plots show them.

use std::time::Duration;

use crate::job::{Job, Kind};

/// Which disks a panel is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// Whose blocks are all there, somewhere.
    Readable,
    /// Whose blocks are all the disk's own.
    Copied,
    /// On which nothing has been written, made anew for each job: each block is written once.
    New,
    /// Of which nothing has ever been written, anywhere.
    Empty,
    /// As [`Disks::Copied`], past the page cache.
    Direct,
}

/// What changes from job to job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Depth,
    Block,
    /// More than one thing.
    Mixed,
}

#[derive(Debug)]
pub struct Panel {
    /// Its name in the JSON.
    pub name: &'static str,
    pub title: &'static str,
    pub disks: Disks,
    pub axis: Axis,
    pub jobs: Vec<Job>,
}

#[derive(Debug)]
pub struct Profile {
    pub rounds: usize,
    /// How long a job runs that does not end by itself.
    pub time: Duration,
    pub panels: Vec<Panel>,
}

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;

/// What the aims are about: 4 KiB, 32 in flight.
pub const BLOCK: u32 = 4 * KIB;
pub const DEPTH: u16 = 32;

impl Profile {
    /// About 3 minutes: what the aims are about, and a glance at the rest.
    pub fn quick() -> Self {
        let mut panels = panels(&[1, DEPTH], &[64 * KIB, MIB]);
        let glance = [
            "randread-depth",
            "randwrite-depth",
            "read-block",
            "write-block",
            "first",
        ];
        panels.retain(|panel| glance.contains(&panel.name));
        Self {
            rounds: 3,
            time: Duration::from_millis(150),
            panels,
        }
    }

    /// About 12 minutes.
    pub fn full() -> Self {
        let depths = [1, 4, 16, 32, 64, 128];
        let blocks = [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB];
        Self {
            rounds: 3,
            time: Duration::from_millis(200),
            panels: panels(&depths, &blocks),
        }
    }
}

fn panels(depths: &[u16], blocks: &[u32]) -> Vec<Panel> {
    let mut panels = sweeps(depths, blocks);
    panels.extend(others());
    panels
}

/// Depths and sizes: of each the title, the disks and the kind of request.
fn sweeps(depths: &[u16], blocks: &[u32]) -> Vec<Panel> {
    use Disks::{Copied, Readable};
    use Kind::{RandRead, RandWrite, Read, Write};
    let depth = [
        ("randread-depth", "Random reads, 4 KiB", Readable, RandRead),
        (
            "randwrite-depth",
            "Random rewrites, 4 KiB",
            Copied,
            RandWrite,
        ),
    ];
    let block = [
        (
            "read-block",
            "Sequential reads, 32 in flight",
            Readable,
            Read,
        ),
        (
            "write-block",
            "Sequential rewrites, 32 in flight",
            Copied,
            Write,
        ),
        (
            "randread-block",
            "Random reads, 32 in flight",
            Readable,
            RandRead,
        ),
        (
            "randwrite-block",
            "Random rewrites, 32 in flight",
            Copied,
            RandWrite,
        ),
    ];
    let panel = |(name, title, disks, _), axis, jobs| Panel {
        name,
        title,
        disks,
        axis,
        jobs,
    };
    let depth = depth.map(|row| {
        let jobs = depths.iter().map(|&depth| Job::new(row.3, BLOCK, depth));
        panel(row, Axis::Depth, jobs.collect())
    });
    let block = block.map(|row| {
        let jobs = blocks.iter().map(|&block| Job::new(row.3, block, DEPTH));
        panel(row, Axis::Block, jobs.collect())
    });
    depth.into_iter().chain(block).collect()
}

fn others() -> [Panel; 5] {
    let usual = |kind| Job::new(kind, BLOCK, DEPTH);
    let interrupts = |kind| vec![Job::new(kind, BLOCK, 1).irq(), usual(kind).irq()];
    let panel = |name, title, disks, jobs| Panel {
        name,
        title,
        disks,
        axis: Axis::Mixed,
        jobs,
    };
    let two = |kind| usual(kind).queues(2);
    [
        panel(
            "randread-interrupts",
            "Random reads, 4 KiB, by a guest that sleeps meanwhile",
            Disks::Readable,
            interrupts(Kind::RandRead),
        ),
        panel(
            "randwrite-interrupts",
            "Random rewrites, 4 KiB, by a guest that sleeps meanwhile",
            Disks::Copied,
            interrupts(Kind::RandWrite),
        ),
        panel(
            "two-queues",
            "Two queues",
            Disks::Copied,
            vec![two(Kind::RandRead), two(Kind::RandWrite)],
        ),
        panel(
            "first",
            "First writes, in random order",
            Disks::New,
            vec![usual(Kind::First), Job::new(Kind::First, 64 * KIB, DEPTH)],
        ),
        panel(
            "zeroes",
            "Random reads of a disk that nobody has written",
            Disks::Empty,
            vec![
                usual(Kind::RandRead),
                Job::new(Kind::RandRead, 64 * KIB, DEPTH),
            ],
        ),
    ]
}
