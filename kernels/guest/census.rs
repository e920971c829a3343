//! Counts what the sectors of a disk hold, and judges the disk by it.

use crate::console::{Failure, failure};
use crate::pattern::{self, SECTOR_BYTES, Stamp};

/// What a disk holds, judged by the pattern.
#[derive(Default)]
pub struct Census {
    /// As the host made the disk, and how large it was then.
    by_host: u64,
    host_sectors: u64,
    by_guest: u64,
    other: u64,
    last_other: u64,
    first_zero: Option<u64>,
}

impl Census {
    /// Takes in the sector `number`.
    pub fn count(&mut self, number: u64, bytes: &[u8; SECTOR_BYTES]) {
        match pattern::check(number, bytes) {
            Some(Stamp {
                generation: 0,
                disk_sectors,
            }) => {
                self.by_host += 1;
                self.host_sectors = disk_sectors;
            }
            Some(_) => self.by_guest += 1,
            None if *bytes == [0; SECTOR_BYTES] => {
                self.first_zero.get_or_insert(number);
            }
            None => {
                self.other += 1;
                self.last_other = number;
            }
        }
    }

    /// `ok`: as the host made it; `written`: partly by an earlier run of this guest; `none`: no pattern.
    ///
    /// A disk may be larger than the host made it: it goes on with zeroes. One that never had the pattern holds
    /// anything, but none of the host's sectors.
    pub fn verdict(&self, disk: usize) -> Result<&'static str, Failure> {
        let first_zero = self.first_zero.unwrap_or(u64::MAX);
        if self.by_host != 0 && self.other != 0 {
            return Err(failure!(
                "disk{disk}: sector {} is not the pattern",
                self.last_other
            ));
        }
        if self.by_host != 0 && first_zero < self.host_sectors {
            return Err(failure!(
                "disk{disk}: sector {first_zero} is zero instead of the pattern"
            ));
        }
        Ok(match (self.by_host, self.by_guest) {
            (0, 0) => "none",
            (_, 0) => "ok",
            (_, _) => "written",
        })
    }
}
