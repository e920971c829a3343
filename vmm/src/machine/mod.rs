//! The assembled virtual machine: memory, vCPUs and devices around one KVM VM, from its creation to its end.
//!
//! A machine runs once. A guest's reset ends it like any other end, and its caller builds a fresh one from
//! the same devices, so that nothing of the first run is left. Left out on purpose: pausing,
//! snapshots of the machine's state (its disks can be frozen), hot plug, more than [`MAX_CPUS`] vCPUs.

mod ending;
mod error;
mod groundwork;
mod panic_watch;
mod tap;

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use kami_devices::virtio::device::VirtioDevice;
use kami_devices::virtio::pci::VirtioPci;
use kami_kernels::Kernel;
use kvm_ioctls::VmFd;

use crate::arch::host;
use crate::arch::range::Range;
use crate::irq::Interrupts;
use crate::memory;
use crate::vcpu::{self, Go, Running, Shared, Vcpu, Waiting};

pub use ending::{AFTER_PANIC, End, Ending};
pub use error::Error;
pub use groundwork::Groundwork;

/// The most vCPUs of a machine.
pub const MAX_CPUS: u32 = 32;

/// What a machine is made of, devices excepted.
#[derive(Debug)]
pub struct MachineConfig {
    /// vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// Whole pages of 4 KiB.
    pub memory_bytes: u64,
    pub kernel: Kernel,
    pub initrd: Option<PathBuf>,
    /// The kernel's whole command line.
    pub cmdline: String,
}

/// A machine that is ready to run.
#[derive(Debug)]
pub struct Machine {
    vcpus: Vec<Waiting>,
    functions: Vec<Arc<VirtioPci>>,
    listener: tap::Listener,
    handle: MachineHandle,
    /// Holds the buses, whose devices hold the VM, and the memory, in this order: unmapping memory that a VM
    /// still has costs more.
    go: Go,
}

/// Reaches a machine from outside, whether or not it still runs. Keeps nothing of it.
#[derive(Clone, Debug)]
pub struct MachineHandle {
    ending: Arc<Ending>,
    console: Weak<host::Console>,
    power: Weak<host::Power>,
}

/// What is left of a machine that has run.
pub struct Ran {
    pub end: Result<End, Error>,
    /// Stopped, and as they were when the machine was built.
    pub devices: Vec<Box<dyn VirtioDevice>>,
    pub console: Box<dyn Write + Send>,
}

impl Machine {
    /// [`Machine::on`] groundwork laid now.
    ///
    /// # Errors
    /// As [`Groundwork::lay`] and [`Machine::on`].
    pub fn new(
        config: &MachineConfig,
        devices: Vec<Box<dyn VirtioDevice>>,
        console: Box<dyn Write + Send>,
    ) -> Result<Self, Error> {
        Self::on(Groundwork::lay()?, config, devices, console)
    }

    /// Builds a machine around `devices`, which become PCI functions in that order, with the kernel in its
    /// memory. `console` gets what the guest prints, byte by byte.
    ///
    /// # Errors
    /// The configuration asks for what this host or its KVM cannot give; nothing is left behind.
    pub fn on(
        groundwork: Groundwork,
        config: &MachineConfig,
        devices: Vec<Box<dyn VirtioDevice>>,
        console: Box<dyn Write + Send>,
    ) -> Result<Self, Error> {
        if !(1..=MAX_CPUS).contains(&config.cpus) {
            return Err(Error::Cpus(config.cpus));
        }
        memory::check_size(config.memory_bytes)?;
        vcpu::prepare_kicks()?;
        let Groundwork { vm, abilities } = groundwork;
        let ranges = host::memory_ranges(config.memory_bytes);
        check_addresses(&ranges, host::address_bits(&abilities))?;
        let memory = memory::map(&ranges)?;
        memory::add_slots(&vm, &memory)?;
        host::prepare_vm(&vm, &abilities, config.cpus)?;
        let created = (0..config.cpus)
            .map(|index| create_vcpu(&vm, index))
            .collect::<Result<Vec<_>, _>>()?;
        let model = host::model(&vm, abilities, &created, config.memory_bytes)?;
        let model = Arc::new(model);
        let ending = Arc::new(Ending::new(AFTER_PANIC));
        let vcpus = created
            .into_iter()
            .map(|vcpu| vcpu.wait(model.clone(), ending.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let start = host::load(&memory, config, &model)?;
        let interrupts = Interrupts::new(vm, model.clone());
        let (tap, listener) = tap::Tap::new(console, ending.clone());
        let fixed = host::attach(
            &interrupts,
            &memory,
            &model,
            devices,
            Box::new(tap),
            &ending,
        )?;
        Ok(Self {
            vcpus,
            functions: fixed.functions,
            listener,
            handle: MachineHandle {
                ending: ending.clone(),
                console: Arc::downgrade(&fixed.console),
                power: Arc::downgrade(&fixed.power),
            },
            go: Go {
                shared: Arc::new(Shared {
                    buses: fixed.buses,
                    memory,
                    ending,
                }),
                start,
            },
        })
    }

    pub fn handle(&self) -> MachineHandle {
        self.handle.clone()
    }

    /// Runs the machine until it ends. By then its vCPUs have stopped and its devices serve nothing any more.
    pub fn run(self) -> Ran {
        self.run_then(|| ())
    }

    /// As [`Machine::run`], and calls `begun` when the vCPUs are on their way.
    pub fn run_then(self, begun: impl FnOnce()) -> Ran {
        let ending = self.handle.ending;
        let start = |vcpu: Waiting| vcpu.start(self.go.clone());
        let running: Vec<Running> = self.vcpus.into_iter().map(start).collect();
        begun();
        let end = ending.wait();
        running.into_iter().for_each(Running::stop);
        let devices = self.functions.iter().filter_map(|f| f.take_device());
        let devices = devices.collect();
        Ran {
            end,
            devices,
            console: self.listener.take(),
        }
    }
}

/// Refuses memory that the processor has no addresses for.
fn check_addresses(ranges: &[Range], bits: u8) -> Result<(), Error> {
    let ram_end = ranges.last().map_or(0, Range::end);
    if ram_end > 1 << bits.min(63) {
        return Err(Error::AddressBits { ram_end, bits });
    }
    Ok(())
}

fn create_vcpu(vm: &VmFd, index: u32) -> Result<Vcpu, Error> {
    let fd = vm
        .create_vcpu(index.into())
        .map_err(|source| Error::CreateVcpu { index, source })?;
    Ok(Vcpu { index, fd })
}

impl MachineHandle {
    /// Presses the power button. What follows is up to the guest.
    pub fn power_button(&self) {
        if let Some(power) = self.power.upgrade() {
            power.press_button();
        }
    }

    /// Ends the machine at once, unless it has ended.
    pub fn end(&self, end: End) {
        self.ending.end(end);
    }

    /// Types `bytes` at the guest's console; returns how many were taken, the others are dropped.
    pub fn console_input(&self, bytes: &[u8]) -> usize {
        self.console
            .upgrade()
            .map_or(0, |console| console.input(bytes))
    }
}

impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ran")
            .field("end", &self.end)
            .field("devices", &self.devices)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
