//! Ranges of guest-physical addresses, and the units that memory maps are written in.

use vm_memory::GuestAddress;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// The size of a page, and the granularity of RAM, in bytes.
pub const PAGE_BYTES: u64 = 4 * KIB;

/// A range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: GuestAddress,
    /// In bytes.
    pub len: u64,
}

impl Range {
    pub const fn new(start: u64, len: u64) -> Self {
        Self {
            start: GuestAddress(start),
            len,
        }
    }

    /// The first address after the range.
    pub const fn end(&self) -> u64 {
        self.start.0 + self.len
    }

    /// Whether `len` bytes from `start` on lie within the range.
    pub fn contains(&self, start: u64, len: u64) -> bool {
        start >= self.start.0 && start.checked_add(len).is_some_and(|end| end <= self.end())
    }
}

/// Whether the ranges ascend and do not touch each other's bytes.
pub const fn ascending(ranges: &[Range]) -> bool {
    let mut i = 1;
    while i < ranges.len() {
        if ranges[i - 1].end() > ranges[i].start.0 {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containment_does_not_wrap() {
        let range = Range::new(0x2_0000, 64 * KIB);
        assert!(range.contains(0x2_0000, 64 * KIB));
        assert!(!range.contains(0x2_0001, 64 * KIB));
        assert!(!range.contains(0x2_0001, u64::MAX));
    }
}
