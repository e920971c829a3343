//! The guest as those beside it see it, over all the machines that its resets give it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::console::Watcher;
use crate::machine::{End, MachineHandle};

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    /// The thread that runs the machines and the one that attends to the guest contend for it.
    state: Mutex<State>,
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
            over: AtomicBool::new(false),
            attendant,
        }
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
