//! Disk files as `qemu-img` makes them, imported and read back as a volume reads.
//!
//! Needs `qemu-img` (Debian: `qemu-utils`), and fails without it.

use kami_image::format::{self, Format};
use kami_image::id::{SnapshotId, VolumeId};
use kami_image::snapshot::SnapshotFiles;
use kami_image::volume::{Place, VolumeFiles};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: usize = 1 << 20;

/// Runs `qemu-img` in `folder`.
fn qemu_img(folder: &Path, arguments: &str) {
    let output = Command::new("qemu-img")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("qemu-img is needed (Debian: qemu-utils)");
    assert!(
        output.status.success(),
        "qemu-img {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Writes with `qemu-io`, which comes in the same package.
fn qemu_io(folder: &Path, file: &str, command: &str) {
    let output = Command::new("qemu-io")
        .args(["-f", "qcow2", "-c", command, file])
        .current_dir(folder)
        .output()
        .expect("qemu-io is needed (Debian: qemu-utils)");
    assert!(output.status.success(), "{command}: {output:?}");
}

/// A disk of `size` bytes with data here and there, some of it hard to compress.
fn disk(folder: &Path, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let mut state = 1u64;
    for (number, sector) in bytes.chunks_mut(512).enumerate() {
        if number % 1024 < 300 {
            for byte in sector.iter_mut() {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                *byte = state.to_le_bytes()[7];
            }
        } else if number % 1024 < 500 {
            sector.fill(u8::try_from(number % 200).unwrap());
        }
    }
    std::fs::write(folder.join("disk.raw"), &bytes).unwrap();
    bytes
}

/// Imports `file` and reads the snapshot through a volume.
fn import(folder: &Path, file: &str) -> (Format, Vec<u8>) {
    let home: PathBuf = folder.join("home");
    let mut source = format::open(&folder.join(file)).unwrap();
    let id = SnapshotId::generate();
    SnapshotFiles::new(&home)
        .write(&id, &mut source, &(), &mut |_| ControlFlow::Continue(()))
        .unwrap()
        .keep();
    let size = source.size_bytes();
    let mut volume = VolumeFiles::new(&home)
        .create(&VolumeId::generate(), size, Some(&id))
        .unwrap();
    let mut extents = Vec::new();
    volume.map_read(0, size, &mut extents).unwrap();
    let mut bytes = Vec::new();
    for extent in extents {
        let mut part = vec![0; usize::try_from(extent.len).unwrap()];
        if let Place::File { file, offset } = extent.place {
            let count = rustix::io::pread(volume.file(file), &mut part[..], offset).unwrap();
            assert_eq!(count, part.len());
        }
        bytes.extend(part);
    }
    (source.format(), bytes)
}

#[test]
fn every_kind_of_qcow2_imports_as_the_raw_disk() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = disk(folder, 9 * MIB + 3 * 512);
    for options in [
        "",
        "-o compat=0.10",
        "-o cluster_size=512",
        "-o cluster_size=2M",
        "-c",
        "-c -o cluster_size=4k",
        "-o lazy_refcounts=on,preallocation=metadata",
        "-o refcount_bits=1",
    ] {
        qemu_img(
            folder,
            &format!("convert -O qcow2 {options} disk.raw disk.qcow2"),
        );
        let (format, bytes) = import(folder, "disk.qcow2");
        assert_eq!(format, Format::Qcow2);
        assert!(bytes == disk, "{options}");
    }
}

#[test]
fn qcow2_on_backing_files_imports_as_qemu_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder, 6 * MIB);
    qemu_img(folder, "create -f qcow2 -b disk.raw -F raw middle.qcow2");
    qemu_io(folder, "middle.qcow2", "write -P 77 1000k 300k");
    qemu_img(
        folder,
        "create -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2 8M",
    );
    qemu_io(folder, "top.qcow2", "write -P 78 1100k 10k");
    qemu_io(folder, "top.qcow2", "write -z 2M 1M");
    qemu_io(folder, "top.qcow2", "write -P 79 7M 64k");
    qemu_img(folder, "convert -O raw top.qcow2 expected.raw");
    let expected = std::fs::read(folder.join("expected.raw")).unwrap();
    let (_, bytes) = import(folder, "top.qcow2");
    assert!(bytes == expected);
}

#[test]
fn every_kind_of_vmdk_imports_as_the_raw_disk() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = disk(folder, 71 * MIB + 512);
    for kind in [
        "monolithicFlat",
        "twoGbMaxExtentFlat",
        "monolithicSparse",
        "streamOptimized",
    ] {
        qemu_img(
            folder,
            &format!("convert -O vmdk -o subformat={kind} disk.raw {kind}.vmdk"),
        );
        let (format, bytes) = import(folder, &format!("{kind}.vmdk"));
        assert_eq!(format, Format::Vmdk);
        assert!(bytes == disk, "{kind}");
    }
}

#[test]
fn other_formats_are_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder, MIB);
    for format in ["vdi", "vhdx", "vpc", "qed"] {
        qemu_img(
            folder,
            &format!("convert -O {format} disk.raw disk.{format}"),
        );
        let error = format::open(&folder.join(format!("disk.{format}"))).unwrap_err();
        assert!(error.to_string().contains("not supported"), "{error}");
        assert!(error.help().unwrap().contains("qemu-img convert -O qcow2"));
    }
}
