//! Code for aarch64, at the start of RAM (Arm ARM, DDI 0487, chapter C6).

use super::*;
use crate::arch::aarch64::layout::{ECAM, PVPANIC, UART};

/// Where the code lies, counted from the start of RAM.
pub const ADDRESS: u64 = 0;
pub const ENTRY: Entry = Entry::Arm64(ADDRESS);

/// `b .`
pub const JUMP_TO_SELF: &[u8] = &0x1400_0000_u32.to_le_bytes();

/// Functions of PSCI (Arm DEN 0022).
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;
const SYSTEM_RESET2: u64 = 0xc400_0012;

fn code(instructions: impl IntoIterator<Item = u32>) -> Vec<u8> {
    instructions
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect()
}

/// `movz`, then `movk` three times: all of `register`.
fn load(register: u32, value: u64) -> Vec<u8> {
    code((0..4).map(|part| {
        let operation = if part == 0 { 0xd280_0000 } else { 0xf280_0000 };
        let immediate = u32::try_from(value >> (16 * part) & 0xffff).unwrap();
        operation | part << 21 | immediate << 5 | register
    }))
}

/// `strb w1, [x0]` of `value` to `address`.
fn store(address: u64, value: u8) -> Vec<u8> {
    [load(0, address), load(1, value.into()), code([0x3900_0001])].concat()
}

/// `hvc #0`, with the rest of the arguments zero.
fn call(function: u64) -> Vec<u8> {
    [
        load(0, function),
        load(1, 0),
        load(2, 0),
        code([0xd400_0002]),
    ]
    .concat()
}

pub fn print(text: &str) -> Vec<u8> {
    let bytes = text.bytes();
    bytes.flat_map(|byte| store(UART.start.0, byte)).collect()
}

pub fn power_off() -> Vec<u8> {
    call(SYSTEM_OFF)
}

/// A KVM before Linux 5.19 does not know the second; the first follows it.
pub fn resets() -> Vec<Vec<u8>> {
    let newer = [call(SYSTEM_RESET2), call(SYSTEM_RESET)].concat();
    vec![call(SYSTEM_RESET), newer]
}

pub fn panic() -> Vec<u8> {
    store(PVPANIC.start.0, 1)
}

/// Writes "A" to `address`, reads it back (`ldrb w1, [x0]`) and prints it.
pub fn probe(address: u64) -> Vec<u8> {
    let print = [load(0, UART.start.0), code([0x3900_0001])].concat();
    [store(address, b'A'), code([0x3940_0001]), print].concat()
}

/// A store of two registers to a device, `stp x0, x1, [x2]`, which the processor does not describe to KVM; and what an
/// error says of it.
pub fn impossible() -> (Vec<u8>, &'static str) {
    let code = [load(2, ECAM.start.0), code([0xa900_0440])].concat();
    (code, "at 0x40000010, instruction bytes 40 04 00 a9")
}
