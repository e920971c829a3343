use proptest::prelude::*;

use super::field::*;
use super::*;

const FEATURE: u64 = 1 << 9;
const SIZES: [u16; 2] = [256, 16];
const VECTORS: u16 = 3;

fn common() -> Common {
    let unsupported = 1 << VIRTIO_F_RING_RESET | 1 << VIRTIO_F_RING_PACKED;
    Common::new(FEATURE | VERSION_1 | unsupported, &SIZES, VECTORS)
}

fn read8(common: &Common, offset: u64) -> u8 {
    let mut data = [0xee];
    common.read(offset, &mut data);
    data[0]
}

fn read16(common: &Common, offset: u64) -> u16 {
    let mut data = [0xee; 2];
    common.read(offset, &mut data);
    u16::from_le_bytes(data)
}

fn read32(common: &Common, offset: u64) -> u32 {
    let mut data = [0xee; 4];
    common.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn write(common: &mut Common, offset: u64, data: &[u8]) {
    assert_eq!(common.write(offset, data), Effect::None);
}

fn write16(common: &mut Common, offset: u64, value: u16) {
    write(common, offset, &value.to_le_bytes());
}

fn write32(common: &mut Common, offset: u64, value: u32) {
    write(common, offset, &value.to_le_bytes());
}

fn accept(common: &mut Common, features: u64) {
    for (select, value) in [(0, word(features, 0)), (1, word(features, 1))] {
        write32(common, DRIVER_FEATURE_SELECT, select);
        write32(common, DRIVER_FEATURE, value);
    }
}

/// Walks to `FEATURES_OK`; whether the device agreed.
fn negotiate(common: &mut Common, features: u64) -> bool {
    write(common, DEVICE_STATUS, &[ACKNOWLEDGE]);
    write(common, DEVICE_STATUS, &[ACKNOWLEDGE | DRIVER]);
    accept(common, features);
    write(common, DEVICE_STATUS, &[ACKNOWLEDGE | DRIVER | FEATURES_OK]);
    read8(common, DEVICE_STATUS) & FEATURES_OK != 0
}

#[test]
fn features_are_offered_in_words_without_the_unsupported_ones() {
    let mut common = common();
    let words = [0, 1, 2, u32::MAX].map(|select| {
        write32(&mut common, DEVICE_FEATURE_SELECT, select);
        read32(&common, DEVICE_FEATURE)
    });
    assert_eq!(words, [1 << 9, 1, 0, 0]);
    assert_eq!(read32(&common, DEVICE_FEATURE_SELECT), u32::MAX);
}

#[test]
fn features_ok_is_refused_for_what_was_not_offered_or_without_version_1() {
    assert!(negotiate(&mut common(), FEATURE | VERSION_1));
    assert!(negotiate(&mut common(), VERSION_1));
    assert!(!negotiate(&mut common(), FEATURE));
    assert!(!negotiate(&mut common(), 1 << 10 | VERSION_1));
    assert!(!negotiate(
        &mut common(),
        VERSION_1 | 1 << VIRTIO_F_RING_PACKED
    ));
    // A driver may try again with less.
    let mut common = common();
    assert!(!negotiate(&mut common, u64::MAX));
    assert!(negotiate(&mut common, VERSION_1));
    assert_eq!(common.features(), VERSION_1);
}

#[test]
fn features_stand_once_they_are_agreed() {
    let mut common = common();
    assert!(negotiate(&mut common, VERSION_1));
    accept(&mut common, FEATURE | VERSION_1);
    assert_eq!(common.features(), VERSION_1);
    write32(&mut common, DRIVER_FEATURE_SELECT, 1);
    assert_eq!(read32(&common, DRIVER_FEATURE), 1);
}

#[test]
fn status_bits_are_not_cleared_but_by_a_reset() {
    let mut common = common();
    negotiate(&mut common, VERSION_1);
    write(&mut common, DEVICE_STATUS, &[ACKNOWLEDGE]);
    write(&mut common, DEVICE_STATUS, &[NEEDS_RESET | 0x30]);
    assert_eq!(read8(&common, DEVICE_STATUS), 0b1011);
    assert_eq!(common.write(DEVICE_STATUS, &[0]), Effect::Reset);
    common.reset();
    assert_eq!(read8(&common, DEVICE_STATUS), 0);
    assert_eq!(common.features(), 0);
}

#[test]
fn driver_ok_activates_once_and_not_after_failed() {
    let mut common = common();
    negotiate(&mut common, VERSION_1);
    let ok = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    assert_eq!(common.write(DEVICE_STATUS, &[ok]), Effect::Activate);
    assert_eq!(common.write(DEVICE_STATUS, &[ok]), Effect::None);
    common.reset();
    negotiate(&mut common, VERSION_1);
    write(&mut common, DEVICE_STATUS, &[FAILED]);
    assert_eq!(common.write(DEVICE_STATUS, &[ok]), Effect::None);
    assert_eq!(read8(&common, DEVICE_STATUS) & FAILED, FAILED);
}

#[test]
fn needs_reset_shows_until_the_reset_and_a_late_signal_marks_nothing() {
    let mut common = common();
    let worker = Arc::clone(common.needs_reset());
    worker.store(true, Ordering::Release);
    assert_eq!(read8(&common, DEVICE_STATUS), NEEDS_RESET);
    common.reset();
    worker.store(true, Ordering::Release);
    assert_eq!(read8(&common, DEVICE_STATUS), 0);
}

#[test]
fn queue_size_is_a_power_of_two_up_to_the_largest() {
    let mut common = common();
    write16(&mut common, QUEUE_SELECT, 1);
    assert_eq!(read16(&common, QUEUE_SIZE), 16);
    for (size, expected) in [
        (8, 8),
        (0, 8),
        (3, 8),
        (32, 8),
        (0x8000, 8),
        (1, 1),
        (16, 16),
    ] {
        write16(&mut common, QUEUE_SIZE, size);
        assert_eq!(read16(&common, QUEUE_SIZE), expected, "size {size}");
    }
    assert_eq!(read16(&common, QUEUE_NOTIFY_OFF), 1);
    assert_eq!(read16(&common, NUM_QUEUES), 2);
}

#[test]
fn enabled_queue_stands_until_reset() {
    let mut common = common();
    for (offset, value) in [(QUEUE_DESC, 0x1000_u64), (QUEUE_DRIVER, 0x2000)] {
        write(&mut common, offset, &value.to_le_bytes());
    }
    write32(&mut common, QUEUE_DEVICE, 0x3000);
    write32(&mut common, QUEUE_DEVICE + 4, 1);
    write16(&mut common, QUEUE_ENABLE, 0);
    write16(&mut common, QUEUE_ENABLE, 2);
    assert_eq!(read16(&common, QUEUE_ENABLE), 0);
    write16(&mut common, QUEUE_ENABLE, 1);
    write16(&mut common, QUEUE_ENABLE, 0);
    assert_eq!(read16(&common, QUEUE_ENABLE), 1);
    write16(&mut common, QUEUE_SIZE, 8);
    write32(&mut common, QUEUE_DESC, 0x9000);
    assert_eq!(read16(&common, QUEUE_SIZE), 256);
    assert_eq!(read32(&common, QUEUE_DESC), 0x1000);
    let queue = &common.queues()[0];
    assert_eq!((queue.driver, queue.device), (0x2000, 0x1_0000_3000));
    common.reset();
    assert_eq!(read16(&common, QUEUE_ENABLE), 0);
    assert_eq!(read32(&common, QUEUE_DESC), 0);
}

#[test]
fn queue_is_not_enabled_while_the_device_runs() {
    let mut common = common();
    negotiate(&mut common, VERSION_1);
    assert_eq!(common.write(DEVICE_STATUS, &[0xf]), Effect::Activate);
    write16(&mut common, QUEUE_ENABLE, 1);
    assert_eq!(read16(&common, QUEUE_ENABLE), 0);
}

#[test]
fn absent_queue_reads_size_zero_and_no_vector() {
    let mut common = common();
    write16(&mut common, QUEUE_SELECT, 2);
    for (offset, value) in [(QUEUE_SIZE, 4), (QUEUE_MSIX_VECTOR, 1), (QUEUE_ENABLE, 1)] {
        write16(&mut common, offset, value);
    }
    assert_eq!(read16(&common, QUEUE_SIZE), 0);
    assert_eq!(read16(&common, QUEUE_MSIX_VECTOR), NO_VECTOR);
    assert_eq!(read16(&common, QUEUE_ENABLE), 0);
}

#[test]
fn vector_that_there_is_not_reads_back_as_none() {
    let mut common = common();
    for offset in [CONFIG_MSIX_VECTOR, QUEUE_MSIX_VECTOR] {
        assert_eq!(read16(&common, offset), NO_VECTOR);
        for (vector, expected) in [(2, 2), (3, NO_VECTOR), (0, 0), (NO_VECTOR, NO_VECTOR)] {
            write16(&mut common, offset, vector);
            assert_eq!(read16(&common, offset), expected);
        }
    }
}

#[test]
fn access_in_another_width_reads_zero_and_writes_nothing() {
    let mut common = common();
    write(&mut common, QUEUE_SIZE, &[8]);
    write(&mut common, QUEUE_SIZE, &[8, 0, 0, 0]);
    write(&mut common, DEVICE_STATUS, &[1, 0]);
    write(&mut common, QUEUE_DESC + 2, &[9; 4]);
    write(&mut common, QUEUE_DESC + 4, &[9; 8]);
    assert_eq!(read16(&common, QUEUE_SIZE), 256);
    assert_eq!(read8(&common, DEVICE_STATUS), 0);
    assert_eq!((common.queues()[0].desc, common.queues()[0].driver), (0, 0));
    assert_eq!(read32(&common, QUEUE_SIZE), 0);
    assert_eq!(read32(&common, NUM_QUEUES), 0);
    // What follows the queue's addresses is for features that are not offered.
    assert_eq!([0x38, 0x3a, 0x3c, 0x3e].map(|o| read16(&common, o)), [0; 4]);
}

#[test]
fn generation_differs_after_a_change_and_after_a_reset() {
    let mut common = common();
    let first = read8(&common, CONFIG_GENERATION);
    common.bump_generation();
    let second = read8(&common, CONFIG_GENERATION);
    common.reset();
    assert_ne!(first, second);
    assert_ne!(second, read8(&common, CONFIG_GENERATION));
}

proptest! {
    #[test]
    fn hostile_writes_keep_the_invariants(
        writes in prop::collection::vec(
            (prop_oneof![0..0x40_u64, Just(DEVICE_STATUS), any::<u64>()],
             prop_oneof![
                 prop::collection::vec(any::<u8>(), 1..=8),
                 prop::collection::vec(0..4_u8, 1..=2),
             ]),
            0..200,
        ),
    ) {
        let mut common = common();
        let mut activated = false;
        for (offset, data) in writes {
            match common.write(offset, &data) {
                Effect::None => {}
                Effect::Reset => {
                    common.reset();
                    activated = false;
                }
                Effect::Activate => {
                    prop_assert!(!activated);
                    activated = true;
                }
            }
            prop_assert_eq!(common.status() & (NEEDS_RESET | 0x30), 0);
            if common.negotiated() {
                prop_assert_eq!(common.features() & !(FEATURE | VERSION_1), 0);
                prop_assert_ne!(common.features() & VERSION_1, 0);
            }
            for (queue, max) in common.queues().iter().zip(SIZES) {
                prop_assert!(queue.size.is_power_of_two() && queue.size <= max);
                let vector = queue.vector.load(Ordering::Relaxed);
                prop_assert!(vector < VECTORS || vector == NO_VECTOR);
            }
            for len in 0..9 {
                common.read(offset, &mut [0; 9][..len]);
            }
        }
    }
}
