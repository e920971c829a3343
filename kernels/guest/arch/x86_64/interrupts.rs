//! Interrupts: the descriptor table, the local APIC and its timer, the I/O APIC, waiting for an interrupt.
//!
//! Implements Intel SDM volume 3 chapters 6 (interrupts) and 11 (local APIC, in xAPIC mode), and the 82093AA I/O
//! APIC data sheet. The handlers, in `boot.s`, count; all else is done here by looking at the counts.
//! Left out on purpose: priorities, x2APIC mode, more than 31 sources.

use core::arch::asm;
use core::cell::Cell;
use core::ptr::addr_of;

use super::Firmware;
use crate::console::{Failure, failure};
use crate::hw::{Deadline, Window};
use crate::pci::Message;

unsafe extern "C" {
    static exception_handlers: [u64; 22];
    static interrupt_handlers: [u64; VECTORS as usize];
    static spurious_handler: u64;
    pub static idt: u8;
    static interrupt_counts: u8;
    static exception_report: u8;
}

/// The first of the counted vectors.
const FIRST_VECTOR: u8 = 0x40;
const VECTORS: u8 = 32;
const SPURIOUS: u8 = 0xff;

/// What boot.s does at level 0.
const REST: u32 = 0;
const STOP: u32 = 1;
const CMPXCHG16B: u32 = 2;

const KERNEL_CODE: u64 = 0x08;
const INTERRUPT_GATE: u64 = 0x8e;

const APIC: u64 = 0xfee0_0000;
const MSI_ADDRESS: u64 = 0xfee0_0000;
const APIC_ID: u64 = 0x20;
const APIC_SPURIOUS: u64 = 0xf0;
const APIC_COMMAND_LOW: u64 = 0x300;
const APIC_COMMAND_HIGH: u64 = 0x310;
const APIC_TIMER: u64 = 0x320;
const APIC_TIMER_INITIAL: u64 = 0x380;
const APIC_TIMER_DIVIDE: u64 = 0x3e0;
const APIC_ENABLE: u32 = 1 << 8;
const APIC_TIMER_PERIODIC: u32 = 1 << 17;
const APIC_TIMER_DIVIDE_BY_1: u32 = 0xb;
/// KVM's and QEMU's timers count at 1 GHz: 0.1 ms, once, for the test of the timer, 10 ms from then on.
const FIRST_TIMER_COUNT: u32 = 100_000;
const TIMER_COUNT: u32 = 10_000_000;

/// A counted interrupt.
#[derive(Clone, Copy)]
pub struct Line(u8);

/// The interrupts of the first processor.
pub struct Interrupts {
    apic: Window,
    timer: Line,
    spare: Line,
    lines: Cell<u8>,
}

impl Interrupts {
    /// Turns interrupts on. To be called once.
    pub fn new(_firmware: &Firmware) -> Result<Self, Failure> {
        let this = Self {
            // SAFETY: the local APIC's registers, after reset at this address.
            apic: unsafe { Window::new(APIC, 4096) },
            timer: Line(0),
            spare: Line(1),
            lines: Cell::new(2),
        };
        this.apic
            .set_u32(APIC_SPURIOUS, APIC_ENABLE | u32::from(SPURIOUS));
        this.apic.set_u32(APIC_TIMER_DIVIDE, APIC_TIMER_DIVIDE_BY_1);
        Ok(this)
    }

    /// A line that nothing uses; the last one again when all are used.
    pub fn new_line(&self) -> Line {
        let line = self.lines.get();
        self.lines.set((line + 1).min(VECTORS - 1));
        Line(line)
    }

    /// Sees that the timer interrupts, and lets it do so every 10 ms, so that no wait lasts for ever.
    pub fn start_timer(&self) -> Result<(), Failure> {
        let seen = self.timer.count();
        let vector = u32::from(self.timer.vector());
        self.apic.set_u32(APIC_TIMER, vector);
        self.apic.set_u32(APIC_TIMER_INITIAL, FIRST_TIMER_COUNT);
        // Not at rest, which nothing else would end.
        let deadline = Deadline::new();
        while self.timer.count() == seen {
            if deadline.has_passed() {
                return Err(failure!("the timer does not interrupt"));
            }
        }
        self.apic.set_u32(APIC_TIMER, APIC_TIMER_PERIODIC | vector);
        self.apic.set_u32(APIC_TIMER_INITIAL, TIMER_COUNT);
        Ok(())
    }

    /// For interrupts that nobody waits for.
    pub fn spare(&self) -> Line {
        self.spare
    }

    pub fn apic_id(&self) -> u8 {
        (self.apic.u32(APIC_ID) >> 24) as u8
    }

    /// What makes MSI-X entry `entry` of function `number` interrupt this processor on `line`.
    pub fn message(&self, _number: u8, _entry: u16, line: Line) -> Result<Message, Failure> {
        Ok(Message {
            address: MSI_ADDRESS | u64::from(self.apic_id()) << 12,
            data: u32::from(line.vector()),
        })
    }

    /// Sends an inter-processor interrupt to the local APIC `target`.
    pub fn send(&self, target: u8, command: u32) {
        self.apic
            .set_u32(APIC_COMMAND_HIGH, u32::from(target) << 24);
        self.apic.set_u32(APIC_COMMAND_LOW, command);
    }

    /// Rests until `line` has interrupted since its count was `seen`.
    pub fn wait(&self, line: Line, seen: u32) -> Result<(), Failure> {
        let deadline = Deadline::new();
        while line.count() == seen {
            if deadline.has_passed() {
                return Err(failure!("no interrupt on vector {:#x}", line.vector()));
            }
            line.rest(seen);
        }
        Ok(())
    }

    /// The same without a limit.
    pub fn wait_for_ever(&self, line: Line, seen: u32) {
        while line.count() == seen {
            line.rest(seen);
        }
    }
}

impl Line {
    fn vector(self) -> u8 {
        FIRST_VECTOR + self.0
    }

    /// How many interrupts there were; wraps.
    pub fn count(self) -> u32 {
        // SAFETY: the handlers' counts are accessed through windows only.
        unsafe { Window::new(self.address(), 4) }.u32(0)
    }

    fn address(self) -> u64 {
        addr_of!(interrupt_counts) as u64 + 4 * u64::from(self.0)
    }

    /// Rests until the next interrupt of any line, unless this one's count is not `seen`.
    fn rest(self, seen: u32) {
        call_level_0(REST, self.address(), seen);
    }
}

/// Halts for ever with interrupts masked.
pub fn stop() -> ! {
    loop {
        call_level_0(STOP, 0, 0);
    }
}

/// Executes an instruction at level 0 that not every host can interpret.
pub fn cmpxchg16b_at_level_0() {
    call_level_0(CMPXCHG16B, 0, 0);
}

fn call_level_0(number: u32, address: u64, seen: u32) {
    // SAFETY: boot.s's code reads at most the 4 bytes at `address`, writes memory of its own, changes no other
    // register.
    unsafe {
        asm!(
            "call level_0_call",
            inout("eax") number => _,
            in("rdi") address,
            in("esi") seen,
            out("edx") _,
        );
    }
}

/// What `boot.s` kept of an exception, in words.
pub fn exception() -> Failure {
    // SAFETY: boot.s's, accessed through windows only.
    let report = unsafe { Window::new(addr_of!(exception_report) as u64, 32) };
    let [vector, error, at, address] = [0, 8, 16, 24].map(|part| report.u64(part));
    failure!("exception {vector} (error {error:#x}) at {at:#x}, cr2 {address:#x}")
}

/// Fills the interrupt descriptor table, after which exceptions are reported.
pub fn catch_exceptions() {
    // SAFETY: boot.s's tables of addresses, never written.
    let (exceptions, interrupts, spurious) =
        unsafe { (exception_handlers, interrupt_handlers, spurious_handler) };
    for (vector, handler) in (0..).zip(exceptions) {
        set_gate(vector, handler);
    }
    for (vector, handler) in (FIRST_VECTOR..).zip(interrupts) {
        set_gate(vector, handler);
    }
    set_gate(SPURIOUS, spurious);
}

/// Intel SDM volume 3 figure 6-8.
fn set_gate(vector: u8, handler: u64) {
    // SAFETY: the table is the processor's.
    let table = unsafe { Window::new(addr_of!(idt) as u64, 4096) };
    let at = u64::from(vector) * 16;
    let low = handler & 0xffff | KERNEL_CODE << 16 | INTERRUPT_GATE << 40;
    let low = low | (handler >> 16 & 0xffff) << 48;
    table.set_u64(at, low);
    table.set_u64(at + 8, handler >> 32);
}

/// Routes ISA interrupt `irq`, as the MADT tells where it arrives, to `line` of this processor.
pub fn route(
    firmware: &Firmware,
    interrupts: &Interrupts,
    irq: u8,
    line: Line,
) -> Result<(), Failure> {
    let Some((address, first)) = firmware.io_apic() else {
        return Err(failure!("the MADT has no I/O APIC"));
    };
    // SAFETY: the I/O APIC's registers.
    let io_apic = unsafe { Window::new(address, 32) };
    let (interrupt, flags) = firmware.interrupt_override(irq);
    let Some(pin) = interrupt.checked_sub(first) else {
        return Err(failure!(
            "interrupt {interrupt} is not on the first I/O APIC"
        ));
    };
    // ACPI 6.5 table 5.26: 3 says active low, 3 says level; else as the ISA bus has it.
    let polarity = u32::from(flags & 3 == 3) << 13;
    let trigger = u32::from(flags >> 2 & 3 == 3) << 15;
    let register = 0x10 + 2 * pin;
    io_apic.set_u32(0, register + 1);
    io_apic.set_u32(16, u32::from(interrupts.apic_id()) << 24);
    io_apic.set_u32(0, register);
    io_apic.set_u32(16, u32::from(line.vector()) | polarity | trigger);
    Ok(())
}
