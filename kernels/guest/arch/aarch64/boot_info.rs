//! What the machine hands over at the entry: a flattened device tree with the memory, the command line, and the
//! serial port, on which the guest's first letter appears.
//!
//! Implements Linux `Documentation/arch/arm64/booting.rst` and Devicetree Specification 0.4 §3.4 (`/memory`) and
//! §3.6 (`/chosen`).

use super::fdt::{self, Fdt};
use super::psci::Psci;
use super::{memory, power, uart};
use crate::boot_info::BootInfo;
use crate::console::{Failure, failure};

/// No tree is larger, in bytes: booting.rst.
const TREE_LIMIT_BYTES: u32 = 2 << 20;

/// There is one protocol; `tree` is the device tree's address.
pub fn read(_protocol: u32, tree: u64) -> Result<BootInfo, Failure> {
    let fdt = open(tree)?;
    uart::find(&fdt)?;
    power::find(&fdt);
    let mut info = BootInfo::new("arm64", tree);
    for node in fdt.nodes() {
        if node.depth == 1 && node.name == "chosen" {
            let arguments = node.property("bootargs").unwrap_or_default();
            info.set_command_line(arguments.iter().copied());
        }
        if node.text("device_type") == Some("memory") {
            for (start, bytes) in node.reg() {
                info.add_range(start, bytes, true)?;
            }
        }
    }
    // The banner's first letter, as early as can be: whoever waits for the console's first byte learns the moment
    // at which the processor ran. Then the shortest way out, if that is asked for.
    uart::Uart::new().send(b'K');
    if info.option("kami.test") == Some("hello") {
        Psci::read(&fdt)?.power_off();
    }
    if info.ram().is_empty() {
        return Err(failure!("the device tree has no memory"));
    }
    Ok(info)
}

/// The device tree at `address`.
pub fn open(address: u64) -> Result<Fdt<'static>, Failure> {
    memory::map_ram(address, fdt::HEADER_BYTES as u64)?;
    // SAFETY: the machine puts it where the image is not, and nothing writes there while it is read.
    let header = unsafe { core::slice::from_raw_parts(address as *const u8, fdt::HEADER_BYTES) };
    let bytes = match fdt::total_bytes(header) {
        Some(bytes @ ..=TREE_LIMIT_BYTES) => bytes,
        _ => return Err(failure!("no device tree at {address:#x}")),
    };
    memory::map_ram(address, u64::from(bytes))?;
    // SAFETY: as above.
    let tree = unsafe { core::slice::from_raw_parts(address as *const u8, bytes as usize) };
    Fdt::new(tree).ok_or_else(|| failure!("the device tree at {address:#x} is broken"))
}
