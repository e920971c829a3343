//! What tests need to know of the test guest that is aarch64's own.

/// The values of the report's `protocol`, for each way in which the guest can be booted.
pub const PROTOCOLS: &[&str] = &["arm64"];

/// The modes that reset, each in another way.
pub const RESETS: &[&str] = &["reset", "reset-warm"];

/// Whether the mode `triple-fault` ends in one.
pub const HAS_TRIPLE_FAULT: bool = false;
