//! The guest as those beside it see it, over all the machines that its resets give it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use kami_devices::virtio::block::outside::{self, DiskHandle};
use kami_image::id::{SnapshotId, VolumeId};

use crate::console::Watcher;
use crate::control::Response;
use crate::machine::{End, MachineHandle};

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    /// The thread that runs the machines and the one that attends to the guest contend for it.
    state: Mutex<State>,
    /// In the machine's order. Threads that answer requests about them contend for them: one after
    /// the other has its way.
    disks: Mutex<Vec<(VolumeId, DiskHandle)>>,
    over: AtomicBool,
    attendant: Watcher,
}

#[derive(Debug)]
struct State {
    machine: MachineHandle,
    /// How somebody asked the guest to end; it outlives a reset that happens at the same time.
    asked: Option<End>,
    /// The guest is asked to power off in order to boot again.
    reboots: bool,
}

impl Guest {
    /// The guest of `machine`; `attendant` is woken when it is over.
    pub fn new(machine: MachineHandle, attendant: Watcher) -> Self {
        Self {
            state: Mutex::new(State {
                machine,
                asked: None,
                reboots: false,
            }),
            disks: Mutex::default(),
            over: AtomicBool::new(false),
            attendant,
        }
    }

    /// The same guest, with these disks.
    #[must_use]
    pub fn with_disks(self, disks: Vec<(VolumeId, DiskHandle)>) -> Self {
        let disks = Mutex::new(disks);
        Self { disks, ..self }
    }

    /// The guest goes on in another machine.
    pub fn moves_to(&self, machine: MachineHandle) {
        let mut state = self.lock();
        if let Some(end) = state.asked {
            machine.end(end);
        }
        state.machine = machine;
        state.reboots = false;
    }

    /// Presses the ACPI power button. A reboot that is under way becomes an end.
    pub fn power_button(&self) {
        let mut state = self.lock();
        state.reboots = false;
        state.machine.power_button();
    }

    /// Presses the ACPI power button; when the guest has powered off it boots again.
    pub fn reboot(&self) {
        let mut state = self.lock();
        state.reboots = true;
        state.machine.power_button();
    }

    /// Resets a guest that was asked to reboot and has not yet.
    pub fn reset_if_reboots(&self) {
        let state = self.lock();
        if state.reboots {
            state.machine.end(End::Reset);
        }
    }

    /// Ends the machine; all but a reset also ends the guest.
    pub fn end(&self, end: End) {
        let mut state = self.lock();
        if end != End::Reset {
            state.asked.get_or_insert(end);
        }
        state.machine.end(end);
    }

    /// What the guest's user types. Returns how many bytes the guest's serial port took.
    pub fn console_input(&self, bytes: &[u8]) -> usize {
        self.lock().machine.console_input(bytes)
    }

    /// How the guest ended, given how its machine did: who asked for an end while the guest reset
    /// itself still gets it.
    pub fn ended_as(&self, machine: End) -> End {
        let state = self.lock();
        match machine {
            End::Reset => state.asked.unwrap_or(End::Reset),
            End::PoweredOff if state.reboots => state.asked.unwrap_or(End::Reset),
            other => other,
        }
    }

    /// Freezes the disks of these volumes ([`outside::freeze`]).
    pub fn freeze(&self, volumes: &[VolumeId]) -> Response {
        let disks = self.disks.lock().unwrap_or_else(|e| e.into_inner());
        let mut wanted = Vec::with_capacity(volumes.len());
        for (number, volume) in volumes.iter().enumerate() {
            match disks.iter().find(|(id, _)| id == volume) {
                _ if volumes[..number].contains(volume) => {
                    return Response::refused(&DiskError::Twice { volume: *volume });
                }
                Some((_, disk)) => wanted.push(disk.clone()),
                None => return Response::refused(&DiskError::Unknown { volume: *volume }),
            }
        }
        match outside::freeze(&wanted) {
            Ok(frozen) => Response::Frozen {
                layers: frozen.layers,
                pause_microseconds: u64::try_from(frozen.pause.as_micros()).unwrap_or(u64::MAX),
            },
            Err(error) => Response::refused(&error),
        }
    }

    /// Has the volume stand on `snapshot` below `layer` ([`DiskHandle::rebase`]).
    pub fn rebase(&self, volume: &VolumeId, snapshot: &SnapshotId, layer: u32) -> Response {
        let disks = self.disks.lock().unwrap_or_else(|e| e.into_inner());
        let Some((_, disk)) = disks.iter().find(|(id, _)| id == volume) else {
            return Response::refused(&DiskError::Unknown { volume: *volume });
        };
        match disk.rebase(snapshot, layer) {
            Ok(()) => Response::Rebased,
            Err(error) => Response::refused(&error),
        }
    }

    /// Nothing runs any more.
    pub fn set_over(&self) {
        self.over.store(true, Ordering::Release);
        self.attendant.wake();
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Why a guest's disks are not touched.
#[derive(Debug, thiserror::Error)]
enum DiskError {
    #[error("the instance runs without the volume {volume}")]
    Unknown { volume: VolumeId },
    #[error("the volume {volume} is named twice")]
    Twice { volume: VolumeId },
}
