//! The files of volumes: what they cost, who may open them, what the first flush covers.

use super::*;
use rustix::io::{Errno, ReadWriteFlags};
use std::io::IoSliceMut;
use std::os::unix::fs::{FileExt, MetadataExt};

const TIB: u64 = 1 << 40;

fn names(home: &Home) -> Vec<String> {
    let entries = std::fs::read_dir(home.path().join("volumes")).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn disk_bytes(home: &Home) -> u64 {
    let paths = names(home).into_iter().map(|name| home.file(name));
    paths
        .map(|path| std::fs::metadata(path).unwrap().blocks() * 512)
        .sum()
}

#[test]
fn volume_of_16_tib_costs_a_page_and_is_written_at_both_ends() {
    let home = Home::new();
    let id = VolumeId::generate();
    let (files, size) = (home.volumes(), 16 * TIB);
    let mut volume = files.create(&id, size, Some(&home.snapshot)).unwrap();
    assert!(disk_bytes(&home) <= 64 * 1024);
    write(&mut volume, 0, 512, Change::Write(200));
    write(&mut volume, size - 512, 512, Change::Write(201));
    flush(&mut volume);
    drop(volume);

    let mut volume = files
        .open(&id, &Standing::new(size, Some(home.snapshot)))
        .unwrap();
    assert_eq!(read(&mut volume, 0, 512), [200; 512]);
    assert_eq!(read(&mut volume, 512, 512), home.content[512..1024]);
    assert_eq!(read(&mut volume, size - 1024, 512), [0; 512]);
    assert_eq!(read(&mut volume, size - 512, 512), [201; 512]);
    // The header, two blocks, two bitmap pages and what the file system needs to find them.
    assert!(disk_bytes(&home) <= 64 * 1024, "{}", disk_bytes(&home));
    drop(volume);
    files.delete(&id).unwrap();
    assert!(names(&home).is_empty());
}

#[test]
fn write_across_overlay_files_takes_two_plans() {
    let home = Home::new();
    let id = VolumeId::generate();
    let mut volume = home.volumes().create(&id, 9 * TIB, None).unwrap();
    let plan = ready(&mut volume, 8 * TIB - 4096, 8192);
    assert_eq!(
        (plan.file, plan.offset, plan.len),
        (OVERLAY, 8 * TIB - 4096, 4096)
    );
    volume.end_write(plan, true);
    let plan = ready(&mut volume, 8 * TIB, 4096);
    assert_eq!((plan.file, plan.offset, plan.len), (FileIndex(1), 0, 4096));
    volume.end_write(plan, true);
    let mut extents = Vec::new();
    volume.map_read(8 * TIB - 4096, 8192, &mut extents).unwrap();
    assert_eq!(extents.len(), 2);
    assert_eq!(volume.begin_flush().data, [OVERLAY, FileIndex(1)]);
}

#[test]
fn volume_without_a_snapshot_has_no_bitmap() {
    let home = Home::new();
    let id = VolumeId::generate();
    let mut volume = home.volumes().create(&id, 1 << 30, None).unwrap();
    assert_eq!(names(&home), [format!("{id}.overlay")]);
    write(&mut volume, 100 * 512, 512, Change::Write(7));
    let plan = volume.begin_flush();
    assert!(plan.pages.is_empty());
    assert_eq!(plan.data, [OVERLAY]);
}

#[test]
fn first_flush_covers_what_names_the_volume_until_it_succeeds() {
    let home = Home::new();
    let id = VolumeId::generate();
    let mut volume = home
        .volumes()
        .create(&id, 1 << 30, Some(&home.snapshot))
        .unwrap();
    let wal = File::create(home.path().join("wal")).unwrap();
    volume.sync_before_first_flush(vec![wal]);

    let plan = volume.begin_flush();
    // The bitmap, the overlay, the folder, the catalogue's file.
    assert_eq!(plan.once.len(), 4);
    assert!(plan.data.is_empty() && plan.pages.is_empty());
    volume.end_flush(plan, false);
    let plan = volume.begin_flush();
    assert_eq!(plan.once.len(), 4);
    volume.end_flush(plan, true);

    let plan = volume.begin_flush();
    assert!(plan.once.is_empty() && plan.data.is_empty() && plan.pages.is_empty());
    volume.end_flush(plan, true);
}

#[test]
fn flush_takes_writes_that_have_ended_and_no_others() {
    let home = Home::new();
    let mut volume = home
        .volumes()
        .create(&VolumeId::generate(), 1 << 30, Some(&home.snapshot))
        .unwrap();
    write(&mut volume, 0, 4096, Change::Write(1));
    let open = ready(&mut volume, 8192, 4096);
    let plan = volume.begin_flush();
    assert_eq!(plan.pages.len(), 1);
    assert_eq!(plan.pages[0].bytes[0], 0b1);
    // It ends while the flush is under way: the next flush has it.
    volume.end_write(open, true);
    volume.end_flush(plan, true);
    let plan = volume.begin_flush();
    assert_eq!(plan.data, [OVERLAY]);
    assert_eq!(plan.pages[0].bytes[0], 0b101);
    volume.end_flush(plan, false);
    let plan = volume.begin_flush();
    assert_eq!(plan.data, [OVERLAY]);
    assert_eq!(plan.pages[0].bytes[0], 0b101);
}

#[test]
fn write_to_a_block_that_is_being_copied_is_busy() {
    let home = Home::new();
    let mut volume = home
        .volumes()
        .create(&VolumeId::generate(), 1 << 30, Some(&home.snapshot))
        .unwrap();
    let first = ready(&mut volume, 512, 512);
    assert!(first.fills.iter().all(Option::is_some));
    assert_eq!(volume.begin_write(1024, 512).unwrap(), BeginWrite::Busy);
    let other = ready(&mut volume, 4096, 4096);
    assert_eq!(other.fills, [None, None]);
    volume.end_write(other, true);
    volume.end_write(first, false);
    // It failed, so the next one copies.
    let again = ready(&mut volume, 1024, 512);
    assert!(again.fills.iter().all(Option::is_some));
    fill(&volume, &again);
    volume.end_write(again, true);
    // Held now: nothing to copy, and two at once.
    let one = ready(&mut volume, 512, 512);
    let two = ready(&mut volume, 512, 512);
    assert_eq!((one.fills, two.fills), ([None, None], [None, None]));
}

#[test]
fn open_volume_is_locked_against_everybody() {
    let home = Home::new();
    let id = VolumeId::generate();
    let files = home.volumes();
    let volume = files.create(&id, 1 << 30, Some(&home.snapshot)).unwrap();
    let error = files
        .open(&id, &Standing::new(1 << 30, Some(home.snapshot)))
        .unwrap_err();
    assert!(
        matches!(error, Error::InUse { id: it } if it == id),
        "{error}"
    );
    assert!(matches!(
        files.delete(&id).unwrap_err(),
        Error::InUse { .. }
    ));
    assert_eq!(files.sweep(&|_| None).unwrap(), 0);
    // As a process has it that was forked and has not come to its exec.
    let forked = volume.stack.files.duplicates();
    drop(volume);
    files
        .open(&id, &Standing::new(1 << 30, Some(home.snapshot)))
        .unwrap();
    drop(forked);
}

#[test]
fn sweep_deletes_unnamed_volumes_and_nothing_else() {
    let home = Home::new();
    let (kept, lost) = (VolumeId::generate(), VolumeId::generate());
    let files = home.volumes();
    files.create(&kept, 9 * TIB, Some(&home.snapshot)).unwrap();
    files.create(&lost, 9 * TIB, Some(&home.snapshot)).unwrap();
    std::fs::write(home.file("notes.txt".to_owned()), "a person's").unwrap();
    assert_eq!(files.sweep(&|id| (*id == kept).then_some(0)).unwrap(), 3);
    let mut expected = vec![
        format!("{kept}.bitmap"),
        format!("{kept}.overlay"),
        format!("{kept}.overlay.1"),
        "notes.txt".to_owned(),
    ];
    expected.sort();
    assert_eq!(names(&home), expected);
}

#[test]
fn wrong_sizes_are_refused_and_leave_nothing() {
    let home = Home::new();
    let files = home.volumes();
    let id = VolumeId::generate();
    for size in [0, 64 * TIB + 512] {
        let error = files.create(&id, size, None).unwrap_err();
        assert!(matches!(error, Error::Size { .. }), "{error}");
    }
    let error = files.create(&id, 4096, Some(&home.snapshot)).unwrap_err();
    assert!(matches!(error, Error::BelowSnapshot { .. }), "{error}");
    let unknown = SnapshotId::generate();
    let error = files.create(&id, 1 << 30, Some(&unknown)).unwrap_err();
    assert!(matches!(error, Error::Files(_)), "{error}");
    assert!(!home.path().join("volumes").exists() || names(&home).is_empty());

    drop(files.create(&id, 1 << 30, None).unwrap());
    let error = files.create(&id, 1 << 30, None).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    let error = files.open(&id, &Standing::new(1 << 29, None)).unwrap_err();
    assert!(matches!(error, Error::Shrinks { .. }), "{error}");
}

#[test]
fn bitmap_of_another_volume_or_snapshot_is_refused() {
    let home = Home::new();
    let files = home.volumes();
    let (one, two) = (VolumeId::generate(), VolumeId::generate());
    for id in [&one, &two] {
        drop(files.create(id, 1 << 30, Some(&home.snapshot)).unwrap());
    }
    let [from, to] = [one, two].map(|id| home.file(format!("{id}.bitmap")));
    std::fs::copy(from, &to).unwrap();
    let error = files
        .open(&two, &Standing::new(1 << 30, Some(home.snapshot)))
        .unwrap_err();
    assert!(error.to_string().contains("another volume"), "{error}");
    File::create(&to).unwrap();
    let error = files
        .open(&two, &Standing::new(1 << 30, Some(home.snapshot)))
        .unwrap_err();
    assert!(error.to_string().contains("header is missing"), "{error}");
}

#[test]
fn damaged_snapshot_is_an_error_of_that_read_only() {
    let home = Home::new();
    let mut volume = home
        .volumes()
        .create(&VolumeId::generate(), 1 << 30, Some(&home.snapshot))
        .unwrap();
    let table = home
        .path()
        .join(format!("snapshots/{}.table", home.snapshot));
    let file = File::options().write(true).open(table).unwrap();
    file.write_all_at(&[0xff], 4096 + 40).unwrap();
    let error = volume.map_read(0, 512, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("chunk 0"), "{error}");
    volume.begin_write(512, 512).unwrap_err();

    // A segment cut short: its chunks would read as nothing.
    file.write_all_at(&[0], 4096 + 40).unwrap();
    let folder = home.path().join("segments");
    let segment = std::fs::read_dir(folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let file = File::options().write(true).open(segment).unwrap();
    file.set_len(chunk::CHUNK_BYTES + 4096).unwrap();
    let error = volume.map_read(0, 512, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
    assert_eq!(read(&mut volume, 900 << 20, 512), [0; 512]);
}

#[test]
fn ranges_outside_are_refused() {
    let home = Home::new();
    let mut volume = home
        .volumes()
        .create(&VolumeId::generate(), 1 << 30, Some(&home.snapshot))
        .unwrap();
    for (offset, len) in [(1 << 30, 1), (u64::MAX, 2), (0, (1 << 30) + 1)] {
        let error = volume.map_read(offset, len, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, Error::OutOfRange { .. }), "{error}");
        volume.begin_write(offset, len).unwrap_err();
    }
    volume.map_read(1 << 30, 0, &mut Vec::new()).unwrap();
    let plan = ready(&mut volume, 1 << 30, 0);
    assert_eq!(plan.len, 0);
}

#[test]
fn discard_of_everything_takes_little_memory() {
    let home = Home::new();
    let mut volume = home
        .volumes()
        .create(&VolumeId::generate(), TIB, Some(&home.snapshot))
        .unwrap();
    let plan = ready(&mut volume, 0, TIB);
    volume.end_write(plan, true);
    let plan = volume.begin_flush();
    assert_eq!(plan.pages.len(), 8192);
    // All pages are one in memory.
    let first = plan.pages[0].bytes.as_ptr();
    assert!(plan.pages.iter().all(|page| page.bytes.as_ptr() == first));
}

/// Whether the host has the first byte in memory.
fn is_cached(file: impl AsFd) -> bool {
    let flags = ReadWriteFlags::NOWAIT;
    let mut byte = [0];
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], 0, flags) {
        Err(Errno::AGAIN) => false,
        // A file system that never waits.
        Ok(_) | Err(Errno::OPNOTSUPP) => true,
        Err(error) => panic!("{error}"),
    }
}

/// Issue: after a sync that failed a running guest read what the disk had in the place of what it had written.
#[test]
fn what_was_written_is_read_until_a_volume_that_lost_writes_closes() {
    let home = Home::new();
    let files = home.volumes();
    let probe = File::create_new(home.path().join("probe")).unwrap();
    probe.write_all_at(&[1; 4096], 0).unwrap();
    probe.sync_all().unwrap();
    rustix::fs::fadvise(&probe, 0, None, Advice::DontNeed).unwrap();
    let probe = File::open(home.path().join("probe")).unwrap();
    let forgets = !is_cached(&probe);
    // The host may need its memory at any time, so it is asked more than once.
    let kept = (0..100).any(|_| {
        let id = VolumeId::generate();
        let mut volume = files.create(&id, 1 << 20, None).unwrap();
        write(&mut volume, 0, 4096, Change::Write(9));
        volume.sync().unwrap();
        volume.lose_writes();
        assert!(volume.has_lost_writes());
        assert!(matches!(volume.sync().unwrap_err(), Error::LostWrites));
        let kept = is_cached(volume.file(OVERLAY));
        drop(volume);
        let overlay = File::open(home.file(format!("{id}.overlay"))).unwrap();
        kept && !(forgets && is_cached(overlay))
    });
    assert!(kept);
}
