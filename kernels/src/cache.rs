//! The cache of unpacked kernels: one vmlinux for each bzImage ever booted, named by the bzImage's BLAKE3 digest.
//!
//! Beside `DIGEST.vmlinux` stands `DIGEST.seal`, one line of text: size, modification time (ns since 1970) and
//! BLAKE3 digest of the vmlinux. An entry whose size and time agree with its seal is taken as it is; another
//! is read whole and taken if its digest agrees; else it is remade. So a launch pays for hashing the bzImage
//! only, and a file cut short, edited or restored is found. Bits that rot without a write are not: that is the
//! file system's to find.
//!
//! Files are written under another name, synced, then renamed. An advisory lock on the folder lets one process
//! at a time write, so that two first launches of one kernel unpack it once. Entries are not evicted.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Error, FileKind, Kernel, Unbootable, bzimage, elf, head, kind};

/// A folder of unpacked kernels. Many processes may use one folder at once.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// What is known of a cached vmlinux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seal {
    bytes: u64,
    modified_ns: i128,
    digest: blake3::Hash,
}

impl Cache {
    /// A cache in `folder`, which is made when the first kernel is unpacked.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self { folder }
    }

    /// Opens the kernel at `path`: an ELF file as it is, a bzImage as its cached vmlinux, unpacking it first where
    /// the cache does not have it.
    ///
    /// # Errors
    /// Where the file cannot be read, is no kernel that boots on this host, or the cache cannot be written.
    pub fn open(&self, path: &Path) -> Result<Kernel, Error> {
        let file = crate::open(path)?;
        let read = |source| Error::read(path, source);
        match kind::of_head(&head(&file, kind::HEAD_BYTES).map_err(read)?) {
            FileKind::BzImage => self.open_bzimage(file, path),
            FileKind::Elf { .. } => elf::open_elf_file(file, path),
            // Looks deeper than the head, for the error's sake.
            _ => Err(Error::unbootable(
                path,
                Unbootable::of_kind(kind::identify(path)?),
            )),
        }
    }

    fn open_bzimage(&self, file: File, path: &Path) -> Result<Kernel, Error> {
        let read = |source| Error::read(path, source);
        let header = bzimage::read_header(&file, path)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&file).map_err(read)?;
        let name = hasher.finalize().to_hex();
        let vmlinux = self.folder.join(format!("{name}.vmlinux"));
        let seal = self.folder.join(format!("{name}.seal"));
        let unpacked = match open_sealed(&vmlinux, &seal) {
            Some(unpacked) => unpacked,
            None => self.unpack(&file, path, &header, &vmlinux, &seal)?,
        };
        let mut kernel =
            elf::open_elf_file(unpacked, &vmlinux).map_err(|error| error.about(path))?;
        kernel.setup_header = Some(header.setup_header);
        Ok(kernel)
    }

    /// Unpacks a bzImage into the cache, unless another process has done so meanwhile.
    fn unpack(
        &self,
        file: &File,
        path: &Path,
        header: &bzimage::Header,
        vmlinux: &Path,
        seal: &Path,
    ) -> Result<File, Error> {
        let write = |source| Error::write(&self.folder, source);
        std::fs::create_dir_all(&self.folder).map_err(write)?;
        let folder = File::open(&self.folder).map_err(write)?;
        // Released when `folder` is closed, by a crash too.
        folder.lock().map_err(write)?;
        if let Some(unpacked) = open_sealed(vmlinux, seal) {
            return Ok(unpacked);
        }
        self.sweep().map_err(write)?;
        let partial = vmlinux.with_extension("vmlinux.partial");
        let mut out = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&partial)
            .map_err(write)?;
        let unpacked = bzimage::unpack_payload(file, path, header, &mut out, &partial);
        let (bytes, digest) = unpacked.inspect_err(|_| {
            // Best effort: the next sweep takes what stays.
            let _ = std::fs::remove_file(&partial);
        })?;
        let sealed = Seal::of(&out, bytes, digest).and_then(|text| {
            out.sync_all()?;
            std::fs::rename(&partial, vmlinux)?;
            write_synced(seal, &text.to_line())?;
            folder.sync_all()
        });
        sealed.map_err(write)?;
        Ok(out)
    }

    /// Deletes what a crash has left half written. The caller holds the lock.
    fn sweep(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "partial")
            {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

impl Seal {
    fn of(file: &File, bytes: u64, digest: blake3::Hash) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            bytes,
            modified_ns: modified_ns(&metadata),
            digest,
        })
    }

    fn to_line(self) -> String {
        let Self {
            bytes,
            modified_ns,
            digest,
        } = self;
        format!("{bytes} {modified_ns} {digest}\n")
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut words = line.strip_suffix('\n')?.split(' ');
        let seal = Self {
            bytes: words.next()?.parse().ok()?,
            modified_ns: words.next()?.parse().ok()?,
            digest: blake3::Hash::from_hex(words.next()?).ok()?,
        };
        words.next().is_none().then_some(seal)
    }
}

/// The cached vmlinux, if it is there and is what its seal says.
fn open_sealed(vmlinux: &Path, seal: &Path) -> Option<File> {
    let seal = Seal::from_line(&std::fs::read_to_string(seal).ok()?)?;
    let file = File::open(vmlinux).ok()?;
    let metadata = file.metadata().ok()?;
    if metadata.len() != seal.bytes {
        return None;
    }
    if modified_ns(&metadata) == seal.modified_ns {
        return Some(file);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&file).ok()?;
    (hasher.finalize() == seal.digest).then_some(file)
}

fn modified_ns(metadata: &std::fs::Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let partial = path.with_extension("seal.partial");
    let mut file = File::create(&partial)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&partial, path)
}

#[cfg(test)]
mod tests;
