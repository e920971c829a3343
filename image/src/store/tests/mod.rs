mod check;
mod child;
mod image_copy;
mod image_create;
mod image_list;
mod images;
mod instance;
mod kernel;
mod launch;
mod parameter;
mod prune;
mod reclaim;
mod register;
mod restart;
mod sweep;
mod tags;
mod volume;
mod volume_snapshot;

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::id::VolumeId;
use crate::instance::InstanceSettings;
use crate::manifest::{Architecture, GIB};
use crate::snapshot::Progress;

const MIB: u64 = 1 << 20;

const EPHEMERAL: Ephemeral = Ephemeral {
    count: 24,
    size_bytes: 3 * MIB,
};

/// A store, and a folder beside it for the files that go into it.
struct Place {
    folder: TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("home")).unwrap();
        Self { folder, store }
    }

    /// Another process's view of the store.
    fn again(&self) -> Store {
        Store::open(self.store.home()).unwrap()
    }

    /// A raw disk of `size_bytes` with one page of `byte` at each MiB.
    fn disk(&self, name: &str, size_bytes: u64, byte: u8) -> PathBuf {
        let path = self.folder.path().join(name);
        let file = File::create(&path).unwrap();
        for offset in (0..size_bytes.div_ceil(MIB)).map(|n| n * MIB) {
            file.write_all_at(&[byte; 4096], offset).unwrap();
        }
        file.set_len(size_bytes).unwrap();
        path
    }

    fn import(&self, name: &str) -> Image {
        let file = self.disk("disk.raw", 2 * MIB, 7);
        self.store
            .import(&request(&file, name), &mut go_on)
            .unwrap()
    }

    fn disks(&self, image: &Image, overrides: &[&str]) -> Vec<Disk> {
        let overrides: Vec<BlockDeviceMapping> =
            overrides.iter().map(|text| text.parse().unwrap()).collect();
        self.store.resolve(image, &overrides, EPHEMERAL).unwrap()
    }

    /// Launches the image with an ephemeral disk and a volume that survives its instance.
    fn launch(&self, image: &Image, name: Option<&str>) -> Launched {
        let disks = self.disks(image, &["/dev/sdb=ephemeral0", "/dev/sdc=:1"]);
        self.store
            .launch(&new_instance(image, name, &disks))
            .unwrap()
    }

    /// Every file and folder under the home that a registration or launch may leave, sorted.
    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        for folder in ["segments", "snapshots", "volumes", "instances", "kernels"] {
            list(&self.store.home().join(folder), folder, &mut files);
        }
        files.sort();
        files
    }

    /// How many rows each table has.
    fn rows(&self) -> Vec<(&'static str, i64)> {
        let tables = [
            "snapshots",
            "segments",
            "chunks",
            "images",
            "image_snapshots",
            "kernels",
            "instances",
            "volumes",
        ];
        let path = self.store.home().join("catalogue.db");
        let connection = rusqlite::Connection::open(path).unwrap();
        let count = |table| {
            let query = format!("SELECT count(*) FROM {table}");
            connection.query_row(&query, [], |row| row.get(0)).unwrap()
        };
        tables.map(|table| (table, count(table))).to_vec()
    }

    /// What must not change when something fails.
    fn state(&self) -> (Vec<String>, Vec<(&'static str, i64)>) {
        (self.files(), self.rows())
    }
}

impl Store {
    fn deregister_image(&self, image: &str, snapshots: bool) -> Result<Deregistered, Error> {
        let mut gone = self.deregister_images(&[image.to_owned()], snapshots)?;
        assert_eq!(gone.len(), 1);
        Ok(gone.remove(0))
    }
}

fn list(folder: &Path, name: &str, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = format!("{name}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), &name, files);
        }
        files.push(name);
    }
}

fn go_on(_: &str, _: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn request(file: &Path, name: &str) -> ImportRequest {
    ImportRequest {
        file: file.to_owned(),
        name: name.to_owned(),
        architecture: Architecture::X86_64,
        description: None,
        tags: Vec::new(),
    }
}

fn new_instance<'a>(image: &'a Image, name: Option<&str>, disks: &'a [Disk]) -> NewInstance<'a> {
    NewInstance {
        image,
        name: name.map(str::to_owned),
        disks,
        cpus: 2,
        memory_bytes: GIB,
        remove_at_end: false,
        settings: InstanceSettings::default(),
        reservation: None,
        tags: &[],
        client_token: None,
    }
}

const POWERED_OFF: GuestEnd<'static> = GuestEnd {
    powered_off: true,
    reason: "the guest powered off",
    exit_status: 0,
};

#[test]
fn the_home_is_found_as_the_xdg_specification_says() {
    let home = |kami: &str, xdg: &str| {
        let variable = |name: &str| match name {
            "KAMI_HOME" => Some(PathBuf::from(kami)),
            "XDG_DATA_HOME" => Some(PathBuf::from(xdg)),
            _ => None,
        };
        home_from(variable, || Some(PathBuf::from("/home/u")))
    };
    assert_eq!(home("k", "/x"), Path::new("k"));
    assert_eq!(home("", "/x"), Path::new("/x/kami"));
    assert_eq!(home("", ""), Path::new("/home/u/.local/share/kami"));
    assert_eq!(home("", "relative"), Path::new("/home/u/.local/share/kami"));
}

#[test]
fn a_new_store_is_private_and_opens_again() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("some/where/new");
    let store = Store::open(&home).unwrap();
    assert!(store.images().unwrap().is_empty());
    let mode = home.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    Store::open(&home).unwrap();
}

#[test]
fn a_home_that_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = Store::open(&file.join("home")).unwrap_err();
    assert!(
        error.to_string().contains(file.to_str().unwrap()),
        "{error}"
    );
}

/// Asking whether the store is there, after an attempt to open it had failed, got the answer that
/// another process had just changed.
#[test]
fn many_processes_may_create_the_store_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..50 {
        let home = folder.path().join(round.to_string());
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| assert!(Store::open(&home).unwrap().images().unwrap().is_empty()));
            }
        });
    }
}

#[test]
fn images_are_found_by_id_name_and_unique_beginning() {
    let place = Place::new();
    let one = place.import("debian-12");
    let two = place.import("abc");
    let find = |reference: &str| place.store.image(reference).map(|image| image.image_id);
    let id = one.image_id.to_string();
    assert_eq!(find(&id).unwrap(), one.image_id);
    assert_eq!(find("debian-12").unwrap(), one.image_id);
    // A name goes before a beginning.
    assert_eq!(find("abc").unwrap(), two.image_id);
    let other = two.image_id.to_string();
    let differ = id
        .bytes()
        .zip(other.bytes())
        .position(|(a, b)| a != b)
        .unwrap();
    assert_eq!(find(&id[..=differ]).unwrap(), one.image_id);
    assert_eq!(find(&id[4..=differ.max(4)]).unwrap(), one.image_id);
    if differ > 4 {
        assert!(matches!(find(&id[..differ]), Err(Error::Ambiguous { .. })));
    }
    for reference in ["", "debian", "AMI-0", "%", "ami-0123456789abcdef01"] {
        let error = find(reference).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("The image id '[{reference}]' does not exist")
        );
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    for text in ["ami-", "ami-xyz"] {
        let expected = format!("Invalid id: {text:?} (expecting \"ami-...\")");
        assert_eq!(find(text).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_beginning_of_two_ids_is_ambiguous() {
    let place = Place::new();
    let image = place.import("first");
    for (name, digits) in [("one", "aaaa1"), ("two", "aaaa2")] {
        let image = Image {
            name: name.to_owned(),
            image_id: format!("ami-{digits:0<17}").parse().unwrap(),
            ..image.clone()
        };
        place.store.catalogue.add_image(&image).unwrap();
    }
    let error = place.store.image("ami-aaaa").unwrap_err();
    assert_eq!(error.to_string(), "\"ami-aaaa\" is more than one image");
    assert_eq!(place.store.image("aaaa2").unwrap().name, "two");
}
