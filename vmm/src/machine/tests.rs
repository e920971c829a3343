//! Machines on this host's KVM, running a few hand-assembled bytes each.

use std::io;
use std::sync::Mutex;

use kami_kernels::{Architecture, Entry, Segment};

use super::*;

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

/// A kernel of `code`, 32-bit and entered by PVH, at 1 MiB.
fn kernel(code: &[u8]) -> Kernel {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(code).unwrap();
    Kernel {
        file,
        path: "hand-assembled".into(),
        segments: vec![Segment {
            file_offset: 0,
            file_bytes: code.len() as u64,
            guest_address: MIB,
            memory_bytes: code.len() as u64,
        }],
        entry: Entry::Pvh(MIB),
        linux64_entry: None,
        architecture: Architecture::X86_64,
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

/// `mov al, value; mov dx, port; out dx, al`
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0xb0, value, 0x66, 0xba, low, high, 0xee]
}

fn print(text: &str) -> Vec<u8> {
    text.bytes().flat_map(|byte| out(0x3f8, byte)).collect()
}

/// Sleep type 5 and enable into the sleep control register.
fn power_off() -> Vec<u8> {
    out(0x600, 5 << 2 | 1 << 5)
}

const JUMP_TO_SELF: [u8; 2] = [0xeb, 0xfe];

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
fn acpi_keyboard_controller_and_firmware_entry_reset() {
    // mov eax, 0xffff0; jmp eax
    let to_firmware = vec![0xb8, 0xf0, 0xff, 0x0f, 0, 0xff, 0xe0];
    for reset in [out(0x602, 1), out(0x64, 0xfe), to_firmware] {
        let (end, _) = run(&config(&[reset, JUMP_TO_SELF.to_vec()].concat()));
        assert_eq!(end.unwrap(), End::Reset);
    }
}

#[test]
fn exception_without_a_handler_is_a_triple_fault() {
    // lidt of six zero bytes in the code; ud2.
    let code = [
        0x0f, 0x01, 0x1d, 9, 0, 0x10, 0, 0x0f, 0x0b, 0, 0, 0, 0, 0, 0,
    ];
    let (end, _) = run(&config(&code));
    assert_eq!(end.unwrap(), End::TripleFault);
}

#[test]
fn pvpanic_of_a_silent_guest_is_a_panic() {
    let (end, _) = run(&config(&[out(0x505, 1), JUMP_TO_SELF.to_vec()].concat()));
    assert_eq!(end.unwrap(), End::Panicked);
}

#[test]
fn panic_on_the_console_ends_with_its_last_line_or_a_reset() {
    let begin = print("[    0.1] Kernel panic - not syncing: test\n");
    for last in [print("[    0.2] ---[ end Kernel panic"), out(0x602, 1)] {
        let code = [begin.clone(), last, JUMP_TO_SELF.to_vec()].concat();
        let (end, text) = run(&config(&code));
        assert_eq!(end.unwrap(), End::Panicked);
        assert!(text.contains("not syncing: test\n"), "{text}");
    }
}

#[test]
fn machine_is_ended_from_outside_while_its_guest_runs() {
    for end in [End::Killed, End::TimedOut] {
        // Prints, so that the test knows when it runs; then never leaves the guest by itself.
        let config = config(&[print("."), JUMP_TO_SELF.to_vec()].concat());
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
    // A far jump to a page of the PCI hole: there is no instruction to fetch.
    let code = [0xb8, 0, 0, 0, 0xd0, 0xff, 0xe0];
    let (end, _) = run(&config(&code));
    let error = end.unwrap_err();
    assert!(error.is_kvm_giving_up(), "{error}");
    assert!(error.to_string().contains("0xd0000000"), "{error}");
}

#[test]
fn memory_is_there_up_to_its_end_and_no_further() {
    for (memory_bytes, present, absent) in [
        (128 * MIB, 128 * MIB - 4, 128 * MIB),
        (3 * GIB, 3 * GIB - 4, 3 * GIB),
        (6 * GIB, 3 * GIB - 4, 3 * GIB),
    ] {
        // Writes "A" there, reads it back and prints it; of absent memory reads all ones.
        let probe = |address: u64| {
            let [a, b, c, d, ..] = address.to_le_bytes();
            let store = vec![0xc6, 0x05, a, b, c, d, b'A'];
            let load = vec![0xa0, a, b, c, d];
            [store, load, vec![0x66, 0xba, 0xf8, 0x03, 0xee]].concat()
        };
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
