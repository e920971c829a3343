//! Stores with something in them, and what a test asks of one afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use super::{KAMI, Lab, Outcome, finish};

/// The unit that snapshots share content by.
pub const CHUNK_BYTES: usize = 512 << 10;

/// `chunks` chunks of content, each one unlike every other of any seed.
pub fn content(seed: u64, chunks: usize) -> Vec<u8> {
    let words = 0..(chunks * CHUNK_BYTES / 8) as u64;
    let bytes = words.flat_map(|word| (word << 16 ^ seed ^ 0x5555_0000_0000_0000).to_le_bytes());
    bytes.collect()
}

impl Lab {
    /// A file with [`content`].
    pub fn disk(&self, name: &str, seed: u64, chunks: usize) -> String {
        self.file(name, content(seed, chunks))
    }

    /// Imports a disk with [`content`] as an image of that name; returns the image's snapshot.
    pub fn import(&self, name: &str, seed: u64, chunks: usize) -> String {
        let disk = self.disk(&format!("{name}.raw"), seed, chunks);
        self.done(&["image", "import", &disk, "--name", name]);
        self.root_snapshot(name)
    }

    /// What a command shows as JSON, with no `--output json` among its arguments.
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.done(&[args, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// The snapshot that the root of the image of that name starts from.
    pub fn root_snapshot(&self, image: &str) -> String {
        let images = self.json(&["image", "ls"]);
        let images = images["Images"].as_array().unwrap();
        let image = images.iter().find(|it| it["Name"] == image).unwrap();
        let snapshot = &image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"];
        snapshot.as_str().unwrap().to_owned()
    }

    /// What a snapshot begins with: `len` bytes.
    ///
    /// `snapshot` may be all that the command that made it has printed.
    pub fn exported(&self, snapshot: &str, len: usize) -> Vec<u8> {
        let file = self.path(&format!("{snapshot}.exported"));
        let path = file.to_str().unwrap();
        self.done(&["snapshot", "export", snapshot, path, "--format", "raw"]);
        let mut bytes = vec![0; len];
        // Not all of it: a disk is a GiB, and many are exported at once.
        let mut disk = fs::File::open(&file).unwrap();
        std::io::Read::read_exact(&mut disk, &mut bytes).unwrap();
        fs::remove_file(file).unwrap();
        bytes
    }

    /// The ids of the volumes of the instance of that name, root first.
    pub fn volumes_of(&self, name: &str) -> Vec<String> {
        let instance = self.instance(name);
        let mappings = instance["BlockDeviceMappings"].as_array().unwrap();
        let id = |mapping: &Value| mapping["Ebs"]["VolumeId"].as_str().unwrap().to_owned();
        mappings.iter().map(id).collect()
    }

    /// The instance of that name, as EC2 shows it.
    pub fn instance(&self, name: &str) -> Value {
        let shown = self.json(&["ps", "-a"]);
        let reservations = shown["Reservations"].as_array().unwrap();
        let instances = reservations
            .iter()
            .flat_map(|it| it["Instances"].as_array().unwrap());
        let is_it = |it: &&Value| {
            let tags = it["Tags"].as_array().unwrap();
            tags.iter()
                .any(|it| it["Key"] == "Name" && it["Value"] == name)
        };
        instances.into_iter().find(is_it).unwrap().clone()
    }

    /// Runs a command that is killed at the fault point, if it comes there.
    pub fn killed_at(&self, point: &str, args: &[&str]) -> Outcome {
        let mut command = self.command(KAMI);
        finish(command.env("KAMI_FAULT", point).args(args).spawn().unwrap())
    }

    /// How many files of each kind the store has, by folder and ending, and the KiB of its segments.
    pub fn census(&self) -> BTreeMap<String, u64> {
        let mut census = BTreeMap::new();
        for path in self.left() {
            let metadata = self.path("home").join(&path).symlink_metadata().unwrap();
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
            if metadata.is_dir() || folder.starts_with("instances") {
                continue;
            }
            // Volumes have layers, whose numbers say nothing.
            let kind = name.split_once('.').map_or(name, |(_, kind)| kind);
            let kind = kind.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
            *census.entry(format!("{folder}/*.{kind}")).or_default() += 1;
            if folder == "segments" {
                *census.entry("KiB of content".to_owned()).or_default() += metadata.blocks() / 2;
            }
        }
        census
    }

    /// What the listings name, but for what is new with each run: the images, how many snapshots and volumes there are,
    /// the instances and their states.
    pub fn listed(&self) -> Vec<String> {
        let mut listed = Vec::new();
        let images = self.json(&["image", "ls"]);
        for image in images["Images"].as_array().unwrap() {
            listed.push(format!("image {}", image["Name"]));
        }
        for (noun, list) in [("snapshot", "Snapshots"), ("volume", "Volumes")] {
            let shown = self.json(&[noun, "ls"]);
            for it in shown[list].as_array().unwrap() {
                listed.push(format!("{noun} {}", it["State"]));
            }
        }
        let shown = self.json(&["ps", "-a"]);
        for reservation in shown["Reservations"].as_array().unwrap() {
            for it in reservation["Instances"].as_array().unwrap() {
                listed.push(format!("instance {}", it["State"]["Name"]));
            }
        }
        listed.sort();
        listed
    }
}
