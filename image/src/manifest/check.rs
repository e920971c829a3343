//! What must hold of an image before it is registered: EC2's rules for the metadata, and what this
//! software can boot at all. The mapping's own rules are in [`crate::mapping`].

use super::{
    Architecture, BlockDeviceMapping, GIB, Image, ImageType, InvalidTag, Manifest, SnapshotSizes,
    VirtualizationType, check_tags,
};
use crate::mapping;

const NAME_LENGTH: std::ops::RangeInclusive<usize> = 3..=128;
const DESCRIPTION_LENGTH: usize = 255;
const NAME_MARKS: &str = "()[] ./-'@_";

/// Why an image cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    #[error(
        "Name {name:?} is malformed: AMI names must be between 3 and 128 characters long, and may \
         contain letters, numbers, and ( ) [ ] space . / - ' @ _"
    )]
    Name { name: String },
    #[error(
        "Description is {length} characters long, and at most {DESCRIPTION_LENGTH} are allowed"
    )]
    Description { length: usize },
    #[error("OwnerId {owner:?} is malformed: expecting 12 digits")]
    Owner { owner: String },
    #[error("Architecture {0} is not supported: expecting x86_64, arm64 or i386")]
    Architecture(Architecture),
    #[error(
        "VirtualizationType is paravirtual{}, which is not supported: state hvm",
        if *.is_register_input { " (a register-image input's default)" } else { "" }
    )]
    Paravirtual { is_register_input: bool },
    #[error("ImageType {0} is not supported: expecting machine")]
    ImageType(ImageType),
    #[error("BlockDeviceMappings has no snapshot for the root device {device}")]
    RootUnmapped { device: String },
    #[error(transparent)]
    Mapping(#[from] mapping::Error),
    #[error(transparent)]
    Tag(#[from] InvalidTag),
}

/// Checks EC2's rule for image names.
///
/// # Errors
/// [`Invalid::Name`]
pub fn name(name: &str) -> Result<(), Invalid> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || NAME_MARKS.contains(c);
    if NAME_LENGTH.contains(&name.len()) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(Invalid::Name {
        name: name.to_owned(),
    })
}

/// Checks EC2's rule for the descriptions of images.
///
/// # Errors
/// [`Invalid::Description`]
pub fn description(description: &str) -> Result<(), Invalid> {
    match description.chars().count() {
        ..=DESCRIPTION_LENGTH => Ok(()),
        length => Err(Invalid::Description { length }),
    }
}

impl Manifest {
    /// Checks everything that can be said without the sizes of the snapshots, so that nothing is
    /// read for an image that cannot be registered.
    ///
    /// # Errors
    /// [`Invalid`]
    pub fn check(&self) -> Result<(), Invalid> {
        let image = &self.image;
        metadata(image, self.is_register_input)?;
        mapping::check_names(&image.block_device_mappings, &image.root_device_name)?;
        for entry in &image.block_device_mappings {
            if self.is_register_input {
                mapping::check_not_encrypted(entry)?;
            }
            mapping::check_entry(entry, None)?;
        }
        let root = image.root_mapping();
        if root.and_then(BlockDeviceMapping::snapshot).is_none() {
            return Err(Invalid::RootUnmapped {
                device: image.root_device_name.clone(),
            });
        }
        Ok(())
    }

    /// The image with the mapping's defaults filled in: size, type and DeleteOnTermination of each
    /// volume. Expects [`Manifest::check`] to have passed.
    ///
    /// # Errors
    /// [`Invalid::Mapping`] where a snapshot is not in `sizes` or a volume is smaller than its
    /// snapshot.
    pub fn complete(self, sizes: &SnapshotSizes) -> Result<Image, Invalid> {
        let mut image = self.image;
        let root_device_name = &image.root_device_name;
        for entry in &mut image.block_device_mappings {
            mapping::check_entry(entry, Some(sizes))?;
            let is_root = entry.device_name == *root_device_name;
            if let Some(ebs) = &mut entry.ebs {
                let snapshot_bytes = ebs.snapshot_id.and_then(|id| sizes.get(&id));
                if let Some(bytes) = snapshot_bytes {
                    ebs.volume_size.get_or_insert(bytes.div_ceil(GIB).max(1));
                }
                ebs.volume_type.get_or_insert_default();
                ebs.delete_on_termination.get_or_insert(is_root);
            }
        }
        Ok(image)
    }
}

fn metadata(image: &Image, is_register_input: bool) -> Result<(), Invalid> {
    name(&image.name)?;
    description(image.description.as_deref().unwrap_or_default())?;
    check_tags(&image.tags)?;
    if let Some(owner) = &image.owner_id
        && !(owner.len() == 12 && owner.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(Invalid::Owner {
            owner: owner.clone(),
        });
    }
    if image.image_type != ImageType::Machine {
        return Err(Invalid::ImageType(image.image_type));
    }
    if image.virtualization_type == VirtualizationType::Paravirtual {
        return Err(Invalid::Paravirtual { is_register_input });
    }
    match image.architecture {
        Architecture::I386 | Architecture::X86_64 | Architecture::Arm64 => {}
        mac @ (Architecture::X86_64Mac | Architecture::Arm64Mac) => {
            return Err(Invalid::Architecture(mac));
        }
    }
    Ok(())
}
