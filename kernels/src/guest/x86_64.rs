//! What tests need to know of the test guest that is x86_64's own.

/// The values of the report's `protocol`, for each way in which the guest can be booted.
pub const PROTOCOLS: &[&str] = &["pvh", "linux64"];

/// The modes that reset, each in another way.
pub const RESETS: &[&str] = &["reset", "reset-i8042"];

/// Whether the mode `triple-fault` ends in one.
pub const HAS_TRIPLE_FAULT: bool = true;

#[cfg(test)]
mod tests {
    use crate::{Architecture, Entry, guest};

    #[test]
    fn test_guest_has_both_entries() {
        let kernel = guest::open().unwrap();
        assert_eq!(kernel.architecture, Architecture::X86_64);
        assert!(matches!(kernel.entry, Entry::Pvh(_)), "{:?}", kernel.entry);
        assert!(kernel.linux64_entry.is_some());
        let kernel = kernel.by_linux64_entry();
        assert!(matches!(kernel.entry, Entry::Linux64(_)));
    }
}
