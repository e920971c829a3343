//! Reads the test guest's report out of what a console shows.
//!
//! A report is lines `kami-test: KEY=VALUE`, among whatever else the console shows, ended by `result=pass` or
//! `result=fail reason=…`. Keys: `protocol` (`pvh`, `linux64`, `arm64`), `memory_bytes`, on x86_64 `acpi_tables` and
//! `hardware_reduced` (`yes`, `no`), on aarch64 `fdt_bytes`, `psci` (`1.1`) and `interrupt_controller` (`gicv3-its`,
//! `gicv3`, `gicv2-v2m`, `gicv2`), `timer`, `cpus`, `cpus_started`, `rtc` (ISO 8601), `pci_functions`, `rng`, for each
//! disk N `diskN.bytes`, `.serial`, `.queues`, `.pattern` (`ok`, `written`, `none`), `.write` (`ok`) or `.read_only`
//! (`yes`), `.interrupts`, then `disks`; in the mode `reset` `boot` (1, 2) and `reset` (`asked`); in `echo` `echo`
//! (`ready`) and `serial_interrupts`; in `button` `button` (`waiting`, `pressed`); in `load` for each job `load_begins`,
//! `load_ends` and, after its flush, `load`: see [`Load`]; in `log` `flushed`, and of what was there before `log last` (see [`Report::log`]) and for each disk N
//! `diskN.log` (`none`, `found …`) and, of the first record that is missing, `diskN.log_missing`; in `fill` `fill` (`going`, `error at=…`, `alive`, `again`,
//! `done`, `verified`).

/// What begins each line.
const PREFIX: &str = "kami-test: ";

/// A report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    entries: Vec<(String, String)>,
}

/// How the guest's tests ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    Fail {
        /// In the guest's words.
        reason: String,
    },
    /// The report ends without a result: the guest stopped, or was stopped, before it had one.
    Unfinished,
}

/// What a report says of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub bytes: u64,
    pub serial: String,
    /// `ok`: as the host made it; `written`: partly by an earlier run of the guest; `none`: no pattern.
    pub pattern: String,
    /// The disk kept what the guest wrote.
    pub is_written: bool,
    pub queues: u32,
}

/// What a job of the mode `load` came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The job in the words of the command line.
    pub job: String,
    /// Requests that were done, one that failed included.
    pub operations: u64,
    /// Requests that failed.
    pub errors: u64,
    pub bytes: u64,
    /// From the first request to the end of the last, a flush at the end not included.
    pub nanoseconds: u64,
    /// In nanoseconds, of all requests: what 50, 90, 99 and 99.9 % of them did not exceed (±1.6 %), and the longest.
    pub latencies: [u64; 5],
    /// Requests in flight: as many as the job asked for, or as many as the queues have room for.
    pub depth: u64,
}

impl Report {
    /// Reads what the console has shown so far. Lines cut short or overwritten by others count for what they are.
    #[must_use]
    pub fn parse(console: &str) -> Self {
        let lines = console.split(['\r', '\n']);
        let entries = lines.filter_map(|line| {
            let (_, entry) = line.split_once(PREFIX)?;
            let (key, value) = entry.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        });
        Self {
            entries: entries.collect(),
        }
    }

    /// The value of `key`; where it occurs more than once (after a reset), the last one.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        let entry = self.entries.iter().rfind(|(found, _)| found == key)?;
        Some(&entry.1)
    }

    /// The same as a number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.value(key)?.parse().ok()
    }

    /// All keys and values, in the order in which they came.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// How the tests ended.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self.value("result") {
            Some("pass") => Outcome::Pass,
            Some(failed) => Outcome::Fail {
                reason: failed
                    .strip_prefix("fail reason=")
                    .unwrap_or(failed)
                    .to_owned(),
            },
            None => Outcome::Unfinished,
        }
    }

    /// The disks, in the guest's order: by ascending PCI slot. Only those whose pattern was judged.
    #[must_use]
    pub fn disks(&self) -> Vec<Disk> {
        (0..).map_while(|number| self.disk(number)).collect()
    }

    /// What the jobs of the mode `load` came to, those that are done, in their order.
    #[must_use]
    pub fn loads(&self) -> Vec<Load> {
        let lines = self.entries().filter(|&(key, _)| key == "load");
        lines.filter_map(|(_, line)| load(line)).collect()
    }

    /// Up to which record of the mode `log` all were flushed. A number that is cut short is too low, which the ones
    /// before make good.
    #[must_use]
    pub fn flushed(&self) -> Option<u64> {
        let lines = self.entries().filter(|&(key, _)| key == "flushed");
        lines.filter_map(|(_, number)| number.parse().ok()).max()
    }

    /// What the mode `log` found on the disks before it wrote: the highest record's number, and how many are missing.
    #[must_use]
    pub fn log(&self) -> Option<(u64, u64)> {
        let (last, missing) = self.value("log last")?.split_once(" missing=")?;
        Some((last.parse().ok()?, missing.parse().ok()?))
    }

    fn disk(&self, number: usize) -> Option<Disk> {
        let key = |name: &str| format!("disk{number}.{name}");
        Some(Disk {
            bytes: self.number(&key("bytes"))?,
            serial: self.value(&key("serial"))?.to_owned(),
            pattern: self.value(&key("pattern"))?.to_owned(),
            is_written: self.value(&key("write")) == Some("ok"),
            queues: self.number(&key("queues"))?.try_into().ok()?,
        })
    }
}

/// `JOB ops=N errors=N bytes=N ns=N p50=N p90=N p99=N p999=N max=N depth=N`.
fn load(line: &str) -> Option<Load> {
    let (job, numbers) = line.split_once(' ')?;
    let number = |key: &str| {
        let mut words = numbers.split(' ').filter_map(|word| word.split_once('='));
        words.find(|(found, _)| *found == key)?.1.parse().ok()
    };
    Some(Load {
        job: job.to_owned(),
        operations: number("ops")?,
        errors: number("errors")?,
        bytes: number("bytes")?,
        nanoseconds: number("ns")?,
        latencies: [
            number("p50")?,
            number("p90")?,
            number("p99")?,
            number("p999")?,
            number("max")?,
        ],
        depth: number("depth")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "\x1bcSeaBIOS\r\nBooting from ROM..Kami test guest\r\n\
        kami-test: boot=1\r\nkami-test: cpus=2\r\nkami-test: boot=2\r\n\
        kami-test: disk0.bytes=8388608\r\nkami-test: disk0.serial=vol0a=b\r\n\
        kami-test: disk0.queues=2\r\nkami-test: disk0.pattern=ok\r\nkami-test: disk0.write=ok\r\n\
        kami-test: disk1.bytes=512\r\nkami-test: disk1.serial=\r\n\
        kami-test: disk1.queues=1\r\nkami-test: disk1.pattern=none\r\nkami-test: disk1.read_only=yes\r\n\
        kami-test: result=pass\r\n";

    #[test]
    fn report_is_found_among_other_output() {
        let report = Report::parse(CONSOLE);
        assert_eq!(report.outcome(), Outcome::Pass);
        assert_eq!(report.number("cpus"), Some(2));
        assert_eq!(report.value("boot"), Some("2"));
        assert_eq!(report.value("nothing"), None);
        let [first, second] = &report.disks()[..] else {
            panic!("{:?}", report.disks());
        };
        assert_eq!((first.serial.as_str(), first.bytes), ("vol0a=b", 8 << 20));
        assert_eq!((first.queues, first.is_written), (2, true));
        assert_eq!(
            (second.pattern.as_str(), second.is_written),
            ("none", false)
        );
    }

    #[test]
    fn reason_of_a_failure_is_kept_whole() {
        let report =
            Report::parse("kami-test: result=fail reason=disk0: sector 3 is bad = wrong\n");
        let reason = "disk0: sector 3 is bad = wrong".to_owned();
        assert_eq!(report.outcome(), Outcome::Fail { reason });
    }

    #[test]
    fn jobs_of_the_load_mode_are_read() {
        let line = "kami-test: load=0:read:4096:1:1:9:irq ops=8 errors=1 bytes=32768 ns=77 p50=1 p90=2 p99=3 \
            p999=4 max=5 depth=1\r\nkami-test: load=0:first:4096:1:1:9 ops=8 err";
        let load = Load {
            job: "0:read:4096:1:1:9:irq".to_owned(),
            operations: 8,
            errors: 1,
            bytes: 32768,
            nanoseconds: 77,
            latencies: [1, 2, 3, 4, 5],
            depth: 1,
        };
        assert_eq!(Report::parse(line).loads(), [load]);
    }

    #[test]
    fn numbers_of_the_log_mode_are_read() {
        let report = Report::parse(
            "kami-test: log last=77 missing=2\r\nkami-test: flushed=99\r\n\
            kami-test: flushed=103\r\nkami-test: flushed=10",
        );
        assert_eq!((report.log(), report.flushed()), (Some((77, 2)), Some(103)));
        assert_eq!(Report::parse("").log(), None);
        assert_eq!(Report::parse("kami-test: flushed=").flushed(), None);
    }

    #[test]
    fn report_without_result_is_unfinished() {
        let cut = CONSOLE.strip_suffix("kami-test: result=pass\r\n").unwrap();
        assert_eq!(Report::parse(cut).outcome(), Outcome::Unfinished);
        assert_eq!(Report::parse("").outcome(), Outcome::Unfinished);
    }
}
