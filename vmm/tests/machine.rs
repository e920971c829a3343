//! Machines on this host's KVM, tested from within by the bare-metal test guest.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::thread;

use kami_devices::virtio::block::{BlockConfig, BlockDevice};
use kami_devices::virtio::device::VirtioDevice;
use kami_devices::virtio::rng::Rng;
use kami_image::volume::Volume;
use kami_kernels::Architecture;
use kami_kernels::guest::job::Job;
use kami_kernels::guest::{self, Outcome, Report, pattern};
use kami_vmm::machine::{End, Error, MAX_CPUS, Machine, MachineConfig, MachineHandle};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DISK_BYTES: u64 = 2 * MIB;
/// How the guest ends when it is asked for a triple fault: where there is none it says so, as a failure.
const TRIPLE_FAULT: End = match guest::HAS_TRIPLE_FAULT {
    true => End::TripleFault,
    false => End::Panicked,
};

type Devices = Vec<Box<dyn VirtioDevice>>;
/// Waits for a line of the console that contains the given words.
type WaitFor<'a> = &'a mut dyn FnMut(&str);

fn config(mode: &str) -> MachineConfig {
    MachineConfig {
        cpus: 1,
        memory_bytes: 128 * MIB,
        kernel: guest::open().unwrap(),
        initrd: None,
        cmdline: format!("kami.test={mode}"),
    }
}

/// A disk with the test pattern, an empty one, and an entropy device.
fn devices(cpus: u32) -> Devices {
    let mut root = tempfile::tempfile().unwrap();
    guest::write_test_disk(&mut root, DISK_BYTES / 512).unwrap();
    let scratch = tempfile::tempfile().unwrap();
    scratch.set_len(DISK_BYTES).unwrap();
    let mut devices: Devices = Vec::new();
    for (file, name) in [(root, b"vol0"), (scratch, b"vol1")] {
        let mut serial = [0; 20];
        serial[..name.len()].copy_from_slice(name);
        let block = BlockConfig {
            serial,
            queues: u16::try_from(cpus).unwrap(),
            read_only: false,
            limits: None,
        };
        let volume = Volume::plain(file, DISK_BYTES);
        devices.push(Box::new(BlockDevice::new(volume, block)));
    }
    devices.push(Box::new(Rng::new()));
    devices
}

/// Runs the guest until it ends for good, building a machine anew after each reset. `meanwhile` gets the
/// first machine's handle.
fn run_while(
    config: &MachineConfig,
    mut devices: Devices,
    meanwhile: impl FnOnce(MachineHandle, WaitFor<'_>) + Send + 'static,
) -> (Result<End, Error>, String) {
    let (reader, writer) = io::pipe().unwrap();
    let mut console: Box<dyn Write + Send> = Box::new(writer);
    let (handles, first_handle) = mpsc::channel();
    let watcher = thread::spawn(move || {
        let mut text = String::new();
        let mut bytes = io::BufReader::new(reader).bytes().map_while(Result::ok);
        let mut lines = std::iter::from_fn(|| {
            let line: Vec<u8> = bytes.by_ref().take_while(|byte| *byte != b'\n').collect();
            let line = String::from_utf8_lossy(&line).into_owned();
            text.push_str(&line);
            text.push('\n');
            (!line.is_empty()).then_some(line)
        });
        let handle = first_handle.recv().unwrap();
        meanwhile(handle, &mut |words| {
            assert!(lines.any(|line| line.contains(words)), "{words}");
        });
        lines.for_each(drop);
        text
    });
    let end = loop {
        let machine = Machine::new(config, devices, console).unwrap();
        // Only the first one is received.
        let _late = handles.send(machine.handle());
        let ran = machine.run();
        if !matches!(ran.end, Ok(End::Reset)) {
            break ran.end;
        }
        (devices, console) = (ran.devices, ran.console);
    };
    (end, watcher.join().unwrap())
}

fn run(config: &MachineConfig, devices: Devices) -> (Result<End, Error>, String) {
    run_while(config, devices, |_, _| ())
}

/// Runs a guest that must power off and be content.
fn pass(config: &MachineConfig) -> Report {
    let (end, console) = run(config, devices(config.cpus));
    let report = Report::parse(&console);
    assert_eq!(report.outcome(), Outcome::Pass, "{console}");
    assert_eq!(end.unwrap(), End::PoweredOff, "{console}");
    report
}

/// As many vCPUs as a machine of this host has: a GICv2 serves eight, and more are refused.
fn most_cpus() -> u32 {
    let config = MachineConfig {
        cpus: MAX_CPUS,
        ..config("hello")
    };
    match Machine::new(&config, Vec::new(), Box::new(io::sink())) {
        Ok(_) => MAX_CPUS,
        Err(error) => {
            let told = error.to_string();
            assert!(
                told.contains("gicv2") && told.contains("at most 8"),
                "{told}"
            );
            8
        }
    }
}

#[test]
fn self_test_passes_for_every_shape_of_machine() {
    let shapes = [
        (1, 128 * MIB),
        (2, 6 * GIB),
        (4, 3 * GIB),
        (most_cpus(), 256 * MIB),
    ];
    for (cpus, memory_bytes) in shapes {
        for &protocol in guest::PROTOCOLS {
            let mut config = MachineConfig {
                cpus,
                memory_bytes,
                ..config("self")
            };
            if protocol == "linux64" {
                config.kernel = config.kernel.by_linux64_entry();
            }
            let report = pass(&config);
            assert_eq!(report.value("protocol"), Some(protocol));
            assert_eq!(report.number("cpus_started"), Some(cpus.into()));
            let told = report.number("memory_bytes").unwrap();
            let shortfall = memory_bytes - told;
            assert!(shortfall < MIB, "{told:#x} of {memory_bytes:#x}");
            let disks = report.disks();
            let serials: Vec<_> = disks.iter().map(|disk| disk.serial.as_str()).collect();
            assert_eq!(serials, ["vol0", "vol1"]);
            assert!(disks.iter().all(|disk| disk.is_written));
        }
    }
}

#[test]
fn guest_comes_up_again_after_each_kind_of_reset_with_what_it_wrote() {
    for mode in guest::RESETS {
        assert_eq!(pass(&config(mode)).value("boot"), Some("2"));
    }
}

#[test]
fn power_button_reaches_the_guest() {
    let (end, console) = run_while(&config("button"), devices(1), |handle, wait_for| {
        wait_for("button=waiting");
        handle.power_button();
    });
    assert_eq!(end.unwrap(), End::PoweredOff);
    assert_eq!(Report::parse(&console).value("button"), Some("pressed"));
}

#[test]
fn console_input_reaches_the_guest() {
    let (end, console) = run_while(&config("echo"), devices(1), |handle, wait_for| {
        wait_for("echo=ready");
        assert_eq!(handle.console_input(b"hello q"), 7);
    });
    assert_eq!(end.unwrap(), End::PoweredOff);
    assert!(console.contains("hello "), "{console}");
}

/// How fast this host's counter is taken to be: these tests look at no time.
const TSC_KHZ: u64 = 2_000_000;

#[test]
fn load_of_every_kind_does_what_it_is_asked_for() {
    let jobs = [
        "0:read:65536:4:1:20:irq",
        "0:randread:4096:32:2:20",
        "0:write:512:1:1:20",
        "1:first:4096:16:2:500",
        "1:fillseq:1048576:2:1:1000",
        "1:randwrite:8192:128:1:20:irq",
    ];
    let mut config = MachineConfig {
        cpus: 2,
        ..config("load")
    };
    config.cmdline += &format!(" kami.tsc_khz={TSC_KHZ} kami.load={}", jobs.join(","));
    let report = pass(&config);
    let loads = report.loads();
    let told: Vec<_> = loads.iter().map(|load| load.job.as_str()).collect();
    assert_eq!(told, jobs);
    for (text, load) in jobs.iter().zip(&loads) {
        let job: Job = text.parse().unwrap();
        assert!(load.operations > 0 && load.errors == 0, "{load:?}");
        assert_eq!(load.bytes, load.operations * job.block_bytes);
        assert!(load.nanoseconds > 0, "{load:?}");
        assert!(load.latencies.is_sorted(), "{load:?}");
        assert_eq!(load.depth, u64::from(job.depth));
        if job.kind.is_once() {
            assert_eq!(load.bytes, DISK_BYTES * job.limit / 1000, "{load:?}");
        }
    }
}

#[test]
fn load_that_the_machine_cannot_bear_is_refused_by_the_guest() {
    for (job, reason) in [
        ("2:read:512:1:1:1", "there is no disk 2"),
        ("0:read:512:1:2:1", "has 1 queues"),
        (
            "0:read:1048576:200:1:1",
            "200 requests of 1048576 bytes need",
        ),
        ("0:read:512:1:1:0", "LIMIT"),
    ] {
        let mut config = config("load");
        config.cmdline += &format!(" kami.tsc_khz={TSC_KHZ} kami.load={job}");
        let (_, console) = run(&config, devices(1));
        let Outcome::Fail { reason: told } = Report::parse(&console).outcome() else {
            panic!("{job}: {console}");
        };
        assert!(told.contains(reason), "{job}: {told}");
    }
}

/// Two disks on these files.
fn disks_on(files: &[File; 2]) -> Devices {
    let block = || BlockConfig {
        serial: [0; 20],
        queues: 1,
        read_only: false,
        limits: None,
    };
    let disks = files.iter().map(|file| {
        let volume = Volume::plain(file.try_clone().unwrap(), LOG_DISK_BYTES);
        let disk: Box<dyn VirtioDevice> = Box::new(BlockDevice::new(volume, block()));
        disk
    });
    disks.collect()
}

/// As small as a disk may be that has a log.
const LOG_DISK_BYTES: u64 = 512 << 10;
/// Records that such a disk has room for.
const LAP: u64 = 64;

/// Runs the mode `log` for more than a lap after the first `flushed` records, ended from outside in the midst of them.
/// Returns up to which they are flushed now.
fn log(files: &[File; 2], flushed: u64) -> u64 {
    let mut config = config("log");
    config.cmdline += &format!(" kami.flushed={flushed}");
    let (end, console) = run_while(&config, disks_on(files), move |handle, wait_for| {
        // Each covers one more at least: more than a lap.
        for _ in 0..LAP {
            wait_for("flushed=");
        }
        handle.end(End::TimedOut);
    });
    assert_eq!(end.unwrap(), End::TimedOut, "{console}");
    Report::parse(&console).flushed().unwrap()
}

/// What a check of the log finds missing.
fn missing(files: &[File; 2], flushed: u64) -> u64 {
    let mut config = config("log");
    config.cmdline += &format!(" kami.flushed={flushed} kami.log=check kami.logs=2");
    let (end, console) = run(&config, disks_on(files));
    let (last, missing) = Report::parse(&console).log().expect(&console);
    assert!(last >= flushed, "{console}");
    let expected = if missing == 0 {
        End::PoweredOff
    } else {
        End::Panicked
    };
    assert_eq!(end.unwrap(), expected, "{console}");
    missing
}

#[test]
fn log_goes_on_where_it_was_and_a_lost_record_is_found() {
    let files = [(); 2].map(|()| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(LOG_DISK_BYTES).unwrap();
        file
    });
    let before = log(&files, 0);
    assert_eq!(missing(&files, before), 0);
    let flushed = log(&files, before);
    assert!(flushed > before);
    assert_eq!(missing(&files, flushed), 0);
    // The last flushed record's first sector: gone, then an older one's, then right again.
    let mut sector = [0; 512];
    let (number, stamp) = (0..LOG_DISK_BYTES / 512)
        .find_map(|number| {
            files[1].read_exact_at(&mut sector, number * 512).unwrap();
            let stamp = pattern::check(number, &sector)?;
            (stamp.generation == flushed).then_some((number, stamp))
        })
        .unwrap();
    let mut write = |generation: u64| {
        match generation {
            0 => sector.fill(0),
            generation => pattern::fill(
                number,
                pattern::Stamp {
                    generation,
                    ..stamp
                },
                &mut sector,
            ),
        }
        files[1].write_all_at(&sector, number * 512).unwrap();
        missing(&files, flushed)
    };
    let lost = [0, flushed - LAP, flushed - 1, flushed].map(&mut write);
    assert_eq!(lost, [1, 1, 1, 0]);
    // The second disk has no log at all any more.
    files[1].set_len(0).unwrap();
    files[1].set_len(LOG_DISK_BYTES).unwrap();
    assert_eq!(missing(&files, flushed), LAP);
}

#[test]
fn fill_writes_the_whole_of_the_last_disk() {
    let report = pass(&config("fill"));
    let told = report.entries().filter(|&(key, _)| key == "fill");
    let told: Vec<_> = told.map(|(_, word)| word).collect();
    assert_eq!(told, ["going", "done", "verified"]);
}

/// A disk that takes nothing stands for one without room: `disk_faults` has real ones.
#[test]
fn fill_tries_what_failed_again_at_each_byte_from_the_console() {
    let mut devices = devices(1);
    let read_only = BlockConfig {
        serial: [0; 20],
        queues: 1,
        read_only: true,
        limits: None,
    };
    let file = tempfile::tempfile().unwrap();
    file.set_len(DISK_BYTES).unwrap();
    let volume = Volume::plain(file, DISK_BYTES);
    devices.push(Box::new(BlockDevice::new(volume, read_only)));
    let (end, _) = run_while(&config("fill"), devices, |handle, wait_for| {
        for _ in 0..3 {
            wait_for("fill=error at=0 status=1 failed=8");
            wait_for("fill=alive");
            assert_eq!(handle.console_input(b" "), 1);
            wait_for("fill=again");
        }
        handle.end(End::TimedOut);
    });
    assert_eq!(end.unwrap(), End::TimedOut);
}

#[test]
fn each_end_is_told_apart() {
    for (mode, expected) in [
        ("hello", End::PoweredOff),
        ("panic", End::Panicked),
        ("panic-line", End::Panicked),
        ("fail", End::Panicked),
        ("triple-fault", TRIPLE_FAULT),
    ] {
        let (end, console) = run(&config(mode), Vec::new());
        assert_eq!(end.unwrap(), expected, "{mode}: {console}");
    }
}

/// Halted with interrupts masked, spinning, and printing without end.
#[test]
fn guest_that_never_ends_is_ended_from_outside() {
    for mode in ["hang", "spin", "flood"] {
        let (end, _) = run_while(&config(mode), Vec::new(), |handle, wait_for| {
            wait_for("test guest");
            handle.end(End::TimedOut);
        });
        assert_eq!(end.unwrap(), End::TimedOut, "{mode}");
    }
}

/// Where KVM interprets level 0 it does not know `cmpxchg16b`; where it does not, the guest powers off. An Arm processor
/// does not describe to KVM an access to a device that changes its address register, too.
#[test]
fn instruction_that_kvm_does_not_know_is_named() {
    match run(&config("bad-instruction"), Vec::new()).0 {
        Ok(end) => assert_eq!(end, End::PoweredOff),
        Err(Error::InternalError {
            suberror, bytes, ..
        }) => {
            assert_eq!(suberror, 1);
            assert_eq!(bytes[..4], [0xf0, 0x48, 0x0f, 0xc7], "lock cmpxchg16b");
        }
        Err(Error::Run { bytes, .. }) => {
            assert_eq!(Architecture::HOST, Architecture::Aarch64);
            assert_eq!(bytes[2..], [0x40, 0xb8], "ldr w, [x], #4");
        }
        Err(error) => panic!("{error}"),
    }
}
