use proptest::prelude::*;

use super::*;
use crate::irq::fake::FakeSink;

fn ioapic() -> (IoApic, Arc<FakeSink>) {
    let sink = Arc::new(FakeSink::default());
    (IoApic::new(sink.clone()), sink)
}

fn read(ioapic: &IoApic, register: u8) -> u32 {
    ioapic.write(SELECT, &u32::from(register).to_le_bytes());
    let mut data = [0xee; 4];
    ioapic.read(DATA, &mut data);
    u32::from_le_bytes(data)
}

fn write(ioapic: &IoApic, register: u8, value: u32) {
    ioapic.write(SELECT, &[register]);
    ioapic.write(DATA, &value.to_le_bytes());
}

/// Linux's `ioapic_write_entry()`: the upper half first.
fn program(ioapic: &IoApic, pin: u8, high: u32, low: u32) {
    write(ioapic, 0x11 + 2 * pin, high);
    write(ioapic, 0x10 + 2 * pin, low);
}

#[test]
fn registers_at_power_on() {
    let (ioapic, sink) = ioapic();
    assert_eq!(read(&ioapic, REGISTER_VERSION), 0x0017_0011);
    for pin in 0..PINS {
        assert_eq!(read(&ioapic, 0x10 + 2 * pin), 0x1_0000);
        assert_eq!(read(&ioapic, 0x11 + 2 * pin), 0);
        ioapic.pin(pin).trigger();
    }
    assert_eq!(sink.sent(), []);
    write(&ioapic, REGISTER_ID, 0xffff_ffff);
    assert_eq!(read(&ioapic, REGISTER_ID), 0x0f00_0000);
    assert_eq!(read(&ioapic, REGISTER_ARBITRATION), 0x0f00_0000);
    write(&ioapic, REGISTER_VERSION, 0);
    assert_eq!(read(&ioapic, REGISTER_VERSION), 0x0017_0011);
    assert_eq!((read(&ioapic, 0x0f), read(&ioapic, 0x40)), (0, 0));
}

#[test]
fn entry_keeps_its_writable_bits_only() {
    let (ioapic, _) = ioapic();
    program(&ioapic, 23, u32::MAX, u32::MAX);
    assert_eq!(read(&ioapic, 0x3e), 0x0001_afff);
    assert_eq!(read(&ioapic, 0x3f), 0xff00_0000);
}

#[test]
fn each_mode_becomes_its_message() {
    let (ioapic, sink) = ioapic();
    let sent = |high, low| {
        program(&ioapic, 4, high, low);
        ioapic.pin(4).trigger();
        let sent = sink.sent();
        assert!(sent.len() <= 1);
        sent.first().map(|m| (m.address, m.data))
    };
    assert_eq!(
        sent(0x0300_0000, 0x0031),
        Some((0xfee0_3000, 0x4031)),
        "physical, fixed"
    );
    assert_eq!(
        sent(0xff00_0000, 0x0931),
        Some((0xfeef_f004, 0x4131)),
        "logical, lowest priority"
    );
    assert_eq!(
        sent(0x0100_0000, 0x0831),
        Some((0xfee0_1004, 0x4031)),
        "logical, fixed"
    );
    assert_eq!(sent(0, 0x0400), Some((0xfee0_0000, 0x4400)), "NMI");
    assert_eq!(sent(0, 0x0500), Some((0xfee0_0000, 0x4500)), "INIT");
    assert_eq!(
        sent(0, 0xa031),
        Some((0xfee0_0000, 0x4031)),
        "level, active low: as an edge"
    );
    for mode in [2, 3, 6, 7] {
        assert_eq!(sent(0, mode << 8 | 0x31), None, "mode {mode}");
    }
}

#[test]
fn edge_on_a_masked_pin_is_not_held() {
    let (ioapic, sink) = ioapic();
    let pin = ioapic.pin(9);
    pin.trigger();
    program(&ioapic, 9, 0, 0x40);
    assert_eq!(sink.sent(), []);
    pin.trigger();
    pin.trigger();
    assert_eq!(sink.sent().len(), 2);
}

proptest! {
    #[test]
    fn hostile_accesses_send_nothing_but_messages_to_local_apics(
        accesses in prop::collection::vec(
            (prop_oneof![Just(0_u64), Just(16), 0..0x1000_u64], prop::collection::vec(any::<u8>(), 1..=8)),
            0..100,
        ),
        pins in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let (ioapic, sink) = ioapic();
        for (offset, mut data) in accesses {
            ioapic.write(offset, &data);
            ioapic.read(offset, &mut data);
        }
        for pin in pins {
            ioapic.pin(pin).trigger();
        }
        for message in sink.sent() {
            prop_assert_eq!(message.address & !0xf_f004, 0xfee0_0000);
            prop_assert_eq!(message.data & !0x07ff, 0x4000);
        }
    }
}
