use proptest::prelude::*;

use super::*;
use crate::fake_console::Console;
use crate::irq::fake::FakeLine;

const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const INTERRUPT_ID: u64 = 2;
const MODEM_CONTROL: u64 = 4;
const LINE_STATUS: u64 = 5;

fn serial(broken: bool) -> (Serial, Arc<FakeLine>, Arc<Mutex<Vec<u8>>>) {
    let line = Arc::new(FakeLine::default());
    let console = Console {
        broken,
        ..Console::default()
    };
    let bytes = console.bytes.clone();
    (Serial::new(line.clone(), Box::new(console)), line, bytes)
}

fn read(serial: &Serial, register: u64) -> u8 {
    let mut data = [0xee];
    serial.read(register, &mut data);
    data[0]
}

fn drain(serial: &Serial) -> Vec<u8> {
    let ready = || read(serial, LINE_STATUS) & 1 != 0;
    std::iter::from_fn(|| ready().then(|| read(serial, DATA))).collect()
}

#[test]
fn output_reaches_the_console_and_can_be_taken_back() {
    let (serial, _, bytes) = serial(false);
    for byte in b"hello" {
        serial.write(DATA, &[*byte]);
    }
    assert_eq!(*bytes.lock().unwrap(), b"hello");
    assert!(serial.take_output().is_some());
    assert!(serial.take_output().is_none());
    serial.write(DATA, b"!");
    assert_eq!(*bytes.lock().unwrap(), b"hello");
}

#[test]
fn broken_output_does_not_stop_the_guest() {
    let (serial, line, _) = serial(true);
    serial.write(INTERRUPT_ENABLE, &[2]);
    line.edges();
    for _ in 0..3 {
        assert_eq!(read(&serial, INTERRUPT_ID) & 0xf, 2, "transmitter empty");
        serial.write(DATA, b"x");
        assert_eq!(line.edges(), 1);
        assert_ne!(read(&serial, LINE_STATUS) & 0x20, 0);
    }
}

#[test]
fn long_input_arrives_whole_and_in_order_with_few_interrupts() {
    let (serial, line, _) = serial(false);
    serial.write(INTERRUPT_ENABLE, &[1]);
    let typed: Vec<u8> = (0..1000_u32)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    assert_eq!(serial.input(&typed), typed.len());
    assert_eq!(line.edges(), 1);
    assert_eq!(drain(&serial), typed);
    assert_eq!(line.edges(), 15, "one a FIFO of 64");
}

#[test]
fn input_beyond_the_queue_is_dropped() {
    let (serial, ..) = serial(false);
    let flood = vec![7; INPUT_BYTES];
    assert_eq!(serial.input(&flood), INPUT_BYTES);
    // 64 bytes have moved on into the FIFO.
    assert_eq!(serial.input(&flood), 64);
    assert_eq!(serial.input(b"x"), 0);
    assert_eq!(drain(&serial).len(), INPUT_BYTES + 64);
    assert_eq!(serial.input(b"x"), 1);
}

#[test]
fn input_waits_while_the_driver_tests_the_loopback() {
    let (serial, ..) = serial(false);
    serial.write(MODEM_CONTROL, &[0x10]);
    assert_eq!(serial.input(b"a"), 1);
    serial.write(DATA, b"L");
    assert_eq!(drain(&serial), b"L");
    serial.write(MODEM_CONTROL, &[0]);
    assert_eq!(drain(&serial), b"a");
}

proptest! {
    #[test]
    fn hostile_accesses_end_and_input_stays_bounded(
        accesses in prop::collection::vec(
            (0..9_u64, prop::collection::vec(any::<u8>(), 1..=8), 0..3_u8), 0..200,
        ),
    ) {
        let (serial, ..) = serial(false);
        for (offset, mut data, kind) in accesses {
            match kind {
                0 => serial.read(offset, &mut data),
                1 => serial.write(offset, &data),
                _ => { serial.input(&data); }
            }
            prop_assert!(lock(&serial.port).waiting.len() <= INPUT_BYTES);
        }
    }
}
