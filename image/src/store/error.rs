//! What goes wrong in a store, whose mistake it is, and what can be done about it. Where EC2 has
//! words for a mistake they are used.

use std::io;
use std::path::{Path, PathBuf};

use super::VolumeRefusal;
use crate::catalogue::{self, InstanceState, KernelFileId, KernelKind};
use crate::id::{ImageId, InstanceId, SnapshotId};
use crate::{format, manifest, mapping, snapshot, volume};

/// Whose mistake an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was to be registered, imported or launched is bad.
    Input,
    /// Something that was named does not exist.
    NotFound,
    /// The request does not fit the state of the store, or the store or the host failed.
    Other,
}

/// What goes wrong in a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Catalogue(#[from] catalogue::Error),
    #[error(transparent)]
    Invalid(#[from] manifest::Invalid),
    #[error(transparent)]
    Mapping(#[from] mapping::Error),
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    #[error(transparent)]
    Volume(#[from] volume::Error),

    #[error("The image id '[{reference}]' does not exist")]
    ImageNotFound { reference: String },
    #[error("Invalid id: {text:?} (expecting \"{prefix}...\")")]
    IdMalformed {
        text: String,
        /// What such ids begin with.
        prefix: &'static str,
    },
    #[error("The image id '[{image}]' is no longer available")]
    ImageUnavailable { image: ImageId },
    #[error("The instance '{instance}' {why} and cannot be made an image of")]
    NotImageable {
        instance: InstanceId,
        why: &'static str,
    },
    #[error("the mapping of '{device}' is refused: {why}")]
    CreatedMapping { device: String, why: &'static str },
    #[error("The image '{image}' is protected against deregistration")]
    ImageProtected { image: ImageId },
    #[error("Not authorized for images: [{image}]")]
    NotAuthorized { image: ImageId },
    #[error(transparent)]
    Tag(#[from] manifest::InvalidTag),
    #[error(
        "the parameter name {name:?} is invalid: expecting letters, digits, '.', '-' and '_', with a \
         '/' before each of up to 15 levels, and not 'aws' or 'ssm' at the start"
    )]
    ParameterName { name: String },
    #[error("The parameter '{name}' does not exist")]
    ParameterNotFound { name: String },
    #[error("The parameter '{name}' has no version '{version}'")]
    ParameterVersionNotFound { name: String, version: String },
    #[error("{reference:?} is more than one {what}")]
    Ambiguous {
        what: &'static str,
        reference: String,
    },
    #[error("AMI name {name} is already in use by AMI {image}")]
    ImageNameInUse { name: String, image: ImageId },
    #[error("the image {image} is registered already")]
    ImageExists { image: ImageId },
    #[error("a file is given for {snapshot}, which the manifest does not name")]
    SnapshotUnnamed { snapshot: SnapshotId },
    #[error("two files are given for {snapshot}")]
    SnapshotTwice { snapshot: SnapshotId },
    #[error("a file is given for {snapshot}, which the store holds already")]
    SnapshotExists { snapshot: SnapshotId },

    /// EC2: InvalidSnapshot.NotFound.
    #[error("The snapshot '{reference}' does not exist.")]
    SnapshotNotFound { reference: String },
    #[error("{} exists already", path.display())]
    FileExists { path: PathBuf },
    #[error("cannot freeze the volumes of the running instance")]
    Freeze {
        #[source]
        source: io::Error,
    },
    /// EC2: InvalidSnapshot.InUse.
    #[error("The snapshot {snapshot} is currently in use by {image}")]
    SnapshotInUse {
        snapshot: SnapshotId,
        image: ImageId,
    },

    #[error("The {kind} id '[{reference}]' does not exist")]
    KernelNotFound { kind: KernelKind, reference: String },
    #[error(
        "the name {name:?} is invalid: expecting up to 128 letters, digits, '.', '_' and '-', the \
         first one a letter or digit, and not the form of an id"
    )]
    Name { name: String },
    #[error("the name {name} is already in use by the {kind} {id}")]
    KernelNameInUse {
        name: String,
        kind: KernelKind,
        id: KernelFileId,
    },

    #[error("The volume '{reference}' does not exist.")]
    VolumeNotFound { reference: String },
    #[error(transparent)]
    Refused(#[from] VolumeRefusal),

    #[error("The instance ID '{reference}' does not exist")]
    InstanceNotFound { reference: String },
    #[error("the name {name} is already in use by the instance {instance}")]
    InstanceNameInUse { name: String, instance: InstanceId },
    #[error("The instance '{instance}' is not in a state from which it can be removed: it runs")]
    InstanceRuns { instance: InstanceId },
    #[error("The instance '{instance}' is not in a state from which it can be {done}.")]
    InstanceState {
        instance: InstanceId,
        /// What cannot be done to it, as `started`.
        done: &'static str,
        state: InstanceState,
    },
    #[error("the client token is {length} characters long, and at most 64 of ASCII are allowed")]
    ClientToken { length: usize },
    #[error(
        "Arguments on this idempotent request are inconsistent with arguments used in previous \
         request(s)."
    )]
    TokenMismatch,
    /// Not a mistake: the launch that is asked for has happened.
    #[error("the client token was used by the launch {reservation}")]
    TokenUsed { reservation: String },
    #[error("The instance '{instance}' is not in the 'stopped' state.")]
    InstanceNotStopped { instance: InstanceId },
    #[error(
        "The instance '{instance}' does not have an 'ebs' root device type and cannot be stopped."
    )]
    InstanceStoreStop { instance: InstanceId },
    #[error(
        "The instance '{instance}' may not be terminated. Modify its 'disableApiTermination' \
         instance attribute and try again."
    )]
    TerminationProtected { instance: InstanceId },
    #[error("No device is currently mapped at {device}")]
    NoDevice { device: String },
    #[error("Instance '{instance}' does not have a volume attached at root ({device})")]
    NoRootVolume {
        instance: InstanceId,
        device: String,
    },
}

impl Error {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub fn kind(&self) -> ErrorKind {
        use mapping::Error::UnknownSnapshot;
        match self {
            Self::ImageNotFound { .. }
            | Self::ParameterNotFound { .. }
            | Self::ParameterVersionNotFound { .. }
            | Self::KernelNotFound { .. }
            | Self::SnapshotNotFound { .. }
            | Self::InstanceNotFound { .. }
            | Self::VolumeNotFound { .. }
            | Self::Mapping(UnknownSnapshot { .. })
            | Self::Invalid(manifest::Invalid::Mapping(UnknownSnapshot { .. })) => {
                ErrorKind::NotFound
            }
            Self::Invalid(_)
            | Self::Mapping(_)
            | Self::Snapshot(snapshot::Error::Source(_))
            | Self::SnapshotUnnamed { .. }
            | Self::SnapshotTwice { .. }
            | Self::IdMalformed { .. }
            | Self::ParameterName { .. }
            | Self::CreatedMapping { .. }
            | Self::Tag(_)
            | Self::Refused(VolumeRefusal::Shrinks { .. } | VolumeRefusal::DeviceInUse { .. })
            | Self::ClientToken { .. }
            | Self::Name { .. } => ErrorKind::Input,
            _ => ErrorKind::Other,
        }
    }

    /// What the user can do about it, if anything.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Snapshot(snapshot::Error::Source(error)) => format::Error::help(error),
            Self::Invalid(manifest::Invalid::Mapping(mapping::Error::UnknownSnapshot {
                snapshot,
            })) => Some(format!(
                "give the snapshot its content with --snapshot {snapshot}=FILE"
            )),
            Self::ImageNotFound { .. } => Some("kami image ls lists the images".to_owned()),
            Self::SnapshotNotFound { .. } => {
                Some("kami snapshot ls lists the snapshots".to_owned())
            }
            Self::FileExists { .. } => Some("--force replaces it".to_owned()),
            Self::SnapshotInUse { image, .. } => {
                Some(format!("kami image deregister {image} lets go of it"))
            }
            Self::ImageProtected { image } => Some(format!(
                "kami image unprotect {image} takes the protection away, after a cooldown if it has one"
            )),
            Self::ParameterNotFound { .. } => {
                Some("kami parameter ls lists the parameters".to_owned())
            }
            Self::ParameterVersionNotFound { name, .. } => {
                Some(format!("kami parameter history {name} lists its versions"))
            }
            Self::KernelNotFound { .. } => {
                Some("kami kernel import FILE puts one into the store".to_owned())
            }
            Self::InstanceNotFound { .. } => Some("kami ps -a lists the instances".to_owned()),
            Self::Refused(refusal) => refusal.help(),
            Self::VolumeNotFound { .. } => Some("kami volume ls lists the volumes".to_owned()),
            Self::Ambiguous { .. } => Some("give more of the id".to_owned()),
            Self::InstanceRuns { instance } => Some(format!("kami stop {instance} ends it")),
            Self::InstanceState {
                instance, state, ..
            } => Some(format!("{instance} is {state}")),
            Self::InstanceNotStopped { instance } => Some(format!("kami stop {instance} stops it")),
            Self::InstanceStoreStop { instance } => {
                Some(format!("kami terminate {instance} ends it for good"))
            }
            Self::TerminationProtected { instance } => Some(format!(
                "kami instance modify {instance} --disable-api-termination false"
            )),
            Self::NoRootVolume { instance, device } => Some(format!(
                "kami volume attach VOLUME {instance} {device} gives it one"
            )),
            Self::InstanceNameInUse { instance, .. } => Some(format!(
                "choose another name, or kami rm {instance} when it has ended"
            )),
            Self::Catalogue(catalogue::Error::Newer { .. }) => {
                Some("use that version, or another folder through KAMI_HOME".to_owned())
            }
            _ => of_folder(self).map(str::to_owned),
        }
    }
}

/// What can be done about a folder that takes no more.
fn of_folder(error: &Error) -> Option<&'static str> {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    const READ_ONLY: &str = "make the store's folder writable, or use another through KAMI_HOME";
    const FULL: &str = "free some space: kami store gc, kami image prune, or beside the store";
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>().map(io::Error::kind);
        let sqlite = error
            .downcast_ref::<rusqlite::Error>()
            .and_then(rusqlite::Error::sqlite_error_code);
        match (io, sqlite) {
            (Some(ReadOnlyFilesystem), _) | (_, Some(rusqlite::ErrorCode::ReadOnly)) => {
                return Some(READ_ONLY);
            }
            (Some(StorageFull | QuotaExceeded), _) | (_, Some(rusqlite::ErrorCode::DiskFull)) => {
                return Some(FULL);
            }
            _ => cause = error.source(),
        }
    }
    None
}
