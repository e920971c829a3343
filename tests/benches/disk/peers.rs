//! Other virtual machine monitors with the same guest and the same load, as a careful user would call them.
//!
//! qemu's microvm has an I/O thread of its own for the disk and io_uring, on a raw file or on a qcow2 overlay over one; both go through
//! the page cache, as kami's disks and fio's file do. alioth does its requests one after the other unless told to use io_uring.

use std::path::Path;
use std::process::Command;

use kami_tests::terminal::Terminal;

use crate::Result;
use crate::guest::Load;
use crate::measured::Measured;

#[derive(Clone, Copy, Debug)]
pub enum Peer {
    Qemu(Format),
    Alioth(Api),
}

/// Of a disk's file.
#[derive(Clone, Copy, Debug)]
pub enum Format {
    Raw,
    Qcow2,
}

/// How alioth reads and writes.
#[derive(Clone, Copy, Debug)]
pub enum Api {
    /// In its thread, one request at a time.
    Sync,
    IoUring,
}

impl Peer {
    /// Runs a load on a file.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub fn load(
        self,
        kernel: &Path,
        file: &Path,
        direct: bool,
        load: &Load<'_>,
    ) -> Result<Vec<Measured>> {
        let mut command = match self {
            Self::Qemu(format) => qemu(format, file, direct),
            Self::Alioth(api) => alioth(api, file),
        };
        match self {
            Self::Qemu(_) => command.arg("-kernel").arg(kernel).arg("-append"),
            Self::Alioth(_) => command.arg("--pvh").arg(kernel).arg("-c"),
        };
        command.arg(load.command_line());
        // alioth wants a terminal for its console's input.
        let terminal = Terminal::input_of(&mut command, matches!(self, Self::Alioth(_)))?;
        load.run(command, terminal)
    }
}

fn qemu(format: Format, file: &Path, direct: bool) -> Command {
    let format = match format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
    };
    let cache = if direct { "none" } else { "writeback" };
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-name", "bench,debug-threads=on", "-accel", "kvm"]);
    command.args([
        "-M",
        "microvm,pcie=on,pit=off,pic=off,rtc=off,auto-kernel-cmdline=off",
    ]);
    command.args(["-cpu", "host,-arch-capabilities", "-m", "512M", "-smp", "2"]);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    command.args(["-serial", "stdio", "-object", "iothread,id=io"]);
    let file = file.display();
    command.args([
        "-drive",
        &format!("if=none,id=disk,format={format},cache={cache},aio=io_uring,file={file}"),
    ]);
    command.args([
        "-device",
        "virtio-blk-pci,drive=disk,iothread=io,num-queues=2",
    ]);
    command
}

fn alioth(api: Api, file: &Path) -> Command {
    let api = match api {
        Api::Sync => "mio",
        Api::IoUring => "io_uring",
    };
    let mut command = Command::new("alioth");
    command.args(["-l", "off", "boot", "-m", "size=512M", "-p", "count=2"]);
    command.args(["--blk", &format!("file,path={},api={api}", file.display())]);
    command
}
