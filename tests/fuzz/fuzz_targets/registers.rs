//! Every register of a virtio function.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kami_fuzz::run(kami_devices::fuzz::registers, data));
