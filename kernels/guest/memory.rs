//! What the compiler and `core` expect of a C library, memory to share with devices, and the page tables beyond
//! 4 GiB.

use core::arch::{asm, global_asm};
use core::cell::Cell;
use core::ptr::{addr_of, addr_of_mut};

use crate::console::{Failure, failure};
use crate::hw::Window;

// The functions by which the compiler copies, fills and compares. Assembly, so that the compiler cannot
// make a call of `memcpy` out of `memcpy`'s own loop.
global_asm!(
    ".section .text.memory, \"ax\"",
    ".global memcpy, memmove, memset, memcmp, bcmp",
    "memmove:",
    "    mov rax, rdi",
    "    sub rax, rsi",
    "    cmp rax, rdx",
    "    jae memcpy",
    // The destination begins within the source: from the end down.
    "    mov rax, rdi",
    "    mov rcx, rdx",
    "    lea rdi, [rdi + rdx - 1]",
    "    lea rsi, [rsi + rdx - 1]",
    "    std",
    "    rep movsb",
    "    cld",
    "    ret",
    "memcpy:",
    "    mov rax, rdi",
    "    mov rcx, rdx",
    "    rep movsb",
    "    ret",
    "memset:",
    "    mov r8, rdi",
    "    mov eax, esi",
    "    mov rcx, rdx",
    "    rep stosb",
    "    mov rax, r8",
    "    ret",
    "memcmp:",
    "bcmp:",
    "    xor eax, eax",
    "    mov rcx, rdx",
    "    test rcx, rcx",
    "    jz 3f",
    "    repe cmpsb",
    "    movzx eax, byte ptr [rdi - 1]",
    "    movzx ecx, byte ptr [rsi - 1]",
    "    sub eax, ecx",
    "3:  ret",
);

/// Refers to no unwinder: panics abort.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Memory for rings and buffers, in bytes.
const SHARED_BYTES: usize = 640 << 10;

#[repr(C, align(4096))]
struct Shared([u8; SHARED_BYTES]);

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

/// Memory accesses before are done before those after, for devices on other processors too.
pub fn fence() {
    // SAFETY: orders memory, changes none.
    unsafe { asm!("mfence", options(nostack)) };
}

/// How many ranges of 1 GiB beyond 4 GiB can be mapped.
const DIRECTORIES: usize = 12;
const LARGE_PAGE_BYTES: u64 = 2 << 20;
/// Present, writable, user, accessed; for a page also dirty and large (Intel SDM volume 3 §4.5.4).
const DIRECTORY: u64 = 0x27;
const LARGE_PAGE: u64 = 0xe7;

#[repr(C, align(4096))]
struct Directories([[u64; 512]; DIRECTORIES]);

static mut DIRECTORY_POOL: Directories = Directories([[0; 512]; DIRECTORIES]);

unsafe extern "C" {
    static pdpt: u8;
}

/// Maps `bytes` at physical address `start` to the same virtual one. With pages of 2 MiB, for not every processor
/// has larger ones.
pub fn map(start: u64, bytes: u64) -> Result<(), Failure> {
    let last = start.saturating_add(bytes.saturating_sub(1)) >> 30;
    if last >= 512 {
        return Err(failure!(
            "{start:#x} is beyond the 512 GiB that can be mapped"
        ));
    }
    let pool = addr_of_mut!(DIRECTORY_POOL) as u64;
    // SAFETY: the pool is only accessed through such windows.
    let pool = unsafe { Window::new(pool, 4096 * DIRECTORIES as u64) };
    // SAFETY: and so is the table of boot.s.
    let table = unsafe { Window::new(addr_of!(pdpt) as u64, 4096) };
    for gigabyte in start >> 30..=last {
        if table.u64(gigabyte * 8) != 0 {
            continue;
        }
        // A directory that is not used yet has no first entry.
        let Some(at) = (0..pool.bytes())
            .step_by(4096)
            .find(|&at| pool.u64(at) == 0)
        else {
            return Err(failure!("more than {DIRECTORIES} GiB to map beyond 4 GiB"));
        };
        for index in 0..512 {
            pool.set_u64(
                at + index * 8,
                (gigabyte << 30) + index * LARGE_PAGE_BYTES + LARGE_PAGE,
            );
        }
        table.set_u64(gigabyte * 8, pool.start() + at + DIRECTORY);
    }
    Ok(())
}
