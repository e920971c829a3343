//! kami's disks: a root of which nothing, half or all has been copied, a plain one, and new ones.
//!
//! An image of a root disk that begins with noise is launched three times; the guest's own load copies what is to be copied. The
//! instances are stopped, and started again for each run with another command line. What is measured on a new disk launches
//! a new instance, which is removed when it ends. Each has a root, an empty volume and an ephemeral disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kami_tests::terminal::Terminal;

use crate::Result;
use crate::guest::{Load, command_line};
use crate::job::{Job, Kind, Limit};
use crate::measured::Measured;

/// The disks of an instance, in the order in which the guest finds them.
pub const ROOT: usize = 0;
/// An empty volume, which has no layer below; filled in the instance `copied`.
pub const PLAIN: usize = 1;
pub const EPHEMERAL: usize = 2;

const SNAPSHOT: &str = "snap-0bee0000000000001";
const IMAGE: &str = "bench";

/// How disks are prepared: half of a disk is every second stretch of 64 KiB.
const PREPARE: Job = Job::new(Kind::Fill, 64 << 10, 32);

/// A store with the image.
#[derive(Debug)]
pub struct Kami {
    program: PathBuf,
    home: PathBuf,
    pub tsc_khz: u64,
}

impl Kami {
    /// Makes the store and its image of a root disk.
    ///
    /// # Errors
    /// A command fails.
    pub fn new(
        program: &Path,
        kernel: &Path,
        root: &Path,
        home: PathBuf,
        tsc_khz: u64,
    ) -> Result<Self> {
        let kami = Self {
            program: program.into(),
            home,
            tsc_khz,
        };
        let said = kami.said(&["kernel", "import", &text(kernel), "--name", "test-guest"])?;
        let kernel = said
            .split_whitespace()
            .find(|word| word.starts_with("aki-"));
        let manifest = kami.home.join("image.json");
        fs::write(&manifest, image(kernel.ok_or("no id of the kernel")?))?;
        let source = format!("{SNAPSHOT}={}", text(root));
        kami.said(&["image", "register", &text(&manifest), "--snapshot", &source])?;
        Ok(kami)
    }

    /// Makes the instance `name`, and writes so much of its disks first: of each the share in per mille.
    ///
    /// # Errors
    /// It cannot be made, or a write failed.
    pub fn prepare(&self, name: &str, written: &[(usize, u16)]) -> Result<()> {
        let jobs: Vec<String> = written
            .iter()
            .map(|(disk, share)| PREPARE.for_guest(*disk, Limit::PerMille(*share)))
            .collect();
        let line = if jobs.is_empty() {
            "kami.test=hello".to_owned()
        } else {
            command_line(self.tsc_khz, &jobs)
        };
        let said = self.said(&with_line(&new(name), &line))?;
        let done = said
            .lines()
            .filter(|line| line.contains(" errors=0 "))
            .count();
        if done == jobs.len() {
            Ok(())
        } else {
            Err(format!("{name} is not prepared:\n{said}").into())
        }
    }

    /// Runs a load in an instance that was prepared.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub fn load(&self, name: &str, load: &Load<'_>) -> Result<Vec<Measured>> {
        let line = load.command_line();
        self.said(&with_line(&["instance", "modify", name], &line))?;
        self.run(&["start", "--attach", name], load)
    }

    /// Runs a load in a new instance.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub fn load_new(&self, load: &Load<'_>) -> Result<Vec<Measured>> {
        let words = [new("new"), vec!["--rm"]].concat();
        self.run(&with_line(&words, &load.command_line()), load)
    }

    fn run(&self, words: &[&str], load: &Load<'_>) -> Result<Vec<Measured>> {
        let mut command = self.command(words);
        let terminal = Terminal::input_of(&mut command, false)?;
        load.run(command, terminal)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).env("KAMI_HOME", &self.home);
        command
    }

    /// What a command prints.
    fn said(&self, words: &[&str]) -> Result<String> {
        let mut command = self.command(words);
        let output = command
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            return Err(format!("{command:?}: {}", output.status).into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A launch of the image.
fn new(name: &str) -> Vec<&str> {
    let size = "--ephemeral-size=1G";
    vec![
        "run",
        IMAGE,
        "--name",
        name,
        "--cpus=2",
        "--memory=512M",
        size,
    ]
}

/// The words with the guest's command line after them.
fn with_line<'a>(words: &[&'a str], line: &'a str) -> Vec<&'a str> {
    [words, &["--append", line]].concat()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn image(kernel: &str) -> String {
    format!(
        r#"{{
  "ImageId": "ami-0bee0000000000001", "Name": "{IMAGE}", "Architecture": "x86_64", "VirtualizationType": "hvm",
  "KernelId": "{kernel}", "RootDeviceName": "/dev/sda1", "RootDeviceType": "ebs",
  "BlockDeviceMappings": [
    {{ "DeviceName": "/dev/sda1", "Ebs": {{ "SnapshotId": "{SNAPSHOT}", "VolumeSize": 1 }} }},
    {{ "DeviceName": "/dev/sdb", "Ebs": {{ "VolumeSize": 1, "DeleteOnTermination": true }} }},
    {{ "DeviceName": "/dev/sdc", "VirtualName": "ephemeral0" }}
  ]
}}
"#
    )
}
