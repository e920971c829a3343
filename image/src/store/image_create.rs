//! Creating an image from an instance.
//!
//! Implements `CreateImage`. Every EBS volume that is attached becomes a snapshot, all of one moment; the
//! image has a volume of each, and the instance's ephemeral disks without their data. What the image
//! says besides comes from the one that the instance was launched from, as long as that exists.

use std::ops::ControlFlow;

use serde_json::{Map, Value};

use super::{Error, Instance, InstanceState, Live, Store, VolumeRecord, VolumeSnapshot};
use crate::catalogue::KernelFileId;
use crate::fault;
use crate::id::{ImageId, SnapshotId, VolumeId};
use crate::instance::{BootFile, EphemeralDisk};
use crate::manifest::{
    BlockDeviceMapping, Ebs, GIB, Image, ImageType, Manifest, RootDeviceType, SnapshotSizes, Tag,
    VirtualizationType,
};
use crate::mapping;
use crate::snapshot::Progress;

/// What is to become of an instance's disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOfInstance {
    pub name: String,
    pub description: Option<String>,
    pub tags: Vec<Tag>,
    /// Changes to the mapping: DeleteOnTermination of a volume, `NoDevice` for one that is left out,
    /// and entries for more disks, empty or ephemeral.
    pub mappings: Vec<BlockDeviceMapping>,
}

/// An entry of the image's mapping, and the volume whose snapshot it names.
type Entry = (BlockDeviceMapping, Option<VolumeId>);

impl Store {
    /// Makes an image of the instance's disks: of a running one with `live`, which asks it to freeze
    /// them, of a stopped one without.
    ///
    /// # Errors
    /// [`Error::NotImageable`] for an instance in another state or without a root volume of its own;
    /// [`Error::CreatedMapping`] for mappings that EC2 refuses here; those of [`Store::register`] and
    /// [`Store::write_volume_snapshots`]. Nothing is left then.
    pub fn create_image(
        &self,
        instance: &Instance,
        request: &ImageOfInstance,
        mut live: Option<&mut dyn Live>,
        progress: &mut dyn FnMut(&str, Progress) -> ControlFlow<()>,
    ) -> Result<Image, Error> {
        let expected = match live {
            Some(_) => InstanceState::Running,
            None => InstanceState::Stopped,
        };
        if instance.state != expected {
            return Err(Error::NotImageable {
                instance: instance.id,
                why: "is not in the 'running' or 'stopped' states",
            });
        }
        let (image, wanted) = self.plan_image(instance, request)?;
        let written = match &mut live {
            Some(live) => self.write_volume_snapshots(&wanted, Some(&mut **live), progress)?,
            None => self.write_volume_snapshots(&wanted, None, progress)?,
        };
        let transaction = self.durable()?;
        // Again: another process may have been faster.
        self.check_unused(&image)?;
        written.add_rows()?;
        self.catalogue.add_image(&image)?;
        fault::point("create-image.added");
        self.catalogue.commit(transaction)?;
        fault::point("create-image.committed");
        written.finish(live);
        Ok(image)
    }

    /// Checks all of a request but the instance's state: before the instance is stopped for it.
    ///
    /// # Errors
    /// As [`Store::create_image`].
    pub fn check_create_image(
        &self,
        instance: &Instance,
        request: &ImageOfInstance,
    ) -> Result<(), Error> {
        self.plan_image(instance, request).map(|_| ())
    }

    /// The image that will be, and the snapshots that its mapping names.
    fn plan_image(
        &self,
        instance: &Instance,
        request: &ImageOfInstance,
    ) -> Result<(Image, Vec<VolumeSnapshot>), Error> {
        if instance.settings.is_instance_store() {
            return Err(Error::NotImageable {
                instance: instance.id,
                why: "does not have an 'ebs' root device type",
            });
        }
        let volumes = self.catalogue.volumes_of(&instance.id)?;
        let entries = self.entries(instance, &volumes, request)?;
        let mut image = self.image_of(instance, request)?;
        let (mut sizes, mut wanted) = (SnapshotSizes::new(), Vec::new());
        for (mut entry, volume) in entries {
            if let (Some(id), Some(ebs)) = (volume, &mut entry.ebs) {
                let snapshot = SnapshotId::generate();
                ebs.snapshot_id = Some(snapshot);
                sizes.insert(snapshot, ebs.volume_size.unwrap_or_default() * GIB);
                wanted.push(VolumeSnapshot {
                    volume: id,
                    snapshot,
                    description: format!(
                        "Created by CreateImage({}) for {}",
                        instance.id, image.image_id
                    ),
                });
            }
            image.block_device_mappings.push(entry);
        }
        let mut manifest = Manifest {
            image,
            is_register_input: false,
        };
        self.give_defaults(&mut manifest.image);
        manifest.check()?;
        let image = manifest.complete(&sizes)?;
        self.check_unused(&image)?;
        Ok((image, wanted))
    }

    /// The image's mapping, in the order of the instance's disks.
    fn entries(
        &self,
        instance: &Instance,
        volumes: &[VolumeRecord],
        request: &ImageOfInstance,
    ) -> Result<Vec<Entry>, Error> {
        let root = root_device_name(instance, volumes)?;
        mapping::check_names(&request.mappings, &root)?;
        let attached = volumes.iter().filter(|volume| volume.ephemeral.is_none());
        let ephemeral = instance.settings.ephemeral.iter();
        let mut disks: Vec<(usize, Entry)> = attached
            .map(|volume| (volume.position as usize, volume_entry(volume)))
            .chain(ephemeral.map(|disk| (disk.position, (ephemeral_entry(disk), None))))
            .collect();
        // A volume that was attached later may have the place of a disk that is not there now.
        disks.sort_by_key(|(position, _)| *position);
        let mut entries: Vec<Entry> = disks.into_iter().map(|(_, entry)| entry).collect();
        for change in &request.mappings {
            let device = &change.device_name;
            match entries
                .iter()
                .position(|(entry, _)| entry.device_name == *device)
            {
                Some(at) if change.no_device.is_some() && *device != root => {
                    entries.remove(at);
                }
                Some(at) => {
                    if let Some(entry) = entries.get_mut(at) {
                        change_entry(entry, change)?;
                    }
                }
                None if change.no_device.is_some() => {}
                None if change.snapshot().is_some() => {
                    return Err(refused(
                        change,
                        "a disk that is added is empty or ephemeral",
                    ));
                }
                None => entries.push((change.clone(), None)),
            }
        }
        Ok(entries)
    }

    /// The image without its mapping.
    fn image_of(&self, instance: &Instance, request: &ImageOfInstance) -> Result<Image, Error> {
        let settings = &instance.settings;
        let source = self.catalogue.image(&instance.image_id)?;
        let volumes = self.catalogue.volumes_of(&instance.id)?;
        let stored = |file: &Option<BootFile>| match file {
            Some(BootFile::Stored(id)) => Some(*id),
            _ => None,
        };
        let kernel_id = match stored(&settings.kernel) {
            Some(KernelFileId::Kernel(id)) => Some(id),
            _ => source.as_ref().and_then(|image| image.kernel_id),
        };
        let ramdisk_id = match stored(&settings.ramdisk) {
            Some(KernelFileId::Ramdisk(id)) => Some(id),
            _ => source.as_ref().and_then(|image| image.ramdisk_id),
        };
        let from_source = |value: fn(&Image) -> Option<String>| source.as_ref().and_then(value);
        Ok(Image {
            image_id: ImageId::generate(),
            name: request.name.clone(),
            description: request.description.clone(),
            state: None,
            owner_id: self.account().is_none().then(|| instance.owner.to_string()),
            creation_date: None,
            public: false,
            image_type: ImageType::Machine,
            architecture: settings
                .architecture
                .or(source.as_ref().map(|image| image.architecture))
                .unwrap_or_default(),
            virtualization_type: VirtualizationType::Hvm,
            boot_mode: source.as_ref().and_then(|image| image.boot_mode),
            kernel_id,
            ramdisk_id,
            root_device_type: RootDeviceType::Ebs,
            root_device_name: root_device_name(instance, &volumes)?,
            block_device_mappings: Vec::new(),
            product_codes: settings.product_codes.clone(),
            source_image_id: Some(instance.image_id.to_string()),
            source_instance_id: Some(instance.id.to_string()),
            imds_support: from_source(|image| image.imds_support.clone()),
            deprecation_time: None,
            deregistration_protection: None,
            last_launched_time: None,
            tags: request.tags.clone(),
            other: source.map(derived).unwrap_or_default(),
        })
    }
}

/// What an image hands on besides what has a type: all but what names the image itself.
pub(super) fn derived(image: Image) -> Map<String, Value> {
    let mut other = image.other;
    for own in ["ImageLocation", "ImageOwnerAlias", "StateReason"] {
        other.remove(own);
    }
    other
}

/// Where the root is attached; an instance that an older version launched has it first.
fn root_device_name(instance: &Instance, volumes: &[VolumeRecord]) -> Result<String, Error> {
    let name = &instance.settings.root_device_name;
    let mut attached = volumes.iter().filter(|volume| volume.ephemeral.is_none());
    let root = match name.is_empty() {
        true => attached.next(),
        false => attached.find(|volume| volume.device_name == *name),
    };
    match root {
        Some(root) => Ok(root.device_name.clone()),
        None => Err(Error::NotImageable {
            instance: instance.id,
            why: "has no root volume attached",
        }),
    }
}

fn volume_entry(volume: &VolumeRecord) -> Entry {
    let entry = BlockDeviceMapping {
        device_name: volume.device_name.clone(),
        ebs: Some(Ebs {
            volume_size: Some(volume.size_bytes.div_ceil(GIB)),
            volume_type: volume.volume_type,
            iops: volume.iops,
            throughput: volume.throughput,
            delete_on_termination: Some(volume.delete_on_termination),
            ..Ebs::default()
        }),
        ..BlockDeviceMapping::default()
    };
    (entry, Some(volume.id))
}

fn ephemeral_entry(disk: &EphemeralDisk) -> BlockDeviceMapping {
    BlockDeviceMapping {
        device_name: disk.device_name.clone(),
        virtual_name: Some(format!("ephemeral{}", disk.index)),
        ..BlockDeviceMapping::default()
    }
}

/// EC2 User Guide, "Create an Amazon EBS-backed AMI": of a volume that is there only
/// DeleteOnTermination changes.
fn change_entry((entry, volume): &mut Entry, change: &BlockDeviceMapping) -> Result<(), Error> {
    let only = "of a disk that the instance has, only DeleteOnTermination may change";
    let (Some(ebs), Some(new), Some(_)) = (&mut entry.ebs, &change.ebs, volume) else {
        return Err(refused(change, only));
    };
    let same = Ebs {
        volume_size: new.volume_size.and(ebs.volume_size),
        volume_type: new.volume_type.and(ebs.volume_type),
        iops: new.iops.and(ebs.iops),
        throughput: new.throughput.and(ebs.throughput),
        delete_on_termination: new.delete_on_termination,
        ..Ebs::default()
    };
    if *new != same || change.virtual_name.is_some() || change.no_device.is_some() {
        return Err(refused(change, only));
    }
    ebs.delete_on_termination = new.delete_on_termination.or(ebs.delete_on_termination);
    Ok(())
}

fn refused(change: &BlockDeviceMapping, why: &'static str) -> Error {
    Error::CreatedMapping {
        device: change.device_name.clone(),
        why,
    }
}
