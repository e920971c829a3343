//! Snapshots of the disks of a guest that goes on writing to them.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use common::Lab;
use kami_image::store::Store;
use kami_image::volume::VolumeFiles;
use kami_kernels::guest::pattern;
use serde_json::{Value, json};

const CHUNK: usize = 512 << 10;

/// The instance of the guest that writes, and its volumes, root first.
fn writing(lab: &Lab) -> (String, Vec<String>) {
    // In the place of an ephemeral disk: the guest writes to its first two.
    let extra = "/dev/sdb=:1";
    let id = lab.background("write", &["--block-device", extra]);
    lab.wait_for("write=going");
    (id.clone(), volumes(lab, &id))
}

fn volumes(lab: &Lab, instance: &str) -> Vec<String> {
    let shown = lab.done(&["volume", "ls", "--output", "json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let mut volumes: Vec<_> = shown["Volumes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|volume| volume["Attachments"][0]["InstanceId"] == *instance)
        .map(|volume| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (
                text(&volume["Attachments"][0]["Device"]),
                text(&volume["VolumeId"]),
            )
        })
        .collect();
    // The root is /dev/sda1.
    volumes.sort();
    volumes.into_iter().map(|(_, id)| id).collect()
}

/// The generation that the last sector of a disk was written with.
fn generation(sectors: u64, last: &[u8]) -> u64 {
    let last = last.try_into().unwrap();
    pattern::check(sectors - 1, last).unwrap().generation
}

/// Asks the instance's control socket.
fn ask(lab: &Lab, instance: &str, request: &Value) -> Value {
    let path = lab.path(&format!("run/kami/{instance}.sock"));
    let mut socket = UnixStream::connect(path).unwrap();
    writeln!(socket, "{request}").unwrap();
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn snapshots_of_a_running_guest_are_each_one_moment_and_take_the_layers_place() {
    let lab = Lab::with_guest();
    let (instance, volumes) = writing(&lab);
    let raw = lab.path("exported.raw");
    let mut last = 0;
    for _ in 0..4 {
        let snapshot = lab.done(&["snapshot", "create", &volumes[0]]);
        let to = raw.to_str().unwrap();
        lab.done(&["snapshot", "export", &snapshot, to, "--force"]);
        let bytes = std::fs::read(&raw).unwrap();
        let sectors = (bytes.len() / 512) as u64;
        let now = generation(sectors, &bytes[bytes.len() - 512..]);
        assert!(now > last, "{now} after {last}");
        last = now;
        // What the layers below held is in the store now.
        let overlays = lab.left().into_iter().filter(|name| {
            name.starts_with(&format!("volumes/{}", volumes[0])) && name.contains("overlay")
        });
        assert_eq!(overlays.count(), 1);
    }
    lab.done(&["stop", "--time", "0", &instance]);
    // The same disk goes on, from the file system's point of view after a crash.
    let snapshot = lab.done(&["snapshot", "create", &volumes[0]]);
    lab.done(&[
        "snapshot",
        "export",
        &snapshot,
        raw.to_str().unwrap(),
        "--force",
    ]);
    let bytes = std::fs::read(&raw).unwrap();
    let sectors = (bytes.len() / 512) as u64;
    let at_end = generation(sectors, &bytes[bytes.len() - 512..]);
    assert!(at_end >= last);
    lab.done(&["start", &instance]);
    common::wait_until("it writes again", || {
        lab.console().matches("write=going").count() == 2
    });
    lab.done(&["rm", "-f", &instance]);
}

/// A guest that writes to one disk after the other must find them so in a snapshot of both.
#[test]
fn disks_of_a_running_guest_are_frozen_at_one_moment() {
    let lab = Lab::with_guest();
    let (instance, volumes) = writing(&lab);
    let store = Store::open(&lab.path("home")).unwrap();
    let files = VolumeFiles::new(&lab.path("home"));
    for _ in 0..8 {
        let frozen = ask(
            &lab,
            &instance,
            &json!({"command": "freeze", "volumes": volumes}),
        );
        assert_eq!(frozen["result"], "frozen", "{frozen}");
        let layers = frozen["layers"].as_array().unwrap();
        let generations: Vec<_> = volumes
            .iter()
            .zip(layers)
            .map(|(volume, layer)| {
                let volume = store.volume(volume).unwrap();
                let below = u32::try_from(layer.as_u64().unwrap()).unwrap();
                let view = files.frozen(&volume.id, &volume.standing(), below).unwrap();
                let size = usize::try_from(view.size_bytes()).unwrap();
                let mut chunk = vec![0; CHUNK];
                let index = (size - 1) / CHUNK;
                view.read_chunk(index as u64, &mut chunk).unwrap();
                let end = size - index * CHUNK;
                generation((size / 512) as u64, &chunk[end - 512..end])
            })
            .collect();
        let [first, second] = generations[..] else {
            panic!("{generations:?}");
        };
        assert!(first == second || first == second + 1, "{generations:?}");
    }
    let refused = |request| ask(&lab, &instance, &request)["message"].to_string();
    let unknown = "vol-00000000000000000";
    let message = refused(json!({"command": "freeze", "volumes": [unknown]}));
    assert!(message.contains(unknown), "{message}");
    let message = refused(json!({"command": "freeze", "volumes": [volumes[0], volumes[0]]}));
    assert!(message.contains("twice"), "{message}");
    let snapshot = common::SNAPSHOT;
    let message = refused(
        json!({"command": "rebase", "volume": volumes[0], "snapshot": snapshot, "layer": 77}),
    );
    assert!(message.contains("no layer 77"), "{message}");
    lab.done(&["rm", "-f", &instance]);
}
