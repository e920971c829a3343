//! The steps of a launch after its plan: materialise, assemble, run.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use kami_devices::virtio::block::outside::DiskHandle;
use kami_devices::virtio::block::{BlockConfig, BlockDevice, Limits};
use kami_devices::virtio::device::VirtioDevice;
use kami_devices::virtio::rng::Rng;
use kami_image::id::{InstanceId, VolumeId};
use kami_image::instance::{CacheMode, InstanceSettings};
use kami_image::mapping::{Disk, DiskKind};
use kami_image::store::{
    self, GuestEnd, InstanceLock, Launched, LaunchedVolume, NewInstance, Store,
};

use super::plan::{Again, Boot, Plan};
use super::{Ahead, Error, background, command_line};
use crate::cli::chain;
use crate::console::Inbox;
use crate::exit::Exit;
use crate::instance::attend::{Setup, attend};
use crate::instance::guest::Guest;
use crate::machine::{self, End, Machine, MachineConfig};
use crate::signals::Signals;

/// An instance that exists, with the plan for the rest. Dropped before it has run, it is removed, or stopped
/// again.
#[derive(Debug)]
pub struct Materialised<'a> {
    boot: Boot,
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
    disks: Vec<(VolumeId, DiskHandle)>,
    remove: bool,
    lock: InstanceLock,
    // Dropped last, as above.
    instance: Undo<'a>,
}

/// Takes an instance out of the store again, or one that was started back to being stopped, unless it comes to
/// run.
#[derive(Debug)]
struct Undo<'a> {
    store: &'a Store,
    id: InstanceId,
    /// It was launched now, not started again.
    is_new: bool,
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
            cpus: self.boot.cpus,
            memory_bytes: self.boot.memory_bytes,
            remove_at_end: self.remove,
            settings: self.settings,
            reservation: self.reservation,
            tags: &self.tags,
            client_token: self.client_token.as_ref(),
        })?;
        Ok(Materialised::new(store, launched, self.boot, true))
    }
}

impl Again {
    /// Takes the instance and opens its volumes.
    ///
    /// # Errors
    /// The store cannot, or somebody else has started it; it is as it was.
    pub fn materialise(self, store: &Store) -> Result<Materialised<'_>, Error> {
        let launched = store.start_instance(&self.id, self.ephemeral)?;
        Ok(Materialised::new(store, launched, self.boot, false))
    }
}

impl<'a> Materialised<'a> {
    fn new(store: &'a Store, launched: Launched, boot: Boot, is_new: bool) -> Self {
        let instance = Undo {
            store,
            id: launched.instance.id,
            is_new,
            armed: true,
        };
        Self {
            boot,
            launched,
            instance,
        }
    }

    /// Builds the machine around the instance's volumes.
    ///
    /// # Errors
    /// The host or its KVM cannot; the instance is removed.
    pub fn assemble(self, signals: Signals, groundwork: Ahead) -> Result<Assembled<'a>, Error> {
        let Self {
            instance,
            launched,
            boot,
        } = self;
        let mut volumes = launched.volumes;
        let config = MachineConfig {
            cpus: boot.cpus,
            memory_bytes: boot.memory_bytes,
            kernel: boot.kernel,
            initrd: boot.initrd,
            cmdline: command_line::of(&mut volumes, &boot.append)?,
        };
        let inbox = Inbox::new().map_err(Error::io("make the console's inbox"))?;
        let console = Box::new(inbox.writer());
        // After the look at the root disk, which is for odd addresses.
        bypass_cache(&mut volumes, &launched.instance.settings)?;
        let (devices, disks) = devices(volumes, boot.cpus);
        let machine = Machine::on(groundwork.finish()?, &config, devices, console)?;
        Ok(Assembled {
            machine,
            config,
            setup: Setup {
                instance: instance.id.to_string(),
                folder: launched.folder,
                inbox,
                output: boot.output,
                keyboard: boot.keyboard,
                signals,
                timeout: boot.timeout,
                ready: boot.in_background.then_some(background::report),
            },
            disks,
            remove: launched.instance.remove_at_end,
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
            disks,
            remove,
        } = self;
        let console = setup.inbox.watcher();
        let volumes: Vec<_> = disks.iter().map(|(id, _)| *id).collect();
        let guest = Guest::new(machine.handle(), console.clone()).with_disks(disks);
        let guest = Arc::new(guest);
        let mut attendant = None;
        let end = run_machines(machine, &config, &guest, || {
            attendant = begin(&instance, setup, &guest);
        });
        guest.set_over();
        if let Some(attendant) = attendant {
            // It panics only together with the process.
            let _ = attendant.join();
        }
        let is_untouched = |volume: &VolumeId| instance.store.is_untouched(volume);
        let is_stillborn = end.is_err() && !console.was_used() && volumes.iter().all(is_untouched);
        instance.armed = is_stillborn && instance.is_new;
        let undone = instance.armed;
        if !undone && !remove {
            instance.write_down(&end);
        }
        drop(lock);
        if !undone && remove {
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

impl Undo<'_> {
    /// A catalogue on a full disk must not cost the guest its life, or its exit status.
    fn write_down_running(&self) {
        let written = self.store.set_running(&self.id);
        self.warn("write down the state", written);
    }

    fn write_down(&self, end: &Result<End, machine::Error>) {
        let (exit, reason) = match end {
            Ok(End::PoweredOff) => (Exit::Done, "the guest powered off".to_owned()),
            Ok(end) => (exit_of(*end), exit_of(*end).meaning().to_owned()),
            Err(error) => (Exit::KvmError, chain(error)),
        };
        let end = GuestEnd {
            powered_off: matches!(end, Ok(End::PoweredOff)),
            reason: &reason,
            exit_status: exit.code(),
        };
        let written = self.store.end_instance(&self.id, &end);
        self.warn("write down the end", written.map(|_| ()));
    }

    fn remove(&self) {
        self.warn("remove the instance", self.store.remove_instance(&self.id));
    }

    fn warn(&self, what: &str, result: Result<(), store::Error>) {
        if let Err(error) = result {
            tracing::warn!(id = %self.id, error = chain(&error), "cannot {what}");
        }
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if self.is_new {
            self.warn("remove the instance", self.store.undo_launch(&self.id));
        } else {
            self.warn("stop the instance", self.store.undo_start(&self.id));
        }
    }
}

/// The devices of an instance, and how to reach its disks.
type Devices = (Vec<Box<dyn VirtioDevice>>, Vec<(VolumeId, DiskHandle)>);

/// The instance's disks in mapping order, then a source of entropy.
fn devices(volumes: Vec<LaunchedVolume>, cpus: u32) -> Devices {
    let queues = u16::try_from(cpus)
        .unwrap_or(u16::MAX)
        .min(BlockDevice::QUEUES_MAX);
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::with_capacity(volumes.len() + 1);
    let mut disks = Vec::with_capacity(volumes.len());
    for made in volumes {
        let config = BlockConfig {
            serial: made.id.serial(),
            queues,
            read_only: false,
            limits: limits(&made.disk),
        };
        let disk = BlockDevice::new(made.volume, config);
        disks.push((made.id, disk.handle()));
        devices.push(Box::new(disk));
    }
    devices.push(Box::new(Rng::new()));
    (devices, disks)
}

/// Has the disks that are to be uncached do without the host's page cache.
fn bypass_cache(volumes: &mut [LaunchedVolume], settings: &InstanceSettings) -> Result<(), Error> {
    for made in volumes {
        let device = &made.disk.device_name;
        if settings.cache_mode(device) == CacheMode::None {
            let bypassed = made.volume.bypass_cache();
            bypassed.map_err(|source| Error::Cache {
                device: device.clone(),
                source,
            })?;
        }
    }
    Ok(())
}

/// How fast a disk may be: as fast as the host, unless its mapping or its row says otherwise.
fn limits(disk: &Disk) -> Option<Limits> {
    let DiskKind::Volume {
        iops, throughput, ..
    } = disk.kind
    else {
        return None;
    };
    let limits = Limits {
        iops: iops.and_then(NonZeroU32::new),
        throughput: throughput.and_then(NonZeroU32::new),
    };
    (limits != Limits::default()).then_some(limits)
}
