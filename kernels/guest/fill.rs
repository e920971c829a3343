//! The mode `fill`: writes the whole of the last disk, one request after the other and several in flight, and goes on
//! after errors: the requests that failed, and no others, are tried again when a byte comes in on the console.
//!
//! In between, both the first disk and what the last one has taken have to be readable. At the end all of it has to be
//! what was written.

use crate::arch::interrupts::{Interrupts, Line};
use crate::arch::{Firmware, uart};
use crate::boot_info::BootInfo;
use crate::console::{Console, Failure, failure, report};
use crate::disk::{self, IN, OK, OUT, SECTOR};
use crate::flight::{Flight, Shape};
use crate::memory::{self, Arena};
use crate::pattern::{self, SECTOR_BYTES, Stamp};
use crate::ring::Completion;
use crate::self_test::Machine;

const BLOCK_BYTES: u64 = 64 << 10;
const BLOCK_SECTORS: u64 = BLOCK_BYTES / SECTOR;
/// Requests in flight.
const DEPTH: u16 = 8;
/// "KamiFill" in ASCII.
const STAMP: Stamp = Stamp {
    generation: 0x6c6c_6946_696d_614b,
    disk_sectors: 0,
};
const SHAPE: Shape = Shape {
    queues: 1,
    slots: DEPTH,
    slot_bytes: BLOCK_BYTES,
    completion: Completion::Polled,
};

/// A request: what it is for, and how it ended.
#[derive(Clone, Copy, Default)]
struct Request {
    sector: u64,
    status: u8,
}

/// The disk that is filled.
struct Target<'a> {
    flight: Flight<'a>,
    /// Where the next request that was never tried begins.
    next: u64,
    /// Requests that failed, to be tried again; the first `failures` of them.
    failed: [Request; DEPTH as usize],
    failures: usize,
}

pub fn run(
    console: &mut Console,
    info: &BootInfo,
    firmware: &Firmware,
    machine: &Machine<'_>,
) -> Result<(), Failure> {
    let arena = Arena::over(memory::spare(info)?);
    let last = machine.devices(disk::DEVICE_TYPE).count().saturating_sub(1);
    let mut target = Target {
        flight: Flight::start(last, machine, &arena, SHAPE)?,
        next: 0,
        failed: [Request::default(); DEPTH as usize],
        failures: 0,
    };
    let mut first = match last {
        0 => None,
        _ => Some(Flight::start(0, machine, &arena, SHAPE)?),
    };
    let line = uart::listen(firmware, machine.interrupts)?;
    let mut is_alive = |target: &mut Target<'_>| {
        target.read_again()?;
        match &mut first {
            Some(first) => read(first, 0).map(drop),
            None => Ok(()),
        }
    };
    report!(console, "fill=going");
    loop {
        target.write()?;
        let at_flush = target.failures == 0;
        let status = match target.first_failure() {
            Some(Request { sector, status }) => {
                let failures = target.failures;
                report!(
                    console,
                    "fill=error at={sector} status={status} failed={failures}"
                );
                status
            }
            None => target.flight.flush(Completion::Polled)?,
        };
        if status == OK {
            break;
        }
        if at_flush {
            report!(console, "fill=error at=flush status={status}");
        }
        is_alive(&mut target)?;
        report!(console, "fill=alive");
        wait_for_byte(console, machine.interrupts, line);
        is_alive(&mut target)?;
        report!(console, "fill=again");
    }
    report!(console, "fill=done");
    target.verify(target.flight.sectors)?;
    report!(console, "fill=verified");
    is_alive(&mut target)
}

fn wait_for_byte(console: &mut Console, interrupts: &Interrupts, line: Line) {
    loop {
        let seen = line.count();
        if console.receive().is_some() {
            return;
        }
        interrupts.wait_for_ever(line, seen);
    }
}

/// Reads the block at `sector`, alone; returns its bytes.
fn read(flight: &mut Flight<'_>, sector: u64) -> Result<u64, Failure> {
    let bytes = BLOCK_BYTES.min((flight.sectors - sector) * SECTOR);
    disk::poison(flight.data(0));
    flight.send(0, IN, sector, bytes);
    flight.publish();
    match flight.wait(Completion::Polled)? {
        (_, OK) => Ok(bytes),
        (_, status) => Err(failure!("read of sector {sector} has status {status}")),
    }
}

impl Target<'_> {
    /// Writes what failed before, then on ahead, until something fails or the disk ends.
    fn write(&mut self) -> Result<(), Failure> {
        // No more than there are slots: they are all under way before anything can fail again.
        let again = self.failed;
        let mut again = again.iter().take(self.failures).map(|it| it.sector);
        self.failures = 0;
        let mut sent = [0; DEPTH as usize];
        let mut free = (1u32 << DEPTH) - 1;
        loop {
            while free != 0
                && self.failures == 0
                && let Some(sector) = again.next().or_else(|| self.ahead())
            {
                let slot = free.trailing_zeros() as u16;
                free &= !(1 << slot);
                sent[usize::from(slot)] = sector;
                self.send(slot, sector);
            }
            if free == (1 << DEPTH) - 1 {
                return Ok(());
            }
            self.flight.publish();
            let (slot, status) = self.flight.wait(Completion::Polled)?;
            free |= 1 << slot;
            if status != OK {
                self.fail(sent[usize::from(slot)], status);
            }
        }
    }

    /// The next block that was never tried.
    fn ahead(&mut self) -> Option<u64> {
        let sector = self.next;
        let is_there = sector < self.flight.sectors;
        self.next += if is_there { BLOCK_SECTORS } else { 0 };
        is_there.then_some(sector)
    }

    fn fail(&mut self, sector: u64, status: u8) {
        // Never more than there are requests in flight.
        if let Some(place) = self.failed.get_mut(self.failures) {
            *place = Request { sector, status };
            self.failures += 1;
        }
    }

    fn first_failure(&self) -> Option<Request> {
        let failed = self.failed.iter().take(self.failures);
        failed.min_by_key(|request| request.sector).copied()
    }

    fn send(&mut self, slot: u16, sector: u64) {
        let bytes = BLOCK_BYTES.min((self.flight.sectors - sector) * SECTOR);
        let data = self.flight.data(slot);
        for (at, number) in (0..bytes).step_by(SECTOR_BYTES).zip(sector..) {
            let mut sector = [0; SECTOR_BYTES];
            pattern::fill(number, STAMP, &mut sector);
            data.write(at, &sector);
        }
        self.flight.send(slot, OUT, sector, bytes);
    }

    /// Whether the disk still gives what it has taken first.
    fn read_again(&mut self) -> Result<(), Failure> {
        let is_taken = self.next > 0
            && self
                .failed
                .iter()
                .take(self.failures)
                .all(|it| it.sector != 0);
        if is_taken {
            self.verify(BLOCK_SECTORS)
        } else {
            Ok(())
        }
    }

    /// Compares the first `sectors` with what was written.
    fn verify(&mut self, sectors: u64) -> Result<(), Failure> {
        for sector in (0..sectors).step_by(BLOCK_SECTORS as usize) {
            let bytes = read(&mut self.flight, sector)?;
            for (at, number) in (0..bytes).step_by(SECTOR_BYTES).zip(sector..) {
                let mut bytes = [0; SECTOR_BYTES];
                self.flight.data(0).read(at, &mut bytes);
                if pattern::check(number, &bytes) != Some(STAMP) {
                    return Err(failure!("sector {number} is not what was written"));
                }
            }
        }
        Ok(())
    }
}
