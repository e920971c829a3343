//! A GICv2m frame: the page by which writes become shared peripheral interrupts of a GICv2, for message-signalled
//! ones (Arm Server Base System Architecture 2.3, appendix E).
//!
//! A device's message is a write of an interrupt's number to the page's doorbell. Those of our own devices take the
//! short way, by [`interrupt`]; the page itself tells the driver its interrupts, and serves a processor's writes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::bus::BusDevice;
use crate::dwords::{read_dwords, write_dwords};
use crate::irq::{Msi, MsiSink};

/// Bytes of the page.
pub const BYTES: u64 = 0x1000;

/// Registers, by their offset in 4 bytes.
const TYPE: u64 = 0x008 / 4;
const DOORBELL: u64 = 0x040 / 4;
/// The doorbell's offset in bytes.
const DOORBELL_OFFSET: u64 = DOORBELL * 4;

/// The page at a guest-physical address.
pub struct Gicv2m {
    address: u64,
    interrupts: Range<u16>,
    sink: Arc<dyn MsiSink>,
}

/// The interrupt that `message` raises at the frame at `address` with `interrupts`, numbered as the GIC does: 32 is
/// the first shared one.
pub fn interrupt(message: Msi, address: u64, interrupts: &Range<u16>) -> Option<u16> {
    let number = u16::try_from(message.data).ok()?;
    let rings = message.address == address.saturating_add(DOORBELL_OFFSET);
    (rings && interrupts.contains(&number)).then_some(number)
}

impl Gicv2m {
    /// The frame at the guest-physical `address`, which gives `interrupts` away; what is written to its doorbell
    /// goes to `sink`.
    pub fn new(address: u64, interrupts: Range<u16>, sink: Arc<dyn MsiSink>) -> Self {
        Self {
            address,
            interrupts,
            sink,
        }
    }
}

impl BusDevice for Gicv2m {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let Range { start, end } = self.interrupts;
        read_dwords(offset, data, |register| match register {
            TYPE => u32::from(start) << 16 | u32::from(end - start),
            _ => 0,
        });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        write_dwords(offset, data, |register, value, _| {
            if register == DOORBELL {
                self.sink.send(Msi {
                    address: self.address + DOORBELL_OFFSET,
                    data: value,
                });
            }
        });
    }
}

impl fmt::Debug for Gicv2m {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gicv2m")
            .field("address", &self.address)
            .field("interrupts", &self.interrupts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::fake::FakeSink;

    const ADDRESS: u64 = 0x802_0000;

    #[test]
    fn driver_finds_its_interrupts_and_rings_the_doorbell() {
        let sink = Arc::new(FakeSink::default());
        let frame = Gicv2m::new(ADDRESS, 64..512, sink.clone());
        let mut data = [0; 4];
        frame.read(8, &mut data);
        assert_eq!(u32::from_le_bytes(data), 64 << 16 | 448);
        frame.write(0x40, &70_u32.to_le_bytes());
        frame.write(0x44, &71_u32.to_le_bytes());
        let message = |data| Msi {
            address: ADDRESS + 0x40,
            data,
        };
        assert_eq!(sink.sent(), [message(70)]);
        assert_eq!(interrupt(message(70), ADDRESS, &(64..512)), Some(70));
    }

    #[test]
    fn messages_to_elsewhere_or_of_others_interrupts_are_none() {
        for (address, data) in [
            (0x40, 63),
            (0x40, 512),
            (0x40, 0x1_0046),
            (0x44, 70),
            (0, 70),
        ] {
            let message = Msi {
                address: ADDRESS + address,
                data,
            };
            assert_eq!(interrupt(message, ADDRESS, &(64..512)), None, "{data}");
        }
    }
}
