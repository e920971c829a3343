//! Kernels and RAM disks in the store: copies, so that an image boots when the file it was given is
//! gone. Whether a file is a kernel at all is not asked here.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::SystemTime;

use super::launch::check_name;
use super::{Error, KernelFileId, KernelKind, KernelRecord, Store, create_private};
use crate::chunk::pending::{PendingFile, sync_folder};
use crate::manifest::Architecture;

/// How much of a file is copied at a time.
const COPY_BYTES: usize = 256 << 10;

/// A kernel or RAM disk to put into the store.
#[derive(Clone, Debug)]
pub struct NewKernel {
    pub kind: KernelKind,
    pub name: Option<String>,
    /// What a kernel runs on; unknown of a RAM disk.
    pub architecture: Option<Architecture>,
}

impl Store {
    /// Puts a copy of the file `from` into the store. Where it is there already, that one is
    /// returned, and given the name if it had none.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::KernelNameInUse`]; [`Error::Io`] where the file cannot be read or
    /// the copy not be written; [`Error::Catalogue`]. Nothing is left then.
    pub fn add_kernel(&self, kernel: &NewKernel, from: &Path) -> Result<KernelRecord, Error> {
        if let Some(name) = &kernel.name {
            check_name(name)?;
        }
        let folder = self.kernels_folder();
        create_private(&folder).map_err(Error::io("create", &folder))?;
        let mut copy = PendingFile::create(&folder).map_err(Error::io("write to", &folder))?;
        let (digest, size_bytes) = copy_file(from, copy.file(), &folder)?;
        let id = KernelFileId::generate(kernel.kind);
        let mut record = KernelRecord {
            id,
            kind: kernel.kind,
            name: kernel.name.clone(),
            architecture: kernel.architecture,
            digest,
            size_bytes,
            created: SystemTime::now(),
            path: folder.join(id.to_string()),
        };
        copy.publish(record.path.clone())
            .map_err(Error::io("write", &record.path))?;
        sync_folder(&folder).map_err(Error::io("sync", &folder))?;

        let transaction = self.durable()?;
        let existing = self
            .catalogue
            .kernel_of_digest(&folder, kernel.kind, &digest)?;
        let is_new = existing.is_none();
        if let Some(existing) = existing {
            record = existing;
        }
        self.name_kernel(&mut record, kernel.name.as_deref(), is_new)?;
        self.catalogue.commit(transaction)?;
        if is_new {
            copy.keep();
        }
        self.catalogue.tidy();
        Ok(record)
    }

    /// Adds the row of a new kernel, or names one that had no name.
    fn name_kernel(
        &self,
        record: &mut KernelRecord,
        name: Option<&str>,
        is_new: bool,
    ) -> Result<(), Error> {
        if let Some(name) = name
            && let Some(holder) =
                self.catalogue
                    .kernel(&self.kernels_folder(), record.kind, name)?
            && holder.id != record.id
        {
            return Err(Error::KernelNameInUse {
                name: name.to_owned(),
                kind: holder.kind,
                id: holder.id,
            });
        }
        if is_new {
            self.catalogue.add_kernel(record)?;
        } else if let (None, Some(name)) = (&record.name, name) {
            self.catalogue.name_kernel(&record.id, name)?;
            record.name = Some(name.to_owned());
        }
        Ok(())
    }

    /// Every kernel and RAM disk, oldest first.
    ///
    /// # Errors
    /// [`Error::Catalogue`]
    pub fn kernels(&self) -> Result<Vec<KernelRecord>, Error> {
        Ok(self.catalogue.kernels(&self.kernels_folder())?)
    }

    /// The kernel, or the RAM disk, of that id or name.
    ///
    /// # Errors
    /// [`Error::KernelNotFound`], [`Error::Catalogue`]
    pub fn kernel(&self, kind: KernelKind, reference: &str) -> Result<KernelRecord, Error> {
        self.catalogue
            .kernel(&self.kernels_folder(), kind, reference)?
            .ok_or_else(|| Error::KernelNotFound {
                kind,
                reference: reference.to_owned(),
            })
    }
}

/// Copies `from` into `to`, a file in `folder`. Returns the content's digest and length.
fn copy_file(from: &Path, mut to: &File, folder: &Path) -> Result<([u8; 32], u64), Error> {
    let mut source = File::open(from).map_err(Error::io("open", from))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let len = source.read(&mut buffer).map_err(Error::io("read", from))?;
        let Some(bytes) = buffer.get(..len).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        hasher.update(bytes);
        to.write_all(bytes).map_err(Error::io("write to", folder))?;
    }
    Ok((hasher.finalize().into(), hasher.count()))
}
