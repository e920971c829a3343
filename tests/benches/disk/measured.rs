//! What a job came to, and the median of several rounds.

use kami_tests::measure::median;

/// One job's figures.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub iops: f64,
    pub mib_per_s: f64,
    /// Latencies, microseconds.
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    /// CPU time of a request, microseconds: of all threads but the vCPUs.
    pub io_cpu_us: f64,
    /// And of all threads.
    pub cpu_us: f64,
}

impl Measured {
    /// Each figure's median, on its own.
    pub fn median(rounds: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(rounds.iter().map(figure));
        Self {
            iops: of(|m| m.iops),
            mib_per_s: of(|m| m.mib_per_s),
            p50_us: of(|m| m.p50_us),
            p99_us: of(|m| m.p99_us),
            p999_us: of(|m| m.p999_us),
            io_cpu_us: of(|m| m.io_cpu_us),
            cpu_us: of(|m| m.cpu_us),
        }
    }
}
