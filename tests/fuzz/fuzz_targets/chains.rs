//! Descriptor chains, as the block device parses them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kami_fuzz::run(kami_devices::fuzz::chains, data));
