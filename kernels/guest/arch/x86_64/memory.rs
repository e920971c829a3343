//! What the compiler and `core` expect of a C library, and the page tables beyond 4 GiB.

use core::arch::{asm, global_asm};
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

/// Maps `bytes` of RAM at physical address `start` to the same virtual one.
pub fn map_ram(start: u64, bytes: u64) -> Result<(), Failure> {
    map(start, bytes)
}

/// Maps `bytes` of a device's memory: the processor knows which addresses to cache by other means.
pub fn map_device(start: u64, bytes: u64) -> Result<(), Failure> {
    map(start, bytes)
}

/// With pages of 2 MiB, for not every processor has larger ones.
fn map(start: u64, bytes: u64) -> Result<(), Failure> {
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
