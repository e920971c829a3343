//! A kernel that is packed in another file: where its compressed bytes are, and how it is unpacked.
//!
//! Three kinds of files hold one: a bzImage, an EFI zboot program, and a file that is compressed as a whole
//! (`Image.gz`). What comes out is an ELF file or an arm64 Image; anything else is refused as soon as its first bytes
//! are seen. What comes out of a decoder is bounded: by the size that the file promises, where it does, and by
//! [`UNPACKED_LIMIT_BYTES`].

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::input::Input;
use crate::kind::{self, FileKind};
use crate::{Architecture, Compression, Error, Unbootable, bzimage, zboot};

/// An unpacked kernel larger than this is refused, in bytes. Distribution kernels stay below 100 MiB.
pub(crate) const UNPACKED_LIMIT_BYTES: u64 = 512 << 20;

/// Bytes moved at a time when unpacking.
const COPY_BYTES: usize = 256 << 10;

/// A magic number and a size at least, in bytes.
const PAYLOAD_MIN_BYTES: u64 = 8;

/// Where the kernel is in a file that packs one.
#[derive(Debug)]
pub(crate) struct Packed {
    compression: Compression,
    /// Offset in the file of the first compressed byte.
    offset: u64,
    /// How many there are.
    bytes: u64,
    /// The unpacked kernel's size in bytes, where the file says it.
    promised_bytes: Option<u64>,
    /// More unpacked bytes than this are refused, where the file does not say how many there are.
    limit_bytes: u64,
    /// A bzImage's setup header; see [`crate::Kernel::setup_header`].
    pub setup_header: Option<Vec<u8>>,
}

impl Packed {
    /// Finds the kernel that the bzImage `input` packs.
    pub fn in_bzimage(input: Input<'_>, head: &[u8]) -> Result<Self, Error> {
        let header = bzimage::parse(head, input.bytes()?).map_err(|e| input.unbootable(e))?;
        let compression = Self::detect(input, header.payload_offset, header.payload_bytes)?;
        Ok(Self {
            setup_header: Some(header.setup_header),
            ..Self::sized(
                input,
                compression,
                header.payload_offset,
                header.payload_bytes,
            )?
        })
    }

    /// Finds the kernel that the EFI zboot program `input` packs.
    pub fn in_zboot(input: Input<'_>, head: &[u8]) -> Result<Self, Error> {
        let file_bytes = input.bytes()?;
        let header = zboot::parse(head, file_bytes).map_err(|e| input.unbootable(e))?;
        let compression = Self::detect(input, header.payload_offset, header.payload_bytes)?;
        let with_size = match compression.size_is_appended() {
            true => header.payload_bytes.saturating_add(4),
            false => header.payload_bytes,
        };
        let promised_bytes = header.payload_offset.saturating_add(with_size);
        if promised_bytes > file_bytes {
            return Err(input.unbootable(Unbootable::Truncated {
                promised_bytes,
                holds_bytes: file_bytes,
            }));
        }
        Self::sized(input, compression, header.payload_offset, with_size)
    }

    /// The file `input`, which is compressed as a whole. It does not say how large it unpacks: gzip's own word for
    /// that is that of its last member only.
    pub fn whole(input: Input<'_>, compression: Compression) -> Result<Self, Error> {
        Ok(Self {
            compression,
            offset: 0,
            bytes: input.bytes()?,
            promised_bytes: None,
            limit_bytes: UNPACKED_LIMIT_BYTES,
            setup_header: None,
        })
    }

    /// How the payload of `bytes` at `offset`, which lies within the file, is compressed.
    fn detect(input: Input<'_>, offset: u64, bytes: u64) -> Result<Compression, Error> {
        if bytes < PAYLOAD_MIN_BYTES {
            return Err(input.unbootable(Unbootable::NoPayload));
        }
        let first: [u8; 8] = input.array_at(offset)?;
        Compression::detect(&first).ok_or_else(|| {
            let first_bytes = first.to_vec();
            input.unbootable(Unbootable::UnknownCompression { first_bytes })
        })
    }

    /// A payload whose last four bytes, within the file, say its unpacked size.
    fn sized(
        input: Input<'_>,
        compression: Compression,
        offset: u64,
        bytes: u64,
    ) -> Result<Self, Error> {
        let end = offset.saturating_add(bytes);
        let promised_bytes = u32::from_le_bytes(input.array_at(end.saturating_sub(4))?).into();
        if promised_bytes > UNPACKED_LIMIT_BYTES {
            return Err(input.unbootable(Unbootable::TooLarge {
                promised_bytes,
                limit_bytes: UNPACKED_LIMIT_BYTES,
            }));
        }
        Ok(Self {
            compression,
            offset,
            bytes: match compression.size_is_appended() {
                true => bytes.saturating_sub(4),
                false => bytes,
            },
            promised_bytes: Some(promised_bytes),
            limit_bytes: UNPACKED_LIMIT_BYTES,
            setup_header: None,
        })
    }

    /// What the unpacked bytes are, from the first of them; nothing where these cannot be unpacked.
    pub fn content(&self, input: Input<'_>) -> Option<FileKind> {
        let mut first = vec![0; crate::input::HEAD_BYTES];
        let count = fill(&mut self.reader(input).ok()?, &mut first).ok()?;
        Some(kind::of_head(first.get(..count)?))
    }

    /// Unpacks into `out` (at `to`) a kernel that runs on `host`, or on any machine known here; returns size and
    /// digest of what came.
    pub fn unpack(
        &self,
        input: Input<'_>,
        host: Option<Architecture>,
        out: &mut File,
        to: &Path,
    ) -> Result<(u64, blake3::Hash), Error> {
        let limit_bytes = self.promised_bytes.unwrap_or(self.limit_bytes);
        // One byte more than promised shows that there is more.
        let mut unpacked = self.reader(input)?.take(limit_bytes + 1);
        let mut hasher = blake3::Hasher::new();
        let mut unpacked_bytes = 0;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let count = fill(&mut unpacked, &mut buffer).map_err(|e| self.corrupt(input, e))?;
            let bytes = buffer.get(..count).unwrap_or_default();
            if unpacked_bytes == 0 {
                self.check_content(kind::of_head(bytes), host)
                    .map_err(|e| input.unbootable(e))?;
            }
            if bytes.is_empty() {
                break;
            }
            hasher.update(bytes);
            out.write_all(bytes)
                .map_err(|source| Error::write(to, source))?;
            unpacked_bytes += count as u64;
        }
        let refused = match self.promised_bytes {
            Some(promised_bytes) if unpacked_bytes != promised_bytes => Unbootable::WrongSize {
                unpacked_bytes,
                promised_bytes,
            },
            None if unpacked_bytes > limit_bytes => Unbootable::Unbounded { limit_bytes },
            _ => return Ok((unpacked_bytes, hasher.finalize())),
        };
        Err(input.unbootable(refused))
    }

    /// Whether `content`, which came out, is a kernel, for `host` if that is given.
    fn check_content(
        &self,
        content: FileKind,
        host: Option<Architecture>,
    ) -> Result<(), Unbootable> {
        match (&content, content.machine()) {
            (FileKind::Elf { .. } | FileKind::Arm64Image, Some(machine)) => {
                Unbootable::check_machine(&machine, host).map(|_| ())
            }
            _ if self.promised_bytes.is_some() => Err(Unbootable::HoldsNoKernel(content)),
            _ => Err(Unbootable::NotKernel(kind::compressed(
                self.compression,
                content,
            ))),
        }
    }

    /// A reader of the unpacked bytes; moves the file's position.
    fn reader<'a>(&self, input: Input<'a>) -> Result<Box<dyn Read + 'a>, Error> {
        let mut file = input.file;
        file.seek(SeekFrom::Start(self.offset))
            .map_err(|e| input.read_error(e))?;
        let packed = BufReader::with_capacity(COPY_BYTES, file).take(self.bytes);
        let reader = self.compression.reader(packed);
        reader.map_err(|e| self.corrupt(input, e))
    }

    fn corrupt(&self, input: Input<'_>, source: io::Error) -> Error {
        let compression = self.compression;
        input.unbootable(Unbootable::Corrupt {
            compression,
            source,
        })
    }
}

/// Reads until `buffer` is full or nothing is left; returns how much there is.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
