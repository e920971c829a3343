//! LZO: a reader of lzop files, which is what the kernel's build makes of it (`lzop -9`).
//!
//! Implements the stream as Linux `Documentation/staging/lzo.rst` has it (version 0, which lzop writes), and the
//! container as far as Linux `lib/decompress_unlzo.c` reads it; unlike that it verifies the Adler-32 of each block. An own
//! reader, because no crate for it is kept up. Left out on purpose: filters, extra fields and multi-part files, which
//! Linux does not read either; the checksums of the header and of compressed bytes.

use std::io::{self, Read};

/// The size of lzop's blocks, unpacked: Linux takes no larger ones.
const BLOCK_BYTES: usize = 256 << 10;

const MAGIC: [u8; 9] = [0x89, b'L', b'Z', b'O', 0, b'\r', b'\n', 0x1a, b'\n'];

/// lzop's flags: which checksums a block has, and what is not read here.
const ADLER32_UNPACKED: u32 = 0x1;
const ADLER32_PACKED: u32 = 0x2;
const EXTRA_FIELD: u32 = 0x40;
const CRC32_UNPACKED: u32 = 0x100;
const CRC32_PACKED: u32 = 0x200;
const MULTIPART: u32 = 0x400;
const FILTER: u32 = 0x800;

/// Since this version headers have a level and 64 bits of time.
const VERSION_WITH_LEVEL: u16 = 0x0940;

/// Unpacks an lzop file; holds a block at a time.
pub(crate) struct Reader<R> {
    packed: R,
    flags: u32,
    block: Vec<u8>,
    /// How much of the block was given out.
    given: usize,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub fn new(mut packed: R) -> io::Result<Self> {
        let magic: [u8; 9] = array(&mut packed)?;
        if magic != MAGIC {
            return Err(invalid("no lzop file"));
        }
        // The program's version, its library's, the one needed to unpack, the method.
        let [high, low, ..]: [u8; 7] = array(&mut packed)?;
        let has_level = u16::from_be_bytes([high, low]) >= VERSION_WITH_LEVEL;
        if has_level {
            let _level: [u8; 1] = array(&mut packed)?;
        }
        let flags = u32::from_be_bytes(array(&mut packed)?);
        if flags & (EXTRA_FIELD | MULTIPART | FILTER) != 0 {
            return Err(invalid("an lzop file with filters or extra fields"));
        }
        let _mode_and_time: [u8; 8] = array(&mut packed)?;
        if has_level {
            let _high_half_of_time: [u8; 4] = array(&mut packed)?;
        }
        let [name_bytes]: [u8; 1] = array(&mut packed)?;
        // The name, and the header's checksum.
        let rest = u64::from(name_bytes) + 4;
        let skipped = io::copy(&mut (&mut packed).take(rest), &mut io::sink())?;
        if skipped != rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self {
            packed,
            flags,
            block: Vec::new(),
            given: 0,
            ended: false,
        })
    }

    /// Unpacks the next block, or finds the end.
    fn next_block(&mut self) -> io::Result<()> {
        self.given = 0;
        self.block.clear();
        let unpacked_bytes = size(u32::from_be_bytes(array(&mut self.packed)?))?;
        if unpacked_bytes == 0 {
            self.ended = true;
            return Ok(());
        }
        let packed_bytes = size(u32::from_be_bytes(array(&mut self.packed)?))?;
        if packed_bytes == 0 || packed_bytes > unpacked_bytes {
            return Err(invalid("the size of an LZO block"));
        }
        let adler32 = self.checksum(ADLER32_UNPACKED)?;
        self.checksum(CRC32_UNPACKED)?;
        // A block that did not shrink is stored as it is, and has no checksum of packed bytes.
        let is_stored = packed_bytes == unpacked_bytes;
        if !is_stored {
            self.checksum(ADLER32_PACKED)?;
            self.checksum(CRC32_PACKED)?;
        }
        let mut packed = vec![0; packed_bytes];
        self.packed.read_exact(&mut packed)?;
        self.block = match is_stored {
            true => packed,
            false => unpack_block(&packed, unpacked_bytes)?,
        };
        match adler32 {
            Some(expected) if expected != adler32_of(&self.block) => {
                Err(invalid("the checksum of an LZO block"))
            }
            _ => Ok(()),
        }
    }

    /// A checksum, where blocks have it.
    fn checksum(&mut self, flag: u32) -> io::Result<Option<u32>> {
        match self.flags & flag {
            0 => Ok(None),
            _ => Ok(Some(u32::from_be_bytes(array(&mut self.packed)?))),
        }
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.block.len() && !self.ended {
            self.next_block()?;
        }
        let left = self.block.get(self.given..).unwrap_or_default();
        let count = left.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), left.get(..count)) {
            to.copy_from_slice(from);
        }
        self.given += count;
        Ok(count)
    }
}

/// Unpacks a block that is to have `bytes`.
fn unpack_block(packed: &[u8], bytes: usize) -> io::Result<Vec<u8>> {
    let mut from = Packed(packed);
    let mut to = Unpacked {
        out: Vec::with_capacity(bytes),
        bytes,
    };
    // How many literals the last instruction copied: none, one to three, or more.
    let mut literals = 0;
    // The first byte has an encoding of its own, above 17.
    if let Some(first) = packed.first().filter(|first| **first > 17) {
        from.byte()?;
        literals = usize::from(*first - 17);
        to.literals(&mut from, literals)?;
    }
    loop {
        let code = usize::from(from.byte()?);
        let (length, distance, following) = match (code, literals) {
            (0..=15, 0) => {
                literals = 3 + from.length(code, 15)?;
                to.literals(&mut from, literals)?;
                continue;
            }
            (0..=15, 1..=3) => (2, from.near(code >> 2, 2)? + 1, code),
            (0..=15, _) => (3, from.near(code >> 2, 2)? + 2049, code),
            (16..=31, _) => {
                let length = 2 + from.length(code & 7, 7)?;
                let word = from.le16()?;
                let distance = 16384 + ((code & 8) << 11) + (word >> 2);
                if distance == 16384 {
                    break;
                }
                (length, distance, word)
            }
            (32..=63, _) => {
                let length = 2 + from.length(code & 31, 31)?;
                let word = from.le16()?;
                (length, (word >> 2) + 1, word)
            }
            (64..=127, _) => {
                let distance = from.near(code >> 2 & 7, 3)? + 1;
                (3 + (code >> 5 & 1), distance, code)
            }
            _ => {
                let distance = from.near(code >> 2 & 7, 3)? + 1;
                (5 + (code >> 5 & 3), distance, code)
            }
        };
        to.repeat(distance, length)?;
        literals = following & 3;
        to.literals(&mut from, literals)?;
    }
    match (to.out.len() == bytes, from.0) {
        (true, []) => Ok(to.out),
        _ => Err(invalid("the end of an LZO block")),
    }
}

/// What is left of a block's packed bytes.
struct Packed<'a>(&'a [u8]);

impl<'a> Packed<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(too_short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> io::Result<u8> {
        let (byte, rest) = self.0.split_first().ok_or_else(too_short)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn le16(&mut self) -> io::Result<usize> {
        Ok(usize::from(self.byte()?) | usize::from(self.byte()?) << 8)
    }

    /// A distance of low bits that the code has, and of the byte that follows.
    fn near(&mut self, low: usize, low_bits: u32) -> io::Result<usize> {
        Ok((usize::from(self.byte()?) << low_bits) + low)
    }

    /// A length that the code has; zero means that it is longer, by 255 for each zero byte and by the byte after these.
    /// It is bounded by 255 times the block.
    fn length(&mut self, short: usize, longest_short: usize) -> io::Result<usize> {
        if short != 0 {
            return Ok(short);
        }
        let mut length = longest_short;
        loop {
            match self.byte()? {
                0 => length += 255,
                last => return Ok(length + usize::from(last)),
            }
        }
    }
}

/// A block on its way.
struct Unpacked {
    out: Vec<u8>,
    /// What it is to have; never more.
    bytes: usize,
}

impl Unpacked {
    fn literals(&mut self, from: &mut Packed<'_>, count: usize) -> io::Result<()> {
        self.check_room(count)?;
        self.out.extend_from_slice(from.take(count)?);
        Ok(())
    }

    /// Copies `length` bytes from `distance` back; they may overlap what they become.
    fn repeat(&mut self, distance: usize, mut length: usize) -> io::Result<()> {
        self.check_room(length)?;
        let start = self.out.len().checked_sub(distance);
        let start = start.ok_or_else(|| invalid("a distance beyond the start of an LZO block"))?;
        while length > 0 {
            let count = length.min(self.out.len() - start);
            self.out.extend_from_within(start..start + count);
            length -= count;
        }
        Ok(())
    }

    fn check_room(&self, count: usize) -> io::Result<()> {
        match count <= self.bytes - self.out.len() {
            true => Ok(()),
            false => Err(invalid("an LZO block larger than it says")),
        }
    }
}

/// RFC 1950 §8.2.
fn adler32_of(bytes: &[u8]) -> u32 {
    let (mut low, mut high) = (1u32, 0u32);
    // The most bytes that do not overflow.
    for chunk in bytes.chunks(5552) {
        for byte in chunk {
            low += u32::from(*byte);
            high += low;
        }
        low %= 65521;
        high %= 65521;
    }
    high << 16 | low
}

/// The size of a block, packed or not.
fn size(bytes: u32) -> io::Result<usize> {
    let size = usize::try_from(bytes).ok();
    size.filter(|size| *size <= BLOCK_BYTES)
        .ok_or_else(|| invalid("the size of an LZO block"))
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut array = [0; N];
    from.read_exact(&mut array)?;
    Ok(array)
}

fn too_short() -> io::Error {
    invalid("an LZO block that ends too early")
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
