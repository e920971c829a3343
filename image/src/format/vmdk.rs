//! VMDK with flat extents (VMware's *Virtual Disk Format 5.0*): a text descriptor beside the files
//! that hold the bytes.
//!
//! `imago` refuses the descriptor's members that it does not know, and VMware writes several, so it
//! is given the lines that say where bytes lie and no others. The files must lie beside the
//! descriptor, where VMware puts them: a descriptor from elsewhere can name no other file.

use super::layered::{Layered, imago_file};
use super::{Error, Format, open_file, raw};
use imago::file::File as ImagoFile;
use imago::format::gate::ImplicitOpenGate;
use imago::vmdk::Vmdk;
use imago::{FormatAccess, FormatDriverBuilder, StorageOpenOptions};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A descriptor is a page of text or two; `imago` has the same limit.
const MAX_DESCRIPTOR_BYTES: u64 = 2 << 20;

/// Extent files of one disk, at most: of VMware's 2 GB ones, 8 TiB.
const MAX_EXTENTS: usize = 4096;

/// The members that `imago` reads, beside the extents' lines.
const KNOWN: [&str; 5] = [
    "version",
    "CID",
    "parentCID",
    "createType",
    "parentFileNameHint",
];

pub(super) fn open(path: &Path, file: &File) -> Result<Layered, Error> {
    let failed = |source: io::Error| Error::Format {
        path: path.to_owned(),
        format: Format::Vmdk,
        source,
    };
    let descriptor = known_lines(&read_descriptor(path, file)?);
    let storage = in_memory(&descriptor)
        .and_then(|file| imago_file(path, file))
        .map_err(failed)?;
    let mut disk = Vmdk::<ImagoFile>::open_image(storage, false).map_err(failed)?;
    let mut gate = Beside {
        folder: path.parent().unwrap_or(Path::new("")).to_owned(),
        files: Vec::new(),
        refused: None,
    };
    if let Err(source) = disk.open_implicit_dependencies_gated(&mut gate) {
        return Err(gate.refused.take().unwrap_or_else(|| failed(source)));
    }
    Ok(Layered::new(
        path,
        Format::Vmdk,
        FormatAccess::new(disk),
        gate.files,
    ))
}

fn read_descriptor(path: &Path, file: &File) -> Result<String, Error> {
    let damaged = |what: &str| Error::Damaged {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let len = raw::len(path, file)?;
    if len > MAX_DESCRIPTOR_BYTES {
        return Err(damaged("its descriptor is larger than 2 MiB"));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    raw::read(path, file, 0, &mut bytes)?;
    // VMware names the encoding in the descriptor; the lines that matter are ASCII or UTF-8.
    String::from_utf8(bytes).map_err(|_| damaged("its descriptor is not UTF-8"))
}

fn known_lines(descriptor: &str) -> String {
    let known = |line: &&str| {
        let line = line.trim();
        let access = line.split_whitespace().next().unwrap_or_default();
        let member = line.split('=').next().unwrap_or_default().trim();
        matches!(access, "RW" | "RDONLY" | "NOACCESS") || KNOWN.contains(&member)
    };
    let mut lines: Vec<&str> = descriptor.lines().filter(known).collect();
    lines.push("");
    lines.join("\n")
}

fn in_memory(text: &str) -> io::Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create("vmdk-descriptor", flags)?);
    file.write_all(text.as_bytes())?;
    Ok(file)
}

/// Opens the files that lie beside the descriptor and no others.
struct Beside {
    folder: PathBuf,
    files: Vec<(PathBuf, File)>,
    /// Why a file was refused, which `imago` can only pass on as text.
    refused: Option<Error>,
}

impl Beside {
    fn open(&mut self, path: &Path) -> Result<ImagoFile, Error> {
        let open_error = |source| Error::Open {
            path: path.to_owned(),
            source,
        };
        let beside = path
            .strip_prefix(&self.folder)
            .is_ok_and(|name| name.components().count() == 1 && path.file_name().is_some());
        if !beside || self.files.len() >= MAX_EXTENTS {
            return Err(Error::BackingName {
                name: path.display().to_string(),
            });
        }
        let file = open_file(path)?;
        let copy = file.try_clone().map_err(open_error)?;
        self.files.push((path.to_owned(), copy));
        imago_file(path, file).map_err(open_error)
    }
}

impl ImplicitOpenGate<ImagoFile> for &mut Beside {
    fn open_format<F: FormatDriverBuilder<ImagoFile>>(
        &mut self,
        _: F,
    ) -> io::Result<FormatAccess<ImagoFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<ImagoFile> {
        let path = options.get_filename().unwrap_or(Path::new("")).to_owned();
        self.open(&path).map_err(|error| {
            self.refused = Some(error);
            io::ErrorKind::PermissionDenied.into()
        })
    }
}
