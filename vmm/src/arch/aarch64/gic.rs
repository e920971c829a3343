//! The machine's interrupt controller, which is KVM's: a GICv3 with an ITS, or a GICv2 where the host has only that
//! (`Documentation/virt/kvm/devices/arm-vgic{,-v3,-its}.rst`).
//!
//! In the order that KVM wants: created before the vCPUs, whose ioctls would stand in its way; given its addresses;
//! initialised when the vCPUs are there.

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_ITS_ADDR_TYPE, KVM_VGIC_V2_ADDR_TYPE_CPU,
    KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST,
    kvm_create_device, kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};

use super::Error;
use crate::arch::aarch64::fdt::Gic;
use crate::arch::aarch64::layout::{
    GIC_CPU_INTERFACE, GIC_DISTRIBUTOR, GIC_ITS, GIC_REDISTRIBUTORS, IRQS,
};
use crate::arch::range::Range;
use crate::machine;

/// The most vCPUs that a GICv2 serves.
const V2_CPUS_MAX: u32 = 8;

/// The interrupt controller of a VM.
#[derive(Debug)]
pub struct Controller {
    pub kind: Gic,
    gic: DeviceFd,
    its: Option<DeviceFd>,
}

impl Controller {
    /// Creates the newest that the host's KVM has.
    ///
    /// # Errors
    /// It has none.
    pub fn create(vm: &VmFd) -> Result<Self, machine::Error> {
        if let Ok(gic) = create(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3) {
            let its = create(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS);
            let its = its.map_err(|source| machine::Error::kvm("create an its", source))?;
            return Ok(Self {
                kind: Gic::V3,
                gic,
                its: Some(its),
            });
        }
        let gic = create(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2).map_err(Error::NoGic)?;
        Ok(Self {
            kind: Gic::V2,
            gic,
            its: None,
        })
    }

    /// Says where its registers are, and how many interrupts it has, before any of the `cpus` vCPUs is created.
    ///
    /// # Errors
    /// They are too many for it, or KVM refuses.
    pub fn place(&self, cpus: u32) -> Result<(), machine::Error> {
        if self.kind == Gic::V2 && cpus > V2_CPUS_MAX {
            return Err(Error::CpusOfGicV2 { cpus }.into());
        }
        let ranges = match self.kind {
            Gic::V2 => [
                (KVM_VGIC_V2_ADDR_TYPE_DIST, GIC_DISTRIBUTOR),
                (KVM_VGIC_V2_ADDR_TYPE_CPU, GIC_CPU_INTERFACE),
            ],
            Gic::V3 => [
                (KVM_VGIC_V3_ADDR_TYPE_DIST, GIC_DISTRIBUTOR),
                (KVM_VGIC_V3_ADDR_TYPE_REDIST, GIC_REDISTRIBUTORS),
            ],
        };
        for (what, range) in ranges {
            place(&self.gic, what, range)?;
        }
        if let Some(its) = &self.its {
            place(its, KVM_VGIC_ITS_ADDR_TYPE, GIC_ITS)?;
        }
        let irqs: u32 = IRQS;
        let attr = kvm_device_attr {
            group: KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
            addr: std::ptr::from_ref(&irqs) as u64,
            ..Default::default()
        };
        self.gic
            .set_device_attr(&attr)
            .map_err(|source| machine::Error::kvm("size the interrupt controller", source))
    }

    /// Makes it ready, now that all vCPUs exist.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn init(&self) -> Result<(), machine::Error> {
        let attr = kvm_device_attr {
            group: KVM_DEV_ARM_VGIC_GRP_CTRL,
            attr: KVM_DEV_ARM_VGIC_CTRL_INIT.into(),
            ..Default::default()
        };
        for device in [Some(&self.gic), self.its.as_ref()].into_iter().flatten() {
            let made = device.set_device_attr(&attr);
            made.map_err(|source| machine::Error::kvm("start the interrupt controller", source))?;
        }
        Ok(())
    }
}

fn create(vm: &VmFd, kind: u32) -> Result<DeviceFd, kvm_ioctls::Error> {
    vm.create_device(&mut kvm_create_device {
        type_: kind,
        ..Default::default()
    })
}

fn place(device: &DeviceFd, what: u32, range: Range) -> Result<(), machine::Error> {
    let address: u64 = range.start.0;
    let attr = kvm_device_attr {
        group: KVM_DEV_ARM_VGIC_GRP_ADDR,
        attr: what.into(),
        addr: std::ptr::from_ref(&address) as u64,
        ..Default::default()
    };
    device
        .set_device_attr(&attr)
        .map_err(|source| machine::Error::kvm("place the interrupt controller", source))
}
