//! The test pattern: what a test disk's sectors hold, so that any sector tells which one it is, and who wrote it.
//!
//! A sector of 512 bytes is 64 little-endian words of 64 bits:
//!
//! | word | |
//! |---|---|
//! | 0 | the sector's number xor [`KEY`] |
//! | 1 | the generation: 0 as the host made the disk, else a number that the guest chose for one run |
//! | 2 | the size in sectors of the disk as the host made it; 0 in what the guest writes |
//! | 3–63 | a splitmix64 sequence that starts from the three |
//!
//! This file is compiled into the guest too.

/// What a sector's number is combined with; "KamiTest" in ASCII.
pub const KEY: u64 = 0x7473_6554_696d_614b;

/// The size of a sector, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// Who wrote a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// 0 for the host.
    pub generation: u64,
    /// 0 for the guest.
    pub disk_sectors: u64,
}

/// Fills `bytes` with what sector `number` holds when `stamp` wrote it.
pub fn fill(number: u64, stamp: Stamp, bytes: &mut [u8; SECTOR_BYTES]) {
    for (word, expected) in bytes.chunks_exact_mut(8).zip(words(number, stamp)) {
        word.copy_from_slice(&expected.to_le_bytes());
    }
}

/// Who wrote the sector `number`, if `bytes` is the pattern at all.
#[must_use]
pub fn check(number: u64, bytes: &[u8; SECTOR_BYTES]) -> Option<Stamp> {
    let mut words_found = bytes.chunks_exact(8).map(|word| {
        word.iter()
            .rev()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    });
    let mut first = words_found.clone().skip(1);
    let stamp = Stamp {
        generation: first.next()?,
        disk_sectors: first.next()?,
    };
    words(number, stamp)
        .all(|expected| words_found.next() == Some(expected))
        .then_some(stamp)
}

/// The 64 words of a sector.
fn words(number: u64, stamp: Stamp) -> impl Iterator<Item = u64> {
    let head = [number ^ KEY, stamp.generation, stamp.disk_sectors];
    let mut state = head[0] ^ head[1].rotate_left(17) ^ head[2].rotate_left(41);
    let tail = core::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    });
    head.into_iter().chain(tail).take(SECTOR_BYTES / 8)
}
