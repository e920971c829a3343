//! Memory to share with devices, and what `core` expects of a runtime.

use core::cell::Cell;
use core::ptr::addr_of_mut;

use crate::hw::Window;

/// Refers to no unwinder: panics abort.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Memory for rings and buffers, in bytes.
const SHARED_BYTES: usize = 640 << 10;

#[repr(C, align(4096))]
struct Shared([u8; SHARED_BYTES]);

// Not cleared at the start, where that is not done anyway: what is taken of it is.
#[unsafe(link_section = ".bss.unset.shared")]
static mut SHARED: Shared = Shared([0; SHARED_BYTES]);

/// Hands out memory that devices may read and write.
pub struct Arena {
    used_bytes: Cell<u64>,
}

impl Arena {
    /// # Safety
    /// There is one arena at a time, and no [`Window`] of an earlier one is used any more.
    pub unsafe fn new() -> Self {
        let used_bytes = Cell::new(0);
        Self { used_bytes }
    }

    /// Zeroed memory, aligned to 4 KiB where it is at least as large, else to 64 bytes.
    pub fn take(&self, bytes: u64) -> Window {
        let align = if bytes >= 4096 { 4096 } else { 64 };
        let at = self.used_bytes.get().next_multiple_of(align);
        assert!(
            at + bytes <= SHARED_BYTES as u64,
            "no memory for rings is left"
        );
        self.used_bytes.set(at + bytes);
        let start = addr_of_mut!(SHARED) as u64 + at;
        // SAFETY: SHARED is only ever accessed through windows, this part through this window alone.
        let window = unsafe { Window::new(start, bytes) };
        // SAFETY: the window's own memory.
        unsafe { core::ptr::write_bytes(window.start() as *mut u8, 0, bytes as usize) };
        window
    }
}
