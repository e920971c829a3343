//! One request on its way: what it has under way and what comes next.
//!
//! A request is carried out [step](super::steps) by step. A step of a read is the volume's extents,
//! all read at once. A step of a write is the volume's plan: the fills are read into a bounce
//! buffer, then fills and guest data are written together, then the plan is ended. Zeroing and
//! discarding are writes whose data is a hole.

#![expect(unsafe_code, reason = "hands guest memory to the kernel")]

use std::io;
use std::os::fd::AsRawFd;

use kami_image::volume::{BLOCK_BYTES, BeginWrite, FileIndex, Fill, Place, WritePlan};

use super::disk::{BoxedError, Cursor, Disk, SERIAL_BYTES, ZEROES};
use super::request::{Kind, Request, Status};
use super::ring::{Operation, Ring};
use super::steps::{Step, Steps, Zeroing};
use super::token::{Target, Token};
use super::transfer::{Direction, Transfers};

/// The room for one fill, which is shorter than a block.
const FILL_BYTES_MAX: usize = 4096;

/// What a task wants of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing: operations are under way.
    Waiting,
    /// To be started again when a write has ended, the device is held no longer, or in the next turn.
    Busy,
    /// To be done when the next flush is.
    Flush,
    Done(Status),
}

/// What is under way.
#[derive(Debug)]
enum Stage {
    Idle,
    Reading,
    /// Fills are read into `bounce`.
    Filling(WritePlan),
    Writing(WritePlan),
    Punching(WritePlan, Zeroing),
}

/// How the beginning of a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    UnderWay,
    /// Done already.
    AtOnce,
    Busy,
}

#[derive(Debug)]
pub(super) struct Task {
    pub queue: usize,
    pub head: u16,
    pub request: Request,
    /// This task's name in the ring's tokens.
    target: Target,
    steps: Steps,
    step_bytes: u64,
    stage: Stage,
    transfers: Transfers,
    /// The head's and the tail's fill. The kernel writes here in `Filling`, reads in `Writing`.
    bounce: Vec<u8>,
}

// The contract of the unsafe functions: they start operations on `disk.memory`, `self.bounce` and
// the iovecs of `self.transfers`, so the caller drops neither `disk` nor this task (which it may
// move) while the last `Progress` was `Waiting`. The engine upholds it; it drains before it ends.
impl Task {
    pub fn new(
        (queue, head): (usize, u16),
        request: Request,
        slot: u32,
        transfers: Transfers,
    ) -> Self {
        Self {
            queue,
            head,
            request,
            target: Target::Task(slot),
            steps: Steps::default(),
            step_bytes: 0,
            stage: Stage::Idle,
            transfers,
            bounce: Vec::new(),
        }
    }

    pub fn into_transfers(self) -> Transfers {
        self.transfers
    }

    /// Bytes that the device has written to the chain's buffers when it ends with `status`, the
    /// status byte among them.
    pub fn written_bytes(&self, status: Status) -> u32 {
        let data = match (&self.request.kind, status) {
            (Kind::Read { .. }, Status::Ok) => self.request.data_bytes,
            (Kind::Identify, Status::Ok) => self.request.data_bytes.min(SERIAL_BYTES as u64),
            _ => 0,
        };
        u32::try_from(data + 1).unwrap_or(u32::MAX)
    }

    /// Begins the next step, and further ones while they end at once.
    ///
    /// # Safety
    /// `disk` and this task outlive what is under way.
    pub unsafe fn start(&mut self, disk: &mut Disk, ring: &mut impl Ring) -> Progress {
        loop {
            if disk.stopping {
                return Progress::Done(Status::IoError);
            }
            let step = match self.steps.next(&self.request, disk) {
                Ok(Some(step)) => step,
                Ok(None) => return self.end(disk),
                Err(error) => return self.fail(disk, &error),
            };
            if disk.holding {
                return Progress::Busy;
            }
            if disk.cleared_bytes >= disk.cleared_bytes_max {
                disk.put_off = true;
                return Progress::Busy;
            }
            // SAFETY: as this function's.
            match unsafe { self.begin(step, disk, ring) } {
                Ok(Begun::UnderWay) => return Progress::Waiting,
                Ok(Begun::AtOnce) => self.steps.advance(self.step_bytes),
                Ok(Begun::Busy) => return Progress::Busy,
                Err(error) => return self.fail(disk, &*error),
            }
        }
    }

    /// Takes the completion of the operation at `index`.
    ///
    /// # Safety
    /// `disk` and this task outlive what is under way.
    pub unsafe fn landed(
        &mut self,
        index: usize,
        result: i32,
        disk: &mut Disk,
        ring: &mut impl Ring,
    ) -> Progress {
        if let Stage::Punching(..) = self.stage {
            if result < 0 {
                // SAFETY: as this function's.
                return unsafe { self.punch_failed(-result, disk, ring) };
            }
        } else {
            let at = (self.target, &disk.volume, &mut *ring);
            // SAFETY: as this function's.
            let unread = unsafe { self.transfers.landed(index, result, at) };
            // Past a file's end there are zeroes. The bounce buffer holds them already.
            if let (Some(unread), Stage::Reading) = (unread, &self.stage) {
                let cleared = Cursor::new(&self.request.data, unread.position)
                    .clear(&disk.memory, unread.len);
                if cleared.is_err() {
                    self.transfers.fail(libc::EFAULT);
                }
            }
            if !self.transfers.is_idle() {
                return Progress::Waiting;
            }
            if let Some(errno) = self.transfers.failure() {
                return self.fail(disk, &io::Error::from_raw_os_error(errno));
            }
        }
        // SAFETY: as this function's.
        unsafe { self.proceed(disk, ring) }
    }

    /// Goes on when all that was under way has succeeded.
    ///
    /// # Safety
    /// `disk` and this task outlive what is under way.
    unsafe fn proceed(&mut self, disk: &mut Disk, ring: &mut impl Ring) -> Progress {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Filling(plan) if disk.stopping => disk.end_write(plan, false),
            Stage::Filling(plan) => {
                // SAFETY: as this function's.
                return match unsafe { self.write(plan, disk, ring) } {
                    Ok(_) => Progress::Waiting,
                    Err(error) => self.fail(disk, &*error),
                };
            }
            Stage::Writing(plan) | Stage::Punching(plan, _) => disk.end_write(plan, true),
            Stage::Idle | Stage::Reading => {}
        }
        self.steps.advance(self.step_bytes);
        // SAFETY: as this function's.
        unsafe { self.start(disk, ring) }
    }

    /// # Safety
    /// `disk` and this task outlive what is under way.
    unsafe fn begin(
        &mut self,
        step: Step,
        disk: &mut Disk,
        ring: &mut impl Ring,
    ) -> Result<Begun, BoxedError> {
        let (offset, len, zeroing) = match step {
            Step::Read { offset, len } => {
                self.step_bytes = len;
                // SAFETY: as this function's.
                return unsafe { self.read(offset, len, disk, ring) };
            }
            Step::Write { offset, len } => (offset, len, None),
            Step::Zero { offset, len, how } => (offset, len, Some(how)),
        };
        let plan = match disk.volume.begin_write(offset, len)? {
            BeginWrite::Ready(plan) => plan,
            BeginWrite::Busy => return Ok(Begun::Busy),
        };
        // Shorter than the step where the volume goes on in another file.
        self.step_bytes = plan.len;
        let whole_blocks = plan.fills == [None, None]
            && plan.offset.is_multiple_of(BLOCK_BYTES)
            && plan.len.is_multiple_of(BLOCK_BYTES);
        match zeroing {
            Some(how) if whole_blocks && disk.supports(how) => {
                // SAFETY: as this function's.
                unsafe { self.punch(plan, how, disk, ring) };
                Ok(Begun::UnderWay)
            }
            // SAFETY: as this function's.
            _ if plan.fills == [None, None] => unsafe { self.write(plan, disk, ring) },
            // SAFETY: as this function's.
            _ => unsafe { self.fill(plan, disk, ring) },
        }
    }

    /// # Safety
    /// `disk` and this task outlive what is under way.
    unsafe fn read(
        &mut self,
        offset: u64,
        len: u64,
        disk: &mut Disk,
        ring: &mut impl Ring,
    ) -> Result<Begun, BoxedError> {
        disk.extents.clear();
        disk.volume.map_read(offset, len, &mut disk.extents)?;
        self.transfers.clear();
        let mut position = self.steps.done();
        let mut cursor = Cursor::new(&self.request.data, position);
        for extent in &disk.extents {
            match extent.place {
                Place::Zeroes => {
                    cursor.clear(&disk.memory, extent.len)?;
                    disk.cleared_bytes += extent.len;
                }
                Place::File { file, mut offset } => {
                    let mut position = position;
                    cursor.take(&disk.memory, extent.len, |memory| {
                        let len = memory.1 as u64;
                        let from = (file, offset);
                        self.transfers.add(Direction::Read, from, position, memory);
                        offset += len;
                        position += len;
                    })?;
                }
            }
            position += extent.len;
        }
        self.stage = Stage::Reading;
        // SAFETY: `disk` keeps guest memory and the files, this task the iovecs.
        unsafe { self.transfers.submit(self.target, &disk.volume, ring) };
        Ok(if self.transfers.is_idle() {
            Begun::AtOnce
        } else {
            Begun::UnderWay
        })
    }

    /// Reads what the first and the last block hold beside the data.
    ///
    /// # Safety
    /// `disk` and this task outlive what is under way.
    unsafe fn fill(
        &mut self,
        plan: WritePlan,
        disk: &mut Disk,
        ring: &mut impl Ring,
    ) -> Result<Begun, BoxedError> {
        self.transfers.clear();
        self.bounce.clear();
        self.bounce.resize(3 * FILL_BYTES_MAX, 0);
        let mut last: Option<(&Fill, Memory)> = None;
        for (fill, memory) in fills(&plan, &mut self.bounce) {
            let Place::File { file, offset } = fill.from else {
                continue;
            };
            // What lies between two parts of one block is read too, so that it is one operation.
            if let Some((from, at, gap)) = last.and_then(|last| between(last, fill)) {
                self.transfers.add(Direction::Read, from, at, gap);
            }
            let from = (file, offset);
            self.transfers
                .add(Direction::Read, from, fill.to_offset, memory);
            last = Some((fill, memory));
        }
        self.stage = Stage::Filling(plan);
        // SAFETY: this task keeps the bounce buffer and the iovecs, `disk` the files.
        unsafe { self.transfers.submit(self.target, &disk.volume, ring) };
        if !self.transfers.is_idle() {
            return Ok(Begun::UnderWay);
        }
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            // SAFETY: as this function's.
            Stage::Filling(plan) => unsafe { self.write(plan, disk, ring) },
            _ => Ok(Begun::AtOnce),
        }
    }

    /// Writes the plan's fills and its data, which lie side by side in the overlay: one operation.
    ///
    /// # Safety
    /// `disk` and this task outlive what is under way.
    unsafe fn write(
        &mut self,
        plan: WritePlan,
        disk: &mut Disk,
        ring: &mut impl Ring,
    ) -> Result<Begun, BoxedError> {
        self.transfers.clear();
        let mut offset = plan.offset;
        let mut add = |at: u64, memory| {
            let to = (plan.file, at);
            self.transfers.add(Direction::Write, to, at, memory);
        };
        let (before, after): (Vec<_>, Vec<_>) =
            fills(&plan, &mut self.bounce).partition(|(fill, _)| fill.to_offset < plan.offset);
        for (fill, memory) in before {
            add(fill.to_offset, memory);
        }
        let data = |memory: (*mut u8, usize)| {
            add(offset, memory);
            offset += memory.1 as u64;
        };
        let built = match self.request.kind {
            Kind::Write { .. } => Cursor::new(&self.request.data, self.steps.done()).take(
                &disk.memory,
                plan.len,
                data,
            ),
            _ => {
                zeroes(plan.len).for_each(data);
                Ok(())
            }
        };
        for (fill, memory) in after {
            add(fill.to_offset, memory);
        }
        self.stage = Stage::Writing(plan);
        built?;
        // SAFETY: `disk` keeps guest memory and the overlay, this task its bounce buffer and the
        // iovecs; the source of zeroes is static and only read.
        unsafe { self.transfers.submit(self.target, &disk.volume, ring) };
        Ok(Begun::UnderWay)
    }

    /// # Safety
    /// `disk` outlives what is under way.
    unsafe fn punch(
        &mut self,
        plan: WritePlan,
        how: Zeroing,
        disk: &mut Disk,
        ring: &mut impl Ring,
    ) {
        let file = disk.volume.file(plan.file).as_raw_fd();
        let (offset, len) = (plan.offset, plan.len);
        let operation = match how {
            Zeroing::Discard | Zeroing::Unmap => Operation::Deallocate { file, offset, len },
            Zeroing::Keep => Operation::Zero { file, offset, len },
        };
        self.stage = Stage::Punching(plan, how);
        // SAFETY: the operation names no memory, and `disk` keeps the overlay open.
        unsafe { ring.push(Token::new(self.target, 0).pack(), operation) };
    }

    /// Does without the file system's help where it has none to give.
    ///
    /// # Safety
    /// `disk` and this task outlive what is under way.
    unsafe fn punch_failed(
        &mut self,
        errno: i32,
        disk: &mut Disk,
        ring: &mut impl Ring,
    ) -> Progress {
        let Stage::Punching(plan, how) = std::mem::replace(&mut self.stage, Stage::Idle) else {
            return Progress::Waiting;
        };
        let unsupported = matches!(errno, libc::EOPNOTSUPP | libc::ENODEV);
        let begun = match how {
            _ if matches!(errno, libc::EINTR | libc::EAGAIN) && !disk.stopping => {
                // SAFETY: as this function's.
                unsafe { self.punch(plan, how, disk, ring) };
                return Progress::Waiting;
            }
            Zeroing::Unmap | Zeroing::Keep if unsupported && !disk.stopping => {
                disk.lacks(how);
                // SAFETY: as this function's.
                unsafe { self.write(plan, disk, ring) }
            }
            Zeroing::Discard if unsupported => {
                disk.lacks(how);
                disk.end_write(plan, false);
                // SAFETY: as this function's.
                return unsafe { self.start(disk, ring) };
            }
            _ => {
                self.stage = Stage::Punching(plan, how);
                Err(io::Error::from_raw_os_error(errno).into())
            }
        };
        match begun {
            Ok(_) => Progress::Waiting,
            Err(error) => self.fail(disk, &*error),
        }
    }

    /// All steps are done.
    fn end(&mut self, disk: &mut Disk) -> Progress {
        match self.request.kind {
            Kind::Read { .. } => Progress::Done(Status::Ok),
            Kind::Flush => Progress::Flush,
            Kind::Identify => {
                match Cursor::new(&self.request.data, 0).copy(&disk.memory, &disk.serial) {
                    Ok(()) => Progress::Done(Status::Ok),
                    Err(error) => self.fail(disk, &error),
                }
            }
            // Without a flush to come, a completed write is stable (virtio 1.3 §5.2.6.2).
            _ if disk.write_through => Progress::Flush,
            _ => Progress::Done(Status::Ok),
        }
    }

    /// Ends the request, with nothing under way.
    fn fail(&mut self, disk: &mut Disk, error: &(dyn std::error::Error + 'static)) -> Progress {
        use Stage::{Filling, Punching, Writing};
        let stage = std::mem::replace(&mut self.stage, Stage::Idle);
        if let Filling(plan) | Writing(plan) | Punching(plan, _) = stage {
            disk.end_write(plan, false);
        }
        disk.warn(self.request.kind.failure(), error);
        Progress::Done(Status::IoError)
    }
}

/// The fills of `plan`, each with its place in `bounce`.
fn fills<'a>(
    plan: &'a WritePlan,
    bounce: &mut [u8],
) -> impl Iterator<Item = (&'a Fill, (*mut u8, usize))> + use<'a> {
    // Also for files without a page cache: there is room for a third fill.
    let base = bounce.as_mut_ptr();
    let base = base.wrapping_add(base.align_offset(FILL_BYTES_MAX));
    let places = [base, base.wrapping_add(FILL_BYTES_MAX)];
    plan.fills.iter().zip(places).filter_map(|(fill, place)| {
        let fill = fill.as_ref()?;
        let len = usize::try_from(fill.len).unwrap_or(usize::MAX);
        Some((fill, (place, len.min(FILL_BYTES_MAX))))
    })
}

/// A piece of memory.
type Memory = (*mut u8, usize);

/// The bytes between two fills that lie in the file as they lie in the block: where they come from, where they would
/// go, and the room behind the first fill, whose place is a block long.
fn between(
    (first, (base, len)): (&Fill, Memory),
    second: &Fill,
) -> Option<((FileIndex, u64), u64, Memory)> {
    let (
        Place::File { file, offset },
        Place::File {
            file: next,
            offset: next_offset,
        },
    ) = (first.from, second.from)
    else {
        return None;
    };
    let end = first.to_offset + first.len;
    let gap = second.to_offset.checked_sub(end)?;
    let fits = gap > 0 && gap <= BLOCK_BYTES.checked_sub(first.len)?;
    if file != next || !fits || offset + first.len + gap != next_offset {
        return None;
    }
    let room = (base.wrapping_add(len), usize::try_from(gap).ok()?);
    Some(((file, offset + first.len), end, room))
}

/// `len` zero bytes as pieces of memory, which may only be read.
fn zeroes(len: u64) -> impl Iterator<Item = (*mut u8, usize)> {
    let whole = ZEROES.len() as u64;
    (0..len.div_ceil(whole)).map(move |n| {
        let left = usize::try_from(len - n * whole).unwrap_or(usize::MAX);
        (ZEROES.as_ptr().cast_mut(), left.min(ZEROES.len()))
    })
}
