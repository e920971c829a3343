//! The pipeline that writes a snapshot: two threads read and hash, the caller's thread decides and
//! writes. What it reads is all of a disk, or what of a volume differs from an older snapshot,
//! whose entries are taken over for the rest.
//!
//! The reading threads take chunks in order, each into a buffer of a small pool, so memory is bounded
//! whatever the disk's size. The writer puts them back in order: chunks then lie in a segment as
//! they do on the disk, which is how a booting guest reads them. The writer alone asks the
//! index, which is the catalogue's connection and belongs to one thread.

use super::reader::ChunkReader;
use super::{Disk, Error, Phase, Progress, Report};
use crate::chunk::segment::{NewSegment, SegmentWriter};
use crate::chunk::table::{Entries, TableWriter, Totals};
use crate::chunk::{CHUNK_BYTES, CHUNK_LEN, ChunkIndex, Digest, StoredChunk, data_runs};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter::Peekable;
use std::ops::{ControlFlow, Range};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

const READERS: usize = 2;
/// 4 MiB of buffers: enough that neither side waits for the other's system calls.
const BUFFERS: usize = 8;

type Buffer = Box<[u8]>;

/// What a disk left in the store.
pub(super) struct Stored {
    pub(super) chunks: Vec<StoredChunk>,
    pub(super) bytes: u64,
    pub(super) segments: Vec<NewSegment>,
    pub(super) totals: Totals,
}

/// What a base has, and how it is taken over.
pub(super) struct TakenOver<'a> {
    pub(super) entries: Entries<'a>,
    /// Chunks of these segments are copied, so that the snapshot does not need them.
    pub(super) leave: &'a BTreeSet<u64>,
    pub(super) chunks: ChunkReader,
}

/// A chunk that has been read.
struct ReadChunk {
    /// Counts the chunks with data.
    number: u64,
    index: u64,
    buffer: Buffer,
    /// What is not zeroes. Without any there is no digest.
    runs: Vec<Range<usize>>,
    digest: Option<Digest>,
}

/// Reads all of `source` into `table` and `segments`. Where it has no data, `base` has the chunks.
pub(super) fn store(
    source: &dyn Disk,
    base: Option<TakenOver<'_>>,
    index: &dyn ChunkIndex,
    (table, segments): (TableWriter<'_>, SegmentWriter),
    progress: &mut Report<'_>,
) -> Result<Stored, Error> {
    let scan = Mutex::new(Scan::default());
    std::thread::scope(|scope| {
        let (to_reader, free) = channel();
        let (to_writer, read) = channel();
        let free = std::sync::Arc::new(Mutex::new(free));
        for number in 0..READERS {
            let (free, to_writer, scan) = (free.clone(), to_writer.clone(), &scan);
            std::thread::Builder::new()
                .name(format!("import-{number}"))
                .spawn_scoped(scope, move || read_chunks(source, scan, &free, &to_writer))
                .map_err(Error::Thread)?;
        }
        // The channels must end when the threads that hold their other ends do.
        drop((free, to_writer));
        for _ in 0..BUFFERS {
            // Fails only when no reader is left; then `read` says why.
            let _ = to_reader.send(vec![0; CHUNK_LEN].into_boxed_slice());
        }
        let mut writer = Writer {
            base: base.map(Base::new),
            index,
            table,
            segments,
            known: HashMap::new(),
            chunks: Vec::new(),
            bytes: 0,
        };
        write_chunks(source, &mut writer, &read, to_reader, progress)?;
        writer.finish()
    })
}

/// Where the readers have come to.
#[derive(Default)]
struct Scan {
    /// The first byte that no reader has taken.
    next: u64,
    /// The run of data that `next` may lie in.
    data: Range<u64>,
    number: u64,
}

impl Scan {
    /// The number and index of the next chunk that holds data.
    fn take(&mut self, source: &dyn Disk) -> Result<Option<(u64, u64)>, Error> {
        if self.next >= self.data.end {
            match source.next_data(self.next)? {
                Some(data) => self.data = data,
                None => return Ok(None),
            }
        }
        let index = self.next.max(self.data.start) / CHUNK_BYTES;
        let number = self.number;
        self.next = (index + 1) * CHUNK_BYTES;
        self.number += 1;
        Ok(Some((number, index)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A reader that panicked ends the import anyway, when its thread is joined.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads chunk by chunk until the disk, or the writer's interest, ends.
fn read_chunks(
    source: &dyn Disk,
    scan: &Mutex<Scan>,
    free: &Mutex<Receiver<Buffer>>,
    to_writer: &Sender<Result<ReadChunk, Error>>,
) {
    loop {
        // The buffer first: who has taken a chunk can always finish it, so nobody waits in a circle.
        let Ok(mut buffer) = lock(free).recv() else {
            return;
        };
        let (number, index) = match lock(scan).take(source) {
            Ok(Some(taken)) => taken,
            Ok(None) => return,
            Err(error) => {
                let _ = to_writer.send(Err(error));
                return;
            }
        };
        let read = source.read(index * CHUNK_BYTES, &mut buffer).map(|()| {
            let runs = data_runs(&buffer);
            let digest = (!runs.is_empty()).then(|| Digest::of(&buffer));
            ReadChunk {
                number,
                index,
                buffer,
                runs,
                digest,
            }
        });
        let failed = read.is_err();
        if to_writer.send(read).is_err() || failed {
            return;
        }
    }
}

/// Writes what the readers send, in the order of the disk.
fn write_chunks(
    source: &dyn Disk,
    writer: &mut Writer<'_>,
    read: &Receiver<Result<ReadChunk, Error>>,
    to_reader: Sender<Buffer>,
    progress: &mut Report<'_>,
) -> Result<(), Error> {
    let total_bytes = source.work_bytes();
    let mut report = |done_bytes| {
        let answer = progress(Progress {
            phase: Phase::Store,
            done_bytes,
            total_bytes,
        });
        match answer {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        }
    };
    report(0)?;
    // At most as many as there are buffers.
    let mut early: BTreeMap<u64, ReadChunk> = BTreeMap::new();
    let mut next = 0;
    for result in read {
        let chunk = result?;
        early.insert(chunk.number, chunk);
        while let Some(chunk) = early.remove(&next) {
            writer.write(&chunk)?;
            report(source.done_bytes(chunk.number, chunk.index))?;
            next += 1;
            // Fails when the readers have reached the end.
            let _ = to_reader.send(chunk.buffer);
        }
    }
    report(total_bytes)
}

/// [`TakenOver`], as far as it has come.
struct Base<'a> {
    entries: Peekable<Entries<'a>>,
    leave: &'a BTreeSet<u64>,
    chunks: ChunkReader,
    /// Of a chunk that is copied.
    buffer: Buffer,
}

impl<'a> Base<'a> {
    fn new(base: TakenOver<'a>) -> Self {
        let copies = if base.leave.is_empty() { 0 } else { CHUNK_LEN };
        Self {
            entries: base.entries.peekable(),
            leave: base.leave,
            chunks: base.chunks,
            buffer: vec![0; copies].into_boxed_slice(),
        }
    }

    /// The next entry, if it is not beyond `index`.
    fn next_up_to(&mut self, index: u64) -> Result<Option<(u64, StoredChunk)>, Error> {
        let near = |entry: &Result<(u64, StoredChunk), _>| match entry {
            Ok((at, _)) => *at <= index,
            Err(_) => true,
        };
        Ok(self.entries.next_if(near).transpose()?)
    }
}

/// Decides where each chunk lies, and writes the new ones.
struct Writer<'a> {
    base: Option<Base<'a>>,
    index: &'a dyn ChunkIndex,
    table: TableWriter<'a>,
    segments: SegmentWriter,
    /// What this disk has brought so far.
    known: HashMap<Digest, StoredChunk>,
    chunks: Vec<StoredChunk>,
    bytes: u64,
}

impl Writer<'_> {
    fn write(&mut self, read: &ReadChunk) -> Result<(), Error> {
        self.take_over(read.index)?;
        let Some(digest) = read.digest else {
            return Ok(());
        };
        let chunk = match self.known.get(&digest) {
            Some(chunk) => *chunk,
            None => {
                let chunk = self.find_or_store(digest, read)?;
                self.known.insert(digest, chunk);
                chunk
            }
        };
        Ok(self.table.put(read.index, &chunk)?)
    }

    fn find_or_store(&mut self, digest: Digest, read: &ReadChunk) -> Result<StoredChunk, Error> {
        if let Some(place) = self.index.find(&digest).map_err(Error::Index)? {
            return Ok(StoredChunk { digest, place });
        }
        let place = self.segments.append(&read.buffer, &read.runs)?;
        let chunk = StoredChunk { digest, place };
        self.chunks.push(chunk);
        self.bytes += read.runs.iter().map(|run| run.len() as u64).sum::<u64>();
        Ok(chunk)
    }

    /// Enters what the base has before `index`, and passes over what it has there.
    fn take_over(&mut self, index: u64) -> Result<(), Error> {
        while let Some(base) = &mut self.base
            && let Some((at, mut chunk)) = base.next_up_to(index)?
        {
            if at == index {
                continue;
            }
            if base.leave.contains(&chunk.place.segment) {
                chunk = match self.known.get(&chunk.digest) {
                    Some(chunk) => *chunk,
                    None => {
                        base.chunks.read(&chunk, &mut base.buffer)?;
                        let runs = data_runs(&base.buffer);
                        let place = self.segments.append(&base.buffer, &runs)?;
                        let digest = chunk.digest;
                        let copy = StoredChunk { digest, place };
                        self.known.insert(digest, copy);
                        self.chunks.push(copy);
                        copy
                    }
                };
            }
            self.table.put(at, &chunk)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Stored, Error> {
        self.take_over(u64::MAX)?;
        let totals = self.table.finish()?;
        Ok(Stored {
            totals,
            chunks: self.chunks,
            bytes: self.bytes,
            segments: self.segments.finish()?,
        })
    }
}
