//! One traced run: the system calls of all threads, and the peak of resident memory beyond the guest's.
//!
//! Peak memory is `VmHWM` when the process exits, from `/proc` while `ptrace(2)` holds it: `wait4`'s figure would
//! begin with this program's own. The guest's memory is what `KVM_SET_USER_MEMORY_REGION` (`Documentation/virt/
//! kvm/api.rst`) names; its resident pages (`Documentation/admin-guide/mm/pagemap.rst`) are counted whenever a vCPU is
//! about to run, memory is unmapped, or the process exits, and the highest count is taken off the peak. Left out
//! on purpose: memory of further processes; no subject has any.

#![expect(unsafe_code, reason = "ptrace has no safe face")]

use std::collections::HashSet;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read};
use std::mem::{MaybeUninit, size_of};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::{ptr, thread};

use libc::{c_int, c_long, c_void, pid_t};

use crate::subject::Subject;

const PAGE_BYTES: u64 = 4096;
/// `_IOW(KVMIO, 0x46, struct kvm_userspace_memory_region)`.
const KVM_SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
/// `_IO(KVMIO, 0x80)`.
const KVM_RUN: u64 = 0xae80;

/// What a run cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub syscalls: u64,
    pub rss_kib: u64,
}

/// Runs a subject once.
///
/// # Errors
/// It could not be started or traced.
pub fn run(subject: &Subject) -> Result<Cost, Box<dyn Error>> {
    let (mut command, _terminal) = subject.command()?;
    ask_to_be_traced(&mut command);
    let mut child = command.spawn()?;
    let mut output = child.stdout.take().ok_or("the output is no pipe")?;
    let reader = thread::spawn(move || output.read_to_end(&mut Vec::new()));
    let mut trace = Trace::new(pid_t::try_from(child.id())?);
    trace.follow()?;
    reader.join().map_err(|_| "the reader failed")??;
    subject.clean()?;
    Ok(trace.cost())
}

fn ask_to_be_traced(command: &mut Command) {
    let trace_me = || request(libc::PTRACE_TRACEME, 0, 0).map(drop);
    // SAFETY: between fork and exec the closure makes one system call and touches no memory of the parent's.
    unsafe { command.pre_exec(trace_me) };
}

/// `ptrace` of the requests that take an integer, or nothing.
fn request(request: libc::c_uint, process: pid_t, data: usize) -> io::Result<c_long> {
    let no_address = ptr::null_mut::<c_void>();
    // SAFETY: the requests that come here read no memory of this process and write none.
    match unsafe { libc::ptrace(request, process, no_address, data) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// What is known of the traced process.
struct Trace {
    process: pid_t,
    syscalls: u64,
    peak_kib: u64,
    /// First addresses of pages that were given to a guest.
    guest_ranges: HashSet<(u64, u64)>,
    guest_kib: u64,
}

impl Trace {
    fn new(process: pid_t) -> Self {
        Self {
            process,
            syscalls: 0,
            peak_kib: 0,
            guest_ranges: HashSet::new(),
            guest_kib: 0,
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            syscalls: self.syscalls,
            rss_kib: self.peak_kib.saturating_sub(self.guest_kib),
        }
    }

    /// Follows all of the process's threads until the process has ended.
    fn follow(&mut self) -> io::Result<()> {
        wait(self.process)?;
        let options = libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEEXIT
            | libc::PTRACE_O_EXITKILL;
        let options = usize::try_from(options).map_err(io::Error::other)?;
        request(libc::PTRACE_SETOPTIONS, self.process, options)?;
        resume(self.process, 0)?;
        loop {
            let (task, status) = wait(-1)?;
            if libc::WIFSTOPPED(status) {
                let signal = self.stopped(task, status)?;
                resume(task, signal)?;
            } else if task == self.process {
                return Ok(());
            }
        }
    }

    /// Looks at a task that stopped; returns the signal to give it, or 0.
    fn stopped(&mut self, task: pid_t, status: c_int) -> io::Result<c_int> {
        let signal = libc::WSTOPSIG(status);
        if signal == libc::SIGTRAP | 0x80 {
            if let Some((number, arguments)) = entered_syscall(task)? {
                self.syscalls += 1;
                self.watch_memory(number, arguments)?;
            }
            return Ok(0);
        }
        let event = status >> 16;
        if event == libc::PTRACE_EVENT_EXIT && task == self.process {
            self.count_guest_memory()?;
            self.peak_kib = peak_kib(self.process)?;
        }
        // A new thread begins with a stop of its own.
        let ours = event != 0 || signal == libc::SIGSTOP || signal == libc::SIGTRAP;
        Ok(if ours { 0 } else { signal })
    }

    fn watch_memory(&mut self, number: i64, arguments: [u64; 6]) -> io::Result<()> {
        match (number, arguments[1]) {
            (libc::SYS_ioctl, KVM_SET_USER_MEMORY_REGION) => {
                // slot, flags: u32; guest_phys_addr, memory_size, userspace_addr: u64
                let memory = File::open(format!("/proc/{}/mem", self.process))?;
                let mut words = [[0; 8]; 4];
                memory.read_exact_at(words.as_flattened_mut(), arguments[2])?;
                let [_, _, size, address] = words.map(u64::from_le_bytes);
                self.guest_ranges.insert((address, address + size));
            }
            (libc::SYS_ioctl, KVM_RUN) | (libc::SYS_munmap | libc::SYS_exit_group, _) => {
                self.count_guest_memory()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn count_guest_memory(&mut self) -> io::Result<()> {
        let pagemap = File::open(format!("/proc/{}/pagemap", self.process))?;
        // Slots of a machine may share pages of the process.
        let mut present = HashSet::new();
        for &(start, end) in &self.guest_ranges {
            let first = start / PAGE_BYTES;
            let pages = usize::try_from((end - start) / PAGE_BYTES).map_err(io::Error::other)?;
            let mut entries = vec![0; pages * 8];
            let read = pagemap.read_at(&mut entries, first * 8)?;
            let entries = entries[..read].chunks_exact(8);
            // Bit 63 of an entry: the page is present.
            present.extend((first..).zip(entries).filter_map(|(page, entry)| {
                let is_present = entry.last().is_some_and(|byte| byte & 0x80 != 0);
                is_present.then_some(page)
            }));
        }
        let kib = u64::try_from(present.len()).map_err(io::Error::other)? * PAGE_BYTES / 1024;
        self.guest_kib = self.guest_kib.max(kib);
        Ok(())
    }
}

fn wait(task: pid_t) -> io::Result<(pid_t, c_int)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match unsafe { libc::waitpid(task, &raw mut status, libc::__WALL) } {
        -1 => Err(io::Error::last_os_error()),
        task => Ok((task, status)),
    }
}

/// Lets a task run to its next system call's begin or end. One that was killed meanwhile is no error.
fn resume(task: pid_t, signal: c_int) -> io::Result<()> {
    let signal = usize::try_from(signal).map_err(io::Error::other)?;
    match request(libc::PTRACE_SYSCALL, task, signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result.map(drop),
    }
}

/// The system call that a task stopped at the begin of, its number and arguments; nothing at its end.
fn entered_syscall(task: pid_t) -> io::Result<Option<(i64, [u64; 6])>> {
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the kernel writes at most `size` bytes to `info`, which outlives the call.
    let result =
        unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, task, size, info.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeroes and whatever the kernel wrote over them are a value of this type of integers.
    let info = unsafe { info.assume_init() };
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: `op` says that the kernel filled this member.
    let entry = unsafe { info.u.entry };
    let number = i64::try_from(entry.nr).map_err(io::Error::other)?;
    Ok(Some((number, entry.args)))
}

fn peak_kib(process: pid_t) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel tells no VmHWM"))
}
