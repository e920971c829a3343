//! What `kami run` can be asked for besides a guest: several instances, a launch made once, types, tags, user
//! data; and what `kami instance modify` changes of it.

mod common;

use std::fs;

use common::{Lab, finish, wait_until};
use serde_json::{Value, json};

impl Lab {
    fn shown(&self, id: &str) -> Value {
        self.json(&["instance", "show", id])["Reservations"][0]["Instances"][0].clone()
    }

    /// What the guest of `id` reported under `key`, last.
    fn reported(&self, id: &str, key: &str) -> String {
        let log = self.done(&["logs", id]);
        let line = format!("kami-test: {key}=");
        let mut said = log.lines().filter_map(|l| l.strip_prefix(&line));
        said.next_back().unwrap_or_default().to_owned()
    }

    /// Runs the self-test and returns the new instance's id.
    fn ran(&self, more: &[&str]) -> String {
        let name = format!("ran-{}", self.done(&["ps", "-a"]).lines().count());
        let outcome = self.run_guest("self", &[more, &["--name", &name]].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let instance = self.shown(&name);
        instance["InstanceId"].as_str().unwrap().to_owned()
    }
}

#[test]
fn several_instances_are_one_launch() {
    let lab = Lab::with_guest();
    let outcome = lab.run_guest("hang", &["-d", "--count", "3", "--tag", "role=web"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let ids: Vec<_> = outcome.out.lines().collect();
    assert_eq!(ids.len(), 3);
    let shown = lab.json(&["ps"]);
    let reservations = shown["Reservations"].as_array().unwrap();
    assert_eq!(reservations.len(), 1, "{shown}");
    assert!(
        reservations[0]["ReservationId"]
            .as_str()
            .unwrap()
            .starts_with("r-")
    );
    let instances = reservations[0]["Instances"].as_array().unwrap();
    for (index, (instance, id)) in instances.iter().zip(&ids).enumerate() {
        assert_eq!(instance["InstanceId"], **id);
        assert_eq!(instance["AmiLaunchIndex"], index);
        assert_eq!(instance["Tags"], json!([{ "Key": "role", "Value": "web" }]));
    }
    let listed = |filters: &[&str]| {
        let shown = lab.json(&[&["instance", "ls", "--filter"], filters].concat());
        let reservations = shown["Reservations"].as_array().unwrap();
        let instances = reservations
            .iter()
            .map(|it| it["Instances"].as_array().unwrap().len());
        instances.sum::<usize>()
    };
    let reservation = format!(
        "Name=reservation-id,Values={}",
        reservations[0]["ReservationId"].as_str().unwrap()
    );
    assert_eq!(listed(&["Name=launch-index,Values=0,2", &reservation]), 2);
    lab.done(&["instance", "untag", ids[1], "role"]);
    lab.done(&["instance", "tag", ids[1], "role=db"]);
    assert_eq!(listed(&["Name=tag:role,Values=w*"]), 2);
    lab.done(&["stop", "--time", "0", ids[2]]);
    assert_eq!(listed(&["Name=instance-state-name,Values=stopped"]), 1);
    assert_eq!(lab.done(&["ps", "--max-results", "1"]).lines().count(), 2);
    lab.done(&[&["rm", "-f"][..], &ids].concat());
}

#[test]
fn fewer_instances_than_the_least_are_none() {
    let lab = Lab::with_guest();
    let empty = lab.left();
    let outcome = lab.run_guest("hang", &["--count", "2:3", "-d", "--name", "web"]);
    outcome.refused(2, &["one name"]);
    let foreground = lab.run_guest("hang", &["--count", "2"]);
    foreground.refused(2, &["-d"]);
    let bad = lab.run_guest(
        "hang",
        &[
            "-d",
            "--count",
            "2",
            "-b",
            "/dev/sdd=snap-0123456789abcdef0",
        ],
    );
    bad.refused(4, &["snap-0123456789abcdef0", "InvalidSnapshot.NotFound"]);
    assert_eq!(lab.left(), empty);
    let wrong = lab.run_guest("hang", &["-d", "--count", "3:2"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

#[test]
fn launch_that_ends_before_its_least_number_is_taken_back() {
    let lab = Lab::with_guest();
    let empty = lab.left();
    let (kernel, away) = (lab.path("guest"), lab.path("away"));
    // More than can be launched before the kernel is gone.
    for (count, code) in [("500", 3), ("1:500", 0)] {
        let args = lab.guest_args("hang", &["-d", "--count", count]);
        let launch = lab.start(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let folders = || fs::read_dir(lab.path("home/instances")).map_or(0, Iterator::count);
        wait_until("the first is there", || folders() > 0);
        fs::rename(&kernel, &away).unwrap();
        let outcome = finish(launch);
        fs::rename(&away, &kernel).unwrap();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(outcome.err.contains("No such file"), "{outcome:?}");
        let ids: Vec<_> = outcome.out.lines().collect();
        assert_eq!(ids.is_empty(), code != 0, "{outcome:?}");
        assert_eq!(lab.done(&["ps", "-a"]).lines().count(), 1 + ids.len());
        if !ids.is_empty() {
            lab.done(&[&["rm", "-f"][..], &ids].concat());
        }
        assert_eq!(lab.left(), empty);
    }
}

#[test]
fn launch_with_a_token_is_made_once() {
    let lab = Lab::with_guest();
    let token = ["--client-token", "deploy-7", "-d", "--count", "2"];
    let first = lab.run_guest("hang", &token);
    assert_eq!(first.code, Some(0), "{first:?}");
    let again = lab.run_guest("hang", &token);
    assert_eq!((again.code, &again.out), (Some(0), &first.out), "{again:?}");
    let other = lab.run_guest("hang", &[&token[..], &["--cpus", "2"]].concat());
    other.refused(1, &["IdempotentParameterMismatch"]);
    assert_eq!(lab.done(&["ps", "-a"]).lines().count(), 3);
    // In the foreground too, and for a stopped instance.
    let single = ["--client-token", "once"];
    assert_eq!(lab.run_guest("self", &single).code, Some(0));
    let again = lab.run_guest("self", &single);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.out.starts_with("i-") && !again.out.contains("kami-test"));
    // When all are forgotten, so is the token.
    let ids: Vec<_> = first.out.lines().collect();
    lab.done(&[&["rm", "-f"][..], &ids].concat());
    let anew = lab.run_guest("hang", &token);
    assert_eq!(anew.code, Some(0), "{anew:?}");
    assert_ne!(anew.out, first.out);
    let long = lab.run_guest("hang", &["--client-token", &"x".repeat(65)]);
    long.refused(3, &["65 characters"]);
    lab.end_all();
}

#[test]
fn launches_at_once_with_one_token_are_one() {
    let lab = Lab::with_guest();
    let args = lab.guest_args("hang", &["-d", "--client-token", "once"]);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let started: Vec<_> = (0..4).map(|_| lab.start(&args)).collect();
    let outcomes: Vec<_> = started.into_iter().map(finish).collect();
    for outcome in &outcomes {
        assert_eq!(
            (outcome.code, &outcome.out),
            (Some(0), &outcomes[0].out),
            "{outcome:?}"
        );
    }
    assert_eq!(lab.done(&["ps", "-a"]).lines().count(), 2);
    lab.end_all();
}

#[test]
fn type_gives_processors_memory_and_ephemeral_disks() {
    let lab = Lab::with_guest();
    let config = "[instance-type.\"test.small\"]\nvcpus = 2\nmemory = \"96M\"\n\
                  ephemeral = { count = 1, size = \"24M\" }\n\
                  [instance-type.\"test.tiny\"]\nvcpus = 1\nmemory = \"64M\"\n";
    let config = lab.file("config.toml", config);
    let kami = |args: &[&str]| {
        let mut command = lab.command(common::KAMI);
        finish(
            command
                .env("KAMI_CONFIG", &config)
                .args(args)
                .spawn()
                .unwrap(),
        )
    };
    let kernel = lab.path("guest");
    let kernel = kernel.to_str().unwrap();
    let run = [
        "run",
        "test image",
        "--kernel",
        kernel,
        "--name",
        "web",
        "--type",
    ];
    let outcome = kami(&[&run[..], &["test.small"]].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(lab.reported("web", "cpus"), "2");
    // The root and ephemeral0; ephemeral1 is beyond the type's.
    assert_eq!(lab.reported("web", "disks"), "2");
    let shown = lab.shown("web");
    assert_eq!(shown["InstanceType"], "test.small");
    assert_eq!(shown["CpuOptions"]["CoreCount"], 2);

    let modified = kami(&["instance", "modify", "web", "--type", "test.tiny"]);
    assert_eq!(modified.code, Some(0), "{modified:?}");
    assert_eq!(kami(&["start", "-a", "web"]).code, Some(0));
    assert_eq!(lab.reported("web", "cpus"), "1");
    assert_eq!(lab.reported("web", "disks"), "1");
    assert_eq!(lab.shown("web")["InstanceType"], "test.tiny");

    let unknown = kami(&[&run[..], &["m9.huge"]].concat());
    unknown.refused(3, &["m9.huge", "InvalidParameterValue"]);
}

#[test]
fn stopped_instance_is_modified_and_a_running_one_is_not() {
    let lab = Lab::with_guest();
    let id = lab.background("button", &["-b", "/dev/sdd=:1"]);
    lab.wait_for("button=waiting");
    let modify = |args: &[&str]| lab.kami(&[&["instance", "modify", &id], args].concat());
    let kernel = lab.path("guest");
    let other = lab.file("other-guest", fs::read(&kernel).unwrap());
    let data = lab.file("data", "#cloud-config\n");
    for args in [
        ["--cpus", "2"],
        ["--memory", "64M"],
        ["--kernel", &other],
        ["--append", "kami.test=self"],
        ["--user-data", &data],
    ] {
        modify(&args).refused(1, &["not in the 'stopped' state", "IncorrectInstanceState"]);
    }
    // What becomes of it may change at any time.
    let at_any_time = modify(&["--delete-on-termination", "/dev/sdd=true"]);
    assert_eq!(at_any_time.code, Some(0), "{at_any_time:?}");
    let mappings = &lab.shown(&id)["BlockDeviceMappings"];
    assert_eq!(mappings[1]["Ebs"]["DeleteOnTermination"], true);
    let unmapped = modify(&["--cpus", "1", "--delete-on-termination", "/dev/sdz=true"]);
    assert_ne!(unmapped.code, Some(0));
    modify(&[]).refused(2, &["nothing to modify"]);

    lab.done(&["stop", &id]);
    let unmapped = modify(&["--cpus", "2", "--delete-on-termination", "/dev/sdz=true"]);
    unmapped.refused(1, &["/dev/sdz", "InvalidInstanceAttributeValue"]);
    assert_eq!(
        lab.shown(&id)["CpuOptions"]["CoreCount"],
        1,
        "wholly or not"
    );
    let all = [
        "--cpus",
        "2",
        "--kernel",
        &other,
        "--append",
        "kami.test=self",
    ];
    let all = [
        &all[..],
        &["--user-data", &data, "--shutdown-behavior", "terminate"],
    ]
    .concat();
    assert_eq!(modify(&all).code, Some(0));
    fs::remove_file(kernel).unwrap();
    let page = lab.done(&["instance", "show", &id]);
    assert!(page.contains("User data:   14 B"), "{page}");
    let started = lab.kami(&["start", "-a", &id]);
    assert_eq!(started.code, Some(0), "{started:?}");
    assert_eq!(lab.reported(&id, "cpus"), "2");
    let shown = lab.shown(&id);
    assert_eq!(shown["State"]["Name"], "terminated");
    assert_eq!(shown["BlockDeviceMappings"], json!([]));
    assert_eq!(lab.json(&["volume", "ls"])["Volumes"], json!([]));
}

#[test]
fn user_data_has_at_most_16_kib() {
    let lab = Lab::with_guest();
    let fits = lab.file("fits", vec![0xff; 16384]);
    let id = lab.ran(&["--user-data", &fits]);
    assert!(lab.done(&["instance", "show", &id]).contains("16 KiB"));
    let long = lab.file("long", vec![b'x'; 16385]);
    let refused = lab.run_guest("self", &["--user-data", &long]);
    refused.refused(3, &["limited to 16384 bytes", "InvalidParameterValue"]);
    let missing = lab.run_guest("self", &["--user-data", "/nowhere/x"]);
    missing.refused(3, &["/nowhere/x", "No such file"]);
}

#[test]
fn kernel_that_is_gone_keeps_a_stopped_instance_stopped() {
    let lab = Lab::with_guest();
    let id = lab.ran(&[]);
    let files = lab.left();
    fs::remove_file(lab.path("guest")).unwrap();
    let refused = lab.kami(&["start", &id]);
    refused.refused(3, &["guest", "No such file"]);
    assert_eq!(lab.state().unwrap(), "stopped (0)");
    assert_eq!(lab.left(), files);
}
