//! Each target with bytes of a simple generator: that what it checks holds, and that it still compiles.

use super::*;

/// xorshift64 (Marsaglia 2003).
struct Bytes(u64);

impl Iterator for Bytes {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Some(self.0.to_le_bytes()[3])
    }
}

#[test]
fn targets_hold_for_random_bytes() {
    let targets = [chains, queues, block, pci, msix, registers];
    for target in targets {
        let mut bytes = Bytes(0x9e37_79b9_7f4a_7c15);
        for len in 0..200 {
            let data: Vec<u8> = bytes.by_ref().take(len).collect();
            target(&data);
        }
    }
}
