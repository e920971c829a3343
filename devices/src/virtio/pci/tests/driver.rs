//! What `drivers/pci/{probe,msi}` and `drivers/virtio/virtio_pci_modern*.c` do, step by step.

use std::sync::atomic::Ordering;

use virtio_queue::QueueT;

use super::super::common::field::*;
use super::super::common::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET};
use super::*;
use crate::irq::Msi;

/// Guest-physical addresses of what the capabilities name.
#[derive(Debug, Default)]
pub(super) struct Driver {
    pub common: u64,
    pub notify: u64,
    notify_multiplier: u64,
    isr: u64,
    device: u64,
    table: u64,
    pending: u64,
    /// Offsets in configuration space.
    pub msix: u64,
    pub window: u64,
}

const RUNNING: u8 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

impl Driver {
    /// Sizes and turns on the BAR, walks the capabilities.
    pub fn probe(m: &Machine) -> Self {
        assert_eq!(m.config_read(0), 0x1042_1af4);
        assert_eq!(m.config_read(0x08), 0x0180_0001);
        assert_eq!(m.config_read(0x0c) >> 16 & 0xff, 0, "one function, type 0");
        assert_eq!(m.config_read(0x3c), 0, "no interrupt pin");
        let bar = [m.config_read(0x10), m.config_read(0x14)];
        m.config_write(0x10, &[0xff; 4]);
        m.config_write(0x14, &[0xff; 4]);
        assert_eq!(
            (m.config_read(0x10), m.config_read(0x14)),
            (0xffff_0004, u32::MAX)
        );
        m.config_write(0x10, &bar[0].to_le_bytes());
        m.config_write(0x14, &bar[1].to_le_bytes());
        m.config_write(0x04, &0b110_u16.to_le_bytes());
        let base = u64::from(bar[1]) << 32 | u64::from(bar[0] & !0xf);
        assert_eq!(base, HIGH);

        let mut driver = Self::default();
        let mut at = u64::from(m.config_read(0x34) & 0xfc);
        assert_eq!(m.config_read(0x04) >> 20 & 1, 1, "has capabilities");
        while at != 0 {
            let header = m.config_read(at);
            let address = base + u64::from(m.config_read(at + 8));
            match (header & 0xff, header >> 24) {
                (0x09, 1) => driver.common = address,
                (0x09, 2) => {
                    driver.notify = address;
                    driver.notify_multiplier = m.config_read(at + 16).into();
                }
                (0x09, 3) => driver.isr = address,
                (0x09, 4) => driver.device = address,
                (0x09, 5) => driver.window = at,
                (0x11, _) => {
                    driver.msix = at;
                    assert_eq!(header >> 16, 2, "three vectors");
                    driver.table = base + u64::from(m.config_read(at + 4));
                    driver.pending = base + u64::from(m.config_read(at + 8));
                }
                other => panic!("capability {other:?}"),
            }
            at = u64::from(header >> 8 & 0xfc);
        }
        driver
    }

    pub fn status(&self, m: &Machine) -> u8 {
        m.read::<1>(self.common + DEVICE_STATUS)[0]
    }

    fn set_status(&self, m: &Machine, bits: u8) {
        let status = self.status(m);
        m.write(self.common + DEVICE_STATUS, &[status | bits]);
    }

    pub fn reset(&self, m: &Machine) {
        m.write(self.common + DEVICE_STATUS, &[0]);
        assert_eq!(self.status(m), 0);
    }

    fn field16(&self, m: &Machine, offset: u64, value: u16) {
        m.write(self.common + offset, &value.to_le_bytes());
    }

    /// Accepts all that is offered.
    pub fn negotiate(&self, m: &Machine) {
        self.set_status(m, ACKNOWLEDGE);
        self.set_status(m, DRIVER);
        for select in 0..2_u32 {
            m.write(self.common + DEVICE_FEATURE_SELECT, &select.to_le_bytes());
            let offered = m.read::<4>(self.common + DEVICE_FEATURE);
            m.write(self.common + DRIVER_FEATURE_SELECT, &select.to_le_bytes());
            m.write(self.common + DRIVER_FEATURE, &offered);
        }
        self.set_status(m, FEATURES_OK);
        assert_ne!(self.status(m) & FEATURES_OK, 0);
    }

    fn message(vector: u64) -> Msi {
        Msi {
            address: 0xfee0_1000,
            data: 0x4040 + u32::try_from(vector).unwrap(),
        }
    }

    /// `pci_enable_msix_range()`, then a vector for the configuration and one for each queue.
    pub fn enable_msix(&self, m: &Machine) {
        m.config_write(self.msix + 2, &0xc002_u16.to_le_bytes());
        for vector in 0..3 {
            let entry = self.table + 16 * vector;
            let message = Self::message(vector);
            m.write(entry, &[0, 0x10, 0xe0, 0xfe]);
            m.write(entry + 4, &[0; 4]);
            m.write(entry + 8, &message.data.to_le_bytes());
            m.write(entry + 12, &[0; 4]);
        }
        m.config_write(self.msix + 2, &0x8002_u16.to_le_bytes());
        self.field16(m, CONFIG_MSIX_VECTOR, 0);
    }

    pub fn set_up_queue(&self, m: &Machine, index: u16, desc: u64, vector: u16) {
        self.field16(m, QUEUE_SELECT, index);
        self.field16(m, QUEUE_SIZE, 32);
        self.field16(m, QUEUE_MSIX_VECTOR, vector);
        for (offset, address) in [
            (QUEUE_DESC, desc),
            (QUEUE_DRIVER, desc + 0x200),
            (QUEUE_DEVICE, desc + 0x300),
        ] {
            let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
            m.write(self.common + offset, &[a, b, c, d]);
            m.write(self.common + offset + 4, &[e, f, g, h]);
        }
        self.field16(m, QUEUE_ENABLE, 1);
    }

    pub fn doorbell(&self, m: &Machine, index: u16) -> u64 {
        self.field16(m, QUEUE_SELECT, index);
        let off = m.read::<2>(self.common + QUEUE_NOTIFY_OFF);
        self.notify + u64::from(u16::from_le_bytes(off)) * self.notify_multiplier
    }

    pub fn kick(&self, m: &Machine, index: u16) {
        m.write(self.doorbell(m, index), &index.to_le_bytes());
    }

    /// Everything up to `DRIVER_OK`.
    pub fn start(&self, m: &Machine) {
        self.reset(m);
        self.negotiate(m);
        self.enable_msix(m);
        self.set_up_queue(m, 0, 0x1000, 1);
        self.set_up_queue(m, 1, 0x2000, 2);
        self.set_status(m, DRIVER_OK);
    }
}

/// How often queue `index` was kicked since the last look, as its device sees it.
fn kicks(m: &Machine, index: usize) -> u64 {
    let seen = m.seen.lock().unwrap();
    let queue = &seen.activation.as_ref().unwrap().queues[index];
    queue.as_ref().unwrap().doorbell.read().unwrap_or(0)
}

fn interrupt(m: &Machine, index: usize) {
    let seen = m.seen.lock().unwrap();
    let queue = &seen.activation.as_ref().unwrap().queues[index];
    queue.as_ref().unwrap().interrupt.signal().unwrap();
}

#[test]
fn driver_probes_runs_resets_and_runs_again() {
    let m = Machine::idle();
    let driver = Driver::probe(&m);
    for round in 1..=2 {
        driver.start(&m);
        assert_eq!(driver.status(&m), RUNNING);
        {
            let seen = m.seen.lock().unwrap();
            let activation = seen.activation.as_ref().unwrap();
            assert_eq!(seen.activations, round);
            assert_eq!(activation.features, VERSION_1 | EVENT_IDX | 1 << 9);
            let queue = &activation.queues[1].as_ref().unwrap().queue;
            assert_eq!(
                (queue.size(), queue.ready(), queue.event_idx_enabled()),
                (32, true, true)
            );
            let rings = (queue.desc_table(), queue.avail_ring(), queue.used_ring());
            assert_eq!(rings, (0x2000, 0x2200, 0x2300));
        }
        let doorbells = [driver.doorbell(&m, 0), driver.doorbell(&m, 1)];
        assert_eq!(m.doorbells.addresses(), doorbells);
        driver.kick(&m, 1);
        assert_eq!((kicks(&m, 0), kicks(&m, 1)), (0, 1));
        interrupt(&m, 0);
        assert_eq!([0, 1, 2].map(|v| m.routes.raised(v)), [0, 1, 0]);
        assert_eq!(m.routes.route_of(1), Some(Driver::message(1)));
        assert_eq!(m.read(driver.isr), [0], "MSI-X needs no ISR status");

        driver.reset(&m);
        assert!(m.doorbells.is_silent());
        assert_eq!(m.seen.lock().unwrap().resets, round);
        assert!(m.seen.lock().unwrap().activation.is_none());
        assert_eq!(
            m.routes.raised(0),
            0,
            "not even for a worker that fails as it stops"
        );
    }
}

#[test]
fn device_stays_unactivated_and_undisturbed_before_driver_ok() {
    let m = Machine::idle();
    let driver = Driver::probe(&m);
    driver.reset(&m);
    driver.negotiate(&m);
    driver.set_up_queue(&m, 0, 0x1000, 1);
    driver.kick(&m, 0);
    assert!(m.doorbells.is_silent());
    driver.reset(&m);
    let seen = m.seen.lock().unwrap();
    assert_eq!((seen.activations, seen.resets), (0, 0));
}

#[test]
fn queue_left_disabled_is_none() {
    let m = Machine::idle();
    let driver = Driver::probe(&m);
    driver.negotiate(&m);
    driver.set_up_queue(&m, 1, 0x1000, 1);
    driver.set_status(&m, DRIVER_OK);
    let enabled = {
        let seen = m.seen.lock().unwrap();
        let queues = &seen.activation.as_ref().unwrap().queues;
        queues.iter().map(Option::is_some).collect::<Vec<_>>()
    };
    assert_eq!(enabled, [false, true]);
    assert_eq!(m.doorbells.addresses(), [driver.doorbell(&m, 1)]);
    driver.kick(&m, 0);
    assert_eq!(kicks(&m, 1), 0);
}

#[test]
fn queue_outside_of_memory_or_misaligned_needs_a_reset() {
    for desc in [
        MEMORY_BYTES as u64,
        !0xfff,
        0x1008,
        MEMORY_BYTES as u64 - 0x100,
    ] {
        let m = Machine::idle();
        let driver = Driver::probe(&m);
        driver.start(&m);
        driver.reset(&m);
        driver.negotiate(&m);
        driver.enable_msix(&m);
        driver.set_up_queue(&m, 0, 0x1000, 1);
        driver.set_up_queue(&m, 1, desc, 2);
        driver.set_status(&m, DRIVER_OK);
        assert_eq!(driver.status(&m), RUNNING | NEEDS_RESET, "{desc:#x}");
        assert_eq!(m.routes.raised(0), 1, "a configuration interrupt");
        assert_eq!(m.read(driver.isr), [2]);
        assert_eq!(m.read(driver.isr), [0], "reading clears it");
        assert!(m.doorbells.is_silent());
        assert_eq!(m.seen.lock().unwrap().activations, 1, "the first round's");
        driver.start(&m);
        assert_eq!(driver.status(&m), RUNNING);
    }
}

#[test]
fn device_that_cannot_start_and_driver_ok_without_features_need_a_reset() {
    let m = Machine::idle();
    let driver = Driver::probe(&m);
    m.seen.lock().unwrap().fails = true;
    driver.start(&m);
    assert_eq!(driver.status(&m), RUNNING | NEEDS_RESET);
    m.seen.lock().unwrap().fails = false;
    driver.reset(&m);
    driver.set_status(&m, DRIVER_OK);
    assert_eq!(driver.status(&m), DRIVER_OK | NEEDS_RESET);
    driver.start(&m);
    assert_eq!(driver.status(&m), RUNNING);
    driver.set_status(&m, FAILED);
    assert_eq!(driver.status(&m), RUNNING | FAILED);
}

#[test]
fn worker_that_gives_up_is_told_once_and_until_reset() {
    let m = Machine::idle();
    let driver = Driver::probe(&m);
    driver.start(&m);
    let needs_reset = {
        let seen = m.seen.lock().unwrap();
        seen.activation.as_ref().unwrap().needs_reset.clone()
    };
    needs_reset.signal();
    needs_reset.signal();
    assert_eq!(driver.status(&m), RUNNING | NEEDS_RESET);
    assert_eq!(m.routes.raised(0), 1);
    driver.reset(&m);
    needs_reset.signal();
    assert_eq!(driver.status(&m), 0, "a signal of the time before");
}

#[test]
fn moved_bar_takes_its_doorbells_along() {
    let m = Machine::idle();
    let driver = Driver::probe(&m);
    driver.start(&m);
    m.config_write(0x04, &[0]);
    assert!(m.doorbells.is_silent(), "not decoded");
    m.config_write(0x10, &(HIGH + 0x8_0000).to_le_bytes());
    assert!(m.doorbells.is_silent());
    m.config_write(0x04, &[0b110]);
    let moved = [0, 4].map(|n| HIGH + 0x8_0000 + 0x4000 + n);
    assert_eq!(m.doorbells.addresses(), moved);
    m.write(moved[1], &[1, 0]);
    assert_eq!(kicks(&m, 1), 1);
    assert_eq!(
        m.read::<1>(driver.common + DEVICE_STATUS),
        [0xff],
        "gone from there"
    );
}

#[test]
fn kick_reaches_the_queue_where_the_hypervisor_takes_no_doorbell() {
    let m = Machine::idle();
    let driver = Driver::probe(&m);
    m.doorbells.refuses.store(true, Ordering::Relaxed);
    driver.start(&m);
    assert_eq!(driver.status(&m), RUNNING);
    driver.kick(&m, 0);
    // In another width than an ioeventfd's.
    m.write(driver.doorbell(&m, 0), &[0, 0, 0, 0]);
    assert_eq!((kicks(&m, 0), kicks(&m, 1)), (2, 0));
    m.write(driver.notify + 8, &[2, 0]);
    driver.reset(&m);
    driver.kick(&m, 0);
}

#[test]
fn interrupt_without_msix_is_seen_in_the_isr_status() {
    let m = Machine::idle();
    let driver = Driver::probe(&m);
    driver.negotiate(&m);
    driver.set_up_queue(&m, 0, 0x1000, 1);
    driver.set_status(&m, DRIVER_OK);
    interrupt(&m, 0);
    assert_eq!(m.read(driver.isr), [1]);
    assert_eq!(m.read(driver.isr), [0]);
    assert_eq!(m.routes.raised(1), 0);
}

#[test]
fn interrupt_of_a_masked_vector_waits_in_the_pending_bits() {
    let m = Machine::idle();
    let driver = Driver::probe(&m);
    driver.start(&m);
    m.write(driver.table + 2 * 16 + 12, &[1, 0, 0, 0]);
    interrupt(&m, 1);
    assert_eq!(m.read(driver.pending), [0b100, 0, 0, 0]);
    assert_eq!(m.routes.raised(2), 0);
    m.write(driver.table + 2 * 16 + 12, &[0; 4]);
    assert_eq!(m.read(driver.pending), [0; 4]);
    assert_eq!(m.routes.raised(2), 1);
}

#[test]
fn configuration_is_written_after_negotiation_and_changes_the_generation() {
    let m = Machine::idle();
    let driver = Driver::probe(&m);
    m.write(driver.device, &[1, 2]);
    assert_eq!(m.read(driver.device), [0; 4]);
    driver.negotiate(&m);
    let generation = m.read::<1>(driver.common + CONFIG_GENERATION);
    m.write(driver.device + 1, &[1, 2]);
    assert_eq!(m.read(driver.device), [0, 1, 2, 0]);
    assert_ne!(m.read::<1>(driver.common + CONFIG_GENERATION), generation);
    assert_eq!(m.read(driver.device + 0xff8), [0; 8]);
}

#[test]
fn configuration_window_reaches_the_bar_unmapped() {
    let m = Machine::idle();
    let driver = Driver::probe(&m);
    driver.negotiate(&m);
    m.write(driver.device, &[9; 8]);
    driver.reset(&m);
    m.config_write(0x04, &[0]);
    let access = |bar: u8, offset: u32, length: u32| {
        m.config_write(driver.window + 4, &[bar]);
        m.config_write(driver.window + 8, &offset.to_le_bytes());
        m.config_write(driver.window + 12, &length.to_le_bytes());
    };
    let data = driver.window + 16;
    access(0, 0x14, 1);
    m.config_write(data, &[1, 0xaa, 0xbb, 0xcc]);
    assert_eq!(m.config_read(data), 1, "status, one byte of it");
    access(0, 0x12, 2);
    assert_eq!(m.config_read(data), 2, "the number of queues");
    for (bar, offset, length) in [
        (1, 0x14, 1),
        (0, 0x2001, 2),
        (0, 0x2000, 3),
        (0, 0x14, 0),
        (0, 0x14, u32::MAX),
        (0, 0x1_0000, 1),
        (0, 0xffff_fffc, 4),
    ] {
        access(bar, offset, length);
        m.config_write(data, &[0; 4]);
        assert_eq!(m.config_read(data), 0);
    }
    access(0, 0x14, 1);
    assert_eq!(m.config_read(data), 1, "none of these reset the device");
}

#[test]
fn device_taken_back_runs_in_a_new_machine() {
    let m = Machine::idle();
    let driver = Driver::probe(&m);
    driver.start(&m);
    let device = m.function.take_device().unwrap();
    assert!(m.function.take_device().is_none());
    assert!(m.doorbells.is_silent());
    assert_eq!([0, 1, 2].map(|v| m.routes.route_of(v)), [None; 3]);
    assert_eq!(m.seen.lock().unwrap().resets, 1);
    // What is left answers, and does nothing.
    driver.reset(&m);
    driver.set_status(&m, RUNNING);
    driver.kick(&m, 0);
    assert_eq!(driver.status(&m), 0);
    assert_eq!(m.read(driver.device), [0; 4]);

    let again = Machine::new(device, m.seen.clone());
    let driver = Driver::probe(&again);
    driver.start(&again);
    assert_eq!(driver.status(&again), RUNNING);
    driver.kick(&again, 0);
    assert_eq!(kicks(&again, 0), 1);
}

#[test]
fn more_queues_than_doorbells_are_refused() {
    #[derive(Debug)]
    struct Wide(Vec<u16>);
    impl VirtioDevice for Wide {
        fn device_type(&self) -> u16 {
            1
        }
        fn queue_sizes(&self) -> &[u16] {
            &self.0
        }
        fn features(&self) -> u64 {
            VERSION_1
        }
        fn read_config(&self, _: u64, _: &mut [u8]) {}
        fn write_config(&mut self, _: u64, _: &[u8]) {}
        fn activate(&mut self, _: Activation) -> io::Result<()> {
            Ok(())
        }
        fn reset(&mut self) {}
    }
    for (queues, possible) in [(MAX_QUEUES, true), (MAX_QUEUES + 1, false)] {
        let device = Box::new(Wide(vec![2; queues.into()]));
        let function = VirtioPci::new(
            device,
            GuestMemory::new(),
            Arc::new(FakeRoutes::new(0)),
            Arc::new(FakeDoorbells::default()),
        );
        assert_eq!(function.is_ok(), possible);
    }
}
