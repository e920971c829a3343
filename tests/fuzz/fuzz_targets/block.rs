//! The block device: its queues, its requests, its volume, on a ring in memory.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kami_fuzz::run(kami_devices::fuzz::block, data));
