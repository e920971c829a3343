//! Kernel files for tests, small and made to order: ELF kernels, an arm64 Image, and what packs them.

#![expect(clippy::cast_possible_truncation, reason = "fixtures are small")]

pub mod lzo;

use std::io::{Read, Write};

use crate::Compression;

/// Where the fixture's kernel lies, 1 MiB, and how large it is in the file and in memory, in bytes.
pub const ADDRESS: u64 = 0x10_0000;
pub const CODE_BYTES: u64 = 0x1800;
pub const MEMORY_BYTES: u64 = 0x3000;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// A program header to be, with the file's bytes it names.
#[derive(Debug, Clone)]
pub struct Part {
    pub kind: u32,
    pub address: u64,
    pub bytes: Vec<u8>,
    pub memory_bytes: u64,
}

/// An ELF file to be.
#[derive(Debug, Clone)]
pub struct Elf {
    pub machine: u16,
    pub class: u8,
    pub file_type: u16,
    pub entry: u64,
    pub parts: Vec<Part>,
}

impl Elf {
    /// A kernel with a segment and, where it is given, a PVH note with this description.
    pub fn kernel(pvh: Option<&[u8]>) -> Self {
        let code = (0..CODE_BYTES).map(|at| (at * 7 % 251) as u8).collect();
        let mut parts = vec![Part {
            kind: PT_LOAD,
            address: ADDRESS,
            bytes: code,
            memory_bytes: MEMORY_BYTES,
        }];
        parts.extend(pvh.map(note));
        Self {
            machine: 62,
            class: 2,
            file_type: 2,
            entry: ADDRESS + 0x40,
            parts,
        }
    }

    /// The same for i386, in an ELF file of 32 bits.
    pub fn kernel_i386(pvh: Option<&[u8]>) -> Self {
        Self {
            machine: 3,
            class: 1,
            ..Self::kernel(pvh)
        }
    }

    /// Bytes of the file header and of a program header.
    pub fn header_bytes(&self) -> (u64, u64) {
        match self.class {
            1 => (52, 32),
            _ => (64, 56),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let (header_bytes, part_bytes) = self.header_bytes();
        // A word of the class.
        let word = |value: u64| value.to_le_bytes()[..if self.class == 1 { 4 } else { 8 }].to_vec();
        let mut file = vec![0x7f, b'E', b'L', b'F', self.class, 1, 1];
        file.resize(16, 0);
        file.extend(self.file_type.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend([word(self.entry), word(header_bytes), word(0)].concat());
        file.extend([0; 4]);
        let count = self.parts.len() as u16;
        for half in [header_bytes as u16, part_bytes as u16, count, 0, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut data: Vec<u8> = Vec::new();
        let data_start = header_bytes + part_bytes * u64::from(count);
        for part in &self.parts {
            let flags = 7u32.to_le_bytes();
            file.extend(part.kind.to_le_bytes());
            if self.class == 2 {
                file.extend(flags);
            }
            let length = part.bytes.len() as u64;
            for value in [
                data_start + data.len() as u64,
                part.address,
                part.address,
                length,
                part.memory_bytes,
            ] {
                file.extend(word(value));
            }
            if self.class == 1 {
                file.extend(flags);
            }
            file.extend(word(4));
            data.extend(&part.bytes);
        }
        file.extend(data);
        file
    }
}

/// The note XEN_ELFNOTE_PHYS32_ENTRY after another one, which is to be skipped.
pub fn note(description: &[u8]) -> Part {
    let mut bytes = Vec::new();
    for (name, kind, description) in [(b"GNU\0", 3u32, &b"12345"[..]), (b"Xen\0", 18, description)]
    {
        bytes.extend(4u32.to_le_bytes());
        bytes.extend((description.len() as u32).to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(name);
        bytes.extend(description);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    Part {
        kind: PT_NOTE,
        address: 0,
        memory_bytes: bytes.len() as u64,
        bytes,
    }
}

/// The ELF kernel that the tests unpack: with a PVH entry.
pub fn vmlinux() -> Vec<u8> {
    Elf::kernel(Some(&(ADDRESS as u32 + 0x80).to_le_bytes())).bytes()
}

/// A bzImage of protocol 2.15 around `payload`, with the setup header's fields where boot.rst has them.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    const SETUP_SECTORS: usize = 2;
    const PAYLOAD_OFFSET: usize = 0x123;
    let mut file = vec![0x90; (SETUP_SECTORS + 1) * 512 + PAYLOAD_OFFSET];
    file[0x1f1] = SETUP_SECTORS as u8;
    file[0x1fe..0x202].copy_from_slice(&[0x55, 0xaa, 0xeb, 0x6a]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    file[0x211] = 1;
    file[0x236..0x238].copy_from_slice(&0x3fu16.to_le_bytes());
    file[0x248..0x24c].copy_from_slice(&(PAYLOAD_OFFSET as u32).to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend(payload);
    // What a signature for secure boot adds.
    file.extend([0xcc; 99]);
    file
}

/// The bytes that [`arm64_image`] has in the file and in memory.
pub const IMAGE_BYTES: u64 = 0x2000;
pub const IMAGE_MEMORY_BYTES: u64 = 0x5000;

/// A file with the PE header of an EFI program for this machine, and one section from 0x200 on.
pub fn pe(machine: u16, file_bytes: u64) -> Vec<u8> {
    const HEADER: usize = 0x80;
    const SECTION: usize = HEADER + 24 + 0x70;
    let mut file: Vec<u8> = (0..file_bytes).map(|at| (at * 5 % 251) as u8).collect();
    file[..0x200].fill(0);
    file[..2].copy_from_slice(b"MZ");
    file[0x3c] = HEADER as u8;
    file[HEADER..HEADER + 4].copy_from_slice(b"PE\0\0");
    file[HEADER + 4..HEADER + 6].copy_from_slice(&machine.to_le_bytes());
    file[HEADER + 6] = 1;
    file[HEADER + 20] = 0x70;
    file[SECTION + 16..SECTION + 20].copy_from_slice(&(file_bytes as u32 - 0x200).to_le_bytes());
    file[SECTION + 20..SECTION + 24].copy_from_slice(&0x200u32.to_le_bytes());
    file
}

/// An arm64 Image of today: text_offset 0, little-endian, 4 KiB pages, anywhere in memory; an EFI program too.
pub fn arm64_image() -> Vec<u8> {
    let mut file = pe(0xaa64, IMAGE_BYTES);
    file[16..24].copy_from_slice(&IMAGE_MEMORY_BYTES.to_le_bytes());
    file[24] = 0b1010;
    file[0x38..0x3c].copy_from_slice(b"ARM\x64");
    file
}

/// An EFI zboot program around `packed`, which is [`payload`]'s, as zboot-header.S and Makefile.zboot have it.
pub fn zboot(compression: Compression, packed: &[u8]) -> Vec<u8> {
    const PAYLOAD_OFFSET: u64 = 0x400;
    let mut file = pe(0xaa64, PAYLOAD_OFFSET);
    let size_bytes = if compression.size_is_appended() { 4 } else { 0 };
    let payload_bytes = packed.len() as u32 - size_bytes;
    file[4..8].copy_from_slice(b"zimg");
    file[8..12].copy_from_slice(&(PAYLOAD_OFFSET as u32).to_le_bytes());
    file[12..16].copy_from_slice(&payload_bytes.to_le_bytes());
    file[24..28].copy_from_slice(b"comp");
    file.extend(packed);
    // The decompressor, and what a signature for secure boot adds.
    file.extend([0xcc; 99]);
    file
}

/// All compressions.
pub const READ: [Compression; 7] = [
    Compression::Gzip,
    Compression::Bzip2,
    Compression::Lzma,
    Compression::Xz,
    Compression::Lzo,
    Compression::Lz4,
    Compression::Zstd,
];

/// Compresses as the kernel's build does, with the size after it where that is the custom.
pub fn payload(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut packed = compress(compression, bytes);
    if compression.size_is_appended() {
        packed.extend((bytes.len() as u32).to_le_bytes());
    }
    packed
}

pub fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
    let mut packed = Vec::new();
    let options = LzmaOptions::new_preset(6).unwrap();
    let count = match compression {
        Compression::Gzip => flate2::read::GzEncoder::new(bytes, flate2::Compression::best())
            .read_to_end(&mut packed),
        Compression::Bzip2 => {
            bzip2::read::BzEncoder::new(bytes, bzip2::Compression::best()).read_to_end(&mut packed)
        }
        Compression::Lzma => {
            let stream = Stream::new_lzma_encoder(&options).unwrap();
            liblzma::read::XzEncoder::new_stream(bytes, stream).read_to_end(&mut packed)
        }
        // scripts/xz_wrap.sh: the x86 branch filter, CRC32.
        Compression::Xz => {
            let stream =
                Stream::new_stream_encoder(Filters::new().x86().lzma2(&options), Check::Crc32)
                    .unwrap();
            liblzma::read::XzEncoder::new_stream(bytes, stream).read_to_end(&mut packed)
        }
        Compression::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new().legacy_frame(true);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, &mut packed);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap();
            Ok(0)
        }
        Compression::Zstd => zstd::stream::read::Encoder::new(bytes, 19)
            .unwrap()
            .read_to_end(&mut packed),
        Compression::Lzo => {
            packed.extend(lzo::lzop(bytes));
            Ok(0)
        }
    };
    count.unwrap();
    packed
}

fn be32(value: usize) -> [u8; 4] {
    (value as u32).to_be_bytes()
}
