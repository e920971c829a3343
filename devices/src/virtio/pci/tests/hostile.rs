//! Guests that write anything anywhere: nothing panics, and what the hypervisor was asked for agrees
//! with the device's state.

use proptest::prelude::*;

use super::driver::Driver;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// At a fixed place where a real driver writes, too.
    Start,
    Reset,
    Config(u64, Vec<u8>),
    Bar(u64, Vec<u8>),
    Interrupt(usize),
    GiveUp,
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 1..=8),
        prop::collection::vec(prop_oneof![Just(0_u8), Just(0xff), 0..16_u8], 1..=4),
    ]
}

fn bar_offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..0x40_u64,
        1 => 0x1000..0x1008_u64,
        1 => 0x2000..0x2010_u64,
        1 => 0x3000..0x3010_u64,
        2 => 0x4000..0x4010_u64,
        2 => 0x8000..0x8040_u64,
        1 => 0..0x1_0000_u64,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Start),
        1 => Just(Step::Reset),
        6 => (0..0x100_u64, bytes()).prop_map(|(o, d)| Step::Config(o, d)),
        12 => (bar_offset(), bytes()).prop_map(|(o, d)| Step::Bar(o, d)),
        2 => (0..2_usize).prop_map(Step::Interrupt),
        1 => Just(Step::GiveUp),
    ]
}

fn take(m: &Machine, driver: &Driver, step: Step) {
    match step {
        Step::Start => {
            // Where a driver left the BAR; whatever was written to the command register before.
            m.config_write(0x10, &HIGH.to_le_bytes());
            m.config_write(0x04, &[0b110, 0]);
            driver.start(m);
        }
        Step::Reset => m.write(driver.common + 0x14, &[0]),
        Step::Config(offset, mut data) => {
            m.config_write(offset, &data);
            m.bus.read(ECAM + (1 << 15) + offset, &mut data);
        }
        Step::Bar(offset, mut data) => {
            m.write(HIGH + offset, &data);
            m.bus.read(HIGH + offset, &mut data);
        }
        Step::Interrupt(queue) => {
            if let Some(activation) = &m.seen.lock().unwrap().activation
                && let Some(queue) = &activation.queues[queue]
            {
                queue.interrupt.signal().unwrap();
            }
        }
        Step::GiveUp => {
            if let Some(activation) = &m.seen.lock().unwrap().activation {
                activation.needs_reset.signal();
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_a_guest_does_doorbells_and_routes_follow_the_state(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let m = Machine::idle();
        let driver = Driver::probe(&m);
        for step in steps {
            take(&m, &driver, step);
            let seen = m.seen.lock().unwrap();
            let bar = m.function.config().bar_address(BAR);
            let mut expected = Vec::new();
            if let (Some(activation), Some(bar)) = (&seen.activation, bar) {
                let enabled = activation.queues.iter().zip(0..).filter(|(q, _)| q.is_some());
                expected.extend(enabled.map(|(_, n): (_, u64)| bar + 0x4000 + 4 * n));
            }
            prop_assert_eq!(m.doorbells.addresses(), expected);
            prop_assert_eq!(m.config_read(0), 0x1042_1af4);
            let enabled = m.config_read(driver.msix) >> 31 == 1;
            prop_assert!(enabled || (0..3).all(|v| m.routes.route_of(v).is_none()));
        }
        m.function.take_device().unwrap();
        prop_assert!(m.doorbells.is_silent());
        prop_assert!((0..3).all(|v| m.routes.route_of(v).is_none()));
        prop_assert!(m.seen.lock().unwrap().activation.is_none());
        // The hypervisor may drop a machine whose guest is still at it.
        take(&m, &driver, Step::Bar(0x4000, vec![0, 0]));
    }
}
