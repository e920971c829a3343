//! The processor's instructions that Rust has no word for, and memory that is not Rust's: device registers,
//! tables of the firmware, rings shared with a device.

use core::arch::asm;
use core::arch::x86_64::_rdtsc;

pub fn in_u8(port: u16) -> u8 {
    let value;
    // SAFETY: reading a port does not touch Rust's memory.
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack)) };
    value
}

pub fn in_u32(port: u16) -> u32 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in eax, dx", out("eax") value, in("dx") port, options(nomem, nostack)) };
    value
}

pub fn out_u8(port: u16, value: u8) {
    // SAFETY: no device here writes memory because of a port but the virtio ones, into rings that are its own.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) };
}

pub fn out_u16(port: u16, value: u16) {
    // SAFETY: as above.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack)) };
}

pub fn out_u32(port: u16, value: u32) {
    // SAFETY: as above.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) };
}

/// A moment by which something has to have happened.
#[derive(Clone, Copy)]
pub struct Deadline(u64);

impl Deadline {
    /// How long to wait before something counts as broken, in cycles of the time-stamp counter: 10 to 20 s on
    /// processors of today. Nothing that works comes near it.
    const PATIENCE_CYCLES: u64 = 40_000_000_000;

    pub fn new() -> Self {
        Self(timestamp().saturating_add(Self::PATIENCE_CYCLES))
    }

    pub fn has_passed(self) -> bool {
        timestamp() > self.0
    }
}

pub fn timestamp() -> u64 {
    // SAFETY: every x86_64 processor has the counter, and nothing forbids it to level 3.
    unsafe { _rdtsc() }
}

/// A range of physical addresses, mapped at the same virtual ones, that Rust does not count as its memory.
#[derive(Clone, Copy)]
pub struct Window {
    start: u64,
    bytes: u64,
}

macro_rules! accessors {
    ($($read:ident $write:ident $type:ty, $class:ident, $load:literal, $store:literal;)*) => {
        $(
            /// One plain `mov`, of any alignment: hosts that interpret accesses to devices know it for sure.
            pub fn $read(&self, at: u64) -> $type {
                let address = self.address(at, size_of::<$type>() as u64);
                let value;
                // SAFETY: within a range that `new`'s caller answers for.
                unsafe { asm!($load, out($class) value, in(reg) address, options(nostack)) };
                value
            }

            pub fn $write(&self, at: u64, value: $type) {
                let address = self.address(at, size_of::<$type>() as u64);
                // SAFETY: within a range that `new`'s caller answers for.
                unsafe { asm!($store, in($class) value, in(reg) address, options(nostack)) };
            }
        )*
    };
}

impl Window {
    /// # Safety
    /// Nothing of Rust's lies in the range: writing to it changes no Rust value. It need not be memory: where
    /// nothing answers, reads give ones, or the processor faults, which ends the test with a report.
    pub const unsafe fn new(start: u64, bytes: u64) -> Self {
        Self { start, bytes }
    }

    pub fn start(&self) -> u64 {
        self.start
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A part of this one.
    pub fn part(&self, at: u64, bytes: u64) -> Self {
        let start = self.address(at, bytes);
        Self { start, bytes }
    }

    fn address(&self, at: u64, bytes: u64) -> u64 {
        assert!(
            at <= self.bytes && bytes <= self.bytes - at,
            "outside a window"
        );
        self.start + at
    }

    accessors! {
        u8 set_u8 u8, reg_byte, "mov {0}, byte ptr [{1}]", "mov byte ptr [{1}], {0}";
        u16 set_u16 u16, reg, "mov {0:x}, word ptr [{1}]", "mov word ptr [{1}], {0:x}";
        u32 set_u32 u32, reg, "mov {0:e}, dword ptr [{1}]", "mov dword ptr [{1}], {0:e}";
        u64 set_u64 u64, reg, "mov {0}, qword ptr [{1}]", "mov qword ptr [{1}], {0}";
    }

    /// Copies out of the window.
    pub fn read(&self, at: u64, bytes: &mut [u8]) {
        let address = self.address(at, bytes.len() as u64);
        // SAFETY: the source is within the window, the destination is a slice; the window holds nothing of Rust's.
        unsafe {
            core::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len())
        };
    }

    /// Copies into the window.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        let address = self.address(at, bytes.len() as u64);
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    }
}
