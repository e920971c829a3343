//! What commands take from `config.toml` and the environment.

mod common;

use std::fs;

use common::Lab;
use serde_json::Value;

impl Lab {
    fn settings(&self, text: &str) {
        fs::create_dir_all(self.path("config/kami")).unwrap();
        fs::write(self.path("config/kami/config.toml"), text).unwrap();
    }

    fn owner_of_new_volume(&self, account: Option<&str>) -> common::Outcome {
        let mut command = self.command(common::KAMI);
        command.args(["volume", "create", "--size", "1"]);
        if let Some(account) = account {
            command.env("KAMI_ACCOUNT", account);
        }
        common::finish(command.spawn().unwrap())
    }
}

#[test]
fn own_instance_types_are_listed_first_and_launched() {
    let lab = Lab::with_guest();
    lab.settings(
        "[instance-type.tiny]\nvcpus = 2\nmemory = \"96M\"\nephemeral = { count = 1, size = \"16M\" }\n",
    );
    let listing = lab.done(&["instance", "types"]);
    let first = listing.lines().nth(1).unwrap();
    assert!(
        first.starts_with("tiny") && first.contains("96 MiB"),
        "{first}"
    );
    let kernel = lab.path("guest");
    let run = [
        "run",
        "test image",
        "--type",
        "tiny",
        "--append",
        "kami.test=self",
    ];
    let report = lab.done(&[&run[..], &["--kernel", kernel.to_str().unwrap()]].concat());
    // The image maps ephemeral0 and ephemeral1, and the type has one.
    for line in [
        "cpus_started=2\r\n",
        "disk1.bytes=16777216\r\n",
        "disks=2\r\n",
        "result=pass",
    ] {
        assert!(report.contains(line), "no {line:?}: {report}");
    }
    let described = lab.done(&["instance", "types", "tiny", "--output", "json"]);
    let described: Value = serde_json::from_str(&described).unwrap();
    assert_eq!(described["InstanceTypes"][0]["MemoryInfo"]["SizeInMiB"], 96);
    lab.kami(&["run", "test image", "--type", "huge"])
        .helps("kami instance types");
    lab.kami(&["run", "test image", "--type", "huge"]).refused(
        3,
        &[
            "Invalid value 'huge' for InstanceType.",
            "(InvalidParameterValue)",
        ],
    );
}

#[test]
fn the_account_is_that_of_the_environment_or_the_settings() {
    let lab = Lab::new();
    lab.settings("account = \"111111111111\"\n");
    assert_eq!(lab.owner_of_new_volume(None).code, Some(0));
    assert_eq!(lab.owner_of_new_volume(Some("222222222222")).code, Some(0));
    let image = lab.file("disk.raw", [1; 4096]);
    lab.done(&["image", "import", &image, "--name", "mine"]);
    let shown: Value = serde_json::from_str(&lab.done(&["image", "show", "mine"])).unwrap();
    assert_eq!(shown["Images"][0]["OwnerId"], "111111111111");
    lab.owner_of_new_volume(Some("12"))
        .refused(3, &["KAMI_ACCOUNT", "expecting 12 digits"]);
}

#[test]
fn a_mistake_in_the_settings_is_told_with_its_line() {
    let lab = Lab::new();
    lab.settings("\n[[prune]]\nname = \"web-*\"\nkeeep = 3\n");
    let path = lab.path("config/kami/config.toml");
    let place = format!("{}:4: unknown field `keeep`", path.display());
    lab.kami(&["image", "prune", "--policies"])
        .refused(3, &[&place]);
    lab.kami(&["ps"]).refused(3, &[&place]);
    let mut command = lab.command(common::KAMI);
    command.arg("ps").env("KAMI_CONFIG", lab.path("none.toml"));
    common::finish(command.spawn().unwrap()).refused(3, &["cannot read", "none.toml"]);
}

#[test]
fn a_dry_run_checks_and_does_nothing() {
    let lab = Lab::with_guest();
    let id = lab.background("hang", &["--name", "web"]);
    let told = lab.done(&["terminate", "--dry-run", "web"]);
    assert_eq!(told, format!("would terminate {id}"));
    assert_eq!(lab.state().unwrap(), "running");
    let told = lab.done(&[
        "image",
        "deregister",
        "--dry-run",
        "--delete-snapshots",
        "test image",
    ]);
    let image = "would deregister ami-00000000000000001";
    assert_eq!(told, format!("{image}\nwould delete {}", common::SNAPSHOT));
    lab.done(&["image", "show", "test image"]);
    lab.done(&[
        "instance",
        "modify",
        "web",
        "--disable-api-termination",
        "true",
    ]);
    lab.kami(&["terminate", "--dry-run", "web"])
        .refused(1, &["may not be terminated", "(OperationNotPermitted)"]);
    lab.end_all();

    let left = lab.path("home/volumes/vol-0123456789abcdef0.overlay");
    fs::write(&left, "").unwrap();
    let told = lab.done(&["store", "gc", "--dry-run"]);
    assert_eq!(told, format!("would delete {}", left.display()));
    assert!(left.exists());
    lab.done(&["store", "gc"]);
    assert!(!left.exists());
}
