//! The time that a process's threads were on a CPU: `/proc/PID/task/*/schedstat`, whose first field is nanoseconds, where
//! `stat` has ticks of 10 ms (`Documentation/scheduler/sched-stats.rst`).
//!
//! io_uring's workers (`iou-wrk-…`) are threads of the process, so they count. Left out on purpose: what the
//! kernel does in nobody's name (interrupts, writing back dirty pages), and a thread's time between the last look at it and its end.

use std::collections::HashMap;
use std::fs;

/// Looks at a process again and again.
#[derive(Debug)]
pub struct Meter {
    process: u32,
    threads: HashMap<String, Thread>,
}

#[derive(Debug)]
struct Thread {
    is_vcpu: bool,
    ns: u64,
}

/// Nanoseconds since the process began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// Of the threads that run the guest.
    pub vcpus: u64,
    /// Of all others.
    pub others: u64,
}

impl Cpu {
    pub fn since(self, earlier: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(earlier.vcpus),
            others: self.others.saturating_sub(earlier.others),
        }
    }
}

impl Meter {
    pub fn new(process: u32) -> Self {
        Self {
            process,
            threads: HashMap::new(),
        }
    }

    /// What all threads that were ever seen have used; of one that has ended, what it had at the last look.
    pub fn read(&mut self) -> Cpu {
        // A process that ends meanwhile has no more threads.
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process));
        for task in tasks.into_iter().flatten().flatten() {
            let Ok(line) = fs::read_to_string(task.path().join("schedstat")) else {
                continue;
            };
            let Some(ns) = line.split(' ').next().and_then(|ns| ns.parse().ok()) else {
                continue;
            };
            // A new thread has the name of the one that made it, a disk's worker that of a vCPU, until it takes its own.
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let is_vcpu = is_vcpu(&name);
            let id = task.file_name().to_string_lossy().into_owned();
            self.threads.insert(id, Thread { is_vcpu, ns });
        }
        let mut cpu = Cpu::default();
        for thread in self.threads.values() {
            let sum = if thread.is_vcpu {
                &mut cpu.vcpus
            } else {
                &mut cpu.others
            };
            *sum += thread.ns;
        }
        cpu
    }
}

/// kami: `vcpu0`; alioth: `vcpu_0`; qemu with `debug-threads=on`: `CPU 0/KVM`.
fn is_vcpu(name: &str) -> bool {
    name.starts_with("vcpu") || name.starts_with("CPU ")
}
