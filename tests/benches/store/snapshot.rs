//! Snapshots: the second one of a volume after scattered writes, and the whole life of a volume of 16 TiB. Nothing that is measured
//! beside them does the same.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use kami_tests::disk::Disk;
use kami_tests::measure::{disk_kib, median, time};

use crate::{Bench, Cost, Result, Row, Subject, interleave, random::Random};

/// How much is written in a piece, at any multiple of it.
const PIECE_BYTES: u64 = 64 << 10;
const PIECE_LEN: usize = 64 << 10;
const MIB: u64 = 1 << 20;

pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let home = bench.fresh("snapshot-home")?;
    let image = ["image", "import", "--name", "debian"];
    time(bench.kami("snapshot-home").args(image).arg(&bench.disk))?;
    let snapshots = said(bench, &["snapshot", "ls", "--output", "json"])?;
    let snapshot = id_in(&snapshots, "snap-")?;
    let mut random = Random::new();
    let mut subjects = Vec::new();
    for mib in [25, 100, 400] {
        let volume = said(bench, &["volume", "create", "--snapshot", &snapshot])?;
        let home = home.clone();
        let mut random = random.fork();
        subjects.push(Subject {
            what: format!("snapshot, {mib} MiB new"),
            name: "kami snapshot create",
            run: Box::new(move || {
                scatter(&home, &volume, mib * MIB, &mut random)?;
                let before = content_kib(&home)?;
                let took = create(bench, &volume)?;
                Ok((took, Some(content_kib(&home)?.saturating_sub(before))))
            }),
        });
    }
    let mut rows = interleave(bench.rounds, subjects)?;
    rows.extend(sixteen_tib(bench, &home)?);
    bench.fresh("snapshot-home")?;
    Ok(rows)
}

fn create(bench: &Bench, volume: &str) -> Result<std::time::Duration> {
    let mut command = bench.kami("snapshot-home");
    Ok(time(command.args(["snapshot", "create", volume]))?)
}

/// What a command prints, without the last line's end.
fn said(bench: &Bench, args: &[&str]) -> Result<String> {
    let output = bench.kami("snapshot-home").args(args).output()?;
    if !output.status.success() {
        return Err(format!("{args:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

/// The first id with that prefix.
fn id_in(text: &str, prefix: &str) -> Result<String> {
    let at = text.find(prefix).ok_or("nothing is listed")?;
    Ok(text[at..].chars().take(prefix.len() + 17).collect())
}

/// Overwrites `bytes` in pieces all over the volume with noise, and flushes it.
fn scatter(home: &Path, volume: &str, bytes: u64, random: &mut Random) -> Result<()> {
    let mut disk = Disk::open(home, volume)?;
    let (mut noise, mut piece) = (File::open("/dev/urandom")?, vec![0; PIECE_LEN]);
    let pieces = disk.size_bytes() / PIECE_BYTES;
    for _ in 0..bytes / PIECE_BYTES {
        noise.read_exact(&mut piece)?;
        disk.write(random.below(pieces) * PIECE_BYTES, &piece)?;
    }
    disk.flush()
}

/// What snapshots take.
fn content_kib(home: &Path) -> Result<u64> {
    Ok(disk_kib(&home.join("segments"))? + disk_kib(&home.join("snapshots"))?)
}

/// Creates a volume, writes a block at both ends, snapshots it, and deletes both.
fn sixteen_tib(bench: &Bench, home: &Path) -> Result<Vec<Row>> {
    let steps = ["create", "write both ends", "snapshot", "delete both"];
    let mut costs: [Vec<Cost>; 4] = Default::default();
    for _ in 0..=bench.rounds {
        rustix::fs::sync();
        let volumes = home.join("volumes");
        let before = disk_kib(&volumes)?;
        let start = Instant::now();
        let volume = said(bench, &["volume", "create", "--size", "16384"])?;
        costs[0].push((
            start.elapsed(),
            Some(disk_kib(&volumes)?.saturating_sub(before)),
        ));

        let start = Instant::now();
        let mut disk = Disk::open(home, &volume)?;
        disk.write(0, &[1; 4096])?;
        disk.write(disk.size_bytes() - 4096, &[2; 4096])?;
        disk.flush()?;
        drop(disk);
        costs[1].push((
            start.elapsed(),
            Some(disk_kib(&volumes)?.saturating_sub(before)),
        ));

        let before = content_kib(home)?;
        let start = Instant::now();
        let snapshot = said(bench, &["snapshot", "create", &volume])?;
        costs[2].push((
            start.elapsed(),
            Some(content_kib(home)?.saturating_sub(before)),
        ));

        let start = Instant::now();
        said(bench, &["volume", "delete", &volume])?;
        said(bench, &["snapshot", "delete", &snapshot])?;
        costs[3].push((
            start.elapsed(),
            Some(content_kib(home)?.saturating_sub(before)),
        ));
    }
    let rows = steps.into_iter().zip(costs).map(|(step, costs)| Row {
        what: format!("16 TiB: {step}"),
        subject: "kami volume, kami snapshot",
        ms: median(costs[1..].iter().map(|(took, _)| took.as_secs_f64() * 1e3)),
        kib: Some(median(costs[1..].iter().map(|(_, kib)| kib.unwrap_or(0)))),
    });
    Ok(rows.collect())
}
