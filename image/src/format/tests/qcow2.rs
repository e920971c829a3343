//! qcow2 files, written here after qcow2.txt.

use super::*;
use proptest::prelude::*;

const CLUSTER: usize = 1 << 16;
const SIZE: u64 = 4 << 20;
const L1: usize = CLUSTER;
const L2: usize = 2 * CLUSTER;

/// A qcow2 of version 3 and 4 MiB with the given clusters of data, each filled with a byte.
fn qcow2(clusters: &[(usize, u8)], backing: Option<(&str, Option<&str>)>) -> Vec<u8> {
    let mut file = vec![0; 3 * CLUSTER];
    let put = |file: &mut Vec<u8>, at: usize, bytes: &[u8]| {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(&mut file, 0, b"QFI\xfb");
    put(&mut file, 4, &3u32.to_be_bytes());
    put(&mut file, 20, &16u32.to_be_bytes());
    put(&mut file, 24, &SIZE.to_be_bytes());
    put(&mut file, 36, &1u32.to_be_bytes());
    put(&mut file, 40, &(L1 as u64).to_be_bytes());
    // Refcounts of 16 bits, a header of 104 bytes.
    put(&mut file, 96, &4u32.to_be_bytes());
    put(&mut file, 100, &104u32.to_be_bytes());
    if let Some((name, format)) = backing {
        let mut extension = 104;
        if let Some(format) = format {
            put(&mut file, extension, &0xe279_2acau32.to_be_bytes());
            put(
                &mut file,
                extension + 4,
                &u32::try_from(format.len()).unwrap().to_be_bytes(),
            );
            put(&mut file, extension + 8, format.as_bytes());
            extension += 8 + format.len().next_multiple_of(8);
        }
        let at = extension + 8;
        put(&mut file, 8, &(at as u64).to_be_bytes());
        put(
            &mut file,
            16,
            &u32::try_from(name.len()).unwrap().to_be_bytes(),
        );
        put(&mut file, at, name.as_bytes());
    }
    put(&mut file, L1, &(1 << 63 | L2 as u64).to_be_bytes());
    for (cluster, byte) in clusters {
        let entry = 1 << 63 | file.len() as u64;
        put(&mut file, L2 + 8 * cluster, &entry.to_be_bytes());
        file.resize(file.len() + CLUSTER, *byte);
    }
    file
}

fn at(bytes: &[u8], cluster: usize) -> u8 {
    let cluster = &bytes[cluster * CLUSTER..][..CLUSTER];
    assert!(cluster.iter().all(|byte| *byte == cluster[0]));
    cluster[0]
}

#[test]
fn clusters_come_from_the_topmost_file_that_has_them() {
    let folder = Folder::new();
    let mut raw = vec![1; CLUSTER];
    raw.resize(8 * CLUSTER + 100, 2);
    folder.file("base.raw", &raw);
    folder.file(
        "middle",
        &qcow2(&[(0, 3), (5, 4)], Some(("base.raw", Some("raw")))),
    );
    // No format: found by its content.
    let top = folder.file("top", &qcow2(&[(5, 5), (60, 6)], Some(("middle", None))));
    let source = open(&top).unwrap();
    assert_eq!(
        (source.format(), source.size_bytes()),
        (Format::Qcow2, SIZE)
    );
    let bytes = bytes(&source).unwrap();
    for (cluster, byte) in [(0, 3), (1, 2), (5, 5), (7, 2), (9, 0), (60, 6), (63, 0)] {
        assert_eq!(at(&bytes, cluster), byte, "cluster {cluster}");
    }
    // The raw file ends within this one.
    assert_eq!(bytes[8 * CLUSTER..][98..102], [2, 2, 0, 0]);
}

#[test]
fn missing_backing_file_is_named_with_the_one_that_names_it() {
    let folder = Folder::new();
    folder.file("middle", &qcow2(&[], Some(("gone.qcow2", Some("qcow2")))));
    let top = folder.file("top", &qcow2(&[], Some(("middle", Some("qcow2")))));
    let error = open(&top).unwrap_err();
    let text = text(&error);
    for part in ["top", "middle", "gone.qcow2", "No such file"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(error.help().is_some());
}

#[test]
fn loops_of_backing_files_are_found() {
    let folder = Folder::new();
    let own = folder.file("self", &qcow2(&[], Some(("self", Some("qcow2")))));
    let error = text(&open(&own).unwrap_err());
    assert!(error.contains("is its own backing file"), "{error}");

    folder.file("b", &qcow2(&[], Some(("c", None))));
    folder.file("c", &qcow2(&[], Some(("link", None))));
    std::os::unix::fs::symlink(folder.path("b"), folder.path("link")).unwrap();
    let top = folder.file("a", &qcow2(&[], Some(("b", None))));
    let error = text(&open(&top).unwrap_err());
    let names = format!(
        "{} is its own backing file, by way of {}, {}",
        folder.path("link").display(),
        folder.path("b").display(),
        folder.path("c").display()
    );
    assert!(error.ends_with(&names), "{error}");
}

#[test]
fn chain_of_backing_files_has_an_end() {
    let folder = Folder::new();
    folder.file("0", &qcow2(&[(1, 1)], None));
    for number in 1..=65 {
        let below = (number - 1).to_string();
        folder.file(
            &number.to_string(),
            &qcow2(&[], Some((&below, Some("qcow2")))),
        );
    }
    assert_eq!(
        at(&bytes(&open(&folder.path("64")).unwrap()).unwrap(), 1),
        1
    );
    let error = text(&open(&folder.path("65")).unwrap_err());
    assert!(
        error.ends_with("stands on more than 64 backing files"),
        "{error}"
    );
}

#[test]
fn backing_files_that_are_no_plain_files_are_refused() {
    let folder = Folder::new();
    for (name, what) in [
        ("json:{\"driver\":\"nbd\"}", "is not the path of a file"),
        ("nbd:unix:/run/x", "is not the path of a file"),
        ("/dev/zero", "neither a file nor a block device"),
        (".", "neither a file nor a block device"),
    ] {
        let top = folder.file("top", &qcow2(&[], Some((name, Some("raw")))));
        let error = text(&open(&top).unwrap_err());
        assert!(error.contains(what), "{error}");
    }
    folder.file("base", b"base");
    let top = folder.file("top", &qcow2(&[], Some(("base", Some("vpc")))));
    let error = text(&open(&top).unwrap_err());
    assert!(error.contains("format \"vpc\""), "{error}");
}

#[test]
fn truncated_file_never_reads_as_zeroes() {
    let folder = Folder::new();
    let whole = qcow2(&[(0, 1), (7, 2), (63, 3)], None);
    let expected = bytes(&open(&folder.file("disk", &whole)).unwrap()).unwrap();
    assert_eq!((at(&expected, 7), at(&expected, 63)), (2, 3));
    for len in [
        4,
        90,
        104,
        L1 - 1,
        L1 + 7,
        L2,
        L2 + 8,
        L2 + 512,
        whole.len() - CLUSTER,
    ]
    .into_iter()
    .chain((3 * CLUSTER..whole.len()).step_by(CLUSTER / 2))
    .chain([whole.len() - 512, whole.len() - 1])
    {
        let path = folder.file("disk", &whole[..len]);
        let error = open(&path).and_then(|source| bytes(&source)).unwrap_err();
        assert!(
            matches!(error, Error::Truncated { .. }),
            "{len}: {}",
            text(&error)
        );
    }
}

#[test]
fn what_cannot_be_read_right_is_refused() {
    let folder = Folder::new();
    let cases: [(usize, &[u8], &str); 12] = [
        (4, &4u32.to_be_bytes(), "version 4"),
        (20, &8u32.to_be_bytes(), "2^8"),
        (20, &31u32.to_be_bytes(), "2^31"),
        (24, &0u64.to_be_bytes(), "is empty"),
        (24, &((64u64 << 40) + 1).to_be_bytes(), "more than 64 TiB"),
        (24, &(1u64 << 40).to_be_bytes(), "L1 table is too short"),
        (36, &u32::MAX.to_be_bytes(), "larger than 32 MiB"),
        (32, &2u32.to_be_bytes(), "encrypted"),
        (72, &1u64.to_be_bytes(), "not closed"),
        (72, &2u64.to_be_bytes(), "corrupt"),
        (72, &4u64.to_be_bytes(), "external data file"),
        (72, &8u64.to_be_bytes(), "zstd"),
    ];
    for (offset, value, what) in cases {
        let mut file = qcow2(&[(0, 1)], None);
        file[offset..offset + value.len()].copy_from_slice(value);
        let error = text(&open(&folder.file("disk", &file)).unwrap_err());
        assert!(error.contains(what), "{what} in {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Metadata of any content ends in an error or a disk, soon and without a panic.
    #[test]
    fn hostile_metadata_ends_in_an_error_or_a_disk(
        changes in prop::collection::vec(
            (prop_oneof![0usize..144, L1..L1 + 16, L2..L2 + 64], any::<u8>()),
            1..6,
        ),
    ) {
        let folder = Folder::new();
        let mut file = qcow2(&[(0, 1), (7, 2)], Some(("base", Some("raw"))));
        folder.file("base", &[3; 70_000]);
        for (offset, byte) in changes {
            file[offset] = byte;
        }
        let path = folder.file("disk", &file);
        if let Ok(source) = open(&path) {
            // The tables of this file map at most 512 MiB.
            prop_assert!(source.size_bytes() <= 64 << 40);
            let mut buffer = vec![0; CLUSTER];
            let mut at = 0;
            while let Ok(Some(data)) = source.next_data(at) {
                prop_assert!(data.start >= at && data.end > data.start);
                let _ = source.read(data.start, &mut buffer);
                at = data.end;
            }
        }
    }
}
