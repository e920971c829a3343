//! Memory to share with devices, and what `core` expects of a runtime.

use core::cell::Cell;
use core::ptr::addr_of_mut;

use crate::arch::memory;
use crate::boot_info::{BootInfo, Range};
use crate::console::{Failure, failure};
use crate::hw::Window;

/// Refers to no unwinder: panics abort.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Memory for rings and buffers, in bytes.
const SHARED_BYTES: usize = 640 << 10;

/// More than the image has.
const IMAGE_BYTES: u64 = 2 << 20;
/// RAM beyond is not spare memory: it is all that the page tables map.
const SPARE_END: u64 = 12 << 30;

#[repr(C, align(4096))]
struct Shared([u8; SHARED_BYTES]);

// Not cleared at the start, where that is not done anyway: what is taken of it is.
#[unsafe(link_section = ".bss.unset.shared")]
static mut SHARED: Shared = Shared([0; SHARED_BYTES]);

/// Hands out memory that devices may read and write.
pub struct Arena {
    memory: Window,
    used_bytes: Cell<u64>,
}

impl Arena {
    /// Of the image's own memory.
    ///
    /// # Safety
    /// There is one arena of it at a time, and no [`Window`] of an earlier one is used any more.
    pub unsafe fn new() -> Self {
        // SAFETY: SHARED is only ever accessed through windows.
        Self::over(unsafe { Window::new(addr_of_mut!(SHARED) as u64, SHARED_BYTES as u64) })
    }

    /// Of `memory`, which nothing else uses.
    pub fn over(memory: Window) -> Self {
        let used_bytes = Cell::new(0);
        Self { memory, used_bytes }
    }

    /// Zeroed memory, aligned to 4 KiB where it is at least as large, else to 64 bytes.
    pub fn take(&self, bytes: u64) -> Window {
        let align = if bytes >= 4096 { 4096 } else { 64 };
        let at = self.used_bytes.get().next_multiple_of(align);
        self.used_bytes.set(at + bytes);
        let window = self.memory.part(at, bytes);
        // SAFETY: the window's own memory.
        unsafe { core::ptr::write_bytes(window.start() as *mut u8, 0, bytes as usize) };
        window
    }

    /// What [`Arena::take`] can still hand out in one piece, in bytes.
    pub fn free_bytes(&self) -> u64 {
        let used_bytes = self.used_bytes.get().next_multiple_of(4096);
        self.memory.bytes().saturating_sub(used_bytes)
    }
}

/// The largest piece of RAM that the image is not in. What the machine handed over may be there: for when that has
/// been read.
pub fn spare(info: &BootInfo) -> Result<Window, Failure> {
    let image = addr_of_mut!(SHARED) as u64;
    let free = info.ram().iter().map(|&Range { start, bytes }| {
        let end = (start + bytes).min(SPARE_END);
        let start = match (start..end).contains(&image) {
            // Nothing of the image is further than that from any other part of it.
            true => image + IMAGE_BYTES,
            false => start,
        };
        let start = start.max(IMAGE_BYTES).next_multiple_of(IMAGE_BYTES);
        (start, end.saturating_sub(start))
    });
    match free.max_by_key(|&(_, bytes)| bytes) {
        Some((start, bytes)) if bytes != 0 => {
            memory::map_ram(start, bytes)?;
            // SAFETY: RAM that nothing of Rust's is in.
            Ok(unsafe { Window::new(start, bytes) })
        }
        _ => Err(failure!("there is no memory but the image's")),
    }
}
