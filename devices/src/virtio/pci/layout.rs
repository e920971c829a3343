//! What a virtio PCI function shows of itself: identity, the map of its BAR, and the vendor
//! capabilities that point into it (virtio 1.3 §4.1.2, §4.1.4).
//!
//! Everything is in one 64-bit memory BAR of 64 KiB:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0x0000 | 64 | common configuration |
//! | 0x1000 | 4 | ISR status |
//! | 0x2000 | 4 KiB | device configuration |
//! | 0x3000 | 256 | MSI-X pending bits |
//! | 0x4000 | 4 a queue | notification: a doorbell a queue |
//! | 0x8000 | 16 a vector | MSI-X table |

use crate::pci::config::{self, BarWidth, Capability, ConfigSpace, Identity};
use crate::pci::msix::{self, Placement};

pub const BAR: u8 = 0;
pub const BAR_BYTES: u64 = 0x1_0000;

/// A part of the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub start: u32,
    pub bytes: u32,
}

pub(super) const COMMON: Region = region(0x0000, 0x40);
pub(super) const ISR: Region = region(0x1000, 4);
pub(super) const DEVICE: Region = region(0x2000, 0x1000);
pub(super) const PENDING: Region = region(0x3000, 0x100);
pub(super) const NOTIFY: Region = region(0x4000, 0x4000);
pub(super) const TABLE: Region = region(0x8000, 0x8000);

/// Bytes from one queue's doorbell to the next one's: an address of its own for every queue, so
/// that each can have an ioeventfd without looking at the data (§4.1.4.4).
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;
/// The most queues that doorbells and vectors suffice for.
pub const MAX_QUEUES: u16 = msix::MAX_VECTORS - 1;

const _: () = assert!(NOTIFY.bytes / NOTIFY_MULTIPLIER > MAX_QUEUES as u32);
const _: () = assert!(TABLE.bytes / 16 == msix::MAX_VECTORS as u32);

const VIRTIO_VENDOR: u16 = 0x1af4;
/// §4.1.2: the device id of a modern device is this plus its virtio device id.
const DEVICE_ID_BASE: u16 = 0x1040;
/// §4.1.2.1: a device that is not transitional has revision 1 and a subsystem id from 0x40 on.
const REVISION: u8 = 1;
const SUBSYSTEM_ID: u16 = 0x40;

const CAP_VENDOR: u8 = 0x09;
const CAP_COMMON: u8 = 1;
const CAP_NOTIFY: u8 = 2;
const CAP_ISR: u8 = 3;
const CAP_DEVICE: u8 = 4;
const CAP_PCI: u8 = 5;
/// Bytes of `struct virtio_pci_cap`.
const CAP_BYTES: u8 = 16;

/// A configuration space, with the registers of it that the transport must watch.
#[derive(Debug)]
pub(super) struct Layout {
    pub config: ConfigSpace,
    /// The register that holds the MSI-X message control word in its upper half.
    pub msix: u8,
    /// The first register of the configuration access capability (§4.1.4.9).
    pub window: u8,
}

const fn region(start: u32, bytes: u32) -> Region {
    Region { start, bytes }
}

impl Region {
    /// The offset within the region of an access that lies in it whole.
    pub fn offset(self, at: u64, len: usize) -> Option<u64> {
        let offset = at.checked_sub(self.start.into())?;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= u64::from(self.bytes)).then_some(offset)
    }
}

impl Layout {
    pub fn new(device_type: u16, vectors: u16) -> Result<Self, config::Error> {
        let mut builder = config::Builder::new(&Identity {
            vendor_id: VIRTIO_VENDOR,
            device_id: DEVICE_ID_BASE.wrapping_add(device_type),
            revision: REVISION,
            class: class(device_type),
            subsystem_vendor_id: VIRTIO_VENDOR,
            subsystem_id: SUBSYSTEM_ID,
        });
        builder.bar(BAR, BarWidth::Bits64, BAR_BYTES)?;
        builder.capability(&vendor(CAP_COMMON, COMMON, None))?;
        let multiplier = NOTIFY_MULTIPLIER.to_le_bytes();
        builder.capability(&vendor(CAP_NOTIFY, NOTIFY, Some(multiplier)))?;
        builder.capability(&vendor(CAP_ISR, ISR, None))?;
        builder.capability(&vendor(CAP_DEVICE, DEVICE, None))?;
        let window = builder.capability(&access_window())?;
        let placement = Placement {
            bar: BAR,
            table: TABLE.start,
            pending: PENDING.start,
        };
        let msix = builder.capability(&msix::capability(vectors, placement))?;
        Ok(Self {
            config: builder.build(),
            msix: msix / 4,
            window: window / 4,
        })
    }
}

/// `struct virtio_pci_cap` without the id and the next pointer, and what follows it.
fn vendor(kind: u8, region: Region, extra: Option<[u8; 4]>) -> Capability {
    let extra_bytes = if extra.is_some() { 4 } else { 0 };
    let mut body = vec![CAP_BYTES + extra_bytes, kind, BAR, 0, 0, 0];
    body.extend(region.start.to_le_bytes());
    body.extend(region.bytes.to_le_bytes());
    body.extend(extra.into_iter().flatten());
    Capability {
        id: CAP_VENDOR,
        body,
        writable: Vec::new(),
    }
}

/// §4.1.4.9: bar, offset, length and data are the driver's to write.
fn access_window() -> Capability {
    let mut capability = vendor(CAP_PCI, region(0, 0), Some([0; 4]));
    capability.writable = vec![0, 0, 0xff, 0, 0, 0];
    capability.writable.resize(capability.body.len(), 0xff);
    capability
}

/// The class code that fits the virtio device id (virtio 1.3 §5); drivers go by the device id.
fn class(device_type: u16) -> u32 {
    match device_type {
        1 => 0x02_0000,  // network: Ethernet controller
        2 => 0x01_8000,  // block: other mass storage controller
        3 => 0x07_8000,  // console: other communication controller
        19 => 0x07_8000, // vsock: the same
        _ => 0xff_0000,  // unassigned
    }
}
