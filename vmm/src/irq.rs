//! The hypervisor's side of [`kami_devices::irq`]: messages by `KVM_SIGNAL_MSI`, MSI-X vectors by
//! irqfd and GSI routes, doorbells by ioeventfd (`Documentation/virt/kvm/api.rst`).
//!
//! Every vector is given a GSI when its function is made, but costs no system call before the driver
//! uses it: a route change waits for the readers of the table, and most launches never use most
//! vectors. GSIs below [`IO_APIC_PINS`] are the I/O APIC's, which lives in this process and sends
//! messages, so they have no routes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kami_devices::irq::{Doorbells, Msi, MsiSink, MsixRoutes};
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi, kvm_irq_routing_msi__bindgen_ty_1, kvm_msi,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::arch::x86_64::layout::IO_APIC_PINS;

fn low_half(address: u64) -> u32 {
    u32::try_from(address & u64::from(u32::MAX)).unwrap_or_default()
}

fn high_half(address: u64) -> u32 {
    u32::try_from(address >> 32).unwrap_or_default()
}

fn failed(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// What devices may do with a VM's interrupts.
#[derive(Debug)]
pub struct Interrupts {
    vm: VmFd,
    /// The messages of the GSIs in use, and the first GSI that no function has. vCPU threads contend
    /// for it when guests program MSI-X tables.
    routes: Mutex<Routes>,
}

#[derive(Debug)]
struct Routes {
    messages: BTreeMap<u32, Msi>,
    next_gsi: u32,
}

impl Interrupts {
    pub fn new(vm: VmFd) -> Arc<Self> {
        Arc::new(Self {
            vm,
            routes: Mutex::new(Routes {
                messages: BTreeMap::new(),
                next_gsi: IO_APIC_PINS,
            }),
        })
    }

    /// The routes of one more PCI function with `vectors` MSI-X vectors.
    pub fn function(self: &Arc<Self>, vectors: u16) -> Arc<dyn MsixRoutes> {
        let mut routes = self.lock();
        let first_gsi = routes.next_gsi;
        routes.next_gsi += u32::from(vectors);
        Arc::new(FunctionRoutes {
            interrupts: self.clone(),
            vectors: (first_gsi..routes.next_gsi).map(Vector::new).collect(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Routes> {
        // Every holder leaves the table whole.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets or clears the message of `gsi`; tells KVM when that changes anything.
    fn set_route(&self, gsi: u32, message: Option<Msi>) -> io::Result<()> {
        let mut routes = self.lock();
        let before = match message {
            Some(message) => routes.messages.insert(gsi, message),
            None => routes.messages.remove(&gsi),
        };
        if before == message {
            return Ok(());
        }
        let told = self.tell(&routes.messages);
        if told.is_err() {
            match before {
                Some(before) => routes.messages.insert(gsi, before),
                None => routes.messages.remove(&gsi),
            };
        }
        told
    }

    fn tell(&self, messages: &BTreeMap<u32, Msi>) -> io::Result<()> {
        let entries: Vec<_> = messages
            .iter()
            .map(|(gsi, msg)| entry(*gsi, *msg))
            .collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(io::Error::other)?;
        self.vm.set_gsi_routing(&table).map_err(failed)
    }
}

fn entry(gsi: u32, message: Msi) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo: low_half(message.address),
                address_hi: high_half(message.address),
                data: message.data,
                __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1::default(),
            },
        },
        ..Default::default()
    }
}

impl MsiSink for Interrupts {
    fn send(&self, message: Msi) {
        // A message that no local APIC takes is lost, as on a bus: KVM says so by 0, or by an error
        // for one that is none (the guest programmed an address that is not the local APICs').
        let _delivered = self.vm.signal_msi(kvm_msi {
            address_lo: low_half(message.address),
            address_hi: high_half(message.address),
            data: message.data,
            ..Default::default()
        });
    }
}

impl Doorbells for Interrupts {
    fn register(&self, address: u64, event: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(address);
        // Without a data match KVM looks at the address alone, which is what it serves fastest. A
        // write of another width than the 16 bits of virtio 1.3 §4.1.5.2 rings too and harms nobody.
        self.vm
            .register_ioevent(event, &address, NoDatamatch)
            .map_err(failed)
    }

    fn unregister(&self, address: u64, event: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(address);
        self.vm
            .unregister_ioevent(event, &address, NoDatamatch)
            .map_err(failed)
    }
}

/// One MSI-X vector.
#[derive(Debug)]
struct Vector {
    gsi: u32,
    event: OnceLock<EventFd>,
    /// Whether `event` is an irqfd by now.
    attached: Mutex<bool>,
}

impl Vector {
    fn new(gsi: u32) -> Self {
        Self {
            gsi,
            event: OnceLock::new(),
            attached: Mutex::new(false),
        }
    }

    fn event(&self) -> io::Result<&EventFd> {
        if let Some(event) = self.event.get() {
            return Ok(event);
        }
        let event = EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(self.event.get_or_init(|| event))
    }

    fn attach(&self, vm: &VmFd) -> io::Result<()> {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if !*attached {
            vm.register_irqfd(self.event()?, self.gsi).map_err(failed)?;
            *attached = true;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct FunctionRoutes {
    interrupts: Arc<Interrupts>,
    vectors: Vec<Vector>,
}

impl MsixRoutes for FunctionRoutes {
    fn event(&self, vector: u16) -> Option<&EventFd> {
        self.vectors.get(usize::from(vector))?.event().ok()
    }

    fn route(&self, vector: u16, message: Option<Msi>) -> io::Result<()> {
        let vector = self
            .vectors
            .get(usize::from(vector))
            .ok_or(io::ErrorKind::NotFound)?;
        if message.is_some() {
            vector.attach(&self.interrupts.vm)?;
        }
        self.interrupts.set_route(vector.gsi, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::host;
    use kvm_ioctls::Kvm;

    const MESSAGE: Msi = Msi {
        address: 0xfee0_0000,
        data: 0x41,
    };

    fn interrupts() -> Arc<Interrupts> {
        let vm = Kvm::new().unwrap().create_vm().unwrap();
        host::prepare_vm(&vm).unwrap();
        Interrupts::new(vm)
    }

    #[test]
    fn vectors_have_gsis_of_their_own_above_the_io_apics() {
        let interrupts = interrupts();
        let functions = [interrupts.function(3), interrupts.function(2)];
        for (function, vectors) in functions.iter().zip([3, 2]) {
            for vector in 0..vectors {
                function.route(vector, Some(MESSAGE)).unwrap();
            }
        }
        let gsis: Vec<u32> = interrupts.lock().messages.keys().copied().collect();
        assert_eq!(gsis, [24, 25, 26, 27, 28]);
    }

    #[test]
    fn vector_that_the_function_has_not_is_refused() {
        let function = interrupts().function(1);
        assert!(function.event(1).is_none());
        let refused = function.route(1, Some(MESSAGE)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn route_comes_goes_and_comes_back_on_the_same_event() {
        let interrupts = interrupts();
        let function = interrupts.function(1);
        let event = std::os::fd::AsRawFd::as_raw_fd(function.event(0).unwrap());
        for message in [Some(MESSAGE), Some(MESSAGE), None, None, Some(MESSAGE)] {
            function.route(0, message).unwrap();
            let routed = interrupts.lock().messages.get(&24).copied();
            assert_eq!(routed, message);
        }
        let after = std::os::fd::AsRawFd::as_raw_fd(function.event(0).unwrap());
        assert_eq!(event, after);
    }

    #[test]
    fn doorbell_is_given_back() {
        let interrupts = interrupts();
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        for _ in 0..2 {
            interrupts.register(0xc000_1000, &event).unwrap();
            assert!(interrupts.register(0xc000_1000, &event).is_err());
            interrupts.unregister(0xc000_1000, &event).unwrap();
        }
    }
}
