//! What keeps a guest from running.

use std::io;
use std::path::PathBuf;

use kami_image::id::ImageId;
use kami_image::{store, volume};
use kami_kernels::Architecture;

use crate::architecture::{HOST, Word};
use crate::{machine, memory};

/// See the module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Memory(#[from] memory::Error),
    #[error("the image {image} is for {word}, this host is {HOST}")]
    ImageArchitecture { image: ImageId, word: Word },
    #[error("the image {image} is for {word}, the kernel {kernel} for {architecture}")]
    Mismatch {
        image: ImageId,
        word: Word,
        /// Its id, or its file where it has none.
        kernel: String,
        architecture: Architecture,
    },
    #[error("the image {image} names no kernel")]
    NoKernel { image: ImageId },
    #[error(transparent)]
    Kernel(#[from] kami_kernels::Error),
    #[error("cannot write the console to {}", path.display())]
    ConsoleFile { path: PathBuf, source: io::Error },
    #[error("--cache names {device}, which the instance does not have")]
    NoSuchDisk {
        device: String,
        /// Those that it has.
        disks: Vec<String>,
    },
    #[error("cannot have {device} pass the host's page cache by")]
    Cache {
        device: String,
        source: volume::Error,
    },
    #[error("cannot read the root disk")]
    Root(#[source] volume::Error),
    #[error("cannot {action}")]
    Io {
        action: &'static str,
        source: io::Error,
    },
    /// A signal came before there was a guest.
    #[error("interrupted")]
    Interrupted,
    /// The machine could not be built, or KVM could not go on with it.
    #[error(transparent)]
    Machine(#[from] machine::Error),
}

impl Error {
    pub(super) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}
