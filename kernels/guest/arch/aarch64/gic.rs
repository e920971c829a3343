//! The generic interrupt controller: distributor, this processor's redistributor and interface, and the messages
//! that the frame of a version 2 makes interrupts of.
//!
//! Implements Arm IHI 0069 (version 3) §12.9–12.11 and §12.5, IHI 0048 (version 2) chapter 4, and the Server Base
//! System Architecture's GICv2m frame (DEN 0029 appendix E). Left out on purpose: interrupts between processors,
//! priorities, security.

use core::arch::asm;
use core::cell::Cell;

use super::firmware::{Controller, Firmware, Frame, Interrupt, Region};
use super::its::Its;
use super::memory;
use super::processors::affinity;
use crate::console::{Failure, failure};
use crate::hw::{Deadline, Window};
use crate::pci::Message;

/// The distributor's registers; of those with a bit or a byte for each interrupt, the first.
const GICD_CTLR: u64 = 0x000;
const GICD_IGROUPR: u64 = 0x080;
const GICD_ISENABLER: u64 = 0x100;
const GICD_IPRIORITYR: u64 = 0x400;
const GICD_ITARGETSR: u64 = 0x800;
const GICD_ICFGR: u64 = 0xc00;
const GICD_IROUTER: u64 = 0x6000;
/// Version 3: both kinds of group 1, affinity routing.
const GICD_ENABLE_V3: u32 = 1 << 0 | 1 << 1 | 1 << 4;
const GICD_WRITE_PENDING: u32 = 1 << 31;

/// The redistributor's: of its first frame, and where the second one, which is as the distributor, begins.
const GICR_TYPER: u64 = 0x08;
const GICR_WAKER: u64 = 0x14;
const GICR_SECOND_FRAME: u64 = 0x10000;
const GICR_LAST: u64 = 1 << 4;
/// With the two frames that version 4 adds, the step from one redistributor to the next is twice as long.
const GICR_VIRTUAL: u64 = 1 << 1;
const GICR_STEP: u64 = 0x20000;
const GICR_SLEEP: u32 = 1 << 1;
const GICR_ASLEEP: u32 = 1 << 2;

/// The interface's, of version 2.
const GICC_CTLR: u64 = 0x00;
const GICC_PMR: u64 = 0x04;
const GICC_IAR: u64 = 0x0c;
const GICC_EOIR: u64 = 0x10;

/// The frame's.
const MSI_TYPER: u64 = 0x008;
const MSI_SETSPI: u64 = 0x040;

const PRIORITY: u8 = 0xa0;
/// Interrupts of a processor's own are below, and banked.
const FIRST_SHARED: u32 = 32;
/// From here on no interrupt, but reasons why there is none; up to the first of the locality-specific ones.
const SPECIAL: core::ops::Range<u32> = 1020..1024;

/// Where this processor takes interrupts from.
enum Interface {
    /// By system registers; with this processor's redistributor.
    V3 {
        redistributor: Window,
    },
    V2(Window),
}

/// What makes interrupts of messages.
enum Messages {
    Its(Its),
    Frame {
        address: u64,
        first: u32,
        count: u32,
        used: Cell<u32>,
    },
    None,
}

pub struct Gic {
    distributor: Window,
    interface: Interface,
    messages: Messages,
}

impl Gic {
    /// Turns the controller on, with every interrupt off.
    pub fn new(firmware: &Firmware) -> Result<Self, Failure> {
        match firmware.controller {
            Controller::V3 {
                distributor,
                redistributors,
                its,
            } => {
                let distributor = registers(distributor)?;
                distributor.set_u32(GICD_CTLR, GICD_ENABLE_V3);
                wait_while(distributor, GICD_CTLR, GICD_WRITE_PENDING)?;
                let redistributor = find_redistributor(&redistributors)?;
                wake(redistributor)?;
                turn_interface_on();
                let its = match its {
                    Some(region) => Messages::Its(Its::new(
                        registers(region)?,
                        redistributor,
                        firmware.first_device_id,
                    )?),
                    None => Messages::None,
                };
                Ok(Self {
                    distributor,
                    interface: Interface::V3 { redistributor },
                    messages: its,
                })
            }
            Controller::V2 {
                distributor,
                cpu_interface,
                frame,
            } => {
                let distributor = registers(distributor)?;
                distributor.set_u32(GICD_CTLR, 1);
                let interface = registers(cpu_interface)?;
                interface.set_u32(GICC_PMR, 0xff);
                interface.set_u32(GICC_CTLR, 1);
                Ok(Self {
                    distributor,
                    interface: Interface::V2(interface),
                    messages: frame.map_or(Ok(Messages::None), frame_messages)?,
                })
            }
        }
    }

    /// Lets `interrupt` come to this processor.
    pub fn enable(&self, interrupt: Interrupt) {
        let Interrupt { id, is_edge } = interrupt;
        let is_shared = id >= FIRST_SHARED;
        let bank = match &self.interface {
            Interface::V3 { redistributor } if !is_shared => {
                redistributor.part(GICR_SECOND_FRAME, 0x10000)
            }
            _ => self.distributor,
        };
        let (word, bit) = (u64::from(id / 32) * 4, 1 << (id % 32));
        bank.set_u8(GICD_IPRIORITYR + u64::from(id), PRIORITY);
        let (register, shift) = (GICD_ICFGR + u64::from(id / 16) * 4, id % 16 * 2 + 1);
        let trigger = bank.u32(register) & !(1 << shift) | u32::from(is_edge) << shift;
        bank.set_u32(register, trigger);
        match &self.interface {
            Interface::V3 { .. } => {
                let groups = bank.u32(GICD_IGROUPR + word);
                bank.set_u32(GICD_IGROUPR + word, groups | bit);
                if is_shared {
                    bank.set_u64(GICD_IROUTER + u64::from(id) * 8, affinity());
                }
            }
            // The targets of a processor's own interrupts, which read as itself.
            Interface::V2(_) if is_shared => {
                let me = bank.u8(GICD_ITARGETSR);
                bank.set_u8(GICD_ITARGETSR + u64::from(id), me);
            }
            Interface::V2(_) => {}
        }
        bank.set_u32(GICD_ISENABLER + word, bit);
    }

    /// What makes `entry` of PCI function `number` interrupt this processor, and the interrupt that it becomes:
    /// `known`, if it has one already.
    pub fn message(
        &self,
        number: u8,
        entry: u16,
        known: Option<u32>,
    ) -> Result<(Message, u32), Failure> {
        match &self.messages {
            Messages::Its(its) => its.message(number, entry, known),
            Messages::Frame {
                address,
                first,
                count,
                used,
            } => {
                let id = match known {
                    Some(id) => id,
                    None if used.get() < *count => {
                        used.set(used.get() + 1);
                        first + used.get() - 1
                    }
                    None => return Err(failure!("more messages than {count}")),
                };
                self.enable(Interrupt { id, is_edge: true });
                let address = *address;
                Ok((Message { address, data: id }, id))
            }
            Messages::None => Err(failure!("the interrupt controller takes no messages")),
        }
    }

    /// Takes the interrupt that is pending, if one is: it has to be ended.
    pub fn acknowledge(&self) -> Option<u32> {
        let id = match self.interface {
            Interface::V3 { .. } => {
                let id: u64;
                // SAFETY: takes the interrupt; what follows comes after.
                unsafe { asm!("mrs {}, icc_iar1_el1", "dsb sy", out(reg) id, options(nostack)) };
                id as u32
            }
            Interface::V2(interface) => interface.u32(GICC_IAR),
        };
        (!SPECIAL.contains(&id)).then_some(id)
    }

    pub fn end(&self, id: u32) {
        match self.interface {
            // SAFETY: ends the interrupt; what came before comes before.
            Interface::V3 { .. } => unsafe {
                asm!("dsb sy", "msr icc_eoir1_el1, {}", "isb", in(reg) u64::from(id), options(nostack));
            },
            Interface::V2(interface) => interface.set_u32(GICC_EOIR, id),
        }
    }
}

fn registers((start, bytes): Region) -> Result<Window, Failure> {
    memory::map_device(start, bytes)?;
    // SAFETY: the interrupt controller's registers.
    Ok(unsafe { Window::new(start, bytes) })
}

/// Waits while any of `bits` is set in a register.
pub fn wait_while(registers: Window, register: u64, bits: u32) -> Result<(), Failure> {
    let deadline = Deadline::new();
    while registers.u32(register) & bits != 0 {
        if deadline.has_passed() {
            let at = registers.start() + register;
            return Err(failure!(
                "the interrupt controller's {at:#x} stays {bits:#x}"
            ));
        }
    }
    Ok(())
}

/// Each redistributor tells, in GICR_TYPER, whose it is, and whether it is the last of its region.
fn find_redistributor(regions: &[Region]) -> Result<Window, Failure> {
    let me = affinity();
    let me = me >> 32 << 24 | me & 0xff_ffff;
    for &region in regions.iter().filter(|&&(_, bytes)| bytes != 0) {
        let frames = registers(region)?;
        let mut at = 0;
        while at + GICR_STEP <= frames.bytes() {
            let kind = frames.u64(at + GICR_TYPER);
            let step = if kind & GICR_VIRTUAL == 0 { 1 } else { 2 } * GICR_STEP;
            if kind >> 32 == me {
                return Ok(frames.part(at, GICR_STEP));
            }
            if kind & GICR_LAST != 0 {
                break;
            }
            at += step;
        }
    }
    Err(failure!("processor {me:#x} has no redistributor"))
}

fn wake(redistributor: Window) -> Result<(), Failure> {
    let waker = redistributor.u32(GICR_WAKER);
    redistributor.set_u32(GICR_WAKER, waker & !GICR_SLEEP);
    wait_while(redistributor, GICR_WAKER, GICR_ASLEEP)
}

fn turn_interface_on() {
    // SAFETY: system registers of the interrupt controller; interrupts stay masked.
    unsafe {
        asm!(
            "mrs {0}, icc_sre_el1",
            "orr {0}, {0}, #1",
            "msr icc_sre_el1, {0}",
            "isb",
            "mov {0}, #0xff",
            "msr icc_pmr_el1, {0}",
            "mov {0}, #1",
            "msr icc_igrpen1_el1, {0}",
            "isb",
            out(reg) _,
            options(nostack),
        );
    }
}

fn frame_messages(frame: Frame) -> Result<Messages, Failure> {
    let registers = registers(frame.registers)?;
    let kind = registers.u32(MSI_TYPER);
    let first = frame.first.unwrap_or(kind >> 16 & 0x3ff);
    let count = frame.count.unwrap_or(kind & 0x3ff);
    if first < FIRST_SHARED || first + count > SPECIAL.start {
        return Err(failure!("the frame has {count} messages from {first} on"));
    }
    Ok(Messages::Frame {
        address: registers.start() + MSI_SETSPI,
        first,
        count,
        used: Cell::new(0),
    })
}
