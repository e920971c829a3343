//! The life of images: shared, made of instances, named by parameters, pruned.
//!
//! The guest counts its boots on every disk, so its console tells what an image was made of.

mod common;

use common::{Lab, wait_until};
use serde_json::Value;

const DISKS: [&str; 6] = [
    "-b",
    "/dev/sdb=none",
    "-b",
    "/dev/sdc=none",
    "-b",
    "/dev/sdd=:1",
];

impl Lab {
    /// Runs the guest that counts its boots in the background, and waits until it has.
    fn counts(&self, image: &str, more: &[&str]) -> String {
        let kernel = self.path("guest");
        let guest = [
            "--kernel",
            kernel.to_str().unwrap(),
            "--append",
            "kami.test=count",
        ];
        let run = ["run", "-d", image, "--memory", "128M"];
        let id = self.done(&[&run[..], &guest[..], more].concat());
        self.has_booted(&id, 1);
        id
    }

    fn has_booted(&self, id: &str, times: usize) {
        wait_until("the guest waits", || {
            self.done(&["logs", id]).matches("button=waiting").count() == times
        });
    }

    /// The boots that the guest has counted, of both disks each time.
    fn counted(&self, id: &str) -> Vec<String> {
        let log = self.done(&["logs", id]);
        let said = log.lines().filter_map(|line| line.split_once(".boots="));
        said.map(|(_, boots)| boots.to_owned()).collect()
    }

    fn image(&self, name: &str) -> Value {
        let shown = self.done(&["image", "show", name]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        shown["Images"][0].clone()
    }

    fn images(&self) -> Vec<String> {
        let shown = self.json(&["image", "ls"]);
        let images = shown["Images"].as_array().unwrap().iter();
        images
            .map(|it| it["Name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// As another account.
    fn kami_as(&self, account: &str, args: &[&str]) -> common::Outcome {
        let mut command = self.command(common::KAMI);
        command.env("KAMI_ACCOUNT", account).args(args);
        common::finish(command.spawn().unwrap())
    }
}

#[test]
fn an_image_of_a_running_instance_reboots_it_and_has_all_its_volumes() {
    let lab = Lab::with_guest();
    let id = lab.counts("test image", &DISKS);
    lab.done(&[
        "image",
        "create",
        &id,
        "--name",
        "second",
        "--tag",
        "made=here",
    ]);
    // Stopped for it, and started again.
    lab.has_booted(&id, 2);
    assert_eq!(lab.counted(&id), ["1", "1", "2", "2"]);
    let image = lab.image("second");
    assert_eq!(image["SourceInstanceId"], *id);
    assert_eq!(image["Tags"][0]["Key"], "made");
    assert_eq!(image["BlockDeviceMappings"].as_array().unwrap().len(), 2);

    // The first one goes, and nobody needs it.
    lab.done(&["image", "deregister", "test image", "--delete-snapshots"]);
    let second = lab.counts("second", &[]);
    assert_eq!(lab.counted(&second), ["2", "2"]);
    lab.done(&["stop", &id, &second]);
    lab.done(&["start", &id]);
    lab.has_booted(&id, 3);
    assert_eq!(lab.counted(&id)[4..], ["3", "3"]);
    lab.done(&["terminate", &id, &second]);
    assert_eq!(lab.images(), ["second"]);
}

#[test]
fn an_image_without_a_reboot_lets_the_guest_run_on() {
    let lab = Lab::with_guest();
    let id = lab.counts("test image", &DISKS);
    let args = [
        "image",
        "create-image",
        &id,
        "--name",
        "live",
        "--no-reboot",
    ];
    lab.done(&args);
    assert_eq!(lab.counted(&id), ["1", "1"]);
    assert_eq!(lab.state().unwrap(), "running");
    lab.kami(&args).refused(
        1,
        &[
            "AMI name live is already in use",
            "InvalidAMIName.Duplicate",
        ],
    );
    let live = lab.counts("live", &[]);
    assert_eq!(lab.counted(&live), ["2", "2"]);
    // Again, from what the first image has left the volumes on.
    lab.done(&[
        "image",
        "create",
        &live,
        "--name",
        "next",
        "--no-reboot",
        "-b",
        "/dev/sdd=none",
    ]);
    let next = lab.counts("next", &[]);
    assert_eq!(lab.counted(&next), ["3"]);
    lab.done(&["terminate", &id, &live, &next]);
}

#[test]
fn a_refused_image_leaves_the_instance_running() {
    let lab = Lab::with_guest();
    let id = lab.counts("test image", &[&DISKS[..], &["--rm"]].concat());
    let create =
        |more: &[&str]| lab.kami(&[&["image", "create", &id, "--name", "other"], more].concat());
    create(&[]).refused(2, &["--no-reboot"]);
    create(&["-b", "/dev/sdd=:7"]).refused(2, &["--no-reboot"]);
    create(&["--no-reboot", "-b", "/dev/sdd=:7"])
        .refused(3, &["'/dev/sdd'", "DeleteOnTermination"]);
    lab.kami(&["image", "create", &id, "--name", "test image"])
        .refused(2, &[]);
    assert_eq!(lab.counted(&id), ["1", "1"]);
    lab.done(&["stop", &id]);
    assert_eq!(lab.images(), ["test image"]);
}

#[test]
fn a_parameter_is_launched_rolled_back_and_kept_from_pruning() {
    let lab = Lab::with_guest();
    let first = lab.image("test image")["ImageId"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        lab.done(&["parameter", "put", "/golden/web", "test image"]),
        "/golden/web:1"
    );
    let id = lab.counts("resolve:ssm:/golden/web", &DISKS);
    lab.done(&["image", "create", &id, "--name", "web-2", "--no-reboot"]);
    lab.done(&["image", "copy", "web-2", "--name", "web-1"]);
    assert_eq!(
        lab.done(&["parameter", "put", "/golden/web", "web-2"]),
        "/golden/web:2"
    );
    let newest = lab.counts("resolve:ssm:/golden/web", &[]);
    assert_eq!(lab.counted(&newest), ["2", "2"]);
    let older = lab.counts("resolve:ssm:/golden/web:1", &DISKS);
    assert_eq!(lab.counted(&older), ["1", "1"]);
    lab.done(&["terminate", &id, &newest, &older]);

    let prune = |more: &[&str]| {
        lab.done(&[&["image", "prune", "--name", "*-?", "--keep", "0"], more].concat())
    };
    // A dry run first, in which nothing happens.
    assert!(prune(&[]).contains("to be deleted"));
    let table = prune(&["--yes"]);
    assert!(
        table.contains("kept: the parameter /golden/web names it"),
        "{table}"
    );
    assert_eq!(lab.images(), ["test image", "web-2"]);

    let back = [
        "parameter",
        "put",
        "/golden/web",
        "resolve:ssm:/golden/web:1",
    ];
    assert_eq!(lab.done(&back), "/golden/web:3");
    assert_eq!(lab.done(&["parameter", "get", "/golden/web"]), first);
    let history = lab.json(&["parameter", "history", "/golden/web"]);
    assert_eq!(history["Parameters"].as_array().unwrap().len(), 3);
    // Terminated instances are no obstacle, and the snapshots go too.
    prune(&["--yes"]);
    assert_eq!(lab.images(), ["test image"]);
    let snapshots = lab.json(&["snapshot", "ls"]);
    assert_eq!(snapshots["Snapshots"].as_array().unwrap().len(), 1);
    lab.kami(&["run", "resolve:ssm:/golden/web:2"])
        .refused(4, &["InvalidAMIID.NotFound"]);
    lab.kami(&["run", "resolve:ssm:/golden/web:9"])
        .refused(4, &["ParameterVersionNotFound"]);
}

#[test]
fn policies_of_the_settings_are_applied() {
    let lab = Lab::new();
    for name in ["web-1", "web-2", "web-3", "data-1"] {
        lab.import(name, 1, 1);
    }
    let settings = lab.file("config.toml", "[[prune]]\nname = \"web-*\"\nkeep = 1\n");
    let prune = |more: &[&str]| {
        let mut command = lab.command(common::KAMI);
        command
            .env("KAMI_CONFIG", &settings)
            .args(["image", "prune", "--policies"])
            .args(more);
        let outcome = common::finish(command.spawn().unwrap());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.out
    };
    let would: Value = serde_json::from_str(&prune(&["--output", "json"])).unwrap();
    assert_eq!(would["DryRun"], true);
    assert_eq!(would["Images"].as_array().unwrap().len(), 2);
    assert_eq!(lab.images().len(), 4);
    prune(&["--yes"]);
    assert_eq!(lab.images(), ["data-1", "web-3"]);
}

#[test]
fn only_whom_an_image_is_shared_with_launches_it() {
    let lab = Lab::with_guest();
    let (owner, other) = ("111111111111", "222222222222");
    let copy = lab.kami_as(owner, &["image", "copy", "test image", "--name", "mine"]);
    // The registered one belongs to nobody in particular, and is private.
    copy.refused(4, &["InvalidAMIID.NotFound"]);
    lab.done(&["image", "modify", "test image", "--add-permission", owner]);
    let copy = lab.kami_as(owner, &["image", "copy", "test image", "--name", "mine"]);
    assert_eq!(copy.code, Some(0), "{copy:?}");
    let id = copy.out.trim_end();

    let run = || lab.kami_as(other, &["run", id, "--rm"]);
    run().refused(1, &["Not authorized for images", "AuthFailure"]);
    let shared = lab.kami_as(owner, &["image", "modify", id, "--add-permission", "all"]);
    assert_eq!(shared.code, Some(0), "{shared:?}");
    // Now it is found, and lacks a kernel.
    run().refused(3, &["names no kernel"]);
    let listed = |args: &[&str]| lab.kami_as(other, &[&["image", "ls"], args].concat()).out;
    assert!(listed(&[]).contains(id));
    assert!(!listed(&["--owner", "self"]).contains(id));
    lab.kami_as(owner, &["image", "deprecate", id]);
    assert!(!listed(&[]).contains(id));
    assert!(listed(&["-a"]).contains(id));
    let deregistered = lab.kami_as(other, &["image", "deregister", id]);
    deregistered.refused(1, &["AuthFailure"]);
    lab.kami_as(owner, &["image", "disable", id]);
    lab.kami_as(owner, &["run", id])
        .refused(1, &["InvalidAMIID.Unavailable"]);
    lab.kami_as(owner, &["image", "protect", id]);
    let protected = lab.kami_as(owner, &["image", "deregister", id]);
    protected.refused(1, &["OperationNotPermitted"]);
    protected.helps("unprotect");
}
