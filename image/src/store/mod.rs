//! A store: images, their snapshots, kernels, and the instances that were launched from them. A
//! store is what EC2 calls a region. This is the face that the rest of the program sees.
//!
//! A store is one folder, in which many processes work at once:
//!
//! ```text
//! catalogue.db   what there is (SQLite)
//! segments/      the content of snapshots, in chunks
//! snapshots/     which chunks a snapshot consists of
//! volumes/       overlays and bitmaps of volumes
//! instances/     one folder an instance: its lock, and what its process keeps there
//! kernels/       kernels and RAM disks
//! ```

mod check;
mod code;
mod error;
mod export;
mod image;
mod image_attributes;
mod image_copy;
mod image_create;
mod image_list;
mod image_removal;
mod instance;
mod instance_end;
mod instance_modify;
mod instance_start;
mod kernel;
mod launch;
mod parameter;
mod prune;
mod reclaim;
mod register;
mod repair;
mod snapshot;
mod snapshot_list;
mod sweep;
mod tags;
#[cfg(test)]
mod tests;
mod token;
mod volume;
mod volume_change;
mod volume_snapshot;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::catalogue::{self, Catalogue};
use crate::id::{InstanceId, SnapshotId};
use crate::manifest::{BlockDeviceMapping, Image, SnapshotSizes};
use crate::mapping::{self, Disk, Ephemeral};
use crate::snapshot::SnapshotFiles;
use crate::volume::VolumeFiles;

pub use crate::catalogue::{
    Instance, InstanceState, KernelFileId, KernelKind, KernelRecord, Parameter, SnapshotRecord,
    VolumeRecord, VolumeState,
};
pub use crate::time::iso8601;
pub use check::{CheckReport, Finding};
pub use error::{Error, ErrorKind};
pub use export::ChangedBlock;
pub use image_attributes::ImageChange;
pub use image_copy::ImageCopy;
pub use image_create::ImageOfInstance;
pub use image_list::{ImageOwner, ImageQuery};
pub use image_removal::Deregistered;
pub use instance::LISTED_AFTER_END;
pub use instance_end::{GuestEnd, STOPPED_REASON, TERMINATED_REASON};
pub use instance_modify::{Hardware, InstanceChange};
pub use kernel::NewKernel;
pub use launch::{InstanceLock, Launched, LaunchedVolume, NewInstance, Reservation};
pub use prune::{Obstacle, PruneRule, Pruned};
pub use register::ImportRequest;
pub use sweep::Collected;
pub use tags::TagToRemove;
pub use token::ClientToken;
pub use volume_change::VolumeRefusal;
pub use volume_snapshot::{Live, VolumeSnapshot, WrittenSnapshots};

/// An open store. For one thread; others open their own.
#[derive(Debug)]
pub struct Store {
    home: PathBuf,
    account: Option<Account>,
    catalogue: Catalogue,
    snapshots: SnapshotFiles,
    volumes: VolumeFiles,
}

impl Store {
    /// `$KAMI_HOME`, else `$XDG_DATA_HOME/kami`, else `~/.local/share/kami`.
    pub fn default_home() -> PathBuf {
        home_from(
            |name| std::env::var_os(name).map(PathBuf::from),
            std::env::home_dir,
        )
    }

    /// Opens the store in the folder `home`, creating it where it is missing.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be made; [`Error::Catalogue`], among others where a
    /// newer version has written it.
    pub fn open(home: &Path) -> Result<Self, Error> {
        let home = std::path::absolute(home).map_err(Error::io("find", home))?;
        let catalogue = match Catalogue::open(&home) {
            Ok(catalogue) => catalogue,
            Err(error) if error.is_missing() => {
                create_private(&home).map_err(Error::io("create", &home))?;
                Catalogue::open(&home)?
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            account: None,
            catalogue,
            snapshots: SnapshotFiles::new(&home),
            volumes: VolumeFiles::new(&home),
            home,
        })
    }

    /// The store as that account sees it. Without one, the caller acts as the owner of everything.
    #[must_use]
    pub fn with_account(self, account: Option<Account>) -> Self {
        Self { account, ..self }
    }

    /// As whom the caller acts; none where that is whoever owns the object.
    pub fn account(&self) -> Option<Account> {
        self.account
    }

    /// The owner of what the caller makes.
    pub fn owner(&self) -> Account {
        self.account.unwrap_or(Account::NOBODY)
    }

    /// The store's folder, as an absolute path.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The sizes of those of `snapshots` that the store holds.
    ///
    /// # Errors
    /// [`Error::Catalogue`]
    pub fn snapshot_sizes(&self, snapshots: &BTreeSet<SnapshotId>) -> Result<SnapshotSizes, Error> {
        let mut sizes = SnapshotSizes::new();
        for id in snapshots {
            if let Some(size_bytes) = self.catalogue.snapshot_size(id)? {
                sizes.insert(*id, size_bytes);
            }
        }
        Ok(sizes)
    }

    /// [`mapping::resolve`] with the sizes of this store's snapshots.
    ///
    /// # Errors
    /// [`Error::Mapping`], [`Error::Catalogue`]
    pub fn resolve(
        &self,
        image: &Image,
        overrides: &[BlockDeviceMapping],
        ephemeral: Ephemeral,
    ) -> Result<Vec<Disk>, Error> {
        let sizes = self.snapshot_sizes(&mapping::snapshots(image, overrides))?;
        Ok(mapping::resolve(image, overrides, ephemeral, &sizes)?)
    }

    fn instances_folder(&self) -> PathBuf {
        self.home.join("instances")
    }

    /// The instance's own folder, for its lock, its console log and the like.
    pub fn instance_folder(&self, id: &InstanceId) -> PathBuf {
        self.instances_folder().join(id.to_string())
    }

    fn kernels_folder(&self) -> PathBuf {
        self.home.join("kernels")
    }

    /// Begins a transaction that is on the disk when its commit returns.
    fn durable(&self) -> Result<rusqlite::Transaction<'_>, Error> {
        Ok(self.catalogue.transaction(catalogue::Durability::Now)?)
    }

    /// Begins a transaction that outlives this process at once, and a crash of the host soon.
    fn quick(&self) -> Result<rusqlite::Transaction<'_>, Error> {
        Ok(self.catalogue.transaction(catalogue::Durability::Later)?)
    }
}

/// The XDG Base Directory Specification has relative paths ignored.
fn home_from(
    variable: impl Fn(&str) -> Option<PathBuf>,
    home: impl Fn() -> Option<PathBuf>,
) -> PathBuf {
    let set = |name| variable(name).filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = set("KAMI_HOME") {
        return path;
    }
    match set("XDG_DATA_HOME").filter(|path| path.is_absolute()) {
        Some(data) => data.join("kami"),
        None => home().unwrap_or_default().join(".local/share/kami"),
    }
}

/// Creates a folder, and those above it, that only its owner can enter.
fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// The beginning of an id that `reference` could be, with the kind's prefix. What has the prefix without being
/// one is malformed; anything else is `not_found`.
fn id_prefix(
    reference: &str,
    prefix: &'static str,
    not_found: impl FnOnce() -> Error,
) -> Result<String, Error> {
    let digits = reference.strip_prefix(prefix);
    let lower_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    let of_id = |digits: &str| !digits.is_empty() && digits.bytes().all(lower_hex);
    match digits {
        _ if of_id(digits.unwrap_or(reference)) => {
            Ok(format!("{prefix}{}", digits.unwrap_or(reference)))
        }
        Some(_) => Err(Error::IdMalformed {
            text: reference.to_owned(),
            prefix,
        }),
        None => Err(not_found()),
    }
}

fn ambiguous(what: &'static str, reference: &str) -> Error {
    Error::Ambiguous {
        what,
        reference: reference.to_owned(),
    }
}
