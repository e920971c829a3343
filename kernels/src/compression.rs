//! The compressions that kernels and ramdisks come in, told apart by their magic numbers, and a reader for each.
//!
//! The list is Linux `lib/decompress.c`.

use std::fmt;
use std::io::{self, BufRead, Read};

use crate::lzo;

/// Memory that an xz or lzma decoder may take, in bytes. Linux's largest dictionary is 128 MiB.
const LZMA_MEMORY_LIMIT_BYTES: u64 = 256 << 20;

/// How a kernel or a ramdisk is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Bzip2,
    Lzma,
    Xz,
    /// In the container of lzop.
    Lzo,
    /// The legacy frame that Linux uses, and the current one.
    Lz4,
    Zstd,
}

const MAGICS: [(&[u8], Compression); 9] = [
    (&[0x1f, 0x8b], Compression::Gzip),
    (&[0x1f, 0x9e], Compression::Gzip),
    (b"BZh", Compression::Bzip2),
    (&[0x5d, 0x00, 0x00], Compression::Lzma),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
    (&[0x89, b'L', b'Z', b'O'], Compression::Lzo),
    (&[0x02, 0x21, 0x4c, 0x18], Compression::Lz4),
    (&[0x04, 0x22, 0x4d, 0x18], Compression::Lz4),
    (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
];

impl Compression {
    /// Which compression data that begins with `bytes` has.
    #[must_use]
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        MAGICS
            .iter()
            .find(|(magic, _)| bytes.starts_with(magic))
            .map(|(_, compression)| *compression)
    }

    /// Whether the kernel's build appends the unpacked size, a little-endian u32 that is no part of the
    /// compressed stream (Linux `scripts/Makefile.lib`, `size_append`). gzip's own trailer ends with it.
    pub(crate) fn size_is_appended(self) -> bool {
        self != Self::Gzip
    }

    /// A reader of what `packed` unpacks to.
    pub(crate) fn reader<'a, R: BufRead + 'a>(self, packed: R) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            Self::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(packed)),
            Self::Lzma => Box::new(liblzma::bufread::XzDecoder::new_stream(
                packed,
                liblzma::stream::Stream::new_lzma_decoder(LZMA_MEMORY_LIMIT_BYTES)?,
            )),
            Self::Xz => Box::new(liblzma::bufread::XzDecoder::new_stream(
                packed,
                liblzma::stream::Stream::new_stream_decoder(LZMA_MEMORY_LIMIT_BYTES, 0)?,
            )),
            Self::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(packed)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
            Self::Lzo => Box::new(lzo::Reader::new(packed)?),
        })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lzo => "lzo",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

#[cfg(test)]
mod tests;
