//! The catalogue's tables, and how older ones become them.
//!
//! `user_version` counts the scripts that were run. A catalogue with a higher count than is known
//! here is not touched. Ids are texts, so that a person can read the tables.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{Error, connect};

/// Each script brings a catalogue from the version of its index to the next.
const MIGRATIONS: &[&str] = &[VERSION_1];

/// The version that this code knows.
#[expect(clippy::cast_possible_wrap, reason = "a handful of scripts")]
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

const VERSION_1: &str = "
    -- A snapshot's content is the file of its name in snapshots/.
    CREATE TABLE snapshots (
        id TEXT PRIMARY KEY,
        size_bytes INTEGER NOT NULL,
        stored_bytes INTEGER NOT NULL,
        created INTEGER NOT NULL,
        description TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- The files in segments/ that snapshots need.
    CREATE TABLE segments (
        id INTEGER PRIMARY KEY
    ) STRICT;

    -- Where the next snapshot finds content that is stored already.
    CREATE TABLE chunks (
        digest BLOB PRIMARY KEY,
        segment INTEGER NOT NULL REFERENCES segments (id),
        byte_offset INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- The document is the image as EC2 would show it, in JSON.
    CREATE TABLE images (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        document TEXT NOT NULL,
        UNIQUE (name, owner)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE image_snapshots (
        image TEXT NOT NULL REFERENCES images (id),
        snapshot TEXT NOT NULL REFERENCES snapshots (id),
        PRIMARY KEY (image, snapshot)
    ) STRICT, WITHOUT ROWID;

    -- Kernels and RAM disks; the content is the file of its id in kernels/.
    CREATE TABLE kernels (
        id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        name TEXT,
        architecture TEXT,
        digest BLOB NOT NULL,
        size_bytes INTEGER NOT NULL,
        created INTEGER NOT NULL,
        UNIQUE (kind, digest),
        UNIQUE (kind, name)
    ) STRICT, WITHOUT ROWID;

    -- The image may be gone while its instances live on.
    CREATE TABLE instances (
        id TEXT PRIMARY KEY,
        name TEXT UNIQUE,
        image TEXT NOT NULL,
        image_name TEXT NOT NULL,
        state TEXT NOT NULL,
        state_reason TEXT,
        exit_status INTEGER,
        launched INTEGER NOT NULL,
        ended INTEGER,
        cpus INTEGER NOT NULL,
        memory_bytes INTEGER NOT NULL,
        pid INTEGER,
        remove_at_end INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- A volume's content is the files of its id in volumes/. Ephemeral disks are volumes with a
    -- number. Without an instance: one that has survived it.
    CREATE TABLE volumes (
        id TEXT PRIMARY KEY,
        instance TEXT REFERENCES instances (id),
        position INTEGER NOT NULL,
        device_name TEXT NOT NULL,
        ephemeral INTEGER,
        snapshot TEXT REFERENCES snapshots (id),
        size_bytes INTEGER NOT NULL,
        volume_type TEXT,
        delete_on_termination INTEGER NOT NULL,
        created INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX volumes_by_instance ON volumes (instance);
";

/// How many scripts the catalogue has seen; 0 for an empty file.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Brings the catalogue at `path` to [`VERSION`], creating it where it is missing.
pub(super) fn create_or_migrate(home: &Path, path: &Path) -> Result<(), Error> {
    // SQLite does not wait for a lock when it changes the journal mode: one process at a time.
    let lock_path = home.join("catalogue.lock");
    let failed = |source| Error::Io {
        action: "lock",
        path: lock_path.clone(),
        source,
    };
    let lock = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&lock_path)
        .map_err(failed)?;
    lock.lock().map_err(failed)?;

    let sqlite = |source| Error::Sqlite {
        path: path.to_owned(),
        source,
    };
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_CREATE).map_err(sqlite)?;
    let found = version(&connection).map_err(sqlite)?;
    let todo = usize::try_from(found)
        .ok()
        .and_then(|found| MIGRATIONS.get(found..))
        .ok_or_else(|| Error::Newer {
            path: path.to_owned(),
            found,
            known: VERSION,
        })?;
    migrate(&mut connection, todo).map_err(sqlite)
}

fn migrate(connection: &mut Connection, todo: &[&str]) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for script in todo {
        transaction.execute_batch(script)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}
