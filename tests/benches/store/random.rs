//! Places that are the same in every run. Knuth's constants for a linear congruential generator modulo 2^64.

pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Self(5)
    }

    /// Another sequence.
    pub fn fork(&mut self) -> Self {
        Self(self.below(u64::MAX))
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) % end
    }
}
