//! The process of a virtual machine is killed at random moments while its guest writes a log to its disks: every
//! record that the guest had flushed is there when the same instance starts again.
//!
//! What is killed is the process, so what it had handed to the kernel stays: what may be lost is what it kept to
//! itself, such as which blocks an overlay holds. What a power cut may lose besides is the block device's own test.
//! `KAMI_ROUNDS` says how many rounds.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout};
use std::time::Duration;

use common::Lab;

const ROUNDS: u32 = 200;

/// The instance's.
const NAME: &str = "log";

/// No round takes longer.
const LIMIT: &str = "5m";

/// Most flushes that a round lets the guest do before it ends.
const FLUSHES: u64 = 12;

/// The moment after the last of those in which the kill comes, in microseconds, at most.
const MOMENT_US: u64 = 3000;

/// The guest as it runs, and what it said of its flushes.
struct Running {
    child: Child,
    console: BufReader<ChildStdout>,
    /// All that it has said.
    said: String,
    /// The last record that a flush covered.
    flushed: u64,
}

impl Running {
    fn new(mut child: Child, flushed: u64) -> Self {
        let console = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            console,
            said: String::new(),
            flushed,
        }
    }

    /// What comes after `key` in the next line that has it; none where the console ends first.
    fn next(&mut self, key: &str) -> Option<String> {
        loop {
            let mut line = Vec::new();
            if self.console.read_until(b'\n', &mut line).unwrap() == 0 {
                return None;
            }
            let line = String::from_utf8_lossy(&line);
            self.said += &line;
            // A line that the kill cut short says nothing.
            if let Some((_, rest)) = line.split_once(key)
                && line.ends_with('\n')
            {
                return Some(rest.trim_end().to_owned());
            }
        }
    }

    fn next_flush(&mut self) -> bool {
        match self.next("kami-test: flushed=") {
            Some(number) => {
                self.flushed = number.parse().unwrap();
                true
            }
            None => false,
        }
    }

    /// What it said, and what the process did after that.
    fn end(mut self) -> (String, String) {
        let _ = self.child.kill();
        let mut errors = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        let _ = stderr.read_to_string(&mut errors);
        (std::mem::take(&mut self.said), errors)
    }

    /// Kills the process; returns what was flushed, as far as it came to say.
    fn kill(mut self) -> u64 {
        self.child.kill().unwrap();
        while self.next_flush() {}
        self.flushed
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Numbers that are another series each time: xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }
}

/// The instance of the guest that writes a log: to its root, which stands on a snapshot, and to a volume of nothing.
struct Instance {
    lab: Lab,
    root: String,
}

impl Instance {
    /// Runs until the guest writes.
    fn new() -> (Self, Running) {
        let lab = Lab::with_guest();
        let args = [
            "--name",
            NAME,
            "-b",
            "/dev/sdb=:1",
            "-b",
            "/dev/sdc=none",
            "--timeout",
            LIMIT,
        ];
        let mut running = Running::new(lab.start_guest("log kami.flushed=0", &args), 0);
        assert!(running.next_flush());
        let root = lab.volumes_of(NAME).swap_remove(0);
        (Self { lab, root }, running)
    }

    /// Starts the guest again, which looks for all records up to `flushed` and goes on.
    fn start(&self, flushed: u64) -> Running {
        let append = format!("kami.test=log kami.logs=2 kami.flushed={flushed}");
        let modify = ["instance", "modify", NAME, "--append", &append];
        self.lab.done(&modify);
        let mut running = Running::new(
            self.lab.start(&["start", "-a", "--timeout", LIMIT, NAME]),
            flushed,
        );
        let Some(found) = running.next("kami-test: log last=") else {
            panic!("the disks were not looked at: {:?}", running.end());
        };
        let (_, missing) = found.split_once(" missing=").unwrap();
        assert_eq!(missing, "0", "of {flushed} records: last={found}");
        running
    }
}

#[test]
fn killed_machine_loses_no_flushed_write() {
    let rounds = std::env::var("KAMI_ROUNDS").map_or(ROUNDS, |it| it.parse().unwrap());
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    let seed = u64::from(now.subsec_nanos()) | 1;
    println!("the moments are those of the seed {seed}");
    let mut random = Random(seed);
    let (instance, mut running) = Instance::new();
    for round in 1..=rounds {
        // A snapshot freezes the disk and gets in between its layers.
        let snapshot = (random.below(8) == 0)
            .then(|| instance.lab.start(&["snapshot", "create", &instance.root]));
        for _ in 0..random.below(FLUSHES) {
            if !running.next_flush() {
                panic!("round {round}: {:?}", running.end());
            }
        }
        std::thread::sleep(Duration::from_micros(random.below(MOMENT_US)));
        let flushed = running.kill();
        // It may have come too late for the machine, or be refused the disk; not more.
        if let Some(outcome) = snapshot.map(common::finish) {
            let mut lines = outcome.err.lines();
            let is_told = lines.any(|line| line.starts_with("kami: error: "));
            assert!(
                outcome.code == Some(0) || outcome.code == Some(1) && is_told,
                "{outcome:?}"
            );
        }
        running = instance.start(flushed);
    }
    let flushed = running.kill();
    println!("{rounds} rounds, {flushed} records, none lost");
    instance.lab.done(&["store", "check"]);
}
