//! Tests of the compressions on data made here; what the command-line tools make is the rig's kernels' part.

use std::io::Read;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::Compression;
use crate::fixture::{self, READ};

#[test]
fn each_compression_is_detected_and_unpacked() {
    let bytes: Vec<u8> = (0..100_000u32)
        .flat_map(|n| (n / 3).to_le_bytes())
        .collect();
    for compression in READ {
        let packed = fixture::compress(compression, &bytes);
        assert_eq!(Compression::detect(&packed), Some(compression));
        let mut unpacked = Vec::new();
        let mut reader = compression.reader(&packed[..]).unwrap();
        reader.read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == bytes, "{compression}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_data_does_not_panic(at in 0usize..300, change in 1u8.., cut in 0usize..300) {
        // Compressing anew for each case would take most of the time.
        static PACKED: LazyLock<[Vec<u8>; 7]> = LazyLock::new(|| {
            let bytes: Vec<u8> = (0..900u32).map(|n| (n * n % 253) as u8).collect();
            READ.map(|compression| fixture::compress(compression, &bytes))
        });
        for (compression, packed) in READ.into_iter().zip(&*PACKED) {
            let mut packed = packed.clone();
            let length = packed.len();
            packed[at % length] ^= change;
            packed.truncate(length - cut % length);
            let Ok(reader) = compression.reader(&packed[..]) else {
                continue;
            };
            let mut unpacked = Vec::new();
            // Any outcome but a panic; a flipped bit may also go unnoticed where there is no checksum.
            let _ = reader.take(1 << 20).read_to_end(&mut unpacked);
        }
    }
}
