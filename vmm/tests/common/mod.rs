//! What the tests of the `kami` binary share: a store of their own, and what came of a command.

#![allow(dead_code, reason = "each test file uses a part")]

pub mod guest;
pub mod mounts;
pub mod store;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kami_kernels::Architecture;
use kami_kernels::guest::HAS_TRIPLE_FAULT;
use tempfile::TempDir;

/// No command here takes longer, in an emulated host on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(300);

/// A folder with a store, a runtime folder, and files for commands.
pub struct Lab(TempDir);

/// What came of a command.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Lab {
    pub fn new() -> Self {
        let lab = Self(tempfile::tempdir().unwrap());
        fs::create_dir(lab.path("run")).unwrap();
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and returns its path as an argument.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `kami`, or a command that ends in it, with this lab's store.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("KAMI_HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            // Whoever runs the tests may have settings.
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env_remove("KAMI_CONFIG")
            .env_remove("KAMI_ACCOUNT")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn start(&self, args: &[&str]) -> Child {
        self.command(KAMI).args(args).spawn().unwrap()
    }

    pub fn kami(&self, args: &[&str]) -> Outcome {
        finish(self.start(args))
    }

    /// As [`Lab::kami`], which must succeed; returns its output without the last line's end.
    pub fn done(&self, args: &[&str]) -> String {
        let outcome = self.kami(args);
        assert_eq!(outcome.code, Some(0), "{args:?}: {outcome:?}");
        outcome.out.trim_end().to_owned()
    }

    /// The files and folders of the store that a command left, but for the catalogue and empty
    /// folders of its top level.
    pub fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let home = self.path("home");
        collect(&home, &home, &mut left);
        left.retain(|name| !name.starts_with("catalogue."));
        left.sort();
        left
    }
}

pub const KAMI: &str = env!("CARGO_BIN_EXE_kami");

fn collect(top: &Path, folder: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(top, &path, into);
        }
        if !path.is_dir() || path.parent() != Some(top) {
            let name = path.strip_prefix(top).unwrap();
            into.push(name.to_str().unwrap().to_owned());
        }
    }
}

/// Waits for the end of a command, and fails the test when it does not come.
pub fn finish(child: Child) -> Outcome {
    let pid = rustix::process::Pid::from_child(&child);
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    match ended.recv_timeout(LIMIT) {
        Ok(output) => Outcome::new(output.unwrap()),
        Err(_) => {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let output = ended.recv().unwrap().unwrap();
            panic!("did not end: {:?}", Outcome::new(output));
        }
    }
}

/// Waits until `is_so`, and fails the test when it does not come.
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LIMIT, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Outcome {
    fn new(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts that the command failed with `code` and one error line that has every one of `parts`.
    #[track_caller]
    pub fn refused(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let lines: Vec<_> = self.err.lines().collect();
        let errors = lines
            .iter()
            .filter(|line| line.starts_with("kami: error: "));
        assert_eq!(errors.count(), 1, "{self:?}");
        let error = lines
            .iter()
            .find(|line| line.starts_with("kami: error: "))
            .unwrap();
        for part in parts {
            assert!(error.contains(part), "no {part:?} in {error:?}");
        }
        let rest = lines
            .iter()
            .filter(|line| !line.starts_with("kami: error: "));
        assert!(
            rest.clone().all(|line| line.starts_with("help: ")),
            "{self:?}"
        );
        assert!(rest.count() <= 1, "{self:?}");
    }

    #[track_caller]
    pub fn helps(&self, part: &str) {
        let help = self.err.lines().find(|line| line.starts_with("help: "));
        assert!(
            help.is_some_and(|help| help.contains(part)),
            "no {part:?}: {self:?}"
        );
    }
}

/// A manifest of one root snapshot, with `change` applied to its text, for this host: a change that keeps the
/// architecture sees `x86_64` everywhere.
pub fn manifest(change: impl Fn(&str) -> String) -> String {
    let host = format!("\"Architecture\": \"{}\"", Architecture::HOST);
    let text = change(
        r#"{
  "ImageId": "ami-00000000000000001",
  "Name": "test image",
  "Architecture": "x86_64",
  "VirtualizationType": "hvm",
  "RootDeviceType": "ebs",
  "RootDeviceName": "/dev/sda1",
  "ImageType": "machine",
  "BlockDeviceMappings": [
    {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": "snap-00000000000000001", "VolumeSize": 1}},
    {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"},
    {"DeviceName": "/dev/sdc", "VirtualName": "ephemeral1"}
  ]
}
"#,
    );
    text.replacen("\"Architecture\": \"x86_64\"", &host, 1)
}

/// The exit status of the guest that is asked for a triple fault: where there is none it fails, which is a panic.
pub const TRIPLE_FAULT: i32 = if HAS_TRIPLE_FAULT { 101 } else { 100 };

/// The snapshot that [`manifest`] names.
pub const SNAPSHOT: &str = "snap-00000000000000001";
