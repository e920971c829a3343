//! The rows of snapshots, of their segments, and of the chunks that later snapshots may share.
//!
//! A deleted snapshot keeps its rows until nothing stands on it and nobody writes or reads
//! snapshots (`store::reclaim`); it is hidden meanwhile.

use std::collections::BTreeSet;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Catalogue, Error, from_millis, ids_from, parsed, parsed_or_null, to_millis};
use crate::account::Account;
use crate::chunk::{ChunkIndex, ChunkPlace, Digest, StoredChunk};
use crate::id::{ImageId, SnapshotId, VolumeId};

/// A snapshot to be added. Whoever adds one has held [`crate::snapshot::Hold`] since before its
/// content was looked up, so nothing that it shares was deleted.
#[derive(Debug)]
pub(crate) struct NewSnapshot<'a> {
    pub(crate) id: SnapshotId,
    pub(crate) owner: Account,
    /// The volume that it was made of.
    pub(crate) volume: Option<VolumeId>,
    pub(crate) size_bytes: u64,
    /// What it was first to store.
    pub(crate) stored_bytes: u64,
    /// All of its chunks.
    pub(crate) full_bytes: u64,
    pub(crate) description: &'a str,
    pub(crate) started: SystemTime,
    /// Those that it was first to store.
    pub(crate) chunks: &'a [StoredChunk],
    /// Every segment that its table names.
    pub(crate) segments: &'a BTreeSet<u64>,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    pub id: SnapshotId,
    pub owner: Account,
    /// The volume that it was made of, which may be gone; none for one that was imported.
    pub volume: Option<VolumeId>,
    pub size_bytes: u64,
    /// New content when it was written.
    pub stored_bytes: u64,
    /// All of its chunks, shared or not.
    pub full_bytes: u64,
    pub description: String,
    pub started: SystemTime,
    pub completed: Option<SystemTime>,
    /// `store check --repair` found that content of it is lost.
    pub damaged: bool,
}

pub(super) const COLUMNS: &str = "SELECT id, owner, volume, size_bytes, stored_bytes, full_bytes, description, \
    created, completed, damaged FROM snapshots";

impl Catalogue {
    /// Every snapshot, oldest first.
    pub(crate) fn snapshots(&self) -> Result<Vec<SnapshotRecord>, Error> {
        let query = || {
            self.connection
                .prepare_cached(&format!("{COLUMNS} WHERE NOT deleted ORDER BY created, id"))?
                .query_map([], record)?
                .collect()
        };
        self.sqlite(query())
    }

    pub(crate) fn snapshot(&self, id: &SnapshotId) -> Result<Option<SnapshotRecord>, Error> {
        let query = || {
            self.connection
                .prepare_cached(&format!("{COLUMNS} WHERE id = ?1 AND NOT deleted"))?
                .query_row([id.to_string()], record)
                .optional()
        };
        self.sqlite(query())
    }

    /// The first two ids that begin with `prefix`.
    pub(crate) fn snapshot_ids_from(&self, prefix: &str) -> Result<Vec<SnapshotId>, Error> {
        let query = "SELECT id FROM snapshots WHERE id >= ?1 AND id < ?2 AND NOT deleted LIMIT 2";
        self.sqlite(ids_from(&self.connection, query, prefix))
    }

    /// The snapshot's size in bytes.
    pub(crate) fn snapshot_size(&self, id: &SnapshotId) -> Result<Option<u64>, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT size_bytes FROM snapshots WHERE id = ?1 AND NOT deleted")?
                .query_row([id.to_string()], |row| row.get(0))
                .optional()
        };
        self.sqlite(query())
    }

    /// Whether the snapshot's table is needed: it may be deleted, and volumes stand on it.
    pub(crate) fn has_table(&self, id: &SnapshotId) -> Result<bool, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1")?
                .exists([id.to_string()])
        };
        self.sqlite(query())
    }

    pub(crate) fn add_snapshot(&self, snapshot: &NewSnapshot<'_>) -> Result<(), Error> {
        let add = || {
            self.connection
                .prepare_cached(
                    "INSERT INTO snapshots (id, owner, volume, size_bytes, stored_bytes, full_bytes,
                     created, completed, description) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                )?
                .execute(params![
                    snapshot.id.to_string(),
                    snapshot.owner.to_string(),
                    snapshot.volume.map(|id| id.to_string()),
                    snapshot.size_bytes,
                    snapshot.stored_bytes,
                    snapshot.full_bytes,
                    to_millis(snapshot.started),
                    to_millis(SystemTime::now()),
                    snapshot.description,
                ])?;
            add_chunks(&self.connection, snapshot.chunks)?;
            // A segment without a row would be one that was deleted: the foreign key refuses it.
            let mut add = self.connection.prepare_cached(
                "INSERT INTO snapshot_segments (snapshot, segment) VALUES (?1, ?2)",
            )?;
            for segment in snapshot.segments {
                add.execute(params![snapshot.id.to_string(), segment.cast_signed()])?;
            }
            Ok(())
        };
        self.sqlite(add())
    }

    /// Has the volume stand on the snapshot, its layers from `layer` on being over it.
    pub(crate) fn rebase_volume(
        &self,
        volume: &VolumeId,
        snapshot: &SnapshotId,
        layer: u32,
    ) -> Result<(), Error> {
        let update = || {
            self.connection
                .prepare_cached("UPDATE volumes SET base = ?2, layer = ?3 WHERE id = ?1")?
                .execute(params![volume.to_string(), snapshot.to_string(), layer])
        };
        self.sqlite(update()).map(|_| ())
    }

    /// Whether a snapshot needs this file of `segments/`.
    pub(crate) fn has_segment(&self, segment: u64) -> Result<bool, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT 1 FROM segments WHERE id = ?1")?
                .exists([segment.cast_signed()])
        };
        self.sqlite(query())
    }

    /// The images that name the snapshot.
    pub(crate) fn images_of_snapshot(&self, id: &SnapshotId) -> Result<Vec<ImageId>, Error> {
        let query = || {
            self.connection
                .prepare_cached(
                    "SELECT image FROM image_snapshots WHERE snapshot = ?1 ORDER BY image",
                )?
                .query_map([id.to_string()], |row| parsed(row, 0))?
                .collect()
        };
        self.sqlite(query())
    }

    /// Hides the snapshot; [`Catalogue::remove_snapshots`] ends it. Whether there was one.
    pub(crate) fn mark_snapshot_deleted(&self, id: &SnapshotId) -> Result<bool, Error> {
        let update = || {
            let id = id.to_string();
            self.connection
                .prepare_cached("DELETE FROM tags WHERE resource = ?1")?
                .execute([&id])?;
            self.connection
                .prepare_cached("UPDATE snapshots SET deleted = 1 WHERE id = ?1 AND NOT deleted")?
                .execute([&id])
        };
        Ok(self.sqlite(update())? > 0)
    }

    /// The deleted snapshots that no volume stands on.
    pub(crate) fn released_snapshots(&self) -> Result<Vec<SnapshotId>, Error> {
        let query = || {
            self.connection
                .prepare_cached(
                    "SELECT id FROM snapshots WHERE deleted
                     AND NOT EXISTS (SELECT 1 FROM volumes WHERE base = snapshots.id)",
                )?
                .query_map([], |row| parsed(row, 0))?
                .collect()
        };
        self.sqlite(query())
    }

    /// Removes the rows of deleted snapshots that no volume stands on, leaving the segments that
    /// they needed spare.
    pub(crate) fn remove_snapshots(&self, ids: &[SnapshotId]) -> Result<(), Error> {
        let remove = || {
            for id in ids {
                let id = id.to_string();
                self.connection
                    .prepare_cached(
                        "UPDATE segments SET spare = spare + 1 WHERE id IN
                         (SELECT segment FROM snapshot_segments WHERE snapshot = ?1)",
                    )?
                    .execute([&id])?;
                self.connection
                    .prepare_cached("DELETE FROM snapshot_segments WHERE snapshot = ?1")?
                    .execute([&id])?;
                self.connection
                    .prepare_cached("DELETE FROM snapshots WHERE id = ?1")?
                    .execute([&id])?;
            }
            Ok(())
        };
        self.sqlite(remove())
    }

    /// The segments that may hold chunks that nobody needs, each with how often it was said so.
    pub(crate) fn spare_segments(&self) -> Result<Vec<(u64, i64)>, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT id, spare FROM segments WHERE spare > 0")?
                .query_map([], |row| {
                    Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?))
                })?
                .collect()
        };
        self.sqlite(query())
    }

    /// The snapshots, deleted ones too, that have chunks in the segment.
    pub(crate) fn snapshots_of_segment(&self, segment: u64) -> Result<Vec<SnapshotId>, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT snapshot FROM snapshot_segments WHERE segment = ?1")?
                .query_map([segment.cast_signed()], |row| parsed(row, 0))?
                .collect()
        };
        self.sqlite(query())
    }

    /// In how many segments the snapshot has chunks.
    pub(crate) fn count_segments(&self, id: &SnapshotId) -> Result<usize, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT count(*) FROM snapshot_segments WHERE snapshot = ?1")?
                .query_row([id.to_string()], |row| row.get(0))
        };
        self.sqlite(query())
    }

    /// The offsets of the segment's chunks that may be shared, ascending.
    pub(crate) fn chunks_of_segment(&self, segment: u64) -> Result<Vec<u64>, Error> {
        let query = || {
            self.connection
                .prepare_cached(
                    "SELECT byte_offset FROM chunks WHERE segment = ?1 ORDER BY byte_offset",
                )?
                .query_map([segment.cast_signed()], |row| row.get(0))?
                .collect()
        };
        self.sqlite(query())
    }

    /// Has nobody share what lies there any more.
    pub(crate) fn remove_chunk(&self, place: ChunkPlace) -> Result<(), Error> {
        let delete = || {
            self.connection
                .prepare_cached("DELETE FROM chunks WHERE segment = ?1 AND byte_offset = ?2")?
                .execute(params![place.segment.cast_signed(), place.offset])
        };
        self.sqlite(delete()).map(|_| ())
    }

    /// The segment must have no chunks and no snapshots any more.
    pub(crate) fn remove_segment(&self, segment: u64) -> Result<(), Error> {
        let delete = || {
            self.connection
                .prepare_cached("DELETE FROM segments WHERE id = ?1")?
                .execute([segment.cast_signed()])
        };
        self.sqlite(delete()).map(|_| ())
    }

    /// What was spare in the segment is gone, unless it was said anew since `spare` was read.
    pub(crate) fn clear_spare(&self, segment: u64, spare: i64) -> Result<(), Error> {
        let update = || {
            self.connection
                .prepare_cached("UPDATE segments SET spare = 0 WHERE id = ?1 AND spare = ?2")?
                .execute(params![segment.cast_signed(), spare])
        };
        self.sqlite(update()).map(|_| ())
    }
}

pub(super) fn record(row: &rusqlite::Row<'_>) -> rusqlite::Result<SnapshotRecord> {
    Ok(SnapshotRecord {
        id: parsed(row, 0)?,
        owner: parsed(row, 1)?,
        volume: parsed_or_null(row, 2)?,
        size_bytes: row.get(3)?,
        stored_bytes: row.get(4)?,
        full_bytes: row.get(5)?,
        description: row.get(6)?,
        started: from_millis(row.get(7)?),
        completed: row.get::<_, Option<i64>>(8)?.map(from_millis),
        damaged: row.get(9)?,
    })
}

/// Another snapshot may have stored the same content meanwhile: then the first one stays the one
/// to share, and the other's segment is still needed by its own snapshot.
fn add_chunks(connection: &Connection, chunks: &[StoredChunk]) -> rusqlite::Result<()> {
    let mut segments = BTreeSet::new();
    let mut add_segment =
        connection.prepare_cached("INSERT OR IGNORE INTO segments (id) VALUES (?1)")?;
    let mut add_chunk = connection.prepare_cached(
        "INSERT OR IGNORE INTO chunks (digest, segment, byte_offset) VALUES (?1, ?2, ?3)",
    )?;
    for chunk in chunks {
        // Segment numbers use all 64 bits; SQLite's integers have a sign.
        let segment = chunk.place.segment.cast_signed();
        if segments.insert(segment) {
            add_segment.execute([segment])?;
        }
        add_chunk.execute(params![chunk.digest.0, segment, chunk.place.offset])?;
    }
    Ok(())
}

impl ChunkIndex for Catalogue {
    fn find(
        &self,
        digest: &Digest,
    ) -> Result<Option<ChunkPlace>, Box<dyn std::error::Error + Send + Sync>> {
        let query = || {
            self.connection
                .prepare_cached("SELECT segment, byte_offset FROM chunks WHERE digest = ?1")?
                .query_row([digest.0], |row| {
                    Ok(ChunkPlace {
                        segment: row.get::<_, i64>(0)?.cast_unsigned(),
                        offset: row.get(1)?,
                    })
                })
                .optional()
        };
        Ok(self.sqlite(query())?)
    }
}
