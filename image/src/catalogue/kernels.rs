//! The rows of kernels and RAM disks.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use rusqlite::{OptionalExtension, params};

use super::{Catalogue, Error, from_millis, parsed, parsed_or_null, to_millis};
use crate::id::{InvalidId, KernelId, RamdiskId};
use crate::manifest::{Architecture, words};

words! {
    KernelKind {
        Kernel = "kernel",
        Ramdisk = "ramdisk",
    }
}

/// The id of a kernel or of a RAM disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelFileId {
    Kernel(KernelId),
    Ramdisk(RamdiskId),
}

impl KernelFileId {
    /// A new random id.
    pub fn generate(kind: KernelKind) -> Self {
        match kind {
            KernelKind::Kernel => Self::Kernel(KernelId::generate()),
            KernelKind::Ramdisk => Self::Ramdisk(RamdiskId::generate()),
        }
    }
}

impl fmt::Display for KernelFileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(id) => id.fmt(f),
            Self::Ramdisk(id) => id.fmt(f),
        }
    }
}

impl FromStr for KernelFileId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.starts_with(RamdiskId::PREFIX) {
            true => text.parse().map(Self::Ramdisk),
            false => text.parse().map(Self::Kernel),
        }
    }
}

/// A kernel or RAM disk in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRecord {
    pub id: KernelFileId,
    pub kind: KernelKind,
    pub name: Option<String>,
    /// Known of kernels.
    pub architecture: Option<Architecture>,
    /// BLAKE3 of the content.
    pub digest: [u8; 32],
    pub size_bytes: u64,
    pub created: SystemTime,
    /// The content.
    pub path: PathBuf,
}

const COLUMNS: &str =
    "SELECT id, kind, name, architecture, digest, size_bytes, created FROM kernels";

impl Catalogue {
    /// Every kernel and RAM disk, oldest first; their files are in `folder`.
    pub(crate) fn kernels(&self, folder: &Path) -> Result<Vec<KernelRecord>, Error> {
        let query = || {
            self.connection
                .prepare_cached(&format!("{COLUMNS} ORDER BY created, id"))?
                .query_map([], |row| record(row, folder))?
                .collect()
        };
        self.sqlite(query())
    }

    /// The kernel or RAM disk of that id or name.
    pub(crate) fn kernel(
        &self,
        folder: &Path,
        kind: KernelKind,
        reference: &str,
    ) -> Result<Option<KernelRecord>, Error> {
        let query = || {
            self.connection
                .prepare_cached(&format!(
                    "{COLUMNS} WHERE kind = ?1 AND (id = ?2 OR name = ?2)"
                ))?
                .query_row([kind.as_str(), reference], |row| record(row, folder))
                .optional()
        };
        self.sqlite(query())
    }

    pub(crate) fn kernel_of_digest(
        &self,
        folder: &Path,
        kind: KernelKind,
        digest: &[u8; 32],
    ) -> Result<Option<KernelRecord>, Error> {
        let query = || {
            self.connection
                .prepare_cached(&format!("{COLUMNS} WHERE kind = ?1 AND digest = ?2"))?
                .query_row(params![kind.as_str(), digest], |row| record(row, folder))
                .optional()
        };
        self.sqlite(query())
    }

    pub(crate) fn has_kernel(&self, id: &KernelFileId) -> Result<bool, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT 1 FROM kernels WHERE id = ?1")?
                .exists([id.to_string()])
        };
        self.sqlite(query())
    }

    pub(crate) fn name_kernel(&self, id: &KernelFileId, name: &str) -> Result<(), Error> {
        let update = || {
            self.connection
                .prepare_cached("UPDATE kernels SET name = ?2 WHERE id = ?1")?
                .execute([&id.to_string(), name])
        };
        self.sqlite(update()).map(|_| ())
    }

    pub(crate) fn remove_kernel(&self, id: &KernelFileId) -> Result<(), Error> {
        let delete = || {
            self.connection
                .prepare_cached("DELETE FROM kernels WHERE id = ?1")?
                .execute([id.to_string()])
        };
        self.sqlite(delete()).map(|_| ())
    }

    pub(crate) fn add_kernel(&self, kernel: &KernelRecord) -> Result<(), Error> {
        let add = || {
            self.connection
                .prepare_cached(
                    "INSERT INTO kernels (id, kind, name, architecture, digest, size_bytes, created)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    kernel.id.to_string(),
                    kernel.kind.as_str(),
                    kernel.name,
                    kernel.architecture.map(Architecture::as_str),
                    kernel.digest,
                    kernel.size_bytes,
                    to_millis(kernel.created),
                ])
        };
        self.sqlite(add()).map(|_| ())
    }
}

fn record(row: &rusqlite::Row<'_>, folder: &Path) -> rusqlite::Result<KernelRecord> {
    let id: KernelFileId = parsed(row, 0)?;
    Ok(KernelRecord {
        id,
        kind: parsed(row, 1)?,
        name: row.get(2)?,
        architecture: parsed_or_null(row, 3)?,
        digest: row.get(4)?,
        size_bytes: row.get(5)?,
        created: from_millis(row.get(6)?),
        path: folder.join(id.to_string()),
    })
}
