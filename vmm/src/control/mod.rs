//! The control socket of a running instance, and what is said over it.
//!
//! A Unix stream socket of mode 0600 in a folder of mode 0700, `$XDG_RUNTIME_DIR/kami` or
//! `/tmp/kami-UID`, named `i-….sock`. Each line is one JSON object: a [`Request`] from the client, a
//! [`Response`] to each, in order.

mod client;
mod server;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;

use kami_image::id::{SnapshotId, VolumeId};
use serde::{Deserialize, Serialize};

use crate::cli::chain;

pub use client::Client;
pub use server::{Reply, Server};

/// What a client asks of a running instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    Status,
    /// Presses the ACPI power button, once; the guest decides what it does.
    PowerButton,
    /// Presses the power button, and boots the guest again when it has powered off, or by force when it
    /// has not after `grace_seconds`.
    Reboot {
        grace_seconds: u32,
    },
    /// Resets the machine, as its reset button would.
    Reset,
    /// Ends the machine at once.
    Kill,
    /// Begins a new layer of each of these volumes, of all at one moment, and flushes them. The
    /// connection ends with the answer.
    Freeze {
        volumes: Vec<VolumeId>,
    },
    /// Has a volume stand on a snapshot below one of its layers. The connection ends with the answer.
    Rebase {
        volume: VolumeId,
        snapshot: SnapshotId,
        layer: u32,
    },
}

/// What the instance answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Response {
    Status {
        instance: String,
        pid: u32,
        uptime_seconds: u64,
    },
    /// The command is under way.
    Accepted,
    /// The volumes' new layers, in order, and how long their disks took no requests.
    Frozen {
        layers: Vec<u32>,
        pause_microseconds: u64,
    },
    Rebased,
    /// The line was no request, or it cannot be done; `message` says why.
    Refused {
        message: String,
    },
}

impl Response {
    /// Says what is wrong, and why.
    pub fn refused(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Refused {
            message: chain(error),
        }
    }
}

/// The longest line that either side takes, in bytes.
const LINE_BYTES: usize = 4096;

/// The folder of the sockets, made if it is missing.
///
/// # Errors
/// It cannot be made, or it belongs to somebody else: in a shared `/tmp` that would hand them the
/// control of the instances.
pub fn runtime_folder() -> io::Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let folder = match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir).join("kami"),
        None => PathBuf::from(format!("/tmp/kami-{uid}")),
    };
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let meta = folder.symlink_metadata()?;
    if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "{} is not a folder of user {uid} with mode 0700",
            folder.display()
        )));
    }
    Ok(folder)
}

fn socket_path(instance: &str) -> io::Result<PathBuf> {
    Ok(runtime_folder()?.join(format!("{instance}.sock")))
}

/// Removes the socket of an instance that is no more.
pub fn forget(instance: &str) {
    if let Ok(path) = socket_path(instance) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests;
