//! Pages of 50 out of a catalogue with 10,000 images and 100,000 snapshots, as whole commands.

use kami_tests::crowded;
use kami_tests::measure::time;

use crate::{Bench, Result, Row, Subject, interleave, raw_disk};

pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let home = bench.fresh("crowded-home")?;
    let disk = raw_disk(bench, "seed.raw", 1 << 20, 1 << 20)?;
    let mut import = bench.kami("crowded-home");
    time(import.args(["image", "import", "--name", "seed"]).arg(disk))?;
    crowded::fill(&home, 10_000, 100_000)?;
    let listings: [(&str, &[&str]); 6] = [
        ("any image", &["image", "ls"]),
        (
            "images by name",
            &["image", "ls", "--filter", "Name=name,Values=web-9*"],
        ),
        (
            "images by tag",
            &["image", "ls", "--filter", "Name=tag:batch,Values=97"],
        ),
        (
            "images by snapshot",
            &[
                "image",
                "ls",
                "--filter",
                "Name=block-device-mapping.snapshot-id,Values=snap-0000000000000270f",
            ],
        ),
        ("any snapshot", &["snapshot", "ls"]),
        (
            "snapshots by tag",
            &["snapshot", "ls", "--filter", "Name=tag:batch,Values=97"],
        ),
    ];
    let subjects = listings.map(|(what, args)| Subject {
        what: format!("page of {what}"),
        name: "kami, of 10,000 and 100,000",
        run: Box::new(move || {
            let mut command = bench.kami("crowded-home");
            command.args(args);
            command.args(["--max-results", "50", "--output", "json"]);
            Ok((time(&mut command)?, None))
        }),
    });
    interleave(4 * bench.rounds, subjects.into())
}
