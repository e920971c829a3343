//! What a driver may ask, and what it may not.

use proptest::prelude::*;
use virtio_queue::QueueOwnedT;
use vm_memory::{Bytes, GuestMemory as _, Permissions};

use super::*;
use crate::virtio::mock::{self, Descriptor, DriverQueue, NEXT, readable, writable};

const HEADER: u64 = 0x20_0000;
const DATA: u64 = 0x30_0000;
const STATUS: u64 = 0x40_0000;
const LIMITS: Bounds = Bounds {
    capacity_bytes: 1 << 30,
    read_only: false,
    chain_max: 256,
};

fn header(memory: &GuestMemory, request_type: u32, sector: u64) {
    memory
        .write_obj(request_type, GuestAddress(HEADER))
        .unwrap();
    memory.write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
}

fn parse_next(
    queue: &DriverQueue,
    memory: &GuestMemory,
    bounds: Bounds,
) -> Result<Request, Reject> {
    let mut active = queue.activate();
    let chain = active.queue.iter(memory).unwrap().next().unwrap();
    parse(chain, memory, bounds)
}

/// Parses one chain with this header.
fn parse_one(request_type: u32, sector: u64, chain: &[Descriptor]) -> Result<Request, Reject> {
    let memory = mock::memory();
    header(&memory, request_type, sector);
    let mut queue = DriverQueue::new(&memory, 0, 256);
    queue.add(chain);
    parse_next(&queue, &memory, LIMITS)
}

fn failed(status: Status) -> Result<Request, Reject> {
    let address = GuestAddress(STATUS);
    Err(Reject::Status { address, status })
}

#[test]
fn read_is_understood_whether_its_chain_is_direct_or_indirect() {
    let memory = mock::memory();
    header(&memory, VIRTIO_BLK_T_IN, 3);
    let chain = [
        readable(HEADER, 16),
        writable(DATA, 1024),
        writable(DATA + 0x1000, 512),
        writable(STATUS, 1),
    ];
    let expected = Request {
        kind: Kind::Read { offset: 1536 },
        data: vec![
            Buffer {
                address: GuestAddress(DATA),
                len: 1024,
            },
            Buffer {
                address: GuestAddress(DATA + 0x1000),
                len: 512,
            },
        ],
        data_bytes: 1536,
        status: GuestAddress(STATUS),
    };
    let mut direct = DriverQueue::new(&memory, 0, 8);
    direct.add(&chain);
    assert_eq!(parse_next(&direct, &memory, LIMITS).as_ref(), Ok(&expected));
    let mut indirect = DriverQueue::new(&memory, 0, 8);
    indirect.add_indirect(0x10_0000, &chain);
    assert_eq!(parse_next(&indirect, &memory, LIMITS), Ok(expected));
}

/// virtio 1.3 §2.7.4.3: the device must not rely on how a message is cut into descriptors.
#[test]
fn header_data_and_status_may_share_and_straddle_descriptors() {
    let split = [
        readable(HEADER, 5),
        readable(HEADER + 5, 0),
        readable(HEADER + 5, 10),
        readable(HEADER + 15, 1 + 100),
        readable(DATA, 412),
        writable(STATUS, 1),
    ];
    let request = parse_one(VIRTIO_BLK_T_OUT, 0, &split).unwrap();
    assert_eq!(request.kind, Kind::Write { offset: 0 });
    let data = [
        Buffer {
            address: GuestAddress(HEADER + 16),
            len: 100,
        },
        Buffer {
            address: GuestAddress(DATA),
            len: 412,
        },
    ];
    assert_eq!(request.data, data);

    let status_behind_data = [readable(HEADER, 16), writable(DATA, 513)];
    let request = parse_one(VIRTIO_BLK_T_IN, 0, &status_behind_data).unwrap();
    assert_eq!(request.data_bytes, 512);
    assert_eq!(request.status, GuestAddress(DATA + 512));
}

#[test]
fn request_outside_the_disk_or_not_of_whole_sectors_fails() {
    let last = LIMITS.capacity_bytes / SECTOR_BYTES - 1;
    let read = |sector, len| {
        let chain = [
            readable(HEADER, 16),
            writable(DATA, len),
            writable(STATUS, 1),
        ];
        parse_one(VIRTIO_BLK_T_IN, sector, &chain)
    };
    assert!(read(last, 512).is_ok());
    for (sector, len) in [
        (last, 1024),
        (last + 1, 512),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (0, 511),
    ] {
        assert_eq!(read(sector, len), failed(Status::IoError), "{sector} {len}");
    }
}

#[test]
fn request_without_data_is_valid_and_moves_nothing() {
    let chain = [readable(HEADER, 16), writable(STATUS, 1)];
    for request_type in [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH] {
        let request = parse_one(request_type, 0, &chain).unwrap();
        assert_eq!(request.data_bytes, 0);
    }
}

#[test]
fn more_data_than_the_limit_fails() {
    // The same 15 MiB again and again: a guest needs no memory to ask for much.
    let mut chain = vec![readable(HEADER, 16)];
    chain.extend(vec![writable(0x10_0000, 15 << 20); 9]);
    chain.push(writable(STATUS, 1));
    assert_eq!(
        parse_one(VIRTIO_BLK_T_IN, 0, &chain),
        failed(Status::IoError)
    );
    chain.remove(1);
    assert!(parse_one(VIRTIO_BLK_T_IN, 0, &chain).is_ok());
}

#[test]
fn unknown_types_are_unsupported() {
    let chain = [readable(HEADER, 16), writable(STATUS, 1)];
    for request_type in [2, 3, 5, 10, 14, 0x8000_0000, u32::MAX] {
        assert_eq!(
            parse_one(request_type, 0, &chain),
            failed(Status::Unsupported)
        );
    }
}

#[test]
fn buffers_outside_memory_and_in_the_wrong_order_fail() {
    let status = writable(STATUS, 1);
    let chains = [
        [readable(HEADER, 16), writable(17 << 20, 512), status],
        [
            readable(HEADER, 16),
            writable((16 << 20) - 511, 512),
            status,
        ],
        [readable(HEADER, 16), writable(u64::MAX - 100, 512), status],
        [writable(DATA, 512), readable(HEADER, 16), status],
        [readable(HEADER, 15), writable(DATA, 512), status],
    ];
    for chain in chains {
        assert_eq!(
            parse_one(VIRTIO_BLK_T_IN, 0, &chain),
            failed(Status::IoError),
            "{chain:?}"
        );
    }
}

#[test]
fn chain_without_a_usable_status_byte_is_unusable() {
    let chains: [&[Descriptor]; 5] = [
        &[readable(HEADER, 16)],
        &[readable(HEADER, 16), writable(STATUS, 0)],
        &[readable(HEADER, 16), writable(17 << 20, 1)],
        &[readable(HEADER, 16), writable(u64::MAX, 2)],
        &[Descriptor {
            flags: NEXT,
            next: 300,
            ..readable(HEADER, 16)
        }],
    ];
    for chain in chains {
        assert_eq!(
            parse_one(VIRTIO_BLK_T_IN, 0, chain),
            Err(Reject::Unusable),
            "{chain:?}"
        );
    }
}

#[test]
fn chain_longer_than_queue_is_rejected() {
    let memory = mock::memory();
    header(&memory, VIRTIO_BLK_T_IN, 0);
    // A loop.
    let mut queue = DriverQueue::new(&memory, 0, 8);
    queue.add(&[readable(HEADER, 16)]);
    queue.put(
        0,
        Descriptor {
            flags: NEXT,
            next: 0,
            ..readable(HEADER, 16)
        },
    );
    assert_eq!(parse_next(&queue, &memory, LIMITS), Err(Reject::Unusable));
    // An indirect table that is longer than any queue.
    let mut queue = DriverQueue::new(&memory, 0, 8);
    let mut chain = vec![readable(HEADER, 16)];
    chain.resize(256, writable(DATA, 512));
    chain.push(writable(STATUS, 1));
    queue.add_indirect(0x10_0000, &chain);
    assert_eq!(parse_next(&queue, &memory, LIMITS), Err(Reject::Unusable));
    chain.remove(1);
    let mut queue = DriverQueue::new(&memory, 0, 8);
    queue.add_indirect(0x10_0000, &chain);
    assert!(parse_next(&queue, &memory, LIMITS).is_ok());
}

#[test]
fn read_only_disk_refuses_what_would_change_it() {
    let memory = mock::memory();
    let bounds = Bounds {
        read_only: true,
        ..LIMITS
    };
    let chain = [
        readable(HEADER, 16),
        readable(DATA, 512),
        writable(STATUS, 1),
    ];
    for request_type in [
        VIRTIO_BLK_T_OUT,
        VIRTIO_BLK_T_DISCARD,
        VIRTIO_BLK_T_WRITE_ZEROES,
    ] {
        header(&memory, request_type, 0);
        let mut queue = DriverQueue::new(&memory, 0, 8);
        queue.add(&chain);
        assert_eq!(parse_next(&queue, &memory, bounds), failed(Status::IoError));
    }
    header(&memory, VIRTIO_BLK_T_FLUSH, 0);
    let mut queue = DriverQueue::new(&memory, 0, 8);
    queue.add(&chain);
    assert!(parse_next(&queue, &memory, bounds).is_ok());
}

/// Parses a discard or zeroing of (sector, sectors, flags).
fn parse_segments(request_type: u32, segments: &[(u64, u32, u32)]) -> Result<Kind, Reject> {
    let memory = mock::memory();
    header(&memory, request_type, 0);
    for (n, (sector, sectors, flags)) in segments.iter().enumerate() {
        let address = DATA + 16 * n as u64;
        memory.write_obj(*sector, GuestAddress(address)).unwrap();
        memory
            .write_obj(*sectors, GuestAddress(address + 8))
            .unwrap();
        memory
            .write_obj(*flags, GuestAddress(address + 12))
            .unwrap();
    }
    let len = u32::try_from(16 * segments.len()).unwrap();
    let mut queue = DriverQueue::new(&memory, 0, 8);
    queue.add(&[
        readable(HEADER, 16),
        readable(DATA, len),
        writable(STATUS, 1),
    ]);
    parse_next(&queue, &memory, LIMITS).map(|request| request.kind)
}

#[test]
fn segments_are_understood() {
    let zeroes = parse_segments(VIRTIO_BLK_T_WRITE_ZEROES, &[(8, 16, 1), (1, 1, 0)]);
    let expected = vec![
        Segment {
            offset: 4096,
            len: 8192,
            unmap: true,
        },
        Segment {
            offset: 512,
            len: 512,
            unmap: false,
        },
    ];
    assert_eq!(zeroes, Ok(Kind::WriteZeroes(expected)));
    let all = parse_segments(VIRTIO_BLK_T_DISCARD, &[(0, SEGMENT_SECTORS_MAX, 0)]);
    let whole = Segment {
        offset: 0,
        len: 1 << 30,
        unmap: false,
    };
    assert_eq!(all, Ok(Kind::Discard(vec![whole])));
}

#[test]
fn segments_against_the_rules_fail_as_the_specification_says() {
    let error = |status| failed(status).map(|request| request.kind);
    type Case = (u32, &'static [(u64, u32, u32)], Status);
    let cases: [Case; 6] = [
        // virtio 1.3 §5.2.6.2: unmap is meaningless in a discard, other flags are unknown.
        (VIRTIO_BLK_T_DISCARD, &[(0, 8, 1)], Status::Unsupported),
        (VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 2)], Status::Unsupported),
        (VIRTIO_BLK_T_WRITE_ZEROES, &[], Status::IoError),
        (
            VIRTIO_BLK_T_DISCARD,
            &[(2, SEGMENT_SECTORS_MAX, 0)],
            Status::IoError,
        ),
        (VIRTIO_BLK_T_DISCARD, &[(0, u32::MAX, 0)], Status::IoError),
        (VIRTIO_BLK_T_DISCARD, &[(u64::MAX, 8, 0)], Status::IoError),
    ];
    for (request_type, segments, status) in cases {
        assert_eq!(
            parse_segments(request_type, segments),
            error(status),
            "{segments:?}"
        );
    }
    let many = vec![(0, 8, 0); SEGMENTS_MAX as usize];
    assert!(parse_segments(VIRTIO_BLK_T_DISCARD, &many).is_ok());
    let too_many = vec![(0, 8, 0); SEGMENTS_MAX as usize + 1];
    assert_eq!(
        parse_segments(VIRTIO_BLK_T_DISCARD, &too_many),
        error(Status::IoError)
    );
}

proptest! {
    /// Whatever a driver writes, what is accepted lies inside the disk and inside memory.
    #[test]
    fn accepted_requests_keep_to_their_limits(
        table in prop::collection::vec((any_address(), any_len(), 0u16..8, 0u16..10), 8),
        header_bytes in prop::collection::vec((0u32..16, 0u64..1 << 22), 4),
    ) {
        let memory = mock::memory();
        for (n, (request_type, sector)) in header_bytes.iter().enumerate() {
            let at = HEADER + 0x1000 * n as u64;
            memory.write_obj(*request_type, GuestAddress(at)).unwrap();
            memory.write_obj(*sector, GuestAddress(at + 8)).unwrap();
        }
        let mut queue = DriverQueue::new(&memory, 0, 8);
        for (index, &(address, len, flags, next)) in table.iter().enumerate() {
            let descriptor = Descriptor { address, len, flags, next };
            queue.put(u16::try_from(index).unwrap(), descriptor);
        }
        queue.offer(0);
        if let Ok(request) = parse_next(&queue, &memory, LIMITS) {
            prop_assert!(request.data.len() <= 8);
            for b in &request.data {
                prop_assert!(memory.check_range(b.address, b.len as usize, Permissions::Read));
            }
            if let Kind::Read { offset } | Kind::Write { offset } = request.kind {
                prop_assert!(offset + request.data_bytes <= LIMITS.capacity_bytes);
            }
            if let Kind::Discard(segments) | Kind::WriteZeroes(segments) = request.kind {
                for s in segments {
                    prop_assert!(s.offset + s.len <= LIMITS.capacity_bytes);
                }
            }
        }
    }
}

fn any_address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0u64..4).prop_map(|n| HEADER + 0x1000 * n),
        4 => 0u64..0x40,
        2 => (16u64 << 20) - 1024..(16 << 20) + 1024,
        1 => any::<u64>(),
    ]
}

fn any_len() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(16u32),
        Just(1),
        Just(512),
        Just(128),
        0u32..2048,
        any::<u32>()
    ]
}
