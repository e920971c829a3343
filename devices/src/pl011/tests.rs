use proptest::prelude::*;

use super::*;
use crate::fake_console::Console;
use crate::irq::fake::FakeLevel;

fn uart(broken: bool) -> (Pl011, Arc<FakeLevel>, Arc<Mutex<Vec<u8>>>) {
    let line = Arc::new(FakeLevel::default());
    let console = Console {
        broken,
        ..Console::default()
    };
    let bytes = console.bytes.clone();
    (Pl011::new(line.clone(), Box::new(console)), line, bytes)
}

fn read(uart: &Pl011, register: u64) -> u32 {
    let mut data = [0xee; 4];
    uart.read(register * 4, &mut data);
    u32::from_le_bytes(data)
}

fn write(uart: &Pl011, register: u64, value: u32) {
    uart.write(register * 4, &value.to_le_bytes());
}

/// What `pl011_startup()` does to the registers, less the drain.
fn start(uart: &Pl011) {
    write(uart, LINE_CONTROL, FIFO_ENABLE | 0x60);
    write(uart, CONTROL, UART_ENABLE | CONTROL_RESET);
    write(uart, INTERRUPT_CLEAR, RECEIVE | RECEIVE_TIMEOUT);
}

fn drain(uart: &Pl011) -> Vec<u8> {
    let ready = || read(uart, FLAGS) & FLAG_RECEIVE_EMPTY == 0;
    let byte = || u8::try_from(read(uart, DATA)).unwrap();
    std::iter::from_fn(|| ready().then(byte)).collect()
}

#[test]
fn output_reaches_the_console_by_any_width_of_store() {
    let (uart, _, bytes) = uart(false);
    uart.write(0, b"a");
    uart.write(0, &[b'b', 0]);
    uart.write(0, &[b'c', 0, 0, 0]);
    // Not the data register's lowest byte.
    uart.write(1, b"x");
    assert_eq!(*bytes.lock().unwrap(), b"abc");
    assert_eq!(read(&uart, FLAGS), 0x97, "ready, and nothing to receive");
}

#[test]
fn broken_output_does_not_stop_the_guest() {
    let (uart, line, _) = uart(true);
    write(&uart, INTERRUPT_MASK, TRANSMIT);
    assert!(!line.is_asserted(), "the level has not been passed yet");
    write(&uart, DATA, b'x'.into());
    assert!(line.is_asserted());
    write(&uart, INTERRUPT_CLEAR, TRANSMIT);
    assert!(!line.is_asserted());
}

#[test]
fn long_input_arrives_whole_and_in_order() {
    let (uart, line, _) = uart(false);
    start(&uart);
    assert_eq!(drain(&uart), b"");
    write(&uart, INTERRUPT_MASK, RECEIVE | RECEIVE_TIMEOUT);
    let typed: Vec<u8> = (0..1000_u32)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    assert_eq!(uart.input(&typed), typed.len());
    assert!(line.is_asserted());
    assert_eq!(read(&uart, MASKED_INTERRUPTS), RECEIVE | RECEIVE_TIMEOUT);
    assert_eq!(drain(&uart), typed);
    assert!(!line.is_asserted());
}

/// A regression test: what was typed before Linux started the port was read by its drain, and dropped.
#[test]
fn what_was_typed_ahead_survives_the_start_of_the_port() {
    for early in [true, false] {
        let (uart, line, _) = uart(false);
        if early {
            uart.input(b"typed ahead");
        }
        start(&uart);
        if !early {
            uart.input(b"typed ahead");
        }
        assert_eq!(drain(&uart), b"", "the driver's drain");
        write(&uart, INTERRUPT_MASK, RECEIVE | RECEIVE_TIMEOUT);
        assert!(line.is_asserted());
        assert_eq!(drain(&uart), b"typed ahead");
    }
}

#[test]
fn fewer_bytes_than_the_level_raise_the_timeout_alone() {
    let (uart, ..) = uart(false);
    start(&uart);
    uart.input(&[1; 15]);
    assert_eq!(read(&uart, RAW_INTERRUPTS), RECEIVE_TIMEOUT);
    read(&uart, FLAGS);
    drain(&uart);
    uart.input(&[1; 16]);
    assert_eq!(read(&uart, RAW_INTERRUPTS), RECEIVE | RECEIVE_TIMEOUT);
    read(&uart, DATA);
    assert_eq!(read(&uart, RAW_INTERRUPTS), RECEIVE_TIMEOUT);
}

#[test]
fn input_waits_until_the_guest_receives_and_while_it_tests_the_loopback() {
    let (uart, ..) = uart(false);
    assert_eq!(uart.input(b"a"), 1);
    assert_eq!(drain(&uart), b"");
    write(&uart, CONTROL, UART_ENABLE | CONTROL_RESET | LOOPBACK);
    write(&uart, DATA, b'L'.into());
    assert_eq!(drain(&uart), b"L");
    write(&uart, CONTROL, UART_ENABLE | CONTROL_RESET);
    assert_eq!(drain(&uart), b"a");
}

#[test]
fn input_beyond_the_queue_is_dropped() {
    let (uart, ..) = uart(false);
    start(&uart);
    let flood = vec![7; INPUT_BYTES];
    assert_eq!(uart.input(&flood), INPUT_BYTES);
    // These have moved on into the FIFO.
    assert_eq!(uart.input(&flood), FIFO_BYTES);
    assert_eq!(uart.input(b"x"), 0);
}

#[test]
fn amba_bus_finds_a_pl011_r1p5() {
    let (uart, ..) = uart(false);
    let ids: Vec<u32> = (0..8).map(|n| read(&uart, 0xfe0 / 4 + n)).collect();
    assert_eq!(ids, [0x11, 0x10, 0x34, 0, 0x0d, 0xf0, 0x05, 0xb1]);
}

proptest! {
    #[test]
    fn hostile_accesses_end_and_input_stays_bounded(
        accesses in prop::collection::vec(
            (0..0x1000_u64, prop::collection::vec(any::<u8>(), 1..=8), 0..3_u8), 0..200,
        ),
    ) {
        let (uart, ..) = uart(false);
        for (offset, mut data, kind) in accesses {
            match kind {
                // Registers are few and at the front.
                0 => uart.read(offset % 0x50, &mut data),
                1 => uart.write(offset % 0x50, &data),
                _ => { uart.input(&data); }
            }
            let state = lock(&uart.uart);
            prop_assert!(state.waiting.len() <= INPUT_BYTES);
            prop_assert!(state.fifo.len() <= FIFO_BYTES);
        }
    }
}
