//! The steps of a launch after its plan: materialise, assemble, run.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use kami_devices::virtio::block::{BlockConfig, BlockDevice};
use kami_devices::virtio::device::VirtioDevice;
use kami_devices::virtio::rng::Rng;
use kami_image::id::InstanceId;
use kami_image::instance::InstanceSettings;
use kami_image::store::{
    InstanceLock, InstanceState, InstanceUpdate, Launched, LaunchedVolume, NewInstance, Store,
};
use kami_image::volume::OVERLAY;

use super::plan::Plan;
use super::{Ahead, Error, background, command_line};
use crate::cli::chain;
use crate::console::Inbox;
use crate::exit::Exit;
use crate::instance::attend::{Setup, attend};
use crate::instance::guest::Guest;
use crate::machine::{self, End, Machine, MachineConfig};
use crate::signals::Signals;

/// An instance that exists, with the plan for the rest. Dropped before it has run, it is removed.
#[derive(Debug)]
pub struct Materialised<'a> {
    plan: Plan,
    launched: Launched,
    // Dropped last: an instance whose lock is held is not removed.
    instance: Undo<'a>,
}

/// A machine that is ready to run.
#[derive(Debug)]
pub struct Assembled<'a> {
    machine: Machine,
    config: MachineConfig,
    setup: Setup,
    overlays: Vec<OwnedFd>,
    remove: bool,
    lock: InstanceLock,
    // Dropped last, as above.
    instance: Undo<'a>,
}

/// Takes an instance out of the store again, unless it comes to run.
#[derive(Debug)]
struct Undo<'a> {
    store: &'a Store,
    id: InstanceId,
    armed: bool,
}

impl Plan {
    /// Creates the instance and its volumes.
    ///
    /// # Errors
    /// The store cannot; nothing is left.
    pub fn materialise(self, store: &Store) -> Result<Materialised<'_>, Error> {
        let launched = store.launch(&NewInstance {
            image: &self.image,
            name: self.name.clone(),
            disks: &self.disks,
            cpus: self.cpus,
            memory_bytes: self.memory_bytes,
            remove_at_end: self.remove,
            settings: InstanceSettings::default(),
            reservation: None,
        })?;
        let instance = Undo {
            store,
            id: launched.instance.id,
            armed: true,
        };
        Ok(Materialised {
            instance,
            launched,
            plan: self,
        })
    }
}

impl<'a> Materialised<'a> {
    /// Builds the machine around the instance's volumes.
    ///
    /// # Errors
    /// The host or its KVM cannot; the instance is removed.
    pub fn assemble(self, signals: Signals, groundwork: Ahead) -> Result<Assembled<'a>, Error> {
        let Self {
            instance,
            launched,
            plan,
        } = self;
        let mut volumes = launched.volumes;
        let config = MachineConfig {
            cpus: plan.cpus,
            memory_bytes: plan.memory_bytes,
            kernel: plan.kernel,
            initrd: plan.initrd,
            cmdline: command_line::of(&mut volumes, &plan.append)?,
        };
        let overlays = volumes
            .iter()
            .map(|made| made.volume.file(OVERLAY).try_clone_to_owned());
        let overlays = overlays
            .collect::<Result<_, _>>()
            .map_err(Error::io("keep a volume open"))?;
        let inbox = Inbox::new().map_err(Error::io("make the console's inbox"))?;
        let console = Box::new(inbox.writer());
        let devices = devices(volumes, plan.cpus);
        let machine = Machine::on(groundwork.finish()?, &config, devices, console)?;
        Ok(Assembled {
            machine,
            config,
            setup: Setup {
                instance: instance.id.to_string(),
                folder: launched.folder,
                inbox,
                output: plan.output,
                keyboard: plan.keyboard,
                signals,
                timeout: plan.timeout,
                ready: plan.in_background.then_some(background::report),
            },
            overlays,
            remove: plan.remove,
            lock: launched.lock,
            instance,
        })
    }
}

impl Assembled<'_> {
    /// Runs the guest to its end, and writes that down. An instance that KVM could not run at all is
    /// removed like one that could not be built.
    ///
    /// # Errors
    /// KVM cannot go on with the guest, or its reset cannot be followed.
    pub fn run(self) -> Result<Exit, Error> {
        let Self {
            mut instance,
            lock,
            machine,
            config,
            setup,
            overlays,
            remove,
        } = self;
        let console = setup.inbox.watcher();
        let guest = Arc::new(Guest::new(machine.handle(), console.clone()));
        let mut attendant = None;
        let end = run_machines(machine, &config, &guest, || {
            attendant = begin(&instance, setup, &guest);
        });
        guest.set_over();
        if let Some(attendant) = attendant {
            // It panics only together with the process.
            let _ = attendant.join();
        }
        let is_stillborn = end.is_err() && !console.was_used() && overlays.iter().all(is_untouched);
        // A volume that is open counts as in use.
        drop(overlays);
        instance.armed = is_stillborn;
        if !is_stillborn && !remove {
            instance.write_down(&end);
        }
        drop(lock);
        if !is_stillborn && remove {
            instance.remove();
        }
        let exit = exit_of(end?);
        if exit != Exit::Done {
            eprintln!("kami: {}: {}", instance.id, exit.meaning());
        }
        Ok(exit)
    }
}

/// When the first vCPU runs: attends to the guest, and tells everyone that it runs. In the background
/// the catalogue knows it before whoever waits does.
fn begin(instance: &Undo<'_>, setup: Setup, guest: &Arc<Guest>) -> Option<JoinHandle<()>> {
    let in_background = setup.ready.is_some();
    if in_background {
        instance.write_down_running();
    }
    let theirs = Arc::clone(guest);
    let spawned = thread::Builder::new()
        .name("attend".to_owned())
        .spawn(move || attend(setup, theirs));
    if !in_background {
        instance.write_down_running();
    }
    spawned
        .inspect_err(|error| {
            tracing::error!(%error, "cannot start the thread that attends to the guest");
            guest.end(End::Killed);
        })
        .ok()
}

/// Runs `machine`, and after each reset another one with the same devices.
fn run_machines(
    mut machine: Machine,
    config: &MachineConfig,
    guest: &Guest,
    begin: impl FnOnce(),
) -> Result<End, machine::Error> {
    let mut begin = Some(begin);
    loop {
        let ran = machine.run_then(|| begin.take().into_iter().for_each(|begin| begin()));
        match guest.ended_as(ran.end?) {
            End::Reset => machine = Machine::new(config, ran.devices, ran.console)?,
            end => return Ok(end),
        }
        guest.moves_to(machine.handle());
    }
}

fn exit_of(end: End) -> Exit {
    match end {
        // A guest's reset is followed by another machine, so it never ends a guest.
        End::PoweredOff | End::Reset => Exit::Done,
        End::Panicked => Exit::GuestPanicked,
        End::TripleFault => Exit::TripleFault,
        End::TimedOut => Exit::TimedOut,
        End::Killed => Exit::Killed,
    }
}

fn is_untouched(overlay: &OwnedFd) -> bool {
    rustix::fs::fstat(overlay).is_ok_and(|stat| stat.st_blocks == 0)
}

impl Undo<'_> {
    fn write_down_running(&self) {
        self.update(&InstanceUpdate {
            state: InstanceState::Running,
            reason: None,
            exit_status: None,
        });
    }

    fn write_down(&self, end: &Result<End, machine::Error>) {
        let (exit, reason) = match end {
            Ok(End::PoweredOff) => (Exit::Done, "the guest powered off".to_owned()),
            Ok(end) => (exit_of(*end), exit_of(*end).meaning().to_owned()),
            Err(error) => (Exit::KvmError, chain(error)),
        };
        self.update(&InstanceUpdate {
            state: InstanceState::Stopped,
            reason: Some(&reason),
            exit_status: Some(exit.code()),
        });
    }

    fn remove(&self) {
        if let Err(error) = self.store.remove_instance(&self.id) {
            tracing::warn!(id = %self.id, error = chain(&error), "cannot remove the instance");
        }
    }

    /// A catalogue on a full disk must not cost the guest its life, or its exit status.
    fn update(&self, update: &InstanceUpdate<'_>) {
        if let Err(error) = self.store.update_instance(&self.id, update) {
            tracing::warn!(id = %self.id, error = chain(&error), "cannot write down the state");
        }
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.store.undo_launch(&self.id)
        {
            tracing::warn!(id = %self.id, error = chain(&error), "cannot remove the instance");
        }
    }
}

/// The instance's disks in mapping order, then a source of entropy.
fn devices(volumes: Vec<LaunchedVolume>, cpus: u32) -> Vec<Box<dyn VirtioDevice>> {
    let queues = u16::try_from(cpus)
        .unwrap_or(u16::MAX)
        .min(BlockDevice::QUEUES_MAX);
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::with_capacity(volumes.len() + 1);
    for made in volumes {
        let config = BlockConfig {
            serial: made.id.serial(),
            queues,
            read_only: false,
        };
        devices.push(Box::new(BlockDevice::new(made.volume, config)));
    }
    devices.push(Box::new(Rng::new()));
    devices
}
