use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::*;
use crate::irq::fake::FakeRoutes;

const ENABLE: u16 = CONTROL_ENABLE;
const MASK_ALL: u16 = CONTROL_FUNCTION_MASK;
const VECTORS: u16 = 3;

fn msix() -> (Msix, Arc<FakeRoutes>) {
    let routes = Arc::new(FakeRoutes::new(VECTORS.into()));
    (Msix::new(VECTORS, routes.clone()), routes)
}

fn message(n: u32) -> Msi {
    Msi {
        address: 0xfee0_0000 + u64::from(n << 12),
        data: 0x4000 + n,
    }
}

fn program(msix: &Msix, vector: u64, message: Msi) {
    msix.write_table(vector * 16, &message.address.to_le_bytes());
    msix.write_table(vector * 16 + 8, &message.data.to_le_bytes());
}

fn mask(msix: &Msix, vector: u64, masked: bool) {
    msix.write_table(vector * 16 + 12, &u32::from(masked).to_le_bytes());
}

fn pending(msix: &Msix) -> u8 {
    let mut data = [0xee; 8];
    msix.read_pending(0, &mut data);
    assert_eq!(data[1..], [0; 7]);
    data[0]
}

#[test]
fn capability_encodes_size_table_and_pending_bits() {
    let placement = Placement {
        bar: 2,
        table: 0x8000,
        pending: 0x3000,
    };
    let capability = capability(MAX_VECTORS, placement);
    assert_eq!(capability.id, 0x11);
    let expected = [0xff, 0x07, 0x02, 0x80, 0, 0, 0x02, 0x30, 0, 0];
    assert_eq!(capability.body, expected);
    assert_eq!(capability.writable, [0x00, 0xc0]);
}

#[test]
fn table_reads_back_what_was_written_as_double_words() {
    let (msix, _) = msix();
    let mut entry = [0; 16];
    msix.read_table(16, &mut entry);
    assert_eq!(entry[..12], [0; 12]);
    assert_eq!(entry[12..], [1, 0, 0, 0], "masked at power-on");
    msix.write_table(16, &0x1_fee0_1003_u64.to_le_bytes());
    msix.write_table(24, &0x4055_u64.to_le_bytes());
    msix.write_table(24, &[9]); // not a double word
    msix.write_table(26, &[9, 9, 9, 9]); // nor two of them
    msix.read_table(16, &mut entry);
    assert_eq!(entry[..8], 0x1_fee0_1000_u64.to_le_bytes());
    assert_eq!(entry[8..], 0x4055_u64.to_le_bytes());
    let mut beyond = [1; 8];
    msix.read_table(16 * 3 - 4, &mut beyond);
    assert_eq!(beyond, [1, 0, 0, 0, 0, 0, 0, 0]);
    msix.write_table(u64::MAX - 20, &[0; 8]);
}

#[test]
fn unmasked_vector_is_routed_and_raised() {
    let (msix, routes) = msix();
    program(&msix, 1, message(1));
    mask(&msix, 1, false);
    assert_eq!(routes.route_of(1), None, "not while msi-x is disabled");
    msix.signal(1).unwrap();
    assert_eq!(pending(&msix), 0);
    msix.set_control(ENABLE);
    assert_eq!(routes.route_of(1), Some(message(1)));
    assert_eq!(routes.raised(1), 0);
    msix.signal(1).unwrap();
    assert_eq!((routes.raised(1), pending(&msix)), (1, 0));
    msix.signal(VECTORS).unwrap();
    msix.signal(u16::MAX).unwrap();
}

#[test]
fn event_of_a_masked_vector_stays_pending_and_comes_once_upon_unmask() {
    let (msix, routes) = msix();
    msix.set_control(ENABLE);
    program(&msix, 2, message(1));
    mask(&msix, 2, false);
    mask(&msix, 2, true);
    msix.signal(2).unwrap();
    msix.signal(2).unwrap();
    assert_eq!((routes.raised(2), pending(&msix)), (0, 0b100));
    // As an operating system moves an interrupt to another processor.
    program(&msix, 2, message(7));
    assert_eq!(routes.route_of(2), Some(message(1)));
    mask(&msix, 2, false);
    assert_eq!(routes.route_of(2), Some(message(7)));
    assert_eq!((routes.raised(2), pending(&msix)), (1, 0));
}

#[test]
fn masking_around_a_handler_changes_no_route() {
    let (msix, routes) = msix();
    msix.set_control(ENABLE);
    program(&msix, 0, message(1));
    mask(&msix, 0, false);
    let changes = routes.changes.load(Ordering::Relaxed);
    for _ in 0..3 {
        mask(&msix, 0, true);
        msix.signal(0).unwrap();
        mask(&msix, 0, false);
        msix.set_control(ENABLE | MASK_ALL);
        msix.set_control(ENABLE);
    }
    assert_eq!(routes.changes.load(Ordering::Relaxed), changes);
    assert_eq!(routes.raised(0), 3);
}

#[test]
fn function_mask_holds_every_vector() {
    let (msix, routes) = msix();
    msix.set_control(ENABLE | MASK_ALL);
    for vector in 0..2 {
        program(&msix, vector, message(1));
        mask(&msix, vector, false);
    }
    for vector in 0..VECTORS {
        msix.signal(vector).unwrap();
    }
    assert_eq!(pending(&msix), 0b111);
    msix.set_control(ENABLE);
    assert_eq!([0, 1, 2].map(|v| routes.raised(v)), [1, 1, 0]);
    assert_eq!(pending(&msix), 0b100, "masked on its own");
}

#[test]
fn disabling_takes_routes_and_pending_bits_away() {
    let (msix, routes) = msix();
    msix.set_control(ENABLE);
    program(&msix, 0, message(1));
    mask(&msix, 0, false);
    msix.signal(1).unwrap();
    msix.set_control(0);
    assert_eq!((routes.route_of(0), pending(&msix)), (None, 0));
    msix.set_control(ENABLE);
    assert_eq!(routes.route_of(0), Some(message(1)), "the table stays");
    msix.reset();
    assert_eq!(routes.route_of(0), None);
    let mut entry = [0; 16];
    msix.read_table(0, &mut entry);
    assert_eq!(entry[..12], [0; 12]);
}

#[test]
fn event_waits_for_a_route_that_could_not_be_made() {
    let (msix, routes) = msix();
    msix.set_control(ENABLE);
    routes.refuses.store(true, Ordering::Relaxed);
    mask(&msix, 0, false);
    msix.signal(0).unwrap();
    assert_eq!((routes.raised(0), pending(&msix)), (0, 1));
    routes.refuses.store(false, Ordering::Relaxed);
    mask(&msix, 0, false);
    assert_eq!((routes.raised(0), pending(&msix)), (1, 0));
}

/// It went to where the old message said, and stayed pending too.
#[test]
fn event_does_not_go_where_a_message_said_that_was_replaced() {
    let (msix, routes) = msix();
    msix.set_control(ENABLE);
    program(&msix, 0, message(1));
    mask(&msix, 0, false);
    routes.refuses.store(true, Ordering::Relaxed);
    program(&msix, 0, message(2));
    msix.signal(0).unwrap();
    assert_eq!((routes.raised(0), pending(&msix)), (0, 1));
    routes.refuses.store(false, Ordering::Relaxed);
    mask(&msix, 0, false);
    assert_eq!((routes.raised(0), pending(&msix)), (1, 0));
    assert_eq!(routes.route_of(0), Some(message(2)));
}

#[derive(Clone, Debug)]
enum Step {
    Control(u16),
    Mask(u64, bool),
    Program(u64, u32),
    Signal(u16),
    Write(u64, Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let vector = 0..u64::from(VECTORS);
    prop_oneof![
        prop_oneof![Just(ENABLE), Just(ENABLE | MASK_ALL), Just(0)].prop_map(Step::Control),
        (vector.clone(), any::<bool>()).prop_map(|(v, m)| Step::Mask(v, m)),
        (vector, 0..4_u32).prop_map(|(v, n)| Step::Program(v, n)),
        (0..VECTORS).prop_map(Step::Signal),
        (0..80_u64, prop::collection::vec(any::<u8>(), 1..=8)).prop_map(|(o, d)| Step::Write(o, d)),
    ]
}

proptest! {
    /// An event is raised or pending, never neither, while MSI-X stays enabled; nothing is raised
    /// through a mask; and a live vector is routed to what its table entry says.
    #[test]
    fn no_event_is_lost_whatever_the_guest_writes(steps in prop::collection::vec(step(), 1..100)) {
        let (msix, routes) = msix();
        let mut owed = [false; VECTORS as usize];
        for step in steps {
            match step {
                Step::Control(control) => msix.set_control(control),
                Step::Mask(vector, masked) => mask(&msix, vector, masked),
                Step::Program(vector, n) => program(&msix, vector, message(n)),
                Step::Write(offset, data) => msix.write_table(offset, &data),
                Step::Signal(vector) => {
                    msix.signal(vector).unwrap();
                    owed[usize::from(vector)] = true;
                }
            }
            let state = lock(&msix.state);
            for (index, vector) in state.vectors.iter().enumerate() {
                let live = state.enabled && !state.function_masked && !vector.masked;
                let raised = routes.raised(index) != 0;
                prop_assert!(!raised || live);
                if !state.enabled || raised {
                    owed[index] = false;
                }
                prop_assert_eq!(owed[index], vector.pending);
                if live {
                    prop_assert!(!vector.pending);
                    prop_assert_eq!(routes.route_of(index), Some(vector.message));
                }
            }
        }
    }
}
