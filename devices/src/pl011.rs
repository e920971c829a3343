//! The serial console of Arm machines: a PrimeCell UART, PL011 revision r1p5 (ARM DDI 0183G), with a bounded queue
//! of input beside its FIFO.
//!
//! Left out on purpose: baud rates and modem lines mean nothing here, output is never paced, and the transmitter is
//! always empty; DMA, and errors of reception, since there are none.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::bus::BusDevice;
use crate::dwords::{read_dwords, write_dwords};
use crate::irq::Line;
use crate::lock::lock;
use crate::primecell;

/// Bytes of its registers.
pub const BYTES: u64 = primecell::BYTES;
/// Bytes of input that wait for the guest, besides those of the UART's own FIFO.
pub const INPUT_BYTES: usize = 64 * 1024;

/// Part 0x011 of Arm, revision r1p5: FIFOs of 32 bytes (§3.3.14).
const PERIPHERAL_ID: u32 = 0x0034_1011;
const FIFO_BYTES: usize = 32;

/// Registers (§3.2), by their offset in 4 bytes.
const DATA: u64 = 0;
const FLAGS: u64 = 0x018 / 4;
const INTEGER_BAUD: u64 = 0x024 / 4;
const FRACTIONAL_BAUD: u64 = 0x028 / 4;
const LINE_CONTROL: u64 = 0x02c / 4;
const CONTROL: u64 = 0x030 / 4;
const FIFO_LEVELS: u64 = 0x034 / 4;
const INTERRUPT_MASK: u64 = 0x038 / 4;
const RAW_INTERRUPTS: u64 = 0x03c / 4;
const MASKED_INTERRUPTS: u64 = 0x040 / 4;
const INTERRUPT_CLEAR: u64 = 0x044 / 4;

/// Flags (§3.3.3): clear to send, data set ready and carrier detect as of a connected terminal.
const FLAGS_MODEM: u32 = 0b111;
const FLAG_RECEIVE_EMPTY: u32 = 1 << 4;
const FLAG_RECEIVE_FULL: u32 = 1 << 6;
const FLAG_TRANSMIT_EMPTY: u32 = 1 << 7;
/// Line control (§3.3.7).
const FIFO_ENABLE: u32 = 1 << 4;
const LINE_CONTROL_WRITABLE: u32 = 0xff;
/// Control (§3.3.8), with its state after reset.
const UART_ENABLE: u32 = 1 << 0;
const LOOPBACK: u32 = 1 << 7;
const RECEIVE_ENABLE: u32 = 1 << 9;
const CONTROL_RESET: u32 = 0x300;
/// FIFO levels (§3.3.9): both at one half.
const FIFO_LEVELS_RESET: u32 = 0x12;
/// Interrupts (§3.3.10 to §3.3.13).
const RECEIVE: u32 = 1 << 4;
const TRANSMIT: u32 = 1 << 5;
const RECEIVE_TIMEOUT: u32 = 1 << 6;
const INTERRUPTS: u32 = 0x7ff;

/// A PL011, [`BYTES`] long.
pub struct Pl011 {
    interrupt: Arc<dyn Line>,
    /// Contended by vCPUs and by whoever feeds input.
    uart: Mutex<Uart>,
}

struct Uart {
    output: Box<dyn Write + Send>,
    waiting: VecDeque<u8>,
    fifo: VecDeque<u8>,
    baud: [u32; 2],
    line_control: u32,
    control: u32,
    fifo_levels: u32,
    mask: u32,
    raw: u32,
    /// The next look at the flags finds no input; see [`Uart::clear`].
    is_shy: bool,
    /// What the interrupt line was last told.
    asserted: bool,
}

impl Pl011 {
    /// A UART that asserts `interrupt` and writes what the guest sends to `output`, byte by byte, flushing each.
    pub fn new(interrupt: Arc<dyn Line>, output: Box<dyn Write + Send>) -> Self {
        Self {
            interrupt,
            uart: Mutex::new(Uart {
                output,
                waiting: VecDeque::new(),
                fifo: VecDeque::with_capacity(FIFO_BYTES),
                baud: [0; 2],
                line_control: 0,
                control: CONTROL_RESET,
                fifo_levels: FIFO_LEVELS_RESET,
                mask: 0,
                raw: 0,
                is_shy: false,
                asserted: false,
            }),
        }
    }

    /// Types `bytes` at the guest; returns how many fitted into the queue of [`INPUT_BYTES`], the others are
    /// dropped.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut uart = lock(&self.uart);
        let accepted = bytes.len().min(INPUT_BYTES - uart.waiting.len());
        uart.waiting.extend(bytes.iter().take(accepted));
        self.settle(&mut uart);
        accepted
    }

    /// After each change: input moves on, and the line shows what is pending.
    fn settle(&self, uart: &mut Uart) {
        uart.feed();
        let asserted = uart.raw & uart.mask != 0;
        if asserted != uart.asserted {
            uart.asserted = asserted;
            self.interrupt.set(asserted);
        }
    }
}

impl Uart {
    /// Bytes that the receive FIFO holds; one while it is switched off (§2.4.3).
    fn depth(&self) -> usize {
        if self.line_control & FIFO_ENABLE != 0 {
            FIFO_BYTES
        } else {
            1
        }
    }

    /// How many bytes in the receive FIFO raise the receive interrupt (§3.3.9).
    fn trigger_level(&self) -> usize {
        match (self.depth(), self.fifo_levels >> 3 & 0b111) {
            (1, _) => 1,
            (depth, 0) => depth / 8,
            (depth, 1) => depth / 4,
            (depth, 2) => depth / 2,
            (depth, 3) => depth * 3 / 4,
            (depth, _) => depth * 7 / 8,
        }
    }

    /// Moves waiting input into the FIFO once that is empty, while the guest receives: one interrupt for each
    /// FIFO. The loopback's input is what the guest sends.
    fn feed(&mut self) {
        let receives = UART_ENABLE | RECEIVE_ENABLE;
        let open = self.control & (receives | LOOPBACK) == receives;
        if !open || !self.fifo.is_empty() || self.waiting.is_empty() {
            return;
        }
        let count = self.depth().min(self.waiting.len());
        self.fifo.extend(self.waiting.drain(..count));
        self.received();
    }

    fn received(&mut self) {
        // §2.8.2, §2.8.4: what is not enough for the one interrupt soon raises the other.
        self.raw |= RECEIVE_TIMEOUT;
        if self.fifo.len() >= self.trigger_level() {
            self.raw |= RECEIVE;
        }
    }

    fn take(&mut self) -> u32 {
        let byte = self.fifo.pop_front().unwrap_or(0);
        if self.fifo.len() < self.trigger_level() {
            self.raw &= !RECEIVE;
        }
        if self.fifo.is_empty() {
            self.raw &= !RECEIVE_TIMEOUT;
        }
        byte.into()
    }

    fn send(&mut self, byte: u8) {
        if self.control & LOOPBACK != 0 {
            if self.fifo.len() < self.depth() {
                self.fifo.push_back(byte);
                self.received();
            }
        } else {
            // An output that fails loses the byte; the guest goes on.
            let written = self.output.write_all(&[byte]);
            let _lost = written.and_then(|()| self.output.flush());
        }
        // §2.8.3: the FIFO, empty again, passes its level.
        self.raw |= TRANSMIT;
    }

    /// Clears interrupts. Linux, when it starts the port, clears those of reception while they are masked, then
    /// reads and drops what it finds, at most two FIFOs full (`pl011_enable_interrupts()`); what was typed ahead
    /// is kept from it by one look that finds nothing.
    fn clear(&mut self, interrupts: u32) {
        const INPUT: u32 = RECEIVE | RECEIVE_TIMEOUT;
        self.is_shy = interrupts & INPUT != 0 && self.mask & INPUT == 0;
        // What is still in the FIFO asks again: no further byte may come that would.
        let pending = if self.fifo.is_empty() {
            0
        } else {
            RECEIVE_TIMEOUT
        };
        self.raw = self.raw & !interrupts | pending;
    }

    fn flags(&mut self) -> u32 {
        let full = self.fifo.len() >= self.depth();
        let receive = match (std::mem::take(&mut self.is_shy), self.fifo.is_empty()) {
            (true, _) | (_, true) => FLAG_RECEIVE_EMPTY,
            _ if full => FLAG_RECEIVE_FULL,
            _ => 0,
        };
        FLAGS_MODEM | FLAG_TRANSMIT_EMPTY | receive
    }

    fn read(&mut self, register: u64) -> u32 {
        let [integer, fraction] = self.baud;
        match register {
            DATA => self.take(),
            FLAGS => self.flags(),
            INTEGER_BAUD => integer,
            FRACTIONAL_BAUD => fraction,
            LINE_CONTROL => self.line_control,
            CONTROL => self.control,
            FIFO_LEVELS => self.fifo_levels,
            INTERRUPT_MASK => self.mask,
            RAW_INTERRUPTS => self.raw,
            MASKED_INTERRUPTS => self.raw & self.mask,
            other => primecell::id_register(PERIPHERAL_ID, other).unwrap_or(0),
        }
    }

    fn write(&mut self, register: u64, value: u32) {
        let [byte, ..] = value.to_le_bytes();
        match register {
            DATA => self.send(byte),
            INTEGER_BAUD => self.baud[0] = value & 0xffff,
            FRACTIONAL_BAUD => self.baud[1] = value & 0x3f,
            LINE_CONTROL => self.line_control = value & LINE_CONTROL_WRITABLE,
            CONTROL => self.control = value & 0xffff,
            FIFO_LEVELS => self.fifo_levels = value & 0x3f,
            INTERRUPT_MASK => self.mask = value & INTERRUPTS,
            INTERRUPT_CLEAR => self.clear(value),
            _ => {}
        }
    }
}

impl BusDevice for Pl011 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut uart = lock(&self.uart);
        read_dwords(offset, data, |register| uart.read(register));
        self.settle(&mut uart);
    }

    /// Every register's value begins with its lowest byte; a write of others alone is none.
    fn write(&self, offset: u64, data: &[u8]) {
        let mut uart = lock(&self.uart);
        write_dwords(offset, data, |register, value, enabled| {
            if enabled & 0xff != 0 {
                uart.write(register, value);
            }
        });
        self.settle(&mut uart);
    }
}

impl fmt::Debug for Pl011 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uart = lock(&self.uart);
        f.debug_struct("Pl011")
            .field("waiting", &uart.waiting.len())
            .field("raw", &uart.raw)
            .field("mask", &uart.mask)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
