//! The registers that the first vCPU starts with, as plain data, by the ids that KVM has for them.
//!
//! Documents: `Documentation/arch/arm64/booting.rst` ("Call the kernel image"), `Documentation/virt/kvm/api.rst`
//! ("4.68 KVM_SET_ONE_REG"). What is not named here is as KVM resets it. The other vCPUs get no registers at all:
//! they wait for PSCI's CPU_ON, and that defines theirs.

use super::boot::Start;

/// Of 64 bits: a core register, by its place in `struct kvm_regs` in 4 bytes; a system register, by its encoding.
const CORE: u64 = 0x6030_0000_0010_0000;
const SYSTEM: u64 = 0x6030_0000_0013_0000;

const X0: u64 = CORE;
pub const PC: u64 = CORE | (256 / 4);
const PSTATE: u64 = CORE | (264 / 4);
/// MPIDR_EL1: op0 3, op1 0, CRn 0, CRm 0, op2 5.
pub const MPIDR: u64 = SYSTEM | 3 << 14 | 5;

/// EL1 with its own stack pointer; debug exceptions, SErrors, IRQs and FIQs are masked.
const EL1H: u64 = 0b0101;
const MASKED: u64 = 0b1111 << 6;

/// The first vCPU's registers and their values.
pub fn entry(start: &Start) -> [(u64, u64); 3] {
    [(X0, start.fdt.0), (PC, start.pc), (PSTATE, MASKED | EL1H)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    #[test]
    fn kernel_starts_at_el1_with_its_device_tree() {
        let start = Start {
            pc: 0x4020_0000,
            fdt: GuestAddress(0x4800_0000),
        };
        // As `struct user_pt_regs` has them: 31 general registers, sp, pc, pstate; KVM_REG_ARM_CORE_REG(…).
        let [x0, pc, pstate] = entry(&start);
        assert_eq!(x0, (0x6030_0000_0010_0000, 0x4800_0000));
        assert_eq!(pc, (0x6030_0000_0010_0040, 0x4020_0000));
        assert_eq!(pstate, (0x6030_0000_0010_0042, 0x3c5));
        assert_eq!(MPIDR, 0x6030_0000_0013_c005);
    }
}
