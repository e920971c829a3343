//! The MSI-X table beside a model of it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kami_fuzz::run(kami_devices::fuzz::msix, data));
