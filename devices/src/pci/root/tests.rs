use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::bus::{Bus, BusBuilder};

const LOW: u64 = 0xc000_0000;
const HIGH: u64 = 0x40_0000_0000;
const ECAM: u64 = 0xe000_0000;

struct Function {
    config: ConfigSpace,
    writes: Mutex<Vec<(u8, u64, Vec<u8>)>>,
}

impl PciFunction for Function {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(0);
        data[0] = bar << 4 | u8::try_from(offset & 0xf).unwrap();
    }
    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) {
        let mut writes = self.writes.lock().unwrap();
        writes.push((bar, offset, data.to_vec()));
    }
}

fn function(device_id: u16) -> Arc<Function> {
    let mut builder = config::Builder::new(&Identity {
        vendor_id: 0x1234,
        device_id,
        ..HOST_BRIDGE
    });
    builder.bar(0, BarWidth::Bits64, 0x1000).unwrap();
    builder.bar(2, BarWidth::Bits32, 0x100).unwrap();
    Arc::new(Function {
        config: builder.build(),
        writes: Mutex::default(),
    })
}

fn windows() -> Windows {
    Windows {
        low: LOW..LOW + 0x1_0000,
        high: HIGH..HIGH + 0x1_0000,
    }
}

/// Two functions behind one bus of memory, with the configuration ports beside it.
fn machine() -> (Bus, ConfigPorts, [Arc<Function>; 2]) {
    let mut root = PciRoot::new(windows());
    let functions = [function(1), function(2)];
    for (function, slot) in functions.iter().zip(1..) {
        assert_eq!(root.add(function.clone()), Ok(slot));
    }
    let root = Arc::new(root);
    let mut bus = BusBuilder::default();
    let window = |start| Arc::new(MemoryWindow::new(root.clone(), start));
    bus.insert("ecam", ECAM, ECAM_BYTES, Arc::new(Ecam::new(root.clone())))
        .unwrap();
    bus.insert("low", LOW, 0x1_0000, window(LOW)).unwrap();
    bus.insert("high", HIGH, 0x1_0000, window(HIGH)).unwrap();
    (bus.freeze(), ConfigPorts::new(root), functions)
}

fn read<const N: usize>(bus: &Bus, address: u64) -> [u8; N] {
    let mut data = [0x77; N];
    bus.read(address, &mut data);
    data
}

fn port<const N: usize>(ports: &ConfigPorts, offset: u64) -> [u8; N] {
    let mut data = [0x77; N];
    ports.read(offset, &mut data);
    data
}

fn select(ports: &ConfigPorts, slot: u32, register: u32) {
    ports.write(0, &(1 << 31 | slot << 11 | register).to_le_bytes());
}

#[test]
fn ecam_reads_present_functions_and_all_ones_elsewhere() {
    let (bus, ..) = machine();
    assert_eq!(read(&bus, ECAM), 0x0008_1b36_u32.to_le_bytes());
    assert_eq!(read(&bus, ECAM + (2 << 15)), 0x0002_1234_u32.to_le_bytes());
    assert_eq!(read(&bus, ECAM + (2 << 15) + 2), 2_u16.to_le_bytes());
    assert_eq!(
        read(&bus, ECAM + (1 << 15) + 0x100),
        [0; 4],
        "no extended capability"
    );
    for absent in [3 << 15, 31 << 15, 1 << 12 | 1 << 15, ECAM_BYTES - 8] {
        assert_eq!(read(&bus, ECAM + absent), [0xff; 8]);
    }
}

#[test]
fn mechanism_1_is_found_and_reaches_bytes_and_words() {
    let (_, ports, _) = machine();
    // Linux's pci_check_type1(): a byte write to 0xcfb must not touch the address register.
    ports.write(0, &0x8000_0000_u32.to_le_bytes());
    ports.write(3, &[1]);
    assert_eq!(port(&ports, 0), 0x8000_0000_u32.to_le_bytes());
    assert_eq!(port(&ports, 4), 0x0008_1b36_u32.to_le_bytes());
    assert_eq!(port(&ports, 6), [0x08, 0]);
    assert_eq!(port(&ports, 5), [0x1b]);
    select(&ports, 0, 0x08);
    assert_eq!(port(&ports, 6), [0, 6], "a host bridge");
    // The interrupt line byte of slot 1, and only it.
    select(&ports, 1, 0x3c);
    ports.write(4, &[0xab]);
    ports.write(5, &[0xcd]);
    assert_eq!(port(&ports, 4), [0xab, 0, 0, 0]);
    for address in [0x0000_0800_u32, 0x8001_0800, 0x8000_0900, 0x8000_f800] {
        ports.write(0, &address.to_le_bytes());
        assert_eq!(port(&ports, 4), [0xff; 4], "{address:#x}");
        ports.write(4, &[0; 4]);
    }
}

#[test]
fn functions_get_aligned_bars_in_the_window_of_their_width() {
    let (_, _, functions) = machine();
    for f in &functions {
        f.config.write(1, 0b10, 0xff);
    }
    let addresses = |bar| {
        functions
            .each_ref()
            .map(|f| f.config.bar_address(bar).unwrap())
    };
    assert_eq!(addresses(0), [HIGH, HIGH + 0x1000]);
    assert_eq!(addresses(2), [LOW, LOW + 0x100]);
}

#[test]
fn access_follows_a_bar_that_the_guest_moves() {
    let (bus, _, functions) = machine();
    let ecam = ECAM + (2 << 15);
    assert_eq!(read(&bus, HIGH + 0x1004), [0xff; 2], "not yet decoded");
    bus.write(ecam + 4, &[0b10, 0]);
    assert_eq!(read(&bus, HIGH + 0x1004), [0x04, 0]);
    bus.write(ecam + 0x10, &(HIGH + 0x8000).to_le_bytes());
    assert_eq!(read(&bus, HIGH + 0x1004), [0xff; 2]);
    assert_eq!(read(&bus, HIGH + 0x8004), [0x04, 0]);
    bus.write(HIGH + 0x8ffe, &[1, 2]);
    bus.write(HIGH + 0x8fff, &[3, 4]);
    bus.write(LOW + 0x110, &[5]);
    let writes = functions[1].writes.lock().unwrap();
    assert_eq!(*writes, [(0, 0xffe, vec![1, 2]), (2, 0x10, vec![5])]);
}

#[test]
fn full_bus_and_full_windows_are_refused() {
    let mut root = PciRoot::new(Windows {
        low: LOW..LOW + 0x100,
        high: 0..0,
    });
    let error = root.add(function(1));
    assert_eq!(error, Err(Error::NoRoom { size: 0x1000 }), "no high window");
    let mut root = PciRoot::new(Windows {
        low: 1..0x10_0000,
        high: 0..0,
    });
    for slot in 1..SLOTS {
        assert_eq!(root.add(function(1)), Ok(slot));
    }
    assert_eq!(root.add(function(1)), Err(Error::NoSlot));
}

proptest! {
    /// Whatever a guest does to configuration space and BARs, identities stand and every access ends.
    #[test]
    fn hostile_accesses_neither_panic_nor_forge_identities(
        accesses in prop::collection::vec(
            (0..4_u8, any::<u64>(), prop::collection::vec(any::<u8>(), 1..=8), any::<bool>()),
            1..200,
        ),
    ) {
        let (bus, ports, _) = machine();
        for (target, at, mut data, write) in accesses {
            let near = at % 4 * (1 << 15) + (at >> 8) % 0x48;
            let address = match target {
                0 => ECAM + near,
                1 => LOW + at % 0x1_0000,
                2 => HIGH + at % 0x1_0000,
                _ => at % 8,
            };
            let len = data.len().min(usize::try_from(8 - address % 8).unwrap());
            match (target, write) {
                (3, true) => ports.write(address, &data[..len]),
                (3, false) => ports.read(address, &mut data[..len]),
                (_, true) => { bus.write(address, &data); }
                (_, false) => { bus.read(address, &mut data); }
            }
        }
        for (slot, id) in [0x0008_1b36_u32, 0x0001_1234, 0x0002_1234, u32::MAX].into_iter().enumerate() {
            let address = ECAM + (u64::try_from(slot).unwrap() << 15);
            prop_assert_eq!(read(&bus, address), id.to_le_bytes());
        }
    }
}
