//! A job of the guest's mode `load`: its words on the command line, and which blocks of the disk it visits.
//!
//! `DISK:KIND:BLOCK:DEPTH:QUEUES:LIMIT[:irq]`; [`Job`]'s fields say what the parts mean.
//!
//! This file is compiled into the guest too.

use core::str::FromStr;

/// A disk whose job writes only part of it is written in stretches of so many bytes, or of a block where that is more.
const STRETCH_BYTES: u64 = 64 << 10;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `read`, `write`: block after block, at the end from the start again.
    Sequential { writes: bool },
    /// `randread`, `randwrite`: any block, each as likely as another.
    Random { writes: bool },
    /// `first`: writes each block once, in a random order that is always the same.
    First,
    /// `fillseq`: writes each block once, in ascending order.
    Fill,
}

/// A job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// The disk's index, in the order in which the guest finds them.
    pub disk: usize,
    pub kind: Kind,
    /// The bytes of a request: a multiple of 512.
    pub block_bytes: u64,
    /// Requests in flight, on all queues together.
    pub depth: u16,
    /// Virtqueues, used in turns.
    pub queues: u16,
    /// For how long, in milliseconds; of [`Kind::First`] and [`Kind::Fill`] how much of the disk, in per mille.
    pub limit: u64,
    /// Waits for interrupts instead of looking at the used rings all the time.
    pub irq: bool,
}

impl Kind {
    /// Whether it writes.
    #[must_use]
    pub fn writes(self) -> bool {
        match self {
            Self::Sequential { writes } | Self::Random { writes } => writes,
            Self::First | Self::Fill => true,
        }
    }

    /// Whether it ends by itself, not by time.
    #[must_use]
    pub fn is_once(self) -> bool {
        matches!(self, Self::First | Self::Fill)
    }
}

impl FromStr for Job {
    /// Which part is wrong.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(':');
        let mut next = |name| parts.next().ok_or(name);
        let disk = next("DISK")?.parse().map_err(|_| "DISK")?;
        let kind = match next("KIND")? {
            "read" => Kind::Sequential { writes: false },
            "write" => Kind::Sequential { writes: true },
            "randread" => Kind::Random { writes: false },
            "randwrite" => Kind::Random { writes: true },
            "first" => Kind::First,
            "fillseq" => Kind::Fill,
            _ => return Err("KIND"),
        };
        let mut number = |name| next(name)?.parse::<u64>().map_err(|_| name);
        let (block_bytes, depth) = (number("BLOCK")?, number("DEPTH")?);
        let (queues, limit) = (number("QUEUES")?, number("LIMIT")?);
        if block_bytes == 0 || block_bytes % 512 != 0 || block_bytes > 1 << 30 {
            return Err("BLOCK");
        }
        if limit == 0 || kind.is_once() && limit > 1000 {
            return Err("LIMIT");
        }
        let irq = match parts.next() {
            None => false,
            Some("irq") => true,
            Some(_) => return Err("what follows LIMIT"),
        };
        Ok(Self {
            disk,
            kind,
            block_bytes,
            depth: depth.try_into().ok().filter(|&n| n != 0).ok_or("DEPTH")?,
            queues: queues.try_into().ok().filter(|&n| n != 0).ok_or("QUEUES")?,
            limit,
            irq,
        })
    }
}

/// The blocks that a job visits, by number, in its order. Whole blocks only: what is left over at the end of a disk is
/// not visited.
#[derive(Debug, Clone)]
pub struct Blocks {
    kind: Kind,
    /// Of the disk.
    blocks: u64,
    stretch_blocks: u64,
    stretches: u64,
    per_mille: u64,
    /// How many were visited.
    count: u64,
    random: u64,
}

impl Blocks {
    /// Those of `job` on a disk of `disk_bytes`. `seed` is what random blocks depend on.
    #[must_use]
    pub fn new(job: &Job, disk_bytes: u64, seed: u64) -> Self {
        let blocks = disk_bytes / job.block_bytes;
        let stretch_blocks = (STRETCH_BYTES / job.block_bytes).max(1);
        let per_mille = if job.kind.is_once() { job.limit } else { 1000 };
        Self {
            kind: job.kind,
            blocks,
            stretch_blocks,
            stretches: blocks.div_ceil(stretch_blocks) * per_mille / 1000,
            per_mille,
            count: 0,
            random: seed,
        }
    }

    /// The `index`th block of the stretches that are written, ascending. `None` beyond the end of the disk, where the
    /// last stretch is not whole.
    fn chosen(&self, index: u64) -> Option<u64> {
        let stretch = index / self.stretch_blocks;
        // The first of which the share is whole: spread evenly, the same ones each time.
        let stretch = ((stretch + 1) * 1000).div_ceil(self.per_mille) - 1;
        let block = stretch * self.stretch_blocks + index % self.stretch_blocks;
        (block < self.blocks).then_some(block)
    }

    /// The next of those that are visited once.
    fn next_once(&mut self) -> Option<u64> {
        let span = self.stretches * self.stretch_blocks;
        while self.count < span {
            let index = match self.kind {
                Kind::First => permuted(self.count, span),
                _ => self.count,
            };
            self.count += 1;
            if let Some(block) = self.chosen(index) {
                return Some(block);
            }
        }
        None
    }
}

impl Iterator for Blocks {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.blocks == 0 {
            return None;
        }
        match self.kind {
            Kind::First | Kind::Fill => self.next_once(),
            Kind::Sequential { .. } => {
                let block = self.count % self.blocks;
                self.count += 1;
                Some(block)
            }
            Kind::Random { .. } => {
                // The upper half of a linear congruential generator, whose lower bits are not random.
                self.random = self.random.wrapping_mul(6_364_136_223_846_793_005);
                self.random = self.random.wrapping_add(1_442_695_040_888_963_407);
                Some(((self.random >> 32) * self.blocks) >> 32)
            }
        }
    }
}

/// Where `index`, below `count`, comes in a random order of all such numbers that is always the same.
///
/// Each step can be undone on numbers of so many bits, hence no two come to the same place; what lands beyond `count`
/// goes on until it does not.
#[must_use]
pub fn permuted(index: u64, count: u64) -> u64 {
    let bits = u64::BITS - count.saturating_sub(1).leading_zeros();
    let mask = (1u64 << bits.max(1)) - 1;
    let shift = (bits / 2).max(1);
    let mut at = index;
    loop {
        for round in [
            0x9e37_79b9_7f4a_7c15u64,
            0xd1b5_4a32_d192_ed03,
            0x94d0_49bb_1331_11eb,
        ] {
            at = at.wrapping_mul(round).wrapping_add(round >> 32) & mask;
            at ^= at >> shift;
        }
        if at < count {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn blocks(text: &str, disk_bytes: u64) -> Vec<u64> {
        let job: Job = text.parse().unwrap();
        Blocks::new(&job, disk_bytes, 1).take(100_000).collect()
    }

    #[test]
    fn job_is_read_and_what_is_wrong_with_one_is_named() {
        let job = Job {
            disk: 1,
            kind: Kind::Random { writes: true },
            block_bytes: 4096,
            depth: 32,
            queues: 2,
            limit: 1500,
            irq: true,
        };
        assert_eq!("1:randwrite:4096:32:2:1500:irq".parse(), Ok(job));
        for (text, wrong) in [
            ("", "DISK"),
            ("0:reread:4096:1:1:1", "KIND"),
            ("0:read:100:1:1:1", "BLOCK"),
            ("0:read:4096:0:1:1", "DEPTH"),
            ("0:read:4096:1:70000:1", "QUEUES"),
            ("0:read:4096:1:1", "LIMIT"),
            ("0:first:4096:1:1:1001", "LIMIT"),
            ("0:read:4096:1:1:1:poll", "what follows LIMIT"),
        ] {
            assert_eq!(text.parse::<Job>(), Err(wrong), "{text}");
        }
    }

    #[test]
    fn first_and_fill_visit_each_block_once() {
        for bytes in [1 << 20, 4096, 68 << 10, 999 << 12] {
            let all: Vec<u64> = (0..bytes / 4096).collect();
            assert_eq!(blocks("0:fillseq:4096:1:1:1000", bytes), all);
            let mut first = blocks("0:first:4096:1:1:1000", bytes);
            assert!(all.len() < 32 || first != all);
            first.sort_unstable();
            assert_eq!(first, all);
        }
    }

    #[test]
    fn half_of_a_disk_is_every_second_stretch() {
        let mut first = blocks("0:first:4096:1:1:500", 1 << 20);
        first.sort_unstable();
        let odd: Vec<u64> = (0..256).filter(|block| block / 16 % 2 == 1).collect();
        assert_eq!(first, odd);
        assert_eq!(blocks("0:fillseq:4096:1:1:500", 1 << 20), odd);
        assert_eq!(blocks("0:fillseq:131072:1:1:500", 1 << 20), [1, 3, 5, 7]);
    }

    #[test]
    fn sequential_wraps_and_random_reaches_everything() {
        assert_eq!(blocks("0:read:512:1:1:1", 2048)[..6], [0, 1, 2, 3, 0, 1]);
        let seen: BTreeSet<u64> = blocks("0:randread:4096:1:1:1", 1 << 20)
            .into_iter()
            .collect();
        assert_eq!(seen, (0..256).collect());
        assert_eq!(blocks("0:randread:4096:1:1:1", 4095), []);
    }

    #[test]
    fn permutation_is_one() {
        for count in [1, 2, 3, 16, 17, 1000] {
            let all: BTreeSet<u64> = (0..count).map(|index| permuted(index, count)).collect();
            assert_eq!(all, (0..count).collect(), "{count}");
        }
    }
}
