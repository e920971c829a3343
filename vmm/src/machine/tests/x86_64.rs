//! Code for x86_64: 32-bit, entered by PVH, at 1 MiB.

use super::*;

/// Where the code lies.
pub const ADDRESS: u64 = 1 << 20;
pub const ENTRY: Entry = Entry::Pvh(ADDRESS);

pub const JUMP_TO_SELF: &[u8] = &[0xeb, 0xfe];

/// `mov al, value; mov dx, port; out dx, al`
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0xb0, value, 0x66, 0xba, low, high, 0xee]
}

pub fn print(text: &str) -> Vec<u8> {
    text.bytes().flat_map(|byte| out(0x3f8, byte)).collect()
}

/// Sleep type 5 and enable into the sleep control register.
pub fn power_off() -> Vec<u8> {
    out(0x600, 5 << 2 | 1 << 5)
}

/// By ACPI, by the keyboard controller, and by a jump to what a PC's firmware has there: mov eax, 0xffff0; jmp eax.
pub fn resets() -> Vec<Vec<u8>> {
    let to_firmware = vec![0xb8, 0xf0, 0xff, 0x0f, 0, 0xff, 0xe0];
    vec![out(0x602, 1), out(0x64, 0xfe), to_firmware]
}

pub fn panic() -> Vec<u8> {
    out(0x505, 1)
}

/// Writes "A" to `address`, reads it back and prints it.
pub fn probe(address: u64) -> Vec<u8> {
    let [a, b, c, d, ..] = address.to_le_bytes();
    let store = vec![0xc6, 0x05, a, b, c, d, b'A'];
    let load = vec![0xa0, a, b, c, d];
    [store, load, vec![0x66, 0xba, 0xf8, 0x03, 0xee]].concat()
}

/// A far jump to a page of the PCI hole, where there is no instruction to fetch; and what an error says of it.
pub fn impossible() -> (Vec<u8>, &'static str) {
    (vec![0xb8, 0, 0, 0, 0xd0, 0xff, 0xe0], "0xd0000000")
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
