//! Exported snapshots as `qemu-img` reads them.
//!
//! Needs `qemu-img` (Debian: `qemu-utils`), and fails without it.

use kami_image::export::Format;
use kami_image::id::SnapshotId;
use kami_image::manifest::Architecture;
use kami_image::store::{Error, ImportRequest, Store};
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn qemu_img(folder: &Path, arguments: &str) {
    let output = Command::new("qemu-img")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("qemu-img is needed (Debian: qemu-utils)");
    assert!(
        output.status.success(),
        "qemu-img {arguments}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A sparse disk of `size` bytes in `folder` that has `len` bytes of data at each of `offsets`.
fn disk(folder: &Path, size: u64, (offsets, len): (&[u64], usize)) {
    let file = File::create(folder.join("disk.raw")).unwrap();
    let mut state = 7_u64;
    for offset in offsets {
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state.to_le_bytes()[7]
            })
            .collect();
        file.write_all_at(&bytes, *offset).unwrap();
    }
    file.set_len(size).unwrap();
}

fn import(folder: &Path) -> (Store, SnapshotId) {
    let store = Store::open(&folder.join("home")).unwrap();
    let request = ImportRequest {
        file: folder.join("disk.raw"),
        name: "disk".to_owned(),
        architecture: Architecture::X86_64,
        description: None,
        tags: Vec::new(),
    };
    let image = store
        .import(&request, &mut |_, _| ControlFlow::Continue(()))
        .unwrap();
    let snapshot = *image.snapshots().first().unwrap();
    (store, snapshot)
}

fn export(store: &Store, id: &SnapshotId, path: &Path, format: Format) -> Result<(), Error> {
    store.export_snapshot(
        id,
        path,
        (format, false),
        &mut |_| ControlFlow::Continue(()),
    )
}

#[test]
fn qemu_accepts_what_is_exported_and_finds_the_same_disk() {
    let offsets = [0, 64 << 10, 700 << 10, 5 * MIB - 512, 511 * MIB, 513 * MIB];
    for size in [514 * MIB, 3 * GIB, 7 * MIB + 512] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let offsets: Vec<_> = offsets.into_iter().filter(|at| at + 6000 < size).collect();
        disk(folder, size, (&offsets, 6000));
        let (store, id) = import(folder);
        export(&store, &id, &folder.join("out.raw"), Format::Raw).unwrap();
        export(&store, &id, &folder.join("out.qcow2"), Format::Qcow2).unwrap();
        qemu_img(folder, "check -f qcow2 out.qcow2");
        qemu_img(folder, "compare -s -f raw -F raw disk.raw out.raw");
        qemu_img(folder, "compare -f raw -F qcow2 disk.raw out.qcow2");
        for name in ["out.raw", "out.qcow2"] {
            let taken = folder.join(name).metadata().unwrap().blocks() * 512;
            assert!(taken < 3 * MIB, "{name} of {size} takes {taken}");
        }
    }
}

/// Tables of more than one cluster: what a large disk has.
#[test]
fn large_disks_are_exported_as_sparse_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // 16 TiB need an L1 table of four clusters. ext4 ends a file below 16 TiB.
    let size = 15 << 40;
    disk(folder, size, (&[0, 1 << 40, size - 4096], 4096));
    let (store, id) = import(folder);
    export(&store, &id, &folder.join("out.qcow2"), Format::Qcow2).unwrap();
    qemu_img(folder, "check -f qcow2 out.qcow2");
    let out = folder.join("out.qcow2").metadata().unwrap();
    assert!(out.blocks() * 512 < 2 * MIB);
    let io = Command::new("qemu-io")
        .args(["-r", "-f", "qcow2", "-c", &format!("read -P 0 {GIB} 1M")])
        .arg(folder.join("out.qcow2"))
        .output()
        .expect("qemu-io is needed (Debian: qemu-utils)");
    assert!(io.status.success(), "{io:?}");
}

/// A refcount table of more than one block: 32768 clusters of 64 KiB and more.
#[test]
fn disks_of_many_clusters_have_all_their_refcounts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let size = 3 * GIB;
    let offsets: Vec<u64> = (0..size / (64 << 10))
        .map(|number| number * (64 << 10))
        .collect();
    disk(folder, size, (&offsets[..33_000], 512));
    let (store, id) = import(folder);
    export(&store, &id, &folder.join("out.qcow2"), Format::Qcow2).unwrap();
    qemu_img(folder, "check -f qcow2 out.qcow2");
    qemu_img(folder, "compare -f raw -F qcow2 disk.raw out.qcow2");
}

#[test]
fn a_file_is_replaced_only_by_force_and_left_whole_by_failure() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder, 2 * MIB, (&[0, MIB], 4096));
    let (store, id) = import(folder);
    let out = folder.join("out.raw");
    std::fs::write(&out, "precious").unwrap();
    let error = export(&store, &id, &out, Format::Raw).unwrap_err();
    assert!(matches!(error, Error::FileExists { .. }), "{error}");
    assert_eq!(error.help().as_deref(), Some("--force replaces it"));
    let mut interrupt = |_| ControlFlow::Break(());
    store
        .export_snapshot(&id, &out, (Format::Raw, true), &mut interrupt)
        .unwrap_err();
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    let mut go_on = |_| ControlFlow::Continue(());
    store
        .export_snapshot(&id, &out, (Format::Raw, true), &mut go_on)
        .unwrap();
    qemu_img(folder, "compare -f raw -F raw disk.raw out.raw");
    // The disk, what came of it, and the store.
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 3);
}

#[test]
fn a_damaged_snapshot_is_not_exported() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder, 2 * MIB, (&[0, MIB], 4096));
    let (store, id) = import(folder);
    let mut segments = std::fs::read_dir(folder.join("home/segments")).unwrap();
    let segment = segments.next().unwrap().unwrap().path();
    let file = File::options().write(true).open(segment).unwrap();
    file.write_all_at(b"x", 512 << 10).unwrap();
    let out = folder.join("out.raw");
    let error = export(&store, &id, &out, Format::Raw).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
    assert!(!out.exists());
}
