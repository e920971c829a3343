//! Tests of the bzImage's header.

use proptest::prelude::*;

use super::{architecture, parse};
use crate::fixture::{self, bzimage, payload};
use crate::{Architecture, Compression, FileKind, Unbootable};

fn refusal(file: &[u8]) -> Unbootable {
    parse(file, file.len() as u64).unwrap_err()
}

#[test]
fn setup_header_reaches_to_the_end_that_it_gives() {
    let mut file = bzimage(&payload(Compression::Gzip, b"kernel"));
    let header = parse(&file, file.len() as u64).unwrap();
    assert_eq!(header.setup_header, file[0x1f1..0x202 + 0x6a]);
    // The jump's length is the file's word; the next field of the zero page is not the header's.
    file[0x201] = 0xff;
    let header = parse(&file, file.len() as u64).unwrap();
    assert_eq!(header.setup_header.len(), 0x290 - 0x1f1);
}

#[test]
fn truncated_file_says_what_is_missing() {
    let file = bzimage(&payload(Compression::Xz, &fixture::vmlinux()));
    let needed = file.len() as u64 - 99;
    for holds in [0x300, needed / 2, needed - 1] {
        match refusal(&file[..usize::try_from(holds).unwrap()]) {
            Unbootable::Truncated {
                promised_bytes,
                holds_bytes,
            } => assert_eq!((promised_bytes, holds_bytes), (needed, holds)),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        refusal(&file[..0x220]),
        Unbootable::Truncated { .. }
    ));
    assert!(matches!(
        refusal(b""),
        Unbootable::NotKernel(FileKind::Empty)
    ));
}

#[test]
fn architecture_is_told_since_protocol_2_12() {
    let mut file = bzimage(&payload(Compression::Gzip, b"kernel"));
    assert_eq!(architecture(&file), Some(Architecture::X86_64));
    file[0x236] = 0;
    assert_eq!(architecture(&file), Some(Architecture::I386));
    file[0x206] = 0x0b;
    assert_eq!(architecture(&file), None);
}

#[test]
fn old_protocols_and_zimages_are_refused() {
    let mut file = bzimage(&payload(Compression::Gzip, b"kernel"));
    file[0x206] = 0x07;
    let error = refusal(&file).to_string();
    assert!(error.contains("boot protocol is 2.07"), "{error}");
    file[0x206] = 0x0f;
    file[0x211] = 0;
    assert!(matches!(refusal(&file), Unbootable::BadSetupHeader(_)));
}

proptest! {
    #[test]
    fn hostile_headers_do_not_panic(
        changes in prop::collection::vec((0x1f1usize..0x290, any::<u8>()), 0..40),
        file_bytes in any::<u64>(),
        cut in 0usize..2000,
    ) {
        let mut file = bzimage(&payload(Compression::Gzip, b"kernel"));
        file.resize(2000, 0);
        for (at, byte) in changes {
            file[at] = byte;
        }
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file.truncate(file.len() - cut);
        if let Ok(header) = parse(&file, file_bytes) {
            prop_assert!(header.payload_offset + header.payload_bytes <= file_bytes);
            prop_assert!(header.setup_header.len() <= 0x290 - 0x1f1);
        }
    }
}
