//! Tests of the cache of unpacked kernels.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Cache, Seal};
use crate::fixture::{self, bzimage, payload};
use crate::{Compression, Entry, Error, Kernel, Unbootable};

struct Fixture {
    folder: tempfile::TempDir,
    cache: Cache,
    kernel: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("vmlinuz");
        let file = bzimage(&payload(Compression::Zstd, &fixture::vmlinux()));
        std::fs::write(&kernel, file).unwrap();
        let cache = Cache::new(folder.path().join("cache/kernels"));
        Self {
            folder,
            cache,
            kernel,
        }
    }

    fn open(&self) -> Kernel {
        self.cache.open(&self.kernel).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path().join("cache/kernels")).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

fn modified(path: &Path) -> SystemTime {
    std::fs::metadata(path).unwrap().modified().unwrap()
}

/// Writes `bytes` over a cached file in a way that its time tells, whatever the clock's grain.
fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1))
        .unwrap();
}

#[test]
fn bzimage_opens_as_its_vmlinux_with_its_setup_header() {
    let fixture = Fixture::new();
    let kernel = fixture.open();
    assert_eq!(kernel.entry, Entry::Pvh(fixture::ADDRESS + 0x80));
    assert_eq!(
        kernel.setup_header.as_ref().unwrap()[0x202 - 0x1f1..][..4],
        *b"HdrS"
    );
    assert_eq!(std::fs::read(&kernel.path).unwrap(), fixture::vmlinux());
    let names: Vec<_> = fixture
        .files()
        .iter()
        .map(|path| path.extension().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["seal", "vmlinux"]);
}

#[test]
fn second_open_unpacks_nothing() {
    let fixture = Fixture::new();
    let path = fixture.open().path;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(time).unwrap();
    // The time is not the seal's, the digest is: taken as it is.
    assert_eq!(fixture.open().path, path);
    assert_eq!(modified(&path), time);
}

#[test]
fn elf_kernel_is_used_where_it_is() {
    let fixture = Fixture::new();
    std::fs::write(&fixture.kernel, fixture::vmlinux()).unwrap();
    let kernel = fixture.open();
    assert_eq!(kernel.path, fixture.kernel);
    assert_eq!(kernel.setup_header, None);
    assert!(!fixture.folder.path().join("cache").exists());
}

#[test]
fn changed_cut_and_missing_entries_are_remade() {
    let fixture = Fixture::new();
    let path = fixture.open().path;
    let seal = path.with_extension("seal");
    let vmlinux = fixture::vmlinux();
    let mut changed = vmlinux.clone();
    changed[3000] ^= 1;
    let damages: [&dyn Fn(); 6] = [
        &|| overwrite(&path, &changed),
        &|| overwrite(&path, &vmlinux[..5000]),
        &|| overwrite(&path, b""),
        &|| std::fs::remove_file(&path).unwrap(),
        &|| std::fs::remove_file(&seal).unwrap(),
        &|| std::fs::write(&seal, "12 monkeys\n").unwrap(),
    ];
    for (number, damage) in damages.iter().enumerate() {
        damage();
        assert_eq!(fixture.open().path, path);
        assert!(std::fs::read(&path).unwrap() == vmlinux, "damage {number}");
    }
}

#[test]
fn leftovers_of_a_crash_are_swept() {
    let fixture = Fixture::new();
    let path = fixture.open().path;
    let leftover = path.with_file_name("0123.vmlinux.partial");
    std::fs::write(&leftover, "half").unwrap();
    std::fs::remove_file(&path).unwrap();
    fixture.open();
    assert!(!leftover.exists());
}

#[test]
fn concurrent_opens_all_get_the_kernel() {
    let fixture = Fixture::new();
    let vmlinux = fixture::vmlinux();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let kernel = fixture.open();
                assert!(std::fs::read(&kernel.path).unwrap() == vmlinux);
            });
        }
    });
    assert_eq!(fixture.files().len(), 2);
}

#[test]
fn kernel_that_does_not_boot_is_named_as_given_and_a_failed_unpacking_leaves_nothing() {
    let fixture = Fixture::new();
    let mut elf = fixture::Elf::kernel(None);
    elf.machine = 183;
    std::fs::write(
        &fixture.kernel,
        bzimage(&payload(Compression::Gzip, &elf.bytes())),
    )
    .unwrap();
    match fixture.cache.open(&fixture.kernel) {
        Err(Error::Unbootable { path, source }) => {
            assert_eq!(path, fixture.kernel);
            assert!(source.to_string().contains("for arm64"), "{source}");
        }
        other => panic!("{other:?}"),
    }
    let mut packed = payload(Compression::Xz, &fixture::vmlinux());
    let middle = packed.len() / 2;
    packed[middle] ^= 0xff;
    let before = fixture.files();
    std::fs::write(&fixture.kernel, bzimage(&packed)).unwrap();
    match fixture.cache.open(&fixture.kernel) {
        Err(Error::Unbootable { source, .. }) => {
            assert!(matches!(source, Unbootable::Corrupt { .. }), "{source:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fixture.files(), before);
}

#[test]
fn cache_that_cannot_be_made_is_an_error_of_its_folder() {
    let fixture = Fixture::new();
    let folder = fixture.kernel.join("cache");
    match Cache::new(&folder).open(&fixture.kernel) {
        Err(Error::Write { path, .. }) => assert_eq!(path, folder),
        other => panic!("{other:?}"),
    }
}

#[test]
fn seal_survives_its_line() {
    let seal = Seal {
        bytes: 12,
        modified_ns: -5,
        digest: blake3::hash(b"x"),
    };
    assert_eq!(Seal::from_line(&seal.to_line()), Some(seal));
    assert_eq!(Seal::from_line(seal.to_line().trim_end()), None);
    assert_eq!(Seal::from_line(&format!("1 {}", seal.to_line())), None);
}
