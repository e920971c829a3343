//! The doctor's last question: does the built-in test guest run?
//!
//! It is launched as `kami run` launches any guest, from a store of its own that is deleted
//! afterwards, with a root disk and an ephemeral disk.

use std::error::Error as StdError;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kami_image::instance::{BootFile, InstanceSettings};
use kami_image::manifest::Manifest;
use kami_image::mapping::Ephemeral;
use kami_image::store::Store;
use kami_kernels::guest;

use super::Finding;
use crate::architecture;
use crate::cli::chain;
use crate::console_log::Reader;
use crate::exit::Exit;
use crate::launch::{Attendance, Console, Request, launch};

const SUBJECT: &str = "test guest";

/// The root disk's snapshot; the store has no other.
const SNAPSHOT: &str = "snap-00000000000000001";

/// The size of the root disk: 1 MiB.
const ROOT_SECTORS: u64 = 2048;

/// How long the guest may take: a hundred times what it takes where kernel code is emulated.
const LIMIT: Duration = Duration::from_secs(60);

/// Launches the test guest and says what came of it, and what the guest reports.
pub fn run() -> (Finding, String) {
    match launch_guest() {
        Ok((Exit::Done, report)) => (
            Finding::ok(SUBJECT, "boots, and finds all in order"),
            report,
        ),
        Ok((exit, report)) => {
            let help = "its report below says what it found wrong";
            (Finding::missing(SUBJECT, exit.meaning(), help), report)
        }
        Err(error) => {
            let help = "KAMI_LOG=debug kami doctor tells more";
            (
                Finding::missing(SUBJECT, chain(&*error), help),
                String::new(),
            )
        }
    }
}

fn launch_guest() -> Result<(Exit, String), Box<dyn StdError>> {
    let folder = tempfile::tempdir()?;
    let home = folder.path().join("store");
    let store = Store::open(&home)?;
    let image = register(&store, folder.path())?;
    let kernel = folder.path().join("test-guest");
    fs::write(&kernel, guest::TEST_GUEST)?;
    let exit = launch(&home, request(image, kernel.clone()))?;
    let mut report = Vec::new();
    for instance in store.instances()? {
        Reader::open(&store.instance_folder(&instance.id))?.copy(&mut report)?;
    }
    Ok((exit, String::from_utf8_lossy(&report).into_owned()))
}

/// Registers an image of a root disk with the test pattern and an ephemeral disk; returns its id.
fn register(store: &Store, folder: &Path) -> Result<String, Box<dyn StdError>> {
    let disk = folder.join("root.raw");
    guest::write_test_disk(File::create(&disk)?, ROOT_SECTORS)?;
    let manifest = Manifest::parse(&manifest().to_string())?;
    let snapshot = SNAPSHOT.parse()?;
    let proceed = &mut |_: &str, _| ControlFlow::Continue(());
    let image = store.register(manifest, &[(snapshot, disk)], proceed)?;
    Ok(image.image_id.to_string())
}

fn manifest() -> serde_json::Value {
    serde_json::json!({
        "Name": "test guest",
        "Architecture": architecture::HOST,
        "VirtualizationType": "hvm",
        "RootDeviceName": "/dev/sda1",
        "BlockDeviceMappings": [
            { "DeviceName": "/dev/sda1", "Ebs": { "SnapshotId": SNAPSHOT } },
            { "DeviceName": "/dev/sdb", "VirtualName": "ephemeral0" },
        ],
    })
}

fn request(image: String, kernel: PathBuf) -> Request {
    Request {
        account: None,
        image,
        name: None,
        cpus: 2,
        memory_bytes: 128 << 20,
        block_devices: Vec::new(),
        ephemeral: Ephemeral {
            count: 24,
            size_bytes: 64 << 20,
        },
        settings: InstanceSettings {
            kernel: Some(BootFile::File(kernel)),
            ..InstanceSettings::default()
        },
        reservation: None,
        tags: Vec::new(),
        client_token: None,
        attendance: Attendance {
            console: Console::None,
            timeout: Some(LIMIT),
            in_background: false,
        },
        remove: false,
    }
}
