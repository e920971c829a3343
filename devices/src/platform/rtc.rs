//! The real-time clock and its 128 bytes of CMOS memory (Motorola MC146818A), at ports 0x70 and 0x71.
//!
//! It tells the host's time in UTC, in the format that the guest chose in register B. Left out on
//! purpose: setting the time (the host's clock stands; what is written to a time register is lost),
//! alarms and interrupts.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bus::BusDevice;
use crate::lock::lock;

/// First of the [`PORTS`] ports.
pub const BASE: u16 = 0x70;
pub const PORTS: u64 = 2;
/// The CMOS register of the century, for the FADT's `CENTURY`.
pub const CENTURY: u8 = 0x32;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY_OF_WEEK: u8 = 0x06;
const DAY_OF_MONTH: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;

/// Register A: update in progress; a 32.768 kHz time base and the usual 1024 Hz rate.
const A_UPDATING: u8 = 1 << 7;
const A_POWER_ON: u8 = 0x26;
/// Register B: binary instead of BCD, 24 hours instead of 12.
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
/// Register D: memory and time are valid.
const D_VALID: u8 = 1 << 7;
/// In the 12-hour format, the bit of an hour after noon.
const HOURS_PM: u8 = 1 << 7;

/// How long before the second changes an update shows: longer than the chip's 244 µs, so that the
/// exits of a guest that reads all of the time fit in.
const UPDATE: Duration = Duration::from_millis(2);

/// The clock.
pub struct Rtc {
    now: Box<dyn Fn() -> SystemTime + Send + Sync>,
    /// Contended by vCPUs.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    index: u8,
    memory: [u8; 128],
}

/// A moment in the calendar, UTC.
#[derive(Debug, PartialEq, Eq)]
struct Calendar {
    second: u8,
    minute: u8,
    hour: u8,
    /// Sunday is 1.
    day_of_week: u8,
    day: u8,
    month: u8,
    /// Of the century.
    year: u8,
    century: u8,
}

impl Rtc {
    /// A clock that shows the host's time.
    pub fn new() -> Self {
        Self::with_clock(SystemTime::now)
    }

    /// A clock that shows what `now` says.
    pub fn with_clock(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        let mut memory = [0; 128];
        for (register, byte) in (0..).zip(&mut memory) {
            match register {
                REGISTER_A => *byte = A_POWER_ON,
                REGISTER_B => *byte = B_24_HOURS,
                _ => {}
            }
        }
        Self {
            now: Box::new(now),
            state: Mutex::new(State { index: 0, memory }),
        }
    }

    fn read_register(&self, state: &State) -> u8 {
        let now = (self.now)().duration_since(UNIX_EPOCH).unwrap_or_default();
        let memory = |register: u8| {
            let byte = state.memory.get(usize::from(register));
            byte.copied().unwrap_or(0xff)
        };
        let calendar = Calendar::at(now.as_secs());
        let b = memory(REGISTER_B);
        match state.index {
            SECONDS => encode(calendar.second, b),
            MINUTES => encode(calendar.minute, b),
            HOURS => encode_hour(calendar.hour, b),
            DAY_OF_WEEK => encode(calendar.day_of_week, b),
            DAY_OF_MONTH => encode(calendar.day, b),
            MONTH => encode(calendar.month, b),
            YEAR => encode(calendar.year, b),
            CENTURY => encode(calendar.century, b),
            REGISTER_A => {
                let left = Duration::from_secs(1)
                    .saturating_sub(Duration::from_nanos(now.subsec_nanos().into()));
                let updating = if left <= UPDATE { A_UPDATING } else { 0 };
                memory(REGISTER_A) & !A_UPDATING | updating
            }
            // No interrupt is ever pending.
            REGISTER_C => 0,
            REGISTER_D => D_VALID,
            register => memory(register),
        }
    }
}

impl Default for Rtc {
    fn default() -> Self {
        Self::new()
    }
}

impl Calendar {
    /// The moment `seconds` after 1970-01-01 00:00 UTC (proleptic Gregorian calendar).
    fn at(seconds: u64) -> Self {
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Counted from 0000-03-01, so that a leap day ends a year: 400 years have 146 097 days.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months from March on: five of them have 153 days.
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        Self {
            second: small(second % 60),
            minute: small(second / 60 % 60),
            hour: small(second / 3_600),
            // 1970-01-01 was a Thursday.
            day_of_week: small((days + 4) % 7 + 1),
            day: small(day),
            month: small(month),
            year: small(year % 100),
            century: small(year / 100 % 100),
        }
    }
}

fn small(value: u64) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

/// `value`, below 100, as register B says.
fn encode(value: u8, register_b: u8) -> u8 {
    if register_b & B_BINARY != 0 {
        value
    } else {
        ((value / 10 % 10) << 4) | (value % 10)
    }
}

fn encode_hour(hour: u8, register_b: u8) -> u8 {
    if register_b & B_24_HOURS != 0 {
        return encode(hour, register_b);
    }
    // Midnight and noon are both 12.
    let twelve = (hour + 11) % 12 + 1;
    encode(twelve, register_b) | if hour >= 12 { HOURS_PM } else { 0 }
}

impl BusDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = lock(&self.state);
        for (port, byte) in (offset..).zip(data) {
            // The index port is write-only.
            *byte = match port {
                1 => self.read_register(&state),
                _ => 0xff,
            };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.state);
        for (port, byte) in (offset..).zip(data) {
            match (port, state.index) {
                // Bit 7 disables NMIs; there are none.
                (0, _) => state.index = byte & 0x7f,
                (1, REGISTER_C | REGISTER_D) => {}
                (1, index) => {
                    if let Some(slot) = state.memory.get_mut(usize::from(index)) {
                        *slot = *byte;
                    }
                }
                _ => {}
            }
        }
    }
}

impl fmt::Debug for Rtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = lock(&self.state).index;
        f.debug_struct("Rtc")
            .field("index", &index)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A clock at `nanos` after the epoch.
    fn clock(nanos: u64) -> (Rtc, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(nanos));
        let shown = time.clone();
        let rtc = Rtc::with_clock(move || {
            UNIX_EPOCH + Duration::from_nanos(shown.load(Ordering::Relaxed))
        });
        (rtc, time)
    }

    fn read(rtc: &Rtc, register: u8) -> u8 {
        rtc.write(0, &[register | 0x80]);
        let mut data = [0];
        rtc.read(1, &mut data);
        data[0]
    }

    fn write(rtc: &Rtc, register: u8, value: u8) {
        rtc.write(0, &[register]);
        rtc.write(1, &[value]);
    }

    fn time(rtc: &Rtc) -> [u8; 8] {
        [
            CENTURY,
            YEAR,
            MONTH,
            DAY_OF_MONTH,
            HOURS,
            MINUTES,
            SECONDS,
            DAY_OF_WEEK,
        ]
        .map(|register| read(rtc, register))
    }

    const NOON: u64 = 1_709_211_599; // Thursday 2024-02-29 12:59:59

    #[test]
    fn time_is_in_the_format_of_register_b() {
        let (rtc, time_now) = clock(NOON * 1_000_000_000);
        assert_eq!(time(&rtc), [0x20, 0x24, 0x02, 0x29, 0x12, 0x59, 0x59, 5]);
        write(&rtc, REGISTER_B, B_24_HOURS | B_BINARY);
        assert_eq!(time(&rtc), [20, 24, 2, 29, 12, 59, 59, 5]);
        for (hour, bcd) in [
            (0, 0x12),
            (1, 0x01),
            (11, 0x11),
            (12, 0x92),
            (13, 0x81),
            (23, 0x91),
        ] {
            time_now.store(hour * 3_600_000_000_000, Ordering::Relaxed);
            write(&rtc, REGISTER_B, 0);
            assert_eq!(read(&rtc, HOURS), bcd, "hour {hour}");
        }
    }

    #[test]
    fn calendar_agrees_with_known_days() {
        // As GNU date prints them: %C %y %m %d %u (Sunday 7 there, 1 here).
        for (days, expected) in [
            (0, (19, 70, 1, 1, 5)),
            (10_956, (19, 99, 12, 31, 6)),
            (11_016, (20, 0, 2, 29, 3)),
            (20_514, (20, 26, 3, 2, 2)),
            (47_540, (21, 0, 2, 28, 1)),
            (47_541, (21, 0, 3, 1, 2)),
        ] {
            let c = Calendar::at(days * 86_400);
            let found = (c.century, c.year, c.month, c.day, c.day_of_week);
            assert_eq!(found, expected, "day {days}");
        }
    }

    #[test]
    fn update_shows_only_just_before_the_second_changes() {
        let (rtc, now) = clock(0);
        for (nanos, updating) in [(0, 0), (500_000_000, 0), (999_000_000, A_UPDATING)] {
            now.store(nanos, Ordering::Relaxed);
            assert_eq!(read(&rtc, REGISTER_A), A_POWER_ON | updating);
        }
        assert_eq!((read(&rtc, REGISTER_C), read(&rtc, REGISTER_D)), (0, 0x80));
    }

    #[test]
    fn memory_keeps_what_is_written_and_the_time_does_not_change() {
        let (rtc, _) = clock(NOON * 1_000_000_000);
        for register in 0..128 {
            write(&rtc, register, 0x5a);
        }
        assert_eq!(read(&rtc, 0x0f), 0x5a);
        assert_eq!(read(&rtc, 0x7f), 0x5a);
        write(&rtc, REGISTER_B, B_24_HOURS);
        assert_eq!(time(&rtc), [0x20, 0x24, 0x02, 0x29, 0x12, 0x59, 0x59, 5]);
    }
}
