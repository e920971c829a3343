//! Dates of the Gregorian calendar out of seconds since 1970.
//!
//! This file is compiled into the guest too.

/// Year, month, day, hour, minute, second of `seconds` since 1970-01-01T00:00:00Z.
#[must_use]
pub fn date_and_time(seconds: u32) -> [u32; 6] {
    let mut days = seconds / 86_400;
    let mut year = 1970;
    while days >= days_of_year(year) {
        days -= days_of_year(year);
        year += 1;
    }
    let mut month = 1;
    while days >= days_of_month(year, month) {
        days -= days_of_month(year, month);
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    [year, month, days + 1, hour, minute, second]
}

fn days_of_year(year: u32) -> u32 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of_month(year: u32, month: u32) -> u32 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

#[cfg(test)]
mod tests {
    use super::date_and_time;

    /// By `date -u -d @SECONDS`.
    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, [1970, 1, 1, 0, 0, 0]),
            (68_169_599, [1972, 2, 28, 23, 59, 59]),
            (68_169_600, [1972, 2, 29, 0, 0, 0]),
            (951_827_696, [2000, 2, 29, 12, 34, 56]),
            (1_609_459_199, [2020, 12, 31, 23, 59, 59]),
            (1_609_459_200, [2021, 1, 1, 0, 0, 0]),
            (u32::MAX, [2106, 2, 7, 6, 28, 15]),
        ] {
            assert_eq!(date_and_time(seconds), expected, "{seconds}");
        }
    }
}
