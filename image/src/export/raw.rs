//! Raw disks: every byte at its own offset, runs of zero pages left as holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Writer;
use crate::chunk::{CHUNK_BYTES, data_runs};

#[derive(Debug)]
pub(super) struct Raw<'a> {
    file: &'a File,
    size_bytes: u64,
}

impl<'a> Raw<'a> {
    pub(super) fn new(file: &'a File, size_bytes: u64) -> io::Result<Self> {
        file.set_len(size_bytes)?;
        Ok(Self { file, size_bytes })
    }
}

impl Writer for Raw<'_> {
    fn write(&mut self, index: u64, chunk: &[u8]) -> io::Result<()> {
        let start = index * CHUNK_BYTES;
        let len = usize::try_from(self.size_bytes.saturating_sub(start)).unwrap_or(usize::MAX);
        let chunk = chunk.get(..len).unwrap_or(chunk);
        for run in data_runs(chunk) {
            let offset = start + run.start as u64;
            self.file
                .write_all_at(chunk.get(run).unwrap_or_default(), offset)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
