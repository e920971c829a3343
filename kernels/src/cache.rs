//! The cache of unpacked kernels: one file for each packed kernel ever booted, named by the packed file's BLAKE3 digest.
//!
//! Beside `DIGEST.vmlinux` stands `DIGEST.seal`, one line of text: size, modification time (ns since 1970) and
//! BLAKE3 digest of the unpacked kernel. An entry whose size and time agree with its seal is taken as it is; another
//! is read whole and taken if its digest agrees; else it is remade. So a launch pays for hashing the packed
//! file only, and a file cut short, edited or restored is found. Bits that rot without a write are not: that is the
//! file system's to find.
//!
//! Files are written under another name, synced, then renamed. An advisory lock on the folder lets one process
//! at a time write, so that two first launches of one kernel unpack it once. Entries are not evicted.

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::input::{self, Input};
use crate::packed::Packed;
use crate::{Architecture, Error, FileKind, Kernel, Unbootable, arm64_image, elf, kind};

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

    /// Opens the kernel at `path` to be run on this host: an ELF file or an Image as it is, a packed kernel as
    /// its cached unpacked one, unpacking it first where the cache does not have it.
    ///
    /// # Errors
    /// Where the file cannot be read, is no kernel that boots on this host, or the cache cannot be written.
    pub fn open(&self, path: &Path) -> Result<Kernel, Error> {
        self.open_for(path, Some(Architecture::HOST))
    }

    /// The same for a kernel of any [`Architecture`], whether or not this host runs it.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub fn open_any(&self, path: &Path) -> Result<Kernel, Error> {
        self.open_for(path, None)
    }

    fn open_for(&self, path: &Path, host: Option<Architecture>) -> Result<Kernel, Error> {
        let file = input::open(path)?;
        let input = Input { file: &file, path };
        let head = input.head()?;
        let kind = kind::of_head(&head);
        if let Some(machine) = kind.machine() {
            Unbootable::check_machine(&machine, host).map_err(|e| input.unbootable(e))?;
        }
        let packed = match kind {
            FileKind::Elf { .. } => return elf::open_file(file, path, host),
            FileKind::Arm64Image => return arm64_image::open_file(file, path, host),
            FileKind::BzImage { .. } => Packed::in_bzimage(input, &head)?,
            FileKind::EfiZboot { .. } => Packed::in_zboot(input, &head)?,
            FileKind::Compressed(compression) => Packed::whole(input, compression)?,
            other => return Err(input.unbootable(Unbootable::NotKernel(other))),
        };
        self.open_packed(input, packed, host)
    }

    fn open_packed(
        &self,
        input: Input<'_>,
        packed: Packed,
        host: Option<Architecture>,
    ) -> Result<Kernel, Error> {
        let mut hasher = blake3::Hasher::new();
        let mut file = input.file;
        file.rewind().map_err(|e| input.read_error(e))?;
        hasher
            .update_reader(file)
            .map_err(|e| input.read_error(e))?;
        let name = hasher.finalize().to_hex();
        let vmlinux = self.folder.join(format!("{name}.vmlinux"));
        let seal = self.folder.join(format!("{name}.seal"));
        let unpacked = match open_sealed(&vmlinux, &seal) {
            Some(unpacked) => unpacked,
            None => self.unpack(input, &packed, host, &vmlinux, &seal)?,
        };
        let kernel = crate::open_unpacked_for(unpacked, &vmlinux, host);
        let mut kernel = kernel.map_err(|error| error.about(input.path))?;
        kernel.setup_header = packed.setup_header;
        Ok(kernel)
    }

    /// Unpacks a kernel into the cache, unless another process has done so meanwhile.
    fn unpack(
        &self,
        input: Input<'_>,
        packed: &Packed,
        host: Option<Architecture>,
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
        let unpacked = packed.unpack(input, host, &mut out, &partial);
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

/// The cached kernel, if it is there and is what its seal says.
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
