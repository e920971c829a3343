//! Tests of the arm64 Image's header.

use std::fs::File;
use std::path::Path;

use proptest::prelude::*;

use super::{Header, open_file, parse};
use crate::fixture::{IMAGE_BYTES, IMAGE_MEMORY_BYTES, arm64_image};
use crate::{Architecture, Entry, Error, Kernel, Segment, Unbootable};

fn header(file: &[u8]) -> Result<Header, Unbootable> {
    parse(file, file.len() as u64)
}

fn open(bytes: &[u8], host: Architecture) -> Result<Kernel, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    open_file(
        File::open(file.path()).unwrap(),
        Path::new("Image"),
        Some(host),
    )
}

#[test]
fn image_is_one_segment_at_its_text_offset() {
    let mut file = arm64_image();
    file[8..16].copy_from_slice(&0x8_0000u64.to_le_bytes());
    let kernel = open(&file, Architecture::Aarch64).unwrap();
    let segment = Segment {
        file_offset: 0,
        file_bytes: IMAGE_BYTES,
        guest_address: 0x8_0000,
        memory_bytes: IMAGE_MEMORY_BYTES,
    };
    assert_eq!(kernel.segments, [segment]);
    assert_eq!(kernel.entry, Entry::Arm64(0x8_0000));
    assert_eq!(kernel.architecture, Architecture::Aarch64);
    assert_eq!(kernel.end_address(), 0x8_0000 + IMAGE_MEMORY_BYTES);
    assert_eq!(kernel.setup_header, None);
}

#[test]
fn other_hosts_refuse_it() {
    let error = open(&arm64_image(), Architecture::X86_64).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "a kernel for arm64, this host is x86_64");
}

#[test]
fn signature_beyond_the_memory_is_not_loaded() {
    let mut file = arm64_image();
    file.resize(0x6000, 0xcc);
    let kernel = open(&file, Architecture::Aarch64).unwrap();
    assert_eq!(kernel.segments[0].file_bytes, IMAGE_MEMORY_BYTES);
}

#[test]
fn kernel_before_3_17_gets_the_old_offset_and_room_to_spare() {
    let mut file = arm64_image();
    file[16..24].fill(0);
    // What these had in the other fields had no meaning.
    file[8..16].fill(0xff);
    file[24..32].fill(0xff);
    let Header {
        text_offset,
        memory_bytes,
    } = header(&file).unwrap();
    assert_eq!(text_offset, 0x8_0000);
    assert_eq!(memory_bytes, IMAGE_BYTES + (16 << 20));
}

#[test]
fn big_endian_kernel_is_named() {
    let mut file = arm64_image();
    file[24] |= 1;
    let error = header(&file).unwrap_err().to_string();
    assert!(error.contains("big-endian"), "{error}");
}

#[test]
fn every_page_size_and_placement_is_taken() {
    let mut file = arm64_image();
    for flags in [0b0000, 0b0010, 0b0100, 0b0110, 0b1000] {
        file[24] = flags;
        assert!(header(&file).is_ok(), "{flags:#b}");
    }
}

#[test]
fn truncated_file_says_what_is_missing() {
    let file = arm64_image();
    for holds in [0x200, file.len() - 1] {
        match header(&file[..holds]) {
            Err(Unbootable::Truncated {
                promised_bytes,
                holds_bytes,
            }) => assert_eq!((promised_bytes, holds_bytes), (IMAGE_BYTES, holds as u64)),
            other => panic!("{other:?}"),
        }
    }
    // Without an EFI program's header nothing says where the file ends.
    let mut bare = file[..0x400].to_vec();
    bare[..2].fill(0);
    assert!(header(&bare).is_ok());
    assert!(matches!(
        header(&file[..0x3b]),
        Err(Unbootable::NotKernel(_))
    ));
}

#[test]
fn end_beyond_the_address_space_is_refused() {
    let mut file = arm64_image();
    file[8..16].copy_from_slice(&(u64::MAX - IMAGE_MEMORY_BYTES + 1).to_le_bytes());
    assert!(matches!(header(&file), Err(Unbootable::BadImageHeader(_))));
}

proptest! {
    #[test]
    fn hostile_headers_do_not_panic_and_what_is_accepted_holds(
        words in prop::array::uniform8(any::<u64>()),
        changes in prop::collection::vec((0usize..0x200, any::<u8>()), 0..12),
        random in any::<bool>(),
        cut in 0usize..0x2000,
    ) {
        let mut file = arm64_image();
        if random {
            for (place, word) in file.chunks_mut(8).zip(words) {
                place.copy_from_slice(&word.to_le_bytes());
            }
        }
        for (at, byte) in changes {
            file[at] = byte;
        }
        file[0x38..0x3c].copy_from_slice(b"ARM\x64");
        file.truncate(file.len() - cut);
        if let Ok(Header { text_offset, memory_bytes }) = header(&file) {
            prop_assert!(text_offset.checked_add(memory_bytes).is_some());
            prop_assert!(memory_bytes > 0);
        }
    }
}
