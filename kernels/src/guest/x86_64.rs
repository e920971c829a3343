//! What tests need to know of the test guest that is x86_64's own.

/// The values of the report's `protocol`, for each way in which the guest can be booted.
pub const PROTOCOLS: &[&str] = &["pvh", "linux64"];

/// The modes that reset, each in another way.
pub const RESETS: &[&str] = &["reset", "reset-i8042"];

/// Whether the mode `triple-fault` ends in one.
pub const HAS_TRIPLE_FAULT: bool = true;
