//! Counts latencies in buckets whose width grows with the latency, as HDR histograms do: 32 to each power of two, so
//! that what a percentile tells is at most 1.6 % off.
//!
//! This file is compiled into the guest too.

/// Buckets to a power of two, and as many numbers at the start that have one each.
const STEPS: usize = 32;
/// Powers of two above the first [`STEPS`] numbers; what is larger counts as the largest.
const OCTAVES: usize = 40;
const BUCKETS: usize = STEPS * (OCTAVES + 1);

/// How often each latency was seen.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: [u32; BUCKETS],
    total: u64,
    largest: u64,
}

impl Histogram {
    /// Without a latency.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            counts: [0; BUCKETS],
            total: 0,
            largest: 0,
        }
    }

    /// Takes in one.
    pub fn add(&mut self, value: u64) {
        if let Some(count) = self.counts.get_mut(bucket(value)) {
            *count = count.saturating_add(1);
        }
        self.total += 1;
        self.largest = self.largest.max(value);
    }

    /// What `per_mille` of all values, at least one, are not above, as exact as the buckets are; 0 where there is no
    /// value.
    #[must_use]
    pub fn percentile(&self, per_mille: u64) -> u64 {
        let wanted = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, &count) in (0..).zip(&self.counts) {
            seen += u64::from(count);
            if seen >= wanted {
                return middle(bucket).min(self.largest);
            }
        }
        self.largest
    }

    /// The largest value, exact.
    #[must_use]
    pub fn largest(&self) -> u64 {
        self.largest
    }
}

fn bucket(value: u64) -> usize {
    let octave = value.max(1).ilog2().saturating_sub(STEPS.ilog2());
    // The highest bits, of which the first is set but for the first numbers: those that have a bucket each.
    let step = usize::try_from(value >> octave).unwrap_or(usize::MAX);
    (octave as usize * STEPS + step).min(BUCKETS - 1)
}

/// The number in the middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let octave = (bucket / STEPS).saturating_sub(1);
    let step = (bucket - octave * STEPS) as u64;
    (step << octave) + ((1 << octave) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middle_of_a_bucket_is_close_to_each_number_in_it() {
        let mut value = 0;
        while value < 1 << 42 {
            for near in [value, value + 1, value * 2 - value.min(1)] {
                let middle = middle(bucket(near));
                let off = middle.abs_diff(near);
                assert!(off * 64 <= near, "{near} counts as {middle}");
            }
            value += value / 7 + 1;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.percentile(500), 0);
        for value in 1..=10_000 {
            histogram.add(value * 1000);
        }
        for (per_mille, exact) in [(500, 5_000_000), (990, 9_900_000), (999, 9_990_000)] {
            let told: u64 = histogram.percentile(per_mille);
            assert!(told.abs_diff(exact) * 50 < exact, "{per_mille}: {told}");
        }
        assert_eq!(histogram.largest(), 10_000_000);
        assert_eq!(histogram.percentile(1000), 10_000_000);
    }

    #[test]
    fn single_value_is_every_percentile() {
        let mut histogram = Histogram::new();
        histogram.add(33);
        for per_mille in [0, 500, 1000] {
            assert_eq!(histogram.percentile(per_mille), 33);
        }
    }
}
