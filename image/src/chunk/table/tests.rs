use super::*;

fn chunk(number: u64) -> StoredChunk {
    StoredChunk {
        digest: Digest::of(&number.to_le_bytes()),
        place: ChunkPlace {
            segment: !number,
            offset: (number + 1) * CHUNK_BYTES,
        },
    }
}

/// A table whose chunks at `indices` are stored.
fn table(size_bytes: u64, indices: &[u64]) -> (tempfile::TempDir, SnapshotId) {
    let folder = tempfile::tempdir().unwrap();
    let id = SnapshotId::generate();
    let file = File::create(path(folder.path(), &id)).unwrap();
    let mut writer = TableWriter::new(&file, folder.path(), &id, size_bytes).unwrap();
    for &index in indices {
        writer.put(index, &chunk(index)).unwrap();
    }
    writer.finish().unwrap();
    (folder, id)
}

#[test]
fn entries_come_back_and_holes_are_zero_chunks() {
    let indices = [0, 1, 63, 64, 1000, 1001, 2047];
    let (folder, id) = table(1 << 30, &indices);
    let mut table = Table::open(folder.path(), &id).unwrap();
    assert_eq!(table.size_bytes(), 1 << 30);
    for index in 0..2050 {
        let expected = indices.contains(&index).then(|| chunk(index));
        assert_eq!(table.chunk(index).unwrap(), expected, "{index}");
    }
    let mut seen = Vec::new();
    table
        .each_chunk(&mut |index, it| {
            assert_eq!(it, chunk(index));
            seen.push(index);
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, indices);
    table.check().unwrap();
}

#[test]
fn table_of_64_tib_is_sparse() {
    use std::os::unix::fs::MetadataExt;
    let last = chunks_of(MAX_SIZE_BYTES) - 1;
    let (folder, id) = table(MAX_SIZE_BYTES, &[0, last]);
    let mut table = Table::open(folder.path(), &id).unwrap();
    assert_eq!(table.chunk(last).unwrap(), Some(chunk(last)));
    assert_eq!(table.chunk(last - 64).unwrap(), None);
    let blocks = std::fs::metadata(path(folder.path(), &id))
        .unwrap()
        .blocks();
    assert!(blocks * 512 <= 64 * 1024, "{blocks} blocks");
    let mut seen = 0;
    table
        .each_chunk(&mut |_, _| {
            seen += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, 2);
}

#[test]
fn every_changed_byte_of_an_entry_is_refused() {
    let (folder, id) = table(1 << 30, &[70]);
    let path = path(folder.path(), &id);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let start = HEADER_BYTES + 70 * ENTRY_BYTES;
    for at in start..start + ENTRY_BYTES {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
        let error = Table::open(folder.path(), &id)
            .unwrap()
            .chunk(70)
            .unwrap_err();
        assert!(
            matches!(error, Error::CorruptEntry { index: 70, .. }),
            "{error}"
        );
        file.write_all_at(&byte, at).unwrap();
    }
    Table::open(folder.path(), &id).unwrap().chunk(70).unwrap();
}

#[test]
fn entry_moved_to_another_index_is_refused() {
    let (folder, id) = table(1 << 30, &[70]);
    let file = File::options()
        .read(true)
        .write(true)
        .open(path(folder.path(), &id))
        .unwrap();
    let mut entry = [0; ENTRY_LEN];
    file.read_exact_at(&mut entry, HEADER_BYTES + 70 * ENTRY_BYTES)
        .unwrap();
    file.write_all_at(&entry, HEADER_BYTES + 71 * ENTRY_BYTES)
        .unwrap();
    let error = Table::open(folder.path(), &id)
        .unwrap()
        .chunk(71)
        .unwrap_err();
    assert!(matches!(error, Error::CorruptEntry { index: 71, .. }));
}

#[test]
fn lost_leaf_is_found_by_the_check() {
    let (folder, id) = table(1 << 30, &[1, 70]);
    let file = File::options()
        .write(true)
        .open(path(folder.path(), &id))
        .unwrap();
    file.write_all_at(&[0; LEAF_LEN], HEADER_BYTES + LEAF_BYTES)
        .unwrap();
    let error = Table::open(folder.path(), &id)
        .unwrap()
        .check()
        .unwrap_err();
    assert!(error.to_string().contains("lost"), "{error}");
}

#[test]
fn another_snapshots_table_and_a_truncated_one_are_refused() {
    let (folder, id) = table(1 << 30, &[1]);
    let other = SnapshotId::generate();
    std::fs::copy(path(folder.path(), &id), path(folder.path(), &other)).unwrap();
    let error = Table::open(folder.path(), &other).unwrap_err();
    assert!(error.to_string().contains("another snapshot"), "{error}");

    let file = File::options()
        .write(true)
        .open(path(folder.path(), &id))
        .unwrap();
    file.set_len(HEADER_BYTES + LEAF_BYTES).unwrap();
    let error = Table::open(folder.path(), &id).unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
}
