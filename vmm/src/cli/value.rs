//! Sizes and durations as people write them: `512M`, `1.5GiB`, `90s`, `1m30s`.
//!
//! Units of sizes are binary (1K = 1024), as docker's and qemu's `-m` are. Two parsers of a few
//! lines each are less to carry than two dependencies.

use std::time::Duration;

/// Reads a size: digits, optionally a fraction, and one of `b k m g t` in any case, optionally
/// followed by `iB`, `i` or `B`. Without a unit the number counts bytes.
///
/// # Errors
/// A sentence that names what is wrong.
pub fn size_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split_number(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "ki" | "kb" | "kib" => 10,
        "m" | "mi" | "mb" | "mib" => 20,
        "g" | "gi" | "gb" | "gib" => 30,
        "t" | "ti" | "tb" | "tib" => 40,
        _ => return Err(format!("unit '{unit}' is none of K, M, G, T")),
    };
    scaled(number, 1 << shift).ok_or_else(|| format!("'{text}' is not a size such as 512M or 1.5G"))
}

/// Reads the size of a guest's memory: a whole number of MiB, at least one.
///
/// # Errors
/// A sentence that names what is wrong.
pub fn memory_bytes(text: &str) -> Result<u64, String> {
    const MIB: u64 = 1 << 20;
    let bytes = size_bytes(text)?;
    if bytes < MIB {
        return Err(format!(
            "'{text}' is less than a mebibyte; units are K, M, G, T"
        ));
    }
    if bytes % MIB != 0 {
        return Err(format!("'{text}' is not a whole number of mebibytes"));
    }
    Ok(bytes)
}

/// Reads the size of a disk: a whole number of its blocks of 4 KiB, at least one.
///
/// # Errors
/// A sentence that names what is wrong.
pub fn disk_bytes(text: &str) -> Result<u64, String> {
    match size_bytes(text)? {
        bytes if bytes > 0 && bytes % 4096 == 0 => Ok(bytes),
        _ => Err(format!(
            "'{text}' is not a multiple of 4 KiB; units are K, M, G, T"
        )),
    }
}

/// Reads the size of a volume in GiB: a number of them, or a size with a unit that is a whole number.
///
/// # Errors
/// A sentence that names what is wrong.
pub fn gib(text: &str) -> Result<u64, String> {
    if let Ok(size) = text.parse() {
        return Ok(size);
    }
    match size_bytes(text)? {
        bytes if bytes.is_multiple_of(1 << 30) => Ok(bytes >> 30),
        _ => Err(format!("'{text}' is not a whole number of GiB")),
    }
}

/// Reads a duration: numbers with the units `ms`, `s`, `m`, `h`, `d`, largest first or not, added
/// up. A lone number counts seconds.
///
/// # Errors
/// A sentence that names what is wrong.
pub fn duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("'{text}' is not a duration such as 90s, 1m30s or 2h");
    if text.is_empty() {
        return Err(refused());
    }
    let mut total_ms = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let unit_len = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        let unit_ms = match unit {
            "ms" => 1,
            "" if number.len() == text.len() => 1000,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(refused()),
        };
        total_ms = scaled(number, unit_ms)
            .and_then(|ms| total_ms.checked_add(ms))
            .ok_or_else(refused)?;
        rest = next;
    }
    Ok(Duration::from_millis(total_ms))
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    (number, rest.trim_start())
}

/// `number` times `unit`, exactly, rounded down to a whole one; `None` when it is no number or too
/// large.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let mut part = 0;
    if !fraction.is_empty() {
        let digits: u128 = fraction.parse().ok()?;
        let denominator = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        part = u64::try_from(digits * u128::from(unit) / denominator).ok()?;
    }
    whole.checked_mul(unit)?.checked_add(part)
}

/// A size for people: three digits and a binary unit.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 1)) != 0 {
        unit += 1;
    }
    let whole = bytes >> (10 * unit);
    let tenths = ((bytes - (whole << (10 * unit))) * 10) >> (10 * unit);
    if unit == 0 || tenths == 0 || whole >= 100 {
        format!("{whole} {}", UNITS[unit])
    } else {
        format!("{whole}.{tenths} {}", UNITS[unit])
    }
}

/// A span of time for people, in its largest unit.
pub fn show_span(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units_and_exact_fractions() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512M", 512 << 20),
            ("512 MiB", 512 << 20),
            ("1.5g", 3 << 29),
            ("0.1k", 102),
            ("16t", 16 << 40),
            ("7B", 7),
        ] {
            assert_eq!(size_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "M",
            "-1",
            "1.",
            ".5G",
            "1..2",
            "1.2.3",
            "1e3",
            "12Q",
            "1 M B",
            "99999999999999999999",
            "99999999T",
            "1.0000000000G",
            "M512",
        ] {
            assert!(size_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_of_volumes_are_gib() {
        for (text, size) in [("20", 20), ("20G", 20), ("16 TiB", 16 << 10), ("0", 0)] {
            assert_eq!(gib(text), Ok(size), "{text}");
        }
        for text in ["", "-1", "1.5", "1.5G", "512M", "x"] {
            assert!(gib(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_add_up() {
        for (text, ms) in [
            ("0", 0),
            ("90", 90_000),
            ("1.5", 1500),
            ("250ms", 250),
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("1h1ms", 3_600_001),
            ("2d", 172_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "s",
            "-1s",
            "1m30",
            "30 1s",
            "1w",
            "1.2.3s",
            "999999999999999999d",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_spans_read_well() {
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_size(1023), "1023 B");
        assert_eq!(show_size(3 << 29), "1.5 GiB");
        assert_eq!(show_size(u64::MAX), "16777215 TiB");
        assert_eq!(show_span(1), "1 second");
        assert_eq!(show_span(7199), "1 hour");
        assert_eq!(show_span(172_800), "2 days");
    }
}
