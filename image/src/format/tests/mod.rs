//! Disk files made byte by byte: sound, damaged, hostile.

mod qcow2;
mod sparse_vmdk;
mod vmdk;

use super::*;
use std::io::Write;

/// A folder of disk files.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }
}

/// All bytes of a disk: what is no data must read as zeroes.
fn bytes(source: &Source) -> Result<Vec<u8>, Error> {
    let size = usize::try_from(source.size_bytes()).unwrap();
    let mut all = vec![0; size];
    let mut at = 0;
    while let Some(data) = source.next_data(at)? {
        assert!(at <= data.start && data.start < data.end, "{at} {data:?}");
        at = data.end;
        let range = usize::try_from(data.start).unwrap()..usize::try_from(data.end).unwrap();
        let end = range.end.min(size);
        source.read(data.start, &mut all[range.start..end])?;
    }
    // Read in one go, holes and all, it is the same.
    let mut whole = vec![0xaa; size + 512];
    source.read(0, &mut whole)?;
    assert!(whole[..size] == all && whole[size..] == [0; 512]);
    Ok(all)
}

/// The error and its sources, as `main` prints them.
fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

#[test]
fn raw_file_is_padded_to_a_sector_and_its_holes_are_skipped() {
    let folder = Folder::new();
    let path = folder.path("disk.raw");
    let mut file = File::create(&path).unwrap();
    file.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 4 << 20).unwrap();
    std::io::Seek::seek(&mut file, io::SeekFrom::End(0)).unwrap();
    file.write_all(&[9; 100]).unwrap();

    let source = open(&path).unwrap();
    assert_eq!(source.format(), Format::Raw);
    assert_eq!(source.size_bytes(), (10 << 20) + 512);
    let data = source.next_data(0).unwrap().unwrap();
    // Where holes begin and end is the file system's choice, near the data.
    assert!(
        (3 << 20..=4 << 20).contains(&data.start) && data.end < 6 << 20,
        "{data:?}"
    );
    let bytes = bytes(&source).unwrap();
    assert_eq!(
        bytes[4 << 20..][..4097],
        [[7; 4096].as_slice(), &[0]].concat()
    );
    assert_eq!(bytes[10 << 20..], [[9; 100].as_slice(), &[0; 412]].concat());
}

#[test]
fn what_is_no_disk_file_is_refused_without_waiting() {
    let folder = Folder::new();
    let empty = folder.file("empty", b"");
    assert!(matches!(open(&empty).unwrap_err(), Error::Empty { .. }));
    let error = open(&folder.path("missing")).unwrap_err();
    assert!(
        text(&error).contains("missing: No such file"),
        "{}",
        text(&error)
    );
    assert!(matches!(
        open(folder.0.path()).unwrap_err(),
        Error::NotFile { .. }
    ));
    assert!(matches!(
        open(Path::new("/dev/zero")).unwrap_err(),
        Error::NotFile { .. }
    ));
    // Opened in the usual way it would wait for a writer.
    let fifo = folder.path("fifo");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(matches!(open(&fifo).unwrap_err(), Error::NotFile { .. }));
}

#[test]
fn known_formats_that_are_not_read_are_named() {
    let folder = Folder::new();
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    let mut vdi = vec![0; 512];
    vdi[0x40..0x44].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
    for (content, what) in [
        (&b"COWD rest"[..], "VMDK of ESX"),
        (b"vhdxfile", "VHDX"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (&tar, "tar"),
        (&vdi, "VDI"),
    ] {
        let error = open(&folder.file("disk", content)).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }));
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.help().unwrap().contains("qemu-img convert"));
    }
    let source = open(&folder.file("disk", b"QFI is no qcow2")).unwrap();
    assert_eq!(source.format(), Format::Raw);
}
