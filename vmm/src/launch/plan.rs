//! The launch plan: everything that a launch needs to know, checked, before anything is created.

use std::path::PathBuf;
use std::time::Duration;

use kami_image::manifest::Image;
use kami_image::mapping::{Disk, Ephemeral};
use kami_image::store::{KernelKind, Store};
use kami_kernels::{Architecture, Cache, Kernel};

use super::{Console, Error, Request};
use crate::architecture::runs_on;
use crate::console::output::Output;
use crate::memory;

/// How many ephemeral disks an instance may have: EC2's `ephemeral0` to `ephemeral23`.
const EPHEMERAL_DISKS: u8 = 24;

/// What will be launched.
#[derive(Debug)]
pub struct Plan {
    pub image: Image,
    pub name: Option<String>,
    /// The root first.
    pub disks: Vec<Disk>,
    pub kernel: Kernel,
    pub initrd: Option<PathBuf>,
    pub append: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub output: Output,
    /// Standard input is the guest's keyboard.
    pub keyboard: bool,
    pub timeout: Option<Duration>,
    pub remove: bool,
    pub in_background: bool,
}

/// Makes the plan of `request`. Creates nothing, but for the file of `--console`.
///
/// # Errors
/// The request cannot be met, by this store or by this host.
pub fn resolve(store: &Store, request: Request) -> Result<Plan, Error> {
    memory::check_size(request.memory_bytes)?;
    let image = store.launchable_image(&request.image)?;
    check_image(&image)?;
    let overrides = &request.block_devices;
    let ephemeral = Ephemeral {
        count: EPHEMERAL_DISKS,
        size_bytes: request.ephemeral_bytes,
    };
    let disks = store.resolve(&image, overrides, ephemeral)?;
    let (kernel, initrd) = choose_kernel(store, &image, &request)?;
    Ok(Plan {
        image,
        disks,
        kernel,
        initrd,
        output: open_console(&request.console)?,
        keyboard: request.console == Console::Stdio,
        name: request.name,
        append: request.append,
        cpus: request.cpus,
        memory_bytes: request.memory_bytes,
        timeout: request.timeout,
        remove: request.remove,
        in_background: request.in_background,
    })
}

fn check_image(image: &Image) -> Result<(), Error> {
    if runs_on(image.architecture, Architecture::HOST) {
        return Ok(());
    }
    Err(Error::ImageArchitecture {
        image: image.image_id,
        word: image.architecture,
    })
}

/// The kernel must run the image's programs: one for x86_64 runs those of an i386 image too.
fn check_kernel(name: String, kernel: &Kernel, image: &Image) -> Result<(), Error> {
    let architecture = kernel.architecture;
    if runs_on(image.architecture, architecture) {
        return Ok(());
    }
    Err(Error::Mismatch {
        image: image.image_id,
        word: image.architecture,
        kernel: name,
        architecture,
    })
}

/// The kernel that was given, with the ramdisk that was given, or the image's own.
fn choose_kernel(
    store: &Store,
    image: &Image,
    request: &Request,
) -> Result<(Kernel, Option<PathBuf>), Error> {
    let cache = Cache::new(store.home().join("cache"));
    if let Some(path) = &request.kernel {
        let kernel = cache.open(path)?;
        check_kernel(path.display().to_string(), &kernel, image)?;
        return Ok((kernel, request.initrd.clone()));
    }
    let id = image.kernel_id.ok_or(Error::NoKernel {
        image: image.image_id,
    })?;
    let kernel = cache.open(&store.kernel(KernelKind::Kernel, &id.to_string())?.path)?;
    check_kernel(id.to_string(), &kernel, image)?;
    let initrd = match (&request.initrd, image.ramdisk_id) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(id)) => Some(store.kernel(KernelKind::Ramdisk, &id.to_string())?.path),
        (None, None) => None,
    };
    Ok((kernel, initrd))
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
