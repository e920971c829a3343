//! A vCPU: its thread, its exits, and how it is stopped.
//!
//! A [`Vcpu`] exists in KVM; [`Vcpu::wait`] has it set up on a thread of its own; [`Waiting::start`] lets it run;
//! [`Running::stop`] ends that. Exits are dispatched to the buses, which are frozen, so that vCPUs share no
//! lock of this file's (`Documentation/virt/kvm/api.rst`, "KVM_RUN" and "The kvm_run structure").
//! Not noticed: a guest whose vCPUs all halt for ever with interrupts off; KVM waits with them.

#![expect(unsafe_code, reason = "the kvm_run page is shared with the kernel")]

mod kick;

use std::fmt;
use std::ptr;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};

use kami_devices::GuestMemory;
use kami_devices::bus::Bus;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN};

use crate::arch::host::{self, Model, Start};
use crate::machine::{End, Ending, Error};

use kick::KickTarget;
pub use kick::prepare_kicks;

/// The address spaces that vCPUs reach devices by.
#[derive(Debug)]
pub struct Buses {
    pub mmio: Bus,
    /// I/O ports; empty where the architecture has none.
    pub ports: Bus,
}

/// A vCPU that KVM has created.
#[derive(Debug)]
pub struct Vcpu {
    pub index: u32,
    pub fd: VcpuFd,
}

/// A vCPU on its own thread, which sets it up and then waits for [`Waiting::start`]; it goes when this is
/// dropped instead.
#[derive(Debug)]
pub struct Waiting {
    index: u32,
    thread: JoinHandle<()>,
    go: SyncSender<Go>,
}

/// A vCPU that runs.
#[derive(Debug)]
pub struct Running {
    index: u32,
    thread: JoinHandle<()>,
}

/// What a vCPU needs to run.
#[derive(Clone, Debug)]
pub struct Go {
    pub shared: Arc<Shared>,
    pub start: Start,
}

/// What vCPUs share.
#[derive(Debug)]
pub struct Shared {
    pub buses: Buses,
    pub memory: GuestMemory,
    pub ending: Arc<Ending>,
}

impl Vcpu {
    /// Gives the vCPU a thread `vcpuN`, which sets it up as one of `model`, while the rest of the machine is
    /// still being made. What fails there fails the machine.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn wait(mut self, model: Arc<Model>, ending: Arc<Ending>) -> Result<Waiting, Error> {
        let index = self.index;
        let (go, gone) = mpsc::sync_channel::<Go>(1);
        let life = move || {
            if let Err(error) = host::configure(&self, &model) {
                return ending.fail(error);
            }
            let Ok(Go { shared, start }) = gone.recv() else {
                return;
            };
            if self.index == 0
                && let Err(error) = host::enter(&self.fd, &start)
            {
                return ending.fail(error);
            }
            self.run(&shared);
        };
        let thread = thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(life)
            .map_err(|source| Error::Thread { index, source })?;
        Ok(Waiting { index, thread, go })
    }

    fn run(&mut self, shared: &Shared) {
        let _target = KickTarget::new(self.fd.get_kvm_run());
        // From here on a kick makes the next KVM_RUN return at once; one that came before has left its
        // trace in `ending`.
        while !shared.ending.is_ended() {
            if let Err(stop) = self.run_once(shared) {
                match stop {
                    Stop::End(end) => shared.ending.end(end),
                    Stop::Failed(error) => shared.ending.fail(error),
                }
            }
        }
    }

    fn run_once(&mut self, shared: &Shared) -> Result<(), Stop> {
        let buses = &shared.buses;
        match self.fd.run() {
            Ok(VcpuExit::MmioRead(address, data)) => {
                buses.mmio.read(address, data);
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                buses.mmio.write(address, data);
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                let data = ptr::from_mut(data);
                let width = self.port_width();
                // SAFETY: `data` lies in the kvm_run page's mapping, which lives as long as `self.fd`, and
                // the only other reference to that page, in `port_width`, is gone.
                let data = unsafe { &mut *data };
                // A string instruction reads the same port again and again.
                for element in data.chunks_mut(width) {
                    buses.ports.read(port.into(), element);
                }
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                let data = ptr::from_ref(data);
                let width = self.port_width();
                // SAFETY: as for reads.
                let data = unsafe { &*data };
                for element in data.chunks(width) {
                    buses.ports.write(port.into(), element);
                }
            }
            // Waiting for interrupts is KVM's.
            Ok(VcpuExit::Hlt | VcpuExit::IrqWindowOpen | VcpuExit::Intr) => {}
            // x86_64: the I/O APIC has no level-triggered line.
            Ok(VcpuExit::IoapicEoi(_)) => {}
            Ok(VcpuExit::Shutdown) => return Err(Stop::End(End::TripleFault)),
            Ok(VcpuExit::SystemEvent(kind, _)) => return Err(system_event(kind)),
            Ok(VcpuExit::InternalError) => return Err(Stop::Failed(self.internal_error(shared))),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                return Err(Stop::Failed(Error::EntryFailed {
                    vcpu: self.index,
                    reason,
                    at: self.place(shared).0,
                }));
            }
            Ok(exit) => {
                let exit = format!("{exit:?}");
                return Err(Stop::Failed(Error::UnknownExit {
                    vcpu: self.index,
                    exit,
                    at: self.place(shared).0,
                }));
            }
            Err(error) => return self.run_failed(error, shared),
        }
        Ok(())
    }

    fn run_failed(&mut self, error: kvm_ioctls::Error, shared: &Shared) -> Result<(), Stop> {
        match error.errno() {
            // Kicked, or stopped by a debugger: `run` looks whether the machine has ended.
            libc::EINTR => {
                self.fd.set_kvm_immediate_exit(0);
                Ok(())
            }
            // An application processor got its INIT or SIPI.
            libc::EAGAIN => Ok(()),
            _ => {
                let (at, bytes) = self.place(shared);
                Err(Stop::Failed(Error::Run {
                    vcpu: self.index,
                    at,
                    bytes,
                    source: error,
                }))
            }
        }
    }

    /// The width in bytes of the port access that KVM_RUN has just returned with; its data are a multiple.
    fn port_width(&mut self) -> usize {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason was KVM_EXIT_IO, for which KVM fills this member; any bytes are valid for it.
        let io = unsafe { run.__bindgen_anon_1.io };
        usize::from(io.size).max(1)
    }

    fn internal_error(&mut self, shared: &Shared) -> Error {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason was KVM_EXIT_INTERNAL_ERROR, for which KVM fills this member; any bytes
        // are valid for it.
        let suberror = unsafe { run.__bindgen_anon_1.internal }.suberror;
        // Newer KVMs hand out the instruction's bytes with the exit. Older ones do not, and memory has the
        // same ones.
        let (at, bytes) = self.place(shared);
        Error::InternalError {
            vcpu: self.index,
            suberror,
            at,
            bytes,
        }
    }

    /// Where the vCPU is, and the bytes of the instruction there.
    fn place(&self, shared: &Shared) -> (u64, Vec<u8>) {
        host::next_instruction(&self.fd, &shared.memory)
    }
}

/// Why a vCPU asks the machine to end.
enum Stop {
    End(End),
    Failed(Error),
}

fn system_event(kind: u32) -> Stop {
    Stop::End(match kind {
        kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => End::PoweredOff,
        kvm_bindings::KVM_SYSTEM_EVENT_CRASH => End::Panicked,
        _ => End::Reset,
    })
}

impl Waiting {
    /// Lets the vCPU run until the machine ends.
    pub fn start(self, go: Go) -> Running {
        // One that could not be set up has failed the machine, and hears nothing any more.
        let _failed = self.go.send(go);
        Running {
            index: self.index,
            thread: self.thread,
        }
    }
}

impl Running {
    /// Makes the vCPU leave the guest, now that the machine has ended, and waits for its thread.
    pub fn stop(self) {
        // A thread that has gone by itself cannot be signalled; that is as good.
        let _gone = self.thread.kill(SIGRTMIN());
        if self.thread.join().is_err() {
            tracing::error!("the thread of vcpu {} panicked", self.index);
        }
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End(end) => end.fmt(f),
            Self::Failed(error) => error.fmt(f),
        }
    }
}
