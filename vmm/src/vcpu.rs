//! A vCPU: its thread, its exits, and how it is stopped.
//!
//! A [`Vcpu`] is set up and not running; [`Vcpu::start`] makes a [`Running`] one of it, on a thread of its own;
//! [`Running::stop`] ends that. Exits are dispatched to the buses, which are frozen, so that vCPUs share no
//! lock of this file's (`Documentation/virt/kvm/api.rst`, "KVM_RUN" and "The kvm_run structure").
//! Not noticed: a guest whose vCPUs all halt for ever with interrupts off; KVM waits with them.

#![expect(
    unsafe_code,
    reason = "the kvm_run page is shared with the kernel and, by its signal handler, with the thread itself"
)]

use std::cell::Cell;
use std::fmt;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};

use kami_devices::GuestMemory;
use kami_devices::bus::Bus;
use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::arch::host;
use crate::machine::{End, Ending, Error};

/// The address spaces that vCPUs reach devices by.
#[derive(Debug)]
pub struct Buses {
    pub mmio: Bus,
    /// I/O ports; empty where the architecture has none.
    pub ports: Bus,
}

/// A vCPU that is set up and does not run.
#[derive(Debug)]
pub struct Vcpu {
    pub index: u32,
    pub fd: VcpuFd,
}

/// A vCPU that runs on its own thread.
#[derive(Debug)]
pub struct Running {
    index: u32,
    thread: JoinHandle<()>,
}

/// What vCPUs share.
#[derive(Debug)]
pub struct Shared {
    pub buses: Buses,
    pub memory: GuestMemory,
    pub ending: Arc<Ending>,
}

impl Vcpu {
    /// Runs the vCPU on a thread `vcpuN` until the machine ends.
    ///
    /// # Errors
    /// The host gives no thread, or no signal.
    pub fn start(mut self, shared: Arc<Shared>) -> Result<Running, Error> {
        let index = self.index;
        let spawned = thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(move || self.run(&shared));
        let thread = spawned.map_err(|source| Error::Thread { index, source })?;
        Ok(Running { index, thread })
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
            // The local APIC is KVM's, and so is waiting for it.
            Ok(VcpuExit::Hlt | VcpuExit::IrqWindowOpen | VcpuExit::Intr) => {}
            // The I/O APIC has no level-triggered line.
            Ok(VcpuExit::IoapicEoi(_)) => {}
            Ok(VcpuExit::Shutdown) => return Err(Stop::End(End::TripleFault)),
            Ok(VcpuExit::SystemEvent(kind, _)) => return Err(system_event(kind)),
            Ok(VcpuExit::InternalError) => return Err(Stop::Failed(self.internal_error(shared))),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                return Err(Stop::Failed(Error::EntryFailed {
                    vcpu: self.index,
                    reason,
                    rip: self.rip(shared),
                }));
            }
            Ok(exit) => {
                let exit = format!("{exit:?}");
                return Err(Stop::Failed(Error::UnknownExit {
                    vcpu: self.index,
                    exit,
                    rip: self.rip(shared),
                }));
            }
            Err(error) => return self.run_failed(error),
        }
        Ok(())
    }

    fn run_failed(&mut self, error: kvm_ioctls::Error) -> Result<(), Stop> {
        match error.errno() {
            // Kicked, or stopped by a debugger: `run` looks whether the machine has ended.
            libc::EINTR => {
                self.fd.set_kvm_immediate_exit(0);
                Ok(())
            }
            // An application processor got its INIT or SIPI.
            libc::EAGAIN => Ok(()),
            _ => Err(Stop::Failed(Error::Run {
                vcpu: self.index,
                source: error,
            })),
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
        let (rip, bytes) = host::next_instruction(&self.fd, &shared.memory);
        Error::InternalError {
            vcpu: self.index,
            suberror,
            rip,
            bytes,
        }
    }

    fn rip(&self, shared: &Shared) -> u64 {
        host::next_instruction(&self.fd, &shared.memory).0
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

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

/// Makes this thread's vCPU reachable for [`kicked`], until it is dropped.
struct KickTarget;

impl KickTarget {
    fn new(run: &mut kvm_run) -> Self {
        IMMEDIATE_EXIT.set(ptr::from_mut(&mut run.immediate_exit).cast::<AtomicU8>());
        Self
    }
}

impl Drop for KickTarget {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null());
    }
}

/// Lets [`Running::stop`] interrupt vCPU threads. Once per process, before the first one starts.
///
/// # Errors
/// The host refuses the signal handler.
pub fn prepare_kicks() -> Result<(), Error> {
    register_signal_handler(SIGRTMIN(), kicked).map_err(|source| Error::Kvm {
        what: "handle the signal that stops vcpus",
        source,
    })
}

/// Runs on the vCPU's own thread. If that is on its way into the guest, the flag makes KVM_RUN return at
/// once; if it is in there, the signal itself did.
extern "C" fn kicked(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let target = IMMEDIATE_EXIT.get();
    // SAFETY: null, or set by this thread's `KickTarget` to a byte of the kvm_run page, which outlives it;
    // a byte that the kernel reads too is accessed atomically.
    if let Some(immediate_exit) = unsafe { target.as_ref() } {
        immediate_exit.store(1, Ordering::Relaxed);
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
