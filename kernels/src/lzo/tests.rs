//! Tests of the LZO reader.

use std::io::Read;

use proptest::prelude::*;

use super::{Reader, unpack_block};
use crate::fixture::lzo::{Step, encode, lzop};

/// What `lzop -9` 1.04 makes of [`TEXT`].
const LZOP: &[u8] = b"\x89LZO\0\r\n\x1a\n\x10\x40\x20\xa0\x09\x40\x03\x09\x03\0\0\x0d\0\0\x81\xa4\x6b\x01\x51\xd0\0\0\0\0\
    \0\x36\x9f\x04\x28\0\0\0\x8c\0\0\0\x31\x47\xfb\x33\x73\x14abc\x2d\x08\0\x03 hello*\x17\0, a &\0\0\x0e end of the \
    text,\xd8\x0c\xa4\x0f\x11\0\0\0\0\0\0";
const TEXT: &str = "abcabcabcabcabcabc hello hello hello, aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
    aaaaaaaaaaa end of the text, hello abcabc";

fn unpack(file: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    Reader::new(file)?.read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

#[test]
fn what_lzop_makes_is_unpacked() {
    assert_eq!(unpack(LZOP).unwrap(), TEXT.as_bytes());
}

#[test]
fn blocks_are_unpacked_one_after_the_other_and_stored_ones_taken_as_they_are() {
    let mut bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    bytes.resize(2 << 20, 7);
    assert!(unpack(&lzop(&bytes)).unwrap() == bytes);
    assert_eq!(unpack(&lzop(b"")).unwrap(), b"");
}

#[test]
fn wrong_checksum_is_refused() {
    let mut file = LZOP.to_vec();
    let at = file.iter().position(|byte| *byte == b'h').unwrap();
    file[at] = b'j';
    let error = unpack(&file).unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
}

#[test]
fn truncated_file_is_refused_wherever_it_ends() {
    for end in 0..LZOP.len() {
        assert!(unpack(&LZOP[..end]).is_err(), "{end}");
    }
}

#[test]
fn sizes_that_lie_are_refused() {
    let block = &LZOP[LZOP.len() - 4 - 0x31..LZOP.len() - 4];
    assert!(unpack_block(block, TEXT.len()).is_ok());
    for bytes in [0, 1, TEXT.len() - 1, TEXT.len() + 1] {
        assert!(unpack_block(block, bytes).is_err(), "{bytes}");
    }
    let size = LZOP.len() - 4 - 0x31 - 12;
    let mut file = LZOP.to_vec();
    file[size..size + 4].fill(0xff);
    let error = unpack(&file).unwrap_err().to_string();
    assert!(error.contains("size"), "{error}");
}

#[test]
fn repetition_of_nothing_is_refused() {
    for block in [&[0x20, 1, 0, 0][..], &[18, b'x', 0x40, 1, 17, 0, 0]] {
        assert!(unpack_block(block, 100).is_err());
    }
}

/// A step, its distance cut down later to what there is.
fn step() -> impl Strategy<Value = Step> {
    let literals = prop_oneof![0usize..6, 10usize..20, 230usize..600];
    let length = prop_oneof![2usize..12, 30usize..40, 250usize..900];
    let distance = prop_oneof![1usize..40, 1000usize..3100, 16000usize..49151];
    (literals, any::<u8>(), length, distance).prop_map(|(count, seed, length, distance)| Step {
        literals: (0..count)
            .map(|n| seed.wrapping_add(n.to_le_bytes()[0].wrapping_mul(37)))
            .collect(),
        distance,
        length,
    })
}

proptest! {
    #[test]
    fn instructions_unpack_to_what_a_model_makes_of_them(mut steps in prop::collection::vec(step(), 1..200)) {
        if steps[0].literals.is_empty() {
            steps[0].literals.push(b'x');
        }
        let mut model: Vec<u8> = Vec::new();
        for step in &mut steps {
            model.extend(&step.literals);
            step.distance = step.distance.min(model.len());
            // The one instruction for two bytes reaches 1 KiB back, and needs a few literals before it.
            if !((1..=3).contains(&step.literals.len()) && step.distance <= 1024) {
                step.length = step.length.max(3);
            }
            for _ in 0..step.length {
                model.push(model[model.len() - step.distance]);
            }
        }
        let unpacked = unpack_block(&encode(&steps), model.len()).unwrap();
        prop_assert!(unpacked == model);
    }

    #[test]
    fn any_bytes_unpack_to_no_more_than_they_say(
        block in prop::collection::vec(any::<u8>(), 0..300),
        bytes in 0usize..2000,
    ) {
        if let Ok(unpacked) = unpack_block(&block, bytes) {
            prop_assert_eq!(unpacked.len(), bytes);
        }
    }

    #[test]
    fn damaged_files_do_not_panic(at in 0..LZOP.len(), change in 1u8.., text in any::<bool>()) {
        let mut file = if text { LZOP.to_vec() } else { lzop(&[3; 70_000]) };
        let at = at % file.len();
        file[at] ^= change;
        let _outcome = unpack(&file);
    }
}
