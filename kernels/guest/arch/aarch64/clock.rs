//! The real-time clock: a PL031.
//!
//! Implements Arm DDI 0224 §3.3.1: one register counts the seconds since 1970.

use super::Firmware;
use super::calendar;
use super::memory;
use crate::console::{Failure, failure};
use crate::hw::Window;

const DATA: u64 = 0x00;
const BYTES: u64 = 0x1000;

/// The date and time: year, month, day, hour, minute, second.
pub fn read(firmware: &Firmware) -> Result<[u32; 6], Failure> {
    let Some(base) = firmware.clock else {
        return Err(failure!("the device tree has no PL031"));
    };
    memory::map_device(base, BYTES)?;
    // SAFETY: the clock's registers.
    let seconds = unsafe { Window::new(base, BYTES) }.u32(DATA);
    Ok(calendar::date_and_time(seconds))
}
