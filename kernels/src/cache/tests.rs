//! Tests of the cache of unpacked kernels.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Cache, Seal};
use crate::fixture::{self, bzimage, payload};
use crate::{Architecture, Compression, Entry, Error, Kernel, Unbootable};

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

    /// Whatever the host that the tests run on.
    fn open(&self) -> Kernel {
        self.cache.open_any(&self.kernel).unwrap()
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
fn image_gz_and_zboot_open_as_the_image_within() {
    let fixture = Fixture::new();
    let image = fixture::arm64_image();
    for compression in fixture::READ {
        let zboot = fixture::zboot(compression, &payload(compression, &image));
        for file in [fixture::compress(compression, &image), zboot] {
            std::fs::write(&fixture.kernel, file).unwrap();
            let kernel = fixture.open();
            assert_eq!(kernel.entry, Entry::Arm64(0));
            assert_eq!(kernel.architecture, Architecture::Aarch64);
            assert_eq!(kernel.setup_header, None);
            assert!(std::fs::read(&kernel.path).unwrap() == image);
            // The second time there is nothing to unpack.
            assert_eq!(fixture.open().path, kernel.path);
        }
    }
    assert_eq!(fixture.files().len(), 2 * 2 * fixture::READ.len());
}

#[test]
fn i386_bzimage_opens_with_its_setup_header() {
    let fixture = Fixture::new();
    let vmlinux = fixture::Elf::kernel_i386(None).bytes();
    let mut file = bzimage(&payload(Compression::Xz, &vmlinux));
    file[0x236] = 0;
    std::fs::write(&fixture.kernel, file).unwrap();
    let kernel = fixture.open();
    assert_eq!(kernel.entry, Entry::Linux32(fixture::ADDRESS + 0x40));
    assert_eq!(kernel.architecture, Architecture::I386);
    assert!(kernel.setup_header.is_some());
}

#[test]
fn wrong_architecture_is_refused_before_anything_is_unpacked() {
    let fixture = Fixture::new();
    let arm64 = fixture::arm64_image();
    let i386 = fixture::Elf::kernel_i386(None).bytes();
    let mut bzimage_i386 = bzimage(&payload(Compression::Gzip, &i386));
    bzimage_i386[0x236] = 0;
    let gzip = Compression::Gzip;
    let zboot = fixture::zboot(gzip, &payload(gzip, &arm64));
    let (x86_64, aarch64) = (Architecture::X86_64, Architecture::Aarch64);
    for (file, found, host) in [
        (arm64.clone(), "arm64", x86_64),
        (zboot, "arm64", x86_64),
        (fixture::compress(gzip, &arm64), "arm64", x86_64),
        (bzimage_i386, "i386", aarch64),
        (
            bzimage(&payload(gzip, &fixture::vmlinux())),
            "x86_64",
            aarch64,
        ),
        (fixture::compress(gzip, &i386), "i386", aarch64),
        (fixture::vmlinux(), "x86_64", aarch64),
    ] {
        std::fs::write(&fixture.kernel, file).unwrap();
        let refused = fixture.cache.open_for(&fixture.kernel, Some(host));
        match refused {
            Err(Error::Unbootable { path, source }) => {
                assert_eq!(path, fixture.kernel);
                let expected = format!("a kernel for {found}, this host is {host}");
                assert_eq!(source.to_string(), expected);
            }
            other => panic!("{other:?}"),
        }
    }
    // Looking into a compressed file made the folder, and left nothing there.
    assert_eq!(fixture.files(), Vec::<PathBuf>::new());
}

#[test]
fn kept_kernel_for_another_machine_is_refused_when_it_is_to_run() {
    let fixture = Fixture::new();
    let image = fixture::compress(Compression::Zstd, &fixture::arm64_image());
    std::fs::write(&fixture.kernel, image).unwrap();
    fixture.open();
    let refused = fixture
        .cache
        .open_for(&fixture.kernel, Some(Architecture::X86_64));
    match refused {
        Err(Error::Unbootable { path, source }) => {
            assert_eq!(path, fixture.kernel);
            let expected = "a kernel for arm64, this host is x86_64";
            assert_eq!(source.to_string(), expected);
        }
        other => panic!("{other:?}"),
    }
    fixture
        .cache
        .open_for(&fixture.kernel, Some(Architecture::Aarch64))
        .unwrap();
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
    elf.machine = 243;
    std::fs::write(
        &fixture.kernel,
        bzimage(&payload(Compression::Gzip, &elf.bytes())),
    )
    .unwrap();
    match fixture.cache.open_any(&fixture.kernel) {
        Err(Error::Unbootable { path, source }) => {
            assert_eq!(path, fixture.kernel);
            assert!(source.to_string().contains("for riscv"), "{source}");
        }
        other => panic!("{other:?}"),
    }
    let mut packed = payload(Compression::Xz, &fixture::vmlinux());
    let middle = packed.len() / 2;
    packed[middle] ^= 0xff;
    let before = fixture.files();
    std::fs::write(&fixture.kernel, bzimage(&packed)).unwrap();
    match fixture.cache.open_any(&fixture.kernel) {
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
    match Cache::new(&folder).open_any(&fixture.kernel) {
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
