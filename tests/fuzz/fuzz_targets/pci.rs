//! PCI configuration space, BARs, and the registers behind them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kami_fuzz::run(kami_devices::fuzz::pci, data));
