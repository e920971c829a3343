// The test guest's first instructions: the entry, the way into Rust with the memory management unit on, the start of
// further processors, and the exception vectors.
//
// Implements Linux Documentation/arch/arm64/booting.rst "Call the kernel image", Arm ARM (DDI 0487) D8 (translation
// tables of 4 KiB granule) and D1.3 (exception vectors), and PSCI (DEN 0022) on the state of a processor that CPU_ON
// starts.
//
// Nothing is written before the caches are on: what goes around them would have to be reconciled with what the host
// wrote through its own. So the first translation table is data: it maps the first GiB, where the machines that this
// guest is for have their devices, and the second, where their memory begins and this image lies; the Rust code
// maps what it needs beyond.
//
// Interrupts stay masked: wfi ends for a masked one too, and the Rust code asks the interrupt controller which it
// was. Only the test that the processor takes interrupts at all lets one in.
//
// Left out on purpose: an entry at exception level 2, user mode, demand paging, protection from itself.

.set MAIR, 0xff00                       // attribute 0: device-nGnRnE; 1: normal, write-back
.set BLOCK_DEVICE, 1 << 0 | 1 << 10 | 3 << 53           // a block, accessed, never executed
.set BLOCK_NORMAL, 1 << 0 | 1 << 2 | 3 << 8 | 1 << 10   // a block, attribute 1, inner shareable, accessed
// 39 bits of address, walked through the caches, 4 KiB; no upper half.
.set TCR, 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23
.set CPACR_FPEN, 3 << 20
.set SCTLR, 0x30d00800 | 1 << 0 | 1 << 2 | 1 << 12      // the bits that are ones, M, C, I
.set SPSR_I, 1 << 7
.set R_RELATIVE, 1027
.set STACK_BYTES, 256 << 10

// ---- entry -----------------------------------------------------------------------------------------------------

.section .text.head, "ax"
    b entry
    nop

// x0 = the device tree's address.
.section .text.boot, "ax"
entry:
    mov x19, x0
    bl enable_mmu
    // Each relocation: where, what kind, and what to add the image's address to.
    adrp x1, image_start
    adrp x2, relocations
    add x2, x2, :lo12:relocations
    adrp x3, relocations_end
    add x3, x3, :lo12:relocations_end
1:  cmp x2, x3
    b.hs 3f
    ldp x4, x5, [x2], #16
    ldr x6, [x2], #8
    cmp x5, #R_RELATIVE
2:  b.ne 2b                             // the linker was asked for no others
    add x6, x6, x1
    str x6, [x4, x1]
    b 1b
3:  adrp x2, bss
    add x2, x2, :lo12:bss
    adrp x3, bss_end
    add x3, x3, :lo12:bss_end
4:  cmp x2, x3
    b.hs 5f
    stp xzr, xzr, [x2], #16
    b 4b
5:  adrp x2, vectors
    add x2, x2, :lo12:vectors
    msr vbar_el1, x2
    isb
    adrp x2, stack_end
    add x2, x2, :lo12:stack_end
    mov sp, x2
    mov w0, #0
    mov x1, x19
    bl main

// Changes x9 and x10 only.
enable_mmu:
    adrp x9, translation_table
    msr ttbr0_el1, x9
    mov x9, #MAIR
    msr mair_el1, x9
    // As many bits of physical address as there are, 48 at most: more want another format.
    mrs x9, id_aa64mmfr0_el1
    and x9, x9, #0xf
    cmp x9, #5
    b.ls 1f
    mov x9, #5
1:  lsl x9, x9, #32
    movz x10, #TCR & 0xffff
    movk x10, #TCR >> 16, lsl #16
    orr x9, x9, x10
    msr tcr_el1, x9
    mov x9, #CPACR_FPEN
    msr cpacr_el1, x9
    isb
    tlbi vmalle1
    dsb nsh
    isb
    movz x9, #SCTLR & 0xffff
    movk x9, #SCTLR >> 16, lsl #16
    msr sctlr_el1, x9
    isb
    ret

// ---- further processors ----------------------------------------------------------------------------------------

// x0 = the processor's place among the others. Tells that it is here, in the byte for it, and rests.
.global processor_entry
processor_entry:
    bl enable_mmu
    adrp x1, processors_alive
    add x1, x1, :lo12:processors_alive
    mov w2, #1
    strb w2, [x1, x0]
    dsb sy
6:  wfi
    b 6b

// ---- exceptions ------------------------------------------------------------------------------------------------

.macro UNEXPECTED number
    .balign 128
    mov x0, #\number
    b unexpected
.endm

.balign 2048
vectors:
    .irp number, 0, 1, 2, 3, 4
    UNEXPECTED \number
    .endr
// An interrupt at this level: keeps that it came, and masks further ones in what it returns to.
    .balign 128
    stp x0, x1, [sp, #-16]!
    adrp x0, interrupt_taken
    mov w1, #1
    str w1, [x0, :lo12:interrupt_taken]
    mrs x0, spsr_el1
    orr x0, x0, #SPSR_I
    msr spsr_el1, x0
    ldp x0, x1, [sp], #16
    eret
    .irp number, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    UNEXPECTED \number
    .endr

// Keeps what is known of the exception, then lets the Rust code, on a fresh stack, report it. One that occurs in the
// report itself has nobody left to tell.
.balign 128
unexpected:
    adrp x1, exception_report
    add x1, x1, :lo12:exception_report
    ldr x2, [x1, #32]
7:  cbnz x2, 7b
    mov x2, #1
    str x2, [x1, #32]
    mrs x2, esr_el1
    mrs x3, elr_el1
    mrs x4, far_el1
    stp x0, x2, [x1]
    stp x3, x4, [x1, #16]
    adrp x2, stack_end
    add x2, x2, :lo12:stack_end
    mov sp, x2
    bl report_exception

// ---- data ------------------------------------------------------------------------------------------------------

// Level 1: 512 blocks of 1 GiB.
.section .data.boot, "aw"
.balign 4096
.global translation_table
translation_table:
    .quad BLOCK_DEVICE
    .quad 1 << 30 | BLOCK_NORMAL
    .fill 510, 8, 0

.section .bss.boot, "aw", @nobits
.balign 16
.global exception_report
exception_report:
    .skip 40
.global interrupt_taken
interrupt_taken:
    .skip 8
.global processors_alive
processors_alive:
    .skip 128

.section .bss.unset.stack, "aw", @nobits
.balign 16
    .skip STACK_BYTES
stack_end:
