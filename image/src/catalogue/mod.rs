//! The catalogue: what a store holds, in one SQLite file that many processes use at once.
//!
//! Every function here works within the transaction that is open on its connection, if any.
//! Files are complete before the row that names them is committed, so whatever no row names may be
//! swept. Which files those are is the business of `store`.
//!
//! A launch commits without waiting for the disk: in WAL mode with `synchronous=NORMAL` a commit is
//! a write to the page cache, which a killed process cannot lose; a volume's first flush makes it
//! durable against a crash of the host (SQLite, "PRAGMA synchronous").

mod check;
mod images;
mod instances;
mod kernels;
mod parameters;
mod schema;
mod snapshot_list;
mod snapshots;
mod tags;
#[cfg(test)]
mod tests;
mod tokens;
mod volumes;

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

pub(crate) use check::CheckedSnapshot;
pub use images::ImageState;
pub use instances::{End, Instance, InstanceState};
pub use kernels::{KernelFileId, KernelKind, KernelRecord};
pub use parameters::Parameter;
pub(crate) use snapshots::NewSnapshot;
pub use snapshots::SnapshotRecord;
pub(crate) use volumes::Attachment;
pub use volumes::{NewVolume, VolumeRecord, VolumeState};

/// The catalogue's file in the folder of the store.
const FILE_NAME: &str = "catalogue.db";

/// How long to wait for another process's transaction. The longest is the commit of a registration
/// with a row for each 512 KiB of new content.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// A log of more bytes than this is copied into the database when there is time: whoever opens the
/// catalogue alone reads all of it.
const WAL_BYTES: u64 = 256 << 10;

/// What goes wrong with the catalogue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot use the catalogue {}", path.display())]
    Sqlite {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error(
        "the catalogue {} was written by a newer version: its schema is {found}, and up to {known} \
         is known here",
        path.display()
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
}

impl Error {
    /// Whether the catalogue's folder is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// When a committed transaction must be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// When the commit returns.
    Now,
    /// When somebody syncs the files of [`Catalogue::files_to_sync`].
    Later,
}

/// An open catalogue.
#[derive(Debug)]
pub(crate) struct Catalogue {
    connection: Connection,
    path: PathBuf,
    durability: Cell<Durability>,
}

impl Catalogue {
    /// Opens the catalogue in the folder `home`, creating or migrating it first where need be.
    pub(crate) fn open(home: &Path) -> Result<Self, Error> {
        let path = home.join(FILE_NAME);
        // Whether the file is missing is not asked: another process may create it at any moment.
        let opened = connect(&path, OpenFlags::empty()).ok();
        let version = match &opened {
            Some(connection) => schema::version(connection),
            None => Ok(0),
        };
        let connection = match (version, opened) {
            (Ok(schema::VERSION), Some(connection)) => Ok(connection),
            (Ok(_), opened) => {
                drop(opened);
                schema::create_or_migrate(home, &path)?;
                connect(&path, OpenFlags::empty())
            }
            (Err(error), _) => Err(error),
        };
        let connection = connection
            .and_then(|connection| {
                connection.pragma_update(None, "synchronous", "NORMAL")?;
                Ok(connection)
            })
            .map_err(|source| Error::Sqlite {
                path: path.clone(),
                source,
            })?;
        Ok(Self {
            connection,
            path,
            durability: Cell::new(Durability::Later),
        })
    }

    /// Begins a transaction that may write, waiting for those of other processes. Dropped without
    /// a commit it is undone.
    pub(crate) fn transaction(&self, durability: Durability) -> Result<Transaction<'_>, Error> {
        if self.durability.get() != durability {
            let synchronous = match durability {
                Durability::Now => "FULL",
                Durability::Later => "NORMAL",
            };
            self.sqlite(
                self.connection
                    .pragma_update(None, "synchronous", synchronous),
            )?;
            self.durability.set(durability);
        }
        // Writing from the start: a reader that wants to write later may find that it cannot.
        self.sqlite(Transaction::new_unchecked(
            &self.connection,
            TransactionBehavior::Immediate,
        ))
    }

    pub(crate) fn commit(&self, transaction: Transaction<'_>) -> Result<(), Error> {
        self.sqlite(transaction.commit())
    }

    /// Waits for the transactions that are under way in other processes.
    pub(crate) fn barrier(&self) -> Result<(), Error> {
        let transaction = self.transaction(Durability::Later)?;
        self.sqlite(transaction.rollback())
    }

    /// What must be synced, in this order, for the commits so far to be durable.
    pub(crate) fn files_to_sync(&self) -> Result<[File; 2], Error> {
        let log = self.log_path();
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let open = |path: &Path| {
            File::open(path).map_err(|source| Error::Io {
                action: "open",
                path: path.to_owned(),
                source,
            })
        };
        Ok([open(&log)?, open(folder)?])
    }

    /// Copies a long log into the database. For commands and moments when nobody waits for a
    /// guest; that it fails is no harm.
    pub(crate) fn tidy(&self) {
        let is_long = std::fs::metadata(self.log_path()).is_ok_and(|log| log.len() > WAL_BYTES);
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        if is_long && let Err(error) = self.connection.query_row(checkpoint, [], |_| Ok(())) {
            tracing::debug!(%error, "cannot shorten the catalogue's log");
        }
    }

    fn log_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push("-wal");
        name.into()
    }

    /// Adds the catalogue's path to an error.
    fn sqlite<T>(&self, result: rusqlite::Result<T>) -> Result<T, Error> {
        result.map_err(|source| Error::Sqlite {
            path: self.path.clone(),
            source,
        })
    }
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = flags | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
    // The last one to leave would copy and sync the log: at the end of every `run`.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

/// Rows hold times as milliseconds since 1970.
pub(crate) fn to_millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since
        .ok()
        .and_then(|since| since.as_millis().try_into().ok())
        .unwrap_or(0)
}

fn from_millis(millis: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// A text column that holds an id, a word, or whatever else has a text form.
fn parsed<T>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    convert(column, row.get_ref(column)?.as_str()?.parse())
}

/// As [`parsed`], for a column that may be null.
fn parsed_or_null<T>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<T>>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    match row.get_ref(column)?.as_str_or_null()? {
        Some(text) => convert(column, text.parse()).map(Some),
        None => Ok(None),
    }
}

fn convert<T, E>(column: usize, result: Result<T, E>) -> rusqlite::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    result.map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    })
}

/// The first two ids that begin with `prefix`; `query` names the range's ends `?1` and `?2`.
fn ids_from<T>(connection: &Connection, query: &str, prefix: &str) -> rusqlite::Result<Vec<T>>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    // All ids are hex digits after their prefix, and `g` is what follows `f`.
    let end = format!("{prefix}g");
    connection
        .prepare_cached(query)?
        .query_map([prefix, &end], |row| parsed(row, 0))?
        .collect()
}
