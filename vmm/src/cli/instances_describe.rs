//! Instances as EC2's describe-instances shows them.

use kami_image::store::{
    Instance, STOPPED_REASON, Store, TERMINATED_REASON, VolumeRecord, iso8601,
};
use serde_json::{Value, json};

use super::Error;
use crate::architecture;

/// The instances, each with its description, in the reservations that they were launched in, in the order of
/// the first of each.
pub fn reservations(instances: Vec<(Instance, Value)>) -> Value {
    let mut reservations: Vec<(Instance, Vec<Value>)> = Vec::new();
    for (instance, shown) in instances {
        let same = reservations
            .iter_mut()
            .find(|(first, _)| first.reservation == instance.reservation);
        match same {
            Some((_, all)) => all.push(shown),
            None => reservations.push((instance, vec![shown])),
        }
    }
    let shown = reservations.into_iter().map(|(first, instances)| {
        let mut shown = reservation(&first);
        shown["Instances"] = json!(instances);
        shown
    });
    json!({ "Reservations": shown.collect::<Vec<_>>() })
}

/// The reservation of an instance, without the instances.
pub fn reservation(instance: &Instance) -> Value {
    json!({
        "ReservationId": instance.reservation,
        "OwnerId": instance.owner,
        "Groups": [],
    })
}

/// One instance.
pub fn describe(store: &Store, instance: &Instance) -> Result<Value, Error> {
    let settings = &instance.settings;
    let volumes = store.instance_volumes(&instance.id)?;
    // Temporary disks never appear there.
    let lasting = volumes.iter().filter(|volume| !volume.is_temporary());
    let mappings: Vec<_> = lasting.map(mapping).collect();
    let mut shown = json!({
        "InstanceId": instance.id,
        "ImageId": instance.image_id,
        "AmiLaunchIndex": instance.launch_index,
        "State": { "Code": instance.state.code(), "Name": instance.state.as_str() },
        "LaunchTime": iso8601(instance.launch_time),
        "Architecture": settings.architecture.unwrap_or(architecture::HOST),
        "VirtualizationType": "hvm",
        "RootDeviceType": settings.root_device_type,
        "BlockDeviceMappings": mappings,
        "CpuOptions": { "CoreCount": instance.cpus, "ThreadsPerCore": 1 },
        "ProductCodes": settings.product_codes,
        "Tags": tags(store, instance)?,
    });
    // One that an older version launched does not know.
    let root = match settings.root_device_name.is_empty() {
        true => volumes.first().map(|root| root.device_name.clone()),
        false => Some(settings.root_device_name.clone()),
    };
    let text = |file: &Option<_>| file.as_ref().map(ToString::to_string);
    for (member, value) in [
        ("RootDeviceName", root),
        ("InstanceType", settings.instance_type.clone()),
        (
            "KernelId",
            text(&settings.kernel).filter(|id| id.starts_with("aki-")),
        ),
        (
            "RamdiskId",
            text(&settings.ramdisk).filter(|id| id.starts_with("ari-")),
        ),
    ] {
        if let Some(value) = value {
            shown[member] = json!(value);
        }
    }
    if let Some(message) = &instance.state_reason {
        let code = reason_code(instance, message);
        shown["StateReason"] = json!({ "Code": code, "Message": message });
        shown["StateTransitionReason"] = json!(message);
    }
    Ok(shown)
}

fn mapping(volume: &VolumeRecord) -> Value {
    let mut ebs = json!({
        "VolumeId": volume.id,
        "Status": "attached",
        "DeleteOnTermination": volume.delete_on_termination,
    });
    if let Some(time) = volume.attach_time {
        ebs["AttachTime"] = json!(iso8601(time));
    }
    json!({ "DeviceName": volume.device_name, "Ebs": ebs })
}

/// The instance's name is its tag `Name`, unless it has another one.
fn tags(store: &Store, instance: &Instance) -> Result<Value, Error> {
    let mut tags = json!(store.tags(&instance.id.to_string())?);
    if let (Some(name), Some(list)) = (&instance.name, tags.as_array_mut())
        && !list.iter().any(|tag| tag["Key"] == "Name")
    {
        list.insert(0, json!({ "Key": "Name", "Value": name }));
    }
    Ok(tags)
}

/// EC2's word for who ended the instance.
fn reason_code(instance: &Instance, reason: &str) -> &'static str {
    match instance.exit_status {
        _ if [STOPPED_REASON, TERMINATED_REASON].contains(&reason) => {
            "Client.UserInitiatedShutdown"
        }
        Some(0) => "Client.InstanceInitiatedShutdown",
        Some(137) => "Client.UserInitiatedShutdown",
        _ => "Server.InternalError",
    }
}
