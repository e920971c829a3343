//! Configuration space by both mechanisms, BARs that move, and the MSI-X table behind them.

use std::sync::atomic::Ordering;

use super::Input;
use super::machine::{ECAM, FUNCTION, HIGH, LOW, Machine, VECTORS};

/// Drives PCI configuration space and what lies behind the BAR.
pub fn pci(data: &[u8]) {
    let mut input = Input::new(data);
    let machine = Machine::new();
    machine.place_bar();
    let begin = input.byte();
    if begin & 0x80 == 0 {
        machine.start(begin);
        machine.check();
    }
    while !input.is_empty() {
        step(&machine, &mut input);
    }
    machine.check();
    machine.end();
}

fn step(machine: &Machine, input: &mut Input<'_>) {
    let [what, at, len] = input.array();
    let at = u64::from(at);
    let bytes = input.bytes(1 + usize::from(len % 8));
    let mut buffer = [0; 8];
    let back = &mut buffer[..bytes.len()];
    match what % 16 {
        // Of this function, and of the whole bus.
        0 | 1 => machine.write(ECAM + FUNCTION + at, bytes),
        2 => machine.write(ECAM + 129 * at, bytes),
        3 => _ = machine.bus.read(ECAM + FUNCTION + at, back),
        4 => _ = machine.bus.read(ECAM + 129 * at, back),
        5 => _ = machine.ports.write(0xcf8 + at % 8, bytes),
        6 => {
            let [register, ..] = (at & 0xfc).to_le_bytes();
            machine.ports.write(0xcf8, &[register, 8, 0, 0x80]);
            machine.ports.write(0xcfc + u64::from(len >> 6), bytes);
        }
        7 => _ = machine.ports.read(0xcf8 + at % 8, back),
        // Anywhere in the windows, to which the BAR may have gone.
        8 => machine.write(HIGH + 0x101 * at, bytes),
        9 => machine.write(LOW + 0x101 * at, bytes),
        10 => _ = machine.bus.read(HIGH + 0x101 * at, back),
        11 => {
            let at = HIGH + 0x8000 + at % (16 * (VECTORS as u64 + 1));
            machine.write(at, bytes);
            machine.bus.read(at, back);
        }
        12 => machine.interrupt(usize::from(len % 2)),
        13 => machine.give_up(),
        14 => {
            let refuses = len & 1 != 0;
            machine.routes.refuses.store(refuses, Ordering::Relaxed);
        }
        _ => machine.place_bar(),
    }
}
