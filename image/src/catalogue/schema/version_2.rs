//! What version 2 knows more of a store than its rows told: which segments each snapshot needs,
//! from the snapshots' tables, and what listings ask of images, from their documents.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::{Connection, params};

use crate::chunk::CHUNK_BYTES;
use crate::chunk::table::Table;
use crate::id::SnapshotId;

pub(super) fn fill(connection: &Connection, home: &Path) -> rusqlite::Result<()> {
    fill_snapshots(connection, &home.join("snapshots"))?;
    // Whatever a manifest said, no image has been made public yet.
    connection.execute_batch(
        "INSERT OR REPLACE INTO tags (resource, key, value)
            SELECT images.id, document ->> (fullkey || '.Key'),
                coalesce(document ->> (fullkey || '.Value'), '')
            FROM images, json_each(document, '$.Tags')
            WHERE document ->> (fullkey || '.Key') IS NOT NULL;
         UPDATE images SET
            architecture = coalesce(document ->> 'Architecture', ''),
            state = coalesce(document ->> 'State', 'available'),
            created = coalesce(unixepoch(document ->> 'CreationDate') * 1000, 0),
            deprecated = unixepoch(document ->> 'DeprecationTime') * 1000,
            document = json_set(json_remove(document, '$.Tags', '$.LastLaunchedTime'),
                '$.Public', json('false'));",
    )
}

fn fill_snapshots(connection: &Connection, folder: &Path) -> rusqlite::Result<()> {
    let ids: Vec<String> = connection
        .prepare("SELECT id FROM snapshots")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in ids {
        let (segments, chunks) = match needs(folder, &id) {
            Some(needs) => needs,
            // A damaged table: nothing that it may need is ever taken for spare.
            None => (all_segments(connection)?, 0),
        };
        let mut add = connection.prepare_cached(
            "INSERT INTO snapshot_segments (snapshot, segment)
             SELECT ?1, id FROM segments WHERE id = ?2",
        )?;
        for segment in segments {
            add.execute(params![id, segment])?;
        }
        connection
            .prepare_cached("UPDATE snapshots SET full_bytes = ?2 WHERE id = ?1")?
            .execute(params![id, chunks * CHUNK_BYTES])?;
    }
    Ok(())
}

/// The segments that the snapshot's table names, and the number of its chunks.
fn needs(folder: &Path, id: &str) -> Option<(BTreeSet<i64>, u64)> {
    let id: SnapshotId = id.parse().ok()?;
    let table = Table::open(folder, &id).ok()?;
    let (mut segments, mut chunks) = (BTreeSet::new(), 0);
    table
        .each_chunk(&mut |_, chunk| {
            segments.insert(chunk.place.segment.cast_signed());
            chunks += 1;
            Ok(())
        })
        .ok()?;
    Some((segments, chunks))
}

fn all_segments(connection: &Connection) -> rusqlite::Result<BTreeSet<i64>> {
    connection
        .prepare_cached("SELECT id FROM segments")?
        .query_map([], |row| row.get(0))?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::{Catalogue, FILE_NAME};
    use super::super::VERSION_1;

    const ROWS: &str = r#"
        INSERT INTO segments VALUES (-7);
        INSERT INTO snapshots VALUES ('snap-1', 5, 4096, 17, 'old');
        INSERT INTO images VALUES ('ami-1', '000000000000', 'old',
            '{"ImageId":"ami-1","Architecture":"arm64","CreationDate":"2026-01-02T03:04:05.000Z",
             "Public":true,"Tags":[{"Key":"env","Value":"test"},{"Key":"bare"},"bad"]}');
        INSERT INTO image_snapshots VALUES ('ami-1', 'snap-1');
        INSERT INTO instances VALUES ('i-1', NULL, 'ami-1', 'old', 'stopped', NULL, 0, 17, 18, 1,
            1048576, NULL, 0);
        INSERT INTO volumes VALUES ('vol-1', 'i-1', 0, '/dev/sda1', NULL, 'snap-1', 5, 'gp3', 1, 17);
        INSERT INTO volumes VALUES ('vol-2', NULL, 1, '/dev/sdb', NULL, NULL, 5, 'gp3', 0, 17);
        PRAGMA user_version = 1;
    "#;

    /// Each row under the columns of `query`, as SQLite writes them.
    fn rows(catalogue: &Catalogue, query: &str) -> String {
        let query = format!("SELECT group_concat(row, '; ') FROM ({query})");
        let rows: Option<String> = catalogue
            .connection
            .query_row(&query, [], |row| row.get(0))
            .unwrap();
        rows.unwrap_or_default()
    }

    #[test]
    fn version_1_is_upgraded_with_what_its_files_and_documents_tell() {
        let home = tempfile::tempdir().unwrap();
        let old = rusqlite::Connection::open(home.path().join(FILE_NAME)).unwrap();
        old.execute_batch(VERSION_1).unwrap();
        old.execute_batch(ROWS).unwrap();
        drop(old);

        let catalogue = Catalogue::open(home.path()).unwrap();
        let rows = |query| rows(&catalogue, query);
        assert_eq!(
            rows("SELECT id || owner || completed || deleted AS row FROM snapshots"),
            "snap-1000000000000170"
        );
        // Its table cannot be read.
        assert_eq!(
            rows("SELECT snapshot || segment AS row FROM snapshot_segments"),
            "snap-1-7"
        );
        assert_eq!(
            rows("SELECT architecture || ' ' || state || ' ' || created AS row FROM images"),
            "arm64 available 1767323045000"
        );
        assert_eq!(
            rows(
                "SELECT (document ->> 'Public') || (document ->> 'Tags' IS NULL) AS row FROM images"
            ),
            "01"
        );
        assert_eq!(
            rows("SELECT resource || ' ' || key || '=' || value AS row FROM tags ORDER BY key"),
            "ami-1 bare=; ami-1 env=test"
        );
        assert_eq!(
            rows("SELECT reservation || settings AS row FROM instances"),
            "r-1{}"
        );
        assert_eq!(
            rows(
                "SELECT id || ' ' || coalesce(snapshot, '') || ' ' || coalesce(base, '') || ' '
                    || layer || ' ' || coalesce(attached, '') || ' ' || device_name AS row
                 FROM volumes ORDER BY id"
            ),
            "vol-1 snap-1 snap-1 0 17 /dev/sda1; vol-2   0  /dev/sdb"
        );
        let broken = catalogue
            .connection
            .prepare("PRAGMA foreign_key_check")
            .unwrap()
            .exists([])
            .unwrap();
        assert!(!broken);
    }
}
