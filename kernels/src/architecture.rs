//! The machines that kernels are for, and how they go together.

use std::fmt;

/// The machines whose kernels are known here. Displayed in Amazon EC2's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    X86_64,
    I386,
    Aarch64,
}

impl Architecture {
    /// The machine that this program was built for.
    pub const HOST: Self = match std::env::consts::ARCH.as_bytes() {
        b"aarch64" => Self::Aarch64,
        _ => Self::X86_64,
    };

    /// Whether `host` runs kernels for this machine.
    #[must_use]
    pub fn runs_on(self, host: Self) -> bool {
        self == host || (self, host) == (Self::I386, Self::X86_64)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::I386 => "i386",
            Self::Aarch64 => "arm64",
        })
    }
}

/// The machine that a file says it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Machine {
    /// One whose kernels are known here.
    Known(Architecture),
    /// Another one, by its name.
    Other(String),
}

impl Machine {
    /// Whether `host` runs kernels for this machine.
    #[must_use]
    pub fn runs_on(&self, host: Architecture) -> bool {
        matches!(self, Self::Known(architecture) if architecture.runs_on(host))
    }
}

impl From<Architecture> for Machine {
    fn from(architecture: Architecture) -> Self {
        Self::Known(architecture)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(architecture) => architecture.fmt(f),
            Self::Other(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Architecture::{Aarch64, I386, X86_64};
    use super::Machine;

    #[test]
    fn hosts_run_their_own_kernels_and_x86_64_those_of_32_bits_too() {
        for (kernel, host) in [(X86_64, X86_64), (I386, X86_64), (Aarch64, Aarch64)] {
            assert!(kernel.runs_on(host) && Machine::from(kernel).runs_on(host));
        }
        for (kernel, host) in [(X86_64, Aarch64), (I386, Aarch64), (Aarch64, X86_64)] {
            assert!(!kernel.runs_on(host) && !Machine::from(kernel).runs_on(host));
        }
        assert!(!X86_64.runs_on(I386));
        assert!(!Machine::Other("riscv".to_owned()).runs_on(X86_64));
    }
}
