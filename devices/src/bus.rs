//! An address space of devices: built, checked for overlaps, then frozen and shared without a lock.

use std::fmt;
use std::sync::Arc;

/// A device at a range of addresses. `offset` counts from the start of the range; an access never
/// reaches past its end. A device answers any size of access.
pub trait BusDevice: Send + Sync {
    fn read(&self, offset: u64, data: &mut [u8]);
    fn write(&self, offset: u64, data: &[u8]);
}

struct Range {
    start: u64,
    len: u64,
    name: &'static str,
    device: Arc<dyn BusDevice>,
}

/// What is wrong with a range that was to be added.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("{name} at {start:#x}+{len:#x} is empty or ends beyond the address space")]
    Unaddressable {
        name: &'static str,
        start: u64,
        len: u64,
    },
    #[error("{name} at {start:#x}+{len:#x} overlaps {other}")]
    Overlap {
        name: &'static str,
        start: u64,
        len: u64,
        other: &'static str,
    },
}

/// A bus under construction.
#[derive(Default)]
pub struct BusBuilder {
    ranges: Vec<Range>,
}

/// A bus that no longer changes.
pub struct Bus {
    ranges: Vec<Range>,
}

impl BusBuilder {
    /// Puts `device` at the `len` addresses from `start` on.
    ///
    /// # Errors
    /// The range is empty, wraps, or overlaps one that is there.
    pub fn insert(
        &mut self,
        name: &'static str,
        start: u64,
        len: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), Error> {
        let Some(last) = len.checked_sub(1).and_then(|l| start.checked_add(l)) else {
            return Err(Error::Unaddressable { name, start, len });
        };
        let overlap = |r: &&Range| r.start <= last && start <= r.start + (r.len - 1);
        if let Some(other) = self.ranges.iter().find(overlap) {
            return Err(Error::Overlap {
                name,
                start,
                len,
                other: other.name,
            });
        }
        self.ranges.push(Range {
            start,
            len,
            name,
            device,
        });
        Ok(())
    }

    pub fn freeze(mut self) -> Bus {
        self.ranges.sort_by_key(|r| r.start);
        Bus {
            ranges: self.ranges,
        }
    }
}

impl Bus {
    /// Reads from the device at `address`; where there is none, all ones, as an unclaimed bus
    /// cycle reads. Returns whether a device answered.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        match self.find(address, data.len()) {
            Some((range, offset)) => {
                range.device.read(offset, data);
                true
            }
            None => {
                data.fill(0xff);
                false
            }
        }
    }

    /// Writes to the device at `address`; where there is none, the write is lost. Returns whether
    /// a device answered.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        match self.find(address, data.len()) {
            Some((range, offset)) => {
                range.device.write(offset, data);
                true
            }
            None => false,
        }
    }

    fn find(&self, address: u64, len: usize) -> Option<(&Range, u64)> {
        let after = self.ranges.partition_point(|r| r.start <= address);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        let offset = address - range.start;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= range.len).then_some((range, offset))
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:#x}+{:#x}", self.name, self.start, self.len)
    }
}

impl fmt::Debug for BusBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.ranges).finish()
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.ranges).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap());
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    fn bus() -> (Bus, Arc<Recorder>) {
        let device = Arc::new(Recorder::default());
        let mut builder = BusBuilder::default();
        builder.insert("b", 0x100, 8, device.clone()).unwrap();
        builder.insert("a", 0x10, 4, device.clone()).unwrap();
        (builder.freeze(), device)
    }

    #[test]
    fn access_reaches_the_device_with_its_offset() {
        let (bus, device) = bus();
        let mut data = [0; 2];
        assert!(bus.read(0x106, &mut data));
        assert_eq!(data, [6, 6]);
        assert!(bus.write(0x13, &[9]));
        assert_eq!(*device.0.lock().unwrap(), [(3, vec![9])]);
    }

    #[test]
    fn unclaimed_or_straddling_access_reads_all_ones_and_writes_nothing() {
        let (bus, device) = bus();
        for address in [0, 0x14, 0x13, 0x107, 0x108, u64::MAX] {
            let mut data = [0; 2];
            assert!(!bus.read(address, &mut data), "{address:#x}");
            assert_eq!(data, [0xff; 2]);
            assert!(!bus.write(address, &data));
        }
        assert!(device.0.lock().unwrap().is_empty());
    }

    #[test]
    fn overlapping_empty_and_wrapping_ranges_are_refused() {
        let device = Arc::new(Recorder::default());
        let mut builder = BusBuilder::default();
        builder.insert("a", 0x10, 4, device.clone()).unwrap();
        let overlap = builder.insert("b", 0x13, 1, device.clone());
        assert!(matches!(overlap, Err(Error::Overlap { other: "a", .. })));
        for (start, len) in [(0x20, 0), (u64::MAX, 2)] {
            let refused = builder.insert("c", start, len, device.clone());
            assert!(matches!(refused, Err(Error::Unaddressable { .. })));
        }
        builder.insert("d", u64::MAX, 1, device).unwrap();
    }
}
