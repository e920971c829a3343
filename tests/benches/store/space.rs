//! The space of 20 images that differ from each other in 5 % of what they hold, next to qcow2 files.
//!
//! Each is the disk with 5 % of its data overwritten in runs of 1 MiB that begin at any multiple of 4 KiB: other places and other bytes
//! in each image, as after 20 different upgrades.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kami_tests::measure::{disk_kib, time};

use crate::random::Random;
use crate::{Bench, Result, Row};

const IMAGES: u64 = 20;
const RUN_BYTES: usize = 1 << 20;
const BLOCK_BYTES: u64 = 4096;
const BLOCK_LEN: usize = 4096;

pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let original = bench.fresh("original.raw")?;
    time(convert("raw").arg(&bench.disk).arg(&original))?;
    let changed = bench.fresh("changed.raw")?;
    time(Command::new("cp").arg(&original).arg(&changed))?;
    let home = bench.fresh("space-home")?;
    let mut random = Random::new();
    let (mut imports, mut whole) = (Duration::ZERO, Sum::default());
    for number in 0..IMAGES {
        let places = match number {
            0 => Vec::new(),
            _ => overwrite(&changed, &mut random)?,
        };
        let name = format!("image-{number}");
        let mut import = bench.kami("space-home");
        imports += time(
            import
                .args(["image", "import", "--name", &name])
                .arg(&changed),
        )?;
        let copy = bench.fresh("whole.qcow2")?;
        whole.add(time(convert("qcow2").arg(&changed).arg(&copy))?, &copy)?;
        restore(&original, &changed, &places)?;
    }
    let row = |subject, took: Duration, kib| Row {
        what: format!("{IMAGES} images, 5 % apart"),
        subject,
        ms: took.as_secs_f64() * 1e3,
        kib: Some(kib),
    };
    let rows = vec![
        row("kami image import", imports, disk_kib(&home)?),
        row("qcow2 files", whole.took, whole.kib),
    ];
    for name in ["original.raw", "changed.raw", "space-home", "whole.qcow2"] {
        bench.fresh(name)?;
    }
    Ok(rows)
}

#[derive(Default)]
struct Sum {
    took: Duration,
    kib: u64,
}

impl Sum {
    fn add(&mut self, took: Duration, file: &Path) -> Result<()> {
        self.took += took;
        self.kib += disk_kib(file)?;
        Ok(())
    }
}

fn convert(format: &str) -> Command {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-q", "-O", format]);
    command
}

/// Overwrites 5 % of what the file holds; returns where.
fn overwrite(path: &PathBuf, random: &mut Random) -> Result<Vec<u64>> {
    let file = File::options().read(true).write(true).open(path)?;
    let held_bytes = disk_kib(path)? * 1024;
    let blocks = (file.metadata()?.len() - RUN_BYTES as u64) / BLOCK_BYTES;
    let (mut places, mut old, mut new) = (Vec::new(), vec![0; RUN_BYTES], vec![0; RUN_BYTES]);
    let mut noise = File::open("/dev/urandom")?;
    while (places.len() * RUN_BYTES) as u64 * 20 < held_bytes {
        let place = random.below(blocks) * BLOCK_BYTES;
        file.read_exact_at(&mut old, place)?;
        // What a file system has in use.
        let in_use = old
            .chunks(BLOCK_LEN)
            .all(|block| block.iter().any(|&b| b != 0));
        if in_use {
            noise.read_exact(&mut new)?;
            file.write_all_at(&new, place)?;
            places.push(place);
        }
    }
    Ok(places)
}

fn restore(original: &Path, changed: &Path, places: &[u64]) -> Result<()> {
    let (from, to) = (
        File::open(original)?,
        File::options().write(true).open(changed)?,
    );
    let mut bytes = vec![0; RUN_BYTES];
    for place in places {
        from.read_exact_at(&mut bytes, *place)?;
        to.write_all_at(&bytes, *place)?;
    }
    Ok(())
}
