//! Snapshots written, shared, interrupted, swept; the child processes are this test binary again.

use super::*;
use crate::chunk::table::Table;
use crate::chunk::{CHUNK_BYTES, Digest};
use crate::volume::{Extent, Place, VolumeFiles};
use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

const CHUNK: usize = 512 * 1024;

#[derive(Default)]
struct Index(HashMap<Digest, ChunkPlace>);

impl Index {
    fn add(&mut self, written: &Written) {
        let places = written.chunks.iter().map(|it| (it.digest, it.place));
        self.0.extend(places);
    }
}

impl ChunkIndex for Index {
    fn find(
        &self,
        digest: &Digest,
    ) -> Result<Option<ChunkPlace>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.get(digest).copied())
    }
}

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn files(&self) -> SnapshotFiles {
        SnapshotFiles::new(self.0.path())
    }

    fn source(&self, content: &[u8]) -> Source {
        let path = self.0.path().join("disk.raw");
        std::fs::write(&path, content).unwrap();
        format::open(&path).unwrap()
    }

    fn write(&self, content: &[u8], index: &dyn ChunkIndex) -> (SnapshotId, Written) {
        let id = SnapshotId::generate();
        let written = self
            .files()
            .write(&id, &mut self.source(content), index, &mut go_on)
            .unwrap();
        (id, written)
    }

    fn names(&self, folder: &str) -> Vec<String> {
        names(&self.0.path().join(folder))
    }

    /// The content of a snapshot, as a volume of it reads.
    fn read(&self, id: &SnapshotId, len: usize) -> Vec<u8> {
        let files = VolumeFiles::new(self.0.path());
        let volume = crate::id::VolumeId::generate();
        let mut volume = files.create(&volume, len as u64, Some(id)).unwrap();
        let mut extents = Vec::new();
        volume.map_read(0, len as u64, &mut extents).unwrap();
        let mut bytes = Vec::new();
        for Extent { len, place } in extents {
            let mut part = vec![0; usize::try_from(len).unwrap()];
            if let Place::File { file, offset } = place {
                let count = rustix::io::pread(volume.file(file), &mut part[..], offset).unwrap();
                assert_eq!(count, part.len());
            }
            bytes.extend(part);
        }
        bytes
    }
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Chunks that all differ, with zero pages in them.
fn content(chunks: usize, seed: u8) -> Vec<u8> {
    let mut content = vec![0; chunks * CHUNK];
    for (number, chunk) in content.chunks_mut(CHUNK).enumerate() {
        for (page, bytes) in chunk.chunks_mut(4096).enumerate() {
            if page % 3 != 0 {
                bytes.fill(seed ^ u8::try_from((number * 7 + page) % 251).unwrap());
            }
        }
        chunk[CHUNK - 8..].copy_from_slice(&(number as u64).to_le_bytes());
    }
    content
}

#[test]
fn snapshot_reads_as_its_disk_did() {
    let home = Home::new();
    let mut disk = content(21, 1);
    disk[3 * CHUNK..9 * CHUNK].fill(0);
    disk.truncate(20 * CHUNK + 4096 + 512);
    let (id, written) = home.write(&disk, &());
    assert_eq!(written.size_bytes, disk.len() as u64);
    assert_eq!(written.chunks.len(), 21 - 6);
    let pages = disk
        .chunks(4096)
        .filter(|page| page.iter().any(|byte| *byte != 0));
    assert_eq!(written.stored_bytes, pages.count() as u64 * 4096);
    written.keep();
    assert!(home.read(&id, disk.len()) == disk);
    // In the order of the disk: a guest that reads on reads on in the segment too.
    let table = Table::open(&home.0.path().join("snapshots"), &id).unwrap();
    let mut last = 0;
    table
        .each_chunk(&mut |_, chunk| {
            assert!(chunk.place.offset > last);
            last = chunk.place.offset;
            Ok(())
        })
        .unwrap();
}

#[test]
fn zeroes_are_stored_nowhere() {
    let home = Home::new();
    let (id, written) = home.write(&vec![0; 5 * CHUNK + 512], &());
    assert_eq!((written.stored_bytes, written.chunks.len()), (0, 0));
    written.keep();
    assert!(home.names("segments").is_empty());
    assert!(home.read(&id, 5 * CHUNK + 512) == vec![0; 5 * CHUNK + 512]);
}

#[test]
fn equal_chunks_are_stored_once() {
    let home = Home::new();
    let mut index = Index::default();
    let mut disk = content(4, 1);
    disk.copy_within(..CHUNK, 2 * CHUNK);
    let (_, first) = home.write(&disk, &index);
    assert_eq!(first.chunks.len(), 3);
    index.add(&first);
    first.keep();

    // A second image: one chunk differs, one is new, the last one is the first's padded.
    let mut disk = disk.clone();
    disk[CHUNK] ^= 1;
    disk.extend(content(1, 9));
    let (id, second) = home.write(&disk, &index);
    assert_eq!(second.chunks.len(), 2);
    second.keep();
    assert!(home.read(&id, disk.len()) == disk);
    assert_eq!(home.names("segments").len(), 2);

    // All of it is there: not even a segment.
    for chunk in disk.chunks(CHUNK) {
        let place = ChunkPlace {
            segment: 1,
            offset: CHUNK_BYTES,
        };
        index.0.entry(Digest::of(chunk)).or_insert(place);
    }
    let (_, third) = home.write(&disk, &index);
    assert_eq!((third.chunks.len(), third.stored_bytes), (0, 0));
    drop(third);
    assert_eq!(home.names("segments").len(), 2);
}

#[test]
fn progress_rises_to_its_total_in_both_phases() {
    let home = Home::new();
    let mut disk = content(12, 1);
    disk[CHUNK..8 * CHUNK].fill(0);
    let mut seen: Vec<Progress> = Vec::new();
    let written = home
        .files()
        .write(
            &SnapshotId::generate(),
            &mut home.source(&disk),
            &(),
            &mut |it| {
                seen.push(it);
                ControlFlow::Continue(())
            },
        )
        .unwrap();
    drop(written);
    for (phase, total) in [(Phase::Store, 12), (Phase::Verify, 5)] {
        let done: Vec<_> = seen.iter().filter(|it| it.phase == phase).collect();
        assert!(done.is_sorted_by_key(|it| it.done_bytes));
        assert_eq!(done.last().unwrap().done_bytes, total * CHUNK_BYTES);
        assert!(done.iter().all(|it| it.total_bytes == total * CHUNK_BYTES));
    }
}

#[test]
fn interruption_at_any_step_leaves_nothing() {
    let home = Home::new();
    let disk = content(5, 1);
    let mut steps = 0;
    loop {
        let mut left = steps;
        let result = home.files().write(
            &SnapshotId::generate(),
            &mut home.source(&disk),
            &(),
            &mut |_| {
                if left == 0 {
                    return ControlFlow::Break(());
                }
                left -= 1;
                ControlFlow::Continue(())
            },
        );
        let done = match result {
            Ok(_dropped_without_being_kept) => true,
            Err(error) => {
                assert!(matches!(error, Error::Interrupted), "{error}");
                false
            }
        };
        assert!(home.names("segments").is_empty() && home.names("snapshots").is_empty());
        if done {
            break;
        }
        steps += 1;
    }
    // 0 and each chunk and the end while storing, then each chunk while verifying.
    assert_eq!(steps, 7 + 5);
}

#[test]
fn index_that_fails_and_disk_that_shrinks_end_the_import() {
    struct Broken;
    impl ChunkIndex for Broken {
        fn find(
            &self,
            _: &Digest,
        ) -> Result<Option<ChunkPlace>, Box<dyn std::error::Error + Send + Sync>> {
            Err("database is locked".into())
        }
    }
    let home = Home::new();
    let id = SnapshotId::generate();
    let mut source = home.source(&content(30, 1));
    let error = home
        .files()
        .write(&id, &mut source, &Broken, &mut go_on)
        .unwrap_err();
    assert!(matches!(error, Error::Index(_)), "{error}");

    let file = std::fs::File::create(home.0.path().join("disk.raw")).unwrap();
    let written = home.files().write(&id, &mut source, &(), &mut |progress| {
        file.set_len(0).unwrap();
        go_on(progress)
    });
    // What is read depends on the moment; that it ends does not.
    drop(written);
    assert!(home.names("segments").is_empty() && home.names("snapshots").is_empty());
}

#[test]
fn bytes_that_do_not_read_back_are_found() {
    let home = Home::new();
    let id = SnapshotId::generate();
    let mut source = home.source(&content(3, 1));
    let (_, mut written) = (
        id,
        home.files()
            .write(&id, &mut source, &(), &mut go_on)
            .unwrap(),
    );
    verify::verify(&home.files(), &id, &written, &mut go_on).unwrap();
    let place = written.chunks[1].place;
    let file = written.segments[0].pending.file();
    file.write_all_at(&[0x55], place.offset + 5000).unwrap();
    let error = verify::verify(&home.files(), &id, &written, &mut go_on).unwrap_err();
    assert!(
        matches!(error, Error::Verify { place: it } if it == place),
        "{error}"
    );
    written.chunks.remove(1);
    verify::verify(&home.files(), &id, &written, &mut go_on).unwrap();
    let table = written.table.file();
    table.write_all_at(&[0x55], 4096 + 64 + 3).unwrap();
    let error = verify::verify(&home.files(), &id, &written, &mut go_on).unwrap_err();
    assert!(error.to_string().contains("entry for chunk 1"), "{error}");
}

#[test]
fn sweep_spares_what_is_named_locked_or_foreign() {
    let home = Home::new();
    let (named, first) = home.write(&content(2, 1), &());
    let segment = first.chunks[0].place.segment;
    first.keep();
    let (_, lost) = home.write(&content(2, 2), &());
    lost.keep();
    let (_, under_way) = home.write(&content(2, 3), &());
    std::fs::write(home.0.path().join("segments/notes.txt"), "a person's").unwrap();
    std::fs::write(home.0.path().join("segments/.unfinished-1"), "a crash's").unwrap();

    let sweep = || {
        let files = home.files();
        files
            .sweep(&|id| *id == named, &|id| id == segment)
            .unwrap()
    };
    assert_eq!(sweep(), 3);
    assert_eq!(home.names("snapshots").len(), 2);
    assert_eq!(home.names("segments").len(), 3);
    drop(under_way);
    assert_eq!(sweep(), 0);
    assert_eq!(home.names("snapshots"), [format!("{named}.table")]);
    assert_eq!(home.names("segments").len(), 2);
}

/// Runs the ignored test `name` of this binary in a child, through `wrapper` where there is one.
fn child(wrapper: &[&str], name: &str, home: &Path) -> std::process::Output {
    let mut words: Vec<_> = wrapper.iter().map(std::ffi::OsString::from).collect();
    words.push(std::env::current_exe().unwrap().into());
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args(["--exact", &format!("snapshot::tests::{name}")])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .env("KAMI_TEST_HOME", home);
    command.output().unwrap()
}

#[test]
fn killed_import_leaves_nothing_that_a_sweep_does_not_delete() {
    for step in ["0", "3", "9", "12", "named"] {
        let home = Home::new();
        std::fs::write(home.0.path().join("disk.raw"), content(6, 1)).unwrap();
        std::fs::write(home.0.path().join("step"), step).unwrap();
        let output = child(&[], "child_that_is_killed", home.0.path());
        assert_eq!(output.status.signal(), Some(9), "{step}: {output:?}");
        if step != "named" {
            // Nameless files, where the file system has them, need no sweep.
            let nameless = PendingFile::create(&home.0.path().join("segments")).unwrap();
            if nameless.path().is_none() {
                assert!(home.names("segments").is_empty() && home.names("snapshots").is_empty());
            }
        } else {
            assert_eq!(home.names("segments").len(), 1);
        }
        home.files().sweep(&|_| false, &|_| false).unwrap();
        assert!(home.names("segments").is_empty() && home.names("snapshots").is_empty());
    }
}

#[test]
#[ignore = "the child of killed_import_leaves_nothing_that_a_sweep_does_not_delete"]
fn child_that_is_killed() {
    let home = PathBuf::from(std::env::var_os("KAMI_TEST_HOME").unwrap());
    let step = std::fs::read_to_string(home.join("step")).unwrap();
    let kill = || {
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
    };
    let mut left = step.parse().unwrap_or(usize::MAX);
    let mut source = format::open(&home.join("disk.raw")).unwrap();
    let id = SnapshotId::generate();
    let written = SnapshotFiles::new(&home)
        .write(&id, &mut source, &(), &mut |progress| {
            if left == 0 {
                kill();
            }
            left -= 1;
            go_on(progress)
        })
        .unwrap();
    kill();
    drop(written);
}

#[test]
fn full_disk_is_one_clear_error_and_leaves_nothing() {
    let home = Home::new();
    std::fs::write(home.0.path().join("disk.raw"), content(24, 1)).unwrap();
    std::fs::create_dir(home.0.path().join("small")).unwrap();
    // A mount of its own, in a mount namespace of its own, which goes when the child does.
    let mount = "mount -t tmpfs -o size=6m kami \"$KAMI_TEST_HOME/small\" && exec \"$@\"";
    let unshare: &[&str] = match rustix::process::geteuid().is_root() {
        true => &["unshare", "--mount"],
        false => &["unshare", "--user", "--map-root-user", "--mount"],
    };
    let wrapper = [unshare, &["sh", "-c", mount, "sh"]].concat();
    let output = child(&wrapper, "child_with_a_full_disk", home.0.path());
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "{output:?}"
    );
}

#[test]
#[ignore = "the child of full_disk_is_one_clear_error_and_leaves_nothing"]
fn child_with_a_full_disk() {
    let home = PathBuf::from(std::env::var_os("KAMI_TEST_HOME").unwrap());
    let small = home.join("small");
    let mut source = format::open(&home.join("disk.raw")).unwrap();
    let files = SnapshotFiles::new(&small);
    // 12 MiB of disk, a third of it zeroes: 6 MiB do not hold it.
    let id = SnapshotId::generate();
    let error = files.write(&id, &mut source, &(), &mut go_on).unwrap_err();
    let Error::Files(chunk::Error::Io { source: cause, .. }) = &error else {
        panic!("{error}");
    };
    assert_eq!(cause.kind(), std::io::ErrorKind::StorageFull);
    assert!(error.to_string().starts_with("cannot write "), "{error}");
    for folder in ["segments", "snapshots"] {
        assert!(names(&small.join(folder)).is_empty());
    }
    // The space is free again.
    std::fs::write(home.join("disk.raw"), content(8, 1)).unwrap();
    let mut source = format::open(&home.join("disk.raw")).unwrap();
    files
        .write(&id, &mut source, &(), &mut go_on)
        .unwrap()
        .keep();

    // A volume that cannot be made leaves nothing either.
    let filler = std::fs::File::create(small.join("filler")).unwrap();
    let mut at = 0;
    while filler.write_all_at(&[1; 4096], at).is_ok() {
        at += 4096;
    }
    let volumes = VolumeFiles::new(&small);
    let volume = crate::id::VolumeId::generate();
    volumes.create(&volume, 1 << 40, Some(&id)).unwrap_err();
    assert!(names(&small.join("volumes")).is_empty());
}
