//! The whole device, with its thread and io_uring, on real files.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kami_image::id::VolumeId;
use kami_image::volume::{Standing, VolumeFiles};
use proptest::prelude::*;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

use self::guest::{DATA_BYTES, Data, Guest, SLOTS, Shape};
use super::super::device::NeedsReset;
use super::*;

mod direct;
pub(super) mod guest;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;
const SIZE: u64 = 1 << 20;
const CONFIG: BlockConfig = BlockConfig {
    serial: *b"vol0123456789abcdef0",
    queues: 2,
    read_only: false,
    limits: None,
};
const ALL_FEATURES: u64 = u64::MAX;

fn sparse_file() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    file
}

/// A running device, its driver, and how often the device asked to be reset.
struct Machine {
    device: BlockDevice,
    guest: Guest,
    needs_reset: Arc<AtomicU32>,
}

impl Machine {
    fn new(file: &File) -> Self {
        Self::with(file, CONFIG, ALL_FEATURES)
    }

    fn with(file: &File, config: BlockConfig, features: u64) -> Self {
        let volume = Volume::plain(file.try_clone().unwrap(), SIZE);
        let mut machine = Self {
            device: BlockDevice::new(volume, config),
            guest: Guest::new(config.queues.into()),
            needs_reset: Arc::default(),
        };
        machine.activate(features);
        machine
    }

    fn activate(&mut self, features: u64) {
        let count = self.needs_reset.clone();
        let queues = self.guest.queues.iter().map(|q| Some(q.activate()));
        let activation = Activation {
            memory: self.guest.memory.clone(),
            features: self.device.features() & features,
            queues: queues.collect(),
            needs_reset: NeedsReset::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            }),
        };
        self.device.activate(activation).unwrap();
    }
}

#[test]
fn written_data_is_read_back_and_lies_in_the_file_once_flushed() {
    let file = sparse_file();
    let mut machine = Machine::new(&file);
    let guest = &mut machine.guest;
    let bytes: Vec<u8> = (0..=255).cycle().take(8192).collect();
    assert_eq!(guest.write(7, &bytes), OK);
    assert_eq!(guest.run((VIRTIO_BLK_T_FLUSH, 0), Data::None), OK);
    assert_eq!(guest.read(7, 8192), bytes);
    let mut stored = vec![0; 8192];
    file.read_exact_at(&mut stored, 7 * 512).unwrap();
    assert_eq!(stored, bytes);
}

#[test]
fn identification_is_the_serial() {
    let file = sparse_file();
    let mut machine = Machine::new(&file);
    let guest = &mut machine.guest;
    assert_eq!(guest.run((VIRTIO_BLK_T_GET_ID, 0), Data::In(20)), OK);
    assert_eq!(guest.data(0, 20), CONFIG.serial);
    assert_eq!(guest.run((VIRTIO_BLK_T_GET_ID, 0), Data::In(3)), OK);
}

#[test]
fn used_length_counts_what_was_written() {
    let file = sparse_file();
    let mut machine = Machine::new(&file);
    let guest = &mut machine.guest;
    let mut length = |request, data| {
        guest.add((0, 0), request, data, Shape::Plain);
        guest.queues[0].kick();
        let used = guest.queues[0].wait_used();
        guest.used(0, used);
        used.1
    };
    assert_eq!(length((VIRTIO_BLK_T_IN, 0), Data::In(1024)), 1025);
    assert_eq!(length((VIRTIO_BLK_T_GET_ID, 0), Data::In(64)), 21);
    assert_eq!(length((VIRTIO_BLK_T_OUT, 0), Data::Out(&[1; 512])), 1);
    assert_eq!(length((VIRTIO_BLK_T_IN, SIZE / 512), Data::In(512)), 1);
}

#[test]
fn bad_requests_fail_alone() {
    let file = sparse_file();
    let mut machine = Machine::new(&file);
    let guest = &mut machine.guest;
    let beyond = SIZE / 512;
    assert_eq!(
        guest.run((VIRTIO_BLK_T_IN, beyond), Data::In(512)),
        IO_ERROR
    );
    assert_eq!(guest.write(beyond - 1, &[1; 1024]), IO_ERROR);
    assert_eq!(guest.run((77, 0), Data::None), UNSUPPORTED);
    assert_eq!(guest.write(beyond - 1, &[1; 512]), OK);
    assert_eq!(machine.needs_reset.load(Ordering::SeqCst), 0);
}

#[test]
fn file_shorter_than_the_disk_reads_as_zeroes_past_its_end() {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[7; 700], 0).unwrap();
    let mut machine = Machine::new(&file);
    let guest = &mut machine.guest;
    let mut expected = vec![7; 700];
    expected.resize(4096, 0);
    // What was in guest memory before must not show.
    guest.run((VIRTIO_BLK_T_OUT, 1000), Data::Out(&[9; 4096]));
    file.set_len(700).unwrap();
    assert_eq!(guest.read(0, 4096), expected);
    assert_eq!(guest.read(512, 1024), vec![0; 1024]);
}

/// `/dev/full` fails every write with `ENOSPC`.
#[test]
fn full_disk_fails_the_write_and_the_device_goes_on() {
    let full = File::options()
        .read(true)
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut machine = Machine::new(&full);
    let guest = &mut machine.guest;
    for _ in 0..3 {
        assert_eq!(guest.write(0, &[1; 4096]), IO_ERROR);
        assert_eq!(guest.read(8, 512), [0; 512]);
    }
    assert_eq!(machine.needs_reset.load(Ordering::SeqCst), 0);
}

#[test]
fn discard_and_zeroing_read_as_zeroes_and_free_the_space() {
    let file = sparse_file();
    let mut machine = Machine::new(&file);
    let guest = &mut machine.guest;
    let zero = |guest: &mut Guest, request_type, segments: &[(u64, u32, u32)]| {
        assert_eq!(guest.write(0, &[5; 64 << 10]), OK);
        guest.add_segments((0, 0), request_type, segments);
        assert_eq!(guest.finish_one(), OK);
        guest.read(0, 64 << 10)
    };
    let kept = |bytes: &[u8]| bytes.iter().filter(|b| **b == 5).count();
    // A discard keeps to whole blocks, a zeroing to the byte.
    let after = zero(guest, VIRTIO_BLK_T_DISCARD, &[(1, 16, 0), (64, 8, 0)]);
    assert_eq!(kept(&after), (64 << 10) - 2 * 4096);
    let after = zero(guest, VIRTIO_BLK_T_WRITE_ZEROES, &[(1, 16, 1), (64, 8, 1)]);
    assert_eq!(kept(&after), (64 << 10) - 24 * 512);
    assert_eq!(after[511..513], [5, 0]);
    let after = zero(guest, VIRTIO_BLK_T_WRITE_ZEROES, &[(3, 100, 0)]);
    assert_eq!(kept(&after), (64 << 10) - 100 * 512);
    let before = file.metadata().unwrap().blocks();
    guest.add_segments((0, 0), VIRTIO_BLK_T_DISCARD, &[(0, 128, 0)]);
    assert_eq!(guest.finish_one(), OK);
    assert!(file.metadata().unwrap().blocks() < before);
}

#[test]
fn reset_and_a_new_start_keep_the_data_and_leave_memory_alone() {
    let file = sparse_file();
    let mut machine = Machine::new(&file);
    assert_eq!(machine.guest.write(0, &[3; 4096]), OK);
    for slot in 0..SLOTS {
        let read = (VIRTIO_BLK_T_IN, 0);
        machine
            .guest
            .add((1, slot), read, Data::In(DATA_BYTES), Shape::Plain);
    }
    machine.guest.queues[1].kick();
    machine.device.reset();
    let before: Vec<_> = (0..SLOTS)
        .map(|slot| machine.guest.data(slot, 16))
        .collect();
    assert!(matches!(*lock(&machine.device.state), State::Idle(_)));
    machine.guest = Guest::new(2);
    machine.activate(ALL_FEATURES);
    assert_eq!(machine.guest.read(0, 4096), [3; 4096]);
    assert!(
        before
            .iter()
            .all(|data| *data == [3; 16] || *data == [0; 16])
    );
}

#[test]
fn queue_outside_memory_is_refused_and_the_disk_stays_usable() {
    let file = sparse_file();
    let mut machine = Machine::new(&file);
    machine.device.reset();
    let far = super::super::mock::DriverQueue::new(&machine.guest.memory, 64 << 20, 256);
    let activation = Activation {
        memory: machine.guest.memory.clone(),
        features: 0,
        queues: vec![Some(far.activate()), None],
        needs_reset: NeedsReset::new(|| {}),
    };
    assert!(machine.device.activate(activation).is_err());
    machine.guest = Guest::new(2);
    machine.activate(ALL_FEATURES);
    assert_eq!(machine.guest.write(0, &[1; 512]), OK);
}

#[test]
fn avail_index_beyond_the_queue_asks_for_a_reset() {
    let file = sparse_file();
    let mut machine = Machine::new(&file);
    let count = machine.needs_reset.clone();
    machine.guest.queues[0].set_avail_index(1000);
    machine.guest.queues[0].kick();
    // The reset joins the worker, which takes the doorbell first: it was rung first.
    while count.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    machine.device.reset();
    machine.guest = Guest::new(2);
    machine.activate(ALL_FEATURES);
    assert_eq!(machine.guest.write(0, &[1; 512]), OK);
}

#[test]
fn requests_on_all_queues_at_once_are_all_carried_out() {
    let file = sparse_file();
    let config = BlockConfig {
        queues: BlockDevice::QUEUES_MAX,
        ..CONFIG
    };
    let mut machine = Machine::with(&file, config, ALL_FEATURES);
    let guest = &mut machine.guest;
    let queues = guest.queues.len();
    let bytes = |slot: usize| vec![u8::try_from(slot + 1).unwrap(); 4096];
    let run_all = |guest: &mut Guest, request_type| {
        for slot in 0..SLOTS {
            let request = (request_type, 8 * slot as u64);
            let place = (slot % queues, slot);
            match request_type {
                VIRTIO_BLK_T_OUT => {
                    guest.add(place, request, Data::Out(&bytes(slot)), Shape::Plain)
                }
                _ => guest.add(place, request, Data::In(4096), Shape::Indirect),
            }
        }
        guest
            .queues
            .iter()
            .for_each(super::super::mock::DriverQueue::kick);
        for n in 0..SLOTS {
            let used = guest.queues[n % queues].wait_used();
            let slot = guest.used(n % queues, used);
            assert_eq!(guest.status(slot), OK);
        }
    };
    run_all(guest, VIRTIO_BLK_T_OUT);
    run_all(guest, VIRTIO_BLK_T_IN);
    for slot in 0..SLOTS {
        assert_eq!(guest.data(slot, 4096), bytes(slot));
    }
}

#[test]
fn configuration_space_is_as_specified() {
    let volume = Volume::plain(sparse_file(), SIZE);
    let device = BlockDevice::new(volume, CONFIG);
    let field = |offset, len: usize| {
        let mut bytes = [0; 8];
        device.read_config(offset, &mut bytes[..len]);
        u64::from_le_bytes(bytes)
    };
    assert_eq!(field(0, 8), SIZE / 512, "capacity");
    assert_eq!(field(12, 4), 254, "seg_max");
    assert_eq!(field(20, 4), 512, "blk_size");
    assert_eq!(field(24, 1), 3, "physical_block_exp");
    assert_eq!(field(34, 2), 2, "num_queues");
    assert_eq!(field(36, 4), 1 << 21, "max_discard_sectors");
    assert_eq!(field(40, 4), 32, "max_discard_seg");
    assert_eq!(field(44, 4), 8, "discard_sector_alignment");
    assert_eq!(field(48, 4), 1 << 21, "max_write_zeroes_sectors");
    assert_eq!(field(52, 4), 32, "max_write_zeroes_seg");
    assert_eq!(field(56, 1), 1, "write_zeroes_may_unmap");
    for beyond in [60, 1000, u64::MAX] {
        assert_eq!(field(beyond, 8), 0);
    }
}

#[test]
fn read_only_disk_says_so_and_cannot_be_written() {
    let file = sparse_file();
    let config = BlockConfig {
        read_only: true,
        ..CONFIG
    };
    let mut machine = Machine::with(&file, config, ALL_FEATURES);
    let features = machine.device.features();
    let guest = &mut machine.guest;
    let (ro, discard) = (1 << 5, 1 << 13);
    assert_eq!(features & (ro | discard), ro);
    assert_eq!(guest.write(0, &[1; 512]), IO_ERROR);
    assert_eq!(guest.read(0, 512), [0; 512]);
}

/// One request of a random history.
#[derive(Clone, Debug)]
enum Action {
    Read {
        sector: u64,
        sectors: usize,
    },
    Write {
        sector: u64,
        sectors: usize,
        fill: u8,
    },
    Zero {
        sector: u64,
        sectors: u32,
        unmap: bool,
    },
    Flush,
}

fn action() -> impl Strategy<Value = Action> {
    let run = (0..SIZE / 512, 1..=DATA_BYTES / 512);
    prop_oneof![
        4 => run.clone().prop_map(|(sector, sectors)| Action::Read { sector, sectors }),
        4 => (run.clone(), any::<u8>())
            .prop_map(|((sector, sectors), fill)| Action::Write { sector, sectors, fill }),
        1 => (run, any::<bool>()).prop_map(|((sector, sectors), unmap)| {
            let sectors = u32::try_from(sectors).unwrap();
            Action::Zero { sector, sectors, unmap }
        }),
        1 => Just(Action::Flush),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Plain),
        Just(Shape::Indirect),
        Just(Shape::Pieces(700)),
        Just(Shape::Pieces(5000)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The disk is the bytes that were written to it, whatever way they came.
    #[test]
    fn disk_behaves_as_a_vector_of_bytes(
        history in prop::collection::vec((action(), shape(), 0usize..2), 1..40),
        features in any::<u64>(),
    ) {
        let file = sparse_file();
        let mut machine = Machine::with(&file, CONFIG, features);
        let guest = &mut machine.guest;
        let mut model = vec![0; usize::try_from(SIZE).unwrap()];
        for (slot, (action, shape, queue)) in history.into_iter().enumerate() {
            let place = (queue, slot);
            let range = |sector: u64, sectors: usize| {
                let start = usize::try_from(sector).unwrap() * 512;
                start..start + sectors * 512
            };
            let (bytes, fits) = match action {
                Action::Read { sector, sectors } => {
                    let bytes = range(sector, sectors);
                    let request = (VIRTIO_BLK_T_IN, sector);
                    guest.add(place, request, Data::In(bytes.len()), shape);
                    (bytes.clone(), bytes.end <= model.len())
                }
                Action::Write { sector, sectors, fill } => {
                    let bytes = range(sector, sectors);
                    let request = (VIRTIO_BLK_T_OUT, sector);
                    guest.add(place, request, Data::Out(&vec![fill; bytes.len()]), shape);
                    let fits = bytes.end <= model.len();
                    if fits {
                        model[bytes].fill(fill);
                    }
                    (0..0, fits)
                }
                Action::Zero { sector, sectors, unmap } => {
                    let bytes = range(sector, sectors as usize);
                    let segment = (sector, sectors, u32::from(unmap));
                    guest.add_segments(place, VIRTIO_BLK_T_WRITE_ZEROES, &[segment]);
                    let fits = bytes.end <= model.len();
                    if fits {
                        model[bytes].fill(0);
                    }
                    (0..0, fits)
                }
                Action::Flush => {
                    guest.add(place, (VIRTIO_BLK_T_FLUSH, 0), Data::None, shape);
                    (0..0, true)
                }
            };
            guest.queues[queue].kick();
            let used = guest.queues[queue].wait_used();
            prop_assert_eq!(guest.used(queue, used), slot);
            prop_assert_eq!(guest.status(slot), if fits { OK } else { IO_ERROR });
            if fits {
                prop_assert!(guest.data(slot, bytes.len()) == model[bytes]);
            }
        }
    }
}

/// A store's volume, and what reads its frozen layers.
fn stored(home: &std::path::Path) -> (Volume, impl Fn(u32) -> Vec<u8> + use<>) {
    let (files, id) = (VolumeFiles::new(home), VolumeId::generate());
    let volume = files.create(&id, SIZE, None).unwrap();
    let frozen = move |below| {
        let standing = Standing::new(SIZE, None);
        let frozen = files.frozen(&id, &standing, below).unwrap();
        let mut chunk = vec![0; 4096];
        frozen.read_chunk(0, &mut chunk).unwrap();
        chunk
    };
    (volume, frozen)
}

/// Issue: a snapshot of several disks is worth nothing if a write shows in it and one that the guest
/// made before, on another disk, does not: a database keeps its log and its tables apart.
#[test]
fn disks_frozen_together_keep_the_order_of_writes_between_them() {
    const ROUNDS: u32 = 20;
    let home = tempfile::tempdir().unwrap();
    let (volumes, frozen): (Vec<_>, Vec<_>) = (0..2).map(|_| stored(home.path())).unzip();
    let mut machines: Vec<_> = volumes
        .into_iter()
        .map(|volume| {
            let mut machine = Machine {
                device: BlockDevice::new(volume, CONFIG),
                guest: Guest::new(CONFIG.queues.into()),
                needs_reset: Arc::default(),
            };
            machine.activate(ALL_FEATURES);
            machine
        })
        .collect();
    let handles: Vec<_> = machines.iter().map(|it| it.device.handle()).collect();
    let over = AtomicU32::new(0);
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| {
            let mut written = 0u32;
            while over.load(Ordering::SeqCst) == 0 {
                written += 1;
                for machine in &mut machines {
                    let bytes = written.to_le_bytes().repeat(1024);
                    assert_eq!(machine.guest.write(0, &bytes), OK);
                }
            }
            machines
        });
        let mut last = 0;
        for _ in 0..ROUNDS {
            let together = outside::freeze(&handles).unwrap();
            let views = together.layers.iter().zip(&frozen);
            let numbers: Vec<_> = views.map(|(layer, view)| number(&view(*layer))).collect();
            assert!(
                numbers[0] == numbers[1] || numbers[0] == numbers[1] + 1,
                "{numbers:?}"
            );
            assert!(numbers[0] >= last);
            last = numbers[0];
        }
        over.store(1, Ordering::SeqCst);
        let mut machines = guest.join().unwrap();
        assert_eq!(
            number(&machines[0].guest.read(0, 512)),
            number(&machines[1].guest.read(0, 512))
        );
    });
}

#[test]
fn disk_is_frozen_whether_or_not_its_guest_uses_it_until_it_is_gone() {
    let home = tempfile::tempdir().unwrap();
    let (volume, frozen) = stored(home.path());
    let mut machine = Machine {
        device: BlockDevice::new(volume, CONFIG),
        guest: Guest::new(CONFIG.queues.into()),
        needs_reset: Arc::default(),
    };
    let handle = machine.device.handle();
    let freeze = || outside::freeze(std::slice::from_ref(&handle)).map(|it| it.layers[0]);
    assert_eq!(freeze().unwrap(), 1, "before its driver has come up");
    machine.activate(ALL_FEATURES);
    assert_eq!(machine.guest.write(0, &[1; 4096]), OK);
    assert_eq!(freeze().unwrap(), 2);
    assert_eq!(frozen(2), [1; 4096]);
    machine.device.reset();
    handle.flush().unwrap();
    machine.guest = Guest::new(2);
    machine.activate(ALL_FEATURES);
    assert_eq!(machine.guest.write(0, &[2; 512]), OK);
    assert_eq!(freeze().unwrap(), 3);
    assert_eq!(frozen(2), [1; 4096]);
    assert_eq!(frozen(3)[..513], [[2; 512].as_slice(), &[1]].concat());
    drop(machine);
    let error = freeze().unwrap_err();
    assert!(matches!(error, outside::Error::Gone), "{error}");
    assert!(matches!(handle.flush(), Err(outside::Error::Gone)));
}

/// With nothing else to wake it, the worker goes on when its timer says so.
#[test]
fn limited_disk_carries_out_everything_that_it_is_asked_for() {
    let limits = Limits {
        iops: std::num::NonZero::new(40),
        throughput: std::num::NonZero::new(1),
    };
    let config = BlockConfig {
        limits: Some(limits),
        ..CONFIG
    };
    let mut machine = Machine::with(&sparse_file(), config, ALL_FEATURES);
    let guest = &mut machine.guest;
    for slot in 0..8 {
        let request = (VIRTIO_BLK_T_IN, 0);
        guest.add((slot % 2, slot), request, Data::In(4096), Shape::Plain);
    }
    guest.queues[0].kick();
    guest.queues[1].kick();
    for n in 0..8 {
        let used = guest.queues[n % 2].wait_used();
        let slot = guest.used(n % 2, used);
        assert_eq!(guest.status(slot), OK);
    }
    assert_eq!(guest.write(0, &[1; 512]), OK);
    machine.device.reset();
    assert!(matches!(*lock(&machine.device.state), State::Idle(_)));
}

/// Each activation had a limit of its own, so that a guest which breaks its queue and resets the device flooded the log.
#[test]
fn one_limit_holds_for_all_that_a_guest_has_the_device_log() {
    let file = sparse_file();
    let mut machine = Machine::new(&file);
    machine.device.reset();
    assert!(!machine.device.log.was_asked());
    machine.guest.queues[0].set_avail_index(1000);
    machine.activate(ALL_FEATURES);
    while machine.needs_reset.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    assert!(machine.device.log.was_asked());
}
