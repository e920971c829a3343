//! The launch plan: everything that a launch needs to know, checked, before anything is created.

use std::path::PathBuf;
use std::time::Duration;

use kami_image::id::{ImageId, InstanceId};
use kami_image::instance::{BootFile, InstanceSettings};
use kami_image::manifest::{self, Image, Tag};
use kami_image::mapping::{Disk, Ephemeral};
use kami_image::store::{ClientToken, Instance, KernelFileId, KernelKind, Reservation, Store};
use kami_kernels::{Architecture, Cache, Kernel};

use super::{Attendance, Console, Error, Request};
use crate::architecture::runs_on;
use crate::console::output::Output;
use crate::memory;

/// What will be launched.
#[derive(Debug)]
pub struct Plan {
    pub image: Image,
    pub name: Option<String>,
    /// The root first.
    pub disks: Vec<Disk>,
    pub settings: InstanceSettings,
    pub reservation: Option<Reservation>,
    pub tags: Vec<Tag>,
    pub client_token: Option<ClientToken>,
    pub remove: bool,
    pub boot: Boot,
}

/// What will be started again.
#[derive(Debug)]
pub struct Again {
    pub id: InstanceId,
    pub ephemeral: Option<Ephemeral>,
    pub boot: Boot,
}

/// What the machine of an instance is made of, volumes excepted, and how its guest is attended to.
#[derive(Debug)]
pub struct Boot {
    pub kernel: Kernel,
    pub initrd: Option<PathBuf>,
    pub append: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub output: Output,
    /// Standard input is the guest's keyboard.
    pub keyboard: bool,
    pub timeout: Option<Duration>,
    pub in_background: bool,
}

/// Makes the plan of `request`. Creates nothing, but for the file of `--console`.
///
/// # Errors
/// The request cannot be met, by this store or by this host.
pub fn resolve(store: &Store, request: Request) -> Result<Plan, Error> {
    memory::check_size(request.memory_bytes)?;
    let image = store.launchable_image(&request.image)?;
    check_architecture(image.image_id, image.architecture)?;
    let disks = store.resolve(&image, &request.block_devices, request.ephemeral)?;
    let mut settings = request.settings;
    check_cache(&settings, &disks)?;
    choose_kernel(&image, &mut settings);
    let boot = Boot::of(
        store,
        image.image_id,
        Some(image.architecture),
        &settings,
        (request.cpus, request.memory_bytes),
        &request.attendance,
    )?;
    Ok(Plan {
        image,
        name: request.name,
        disks,
        settings,
        reservation: request.reservation,
        tags: request.tags,
        client_token: request.client_token,
        remove: request.remove,
        boot,
    })
}

/// Makes the plan to start the instance `id` again. Creates nothing, but for the file of `--console`.
///
/// # Errors
/// The instance cannot be started, or no longer on this host.
pub fn again(
    store: &Store,
    id: &InstanceId,
    ephemeral: Option<Ephemeral>,
    attendance: Attendance,
) -> Result<Again, Error> {
    let instance: Instance = store.instance(&id.to_string())?;
    instance.check_can_start()?;
    memory::check_size(instance.memory_bytes)?;
    let boot = Boot::of(
        store,
        instance.image_id,
        instance.settings.architecture,
        &instance.settings,
        (instance.cpus, instance.memory_bytes),
        &attendance,
    )?;
    Ok(Again {
        id: instance.id,
        ephemeral,
        boot,
    })
}

impl Boot {
    /// What `settings` say of an instance of `image`, whose architecture is `word`.
    fn of(
        store: &Store,
        image: ImageId,
        word: Option<manifest::Architecture>,
        settings: &InstanceSettings,
        (cpus, memory_bytes): (u32, u64),
        attendance: &Attendance,
    ) -> Result<Self, Error> {
        let kernel = settings.kernel.as_ref().ok_or(Error::NoKernel { image })?;
        let path = path_of(store, KernelKind::Kernel, kernel)?;
        let opened = Cache::new(store.home().join("cache")).open(&path)?;
        // The kernel must run the image's programs: one for x86_64 runs those of an i386 image too.
        if let Some(word) = word
            && !runs_on(word, opened.architecture)
        {
            return Err(Error::Mismatch {
                image,
                word,
                kernel: kernel.to_string(),
                architecture: opened.architecture,
            });
        }
        let ramdisk = settings.ramdisk.as_ref();
        let initrd = ramdisk.map(|file| path_of(store, KernelKind::Ramdisk, file));
        Ok(Self {
            kernel: opened,
            initrd: initrd.transpose()?,
            append: settings.append.clone(),
            cpus,
            memory_bytes,
            output: open_console(&attendance.console)?,
            keyboard: attendance.console == Console::Stdio,
            timeout: attendance.timeout,
            in_background: attendance.in_background,
        })
    }
}

fn check_architecture(image: ImageId, word: manifest::Architecture) -> Result<(), Error> {
    if runs_on(word, Architecture::HOST) {
        return Ok(());
    }
    Err(Error::ImageArchitecture { image, word })
}

/// The kernel that was given, with the ramdisk that was given, or the image's own.
fn choose_kernel(image: &Image, settings: &mut InstanceSettings) {
    if settings.kernel.is_some() {
        return;
    }
    let kernel = image.kernel_id.map(KernelFileId::Kernel);
    settings.kernel = kernel.map(BootFile::Stored);
    if settings.ramdisk.is_none() {
        let ramdisk = image.ramdisk_id.map(KernelFileId::Ramdisk);
        settings.ramdisk = ramdisk.map(BootFile::Stored);
    }
}

/// Whether every disk that `--cache` names is there.
fn check_cache(settings: &InstanceSettings, disks: &[Disk]) -> Result<(), Error> {
    let named = settings
        .cache
        .iter()
        .filter_map(|it| it.device_name.as_ref());
    let is_there = |name: &String| disks.iter().any(|disk| disk.device_name == *name);
    match named.clone().find(|name| !is_there(name)) {
        Some(device) => Err(Error::NoSuchDisk {
            device: device.clone(),
            disks: disks.iter().map(|disk| disk.device_name.clone()).collect(),
        }),
        None => Ok(()),
    }
}

fn path_of(store: &Store, kind: KernelKind, file: &BootFile) -> Result<PathBuf, Error> {
    match file {
        BootFile::File(path) => Ok(path.clone()),
        BootFile::Stored(id) => Ok(store.kernel(kind, &id.to_string())?.path),
    }
}

fn open_console(console: &Console) -> Result<Output, Error> {
    match console {
        Console::None => Ok(Output::none()),
        // A closed standard output is a listener that went away.
        Console::Stdio => Ok(Output::stdout().unwrap_or_else(|_| Output::none())),
        Console::File(path) => Output::file(path).map_err(|source| Error::ConsoleFile {
            path: path.clone(),
            source,
        }),
    }
}
