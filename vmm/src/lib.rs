//! The KVM machine, instances, and the `kami` command.

pub mod arch;
pub mod architecture;
pub mod cli;
pub mod config;
pub mod console;
pub mod console_log;
pub mod control;
pub mod doctor;
pub mod exit;
pub mod instance;
pub mod irq;
pub mod launch;
pub mod machine;
pub mod memory;
pub mod signals;
pub mod terminal;
pub mod vcpu;
