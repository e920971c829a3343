//! Times as EC2 writes them: ISO 8601 in UTC with milliseconds.

use std::time::{Duration, SystemTime};

/// `2026-01-31T23:59:59.000Z`. A time before 1970 is written as 1970's first moment.
pub fn iso8601(time: SystemTime) -> String {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since.subsec_millis()
    )
}

/// Reads what [`iso8601`] writes; the milliseconds, the seconds and the whole time of day may be
/// missing, and so may the `Z`.
pub fn parse_iso8601(text: &str) -> Option<SystemTime> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, clock) = text.split_once('T').unwrap_or((text, "00:00"));
    let mut date = date.splitn(3, '-').map(|part| digits(part, 4));
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, millis) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut clock = clock.splitn(3, ':').map(|part| digits(part, 2));
    let (hour, minute) = (clock.next()??, clock.next()??);
    let second = clock.next().unwrap_or(Some(0))?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_since_1970(year, month, day)?;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    let millis = digits(&format!("{millis:0<3}"), 3)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(seconds * 1000 + millis))
}

fn digits(text: &str, most: usize) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (is_number && text.len() <= most).then(|| text.parse().ok())?
}

/// The day of that date, if there is one since 1970: what [`date`] undoes.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) {
        return None;
    }
    // As in `date`: from March, 60 days and 719,468 less one year.
    let year_from_march = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let days = year_from_march * 365 + year_from_march / 4 - year_from_march / 100
        + year_from_march / 400
        + (153 * month_from_march + 2) / 5
        + day;
    let days = days.checked_sub(719_469)?;
    // A month or day that is none comes out as another date.
    (date(days) == (year, month, day)).then_some(days)
}

/// Year, month and day of the Gregorian calendar, from days since 1970-01-01. Years are counted
/// from March, so that the leap day comes last and a month's first day is a linear function of it.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    // 0000-03-01 to 1970-01-01.
    let days = days_since_1970 + 719_468;
    let era = days / DAYS_IN_400_YEARS;
    let of_era = days % DAYS_IN_400_YEARS;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for seconds in (0..4_200_000_000_u64).step_by(1_234_567) {
            let time =
                SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + seconds % 1000);
            assert_eq!(parse_iso8601(&iso8601(time)), Some(time));
        }
        for text in [
            "2026-01-31",
            "2026-01-31T00:00",
            "2026-01-31T00:00:00Z",
            "2026-01-31T00:00:00.0",
        ] {
            let time = parse_iso8601(text).map(iso8601);
            assert_eq!(time.as_deref(), Some("2026-01-31T00:00:00.000Z"), "{text}");
        }
        for text in [
            "",
            "soon",
            "2026",
            "2026-13-01",
            "2026-00-01",
            "2026-02-29",
            "2026-01-00",
            "1969-12-31",
            "2026-01-31T24:00",
            "2026-01-31T1",
            "2026-01-31T00:00:00+01:00",
            "2026-01-31T00:00:00.1234",
            "-1-01-01",
            "20266-01-01",
        ] {
            assert_eq!(parse_iso8601(text), None, "{text}");
        }
    }

    #[test]
    fn dates_are_those_of_date_1() {
        // date -u -d @SECONDS +%FT%T
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_399, "2000-02-28T23:59:59.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (951_868_800, "2000-03-01T00:00:00.007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7);
            assert_eq!(iso8601(time), text);
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut last = date(0);
        for days in 1..200_000 {
            let (year, month, day) = date(days);
            let next_day = (year, month, day) == (last.0, last.1, last.2 + 1);
            let next_month = day == 1 && (year, month) == (last.0, last.1 + 1);
            let next_year = (year, month, day) == (last.0 + 1, 1, 1) && last.1 == 12;
            assert!(next_day || next_month || next_year, "{last:?} {days}");
            assert!((28..=31).contains(&last.2) || day != 1);
            last = (year, month, day);
        }
        assert_eq!(last, (2517, 7, 31));
    }
}
