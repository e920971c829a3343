//! Importing a disk, next to `qemu-img convert` of the same file.
//!
//! What an import has stored is on the disk when it ends, and was read back. `qemu-img convert` by itself leaves its output in
//! the page cache; the other row of it has it flushed.

use std::process::Command;

use kami_tests::measure::{disk_kib, time};

use crate::{Bench, Cost, Result, Row, Subject, interleave};

pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let subject = |name, run| Subject {
        what: "import".to_owned(),
        name,
        run,
    };
    interleave(
        bench.rounds,
        vec![
            subject("kami image import", Box::new(|| kami(bench))),
            subject("qemu-img convert", Box::new(|| convert(bench, "unsafe"))),
            subject(
                "qemu-img convert, flushed",
                Box::new(|| convert(bench, "writeback")),
            ),
        ],
    )
}

fn kami(bench: &Bench) -> Result<Cost> {
    let home = bench.fresh("import-home")?;
    let mut command = bench.kami("import-home");
    command.args(["image", "import", "--name", "debian"]);
    let took = time(command.arg(&bench.disk))?;
    let kib = disk_kib(&home)?;
    bench.fresh("import-home")?;
    Ok((took, Some(kib)))
}

fn convert(bench: &Bench, cache: &str) -> Result<Cost> {
    let out = bench.fresh("import.qcow2")?;
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-q", "-t", cache, "-O", "qcow2"]);
    let took = time(command.arg(&bench.disk).arg(&out))?;
    let kib = disk_kib(&out)?;
    bench.fresh("import.qcow2")?;
    Ok((took, Some(kib)))
}
