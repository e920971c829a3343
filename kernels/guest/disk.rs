//! Tests a virtio block device: who it is, whether what it holds is right, whether it keeps what is written.
//!
//! Implements the driver's side of virtio 1.3 §5.2. Every disk is written to, always with the test pattern, so that
//! a disk that carried the pattern still carries it, under another stamp.

use crate::arch::interrupts::{Interrupts, Line};
use crate::arch::timestamp;
use crate::census::Census;
use crate::console::{Console, Failure, failure, report};
use crate::hw::Window;
use crate::pattern::{self, SECTOR_BYTES, Stamp};
use crate::pci::Function;
use crate::self_test::Machine;
use crate::virtio::{self, Buffer, Device, Queue};

pub const DEVICE_TYPE: u16 = 2;

pub const F_RO: u64 = 1 << 5;
const F_FLUSH: u64 = 1 << 9;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;
pub const WANTED: u64 =
    F_RO | F_FLUSH | F_MQ | F_DISCARD | F_WRITE_ZEROES | virtio::F_INDIRECT_DESC;

const CONFIG_NUM_QUEUES: u64 = 34;

/// §5.2.6: request types and statuses.
pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
pub const OK: u8 = 0;
const IOERR: u8 = 1;
/// What the status is before the device writes it.
pub const NO_STATUS: u8 = 0xee;

/// Bytes of a sector.
pub const SECTOR: u64 = SECTOR_BYTES as u64;
/// The bytes of one request for data; with the pattern's whole check, of each of a batch.
const BLOCK_BYTES: u64 = 4096;
const BLOCK_SECTORS: u64 = BLOCK_BYTES / SECTOR;
const BULK_BYTES: u64 = 32 << 10;
const BULK_REQUESTS: u16 = 8;
pub const SCRATCH_BYTES: u64 = BULK_BYTES * BULK_REQUESTS as u64;
/// How many places of a disk are looked at for the pattern.
const SAMPLES: u64 = 12;

/// A disk whose queues are set up.
pub struct Disk<'a> {
    number: usize,
    device: Device,
    queues: [Option<Queue>; virtio::QUEUES_LIMIT as usize],
    line: Line,
    interrupts: &'a Interrupts,
    sectors: u64,
    /// Requests for data in one batch.
    batch: u64,
    header: Window,
    status: Window,
    data: Window,
}

impl<'a> Disk<'a> {
    /// Starts the disk `number`. Its queues share one interrupt line of ours, each by an MSI-X entry of its own.
    pub fn start(
        number: usize,
        machine: &'a Machine<'_>,
        function: Function,
    ) -> Result<Self, Failure> {
        let Machine {
            interrupts,
            pci,
            arena,
            scratch,
        } = machine;
        let device = Device::new(pci, function, WANTED)?;
        let line = interrupts.new_line();
        let queue_count = queue_count(&device)?;
        let mut queues = [const { None }; virtio::QUEUES_LIMIT as usize];
        for (index, queue) in (0..queue_count).zip(&mut queues) {
            *queue = Some(device.queue(index, arena, interrupts, line)?);
        }
        device.start(interrupts)?;
        // Header, data, status. The first queue is the judge of all: a device makes them alike.
        let batch = queues[0].as_ref().map_or(0, |queue| queue.batch_limit(3));
        if batch == 0 {
            return Err(failure!("a queue has no room for a request"));
        }
        let sectors = device.config.u64(0);
        Ok(Self {
            number,
            device,
            queues,
            line,
            interrupts,
            sectors,
            batch: u64::from(batch.min(BULK_REQUESTS)),
            header: arena.take(16 * u64::from(BULK_REQUESTS)),
            status: arena.take(u64::from(BULK_REQUESTS)),
            data: *scratch,
        })
    }

    /// Runs every test. `check_all` compares every sector with the pattern instead of samples.
    pub fn test(&mut self, console: &mut Console, check_all: bool) -> Result<(), Failure> {
        let number = self.number;
        let before = self.line.count();
        report!(console, "disk{number}.bytes={}", self.sectors * SECTOR);
        let mut serial = [0; 20];
        self.read_serial(&mut serial)?;
        let length = serial
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(serial.len());
        let serial = core::str::from_utf8(&serial[..length]).unwrap_or("?");
        report!(console, "disk{number}.serial={serial}");
        report!(
            console,
            "disk{number}.queues={}",
            self.queues.iter().flatten().count()
        );
        let state = self.judge(check_all)?;
        report!(console, "disk{number}.pattern={state}");
        if self.device.features & F_RO != 0 {
            self.expect_refusal(OUT, 0)?;
            report!(console, "disk{number}.read_only=yes");
        } else {
            self.write_everywhere()?;
            report!(console, "disk{number}.write=ok");
        }
        self.expect_refusal(IN, self.sectors)?;
        report!(
            console,
            "disk{number}.interrupts={}",
            self.line.count().wrapping_sub(before)
        );
        Ok(())
    }

    /// One request; returns its status. `data` is what the request reads or writes.
    fn request(
        &mut self,
        queue: usize,
        kind: u32,
        sector: u64,
        data: Option<Window>,
    ) -> Result<u8, Failure> {
        let buffers = self.prepare(0, kind, sector, data);
        let Some(queue) = self.queues.get_mut(queue).and_then(Option::as_mut) else {
            return Err(failure!("disk{} has no queue {queue}", self.number));
        };
        // A request without data has two buffers.
        let used = if data.is_some() {
            &buffers[..]
        } else {
            &[buffers[0], buffers[2]]
        };
        queue.add(used);
        queue.run(self.interrupts)?;
        Ok(self.status.u8(0))
    }

    /// Fills in header and status of request `slot`; returns header, data (or nothing of use) and status.
    fn prepare(&self, slot: u64, kind: u32, sector: u64, data: Option<Window>) -> [Buffer; 3] {
        let header = self.header.part(16 * slot, 16);
        header.set_u32(0, kind);
        header.set_u32(4, 0);
        header.set_u64(8, sector);
        self.status.set_u8(slot, NO_STATUS);
        let status = self.status.part(slot, 1);
        [
            Buffer {
                memory: header,
                is_written: false,
            },
            Buffer {
                memory: data.unwrap_or(header),
                is_written: matches!(kind, IN | GET_ID),
            },
            Buffer {
                memory: status,
                is_written: true,
            },
        ]
    }

    fn expect_ok(&self, status: u8, what: &str, sector: u64) -> Result<(), Failure> {
        match status {
            OK => Ok(()),
            _ => Err(failure!(
                "disk{}: {what} of sector {sector} has status {status}",
                self.number
            )),
        }
    }

    /// What the device has to refuse must fail, and must not stop it.
    fn expect_refusal(&mut self, kind: u32, sector: u64) -> Result<(), Failure> {
        let data = self.data.part(0, BLOCK_BYTES);
        match self.request(0, kind, sector, Some(data))? {
            IOERR => Ok(()),
            status => Err(failure!(
                "disk{}: a wrong request has status {status}",
                self.number
            )),
        }
    }

    /// The serial number, by a request with an indirect table where the device knows them.
    fn read_serial(&mut self, serial: &mut [u8; 20]) -> Result<(), Failure> {
        let data = self.data.part(0, serial.len() as u64);
        let status = if self.device.features & virtio::F_INDIRECT_DESC == 0 {
            self.request(0, GET_ID, 0, Some(data))?
        } else {
            let buffers = self.prepare(0, GET_ID, 0, Some(data));
            let table = self.data.part(BLOCK_BYTES, 64);
            if let Some(queue) = &mut self.queues[0] {
                queue.add_indirect(&table, &buffers);
                queue.run(self.interrupts)?;
            }
            self.status.u8(0)
        };
        self.expect_ok(status, "GET_ID", 0)?;
        data.read(0, serial);
        Ok(())
    }

    /// Reads samples, or everything, and says what the disk holds: `ok` (as the host made it), `written` (partly
    /// by an earlier run of this guest), `none` (no pattern).
    fn judge(&mut self, check_all: bool) -> Result<&'static str, Failure> {
        let mut census = Census::default();
        let step = if check_all {
            BULK_BYTES / SECTOR
        } else {
            (self.sectors / SAMPLES).max(BLOCK_SECTORS)
        };
        let bytes = if check_all { BULK_BYTES } else { BLOCK_BYTES };
        let mut sector = 0;
        while sector < self.sectors {
            sector = self.count_batch(&mut census, sector, step, bytes)?;
        }
        let last = self.sectors.saturating_sub(BLOCK_SECTORS);
        self.count_batch(&mut census, last, step, bytes)?;
        census.verdict(self.number)
    }

    /// Reads and counts up to a batch of places of `bytes`, from `sector` on, `step` sectors apart. Returns the place
    /// after them.
    fn count_batch(
        &mut self,
        census: &mut Census,
        first: u64,
        step: u64,
        bytes: u64,
    ) -> Result<u64, Failure> {
        let places = |disk: &Self| {
            let sectors = disk.sectors;
            (0..disk.batch)
                .map(move |slot| (slot, first + slot * step))
                .take_while(move |&(_, sector)| sector < sectors)
                .map(move |(slot, sector)| (slot, sector, bytes.min((sectors - sector) * SECTOR)))
        };
        for (slot, sector, bytes) in places(self) {
            let data = self.data.part(slot * BULK_BYTES, bytes);
            poison(data);
            let buffers = self.prepare(slot, IN, sector, Some(data));
            // In turns, so that each queue is used.
            let live = self.queues.iter().flatten().count().max(1);
            if let Some(Some(queue)) = self.queues.get_mut(slot as usize % live) {
                queue.add(&buffers);
            }
        }
        for queue in self.queues.iter_mut().flatten() {
            if queue.has_requests() {
                queue.run(self.interrupts)?;
            }
        }
        for (slot, sector, bytes) in places(self) {
            self.expect_ok(self.status.u8(slot), "read", sector)?;
            for (at, number) in (0..bytes).step_by(SECTOR_BYTES).zip(sector..) {
                census.count(number, &self.sector_at(slot * BULK_BYTES + at));
            }
        }
        Ok(first + step * self.batch)
    }

    fn sector_at(&self, at: u64) -> [u8; SECTOR_BYTES] {
        let mut bytes = [0; SECTOR_BYTES];
        self.data.read(at, &mut bytes);
        bytes
    }

    /// Writes at the start, in the middle and at the end, and once a few sectors within a block of 4 KiB; reads
    /// all of it again after a flush. Then the requests that take data away, where the device has them.
    fn write_everywhere(&mut self) -> Result<(), Failure> {
        let stamp = Stamp {
            generation: timestamp() | 1,
            disk_sectors: 0,
        };
        let middle = (self.sectors / 2) & !7;
        let places = [
            (0, BLOCK_SECTORS),
            (BLOCK_SECTORS + 3, 3),
            (middle, BLOCK_SECTORS),
            (self.sectors.saturating_sub(BLOCK_SECTORS), BLOCK_SECTORS),
        ];
        let sectors = self.sectors;
        let fits = move |&(sector, count): &(u64, u64)| sector + count <= sectors;
        for (sector, count) in places.into_iter().filter(fits) {
            self.write(sector, count, stamp)?;
        }
        self.flush()?;
        for (sector, count) in places.into_iter().filter(fits) {
            self.expect(sector, count, Some(stamp))?;
        }
        if middle + BLOCK_SECTORS <= self.sectors {
            self.take_away(middle, stamp)?;
        }
        self.flush()
    }

    fn take_away(&mut self, sector: u64, stamp: Stamp) -> Result<(), Failure> {
        for (kind, feature) in [(WRITE_ZEROES, F_WRITE_ZEROES), (DISCARD, F_DISCARD)] {
            if self.device.features & feature == 0 {
                continue;
            }
            let range = self.data.part(0, 16);
            range.set_u64(0, sector);
            range.set_u32(8, BLOCK_SECTORS as u32);
            range.set_u32(12, 0);
            let status = self.request(0, kind, 0, Some(range))?;
            self.expect_ok(status, "discard or write-zeroes", sector)?;
            // What is discarded reads as anything; zeroes must be zeroes.
            if kind == WRITE_ZEROES {
                self.expect(sector, BLOCK_SECTORS, None)?;
            }
        }
        self.write(sector, BLOCK_SECTORS, stamp)
    }

    pub fn write(&mut self, sector: u64, count: u64, stamp: Stamp) -> Result<(), Failure> {
        for (at, number) in (0..count * SECTOR).step_by(SECTOR_BYTES).zip(sector..) {
            let mut bytes = [0; SECTOR_BYTES];
            pattern::fill(number, stamp, &mut bytes);
            self.data.write(at, &bytes);
        }
        let data = self.data.part(0, count * SECTOR);
        let status = self.request(0, OUT, sector, Some(data))?;
        self.expect_ok(status, "write", sector)
    }

    pub fn flush(&mut self) -> Result<(), Failure> {
        if self.device.features & F_FLUSH == 0 {
            return Err(failure!("disk{} cannot flush", self.number));
        }
        let status = self.request(0, FLUSH, 0, None)?;
        self.expect_ok(status, "flush", 0)
    }

    /// Who wrote the last sector.
    pub fn last_stamp(&mut self) -> Result<Option<Stamp>, Failure> {
        let sector = self.last_sector();
        self.read(sector, 1)?;
        Ok(pattern::check(sector, &self.sector_at(0)))
    }

    pub fn last_sector(&self) -> u64 {
        self.sectors.saturating_sub(1)
    }

    fn read(&mut self, sector: u64, count: u64) -> Result<(), Failure> {
        let data = self.data.part(0, count * SECTOR);
        poison(data);
        let status = self.request(0, IN, sector, Some(data))?;
        self.expect_ok(status, "read", sector)
    }

    /// Reads sectors and compares them with the pattern under `stamp`, or with zeroes.
    fn expect(&mut self, sector: u64, count: u64, stamp: Option<Stamp>) -> Result<(), Failure> {
        self.read(sector, count)?;
        for (at, number) in (0..count * SECTOR).step_by(SECTOR_BYTES).zip(sector..) {
            let bytes = self.sector_at(at);
            let is_right = match stamp {
                Some(_) => pattern::check(number, &bytes) == stamp,
                None => bytes == [0; SECTOR_BYTES],
            };
            if !is_right {
                return Err(failure!(
                    "disk{}: sector {number} is not what was written",
                    self.number
                ));
            }
        }
        Ok(())
    }
}

/// How many request queues the device has.
pub fn queue_count(device: &Device) -> Result<u16, Failure> {
    let count = match device.features & F_MQ {
        0 => 1,
        _ => device.config.u16(CONFIG_NUM_QUEUES),
    };
    match count {
        0 => Err(failure!("a disk without queues")),
        _ if count > device.queues => Err(failure!("{count} queues of {}", device.queues)),
        _ => Ok(count),
    }
}

/// So that what memory held before does not pass for what is read.
pub fn poison(data: Window) {
    for at in (0..data.bytes()).step_by(SECTOR_BYTES) {
        data.set_u64(at, 0xdead_dead_dead_dead);
    }
}
