# The test guest's first and last instructions: both entry points, the way from 32-bit protected mode (and, for
# further processors, from real mode) to 64-bit user code, and the few things that only privilege level 0 may do.
#
# Implements Xen docs/misc/pvh.pandoc "Starting the guest", Linux Documentation/arch/x86/boot.rst "64-bit Boot
# Protocol", Intel SDM volume 3 §10.8.5 (entering IA-32e mode) and §9.4.4 (starting further processors).
#
# Some KVM hosts interpret privilege level 0 and run level 3 natively, so this file does as little as it can, and
# all else runs at level 3, with port I/O allowed by the task's I/O bitmap (such hosts know of no IOPL there) and
# interrupts always enabled. The page tables are data: building them would be thousands of interpreted
# instructions. They map the first 4 GiB, for user code too; the Rust code maps what it needs beyond.
#
# Left out on purpose: relocation, demand paging, a task switch, protection from itself.

.set COM1,              0x3f8
.set KEYBOARD_COMMAND,  0x64
.set PIC_MASTER_MASK,   0x21
.set PIC_SLAVE_MASK,    0xa1
.set SLEEP_CONTROL,     0x600           # Kami's ACPI sleep control register (devices: platform/power.rs)
.set SLEEP_S5,          5 << 2 | 1 << 5 # SLP_TYP 5, SLP_EN (ACPI 6.5 §4.8.3.7)

.set CODE64, 0x08
.set DATA,   0x10
.set CODE32, 0x18
.set USER_DATA, 0x23
.set USER_CODE, 0x2b
.set TSS,    0x30

.set CR0_VALUE, 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31 # PE, MP, ET, NE, WP, PG
.set CR4_VALUE, 1 << 5 | 1 << 9 | 1 << 10                             # PAE, OSFXSR, OSXMMEXCPT
.set EFER, 0xc0000080
.set EFER_LME, 1 << 8
.set RFLAGS_IF, 1 << 9
.set USER_RFLAGS, 1 << 1 | RFLAGS_IF                            # interrupts enabled
.set TSS_BYTES, 0x68
.set PORTS, 65536

# ---- entry points ----------------------------------------------------------------------------------------------

.section .note.Xen, "a", @note
    .long 4, 4, 18                      # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start

# Writes the banner's first letter at once: whoever waits for the console's first byte learns the moment at which
# the processor ran. Then ends there if the command line at \pointer holds "kami.test=hello".
.macro BEGIN pointer, next
    mov edx, COM1
    mov al, 'K'
    out dx, al
    test \pointer, \pointer
    jz \next
5:  mov eax, dword ptr [\pointer]
    lea \pointer, [\pointer + 1]
    cmp eax, 0x696d616b                 # "kami", then ".tes", "t=he", "ll", "o"
    je 3f
2:  test al, al
    jnz 5b
    jmp \next
3:  cmp dword ptr [\pointer + 3], 0x7365742e
    jne 2b
    cmp dword ptr [\pointer + 7], 0x65683d74
    jne 2b
    cmp word ptr [\pointer + 11], 0x6c6c
    jne 2b
    cmp byte ptr [\pointer + 13], 0x6f
    jne 2b
    # Ends the machine: by Kami's register, else by a reset.
    mov edx, SLEEP_CONTROL
    mov al, SLEEP_S5
    out dx, al
    mov al, 0xfe
    out KEYBOARD_COMMAND, al
    lidt [no_idt]
    ud2
.endm

.section .text.boot, "ax"

# ebx = hvm_start_info, whose command line's address is at 24.
.code32
.global pvh_start
pvh_start:
    mov esi, dword ptr [ebx + 24]
    BEGIN esi, pvh_full
pvh_full:
    mov esi, ebx
    xor edi, edi
    mov ebp, offset user_start

# Goes on at ebp in 64-bit mode. Keeps esi and edi, needs no stack.
enter_long_mode:
    lgdt [gdt_pointer]
    mov eax, CR4_VALUE
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, EFER
    rdmsr
    or eax, EFER_LME
    wrmsr
    mov eax, CR0_VALUE
    mov cr0, eax
    .byte 0xea                          # far jump
    .long long_mode
    .word CODE64

# rsi = boot_params, whose command line's address is at 0x228 and, its upper half, at 0xc8.
.code64
.global linux64_start
linux64_start:
    mov ebx, dword ptr [rsi + 0xc8]
    shl rbx, 32
    mov eax, dword ptr [rsi + 0x228]
    or rbx, rax
    BEGIN rbx, linux64_full
linux64_full:
    mov edi, 1
    lgdt [gdt_pointer]
    mov eax, CR4_VALUE
    mov cr4, rax
    mov eax, offset pml4
    mov cr3, rax
    mov eax, CR0_VALUE
    mov cr0, rax
    jmp user_start

long_mode:
    jmp rbp

# Goes on in Rust at privilege level 3: main(edi = which protocol, rsi = what it hands over).
user_start:
    mov al, 0xff                        # where there are PICs, they are silent: their vectors are exceptions'
    out PIC_MASTER_MASK, al
    out PIC_SLAVE_MASK, al
    mov qword ptr [tss + 4], offset kernel_stack_end
    mov word ptr [tss + 0x66], TSS_BYTES # where the I/O bitmap is; clear bits allow, a byte of ones ends it
    mov byte ptr [tss + TSS_BYTES + PORTS / 8], 0xff
    mov rsp, offset kernel_stack_end
    mov eax, offset tss                 # the descriptor scatters the address
    mov word ptr [gdt + TSS + 2], ax
    shr eax, 16
    mov byte ptr [gdt + TSS + 4], al
    mov byte ptr [gdt + TSS + 7], ah
    mov eax, TSS
    ltr ax
    lidt [idt_pointer]
    mov eax, USER_DATA
    mov ds, eax
    mov es, eax
    push USER_DATA
    push offset user_stack_end - 8      # as if main had been called: rsp is 16 n + 8
    push USER_RFLAGS
    push USER_CODE
    push offset main
    iretq

# ---- further processors ----------------------------------------------------------------------------------------

# Copied to a page below 1 MiB, where a processor starts in real mode with cs = page / 16.
.code16
.global ap_trampoline
ap_trampoline:
    cli
    .byte 0x2e, 0x66, 0x0f, 0x01, 0x16  # lgdt cs:[…] with a 32-bit base
    .word ap_gdt_pointer - ap_trampoline
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea                    # far jump with a 32-bit offset
    .long ap_protected
    .word CODE32
ap_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
.global ap_trampoline_end
ap_trampoline_end:

.code32
ap_protected:
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov ebp, offset ap_long_mode
    jmp enter_long_mode

# Tells that it is here, in the byte for its local APIC's id, and rests.
.code64
ap_long_mode:
    mov eax, 0xfee00020
    mov eax, dword ptr [rax]
    shr eax, 24
    mov byte ptr [rax + ap_alive], 1
4:  cli
    hlt
    jmp 4b

# ---- interrupts ------------------------------------------------------------------------------------------------

# Exceptions: pushes an error code where the processor does not, then the vector.
.macro EXCEPTION vector, has_error
exception_\vector:
    .ifc \has_error, no
    push 0
    .endif
    push \vector
    jmp exception
.endm

.irp vector, 0, 1, 2, 3, 4, 5, 6, 7, 9, 16, 18, 19, 20
    EXCEPTION \vector, no
.endr
.irp vector, 8, 10, 11, 12, 13, 14, 17, 21
    EXCEPTION \vector, yes
.endr

# Keeps what is known of the exception, then lets the Rust code, at level 3 on a fresh stack, report it.
exception:
    pop qword ptr [exception_report]
    pop qword ptr [exception_report + 8]
    pop qword ptr [exception_report + 16]
    mov rax, cr2
    mov qword ptr [exception_report + 24], rax
    mov rsp, offset kernel_stack_end
    push USER_DATA
    push offset user_stack_end - 8
    push USER_RFLAGS
    push USER_CODE
    push offset report_exception
    iretq

# Interrupts: counts them and tells the local APIC that they are done.
.altmacro
.macro INTERRUPT index
interrupt_\index:
    lock inc dword ptr [interrupt_counts + 4 * \index]
    jmp end_of_interrupt
.endm
.set index, 0
.rept 32
    INTERRUPT %index
    .set index, index + 1
.endr

end_of_interrupt:
    push rax
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
# The spurious interrupt wants no end (Intel SDM volume 3 §11.9).
interrupt_spurious:
    iretq

# What only level 0 may do, called by an undefined instruction: of all ways to level 0 the one that hosts which
# interpret that level know, unlike int n and syscall. eax = 0 rests until an interrupt, unless the count at rdi is
# no longer esi: interrupts are masked from the gate to the halt, so that none slips in between. 1 rests for ever. 2
# executes an instruction that such hosts may not know. Keeps all registers but, for 2, eax and edx.
.global level_0_call
level_0_call:
    ud2
level_0_return:
    ret

undefined_instruction:
    cmp qword ptr [rsp], offset level_0_call
    jne exception_6
    mov qword ptr [rsp], offset level_0_return
    cmp eax, 1
    je 7f
    ja 8f
    cmp dword ptr [rdi], esi
    jne 6f
    sti
    hlt
6:  iretq
7:  cli
    hlt
    jmp 7b
8:  xor edx, edx
    xor eax, eax
    lock cmpxchg16b xmmword ptr [cmpxchg16b_operand]
    iretq

# ---- data ------------------------------------------------------------------------------------------------------

# The handlers' addresses, from which the Rust code makes the IDT.
.section .rodata.handlers, "a"
.balign 8
.global exception_handlers
exception_handlers:
.irp vector, 0, 1, 2, 3, 4, 5
    .quad exception_\vector
.endr
    .quad undefined_instruction
.irp vector, 7, 8, 9, 10, 11, 12, 13, 14
    .quad exception_\vector
.endr
    .quad 0
.irp vector, 16, 17, 18, 19, 20, 21
    .quad exception_\vector
.endr
.global interrupt_handlers
interrupt_handlers:
.macro HANDLER index
    .quad interrupt_\index
.endm
.set index, 0
.rept 32
    HANDLER %index
    .set index, index + 1
.endr
.noaltmacro
.global spurious_handler
spurious_handler:
    .quad interrupt_spurious

.section .data.boot, "aw"
no_idt:
    .word 0
    .quad 0
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 256 * 16 - 1
    .quad idt

.balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # 0x08 64-bit code
    .quad 0x00cf93000000ffff            # 0x10 data
    .quad 0x00cf9b000000ffff            # 0x18 32-bit code
    .quad 0x00cff3000000ffff            # 0x20 user data
    .quad 0x00affb000000ffff            # 0x28 user 64-bit code
    .word TSS_BYTES + PORTS / 8, 0      # 0x30 64-bit task state segment
    .long 0x8900
    .quad 0
gdt_end:

.balign 16
cmpxchg16b_operand:
    .quad 0, 0

# Present, writable, user, accessed, dirty; bit 7: a large page.
.balign 4096
pml4:
    .quad pdpt + 0x27
    .fill 511, 8, 0
.global pdpt
pdpt:
    .quad page_directories + 0x27, page_directories + 0x1027
    .quad page_directories + 0x2027, page_directories + 0x3027
    .fill 508, 8, 0
page_directories:
    .set index, 0
.rept 2048
    .quad index << 21 | 0xe7
    .set index, index + 1
.endr

.section .bss.boot, "aw", @nobits
.balign 4096
.global idt
idt:
    .skip 256 * 16
.global exception_report
exception_report:
    .skip 32
.global interrupt_counts
interrupt_counts:
    .skip 32 * 4
.global ap_alive
ap_alive:
    .skip 256
.balign 16
kernel_stack:
    .skip 1024
kernel_stack_end:
tss:
    .skip TSS_BYTES + PORTS / 8 + 1
.balign 16
user_stack:
    .skip 256 * 1024
user_stack_end:
