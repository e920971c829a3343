//! The test guest as an image's kernel, for tests that run it.

use std::fs;
use std::process::Child;

use kami_kernels::guest;

use super::{Lab, Outcome, SNAPSHOT, finish, manifest};

impl Lab {
    /// A lab with an image `test image` whose root disk holds the test pattern, and the test guest's file.
    pub fn with_guest() -> Self {
        let lab = Self::new();
        lab.add_guest();
        lab
    }

    /// Makes it what [`Lab::with_guest`] is.
    pub fn add_guest(&self) {
        self.file("guest", guest::TEST_GUEST);
        let mut pattern = Vec::new();
        guest::write_test_disk(&mut pattern, 2048).unwrap();
        let disk = self.file("root.raw", pattern);
        let file = self.file("manifest.json", manifest(str::to_owned));
        self.done(&[
            "image",
            "register",
            &file,
            "--snapshot",
            &format!("{SNAPSHOT}={disk}"),
        ]);
    }

    /// The arguments that run the test guest in `mode`, then `more`.
    pub fn guest_args(&self, mode: &str, more: &[&str]) -> Vec<String> {
        let kernel = self.path("guest");
        let append = format!("kami.test={mode}");
        let fixed = [
            "run",
            "test image",
            "--memory",
            "128M",
            "--ephemeral-size",
            "16M",
        ];
        let kernel = ["--kernel", kernel.to_str().unwrap(), "--append", &append];
        [&fixed[..], &kernel, more]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    /// Runs the test guest, to its end, as the kernel of an image that has none.
    pub fn run_guest_of(&self, image: &str, more: &[&str]) {
        let kernel = self.path("guest");
        let kernel = [
            "--kernel",
            kernel.to_str().unwrap(),
            "--append",
            "kami.test=hello",
        ];
        self.done(&[&["run", image, "--memory", "32M"], &kernel[..], more].concat());
    }

    pub fn start_guest(&self, mode: &str, more: &[&str]) -> Child {
        let args = self.guest_args(mode, more);
        self.start(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub fn run_guest(&self, mode: &str, more: &[&str]) -> Outcome {
        finish(self.start_guest(mode, more))
    }

    /// Starts the guest in the background and returns the instance's id.
    pub fn background(&self, mode: &str, more: &[&str]) -> String {
        let outcome = self.run_guest(mode, &[&["-d"], more].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.out.trim_end().to_owned()
    }

    /// The state and exit status of the only instance, as `ps -a` shows it; `None` without one.
    pub fn state(&self) -> Option<String> {
        let listing = self.done(&["ps", "-a"]);
        let row = listing.lines().nth(1)?;
        // IMAGE is "test image", STATE follows.
        let state = row.split("test image").nth(1).unwrap();
        Some(state.trim().split("   ").next().unwrap().to_owned())
    }

    /// Ends every instance by force.
    pub fn end_all(&self) {
        for row in self.done(&["ps"]).lines().skip(1) {
            self.done(&["stop", "--time", "0", &row[..19]]);
        }
    }

    /// What the only instance has printed so far, by its log's own file.
    pub fn console(&self) -> String {
        let folders = fs::read_dir(self.path("home/instances"))
            .into_iter()
            .flatten();
        let logs = folders.map(|folder| folder.unwrap().path().join("console.log"));
        logs.map(|log| fs::read_to_string(log).unwrap_or_default())
            .collect()
    }

    /// Waits until the only instance has printed `text`.
    pub fn wait_for(&self, text: &str) {
        super::wait_until(text, || self.console().contains(text));
    }
}
