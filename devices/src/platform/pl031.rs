//! The real-time clock of Arm machines: a PrimeCell RTC, PL031 (ARM DDI 0224C). It tells the host's time, in
//! seconds since 1970 UTC.
//!
//! Left out on purpose: setting the time (the host's clock stands), and the alarm; there is no interrupt line, so
//! that no driver offers one.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::bus::BusDevice;
use crate::dwords::read_dwords;
use crate::primecell;

/// Part 0x031 of Arm (§3.4.10).
const PERIPHERAL_ID: u32 = 0x0004_1031;

/// Registers, by their offset in 4 bytes: the time, and the control register, in which the clock runs.
const DATA: u64 = 0;
const CONTROL: u64 = 0x00c / 4;
const CONTROL_STARTED: u32 = 1;

/// The clock, [`primecell::BYTES`] long.
pub struct Pl031(Box<dyn Fn() -> SystemTime + Send + Sync>);

impl Pl031 {
    /// A clock that shows the host's time.
    pub fn new() -> Self {
        Self::with_clock(SystemTime::now)
    }

    /// A clock that shows what `now` says.
    pub fn with_clock(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Box::new(now))
    }

    /// The counter has 32 bits, and starts anew in 2106.
    fn seconds(&self) -> u32 {
        let now = (self.0)().duration_since(UNIX_EPOCH).unwrap_or_default();
        let [a, b, c, d, ..] = now.as_secs().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }
}

impl Default for Pl031 {
    fn default() -> Self {
        Self::new()
    }
}

impl BusDevice for Pl031 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        read_dwords(offset, data, |register| match register {
            DATA => self.seconds(),
            CONTROL => CONTROL_STARTED,
            other => primecell::id_register(PERIPHERAL_ID, other).unwrap_or(0),
        });
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
}

impl fmt::Debug for Pl031 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pl031")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn read(clock: &Pl031, register: u64) -> u32 {
        let mut data = [0xee; 4];
        clock.read(register * 4, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn time_is_the_hosts_whatever_is_written() {
        let clock = Pl031::with_clock(|| UNIX_EPOCH + Duration::from_millis(1_709_211_599_900));
        for register in 0..8 {
            clock.write(register * 4, &[0xff; 4]);
        }
        assert_eq!(read(&clock, DATA), 1_709_211_599);
        assert_eq!(read(&clock, CONTROL), 1);
        let late = Pl031::with_clock(|| UNIX_EPOCH + Duration::from_secs((1 << 32) + 5));
        assert_eq!(read(&late, DATA), 5);
    }

    #[test]
    fn amba_bus_finds_a_pl031() {
        let clock = Pl031::new();
        let ids: Vec<u32> = (0..8).map(|n| read(&clock, 0xfe0 / 4 + n)).collect();
        assert_eq!(ids, [0x31, 0x10, 0x04, 0, 0x0d, 0xf0, 0x05, 0xb1]);
    }
}
