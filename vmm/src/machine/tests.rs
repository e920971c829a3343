//! Machines on this host's KVM, running a few hand-assembled bytes each.

use std::io;
use std::sync::Mutex;

use kami_kernels::{Architecture, Entry, Segment};

use super::*;

#[cfg(target_arch = "aarch64")]
#[path = "tests/aarch64.rs"]
mod code;
#[cfg(target_arch = "x86_64")]
#[path = "tests/x86_64.rs"]
mod code;

use code::{JUMP_TO_SELF, power_off, print, probe};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A console to be read after the machine has ended.
#[derive(Clone, Debug, Default)]
struct Console(Arc<Mutex<Vec<u8>>>);

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Console {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

fn kernel(code: &[u8]) -> Kernel {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(code).unwrap();
    Kernel {
        file,
        path: "hand-assembled".into(),
        segments: vec![Segment {
            file_offset: 0,
            file_bytes: code.len() as u64,
            guest_address: code::ADDRESS,
            memory_bytes: code.len() as u64,
        }],
        entry: code::ENTRY,
        linux64_entry: None,
        architecture: Architecture::HOST,
        setup_header: None,
    }
}

fn config(code: &[u8]) -> MachineConfig {
    MachineConfig {
        cpus: 1,
        memory_bytes: 128 * MIB,
        kernel: kernel(code),
        initrd: None,
        cmdline: String::new(),
    }
}

fn run(config: &MachineConfig) -> (Result<End, Error>, String) {
    let console = Console::default();
    let machine = Machine::new(config, Vec::new(), Box::new(console.clone())).unwrap();
    let ran = machine.run();
    (ran.end, console.text())
}

#[test]
fn guest_prints_and_powers_off() {
    let code = [print("hello\n"), power_off()].concat();
    let (end, text) = run(&config(&code));
    assert_eq!(end.unwrap(), End::PoweredOff);
    assert_eq!(text, "hello\n");
}

#[test]
fn nothing_runs_after_the_end() {
    let code = [power_off(), print("ghost"), JUMP_TO_SELF.to_vec()].concat();
    let (end, text) = run(&config(&code));
    assert_eq!(end.unwrap(), End::PoweredOff);
    assert_eq!(text, "");
}

#[test]
fn every_way_to_reset_resets() {
    for reset in code::resets() {
        let (end, _) = run(&config(&[&reset, JUMP_TO_SELF].concat()));
        assert_eq!(end.unwrap(), End::Reset);
    }
}

#[test]
fn pvpanic_of_a_silent_guest_is_a_panic() {
    let code = [&code::panic(), JUMP_TO_SELF].concat();
    let (end, _) = run(&config(&code));
    assert_eq!(end.unwrap(), End::Panicked);
}

#[test]
fn panic_on_the_console_ends_with_its_last_line_or_a_reset() {
    let begin = print("[    0.1] Kernel panic - not syncing: test\n");
    let last = print("[    0.2] ---[ end Kernel panic");
    for last in std::iter::once(last).chain(code::resets()) {
        let code = [&begin, &last, JUMP_TO_SELF].concat();
        let (end, text) = run(&config(&code));
        assert_eq!(end.unwrap(), End::Panicked);
        assert!(text.contains("not syncing: test\n"), "{text}");
    }
}

#[test]
fn machine_is_ended_from_outside_while_its_guest_runs() {
    for end in [End::Killed, End::TimedOut] {
        // Prints, so that the test knows when it runs; then never leaves the guest by itself.
        let config = config(&[&print("."), JUMP_TO_SELF].concat());
        let (reader, writer) = io::pipe().unwrap();
        let machine = Machine::new(&config, Vec::new(), Box::new(writer)).unwrap();
        let handle = machine.handle();
        let ender = std::thread::spawn(move || {
            io::Read::read_exact(&mut { reader }, &mut [0]).unwrap();
            handle.end(end);
        });
        assert_eq!(machine.run().end.unwrap(), end);
        ender.join().unwrap();
    }
}

#[test]
fn what_kvm_cannot_emulate_is_an_error_with_its_bytes() {
    let (code, told) = code::impossible();
    let (end, _) = run(&config(&code));
    let error = end.unwrap_err();
    assert!(error.is_kvm_giving_up(), "{error}");
    assert!(error.to_string().contains(told), "{error}");
}

#[test]
fn memory_is_there_up_to_its_end_and_no_further() {
    for memory_bytes in [128 * MIB, 3 * GIB, 6 * GIB] {
        let end = host::memory_ranges(memory_bytes)[0].end();
        let (present, absent) = (end - 4, end);
        let code = [probe(present), probe(absent), power_off()].concat();
        let console = Console::default();
        let config = MachineConfig {
            memory_bytes,
            ..config(&code)
        };
        let machine = Machine::new(&config, Vec::new(), Box::new(console.clone())).unwrap();
        assert_eq!(machine.run().end.unwrap(), End::PoweredOff);
        assert_eq!(
            *console.0.lock().unwrap(),
            [b'A', 0xff],
            "{memory_bytes:#x}"
        );
    }
}

#[test]
fn bad_configurations_are_refused_before_anything_is_made() {
    for cpus in [0, MAX_CPUS + 1] {
        let config = MachineConfig {
            cpus,
            ..config(&[0xf4])
        };
        let refused = Machine::new(&config, Vec::new(), Box::new(io::sink()));
        assert!(matches!(refused, Err(Error::Cpus(n)) if n == cpus));
    }
    let config = MachineConfig {
        memory_bytes: 1 << 41,
        ..config(&[0xf4])
    };
    let refused = Machine::new(&config, Vec::new(), Box::new(io::sink()));
    assert!(matches!(
        refused,
        Err(Error::Memory(memory::Error::MoreThanHost { .. }))
    ));
}
