//! Sparse VMDKs, written here after VMware's *Virtual Disk Format 5.0*.

use super::*;
use proptest::prelude::*;

const GRAIN: usize = 65536;
const DIRECTORY: usize = 4 * 512;
const TABLE: usize = 5 * 512;

/// 100 grains, of which those given are stored, filled with a byte.
fn vmdk(grains: &[(usize, u8)], compressed: bool) -> Vec<u8> {
    let mut file = vec![0; 128 * 512];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"KDMV");
    put(4, &3u32.to_le_bytes());
    put(8, &(if compressed { 3u32 << 16 } else { 3 }).to_le_bytes());
    put(12, &12_800u64.to_le_bytes());
    put(20, &128u64.to_le_bytes());
    put(28, &1u64.to_le_bytes());
    put(36, &2u64.to_le_bytes());
    put(44, &512u32.to_le_bytes());
    put(56, &(DIRECTORY as u64 / 512).to_le_bytes());
    put(77, &u16::from(compressed).to_le_bytes());
    put(
        512,
        b"# Disk DescriptorFile\nversion=1\nRW 12800 SPARSE \"disk.vmdk\"\n",
    );
    put(
        DIRECTORY,
        &u32::try_from(TABLE / 512).unwrap().to_le_bytes(),
    );
    for (grain, byte) in grains {
        let sector = u32::try_from(file.len() / 512).unwrap();
        file[TABLE + 4 * grain..][..4].copy_from_slice(&sector.to_le_bytes());
        let data = vec![*byte; GRAIN];
        if compressed {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(&data).unwrap();
            let data = encoder.finish().unwrap();
            file.extend((*grain as u64 * 128).to_le_bytes());
            file.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            file.extend(data);
            file.resize(file.len().next_multiple_of(512), 0);
        } else {
            file.extend(data);
        }
    }
    file
}

#[test]
fn grains_are_read_and_the_rest_is_zeroes() {
    let folder = Folder::new();
    for compressed in [false, true] {
        let path = folder.file("disk.vmdk", &vmdk(&[(99, 3), (0, 1), (7, 2)], compressed));
        let source = open(&path).unwrap();
        assert_eq!(
            (source.format(), source.size_bytes()),
            (Format::Vmdk, 6_553_600)
        );
        let bytes = bytes(&source).unwrap();
        for (number, grain) in bytes.chunks(GRAIN).enumerate() {
            let byte = match number {
                99 => 3,
                0 => 1,
                7 => 2,
                _ => 0,
            };
            assert!(grain.iter().all(|it| *it == byte), "{number}");
        }
        let mut part = [0; 100];
        source.read(8 * GRAIN as u64 - 50, &mut part).unwrap();
        assert_eq!(part[..], [[2; 50], [0; 50]].concat());
    }
}

#[test]
fn truncated_file_never_reads_as_zeroes() {
    let folder = Folder::new();
    for compressed in [false, true] {
        let whole = vmdk(&[(0, 1), (7, 2)], compressed);
        for len in [
            DIRECTORY + 3,
            TABLE + 100,
            whole.len() - 512,
            whole.len() / 2,
        ] {
            let path = folder.file("disk.vmdk", &whole[..len]);
            let error = open(&path).and_then(|source| bytes(&source)).unwrap_err();
            assert!(
                matches!(error, Error::Truncated { .. }),
                "{len}: {}",
                text(&error)
            );
        }
    }
}

#[test]
fn deltas_and_split_disks_are_refused() {
    let folder = Folder::new();
    for (descriptor, what) in [
        (
            &b"parentFileNameHint=\"base.vmdk\"\nRW 12800 SPARSE \"a\"\n"[..],
            "difference",
        ),
        (
            b"RW 6400 SPARSE \"a\"\nRW 6400 SPARSE \"b\"\n",
            "several files",
        ),
    ] {
        let mut file = vmdk(&[(0, 1)], false);
        file[512..1536].fill(0);
        file[512..512 + descriptor.len()].copy_from_slice(descriptor);
        let error = text(&open(&folder.file("disk.vmdk", &file)).unwrap_err());
        assert!(error.contains(what), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Metadata of any content ends in an error or a disk, soon and without a panic.
    #[test]
    fn hostile_metadata_ends_in_an_error_or_a_disk(
        compressed: bool,
        changes in prop::collection::vec(
            (
                prop_oneof![4usize..80, DIRECTORY..DIRECTORY + 8, TABLE..TABLE + 32, 65_536usize..65_600],
                any::<u8>(),
            ),
            1..6,
        ),
    ) {
        let folder = Folder::new();
        let mut file = vmdk(&[(0, 1), (7, 2)], compressed);
        for (offset, byte) in changes {
            file[offset] = byte;
        }
        if let Ok(source) = open(&folder.file("disk.vmdk", &file)) {
            prop_assert!(source.size_bytes() <= 64 << 40);
            let mut buffer = vec![0; GRAIN];
            let mut at = 0;
            while let Ok(Some(data)) = source.next_data(at) {
                prop_assert!(data.start >= at && data.end > data.start);
                let _ = source.read(data.start, &mut buffer);
                at = data.end;
            }
        }
    }
}
