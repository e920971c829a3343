//! The registers of a virtio function: every one of them, in any order and width (virtio 1.3 §4.1.4).

use std::sync::atomic::Ordering;

use virtio_queue::QueueT;

use super::Input;
use super::machine::{FEATURES, HIGH, Machine, QUEUE_SIZES};
use crate::virtio::pci::field::*;

const FEATURES_OK: u8 = 8;
const DRIVER_OK: u8 = 4;
const NEEDS_RESET: u8 = 64;
const FAILED: u8 = 128;

/// Drives the registers behind the BAR.
pub fn registers(data: &[u8]) {
    let mut input = Input::new(data);
    let machine = Machine::new();
    machine.place_bar();
    let begin = input.byte();
    machine.seen.lock().unwrap().fails = begin & 1 != 0;
    machine
        .doorbells
        .refuses
        .store(begin & 2 != 0, Ordering::Relaxed);
    if begin & 4 != 0 {
        machine.start(begin);
    }
    let mut before = State::read(&machine);
    while !input.is_empty() {
        let wrote_zero = step(&machine, &mut input);
        let after = State::read(&machine);
        after.check(&before, wrote_zero, &machine);
        before = after;
    }
    if begin & 2 == 0 {
        machine.check();
    }
    machine.end();
}

/// Returns whether the guest asked for a reset.
fn step(machine: &Machine, input: &mut Input<'_>) -> bool {
    let [what, at] = input.array();
    let at = u64::from(at);
    let len = 1 + usize::from(what >> 5);
    let mut buffer = [0; 8];
    match what % 16 {
        // Of the field's own width, which is what drivers do.
        0..=3 => {
            let (offset, width) = FIELDS[usize::try_from(at).unwrap() % FIELDS.len()];
            let bytes = input.bytes(width);
            machine.write(HIGH + offset, bytes);
            return (offset, bytes) == (DEVICE_STATUS, &[0]);
        }
        4 => {
            let bytes = input.bytes(len);
            machine.write(HIGH + at % 0x48, bytes);
            return (at % 0x48, bytes) == (DEVICE_STATUS, &[0]);
        }
        5 => _ = machine.bus.read(HIGH + at % 0x48, &mut buffer[..len]),
        // Interrupt status, device configuration, pending bits, doorbells, the table.
        6 => machine.write(HIGH + 0x1000 + at % 8, input.bytes(len)),
        7 => _ = machine.bus.read(HIGH + 0x1000 + at % 8, &mut buffer[..len]),
        8 => machine.write(HIGH + 0x2000 + at, input.bytes(len)),
        9 => _ = machine.bus.read(HIGH + 0x2ffc + at % 8, &mut buffer[..len]),
        10 => machine.write(HIGH + 0x4000 + at % 16, input.bytes(len)),
        11 => machine.write(HIGH + 0x8000 + at % 64, input.bytes(len)),
        12 => machine.interrupt(usize::from(what >> 5) % 2),
        13 => machine.give_up(),
        14 => {
            let [low, high] = input.array();
            let at = u64::from(u16::from_le_bytes([low, high]));
            machine.bus.read(HIGH + at, &mut buffer[..len]);
            let bytes = input.bytes(len);
            // What of it is the status need not be told apart here: it is beyond the common registers.
            machine.write(HIGH + at.max(0x40), bytes);
        }
        _ => {
            let at = [at % 8 * 4, 0x3c][usize::from(at > 200)];
            let _ = machine.bus.read(
                super::machine::ECAM + super::machine::FUNCTION + at,
                &mut buffer[..len],
            );
        }
    }
    false
}

/// All common registers and their widths; 64-bit ones also in halves.
const FIELDS: [(u64, usize); 25] = [
    (DEVICE_FEATURE_SELECT, 4),
    (DEVICE_FEATURE, 4),
    (DRIVER_FEATURE_SELECT, 4),
    (DRIVER_FEATURE, 4),
    (CONFIG_MSIX_VECTOR, 2),
    (NUM_QUEUES, 2),
    (DEVICE_STATUS, 1),
    (DEVICE_STATUS, 1),
    (DEVICE_STATUS, 1),
    (CONFIG_GENERATION, 1),
    (QUEUE_SELECT, 2),
    (QUEUE_SIZE, 2),
    (QUEUE_MSIX_VECTOR, 2),
    (QUEUE_ENABLE, 2),
    (QUEUE_ENABLE, 2),
    (QUEUE_NOTIFY_OFF, 2),
    (QUEUE_DESC, 8),
    (QUEUE_DESC, 4),
    (QUEUE_DESC + 4, 4),
    (QUEUE_DRIVER, 8),
    (QUEUE_DRIVER, 4),
    (QUEUE_DRIVER + 4, 4),
    (QUEUE_DEVICE, 8),
    (QUEUE_DEVICE, 4),
    (QUEUE_DEVICE + 4, 4),
];

/// What a driver finds in the registers, and what the device was given.
#[derive(Debug)]
struct State {
    status: u8,
    generation: u8,
    is_active: bool,
    select: u16,
    queue: [u8; 0x20],
}

impl State {
    /// Reads without an effect.
    fn read(machine: &Machine) -> Self {
        let mut queue = [0; 0x20];
        for at in [QUEUE_SIZE, QUEUE_ENABLE] {
            let slot = usize::try_from(at - QUEUE_SIZE).unwrap();
            queue[slot..slot + 2].copy_from_slice(&machine.read::<2>(HIGH + at));
        }
        for at in [QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE] {
            let slot = usize::try_from(at - QUEUE_SIZE).unwrap();
            queue[slot..slot + 8].copy_from_slice(&machine.read::<8>(HIGH + at));
        }
        Self {
            status: machine.read::<1>(HIGH + DEVICE_STATUS)[0],
            generation: machine.read::<1>(HIGH + CONFIG_GENERATION)[0],
            is_active: machine.seen.lock().unwrap().activation.is_some(),
            select: u16::from_le_bytes(machine.read(HIGH + QUEUE_SELECT)),
            queue,
        }
    }

    fn check(&self, before: &Self, wrote_zero: bool, machine: &Machine) {
        let (was, is) = (before.status, self.status);
        if wrote_zero {
            assert_eq!((is, self.is_active), (0, false));
            assert_eq!(self.generation, before.generation.wrapping_add(1));
            return;
        }
        assert_eq!(
            was & !is,
            0,
            "a status bit went by itself: {was:#x}, {is:#x}"
        );
        assert_eq!(is & 0x30, 0, "a status bit that there is not");
        // The device runs only for a driver that went through the negotiation.
        if self.is_active {
            assert_eq!(is & (DRIVER_OK | FEATURES_OK), DRIVER_OK | FEATURES_OK);
            self.check_activation(machine);
        } else {
            assert!(!before.is_active, "it stopped without a reset");
            assert!(is & DRIVER_OK == 0 || is & (NEEDS_RESET | FAILED) != 0);
        }
        let is_size = |size: u16| size.is_power_of_two() && size <= 128;
        let [low, high, ..] = self.queue;
        let size = u16::from_le_bytes([low, high]);
        let exists = usize::from(self.select) < QUEUE_SIZES.len();
        assert!(if exists {
            is_size(size)
        } else {
            self.queue == [0; 0x20]
        });
        let was_enabled = before.queue[4] != 0;
        if self.select == before.select && (was_enabled || was & DRIVER_OK != 0) {
            assert_eq!(self.queue, before.queue, "an enabled queue changed");
        }
    }

    /// What the device got is what the registers say, and within what it may be.
    fn check_activation(&self, machine: &Machine) {
        let seen = machine.seen.lock().unwrap();
        let activation = seen.activation.as_ref().unwrap();
        assert_eq!(activation.features & !FEATURES, 0);
        assert_eq!(activation.features >> 32 & 1, 1);
        for (queue, max) in activation.queues.iter().zip(QUEUE_SIZES) {
            let Some(queue) = queue else { continue };
            assert!(queue.queue.is_valid(&activation.memory) && queue.queue.size() <= max);
        }
        if let Some(Some(active)) = activation.queues.get(usize::from(self.select)) {
            let address = |field: u64| {
                let slot = usize::try_from(field - QUEUE_SIZE).unwrap();
                u64::from_le_bytes(self.queue[slot..slot + 8].try_into().unwrap())
            };
            assert_eq!(active.queue.desc_table(), address(QUEUE_DESC));
            assert_eq!(active.queue.avail_ring(), address(QUEUE_DRIVER));
            assert_eq!(active.queue.used_ring(), address(QUEUE_DEVICE));
        }
    }
}
