//! What a check of the store asks: whole tables, read at one moment.

use std::collections::BTreeSet;

use rusqlite::{Transaction, TransactionBehavior, params};

use super::{Catalogue, Error, parsed};
use crate::chunk::{ChunkPlace, Digest, StoredChunk};
use crate::id::SnapshotId;

/// A row of `snapshots`, deleted or not.
#[derive(Clone, Debug)]
pub(crate) struct CheckedSnapshot {
    pub(crate) id: SnapshotId,
    pub(crate) size_bytes: u64,
    pub(crate) damaged: bool,
    /// What `snapshot_segments` says.
    pub(crate) segments: BTreeSet<u64>,
}

impl Catalogue {
    /// Begins a transaction in which everything is read as it was at one moment.
    pub(crate) fn reading(&self) -> Result<Transaction<'_>, Error> {
        self.sqlite(Transaction::new_unchecked(
            &self.connection,
            TransactionBehavior::Deferred,
        ))
    }

    /// What SQLite finds wrong with its own file and with references between rows.
    pub(crate) fn integrity(&self) -> Result<Vec<String>, Error> {
        let query = || {
            let mut problems: Vec<String> = self
                .connection
                .prepare("PRAGMA integrity_check")?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            problems.retain(|line| line != "ok");
            let broken: Vec<String> = self
                .connection
                .prepare("PRAGMA foreign_key_check")?
                .query_map([], |row| {
                    let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
                    Ok(format!("a row of {table} names no row of {parent}"))
                })?
                .collect::<rusqlite::Result<_>>()?;
            problems.extend(broken);
            Ok(problems)
        };
        self.sqlite(query())
    }

    pub(crate) fn snapshots_to_check(&self) -> Result<Vec<CheckedSnapshot>, Error> {
        let query = || {
            let mut segments = self
                .connection
                .prepare("SELECT segment FROM snapshot_segments WHERE snapshot = ?1")?;
            self.connection
                .prepare("SELECT id, size_bytes, damaged FROM snapshots ORDER BY created, id")?
                .query_map([], |row| {
                    let id: SnapshotId = parsed(row, 0)?;
                    let segments = segments
                        .query_map([id.to_string()], |row| row.get(0).map(i64::cast_unsigned))?;
                    Ok(CheckedSnapshot {
                        id,
                        size_bytes: row.get(1)?,
                        damaged: row.get(2)?,
                        segments: segments.collect::<rusqlite::Result<_>>()?,
                    })
                })?
                .collect()
        };
        self.sqlite(query())
    }

    pub(crate) fn segments(&self) -> Result<BTreeSet<u64>, Error> {
        let query = || {
            self.connection
                .prepare("SELECT id FROM segments")?
                .query_map([], |row| row.get(0).map(i64::cast_unsigned))?
                .collect()
        };
        self.sqlite(query())
    }

    /// Everything that may be shared.
    pub(crate) fn shared_chunks(&self) -> Result<Vec<StoredChunk>, Error> {
        let query = || {
            self.connection
                .prepare("SELECT digest, segment, byte_offset FROM chunks")?
                .query_map([], |row| {
                    let place = ChunkPlace {
                        segment: row.get::<_, i64>(1)?.cast_unsigned(),
                        offset: row.get(2)?,
                    };
                    let digest = Digest(row.get(0)?);
                    Ok(StoredChunk { digest, place })
                })?
                .collect()
        };
        self.sqlite(query())
    }

    pub(crate) fn mark_snapshot_damaged(&self, id: &SnapshotId) -> Result<(), Error> {
        let update = || {
            self.connection
                .prepare_cached("UPDATE snapshots SET damaged = 1 WHERE id = ?1")?
                .execute([id.to_string()])
        };
        self.sqlite(update()).map(|_| ())
    }

    /// Writes down that the snapshot has chunks in the segment.
    pub(crate) fn add_snapshot_segment(&self, id: &SnapshotId, segment: u64) -> Result<(), Error> {
        let insert = || {
            self.connection
                .prepare_cached(
                    "INSERT OR IGNORE INTO snapshot_segments (snapshot, segment)
                     SELECT ?1, id FROM segments WHERE id = ?2",
                )?
                .execute(params![id.to_string(), segment.cast_signed()])
        };
        self.sqlite(insert()).map(|_| ())
    }
}
