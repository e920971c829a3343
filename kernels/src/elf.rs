//! ELF kernels: the segments to load and the entry points, from headers that are believed in nothing.
//!
//! Implements the ELF-64 and ELF-32 object file formats (System V gABI chapter 5) and the PVH note of Xen's
//! `docs/misc/pvh.pandoc` and `xen/include/public/elfnote.h`. Reads only the headers and the notes, whatever the
//! size of the file. Left out on purpose: sections, symbols, relocation: a kernel boots where it was linked; and
//! the ELF files of arm64, which start as an Image only.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use object::read::elf::{FileHeader, NoteIterator, ProgramHeader};
use object::{LittleEndian, elf, pod};

use crate::input::Input;
use crate::{Architecture, Entry, Error, Kernel, Machine, Segment, Unbootable, kind};

const LE: LittleEndian = LittleEndian;
type FileHeader64 = elf::FileHeader64<LittleEndian>;
type FileHeader32 = elf::FileHeader32<LittleEndian>;

/// A kernel has about five program headers.
const PROGRAM_HEADERS_LIMIT: u16 = 128;
/// Linux's notes take about 500 bytes.
const NOTES_LIMIT_BYTES: u64 = 64 << 10;

/// xen/include/public/elfnote.h: the 32-bit entry point of a PVH guest.
const XEN_ELFNOTE_PHYS32_ENTRY: elf::NoteType = elf::NoteType(18);

/// What a file header says, of either class.
struct Headers {
    entry: u64,
    /// Where the program headers are in the file.
    table: Range<u64>,
}

/// A program header of either class.
struct Part {
    kind: elf::ProgramType,
    /// Of the file; does not overflow.
    bytes: Range<u64>,
    address: u64,
    memory_bytes: u64,
    align: u64,
}

/// Opens the ELF kernel in `file` for `host`, or for any machine known here; `path` is what errors call it.
pub(crate) fn open_file(
    file: File,
    path: &Path,
    host: Option<Architecture>,
) -> Result<Kernel, Error> {
    let input = Input { file: &file, path };
    let unbootable = |source| input.unbootable(source);
    let first = input.head()?;
    let file_bytes = input.bytes()?;
    let architecture = architecture_of(&first, host).map_err(unbootable)?;
    let is_64 = architecture == Architecture::X86_64;
    let headers = match is_64 {
        true => file_header::<FileHeader64>(&first, file_bytes),
        false => file_header::<FileHeader32>(&first, file_bytes),
    };
    let headers = headers.map_err(unbootable)?;
    let table = bytes_at(input, &first, &headers.table)?;
    let parts = match is_64 {
        true => parts::<FileHeader64>(&table, file_bytes),
        false => parts::<FileHeader32>(&table, file_bytes),
    };
    let parts = parts.map_err(unbootable)?;
    let segments = segments(&parts).map_err(unbootable)?;
    let mut pvh_entry = None;
    for (range, align) in notes(&parts).map_err(unbootable)? {
        let notes = bytes_at(input, &first, &range)?;
        pvh_entry = pvh_entry.or(pvh_entry_of(&notes, align).map_err(unbootable)?);
    }
    let holds = |address: &u64| {
        segments
            .iter()
            .any(|segment| (segment.guest_address..segment.end_address()).contains(address))
    };
    let linux_entry = Some(headers.entry).filter(holds);
    let pvh_entry = pvh_entry.filter(|&entry| holds(&entry) && u32::try_from(entry).is_ok());
    let entry = match (pvh_entry, linux_entry) {
        (Some(entry), _) => Entry::Pvh(entry),
        (None, Some(entry)) if is_64 => Entry::Linux64(entry),
        (None, Some(entry)) => Entry::Linux32(entry),
        (None, None) => return Err(unbootable(bad("its entry point is outside its segments"))),
    };
    Ok(Kernel {
        file,
        path: path.to_owned(),
        segments,
        entry,
        linux64_entry: linux_entry.filter(|_| is_64),
        architecture,
        setup_header: None,
    })
}

/// The machine that an ELF file beginning with `head` is for; nothing where it is no ELF file.
pub(crate) fn machine_of(head: &[u8]) -> Option<Machine> {
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
        elf::EM_X86_64 => return Some(Architecture::X86_64.into()),
        elf::EM_386 => return Some(Architecture::I386.into()),
        elf::EM_AARCH64 => return Some(Architecture::Aarch64.into()),
        elf::EM_ARM => "arm",
        elf::EM_RISCV => "riscv",
        elf::EM_PPC64 => "ppc64",
        elf::EM_PPC => "ppc",
        elf::EM_S390 => "s390x",
        elf::EM_MIPS => "mips",
        elf::EM_LOONGARCH => "loongarch64",
        elf::EM_SPARCV9 => "sparc64",
        _ => return Some(Machine::Other(format!("ELF machine {number}"))),
    };
    Some(Machine::Other(name.to_owned()))
}

/// The architecture of an ELF kernel that begins with `head` and is for `host`. Its class follows from it.
fn architecture_of(head: &[u8], host: Option<Architecture>) -> Result<Architecture, Unbootable> {
    let machine = machine_of(head).ok_or_else(|| Unbootable::NotKernel(kind::of_head(head)))?;
    let (architecture, class) = match Unbootable::check_machine(&machine, host)? {
        x86_64 @ Architecture::X86_64 => (x86_64, elf::ELFCLASS64),
        i386 @ Architecture::I386 => (i386, elf::ELFCLASS32),
        Architecture::Aarch64 => return Err(Unbootable::Arm64Elf),
    };
    // EI_CLASS and EI_DATA.
    match (head.get(4), head.get(5)) {
        (Some(found), Some(data)) if *found == class.0 && *data == elf::ELFDATA2LSB.0 => {
            Ok(architecture)
        }
        _ => Err(bad(format!("its class is not that of {architecture}"))),
    }
}

/// Checks the file header.
fn file_header<H: FileHeader<Endian = LittleEndian>>(
    head: &[u8],
    file_bytes: u64,
) -> Result<Headers, Unbootable> {
    let truncated = |promised_bytes| Unbootable::Truncated {
        promised_bytes,
        holds_bytes: file_bytes,
    };
    let (header, _) = pod::from_bytes::<H>(head).map_err(|_| truncated(size_of::<H>() as u64))?;
    match header.e_type(LE) {
        elf::ET_EXEC | elf::ET_DYN => {}
        elf::ET_REL => return Err(Unbootable::NotKernelElf("object file or kernel module")),
        elf::ET_CORE => return Err(Unbootable::NotKernelElf("core dump")),
        _ => return Err(bad("its type is not known")),
    }
    let count = header.e_phnum(LE);
    if count == 0 || count > PROGRAM_HEADERS_LIMIT {
        return Err(bad(format!("{count} program headers")));
    }
    let entry_bytes = size_of::<H::ProgramHeader>();
    if usize::from(header.e_phentsize(LE)) != entry_bytes {
        return Err(bad("the size of its program headers"));
    }
    let start: u64 = header.e_phoff(LE).into();
    let end = start.saturating_add(u64::from(count) * entry_bytes as u64);
    if end > file_bytes {
        return Err(truncated(end));
    }
    Ok(Headers {
        entry: header.e_entry(LE).into(),
        table: start..end,
    })
}

/// The program headers that matter, their bytes within the file.
fn parts<H: FileHeader<Endian = LittleEndian>>(
    table: &[u8],
    file_bytes: u64,
) -> Result<Vec<Part>, Unbootable> {
    let table = pod::slice_from_all_bytes::<H::ProgramHeader>(table)
        .map_err(|()| bad("its program headers"))?;
    let mut parts = Vec::new();
    for (index, header) in table.iter().enumerate() {
        let kind = header.p_type(LE);
        if ![elf::PT_LOAD, elf::PT_NOTE, elf::PT_INTERP].contains(&kind) {
            continue;
        }
        let start: u64 = header.p_offset(LE).into();
        let Some(promised_bytes) = start.checked_add(header.p_filesz(LE).into()) else {
            return Err(beyond(index));
        };
        if promised_bytes > file_bytes {
            return Err(Unbootable::Truncated {
                promised_bytes,
                holds_bytes: file_bytes,
            });
        }
        parts.push(Part {
            kind,
            bytes: start..promised_bytes,
            address: header.p_paddr(LE).into(),
            memory_bytes: header.p_memsz(LE).into(),
            align: header.p_align(LE).into(),
        });
    }
    Ok(parts)
}

/// The segments to load, in ascending order of address.
fn segments(parts: &[Part]) -> Result<Vec<Segment>, Unbootable> {
    let mut segments = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        match part.kind {
            elf::PT_INTERP => {
                return Err(Unbootable::NotKernelElf("program of an operating system"));
            }
            elf::PT_LOAD => {}
            _ => continue,
        }
        let segment = Segment {
            file_offset: part.bytes.start,
            file_bytes: part.bytes.end - part.bytes.start,
            guest_address: part.address,
            memory_bytes: part.memory_bytes,
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
        memory_end.ok_or_else(|| beyond(index))?;
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
fn notes(parts: &[Part]) -> Result<Vec<(Range<u64>, u64)>, Unbootable> {
    let mut notes = Vec::new();
    for part in parts.iter().filter(|part| part.kind == elf::PT_NOTE) {
        let bytes = part.bytes.end - part.bytes.start;
        if bytes > NOTES_LIMIT_BYTES {
            return Err(bad(format!("{bytes} bytes of notes")));
        }
        notes.push((part.bytes.clone(), part.align));
    }
    Ok(notes)
}

/// The PVH entry point that `notes` tell, if they do; notes are the same in both classes. Its size is the kernel's word's or the entry's: both occur.
fn pvh_entry_of(notes: &[u8], align: u64) -> Result<Option<u64>, Unbootable> {
    let malformed = |error: object::read::Error| bad(format!("its notes: {error}"));
    let mut notes = NoteIterator::<FileHeader64>::new(LE, align, notes).map_err(malformed)?;
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
fn bytes_at(input: Input<'_>, first: &[u8], range: &Range<u64>) -> Result<Vec<u8>, Error> {
    let overflow = |_| input.read_error(io::ErrorKind::OutOfMemory.into());
    let start = usize::try_from(range.start).map_err(overflow)?;
    let end = usize::try_from(range.end).map_err(overflow)?;
    if let Some(bytes) = first.get(start..end) {
        return Ok(bytes.to_vec());
    }
    let mut bytes = vec![0; end.saturating_sub(start)];
    let read = input.file.read_exact_at(&mut bytes, range.start);
    read.map_err(|error| input.read_error(error))?;
    Ok(bytes)
}

fn beyond(index: usize) -> Unbootable {
    bad(format!("segment {index} ends beyond the address space"))
}

fn bad(what: impl Into<String>) -> Unbootable {
    Unbootable::BadElf(what.into())
}

#[cfg(test)]
mod tests;
