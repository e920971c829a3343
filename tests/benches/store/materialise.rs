//! Making a root volume of a snapshot: 1 GiB, 100 GiB and 16 TiB, next to `qemu-img create -b` and `cp --reflink=auto`.
//!
//! All disks begin with the same 1 GiB, of which 256 MiB are not zeroes. `Store::launch` is what `kami run` calls: rows, the
//! instance's folder with its lock, the volume's files; called in this process, as `run` does it, it pays for no start of a
//! process.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kami_image::instance::InstanceSettings;
use kami_image::manifest::{Architecture, Image};
use kami_image::mapping::{Disk, Ephemeral};
use kami_image::store::{ImportRequest, NewInstance, Store};
use kami_tests::measure::{disk_kib, time};

use crate::{Bench, Cost, Result, Row, Subject, interleave, raw_disk};

const SIZES: [(&str, u64); 3] = [
    ("1 GiB", 1 << 30),
    ("100 GiB", 100 << 30),
    ("16 TiB", 16 << 40),
];

const DATA_BYTES: u64 = 256 << 20;

pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let home = bench.fresh("home")?;
    let store = Store::open(&home)?;
    // The first GiB of every disk.
    let start = raw_disk(bench, "root.raw", SIZES[0].1, DATA_BYTES)?;
    let mut subjects = Vec::new();
    for (size, bytes) in SIZES {
        let subject = |name, run| Subject {
            what: format!("materialise {size}"),
            name,
            run,
        };
        let disk = qcow2(bench, &start, size, bytes)?;
        let image = import(&store, &disk, size)?;
        let disks = store.resolve(
            &image,
            &[],
            Ephemeral {
                count: 0,
                size_bytes: 0,
            },
        )?;
        let of_launch = &store;
        let launch: Box<dyn FnMut() -> Result<_>> =
            Box::new(move || launch(of_launch, &image, &disks));
        subjects.push(subject("kami (Store::launch)", launch));
        let create = move || overlay(bench, &disk);
        subjects.push(subject("qemu-img create -b", Box::new(create)));
        let raw = bench.fresh(&format!("root-{bytes}.raw"))?;
        if raw_copy(&start, &raw, bytes)? {
            let copy = move || copy(bench, &raw);
            subjects.push(subject("cp --reflink=auto", Box::new(copy)));
        }
    }
    interleave(4 * bench.rounds, subjects)
}

/// A disk of `bytes` that begins with `start`.
fn qcow2(bench: &Bench, start: &Path, size: &str, bytes: u64) -> Result<PathBuf> {
    let name = format!("root-{}.qcow2", size.replace(' ', ""));
    let path = bench.fresh(&name)?;
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
    time(command.arg(start).arg(&path).arg(bytes.to_string()))?;
    Ok(path)
}

/// The same as a raw file, where the file system can hold one so long.
fn raw_copy(start: &Path, path: &Path, bytes: u64) -> Result<bool> {
    std::fs::copy(start, path)?;
    match File::options().write(true).open(path)?.set_len(bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
            std::fs::remove_file(path)?;
            Ok(false)
        }
        result => Ok(result.map(|()| true)?),
    }
}

fn import(store: &Store, disk: &Path, name: &str) -> Result<Image> {
    let request = ImportRequest {
        file: disk.to_owned(),
        name: name.to_owned(),
        architecture: Architecture::X86_64,
        description: None,
        tags: Vec::new(),
    };
    Ok(store.import(&request, &mut |_, _| ControlFlow::Continue(()))?)
}

fn launch(store: &Store, image: &Image, disks: &[Disk]) -> Result<Cost> {
    let new = NewInstance {
        image,
        name: None,
        disks,
        cpus: 1,
        memory_bytes: 1 << 30,
        remove_at_end: false,
        settings: InstanceSettings::default(),
        reservation: None,
        tags: &[],
        client_token: None,
    };
    let start = Instant::now();
    let launched = store.launch(&new)?;
    let took = start.elapsed();
    let id = launched.instance.id;
    drop(launched);
    let kib = disk_kib(&store.home().join("volumes"))? + disk_kib(&store.instance_folder(&id))?;
    store.undo_launch(&id)?;
    Ok((took, Some(kib)))
}

fn overlay(bench: &Bench, disk: &Path) -> Result<Cost> {
    let out = bench.fresh("overlay.qcow2")?;
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]);
    Ok((time(command.arg(disk).arg(&out))?, Some(disk_kib(&out)?)))
}

fn copy(bench: &Bench, raw: &Path) -> Result<Cost> {
    let out = bench.fresh("copy.raw")?;
    let took = time(Command::new("cp").arg("--reflink=auto").arg(raw).arg(&out))?;
    Ok((took, Some(disk_kib(&out)?)))
}
