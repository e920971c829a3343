//! Memory that is not Rust's: device registers, tables of the firmware, rings shared with a device. And moments
//! by which something has to have happened.

use crate::arch;

/// A moment by which something has to have happened.
#[derive(Clone, Copy)]
pub struct Deadline(u64);

impl Deadline {
    /// So far off that nothing that works comes near it.
    pub fn new() -> Self {
        Self(arch::timestamp().saturating_add(arch::patience()))
    }

    /// The same for what waits for the host's disks too: a sync on a busy one takes many seconds.
    pub fn of_disks() -> Self {
        Self(arch::timestamp().saturating_add(10 * arch::patience()))
    }

    pub fn has_passed(self) -> bool {
        arch::timestamp() > self.0
    }
}

/// A range of physical addresses, mapped at the same virtual ones, that Rust does not count as its memory.
#[derive(Clone, Copy)]
pub struct Window {
    start: u64,
    bytes: u64,
}

macro_rules! accessors {
    ($($read:ident $write:ident $type:ty, $load:ident, $store:ident;)*) => {
        $(
            /// By one plain instruction: hosts that interpret accesses to devices know it for sure.
            pub fn $read(&self, at: u64) -> $type {
                let address = self.address(at, size_of::<$type>() as u64);
                // SAFETY: within a range that `new`'s caller answers for.
                unsafe { arch::$load(address) }
            }

            pub fn $write(&self, at: u64, value: $type) {
                let address = self.address(at, size_of::<$type>() as u64);
                // SAFETY: within a range that `new`'s caller answers for.
                unsafe { arch::$store(address, value) };
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
        u8 set_u8 u8, load_u8, store_u8;
        u16 set_u16 u16, load_u16, store_u16;
        u32 set_u32 u32, load_u32, store_u32;
        u64 set_u64 u64, load_u64, store_u64;
    }

    /// Copies out of the window, which is memory.
    pub fn read(&self, at: u64, bytes: &mut [u8]) {
        let address = self.address(at, bytes.len() as u64);
        // SAFETY: the source is within the window, the destination is a slice; the window holds nothing of Rust's.
        unsafe {
            core::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len())
        };
    }

    /// Copies into the window, which is memory.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        let address = self.address(at, bytes.len() as u64);
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    }
}
