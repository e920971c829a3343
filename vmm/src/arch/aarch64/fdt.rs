//! The machine's description: a flattened device tree (Devicetree Specification 0.4, chapter 5) of what
//! [`super::layout`] says, and what the kernel is given.
//!
//! Bindings are Linux's, `Documentation/devicetree/bindings`: `arm/{cpus,psci}`, `cpu/cpu-topology`,
//! `interrupt-controller/arm,gic{,-v3}`, `timer/arm,arch_timer`, `serial/pl011`, `gpio/pl061-gpio`, `input/gpio-keys`,
//! `pci/{host-generic-pci,pci-msi}`, `chosen`. Left out on purpose: caches (the guest reads their registers), a performance
//! monitor, idle states, NUMA, and INTx lines, as no function has one.

use kami_devices::platform::pl061::BUTTON;
use vm_fdt::{Error, FdtWriter};

use super::layout::{
    ECAM, FDT_BYTES, GIC_CPU_INTERFACE, GIC_DISTRIBUTOR, GIC_ITS, GIC_V2_DISTRIBUTOR_BYTES,
    GIC_V2M, GPIO, GPIO_IRQ, PCI_WINDOW_32, PVPANIC, RTC, TIMER_IRQS, UART, UART_IRQ,
    gic_redistributors, ram,
};
use crate::arch::range::Range;

/// Bytes of randomness for the kernel: what it seeds its pool with at the start (`BLAKE2S_HASH_SIZE`), and 8 to choose its own
/// address by.
pub const SEED_BYTES: usize = 40;
const ADDRESS_SEED_BYTES: usize = 8;

/// Interrupt cells: the kind, and how it is signalled.
const SHARED: u32 = 0;
const OWN: u32 = 1;
const LEVEL_HIGH: u32 = 4;
const LEVEL_LOW: u32 = 8;
/// A GPIO that is active when high.
const ACTIVE_HIGH: u32 = 0;
/// `KEY_POWER` of Linux's input-event-codes.h.
const KEY_POWER: u32 = 116;
/// The UART's clock, of which nothing depends: 24 MHz.
const CLOCK_HZ: u32 = 24_000_000;
/// PCI memory space (PCI Bus Binding to IEEE 1275, §2.2.1.1).
const PCI_MEMORY_32: u32 = 0x0200_0000;
const PCI_MEMORY_64: u32 = 0x4300_0000;
/// Requester ids of a bus segment.
const REQUESTERS: u32 = 0x1_0000;
/// What of an MPIDR tells the processor: the affinity fields below Aff3.
const AFFINITY: u64 = 0xff_ffff;

/// What nodes call each other by.
const GIC: u32 = 1;
const MSI: u32 = 2;
const CLOCK: u32 = 3;
const GPIO_CHIP: u32 = 4;
const FIRST_CPU: u32 = 16;

/// The interrupt controller that the host's KVM has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// GICv2 with a GICv2m frame for messages.
    V2,
    /// GICv3 with an ITS.
    V3,
}

/// What of the machine the tree depends on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The MPIDR of each vCPU.
    pub cpus: Vec<u64>,
    pub memory_bytes: u64,
    pub gic: Gic,
    /// Where BARs above 4 GiB may lie.
    pub pci_window_64: Option<Range>,
}

/// What the kernel is given.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    pub cmdline: &'a str,
    pub initrd: Option<Range>,
    pub seed: &'a [u8; SEED_BYTES],
}

/// The tree, at most [`FDT_BYTES`] long.
///
/// # Errors
/// There is a zero byte in the command line, or the tree is too long.
pub fn tree(machine: &Machine, boot: &Boot<'_>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "kami")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC)?;
    chosen(&mut fdt, boot)?;
    memory(&mut fdt, machine.memory_bytes)?;
    cpus(&mut fdt, &machine.cpus)?;
    firmware(&mut fdt)?;
    match machine.gic {
        Gic::V2 => gic_v2(&mut fdt)?,
        Gic::V3 => gic_v3(&mut fdt, machine.cpus.len())?,
    }
    timer(&mut fdt, machine)?;
    clock(&mut fdt)?;
    serial(&mut fdt)?;
    node(
        &mut fdt,
        "rtc",
        RTC,
        &["arm,pl031", "arm,primecell"],
        |fdt| clocked(fdt, &["apb_pclk"]),
    )?;
    power_button(&mut fdt)?;
    node(&mut fdt, "pvpanic", PVPANIC, &["qemu,pvpanic-mmio"], |_| {
        Ok(())
    })?;
    pci(&mut fdt, machine)?;
    fdt.end_node(root)?;
    let tree = fdt.finish()?;
    if tree.len() as u64 > FDT_BYTES {
        return Err(Error::TotalSizeTooLarge);
    }
    Ok(tree)
}

type Writer<'a> = &'a mut FdtWriter;

/// A node with a `reg` range that its name tells, and with more in it.
fn node(
    fdt: Writer<'_>,
    name: &str,
    range: Range,
    compatible: &[&str],
    more: impl FnOnce(Writer<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("{name}@{:x}", range.start.0))?;
    names(fdt, "compatible", compatible)?;
    ranges(fdt, &[range])?;
    more(fdt)?;
    fdt.end_node(node)
}

fn names(fdt: Writer<'_>, property: &str, names: &[&str]) -> Result<(), Error> {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    fdt.property_string_list(property, names)
}

fn ranges(fdt: Writer<'_>, ranges: &[Range]) -> Result<(), Error> {
    let cells: Vec<u64> = ranges.iter().flat_map(|r| [r.start.0, r.len]).collect();
    fdt.property_array_u64("reg", &cells)
}

fn shared_interrupt(fdt: Writer<'_>, irq: u16) -> Result<(), Error> {
    fdt.property_array_u32("interrupts", &[SHARED, u32::from(irq) - 32, LEVEL_HIGH])
}

fn clocked(fdt: Writer<'_>, uses: &[&str]) -> Result<(), Error> {
    fdt.property_array_u32("clocks", &vec![CLOCK; uses.len()])?;
    names(fdt, "clock-names", uses)
}

fn chosen(fdt: Writer<'_>, boot: &Boot<'_>) -> Result<(), Error> {
    let (address_seed, pool_seed) = boot.seed.split_at(ADDRESS_SEED_BYTES);
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", boot.cmdline)?;
    fdt.property_string("stdout-path", &format!("/serial@{:x}", UART.start.0))?;
    fdt.property("kaslr-seed", address_seed)?;
    fdt.property("rng-seed", pool_seed)?;
    if let Some(initrd) = boot.initrd {
        fdt.property_u64("linux,initrd-start", initrd.start.0)?;
        fdt.property_u64("linux,initrd-end", initrd.end())?;
    }
    fdt.end_node(node)
}

fn memory(fdt: Writer<'_>, memory_bytes: u64) -> Result<(), Error> {
    for range in ram(memory_bytes) {
        let node = fdt.begin_node(&format!("memory@{:x}", range.start.0))?;
        fdt.property_string("device_type", "memory")?;
        ranges(fdt, &[range])?;
        fdt.end_node(node)?;
    }
    Ok(())
}

/// The processors, all of them cores of one cluster of one socket: KVM's affinity numbers say nothing of the host's.
fn cpus(fdt: Writer<'_>, mpidrs: &[u64]) -> Result<(), Error> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for (phandle, mpidr) in (FIRST_CPU..).zip(mpidrs) {
        let affinity = u32::try_from(mpidr & AFFINITY).unwrap_or_default();
        let cpu = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", affinity)?;
        fdt.property_phandle(phandle)?;
        fdt.end_node(cpu)?;
    }
    let map = fdt.begin_node("cpu-map")?;
    let socket = fdt.begin_node("socket0")?;
    let cluster = fdt.begin_node("cluster0")?;
    for (phandle, index) in (FIRST_CPU..).zip(0..mpidrs.len()) {
        let core = fdt.begin_node(&format!("core{index}"))?;
        fdt.property_u32("cpu", phandle)?;
        fdt.end_node(core)?;
    }
    for node in [cluster, socket, map, cpus] {
        fdt.end_node(node)?;
    }
    Ok(())
}

/// PSCI, which KVM answers (Arm DEN 0022); and by whom, which `systemd-detect-virt` looks for.
fn firmware(fdt: Writer<'_>) -> Result<(), Error> {
    let psci = fdt.begin_node("psci")?;
    names(fdt, "compatible", &["arm,psci-1.0", "arm,psci-0.2"])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(psci)?;
    let hypervisor = fdt.begin_node("hypervisor")?;
    fdt.property_string("compatible", "linux,kvm")?;
    fdt.end_node(hypervisor)
}

fn gic(fdt: Writer<'_>, compatible: &str, registers: &[Range]) -> Result<(), Error> {
    fdt.property_string("compatible", compatible)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    ranges(fdt, registers)?;
    fdt.property_phandle(GIC)
}

fn gic_v2(fdt: Writer<'_>) -> Result<(), Error> {
    let node = fdt.begin_node(&format!(
        "interrupt-controller@{:x}",
        GIC_DISTRIBUTOR.start.0
    ))?;
    let distributor = Range::new(GIC_DISTRIBUTOR.start.0, GIC_V2_DISTRIBUTOR_BYTES);
    gic(fdt, "arm,cortex-a15-gic", &[distributor, GIC_CPU_INTERFACE])?;
    self::node(fdt, "v2m", GIC_V2M, &["arm,gic-v2m-frame"], |fdt| {
        fdt.property_null("msi-controller")?;
        fdt.property_phandle(MSI)
    })?;
    fdt.end_node(node)
}

fn gic_v3(fdt: Writer<'_>, cpus: usize) -> Result<(), Error> {
    let node = fdt.begin_node(&format!(
        "interrupt-controller@{:x}",
        GIC_DISTRIBUTOR.start.0
    ))?;
    let redistributors = gic_redistributors(cpus);
    gic(fdt, "arm,gic-v3", &[GIC_DISTRIBUTOR, redistributors])?;
    self::node(fdt, "msi-controller", GIC_ITS, &["arm,gic-v3-its"], |fdt| {
        fdt.property_null("msi-controller")?;
        fdt.property_u32("#msi-cells", 1)?;
        fdt.property_phandle(MSI)
    })?;
    fdt.end_node(node)
}

/// Its registers are kept while the guest idles ("always-on"): without this word Linux has no high-resolution timers.
fn timer(fdt: Writer<'_>, machine: &Machine) -> Result<(), Error> {
    // A GICv2's cells name the processors, too.
    let processors = match machine.gic {
        Gic::V2 => (1_u32 << machine.cpus.len().min(8)) - 1,
        Gic::V3 => 0,
    };
    let cells = TIMER_IRQS.map(|irq| [OWN, u32::from(irq) - 16, processors << 8 | LEVEL_LOW]);
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_array_u32("interrupts", cells.as_flattened())?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

/// No PrimeCell's driver begins without a clock.
fn clock(fdt: Writer<'_>) -> Result<(), Error> {
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", CLOCK_HZ)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(CLOCK)?;
    fdt.end_node(node)
}

fn serial(fdt: Writer<'_>) -> Result<(), Error> {
    node(
        fdt,
        "serial",
        UART,
        &["arm,pl011", "arm,primecell"],
        |fdt| {
            shared_interrupt(fdt, UART_IRQ)?;
            clocked(fdt, &["uartclk", "apb_pclk"])
        },
    )
}

fn power_button(fdt: Writer<'_>) -> Result<(), Error> {
    node(fdt, "gpio", GPIO, &["arm,pl061", "arm,primecell"], |fdt| {
        shared_interrupt(fdt, GPIO_IRQ)?;
        clocked(fdt, &["apb_pclk"])?;
        fdt.property_null("gpio-controller")?;
        fdt.property_u32("#gpio-cells", 2)?;
        fdt.property_null("interrupt-controller")?;
        fdt.property_u32("#interrupt-cells", 2)?;
        fdt.property_phandle(GPIO_CHIP)
    })?;
    let keys = fdt.begin_node("gpio-keys")?;
    fdt.property_string("compatible", "gpio-keys")?;
    let key = fdt.begin_node("power")?;
    fdt.property_string("label", "Power Button")?;
    fdt.property_u32("linux,code", KEY_POWER)?;
    fdt.property_array_u32("gpios", &[GPIO_CHIP, BUTTON.into(), ACTIVE_HIGH])?;
    fdt.end_node(key)?;
    fdt.end_node(keys)
}

fn pci(fdt: Writer<'_>, machine: &Machine) -> Result<(), Error> {
    let windows = [
        (PCI_MEMORY_32, Some(PCI_WINDOW_32)),
        (PCI_MEMORY_64, machine.pci_window_64),
    ];
    let windows = windows
        .into_iter()
        .filter_map(|(space, window)| Some((space, window?)));
    let cells: Vec<u32> = windows
        .flat_map(|(space, window)| {
            let [start, len] = [window.start.0, window.len].map(|value| {
                let [high, low] = [value >> 32, value & 0xffff_ffff];
                [high, low].map(|half| u32::try_from(half).unwrap_or_default())
            });
            // The bus has the addresses that the processors have.
            [
                space, start[0], start[1], start[0], start[1], len[0], len[1],
            ]
        })
        .collect();
    node(fdt, "pcie", ECAM, &["pci-host-ecam-generic"], |fdt| {
        fdt.property_string("device_type", "pci")?;
        fdt.property_u32("#address-cells", 3)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_array_u32("bus-range", &[0, 0])?;
        fdt.property_u32("linux,pci-domain", 0)?;
        fdt.property_array_u32("ranges", &cells)?;
        fdt.property_null("dma-coherent")?;
        match machine.gic {
            Gic::V2 => fdt.property_u32("msi-parent", MSI),
            Gic::V3 => fdt.property_array_u32("msi-map", &[0, MSI, 0, REQUESTERS]),
        }
    })
}

#[cfg(test)]
mod tests;
