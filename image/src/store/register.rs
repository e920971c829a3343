//! Registering and importing images.
//!
//! All that can be wrong is found before the first byte is stored: the rules, the names, the sizes
//! of the disk files. Then the snapshots' files are written, whole and synced, and one transaction
//! names them together with the image. What fails before it leaves nothing; a process that is
//! killed leaves files that nothing names, which the next registration sweeps.

use std::collections::{BTreeMap, HashMap};
use std::error::Error as StdError;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Value;

use super::{Error, KernelFileId, KernelKind, Store, iso8601};
use crate::catalogue::{ImageState, NewSnapshot};
use crate::chunk::{ChunkIndex, ChunkPlace, Digest};
use crate::fault;
use crate::format::{self, Source};
use crate::id::{ImageId, SnapshotId};
use crate::manifest::{
    Architecture, BlockDeviceMapping, Ebs, Image, ImageType, Manifest, RootDeviceType, Tag,
    VirtualizationType,
};
use crate::snapshot::{self, Progress, Written};

/// A disk file to make an image of.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    pub file: PathBuf,
    pub name: String,
    pub architecture: Architecture,
    pub description: Option<String>,
    pub tags: Vec<Tag>,
}

impl Store {
    /// Registers an image. Of each snapshot that the manifest names, either the store has the
    /// content, or `files` names a disk file with it. `progress` is called with the snapshot's id, and
    /// breaks off what goes on.
    ///
    /// # Errors
    /// [`Error::Invalid`] and the errors that name an image or a snapshot for what is wrong with
    /// the request; [`Error::Snapshot`] for a disk file that cannot be read and a store that cannot
    /// be written. Nothing is registered then, and nothing left.
    pub fn register(
        &self,
        mut manifest: Manifest,
        files: &[(SnapshotId, PathBuf)],
        progress: &mut dyn FnMut(&str, Progress) -> ControlFlow<()>,
    ) -> Result<Image, Error> {
        self.give_defaults(&mut manifest.image);
        manifest.check()?;
        self.check_unused(&manifest.image)?;
        self.check_kernels(&manifest.image)?;
        let mut sources = self.open_sources(&manifest.image, files)?;
        let mut sizes = self.snapshot_sizes(&manifest.image.snapshots())?;
        sizes.extend(sources.iter().map(|(id, from)| (*id, from.size_bytes())));
        let image = manifest.complete(&sizes)?;

        if let Err(error) = self.sweep() {
            tracing::warn!(%error, "cannot delete what a killed process has left");
        }
        let written = self.write_snapshots(&mut sources, progress)?;
        fault::point("register.written");
        self.commit_image(&image, &written)?;
        fault::point("register.committed");
        for (_, written) in written {
            written.keep();
        }
        self.catalogue.tidy();
        Ok(image)
    }

    /// Makes an image of one disk file, which becomes its root.
    ///
    /// # Errors
    /// As [`Store::register`].
    pub fn import(
        &self,
        request: &ImportRequest,
        progress: &mut dyn FnMut(&str, Progress) -> ControlFlow<()>,
    ) -> Result<Image, Error> {
        let snapshot = SnapshotId::generate();
        let manifest = Manifest {
            image: imported_image(request, snapshot),
            is_register_input: false,
        };
        let files = [(snapshot, request.file.clone())];
        self.register(manifest, &files, progress)
    }

    /// What EC2 shows of every registered image. It belongs to the caller; one who acts as the owner
    /// of everything leaves the owner to the manifest. Nobody else may launch it yet.
    pub(super) fn give_defaults(&self, image: &mut Image) {
        image.state = Some(ImageState::Available.as_str().to_owned());
        match (&image.owner_id, self.account()) {
            (Some(_), None) => {}
            _ => image.owner_id = Some(self.owner().to_string()),
        }
        image
            .creation_date
            .get_or_insert_with(|| iso8601(SystemTime::now()));
        let location = format!(
            "{}/{}",
            image.owner_id.as_deref().unwrap_or_default(),
            image.name
        );
        image
            .other
            .entry("ImageLocation")
            .or_insert(location.into());
        image.public = false;
        image.last_launched_time = None;
        image
            .tags
            .extend(requested_tags(image.other.remove("TagSpecifications")));
    }

    /// Refuses an id or a name that another image has.
    pub(super) fn check_unused(&self, image: &Image) -> Result<(), Error> {
        if self.catalogue.image(&image.image_id)?.is_some() {
            return Err(Error::ImageExists {
                image: image.image_id,
            });
        }
        let owner = image.owner_id.as_deref().unwrap_or_default();
        match self.catalogue.image_of_name(owner, &image.name)? {
            Some(holder) => Err(Error::ImageNameInUse {
                name: image.name.clone(),
                image: holder,
            }),
            None => Ok(()),
        }
    }

    fn check_kernels(&self, image: &Image) -> Result<(), Error> {
        let kernel = image.kernel_id.map(KernelFileId::Kernel);
        let ramdisk = image.ramdisk_id.map(KernelFileId::Ramdisk);
        let named = [(KernelKind::Kernel, kernel), (KernelKind::Ramdisk, ramdisk)];
        for (kind, id) in named {
            if let Some(id) = id
                && !self.catalogue.has_kernel(&id)?
            {
                return Err(Error::KernelNotFound {
                    kind,
                    reference: id.to_string(),
                });
            }
        }
        Ok(())
    }

    fn open_sources(
        &self,
        image: &Image,
        files: &[(SnapshotId, PathBuf)],
    ) -> Result<BTreeMap<SnapshotId, Source>, Error> {
        let named = image.snapshots();
        let mut paths = BTreeMap::new();
        for (snapshot, path) in files {
            let snapshot = *snapshot;
            if !named.contains(&snapshot) {
                return Err(Error::SnapshotUnnamed { snapshot });
            }
            if paths.insert(snapshot, path).is_some() {
                return Err(Error::SnapshotTwice { snapshot });
            }
            if self.catalogue.snapshot_size(&snapshot)?.is_some() {
                return Err(Error::SnapshotExists { snapshot });
            }
        }
        paths
            .into_iter()
            .map(|(id, path)| Ok((id, format::open(path).map_err(snapshot::Error::Source)?)))
            .collect()
    }

    fn write_snapshots(
        &self,
        sources: &mut BTreeMap<SnapshotId, Source>,
        progress: &mut dyn FnMut(&str, Progress) -> ControlFlow<()>,
    ) -> Result<Vec<(SnapshotId, Written)>, Error> {
        let mut all = Vec::new();
        let mut index = Index {
            store: self,
            new: HashMap::new(),
        };
        for (id, source) in sources {
            let name = id.to_string();
            let mut report = |done| progress(&name, done);
            let written = self.snapshots.write(id, source, &index, &mut report)?;
            let chunks = written.chunks.iter();
            index.new.extend(chunks.map(|c| (c.digest, c.place)));
            all.push((*id, written));
        }
        Ok(all)
    }

    fn commit_image(&self, image: &Image, written: &[(SnapshotId, Written)]) -> Result<(), Error> {
        let transaction = self.durable()?;
        // Again: another process may have been faster.
        self.check_unused(image)?;
        for (id, written) in written {
            if self.catalogue.snapshot_size(id)?.is_some() {
                return Err(Error::SnapshotExists { snapshot: *id });
            }
            self.catalogue.add_snapshot(&NewSnapshot {
                id: *id,
                owner: self.owner(),
                volume: None,
                size_bytes: written.size_bytes,
                stored_bytes: written.stored_bytes,
                full_bytes: written.full_bytes,
                description: &format!("Created for {}", image.image_id),
                started: written.started,
                chunks: &written.chunks,
                segments: &written.needs,
            })?;
        }
        self.catalogue.add_image(image)?;
        Ok(self.catalogue.commit(transaction)?)
    }
}

/// What is stored already: by the catalogue, and by the registration that is under way, which
/// holds what it finds until the commit.
struct Index<'a> {
    store: &'a Store,
    new: HashMap<Digest, ChunkPlace>,
}

impl ChunkIndex for Index<'_> {
    fn find(&self, digest: &Digest) -> Result<Option<ChunkPlace>, Box<dyn StdError + Send + Sync>> {
        match self.new.get(digest) {
            Some(place) => Ok(Some(*place)),
            None => self.store.catalogue.find(digest),
        }
    }
}

/// The tags that a `register-image` input asks for.
fn requested_tags(specifications: Option<Value>) -> Vec<Tag> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Specification {
        resource_type: String,
        #[serde(default)]
        tags: Vec<Tag>,
    }
    let specifications: Vec<Specification> = specifications
        .and_then(|value| serde_json::from_value(value).ok())
        .unwrap_or_default();
    specifications
        .into_iter()
        .filter(|specification| specification.resource_type == "image")
        .flat_map(|specification| specification.tags)
        .collect()
}

fn imported_image(request: &ImportRequest, snapshot: SnapshotId) -> Image {
    let root = "/dev/sda1";
    Image {
        image_id: ImageId::generate(),
        name: request.name.clone(),
        description: request.description.clone(),
        state: None,
        owner_id: None,
        creation_date: None,
        public: false,
        image_type: ImageType::Machine,
        architecture: request.architecture,
        virtualization_type: VirtualizationType::Hvm,
        boot_mode: None,
        kernel_id: None,
        ramdisk_id: None,
        root_device_type: RootDeviceType::Ebs,
        root_device_name: root.to_owned(),
        block_device_mappings: vec![BlockDeviceMapping {
            device_name: root.to_owned(),
            ebs: Some(Ebs {
                snapshot_id: Some(snapshot),
                ..Ebs::default()
            }),
            ..BlockDeviceMapping::default()
        }],
        product_codes: Vec::new(),
        source_image_id: None,
        source_instance_id: None,
        imds_support: None,
        deprecation_time: None,
        deregistration_protection: None,
        last_launched_time: None,
        tags: request.tags.clone(),
        other: serde_json::Map::new(),
    }
}
