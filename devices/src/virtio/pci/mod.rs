//! A virtio device as a PCI function (virtio 1.3 §4.1), modern interface only.
//!
//! `layout` is what the guest sees, `common` the register state machine, `activation` the device
//! behind it; this file brings accesses to them. INTx is not offered (the interrupt pin reads 0): a
//! driver uses MSI-X, or polls the ISR status. Not offered either: shared memory, queue reset.

mod activation;
mod common;
mod layout;

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use activation::{Attachment, Interrupts};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use common::field;
use common::{Common, Effect};
use layout::Layout;
pub use layout::{BAR, BAR_BYTES, MAX_QUEUES};

use crate::GuestMemory;
use crate::irq::{Doorbells, MsixRoutes};
use crate::lock::lock;
use crate::pci::msix::Msix;
use crate::pci::{ConfigSpace, PciFunction, config};
use crate::virtio::device::VirtioDevice;

/// Why a device cannot become a PCI function.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a virtio device of {queues} queues: at most {MAX_QUEUES} are possible")]
    TooManyQueues { queues: usize },
    #[error("cannot lay out the configuration space of a virtio device")]
    Layout(#[from] config::Error),
}

/// A virtio device on the PCI bus.
pub struct VirtioPci {
    layout: Layout,
    interrupts: Interrupts,
    /// Contended by vCPUs. Locked before the lock in [`Msix`], never while that is held; a worker
    /// of the device does not take it.
    transport: Mutex<Transport>,
}

struct Transport {
    common: Common,
    /// Gone once the device was taken back: every register then reads as zero.
    attachment: Option<Attachment>,
}

/// How many MSI-X vectors the function of `device` has: one a queue and one for the configuration,
/// so that no two need share one.
pub fn vectors(device: &dyn VirtioDevice) -> u16 {
    let queues = u16::try_from(device.queue_sizes().len()).unwrap_or(u16::MAX);
    queues.min(MAX_QUEUES) + 1
}

impl VirtioPci {
    /// Puts `device` behind a PCI function of [`vectors`] vectors, for each of which `routes` has an
    /// event. `memory` is what its queues and buffers may lie in.
    ///
    /// # Errors
    /// The device has too many queues.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        routes: Arc<dyn MsixRoutes>,
        doorbells: Arc<dyn Doorbells>,
    ) -> Result<Self, Error> {
        let queues = device.queue_sizes().len();
        if queues > usize::from(MAX_QUEUES) {
            return Err(Error::TooManyQueues { queues });
        }
        let vectors = vectors(&*device);
        let common = Common::new(device.features(), device.queue_sizes(), vectors);
        Ok(Self {
            layout: Layout::new(device.device_type(), vectors)?,
            interrupts: Interrupts {
                msix: Arc::new(Msix::new(vectors, routes)),
                isr: Arc::new(AtomicU8::new(0)),
            },
            transport: Mutex::new(Transport {
                common,
                attachment: Some(Attachment::new(device, memory, doorbells)),
            }),
        })
    }

    /// Stops the device and gives it back, as it was before [`VirtioPci::new`], with no doorbell
    /// and no route left. Further calls return nothing.
    pub fn take_device(&self) -> Option<Box<dyn VirtioDevice>> {
        let mut transport = lock(&self.transport);
        transport.reset(&self.interrupts);
        self.interrupts.msix.reset();
        let attachment = transport.attachment.take()?;
        Some(attachment.into_device())
    }

    /// Performs the access that the configuration access capability describes (§4.1.4.9), by which a
    /// driver reaches the BAR without mapping it. What is malformed is ignored.
    fn window(&self) -> Option<(u8, u64, usize)> {
        let window = self.layout.window;
        let [bar, ..] = self.layout.config.read(window + 1).to_le_bytes();
        let offset = u64::from(self.layout.config.read(window + 2));
        let length = self.layout.config.read(window + 3);
        let possible = matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length.into());
        let within = bar == BAR && offset + u64::from(length) <= BAR_BYTES;
        let length = usize::try_from(length).ok()?;
        (possible && within).then_some((bar, offset, length))
    }

    fn window_data(&self) -> u8 {
        self.layout.window + 4
    }
}

impl PciFunction for VirtioPci {
    fn config(&self) -> &ConfigSpace {
        &self.layout.config
    }

    fn read_config(&self, register: u8) -> u32 {
        if register == self.window_data()
            && let Some((bar, offset, length)) = self.window()
        {
            let mut data = [0; 4];
            if let Some(data) = data.get_mut(..length) {
                self.read_bar(bar, offset, data);
            }
            self.layout.config.set(register, u32::from_le_bytes(data));
        }
        self.layout.config.read(register)
    }

    fn write_config(&self, register: u8, value: u32, enabled: u32) {
        let config = &self.layout.config;
        config.write(register, value, enabled);
        if ConfigSpace::decides_decoding(register) {
            let mut transport = lock(&self.transport);
            if let Some(attachment) = &mut transport.attachment {
                // Read under the lock, so that of two vCPUs that move the BAR the later one wins.
                attachment.listen_at(config.bar_address(BAR));
            }
        } else if register == self.layout.msix {
            let [_, _, low, high] = config.read(register).to_le_bytes();
            self.interrupts
                .msix
                .set_control(u16::from_le_bytes([low, high]));
        } else if register == self.window_data()
            && let Some((bar, offset, length)) = self.window()
            && let Some(data) = config.read(register).to_le_bytes().get(..length)
        {
            self.write_bar(bar, offset, data);
        }
    }

    fn read_bar(&self, _bar: u8, offset: u64, data: &mut [u8]) {
        let len = data.len();
        if let Some(at) = layout::TABLE.offset(offset, len) {
            self.interrupts.msix.read_table(at, data);
        } else if let Some(at) = layout::PENDING.offset(offset, len) {
            self.interrupts.msix.read_pending(at, data);
        } else if let Some(at) = layout::COMMON.offset(offset, len) {
            lock(&self.transport).common.read(at, data);
        } else if let Some(at) = layout::DEVICE.offset(offset, len) {
            match &lock(&self.transport).attachment {
                Some(attachment) => attachment.device().read_config(at, data),
                None => data.fill(0),
            }
        } else {
            data.fill(0);
            // §4.1.4.5: reading the status clears it.
            if let (Some(0), Some(first)) = (layout::ISR.offset(offset, len), data.first_mut()) {
                *first = self.interrupts.isr.swap(0, Ordering::AcqRel);
            }
        }
    }

    fn write_bar(&self, _bar: u8, offset: u64, data: &[u8]) {
        let len = data.len();
        if let Some(at) = layout::NOTIFY.offset(offset, len) {
            if let Some(attachment) = &lock(&self.transport).attachment {
                attachment.ring(at);
            }
        } else if let Some(at) = layout::TABLE.offset(offset, len) {
            self.interrupts.msix.write_table(at, data);
        } else if let Some(at) = layout::COMMON.offset(offset, len) {
            let bar_address = || self.layout.config.bar_address(BAR);
            lock(&self.transport).write_common(at, data, &self.interrupts, bar_address);
        } else if let Some(at) = layout::DEVICE.offset(offset, len) {
            lock(&self.transport).write_device(at, data);
        }
    }
}

impl Transport {
    fn write_common(
        &mut self,
        offset: u64,
        data: &[u8],
        interrupts: &Interrupts,
        bar_address: impl Fn() -> Option<u64>,
    ) {
        let Some(attachment) = &mut self.attachment else {
            return;
        };
        match self.common.write(offset, data) {
            Effect::None => {}
            Effect::Reset => self.reset(interrupts),
            Effect::Activate => {
                attachment.activate(&self.common, interrupts);
                attachment.listen_at(bar_address());
            }
        }
    }

    /// §3.1.1: before the features are settled the driver may read, not write, the configuration.
    fn write_device(&mut self, offset: u64, data: &[u8]) {
        if let Some(attachment) = &mut self.attachment
            && self.common.negotiated()
        {
            attachment.device_mut().write_config(offset, data);
            self.common.bump_generation();
        }
    }

    fn reset(&mut self, interrupts: &Interrupts) {
        self.common.silence();
        if let Some(attachment) = &mut self.attachment {
            attachment.stop();
        }
        self.common.reset();
        interrupts.isr.store(0, Ordering::Release);
    }
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = lock(&self.transport);
        let attachment = transport.attachment.as_ref();
        f.debug_struct("VirtioPci")
            .field("device", &attachment.map(Attachment::device))
            .field("common", &transport.common)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
