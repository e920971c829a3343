//! The mode `log`: numbered records on every disk, and a word on the console for each number up to which a flush has
//! made them last. A machine that is killed at any moment has to have them all when it starts again.
//!
//! A record is 4 KiB of the test pattern whose generation is the record's number, so that each of its sectors tells for
//! itself whether it is right: a write that was under way when the machine was killed may be there in part. Its place
//! follows from its number; after a lap of them the places are written again. Places are scattered over the disk, most
//! of them not on a boundary of 4 KiB. Left out on purpose: knowing what was flushed. That the host has read, or nobody.

use crate::boot_info::BootInfo;
use crate::console::{Console, Failure, failure, report};
use crate::disk::{self, IN, OK, OUT, SECTOR};
use crate::flight::{Flight, Shape};
use crate::hw::Deadline;
use crate::job::permuted;
use crate::memory::{self, Arena};
use crate::pattern::{self, SECTOR_BYTES, Stamp};
use crate::ring::Completion;
use crate::self_test::Machine;

const RECORD_SECTORS: u64 = 8;
const RECORD_BYTES: u64 = RECORD_SECTORS * SECTOR;
/// What each place has of the disk: a record and room for it to move.
const PLACE_SECTORS: u64 = 16;
/// Records of a lap. Fewer on a disk with less room, but more than are in flight.
const PLACES: u64 = 2048;
const PLACES_MIN: u64 = 4 * DEPTH as u64;
/// Records in flight.
const DEPTH: u16 = 16;
/// A flush after at most so many records, at least one.
const FLUSH_WITHIN: u64 = 24;
const DISKS_LIMIT: usize = 4;

/// With the number of the disk's first record: what its records have for a disk's size; "KamiLog" in ASCII, at the top.
const LOG: u64 = 0x676f_4c69_6d61_4b00 & !FIRST;
const FIRST: u64 = (1 << 40) - 1;

/// A disk with records.
struct LogDisk<'a> {
    flight: Flight<'a>,
    places: u64,
    /// The number of its first record, without which it has none.
    first: u64,
}

/// What was found on a disk.
#[derive(Default)]
struct Found {
    /// The number of its first record, and the highest; 0 where there is none.
    first: u64,
    last: u64,
    missing: u64,
}

/// Checks the records that are there, then writes more, for ever or, with `kami.log=check`, not at all.
pub fn run(console: &mut Console, info: &BootInfo, machine: &Machine<'_>) -> Result<(), Failure> {
    let arena = Arena::over(memory::spare(info)?);
    let told = info.number("kami.flushed");
    let flushed = told.unwrap_or(0);
    let logs = info.number("kami.logs").unwrap_or(1) as usize;
    let mut disks = start(machine, &arena)?;
    let (mut last, mut missing) = (flushed, 0);
    for (number, disk) in (0..).zip(&mut disks) {
        let Some(disk) = disk else { continue };
        let must = flushed != 0 && number < logs;
        let found = check(console, number, disk, flushed, must)?;
        last = last.max(found.last);
        missing += found.missing;
        disk.first = found.first;
    }
    if last != 0 {
        report!(console, "log last={last} missing={missing}");
    }
    if missing != 0 {
        return Err(failure!("{missing} records are missing"));
    }
    if info.option("kami.log") == Some("check") {
        return Ok(());
    }
    // What was not flushed may be there or not, so it is written again. Where nobody tells, the log begins anew.
    let next = told.unwrap_or(last) + 1;
    for disk in disks.iter_mut().flatten() {
        if disk.first == 0 || told.is_none() {
            disk.first = next;
        }
    }
    write(console, &mut disks, next)
}

/// Starts every disk that can be written.
fn start<'a>(
    machine: &'a Machine<'_>,
    arena: &Arena,
) -> Result<[Option<LogDisk<'a>>; DISKS_LIMIT], Failure> {
    let shape = Shape {
        queues: 1,
        slots: DEPTH,
        slot_bytes: RECORD_BYTES,
        completion: Completion::Polled,
    };
    let mut disks = [const { None }; DISKS_LIMIT];
    let count = machine.devices(disk::DEVICE_TYPE).count();
    for (number, place) in (0..count).zip(&mut disks) {
        let flight = Flight::start(number, machine, arena, shape)?;
        if flight.is_read_only() {
            continue;
        }
        let places = (flight.sectors / PLACE_SECTORS).min(PLACES);
        if places < PLACES_MIN || flight.slots < DEPTH {
            return Err(failure!("disk{number} has no room for a log"));
        }
        *place = Some(LogDisk {
            flight,
            places,
            first: 0,
        });
    }
    match disks.iter().flatten().count() {
        0 => Err(failure!("there is no disk to write to")),
        _ => Ok(disks),
    }
}

impl LogDisk<'_> {
    /// Where record `number` begins.
    fn sector(&self, number: u64) -> u64 {
        let index = (number - 1) % self.places;
        let place = permuted(index, self.flight.sectors / PLACE_SECTORS);
        place * PLACE_SECTORS + index % (PLACE_SECTORS - RECORD_SECTORS + 1)
    }

    /// The last record up to `flushed` that belongs where the record `number` does, as that is at most a lap; 0 where
    /// there is none.
    fn expected(&self, number: u64, flushed: u64) -> u64 {
        match flushed.checked_sub(number) {
            Some(since) => number + since / self.places * self.places,
            None => 0,
        }
    }

    fn send(&mut self, slot: u16, number: u64) {
        let sector = self.sector(number);
        let stamp = Stamp {
            generation: number,
            disk_sectors: LOG | self.first,
        };
        let data = self.flight.data(slot);
        for at in 0..RECORD_SECTORS {
            let mut bytes = [0; SECTOR_BYTES];
            pattern::fill(sector + at, stamp, &mut bytes);
            data.write(at * SECTOR, &bytes);
        }
        self.flight.send(slot, OUT, sector, RECORD_BYTES);
    }

    /// The numbers that the sectors of the place of record `number`, which has been read, tell: the lowest, or 0 where
    /// not all of them are of the log, and the highest. And the log's first number.
    fn judge(&self, slot: u16, number: u64) -> (u64, u64, u64) {
        let sector = self.sector(number);
        let data = self.flight.data(slot);
        let (mut lowest, mut highest, mut first) = (u64::MAX, 0, 0);
        for at in 0..RECORD_SECTORS {
            let mut bytes = [0; SECTOR_BYTES];
            data.read(at * SECTOR, &mut bytes);
            let stamp = pattern::check(sector + at, &bytes);
            let record = stamp.filter(|stamp| {
                stamp.disk_sectors & !FIRST == LOG
                    && stamp.generation % self.places == number % self.places
            });
            lowest = lowest.min(record.map_or(0, |stamp| stamp.generation));
            if let Some(stamp) = record {
                highest = highest.max(stamp.generation);
                first = first.max(stamp.disk_sectors & FIRST);
            }
        }
        (lowest, highest, first)
    }
}

/// Checks a disk: each place has to hold the last record up to `flushed` that belongs there, or a later one. Where there
/// is not a single record there is no log yet, unless there `must` be one.
fn check(
    console: &mut Console,
    disk_number: usize,
    disk: &mut LogDisk<'_>,
    flushed: u64,
    must: bool,
) -> Result<Found, Failure> {
    let mut lowest = [0; PLACES as usize];
    let mut found = read_all(disk_number, disk, &mut lowest)?;
    if found.first == 0 {
        if !must {
            report!(console, "disk{disk_number}.log=none");
            return Ok(found);
        }
        found.first = 1;
    }
    for (number, &low) in (1..=disk.places).zip(&lowest) {
        let expected = disk.expected(number, flushed);
        if expected >= found.first && low < expected {
            if found.missing == 0 {
                let sector = disk.sector(number);
                report!(
                    console,
                    "disk{disk_number}.log_missing={expected} sector={sector} found={low}"
                );
            }
            found.missing += 1;
        }
    }
    let Found {
        first,
        last,
        missing,
    } = found;
    report!(
        console,
        "disk{disk_number}.log=found first={first} last={last} missing={missing}"
    );
    Ok(found)
}

/// Reads all places, several at once. `lowest` gets, in the order of the first lap, the lowest number that each tells:
/// what is missing can be said when it is known with which number the log begins.
fn read_all(
    disk_number: usize,
    disk: &mut LogDisk<'_>,
    lowest: &mut [u64; PLACES as usize],
) -> Result<Found, Failure> {
    let mut found = Found::default();
    let mut next = 1;
    let mut at_slot = [0; DEPTH as usize];
    let mut in_flight = 0;
    while in_flight != 0 || next <= disk.places {
        // The slots are filled once, then each again as soon as it is free.
        let slot = if next <= u64::from(DEPTH) {
            (next - 1) as u16
        } else {
            let (slot, status) = disk.flight.wait(Completion::Polled)?;
            in_flight -= 1;
            let number = at_slot[usize::from(slot)];
            if status != OK {
                let sector = disk.sector(number);
                return Err(failure!(
                    "disk{disk_number}: read of sector {sector} has status {status}"
                ));
            }
            let (low, high, first) = disk.judge(slot, number);
            lowest[(number - 1) as usize] = low;
            found.last = found.last.max(high);
            found.first = found.first.max(first);
            slot
        };
        if next <= disk.places {
            at_slot[usize::from(slot)] = next;
            let sector = disk.sector(next);
            disk.flight.send(slot, IN, sector, RECORD_BYTES);
            disk.flight.publish();
            next += 1;
            in_flight += 1;
        }
    }
    Ok(found)
}

/// What is under way while records are written.
struct Progress {
    /// On how many disks the record in each slot, and the flush, are not done yet.
    records: [usize; DEPTH as usize],
    flush: usize,
    /// The next record's number, and the lowest that is not done on all disks.
    next: u64,
    undone: u64,
    /// What the flush that is under way covers, and what the last has covered.
    covers: u64,
    covered: u64,
    flush_at: u64,
}

/// Writes records from number `first` on to all disks, several in flight, flushes while others are, and tells what is
/// flushed on all of them.
fn write(
    console: &mut Console,
    disks: &mut [Option<LogDisk<'_>>],
    first: u64,
) -> Result<(), Failure> {
    let count = disks.iter().flatten().count();
    let lap = disks.iter().flatten().map(|disk| disk.places).min();
    let lap = lap.unwrap_or(PLACES_MIN);
    let mut progress = Progress {
        records: [0; DEPTH as usize],
        flush: 0,
        next: first,
        undone: first,
        covers: 0,
        covered: first - 1,
        flush_at: first,
    };
    let mut deadline = Deadline::of_disks();
    loop {
        let slot = (progress.next % u64::from(DEPTH)) as u16;
        // At most a lap beyond what is flushed, however long the flush takes: of the flushed records those are to be
        // found themselves, not later ones in their places.
        let is_free = progress.next < progress.undone + u64::from(DEPTH)
            && progress.next < progress.covered + lap;
        let flushes = progress.flush == 0
            && progress.next > progress.flush_at
            && progress.undone > progress.covered + 1;
        if flushes {
            progress.covers = progress.undone - 1;
            progress.flush = count;
            // Between one record and so many, always in the same order.
            progress.flush_at =
                progress.next + permuted(progress.next % FLUSH_WITHIN, FLUSH_WITHIN);
        }
        for disk in disks.iter_mut().flatten() {
            if flushes {
                disk.flight.send_flush();
            }
            if is_free {
                disk.send(slot, progress.next);
            }
            disk.flight.publish();
        }
        if is_free {
            progress.records[usize::from(slot)] = count;
            progress.next += 1;
        }
        for (number, disk) in (0..).zip(disks.iter_mut()) {
            let Some(disk) = disk else { continue };
            while let Some((slot, status)) = disk.flight.take()? {
                progress.finish(number, slot, status)?;
                deadline = Deadline::of_disks();
            }
        }
        if progress.flush == 0 && progress.covers > progress.covered {
            progress.covered = progress.covers;
            report!(console, "flushed={}", progress.covered);
        }
        if deadline.has_passed() {
            return Err(failure!("the disks do not answer"));
        }
    }
}

impl Progress {
    fn finish(&mut self, disk: usize, slot: u16, status: u8) -> Result<(), Failure> {
        let pending = self.records.get_mut(usize::from(slot));
        let what = if pending.is_some() { "write" } else { "flush" };
        if status != OK {
            return Err(failure!("disk{disk}: a {what} has status {status}"));
        }
        *pending.unwrap_or(&mut self.flush) -= 1;
        let is_done = |number: u64| self.records[(number % u64::from(DEPTH)) as usize] == 0;
        while self.undone < self.next && is_done(self.undone) {
            self.undone += 1;
        }
        Ok(())
    }
}
