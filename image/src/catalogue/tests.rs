use std::collections::BTreeSet;

use super::*;
use crate::account::Account;
use crate::chunk::{ChunkIndex, ChunkPlace, Digest, StoredChunk};
use crate::id::SnapshotId;

fn new() -> (tempfile::TempDir, Catalogue) {
    let home = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::open(home.path()).unwrap();
    (home, catalogue)
}

fn pragma(catalogue: &Catalogue, name: &str) -> String {
    let query = |row: &rusqlite::Row<'_>| Ok(format!("{:?}", row.get_ref(0)?));
    catalogue
        .connection
        .query_row(&format!("PRAGMA {name}"), [], query)
        .unwrap()
}

#[test]
fn a_catalogue_is_in_wal_mode_and_guards_its_references() {
    let (home, first) = new();
    for catalogue in [&first, &Catalogue::open(home.path()).unwrap()] {
        assert!(
            pragma(catalogue, "journal_mode").contains("119, 97, 108"),
            "not \"wal\""
        );
        assert_eq!(pragma(catalogue, "foreign_keys"), "Integer(1)");
        assert_eq!(
            pragma(catalogue, "user_version"),
            format!("Integer({})", schema::VERSION)
        );
        let orphan = "INSERT INTO image_snapshots VALUES ('ami-x', 'snap-x')";
        assert!(catalogue.connection.execute(orphan, []).is_err());
    }
}

#[test]
fn durable_transactions_sync_and_quick_ones_do_not() {
    let (_home, catalogue) = new();
    // 1 is NORMAL, 2 is FULL (SQLite, "PRAGMA synchronous").
    for (durability, expected) in [
        (Durability::Later, "Integer(1)"),
        (Durability::Now, "Integer(2)"),
        (Durability::Now, "Integer(2)"),
        (Durability::Later, "Integer(1)"),
    ] {
        let transaction = catalogue.transaction(durability).unwrap();
        assert_eq!(pragma(&catalogue, "synchronous"), expected);
        catalogue.commit(transaction).unwrap();
    }
}

#[test]
fn a_newer_catalogue_is_refused_and_left_alone() {
    let (home, catalogue) = new();
    let newer = schema::VERSION + 1;
    catalogue
        .connection
        .pragma_update(None, "user_version", newer)
        .unwrap();
    drop(catalogue);
    for _ in 0..2 {
        let error = Catalogue::open(home.path()).unwrap_err();
        let message = error.to_string();
        assert!(
            matches!(error, Error::Newer { found, .. } if found == newer),
            "{message}"
        );
        assert!(
            message.contains("written by a newer version: its schema is"),
            "{message}"
        );
        assert!(message.contains(home.path().to_str().unwrap()), "{message}");
    }
}

#[test]
fn a_file_that_is_no_catalogue_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE_NAME);
    std::fs::write(&path, "x".repeat(5000)).unwrap();
    let error = Catalogue::open(home.path()).unwrap_err();
    assert!(matches!(error, Error::Sqlite { .. }), "{error}");
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), "x".repeat(5000).as_bytes());
}

/// A process that was killed while it created the catalogue leaves an empty file.
#[test]
fn an_empty_file_becomes_a_catalogue() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(FILE_NAME), "").unwrap();
    let catalogue = Catalogue::open(home.path()).unwrap();
    assert!(catalogue.images().unwrap().is_empty());
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE_NAME);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch("CREATE TABLE volumes (x)")
        .unwrap();
    // Its first tables can be made, one of the later ones cannot.
    let error = Catalogue::open(home.path()).unwrap_err();
    assert!(matches!(error, Error::Sqlite { .. }), "{error}");
    let query = "SELECT group_concat(name) FROM sqlite_schema";
    let tables: String = connection.query_row(query, [], |row| row.get(0)).unwrap();
    assert_eq!(tables, "volumes");
    assert_eq!(schema::version(&connection).unwrap(), 0);
}

static NO_SEGMENTS: BTreeSet<u64> = BTreeSet::new();

fn empty(id: SnapshotId) -> NewSnapshot<'static> {
    NewSnapshot {
        id,
        owner: Account::NOBODY,
        volume: None,
        size_bytes: 1,
        stored_bytes: 0,
        full_bytes: 0,
        description: "",
        started: SystemTime::now(),
        chunks: &[],
        segments: &NO_SEGMENTS,
    }
}

#[test]
fn a_snapshot_of_content_that_was_deleted_is_refused() {
    let (_home, catalogue) = new();
    let segments = BTreeSet::from([7]);
    let snapshot = NewSnapshot {
        segments: &segments,
        ..empty(SnapshotId::generate())
    };
    assert!(catalogue.add_snapshot(&snapshot).is_err());
}

#[test]
fn an_undone_transaction_leaves_no_row() {
    let (_home, catalogue) = new();
    let id = SnapshotId::generate();
    let snapshot = NewSnapshot {
        size_bytes: 5,
        ..empty(id)
    };
    let transaction = catalogue.transaction(Durability::Later).unwrap();
    catalogue.add_snapshot(&snapshot).unwrap();
    assert_eq!(catalogue.snapshot_size(&id).unwrap(), Some(5));
    drop(transaction);
    assert_eq!(catalogue.snapshot_size(&id).unwrap(), None);
}

#[test]
fn the_first_to_store_a_chunk_is_the_one_to_share() {
    let (_home, catalogue) = new();
    let digest = Digest::of(&[1]);
    // All 64 bits of a segment's number come back.
    let places = [u64::MAX, 5].map(|segment| ChunkPlace {
        segment,
        offset: 4096,
    });
    for place in places {
        let snapshot = NewSnapshot {
            chunks: &[StoredChunk { digest, place }],
            segments: &BTreeSet::from([place.segment]),
            ..empty(SnapshotId::generate())
        };
        catalogue.add_snapshot(&snapshot).unwrap();
        assert_eq!(catalogue.find(&digest).unwrap(), Some(places[0]));
        assert!(catalogue.has_segment(place.segment).unwrap());
    }
    assert_eq!(catalogue.find(&Digest::of(&[2])).unwrap(), None);
    assert!(!catalogue.has_segment(6).unwrap());
}

#[test]
fn a_long_log_is_shortened_when_there_is_time() {
    let (_home, catalogue) = new();
    let len = || std::fs::metadata(catalogue.log_path()).map_or(0, |log| log.len());
    let mut rounds = 0;
    while len() <= WAL_BYTES {
        let snapshot = empty(SnapshotId::generate());
        catalogue.tidy();
        catalogue.add_snapshot(&snapshot).unwrap();
        rounds += 1;
        assert!(rounds < 1000);
    }
    assert!(rounds > 10, "it is not shortened each time");
    catalogue.tidy();
    assert_eq!(len(), 0);
    assert_eq!(catalogue.files_to_sync().unwrap().len(), 2);
}

/// No statement of a launch may read a whole table.
#[test]
fn look_ups_use_an_index() {
    let (_home, catalogue) = new();
    for query in [
        "SELECT document FROM images WHERE id = ?1",
        "SELECT document FROM images WHERE name = ?1",
        "SELECT id FROM images WHERE id >= ?1 AND id < ?2 LIMIT 2",
        "SELECT id FROM instances WHERE name = ?1",
        "SELECT id FROM volumes WHERE instance = ?1 ORDER BY position",
        "SELECT id FROM volumes WHERE id = ?1",
        "SELECT id FROM volumes WHERE id >= ?1 AND id < ?2 LIMIT 2",
        "UPDATE volumes SET instance = NULL WHERE id = ?1",
        "SELECT id FROM kernels WHERE kind = ?1 AND (id = ?2 OR name = ?2)",
        "SELECT segment FROM chunks WHERE digest = ?1",
        "DELETE FROM instances WHERE id = ?1",
    ] {
        let mut statement = catalogue
            .connection
            .prepare(&format!("EXPLAIN QUERY PLAN {query}"))
            .unwrap();
        let parameters = rusqlite::params_from_iter(vec!["x"; statement.parameter_count()]);
        let plan: Vec<String> = statement
            .query_map(parameters, |row| row.get(3))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(
            plan.iter().all(|step| !step.starts_with("SCAN")),
            "{query}: {plan:?}"
        );
    }
}
