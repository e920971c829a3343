//! The catalogue's tables, and how older ones become them.
//!
//! `user_version` counts the scripts that were run. A catalogue with a higher count than is known
//! here is not touched. Ids are texts, so that a person can read the tables.

mod version_2;

use std::path::Path;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{Error, connect};

/// Each script brings a catalogue from the version of its index to the next.
const MIGRATIONS: &[Migration] = &[
    Migration {
        script: VERSION_1,
        fill: |_, _| Ok(()),
    },
    Migration {
        script: VERSION_2,
        fill: version_2::fill,
    },
];

/// What brings a catalogue to the next version, in one transaction with all the others.
struct Migration {
    script: &'static str,
    /// Called after the script, with the folder of the store: what only its files can tell.
    fill: fn(&Connection, &Path) -> rusqlite::Result<()>,
}

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

const VERSION_2: &str = "
    -- The tags of every kind of object, by its id.
    CREATE TABLE tags (
        resource TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (resource, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tags_by_key ON tags (key, value);

    -- Deleted: hidden, and kept for the volumes that stand on it. Damaged: content of it is lost.
    ALTER TABLE snapshots ADD COLUMN owner TEXT NOT NULL DEFAULT '000000000000';
    ALTER TABLE snapshots ADD COLUMN volume TEXT;
    ALTER TABLE snapshots ADD COLUMN completed INTEGER;
    ALTER TABLE snapshots ADD COLUMN full_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE snapshots ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE snapshots ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX snapshots_deleted ON snapshots (id) WHERE deleted;
    UPDATE snapshots SET completed = created;
    CREATE INDEX snapshots_by_created ON snapshots (created, id);

    -- Which segments a snapshot has chunks in. A segment is spare once a snapshot that needed it
    -- was deleted: chunks that nobody needs may still take space there.
    CREATE TABLE snapshot_segments (
        snapshot TEXT NOT NULL REFERENCES snapshots (id),
        segment INTEGER NOT NULL REFERENCES segments (id),
        PRIMARY KEY (snapshot, segment)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX snapshots_by_segment ON snapshot_segments (segment);
    ALTER TABLE segments ADD COLUMN spare INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX chunks_by_segment ON chunks (segment, byte_offset);
    CREATE INDEX images_by_snapshot ON image_snapshots (snapshot);

    -- What listings ask for, besides the document that says it all. Permissions are no member of
    -- an image: the account is twelve digits, or 'all'.
    ALTER TABLE images ADD COLUMN architecture TEXT NOT NULL DEFAULT '';
    ALTER TABLE images ADD COLUMN state TEXT NOT NULL DEFAULT 'available';
    ALTER TABLE images ADD COLUMN created INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE images ADD COLUMN deprecated INTEGER;
    ALTER TABLE images ADD COLUMN last_launched INTEGER;
    CREATE INDEX images_by_created ON images (created, id);
    CREATE TABLE launch_permissions (
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        account TEXT NOT NULL,
        PRIMARY KEY (image, account)
    ) STRICT, WITHOUT ROWID;

    -- The settings are what start, modify and show need, in JSON.
    ALTER TABLE instances ADD COLUMN owner TEXT NOT NULL DEFAULT '000000000000';
    ALTER TABLE instances ADD COLUMN reservation TEXT NOT NULL DEFAULT '';
    ALTER TABLE instances ADD COLUMN launch_index INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE instances ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';
    UPDATE instances SET reservation = 'r-' || substr(id, 3);
    CREATE TABLE client_tokens (
        owner TEXT NOT NULL,
        token TEXT NOT NULL,
        request TEXT NOT NULL,
        reservation TEXT NOT NULL,
        created INTEGER NOT NULL,
        PRIMARY KEY (owner, token)
    ) STRICT, WITHOUT ROWID;

    -- The snapshot is the one that a volume was made of, and may be gone; the base is the one that
    -- its layers stand on, of which the lowest has the number `layer`.
    CREATE TABLE volumes_2 (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL DEFAULT '000000000000',
        snapshot TEXT,
        base TEXT REFERENCES snapshots (id),
        layer INTEGER NOT NULL DEFAULT 0,
        size_bytes INTEGER NOT NULL,
        volume_type TEXT,
        iops INTEGER,
        throughput INTEGER,
        created INTEGER NOT NULL,
        instance TEXT REFERENCES instances (id),
        position INTEGER NOT NULL,
        device_name TEXT NOT NULL,
        ephemeral INTEGER,
        attached INTEGER,
        delete_on_termination INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO volumes_2 (id, snapshot, base, size_bytes, volume_type, created, instance, position,
            device_name, ephemeral, attached, delete_on_termination)
        SELECT id, snapshot, snapshot, size_bytes, volume_type, created, instance, position,
            device_name, ephemeral, CASE WHEN instance IS NULL THEN NULL ELSE created END,
            delete_on_termination
        FROM volumes;
    DROP TABLE volumes;
    ALTER TABLE volumes_2 RENAME TO volumes;
    CREATE INDEX volumes_by_instance ON volumes (instance);
    CREATE INDEX volumes_by_base ON volumes (base);

    -- Each put makes a version, counted from 1.
    CREATE TABLE parameters (
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        value TEXT NOT NULL,
        created INTEGER NOT NULL,
        PRIMARY KEY (name, version)
    ) STRICT, WITHOUT ROWID;
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
    migrate(&mut connection, home, todo).map_err(sqlite)
}

fn migrate(connection: &mut Connection, home: &Path, todo: &[Migration]) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in todo {
        transaction.execute_batch(migration.script)?;
        (migration.fill)(&transaction, home)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    crate::fault::point("migrate.filled");
    transaction.commit()
}
