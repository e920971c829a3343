//! Layers: what a freeze keeps, what a rebase forgets, and what of both a crash may leave.

use super::*;
use crate::chunk::CHUNK_BYTES;
use std::os::unix::fs::FileExt;

const SIZE: u64 = 8 * CHUNK_BYTES;

fn names(home: &Home) -> Vec<String> {
    let entries = std::fs::read_dir(home.path().join("volumes")).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Makes a snapshot of what `frozen` is, whole.
fn snapshot_of(home: &Home, frozen: &Frozen) -> SnapshotId {
    home.import(&content(frozen))
}

#[test]
fn frozen_view_keeps_what_was_written_before_and_nothing_after() {
    let home = Home::new();
    let (files, id) = (home.volumes(), VolumeId::generate());
    let standing = Standing::new(SIZE, Some(home.snapshot));
    assert!(!files.is_untouched(&id));
    let mut volume = files.create(&id, SIZE, Some(&home.snapshot)).unwrap();
    assert!(files.is_untouched(&id));
    write(&mut volume, 512, 512, Change::Write(200));
    assert!(!files.is_untouched(&id));
    write(&mut volume, 6 * CHUNK_BYTES, 4096, Change::Write(201));
    assert_eq!(volume.freeze().unwrap(), 1);
    let before = read(&mut volume, 0, usize::try_from(SIZE).unwrap());
    write(&mut volume, 1024, 512, Change::Write(210));
    write(&mut volume, 2 * CHUNK_BYTES, 4096, Change::Write(211));
    // What was written before the freeze was not flushed: this flush covers it.
    flush(&mut volume);

    let frozen = files.frozen(&id, &standing, 1).unwrap();
    assert!(content(&frozen) == before);
    assert_eq!(frozen.changed_chunks().unwrap(), [0, 6]);
    let mut expected = before;
    expected[1024..1536].fill(210);
    let two = usize::try_from(2 * CHUNK_BYTES).unwrap();
    expected[two..two + 4096].fill(211);
    assert!(read(&mut volume, 0, expected.len()) == expected);
    drop(volume);
    let mut volume = files.open(&id, &standing).unwrap();
    assert!(read(&mut volume, 0, expected.len()) == expected);
}

#[test]
fn volume_that_began_empty_freezes_too_and_its_holes_are_no_changes() {
    let home = Home::new();
    let (files, id) = (home.volumes(), VolumeId::generate());
    let mut volume = files.create(&id, SIZE, None).unwrap();
    write(&mut volume, 3 * CHUNK_BYTES, 512, Change::Write(7));
    assert_eq!(volume.freeze().unwrap(), 1);
    write(&mut volume, 3 * CHUNK_BYTES + 512, 512, Change::Write(8));
    write(&mut volume, 0, 8192, Change::Punch);
    volume.sync().unwrap();
    let frozen = files.frozen(&id, &Standing::new(SIZE, None), 1).unwrap();
    assert_eq!(frozen.changed_chunks().unwrap(), [3]);
    let mut chunk = vec![1; 2048];
    frozen.read_chunk(3, &mut chunk).unwrap();
    assert_eq!(chunk[..512], [7; 512]);
    assert_eq!(chunk[512..], [0; 1536]);
    assert_eq!(
        read(&mut volume, 3 * CHUNK_BYTES, 1024),
        [[7; 512], [8; 512]].concat()
    );
}

#[test]
fn freeze_without_a_write_since_the_last_begins_no_layer() {
    let home = Home::new();
    let (files, id) = (home.volumes(), VolumeId::generate());
    let standing = Standing::new(SIZE, Some(home.snapshot));
    assert_eq!(
        {
            drop(files.create(&id, SIZE, Some(&home.snapshot)).unwrap());
            files.freeze(&id, &standing).unwrap()
        },
        1
    );
    for _ in 0..3 {
        assert_eq!(files.freeze(&id, &standing).unwrap(), 1);
    }
    let mut volume = files.open(&id, &standing).unwrap();
    assert_eq!(volume.freeze().unwrap(), 1);
    write(&mut volume, 0, 512, Change::Write(1));
    assert_eq!(volume.freeze().unwrap(), 2);
    flush(&mut volume);
    drop(volume);
    assert_eq!(files.freeze(&id, &standing).unwrap(), 2);
}

#[test]
fn layers_are_bounded() {
    let home = Home::new();
    let (files, id) = (home.volumes(), VolumeId::generate());
    let mut volume = files.create(&id, SIZE, None).unwrap();
    for layer in 1..MAX_LAYERS {
        write(&mut volume, 0, 512, Change::Write(1));
        assert_eq!(volume.freeze().unwrap() as usize, layer);
    }
    write(&mut volume, 0, 512, Change::Write(2));
    let error = volume.freeze().unwrap_err();
    assert!(matches!(error, Error::TooManyLayers { .. }), "{error}");
    flush(&mut volume);
    assert_eq!(read(&mut volume, 0, 512), [2; 512]);
    drop(volume);
    files.open(&id, &Standing::new(SIZE, None)).unwrap();
}

#[test]
fn freeze_and_rebase_wait_for_every_write() {
    let home = Home::new();
    let (files, id) = (home.volumes(), VolumeId::generate());
    let mut volume = files.create(&id, SIZE, None).unwrap();
    let plan = ready(&mut volume, 0, 512);
    let error = volume.freeze().unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    let error = volume.rebase(&home.snapshot, 0).unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    volume.end_write(plan, true);
    volume.freeze().unwrap();
    let error = volume.rebase(&home.snapshot, 2).unwrap_err();
    assert!(matches!(error, Error::NoSuchLayer { .. }), "{error}");
    let error = volume.rebase(&SnapshotId::generate(), 1).unwrap_err();
    assert!(matches!(error, Error::Files(_)), "{error}");
    let mut plain = Volume::plain(tempfile::tempfile().unwrap(), SIZE);
    assert!(matches!(plain.freeze().unwrap_err(), Error::NoStore));
}

#[test]
fn rebase_reads_the_same_and_gives_the_layers_back() {
    let home = Home::new();
    let (files, id) = (home.volumes(), VolumeId::generate());
    let standing = Standing::new(SIZE, Some(home.snapshot));
    let mut volume = files.create(&id, SIZE, Some(&home.snapshot)).unwrap();
    write(&mut volume, 512, 8192, Change::Write(200));
    write(&mut volume, CHUNK_BYTES, 4096, Change::Punch);
    let layer = volume.freeze().unwrap();
    write(&mut volume, 4096, 512, Change::Write(201));
    flush(&mut volume);
    let before = read(&mut volume, 0, usize::try_from(SIZE).unwrap());
    let snapshot = snapshot_of(&home, &files.frozen(&id, &standing, layer).unwrap());

    // Until the volume lets go of them, its lower layers cannot be deleted.
    let error = files.delete_below(&id, layer).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    volume.rebase(&snapshot, layer).unwrap();
    volume.rebase(&snapshot, layer).unwrap();
    files.delete_below(&id, layer).unwrap();
    assert_eq!(
        names(&home),
        [format!("{id}.1.bitmap"), format!("{id}.1.overlay")]
    );
    assert!(read(&mut volume, 0, before.len()) == before);
    write(&mut volume, 5120, 512, Change::Write(202));
    flush(&mut volume);
    let after = read(&mut volume, 0, before.len());
    drop(volume);

    let standing = Standing {
        size_bytes: SIZE + 4096,
        base: Some(snapshot),
        layer,
    };
    let mut volume = files.open(&id, &standing).unwrap();
    assert!(read(&mut volume, 0, after.len()) == after);
    assert_eq!(read(&mut volume, SIZE, 4096), [0; 4096]);
    drop(volume);
    files.delete(&id).unwrap();
    assert!(names(&home).is_empty());
}

#[test]
fn many_rebases_keep_no_descriptor() {
    let home = Home::new();
    let (files, id) = (home.volumes(), VolumeId::generate());
    let mut volume = files.create(&id, SIZE, None).unwrap();
    let mut standing = Standing::new(SIZE, None);
    let mut counts = Vec::new();
    for round in 1..=6u8 {
        write(&mut volume, CHUNK_BYTES, 512, Change::Write(round));
        let layer = volume.freeze().unwrap();
        volume.sync().unwrap();
        let snapshot = snapshot_of(&home, &files.frozen(&id, &standing, layer).unwrap());
        volume.rebase(&snapshot, layer).unwrap();
        (standing.base, standing.layer) = (Some(snapshot), layer);
        assert_eq!(read(&mut volume, CHUNK_BYTES, 512), [round; 512]);
        counts.push(volume.stack.files.open_count());
    }
    assert_eq!(counts[1..], [counts[1]; 5]);
}

/// A row may name a layer as the lowest only once that layer is durable; what a power cut leaves of
/// a layer that no flush has reached is no layer. Issue: a volume could not be opened where such a layer
/// lacked a file of its overlay before another one.
#[test]
fn layer_that_was_never_flushed_is_begun_anew() {
    let home = Home::new();
    let mut files = home.volumes();
    files.part_bytes = 3 * CHUNK_BYTES;
    let standing = Standing::new(SIZE, Some(home.snapshot));
    let spoil: [fn(&Home, &VolumeId); 5] = [
        |home, id| std::fs::remove_file(home.file(format!("{id}.1.overlay.1"))).unwrap(),
        |home, id| std::fs::remove_file(home.file(format!("{id}.1.bitmap"))).unwrap(),
        |home, id| std::fs::remove_file(home.file(format!("{id}.1.overlay"))).unwrap(),
        |home, id| drop(File::create(home.file(format!("{id}.1.bitmap"))).unwrap()),
        |home, id| {
            let file = File::create(home.file(format!("{id}.1.bitmap"))).unwrap();
            file.set_len(4096).unwrap();
        },
    ];
    for spoil in spoil {
        let id = VolumeId::generate();
        let mut volume = files.create(&id, SIZE, Some(&home.snapshot)).unwrap();
        write(&mut volume, 0, 512, Change::Write(9));
        flush(&mut volume);
        volume.freeze().unwrap();
        write(&mut volume, 512, 512, Change::Write(10));
        drop(volume);
        spoil(&home, &id);
        let mut volume = files.open(&id, &standing).unwrap();
        assert_eq!(read(&mut volume, 0, 512), [9; 512]);
        assert_eq!(read(&mut volume, 512, 512), home.content[512..1024]);
        assert_eq!(volume.freeze().unwrap(), 1);
        write(&mut volume, 512, 512, Change::Write(11));
        volume.sync().unwrap();
        drop(volume);
        let mut volume = files.open(&id, &standing).unwrap();
        assert_eq!(read(&mut volume, 512, 512), [11; 512]);
    }
}

/// Issue: a layer that had been flushed was deleted where a power cut had left a gap in the overlay that it had just
/// been grown by, and a volume of one layer could not be opened.
#[test]
fn gap_that_a_power_cut_leaves_of_a_growth_is_filled() {
    let home = Home::new();
    let mut files = home.volumes();
    files.part_bytes = 5 * CHUNK_BYTES;
    for (layers, base) in [
        (1, Some(home.snapshot)),
        (2, Some(home.snapshot)),
        (1, None),
    ] {
        let id = VolumeId::generate();
        let mut volume = files.create(&id, SIZE, base.as_ref()).unwrap();
        for _ in 1..layers {
            write(&mut volume, 512, 512, Change::Write(8));
            volume.freeze().unwrap();
        }
        write(&mut volume, 0, 512, Change::Write(9));
        volume.sync().unwrap();
        drop(volume);
        let standing = Standing::new(4 * SIZE, base);
        let mut volume = files.open(&id, &standing).unwrap();
        write(&mut volume, 3 * SIZE, 512, Change::Write(10));
        // Begun above it, and as little on the disk.
        volume.freeze().unwrap();
        drop(volume);
        let overlay = super::names::overlay(&home.path().join("volumes"), &id, layers - 1, 3);
        std::fs::remove_file(overlay).unwrap();
        let mut volume = files.open(&id, &standing).unwrap();
        assert_eq!(read(&mut volume, 0, 512), [9; 512]);
        assert_eq!(read(&mut volume, 4 * SIZE - 512, 512), [0; 512]);
        write(&mut volume, 15 * CHUNK_BYTES, 512, Change::Write(11));
        volume.sync().unwrap();
        drop(volume);
        let mut volume = files.open(&id, &standing).unwrap();
        assert_eq!(read(&mut volume, 15 * CHUNK_BYTES, 512), [11; 512]);
        assert_eq!(read(&mut volume, 0, 512), [9; 512]);
    }
}

/// As a partial restore leaves it: nothing may be deleted for that.
#[test]
fn layer_that_lacks_a_file_with_flushed_blocks_is_damaged_and_stays() {
    let home = Home::new();
    let mut files = home.volumes();
    files.part_bytes = 2 * CHUNK_BYTES;
    let standing = Standing::new(SIZE, Some(home.snapshot));
    for above in [false, true] {
        let id = VolumeId::generate();
        let mut volume = files.create(&id, SIZE, Some(&home.snapshot)).unwrap();
        write(&mut volume, 0, 512, Change::Write(8));
        assert_eq!(volume.freeze().unwrap(), 1);
        // What the missing file holds is what matters, but under a layer that was flushed.
        let at = if above { 0 } else { 3 * CHUNK_BYTES };
        write(&mut volume, at, 512, Change::Write(9));
        if above {
            assert_eq!(volume.freeze().unwrap(), 2);
            write(&mut volume, 0, 512, Change::Write(10));
        }
        volume.sync().unwrap();
        drop(volume);
        let gone = home.file(format!("{id}.1.overlay.1"));
        let kept = home.file("kept".to_owned());
        std::fs::rename(&gone, &kept).unwrap();
        let before = names(&home);
        let error = files.open(&id, &standing).unwrap_err();
        assert!(error.to_string().contains("it is missing"), "{error}");
        assert_eq!(names(&home), before);
        std::fs::rename(&kept, &gone).unwrap();
        let mut volume = files.open(&id, &standing).unwrap();
        let value = if above { 10 } else { 9 };
        assert_eq!(read(&mut volume, at, 512), [value; 512]);
    }
}

#[test]
fn damaged_layer_is_an_error_and_no_other_volume() {
    let home = Home::new();
    let (files, id) = (home.volumes(), VolumeId::generate());
    let standing = Standing::new(SIZE, Some(home.snapshot));
    drop(files.create(&id, SIZE, Some(&home.snapshot)).unwrap());
    files.freeze(&id, &standing).unwrap();
    let file = File::options()
        .write(true)
        .open(home.file(format!("{id}.1.bitmap")))
        .unwrap();
    let good = std::fs::read(home.file(format!("{id}.1.bitmap"))).unwrap();
    file.write_all_at(&[1], 70).unwrap();
    let error = files.open(&id, &standing).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
    bitmap::header(&id, 2, None)
        .write(&file, Path::new("bitmap"))
        .unwrap();
    let error = files.open(&id, &standing).unwrap_err();
    assert!(error.to_string().contains("another layer"), "{error}");
    // One that is longer than its volume says that it holds blocks beyond its end.
    file.write_all_at(&good, 0).unwrap();
    file.write_all_at(&[0xff; 8192], 4096).unwrap();
    let mut volume = files.open(&id, &standing).unwrap();
    assert_eq!(read(&mut volume, SIZE - 512, 512), [0; 512]);
    volume.freeze().unwrap();
    volume.sync().unwrap();
    let frozen = files.frozen(&id, &standing, 2).unwrap();
    assert_eq!(frozen.changed_chunks().unwrap().len(), 8);
    // The lowest layer is never taken for one that was not flushed.
    std::fs::remove_file(home.file(format!("{id}.1.bitmap"))).unwrap();
    drop(volume);
    let standing = Standing {
        layer: 1,
        ..standing
    };
    files.open(&id, &standing).unwrap_err();
    files.frozen(&id, &standing, 2).unwrap_err();
}

#[test]
fn sweep_and_delete_below_take_what_the_standing_does_not_count() {
    let home = Home::new();
    let (files, id) = (home.volumes(), VolumeId::generate());
    let mut volume = files.create(&id, SIZE, None).unwrap();
    for _ in 0..3 {
        write(&mut volume, 0, 512, Change::Write(1));
        volume.freeze().unwrap();
    }
    drop(volume);
    assert_eq!(names(&home).len(), 7);
    files.delete_below(&id, 1).unwrap();
    assert_eq!(names(&home).len(), 6);
    assert_eq!(files.sweep(&|_| Some(3)).unwrap(), 4);
    assert_eq!(
        names(&home),
        [format!("{id}.3.bitmap"), format!("{id}.3.overlay")]
    );
    files.delete(&id).unwrap();
    assert!(names(&home).is_empty());
}

#[test]
fn layers_of_16_tib_cost_what_is_written() {
    let home = Home::new();
    let (files, id) = (home.volumes(), VolumeId::generate());
    let size = 16 << 40;
    let standing = Standing::new(size, Some(home.snapshot));
    let mut volume = files.create(&id, size, Some(&home.snapshot)).unwrap();
    write(&mut volume, 0, 512, Change::Write(200));
    write(&mut volume, size - 512, 512, Change::Write(201));
    volume.freeze().unwrap();
    write(&mut volume, size - 1024, 512, Change::Write(202));
    volume.sync().unwrap();
    let frozen = files.frozen(&id, &standing, 1).unwrap();
    let last = size / CHUNK_BYTES - 1;
    assert_eq!(frozen.changed_chunks().unwrap(), [0, last]);
    let mut chunk = vec![0; usize::try_from(CHUNK_BYTES).unwrap()];
    frozen.read_chunk(last, &mut chunk).unwrap();
    assert_eq!(chunk[chunk.len() - 1024..], [[0; 512], [201; 512]].concat());
    let expected = [[202; 512], [201; 512]].concat();
    assert_eq!(read(&mut volume, size - 1024, 1024), expected);
    drop(volume);
    files.delete(&id).unwrap();
}

/// A layer ends where the volume did when it was begun, in the middle of a block here.
#[test]
fn volume_grown_above_a_layer_reads_as_zeroes_beyond_it() {
    let home = Home::new();
    let (files, id) = (home.volumes(), VolumeId::generate());
    let size = SIZE + 512;
    for base in [None, Some(home.snapshot)] {
        let id = if base.is_some() {
            VolumeId::generate()
        } else {
            id
        };
        let mut volume = files.create(&id, size, base.as_ref()).unwrap();
        write(&mut volume, SIZE, 512, Change::Write(9));
        volume.freeze().unwrap();
        volume.sync().unwrap();
        drop(volume);
        let standing = Standing::new(SIZE + CHUNK_BYTES, base);
        let mut volume = files.open(&id, &standing).unwrap();
        let end = usize::try_from(CHUNK_BYTES).unwrap();
        let mut expected = vec![0; end];
        expected[..512].fill(9);
        assert!(read(&mut volume, SIZE, end) == expected);
        write(&mut volume, SIZE + 1024, 512, Change::Write(10));
        expected[1024..1536].fill(10);
        assert!(read(&mut volume, SIZE, end) == expected);
        volume.freeze().unwrap();
        volume.sync().unwrap();
        let frozen = files.frozen(&id, &standing, 2).unwrap();
        assert!(content(&frozen)[usize::try_from(SIZE).unwrap()..] == expected);
    }
}

/// Issue: a read across such a layer's end failed, for its rest began off a sector.
#[test]
fn layer_of_an_odd_size_has_no_direct_io() {
    let home = Home::new();
    let (files, id) = (home.volumes(), VolumeId::generate());
    let odd = SIZE + 100;
    let mut volume = files.create(&id, odd, None).unwrap();
    write(&mut volume, 0, 512, Change::Write(9));
    volume.freeze().unwrap();
    volume.sync().unwrap();
    drop(volume);
    let mut volume = files.open(&id, &Standing::new(2 * SIZE, None)).unwrap();
    let error = volume.bypass_cache().unwrap_err();
    assert!(
        matches!(error, Error::DirectIoSize { size_bytes } if size_bytes == odd),
        "{error}"
    );
}
