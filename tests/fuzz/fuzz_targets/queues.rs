//! The queues of the entropy device and of the power key.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kami_fuzz::run(kami_devices::fuzz::queues, data));
