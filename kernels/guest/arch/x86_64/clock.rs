//! The MC146818 real-time clock.

use super::Firmware;
use super::ports::{in_u8, out_u8};
use crate::console::{Failure, failure};
use crate::hw::Deadline;

const RTC_INDEX: u16 = 0x70;
const RTC_DATA: u16 = 0x71;
const RTC_STATUS_A: u8 = 0x0a;
const RTC_STATUS_B: u8 = 0x0b;
const RTC_UPDATE_IN_PROGRESS: u8 = 1 << 7;
const RTC_BINARY: u8 = 1 << 2;

/// The date and time: year, month, day, hour, minute, second. Nothing says that they are possible ones.
pub fn read(_firmware: &Firmware) -> Result<[u32; 6], Failure> {
    let deadline = Deadline::new();
    let mut last = registers();
    // The same twice, and no update under way: whole.
    loop {
        let now = registers();
        if now == last && rtc(RTC_STATUS_A) & RTC_UPDATE_IN_PROGRESS == 0 {
            break;
        }
        if deadline.has_passed() {
            return Err(failure!("the clock does not hold still"));
        }
        last = now;
    }
    let is_binary = rtc(RTC_STATUS_B) & RTC_BINARY != 0;
    let value = |byte: u8| match is_binary {
        true => u32::from(byte),
        false => u32::from(byte >> 4) * 10 + u32::from(byte & 0xf),
    };
    let [year, month, day, hour, minute, second] = last.map(value);
    Ok([2000 + year, month, day, hour, minute, second])
}

fn registers() -> [u8; 6] {
    [9, 8, 7, 4, 2, 0].map(rtc)
}

fn rtc(register: u8) -> u8 {
    out_u8(RTC_INDEX, register);
    in_u8(RTC_DATA)
}
