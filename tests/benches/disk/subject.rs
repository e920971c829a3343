//! Whom is loaded: fio on the host's files, kami's disks, other virtual machine monitors with the same guest.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kami_tests::measure::time;

use crate::Result;
use crate::fio::Fio;
use crate::guest::Load;
use crate::job::Job;
use crate::kami::{EPHEMERAL, Kami, PLAIN, ROOT};
use crate::measured::Measured;
use crate::peers::{Api, Format, Peer};
use crate::profile::{Disks, Panel};

/// Bytes that are loaded, the first of every disk; a volume has at least 1 GiB, the rest of which is left alone.
pub const SPAN_BYTES: u64 = 256 << 20;

/// What fio is called in tables, and plots: the limit.
pub const FIO: &str = "fio";

/// Who does the reading and writing.
#[derive(Clone, Copy, Debug)]
enum Way {
    Fio {
        tuned: bool,
    },
    /// A disk of an instance that was prepared.
    Kami(&'static str, usize),
    /// A disk of a new instance.
    KamiNew(usize),
    Peer(Peer),
}

/// A line of a panel.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    pub name: &'static str,
    disks: &'static [Disks],
    way: Way,
    /// The disk's file; what is made anew where there is none.
    file: Option<&'static str>,
}

/// Everything that subjects are made of.
#[derive(Debug)]
pub struct House {
    kami: Kami,
    kernel: PathBuf,
    work: PathBuf,
}

const READ_ONLY: &[Disks] = &[Disks::Readable];
const STANDING: &[Disks] = &[Disks::Readable, Disks::Copied, Disks::Direct];
const NEW: &[Disks] = &[Disks::New];
const EMPTY: &[Disks] = &[Disks::New, Disks::Empty];

const QEMU_RAW: Way = Way::Peer(Peer::Qemu(Format::Raw));
const QCOW2: Way = Way::Peer(Peer::Qemu(Format::Qcow2));
const ALIOTH: Way = Way::Peer(Peer::Alioth(Api::Sync));
const ALIOTH_URING: Way = Way::Peer(Peer::Alioth(Api::IoUring));

/// All, fio first.
pub fn all(peers: bool) -> Vec<Subject> {
    let subject = |name, disks, way, file| Subject {
        name,
        disks,
        way,
        file,
    };
    let fio = Way::Fio { tuned: false };
    let tuned = Way::Fio { tuned: true };
    let mut all = vec![
        subject(FIO, STANDING, fio, Some("disk.raw")),
        subject(FIO, EMPTY, fio, None),
        subject("fio, tuned", STANDING, tuned, Some("disk.raw")),
        subject("fio, tuned", EMPTY, tuned, None),
        subject("kami, plain", STANDING, Way::Kami("copied", PLAIN), None),
        subject("kami, root 0 %", READ_ONLY, Way::Kami("none", ROOT), None),
        subject("kami, root 50 %", READ_ONLY, Way::Kami("half", ROOT), None),
        subject(
            "kami, root 100 %",
            STANDING,
            Way::Kami("copied", ROOT),
            None,
        ),
        subject("kami, root", NEW, Way::KamiNew(ROOT), None),
        subject("kami, ephemeral", EMPTY, Way::KamiNew(EPHEMERAL), None),
    ];
    if peers {
        all.extend([
            subject("qemu, raw", STANDING, QEMU_RAW, Some("disk.raw")),
            subject("qemu, raw", EMPTY, QEMU_RAW, None),
            subject("qemu, qcow2 0 %", READ_ONLY, QCOW2, Some("none.qcow2")),
            subject("qemu, qcow2 100 %", STANDING, QCOW2, Some("copied.qcow2")),
            subject("qemu, qcow2", NEW, QCOW2, None),
            subject("alioth", &STANDING[..2], ALIOTH, Some("disk.raw")),
            subject("alioth", EMPTY, ALIOTH, None),
            subject(
                "alioth, io_uring",
                &STANDING[..2],
                ALIOTH_URING,
                Some("disk.raw"),
            ),
            subject("alioth, io_uring", EMPTY, ALIOTH_URING, None),
        ]);
    }
    all
}

impl House {
    /// Makes every disk of noise, or standing on one: `base.raw` below kami's snapshot and the overlays, `disk.raw` for all that
    /// have a plain file.
    ///
    /// # Errors
    /// A command fails, or there is no room.
    pub fn build(
        kami: &Path,
        kernel: &Path,
        work: &Path,
        tsc_khz: u64,
        peers: bool,
    ) -> Result<Self> {
        let base = work.join("base.raw");
        let mut noise = std::io::Read::take(File::open("/dev/urandom")?, SPAN_BYTES);
        std::io::copy(&mut noise, &mut File::create(&base)?)?;
        fs::copy(&base, work.join("disk.raw"))?;
        let kami = Kami::new(kami, kernel, &base, work.join("home"), tsc_khz)?;
        kami.prepare("none", &[])?;
        kami.prepare("half", &[(ROOT, 500)])?;
        kami.prepare("copied", &[(ROOT, 1000), (PLAIN, 1000)])?;
        let house = Self {
            kami,
            kernel: kernel.into(),
            work: work.into(),
        };
        if peers {
            house.overlay("none.qcow2")?;
            let copied = house.overlay("copied.qcow2")?;
            let fill = format!("write -P 0x5a 0 {SPAN_BYTES}");
            time(Command::new("qemu-io").args(["-c", &fill]).arg(copied))?;
        }
        rustix::fs::sync();
        Ok(house)
    }

    /// A qcow2 overlay of which nothing has been copied.
    fn overlay(&self, name: &str) -> Result<PathBuf> {
        let file = self.work.join(name);
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
        time(command.arg(self.work.join("base.raw")).arg(&file))?;
        Ok(file)
    }

    /// Reads all files, so that the page cache has them for everybody.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn warm(&self) -> Result<()> {
        let mut folders = vec![self.work.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.is_file() {
                    std::io::copy(&mut File::open(path)?, &mut std::io::sink())?;
                }
            }
        }
        Ok(())
    }
}

impl Subject {
    /// Whether it is one of a panel's.
    pub fn is_in(&self, panel: &Panel) -> bool {
        // alioth's disks have one queue, and its guests no timer that interrupts.
        let too_much = panel.jobs.iter().any(|job| job.queues > 1 || job.irq);
        let is_alioth = matches!(self.way, Way::Peer(Peer::Alioth(_)));
        self.disks.contains(&panel.disks) && !(too_much && is_alioth)
    }

    /// Runs jobs, each on a new disk if `disks` are such.
    ///
    /// # Errors
    /// One fails.
    pub fn run(
        &self,
        house: &House,
        disks: Disks,
        jobs: &[Job],
        time: Duration,
    ) -> Result<Vec<Measured>> {
        let run = |jobs: &[Job]| self.run_some(house, disks, jobs, time);
        let measured = match disks {
            Disks::New => jobs
                .iter()
                .map(|job| run(&[*job]))
                .collect::<Result<Vec<_>>>()?
                .concat(),
            _ => run(jobs)?,
        };
        Ok(measured)
    }

    fn run_some(
        &self,
        house: &House,
        disks: Disks,
        jobs: &[Job],
        time: Duration,
    ) -> Result<Vec<Measured>> {
        let direct = disks == Disks::Direct;
        let load = |disk| Load {
            disk,
            jobs,
            time,
            tsc_khz: house.kami.tsc_khz,
        };
        match self.way {
            Way::Kami(instance, disk) => house.kami.load(instance, &load(disk)),
            Way::KamiNew(disk) => house.kami.load_new(&load(disk)),
            Way::Fio { tuned } => self.on_file(house, |file| {
                let fio = Fio {
                    tuned,
                    direct,
                    file,
                };
                jobs.iter().map(|job| fio.run(job, time)).collect()
            }),
            Way::Peer(peer) => self.on_file(house, |file| {
                peer.load(&house.kernel, file, direct, &load(0))
            }),
        }
        .map_err(|error| format!("{}: {error}", self.name).into())
    }

    /// On its file, written back afterwards as the guest's flush does it, or on a new one.
    fn on_file(
        &self,
        house: &House,
        run: impl FnOnce(&Path) -> Result<Vec<Measured>>,
    ) -> Result<Vec<Measured>> {
        if let Some(name) = self.file {
            let file = house.work.join(name);
            let measured = run(&file)?;
            File::open(file)?.sync_data()?;
            return Ok(measured);
        }
        let file = match self.way {
            Way::Peer(Peer::Qemu(Format::Qcow2)) => house.overlay("new.qcow2")?,
            _ => {
                let file = house.work.join("new.raw");
                File::create(&file)?.set_len(SPAN_BYTES)?;
                file
            }
        };
        let measured = run(&file);
        fs::remove_file(file)?;
        measured
    }
}
