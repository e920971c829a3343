//! ELF kernels: the segments to load and the entry points, from headers that are believed in nothing.
//!
//! Implements the ELF-64 object file format (System V gABI chapter 5) and the PVH note of Xen's
//! `docs/misc/pvh.pandoc` and `xen/include/public/elfnote.h`. Reads only the headers and the notes, whatever the
//! size of the file. Left out on purpose: sections, symbols, relocation: a kernel boots where it was linked.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use object::read::elf::NoteIterator;
use object::{LittleEndian, elf, pod};

use crate::{Architecture, Entry, Error, Kernel, Segment, Unbootable, head, kind};

type FileHeader = elf::FileHeader64<LittleEndian>;
type ProgramHeader = elf::ProgramHeader64<LittleEndian>;
const LE: LittleEndian = LittleEndian;

/// A kernel has about five program headers.
const PROGRAM_HEADERS_LIMIT: u16 = 128;
/// Linux's notes take about 500 bytes.
const NOTES_LIMIT_BYTES: u64 = 64 << 10;

/// xen/include/public/elfnote.h: the 32-bit entry point of a PVH guest.
const XEN_ELFNOTE_PHYS32_ENTRY: elf::NoteType = elf::NoteType(18);

/// Opens the ELF kernel at `path`.
///
/// # Errors
/// Where the file cannot be read, is no ELF kernel, is malformed or truncated, or is for another machine.
pub fn open_elf(path: &Path) -> Result<Kernel, Error> {
    open_elf_file(crate::open(path)?, path)
}

/// The same for a file that is open already; `path` is what errors call it.
///
/// # Errors
/// See [`open_elf`].
pub fn open_elf_file(file: File, path: &Path) -> Result<Kernel, Error> {
    let read = |source| Error::read(path, source);
    let unbootable = |source| Error::unbootable(path, source);
    let first = head(&file, kind::HEAD_BYTES).map_err(read)?;
    let file_bytes = file.metadata().map_err(read)?.len();
    let (header, table) = file_header(&first, file_bytes).map_err(unbootable)?;
    let table = bytes_at(&file, &first, &table).map_err(read)?;
    let table = pod::slice_from_all_bytes::<ProgramHeader>(&table)
        .map_err(|()| unbootable(bad("its program headers")))?;
    let segments = segments(table, file_bytes).map_err(unbootable)?;
    let mut pvh_entry = None;
    for (range, align) in notes(table, file_bytes).map_err(unbootable)? {
        let notes = bytes_at(&file, &first, &range).map_err(read)?;
        pvh_entry = pvh_entry.or(pvh_entry_of(&notes, align).map_err(unbootable)?);
    }
    let holds = |address: &u64| {
        segments
            .iter()
            .any(|segment| (segment.guest_address..segment.end_address()).contains(address))
    };
    let linux64_entry = Some(header.e_entry.get(LE)).filter(holds);
    let pvh_entry = pvh_entry.filter(|&entry| holds(&entry) && u32::try_from(entry).is_ok());
    let entry = match (pvh_entry, linux64_entry) {
        (Some(entry), _) => Entry::Pvh(entry),
        (None, Some(entry)) => Entry::Linux64(entry),
        (None, None) => return Err(unbootable(bad("its entry point is outside its segments"))),
    };
    Ok(Kernel {
        file,
        path: path.to_owned(),
        segments,
        entry,
        linux64_entry,
        architecture: Architecture::X86_64,
        setup_header: None,
    })
}

/// The name of the machine that an ELF file beginning with `head` is for; nothing where it is no ELF file.
pub(crate) fn machine_of(head: &[u8]) -> Option<String> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    // e_machine is at 18 in both classes; EI_DATA says its byte order.
    let bytes: [u8; 2] = head.get(18..20)?.try_into().ok()?;
    let number = match head.get(5)? {
        2 => u16::from_be_bytes(bytes),
        _ => u16::from_le_bytes(bytes),
    };
    let name = match elf::Machine(number) {
        elf::EM_X86_64 => "x86_64",
        elf::EM_AARCH64 => "arm64",
        elf::EM_386 => "i386",
        elf::EM_ARM => "arm",
        elf::EM_RISCV => "riscv",
        elf::EM_PPC64 => "ppc64",
        elf::EM_PPC => "ppc",
        elf::EM_S390 => "s390x",
        elf::EM_MIPS => "mips",
        elf::EM_LOONGARCH => "loongarch64",
        elf::EM_SPARCV9 => "sparc64",
        _ => return Some(format!("ELF machine {number}")),
    };
    Some(name.to_owned())
}

/// Checks the file header; returns it and where the program headers are.
fn file_header(head: &[u8], file_bytes: u64) -> Result<(&FileHeader, Range<u64>), Unbootable> {
    let Some(found) = machine_of(head) else {
        return Err(Unbootable::of_kind(kind::of_head(head)));
    };
    let truncated = |promised_bytes| Unbootable::Truncated {
        promised_bytes,
        holds_bytes: file_bytes,
    };
    let (header, _) = pod::from_bytes::<FileHeader>(head)
        .map_err(|_| truncated(size_of::<FileHeader>() as u64))?;
    let ident = &header.e_ident;
    if header.e_machine.get(LE) != elf::EM_X86_64
        || ident.class != elf::ELFCLASS64
        || ident.data != elf::ELFDATA2LSB
    {
        let host = Architecture::HOST;
        return Err(Unbootable::WrongMachine { found, host });
    }
    match header.e_type.get(LE) {
        elf::ET_EXEC | elf::ET_DYN => {}
        elf::ET_REL => return Err(Unbootable::NotKernelElf("object file or kernel module")),
        elf::ET_CORE => return Err(Unbootable::NotKernelElf("core dump")),
        _ => return Err(bad("its type is not known")),
    }
    let count = header.e_phnum.get(LE);
    if count == 0 || count > PROGRAM_HEADERS_LIMIT {
        return Err(bad(format!("{count} program headers")));
    }
    if usize::from(header.e_phentsize.get(LE)) != size_of::<ProgramHeader>() {
        return Err(bad("the size of its program headers"));
    }
    let start = header.e_phoff.get(LE);
    let end = start.saturating_add(u64::from(count) * size_of::<ProgramHeader>() as u64);
    if end > file_bytes {
        return Err(truncated(end));
    }
    Ok((header, start..end))
}

/// The segments to load, in ascending order of address.
fn segments(table: &[ProgramHeader], file_bytes: u64) -> Result<Vec<Segment>, Unbootable> {
    let mut segments = Vec::new();
    for (index, header) in table.iter().enumerate() {
        match header.p_type.get(LE) {
            elf::PT_INTERP => {
                return Err(Unbootable::NotKernelElf("program of an operating system"));
            }
            elf::PT_LOAD => {}
            _ => continue,
        }
        let segment = Segment {
            file_offset: header.p_offset.get(LE),
            file_bytes: header.p_filesz.get(LE),
            guest_address: header.p_paddr.get(LE),
            memory_bytes: header.p_memsz.get(LE),
        };
        if segment.memory_bytes == 0 && segment.file_bytes == 0 {
            continue;
        }
        if segment.file_bytes > segment.memory_bytes {
            return Err(bad(format!(
                "segment {index} is larger in the file than in memory"
            )));
        }
        let memory_end = segment.guest_address.checked_add(segment.memory_bytes);
        let file_end = segment.file_offset.checked_add(segment.file_bytes);
        let (Some(_), Some(promised_bytes)) = (memory_end, file_end) else {
            return Err(bad(format!(
                "segment {index} ends beyond the address space"
            )));
        };
        if promised_bytes > file_bytes {
            return Err(Unbootable::Truncated {
                promised_bytes,
                holds_bytes: file_bytes,
            });
        }
        segments.push(segment);
    }
    if segments.is_empty() {
        return Err(bad("it has nothing to load"));
    }
    segments.sort_by_key(|segment| segment.guest_address);
    let pairs = segments.iter().zip(segments.iter().skip(1));
    for (lower, upper) in pairs {
        if lower.end_address() > upper.guest_address {
            let address = upper.guest_address;
            return Err(bad(format!("its segments overlap at {address:#x}")));
        }
    }
    Ok(segments)
}

/// Where the notes are and how they are aligned.
fn notes(table: &[ProgramHeader], file_bytes: u64) -> Result<Vec<(Range<u64>, u64)>, Unbootable> {
    let mut notes = Vec::new();
    for header in table {
        if header.p_type.get(LE) != elf::PT_NOTE {
            continue;
        }
        let (start, bytes) = (header.p_offset.get(LE), header.p_filesz.get(LE));
        if bytes > NOTES_LIMIT_BYTES {
            return Err(bad(format!("{bytes} bytes of notes")));
        }
        let end = start.saturating_add(bytes);
        if end > file_bytes {
            return Err(Unbootable::Truncated {
                promised_bytes: end,
                holds_bytes: file_bytes,
            });
        }
        notes.push((start..end, header.p_align.get(LE)));
    }
    Ok(notes)
}

/// The PVH entry point that `notes` tell, if they do. Its size is the kernel's word's or the entry's: both occur.
fn pvh_entry_of(notes: &[u8], align: u64) -> Result<Option<u64>, Unbootable> {
    let malformed = |error: object::read::Error| bad(format!("its notes: {error}"));
    let mut notes = NoteIterator::<FileHeader>::new(LE, align, notes).map_err(malformed)?;
    while let Some(note) = notes.next().map_err(malformed)? {
        if note.name() != b"Xen" || note.n_type(LE) != XEN_ELFNOTE_PHYS32_ENTRY {
            continue;
        }
        let entry = match *note.desc() {
            [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => return Err(bad("its PVH entry has neither 4 nor 8 bytes")),
        };
        return Ok(Some(entry));
    }
    Ok(None)
}

/// The bytes of `range`, from `first` (the file's beginning) where they are within, so that the headers of a
/// usual kernel cost one read. The caller has checked the range against the file's size and a limit.
fn bytes_at(file: &File, first: &[u8], range: &Range<u64>) -> io::Result<Vec<u8>> {
    let overflow = |_| io::Error::from(io::ErrorKind::OutOfMemory);
    let start = usize::try_from(range.start).map_err(overflow)?;
    let end = usize::try_from(range.end).map_err(overflow)?;
    if let Some(bytes) = first.get(start..end) {
        return Ok(bytes.to_vec());
    }
    let mut bytes = vec![0; end.saturating_sub(start)];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

fn bad(what: impl Into<String>) -> Unbootable {
    Unbootable::BadElf(what.into())
}

#[cfg(test)]
mod tests;
