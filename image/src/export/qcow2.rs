//! qcow2, version 3 (QEMU, `docs/interop/qcow2.txt`).
//!
//! The header, the L1 table, then clusters of data and L2 tables in the order in which they come,
//! then the refcounts, of which every cluster has one. The header is written last: until then the file is
//! no qcow2. Left out on purpose: compression, internal snapshots, backing files, encryption.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Writer;
use crate::chunk::{CHUNK_BYTES, data_runs};

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const CLUSTER_LEN: usize = 1 << CLUSTER_BITS;
/// Entries of an L2 table, and of a cluster of the L1 or the refcount table: 8 bytes each.
const ENTRIES: u64 = CLUSTER / 8;
/// Refcounts of 16 bits in a refcount block.
const REFCOUNTS: u64 = CLUSTER / 2;
const REFCOUNT_ORDER: u32 = 4;
const HEADER_LENGTH: u32 = 104;
/// "The refcount is exactly one" ("L1 table entry", "L2 table entry").
const COPIED: u64 = 1 << 63;

#[derive(Debug)]
pub(super) struct Qcow2<'a> {
    file: &'a File,
    size_bytes: u64,
    l1: Vec<u64>,
    /// The L2 table being filled, and its index in the L1 table.
    l2: Option<(u64, Vec<u64>)>,
    /// The first cluster that nothing is in.
    next: u64,
}

impl<'a> Qcow2<'a> {
    pub(super) fn new(file: &'a File, size_bytes: u64) -> Self {
        // QEMU counts in sectors.
        let size_bytes = size_bytes.next_multiple_of(512);
        let l1_len = size_bytes.div_ceil(CLUSTER * ENTRIES);
        Self {
            file,
            size_bytes,
            l1: vec![0; usize::try_from(l1_len).unwrap_or(usize::MAX)],
            l2: None,
            next: 1 + l1_len.div_ceil(ENTRIES),
        }
    }

    /// The offset of `count` clusters that are nobody else's.
    fn allocate(&mut self, count: u64) -> u64 {
        let offset = self.next * CLUSTER;
        self.next += count;
        offset
    }

    fn write_cluster(&mut self, number: u64, cluster: &[u8]) -> io::Result<()> {
        let index = number / ENTRIES;
        if self.l2.as_ref().is_none_or(|(of, _)| *of != index) {
            self.write_l2()?;
            self.l2 = Some((index, vec![0; CLUSTER_LEN / 8]));
        }
        let offset = self.allocate(1);
        self.file.write_all_at(cluster, offset)?;
        let within = usize::try_from(number % ENTRIES).unwrap_or(usize::MAX);
        if let Some(entry) = self
            .l2
            .as_mut()
            .and_then(|(_, table)| table.get_mut(within))
        {
            *entry = offset | COPIED;
        }
        Ok(())
    }

    fn write_l2(&mut self) -> io::Result<()> {
        let Some((index, table)) = self.l2.take() else {
            return Ok(());
        };
        let offset = self.allocate(1);
        self.file.write_all_at(&big_endian(&table), offset)?;
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some(entry) = self.l1.get_mut(index) {
            *entry = offset | COPIED;
        }
        Ok(())
    }

    /// Writes the refcounts, and returns where their table is and how many clusters it has.
    fn write_refcounts(&mut self) -> io::Result<(u64, u32)> {
        // They count their own clusters too.
        let (mut blocks, mut table) = (0_u64, 0_u64);
        while blocks * REFCOUNTS < self.next + blocks + table {
            blocks += 1;
            table = blocks.div_ceil(ENTRIES);
        }
        let used = self.next + blocks + table;
        let mut entries = Vec::new();
        for number in 0..blocks {
            let count = used.saturating_sub(number * REFCOUNTS).min(REFCOUNTS);
            let mut block = vec![0; CLUSTER_LEN];
            let (refcounts, _) = block.as_chunks_mut::<2>();
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            for refcount in refcounts.iter_mut().take(count) {
                *refcount = 1_u16.to_be_bytes();
            }
            let offset = self.allocate(1);
            self.file.write_all_at(&block, offset)?;
            entries.push(offset);
        }
        let offset = self.allocate(table);
        self.file.write_all_at(&big_endian(&entries), offset)?;
        // To the end of its last cluster.
        self.file.set_len(self.next * CLUSTER)?;
        Ok((offset, u32::try_from(table).unwrap_or(u32::MAX)))
    }
}

impl Writer for Qcow2<'_> {
    fn write(&mut self, index: u64, chunk: &[u8]) -> io::Result<()> {
        let first = index * (CHUNK_BYTES / CLUSTER);
        for (number, cluster) in (first..).zip(chunk.chunks(CLUSTER_LEN)) {
            if !data_runs(cluster).is_empty() {
                self.write_cluster(number, cluster)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.write_l2()?;
        self.file.write_all_at(&big_endian(&self.l1), CLUSTER)?;
        let (refcounts, refcount_clusters) = self.write_refcounts()?;
        let l1_len = u32::try_from(self.l1.len()).unwrap_or(u32::MAX);
        // "Header"; the extensions that follow it end at once, with eight bytes of zeroes.
        let fields: [&[u8]; 18] = [
            b"QFI\xfb",
            &3_u32.to_be_bytes(),
            &[0; 8 + 4], // backing file: its offset and size
            &CLUSTER_BITS.to_be_bytes(),
            &self.size_bytes.to_be_bytes(),
            &[0; 4], // encryption
            &l1_len.to_be_bytes(),
            &CLUSTER.to_be_bytes(), // offset of the L1 table
            &refcounts.to_be_bytes(),
            &refcount_clusters.to_be_bytes(),
            &[0; 4], // snapshots: their number
            &[0; 8], // and offset
            &[0; 8], // incompatible features
            &[0; 8], // compatible features
            &[0; 8], // autoclear features
            &REFCOUNT_ORDER.to_be_bytes(),
            &HEADER_LENGTH.to_be_bytes(),
            &[0; 8],
        ];
        self.file.write_all_at(&fields.concat(), 0)
    }
}

fn big_endian(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|it| it.to_be_bytes()).collect()
}
