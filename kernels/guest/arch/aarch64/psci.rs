//! The firmware's interface for power: Power State Coordination Interface.
//!
//! Implements PSCI (DEN 0022) §5 and Linux `Documentation/devicetree/bindings/arm/psci.yaml`, from version 0.2 on,
//! whose function numbers are fixed.

use core::arch::asm;

use super::fdt::Fdt;
use super::interrupts;
use crate::console::{Failure, failure};

const VERSION: u32 = 0x8400_0000;
const CPU_ON: u32 = 0xc400_0003;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const FEATURES: u32 = 0x8400_000a;
const SYSTEM_RESET2: u32 = 0xc400_0012;

/// By which instruction the firmware is called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Conduit {
    Hvc,
    Smc,
}

#[derive(Clone, Copy)]
pub struct Psci(Conduit);

impl Psci {
    pub fn read(fdt: &Fdt<'_>) -> Result<Self, Failure> {
        let node = ["arm,psci-1.0", "arm,psci-0.2"]
            .iter()
            .find_map(|version| fdt.compatible(version));
        match node.and_then(|node| node.text("method")) {
            Some("hvc") => Ok(Self(Conduit::Hvc)),
            Some("smc") => Ok(Self(Conduit::Smc)),
            _ => Err(failure!("the device tree has no PSCI")),
        }
    }

    /// Major and minor number.
    pub fn version(self) -> (u16, u16) {
        let version = self.call(VERSION, [0; 3]);
        ((version >> 16) as u16, version as u16)
    }

    /// Starts processor `mpidr` at `entry`, with `context` in its x0. Returns 0, or PSCI's negative error.
    pub fn start_processor(self, mpidr: u64, entry: u64, context: u64) -> i32 {
        self.call(CPU_ON, [mpidr, entry, context])
    }

    pub fn power_off(self) -> ! {
        self.call(SYSTEM_OFF, [0; 3]);
        interrupts::stop()
    }

    pub fn reset(self) -> ! {
        self.call(SYSTEM_RESET, [0; 3]);
        interrupts::stop()
    }

    /// The warm reset of version 1.1, where there is one.
    pub fn warm_reset(self) -> Result<(), Failure> {
        if self.version() < (1, 0) || self.call(FEATURES, [SYSTEM_RESET2.into(), 0, 0]) < 0 {
            return Err(failure!("PSCI has no SYSTEM_RESET2"));
        }
        self.call(SYSTEM_RESET2, [0; 3]);
        interrupts::stop()
    }

    /// SMC Calling Convention (DEN 0028): up to x17 may change.
    fn call(self, function: u32, [first, second, third]: [u64; 3]) -> i32 {
        let result: u64;
        macro_rules! call {
            ($instruction:literal) => {
                // SAFETY: changes no memory of Rust's: at most it ends the machine, or starts a processor in boot.s.
                unsafe {
                    asm!(
                        $instruction,
                        inout("x0") u64::from(function) => result,
                        inout("x1") first => _,
                        inout("x2") second => _,
                        inout("x3") third => _,
                        clobber_abi("C"),
                    )
                }
            };
        }
        match self.0 {
            Conduit::Hvc => call!("hvc #0"),
            Conduit::Smc => call!("smc #0"),
        }
        result as i32
    }
}
