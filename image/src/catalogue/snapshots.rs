//! The rows of snapshots, of their segments, and of the chunks that later snapshots may share.

use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Catalogue, Error, to_millis};
use crate::chunk::{ChunkIndex, ChunkPlace, Digest, StoredChunk};
use crate::id::SnapshotId;

/// A snapshot to be added.
#[derive(Debug)]
pub struct SnapshotRecord<'a> {
    pub id: SnapshotId,
    pub size_bytes: u64,
    pub stored_bytes: u64,
    pub description: &'a str,
    /// Those that it was first to store.
    pub chunks: &'a [StoredChunk],
}

impl Catalogue {
    /// The snapshot's size in bytes.
    pub(crate) fn snapshot_size(&self, id: &SnapshotId) -> Result<Option<u64>, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT size_bytes FROM snapshots WHERE id = ?1")?
                .query_row([id.to_string()], |row| row.get(0))
                .optional()
        };
        self.sqlite(query())
    }

    pub(crate) fn add_snapshot(&self, snapshot: &SnapshotRecord<'_>) -> Result<(), Error> {
        let add = || {
            self.connection
                .prepare_cached(
                    "INSERT INTO snapshots (id, size_bytes, stored_bytes, created, completed, description)
                     VALUES (?1, ?2, ?3, ?4, ?4, ?5)",
                )?
                .execute(params![
                    snapshot.id.to_string(),
                    snapshot.size_bytes,
                    snapshot.stored_bytes,
                    to_millis(SystemTime::now()),
                    snapshot.description,
                ])?;
            add_chunks(&self.connection, snapshot.chunks)
        };
        self.sqlite(add())
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
}

/// Another snapshot may have stored the same content meanwhile: then the first one stays the one
/// to share, and the other's segment is still needed by its own snapshot.
fn add_chunks(connection: &Connection, chunks: &[StoredChunk]) -> rusqlite::Result<()> {
    let mut segments = std::collections::BTreeSet::new();
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
