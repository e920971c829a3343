//! qcow2 (QEMU's `docs/interop/qcow2.txt`): its header and tables checked, its backing files found.
//!
//! `imago` maps and decompresses the clusters. Before that, everything that it takes on trust is
//! checked here: encryption, table sizes, tables that lie beyond the end of a truncated file.

use super::layered::{Layered, imago_file};
use super::{Error, Format, MAX_SIZE_BYTES, open_file, probe, raw};
use imago::FormatAccess;
use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Backing files below one disk, at most.
pub(super) const MAX_DEPTH: usize = 64;

/// qcow2.txt "Header": QEMU's own limit of the L1 table.
const MAX_L1_BYTES: u64 = 32 << 20;
/// qcow2.txt "L1 table entry", bits 9-55.
const L2_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// qcow2.txt "incompatible_features", the bits that change how data is read.
const INCOMPATIBLE: [(u64, &str); 4] = [
    (1 << 1, "a qcow2 that is marked corrupt"),
    (1 << 2, "a qcow2 with an external data file"),
    (1 << 3, "a qcow2 compressed with zstd"),
    (1 << 4, "a qcow2 with extended L2 entries"),
];
const DIRTY: u64 = 1;

type Access = FormatAccess<ImagoFile>;

/// The files below a disk, from the top one down, and their device and inode numbers.
#[derive(Default)]
struct Chain {
    ids: Vec<(u64, u64)>,
    files: Vec<(PathBuf, File)>,
}

pub(super) fn open(path: &Path, file: File) -> Result<Layered, Error> {
    let mut chain = Chain::default();
    let access = open_layer(path, file, Some("qcow2"), &mut chain)?;
    Ok(Layered::new(path, Format::Qcow2, access, chain.files))
}

/// Opens the file at `path` and, first, those below it.
fn open_layer(
    path: &Path,
    file: File,
    format: Option<&str>,
    chain: &mut Chain,
) -> Result<Access, Error> {
    let failed = |source: io::Error| Error::Format {
        path: path.to_owned(),
        format: Format::Qcow2,
        source,
    };
    chain.enter(path, &file)?;
    let is_qcow2 = match format {
        Some("qcow2") => true,
        // qcow2.txt "Backing file format name"; the others are QEMU's protocol names.
        Some("raw" | "file" | "host_device") => false,
        Some(other) => {
            return Err(Error::Unsupported {
                path: path.to_owned(),
                what: format!("a backing file of format {other:?}"),
            });
        }
        None => probe::probe(path, &file)? == Format::Qcow2,
    };
    if !is_qcow2 {
        raw::len(path, &file)?;
        let raw = imago::raw::Raw::open_image(imago_file(path, file).map_err(failed)?, false)
            .map_err(failed)?;
        return Ok(FormatAccess::new(raw));
    }
    check(path, &file)?;
    let storage = imago_file(path, file).map_err(failed)?;
    let mut disk = Qcow2::<ImagoFile, Access>::open_image(storage, false).map_err(failed)?;
    let backing = match disk.implicit_backing_file() {
        None => None,
        Some(name) => {
            let format = disk.implicit_backing_format().map(String::as_str);
            Some(
                open_backing(path, name, format, chain).map_err(|source| Error::Backing {
                    path: path.to_owned(),
                    source: Box::new(source),
                })?,
            )
        }
    };
    disk.set_data_file(None);
    disk.set_backing(backing);
    Ok(FormatAccess::new(disk))
}

fn open_backing(
    above: &Path,
    name: &str,
    format: Option<&str>,
    chain: &mut Chain,
) -> Result<Access, Error> {
    // QEMU takes what has a colon before the first slash for a protocol (`nbd:`, `json:`): never
    // followed, an import opens files only.
    let protocol = name.split('/').next().is_some_and(|it| it.contains(':'));
    if name.is_empty() || protocol || name.contains('\0') {
        return Err(Error::BackingName {
            name: name.to_owned(),
        });
    }
    let path = above.parent().unwrap_or(Path::new("")).join(name);
    let file = open_file(&path)?;
    open_layer(&path, file, format, chain)
}

impl Chain {
    fn enter(&mut self, path: &Path, file: &File) -> Result<(), Error> {
        let open_error = |source| Error::Open {
            path: path.to_owned(),
            source,
        };
        let metadata = file.metadata().map_err(open_error)?;
        // A backing file is what some file says: a device is left alone.
        if !self.ids.is_empty() && !metadata.is_file() {
            return Err(Error::NotFile {
                path: path.to_owned(),
            });
        }
        let id = (metadata.dev(), metadata.ino());
        if let Some(first) = self.ids.iter().position(|it| *it == id) {
            let loop_of = self.files.get(first..).unwrap_or_default();
            return Err(Error::BackingLoop {
                path: path.to_owned(),
                chain: loop_of.iter().map(|(path, _)| path.clone()).collect(),
            });
        }
        if self.ids.len() > MAX_DEPTH {
            return Err(Error::BackingDepth {
                path: self.files.first().map_or(path, |(it, _)| it).to_owned(),
            });
        }
        self.ids.push(id);
        self.files
            .push((path.to_owned(), file.try_clone().map_err(open_error)?));
        Ok(())
    }
}

/// The members of the header that are checked, big-endian at these offsets (qcow2.txt "Header").
struct Header<'a> {
    bytes: &'a [u8; 104],
}

impl Header<'_> {
    fn u32(&self, offset: usize) -> u32 {
        let bytes = self.bytes.get(offset..offset + 4);
        u32::from_be_bytes(bytes.and_then(|it| it.try_into().ok()).unwrap_or_default())
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from(self.u32(offset)) << 32 | u64::from(self.u32(offset + 4))
    }
}

fn check(path: &Path, file: &File) -> Result<(), Error> {
    let damaged = |what: String| Error::Damaged {
        path: path.to_owned(),
        what,
    };
    let unsupported = |what: &str| Error::Unsupported {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let len = raw::len(path, file)?;
    if len < 104 {
        return Err(truncated(path, "its header"));
    }
    let mut bytes = [0; 104];
    raw::read(path, file, 0, &mut bytes)?;
    let header = Header { bytes: &bytes };
    if !bytes.starts_with(probe::QCOW2) {
        return Err(damaged("it does not begin as a qcow2 does".to_owned()));
    }
    let version = header.u32(4);
    if !(2..=3).contains(&version) {
        return Err(unsupported(&format!("a qcow2 of version {version}")));
    }
    let cluster_bits = header.u32(20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(damaged(format!("its clusters are 2^{cluster_bits} bytes")));
    }
    if header.u32(32) != 0 {
        return Err(unsupported("an encrypted qcow2"));
    }
    if version == 3 {
        let features = header.u64(72);
        if let Some((_, what)) = INCOMPATIBLE.iter().find(|(bit, _)| features & bit != 0) {
            return Err(unsupported(what));
        }
        if features & DIRTY != 0 {
            return Err(damaged(
                "it was not closed; mend it with qemu-img check -r all".to_owned(),
            ));
        }
    }
    check_tables(path, file, &header, len, cluster_bits)
}

/// Checks that the L1 table and each L2 table lie within the file.
fn check_tables(
    path: &Path,
    file: &File,
    header: &Header<'_>,
    len: u64,
    cluster_bits: u32,
) -> Result<(), Error> {
    let damaged = |what: &str| Error::Damaged {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let cluster = 1u64 << cluster_bits;
    let size_bytes = header.u64(24);
    if size_bytes == 0 {
        return Err(Error::Empty {
            path: path.to_owned(),
        });
    }
    if size_bytes > MAX_SIZE_BYTES {
        return Err(Error::TooLarge {
            path: path.to_owned(),
            size_bytes,
        });
    }
    let (l1_entries, l1_offset) = (u64::from(header.u32(36)), header.u64(40));
    // An L2 table is a cluster of entries of 8 bytes, one for each cluster of data.
    let mapped_by_l2 = cluster * (cluster / 8);
    if l1_entries < size_bytes.div_ceil(mapped_by_l2) {
        return Err(damaged("its L1 table is too short for its size"));
    }
    if l1_entries * 8 > MAX_L1_BYTES {
        return Err(damaged("its L1 table is larger than 32 MiB"));
    }
    if !within(l1_offset, l1_entries * 8, len) {
        return Err(truncated(path, "its L1 table"));
    }
    let mut table = vec![0; usize::try_from(l1_entries * 8).unwrap_or(0)];
    file.read_exact_at(&mut table, l1_offset)
        .map_err(|source| Error::Read {
            path: path.to_owned(),
            offset: l1_offset,
            source,
        })?;
    let (entries, _) = table.as_chunks();
    for entry in entries {
        let l2_offset = u64::from_be_bytes(*entry) & L2_OFFSET;
        if l2_offset != 0 && !within(l2_offset, cluster, len) {
            return Err(truncated(path, "an L2 table"));
        }
    }
    Ok(())
}

fn within(offset: u64, bytes: u64, len: u64) -> bool {
    offset.checked_add(bytes).is_some_and(|end| end <= len)
}

fn truncated(path: &Path, what: &str) -> Error {
    Error::Truncated {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}
