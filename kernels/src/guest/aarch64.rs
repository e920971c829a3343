//! What tests need to know of the test guest that is aarch64's own.

/// The values of the report's `protocol`, for each way in which the guest can be booted.
pub const PROTOCOLS: &[&str] = &["arm64"];

/// The modes that reset, each in another way.
pub const RESETS: &[&str] = &["reset", "reset-warm"];

/// Whether the mode `triple-fault` ends in one.
pub const HAS_TRIPLE_FAULT: bool = false;

#[cfg(test)]
mod tests {
    use crate::{Architecture, Entry, guest};

    #[test]
    fn test_guest_is_an_image_for_the_start_of_ram_that_counts_its_bss() {
        let kernel = guest::open().unwrap();
        assert_eq!(kernel.architecture, Architecture::Aarch64);
        assert_eq!(kernel.entry, Entry::Arm64(0));
        let [image] = kernel.segments[..] else {
            panic!("{:?}", kernel.segments);
        };
        assert_eq!(image.file_bytes, guest::TEST_GUEST.len() as u64);
        assert!(image.memory_bytes > image.file_bytes + (512 << 10));
    }
}
