//! The hypervisor's side of [`kami_devices::irq`]: messages by `KVM_SIGNAL_MSI`, MSI-X vectors by
//! irqfd and GSI routes, doorbells by ioeventfd (`Documentation/virt/kvm/api.rst`).
//!
//! Every vector is given a GSI when its function is made, but costs no system call before the driver
//! uses it: a route change waits for the readers of the table, and most launches never use most
//! vectors. What an entry of the table is for a message, is the architecture's ([`host::route`]).

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

use crate::arch::host::{self, Model};

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
    model: Arc<Model>,
    /// The messages of the GSIs in use, and the first GSI that no function has. vCPU threads contend
    /// for it when guests program MSI-X tables.
    routes: Mutex<Routes>,
}

#[derive(Debug)]
struct Routes {
    messages: BTreeMap<u32, Routed>,
    next_gsi: u32,
}

/// A message, and who sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Routed {
    message: Msi,
    requester: u16,
}

impl Interrupts {
    /// The interrupts of `vm`, whose vCPUs are `model`.
    pub fn new(vm: VmFd, model: Arc<Model>) -> Arc<Self> {
        Arc::new(Self {
            vm,
            model,
            routes: Mutex::new(Routes {
                messages: BTreeMap::new(),
                next_gsi: host::FIRST_MESSAGE_GSI,
            }),
        })
    }

    /// The routes of one more PCI function, with `vectors` MSI-X vectors and the requester id `requester`.
    pub fn function(self: &Arc<Self>, requester: u16, vectors: u16) -> Arc<dyn MsixRoutes> {
        let mut routes = self.lock();
        let first_gsi = routes.next_gsi;
        routes.next_gsi += u32::from(vectors);
        Arc::new(FunctionRoutes {
            interrupts: self.clone(),
            requester,
            vectors: (first_gsi..routes.next_gsi).map(Vector::new).collect(),
        })
    }

    /// Asserts an interrupt line of KVM's own controller, or lets it go; `line` as `KVM_IRQ_LINE` numbers it.
    pub fn set_line(&self, line: u32, asserted: bool) {
        if let Err(error) = self.vm.set_irq_line(line, asserted) {
            // KVM knows every line that a machine has.
            tracing::error!(line, %error, "cannot set an interrupt line");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Routes> {
        // Every holder leaves the table whole.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets or clears the message of `gsi`; tells KVM when that changes anything.
    fn set_route(&self, gsi: u32, message: Option<Routed>) -> io::Result<()> {
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

    fn tell(&self, messages: &BTreeMap<u32, Routed>) -> io::Result<()> {
        let entries = messages
            .iter()
            .map(|(gsi, routed)| host::route(&self.model, *gsi, routed.message, routed.requester))
            .collect::<io::Result<Vec<_>>>()?;
        let table = KvmIrqRouting::from_entries(&entries).map_err(io::Error::other)?;
        self.vm.set_gsi_routing(&table).map_err(failed)
    }
}

/// The entry that sends `message` when `gsi` is signalled.
pub fn message_entry(gsi: u32, message: Msi) -> kvm_irq_routing_entry {
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
    requester: u16,
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
        let routed = message.map(|message| Routed {
            message,
            requester: self.requester,
        });
        self.interrupts.set_route(vector.gsi, routed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Groundwork;
    use crate::vcpu::Vcpu;

    /// Those of a machine of one vCPU, and a message that it takes.
    fn interrupts() -> (Arc<Interrupts>, Msi) {
        let Groundwork { vm, abilities } = Groundwork::lay().unwrap();
        host::prepare_vm(&vm, &abilities, 1).unwrap();
        let fd = vm.create_vcpu(0).unwrap();
        let vcpus = [Vcpu { index: 0, fd }];
        let model = host::model(&vm, abilities, &vcpus, 128 << 20).unwrap();
        let message = host::message(&model);
        (Interrupts::new(vm, Arc::new(model)), message)
    }

    fn all_of(interrupts: &Interrupts) -> Vec<(u32, Routed)> {
        let routes = interrupts.lock();
        routes.messages.iter().map(|(g, r)| (*g, *r)).collect()
    }

    #[test]
    fn vectors_have_gsis_of_their_own_and_their_functions_requester_id() {
        let (interrupts, message) = interrupts();
        let functions = [interrupts.function(8, 3), interrupts.function(16, 2)];
        for (function, vectors) in functions.iter().zip([3, 2]) {
            for vector in 0..vectors {
                function.route(vector, Some(message)).unwrap();
            }
        }
        let requesters = [8, 8, 8, 16, 16];
        let expected = (host::FIRST_MESSAGE_GSI..).zip(requesters);
        let expected = expected.map(|(gsi, requester)| (gsi, Routed { message, requester }));
        assert_eq!(all_of(&interrupts), expected.collect::<Vec<_>>());
    }

    #[test]
    fn vector_that_the_function_has_not_is_refused() {
        let (interrupts, message) = interrupts();
        let function = interrupts.function(8, 1);
        assert!(function.event(1).is_none());
        let refused = function.route(1, Some(message)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn route_comes_goes_and_comes_back_on_the_same_event() {
        let (interrupts, message) = interrupts();
        let function = interrupts.function(8, 1);
        let event = std::os::fd::AsRawFd::as_raw_fd(function.event(0).unwrap());
        let on = Some(message);
        for message in [on, on, None, None, on] {
            function.route(0, message).unwrap();
            let routed = all_of(&interrupts).first().map(|(_, r)| r.message);
            assert_eq!(routed, message);
        }
        let after = std::os::fd::AsRawFd::as_raw_fd(function.event(0).unwrap());
        assert_eq!(event, after);
    }

    #[test]
    fn doorbell_is_given_back() {
        let (interrupts, _) = interrupts();
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        for _ in 0..2 {
            interrupts.register(0xc000_1000, &event).unwrap();
            assert!(interrupts.register(0xc000_1000, &event).is_err());
            interrupts.unregister(0xc000_1000, &event).unwrap();
        }
    }
}
