//! Descriptor chains as the block device reads them, beside a reading of its own of what the driver wrote.

use virtio_queue::QueueOwnedT;
use vm_memory::{Bytes, GuestAddress};

use super::request::{self, Bounds, Kind, Reject, Request, SEGMENT_SECTORS_MAX, SEGMENTS_MAX};
use crate::fuzz::Input;
use crate::fuzz::guest::{Descriptor, Driver, QUEUES, is_memory};

pub use super::engine::fuzz::block;

const SECTOR: u64 = 512;

/// Drives the parser of requests.
pub fn chains(data: &[u8]) {
    let mut input = Input::new(data);
    let [flags, sectors] = input.array();
    let bounds = Bounds {
        capacity_bytes: SECTOR * u64::from(sectors),
        read_only: flags & 1 != 0,
        chain_max: if flags & 2 != 0 { 8 } else { 256 },
    };
    let mut driver = Driver::new();
    while !input.is_empty() {
        let what = input.byte();
        driver.step(what, &mut input);
    }
    for index in 0..QUEUES {
        let mut queue = driver.queue(index, flags & 4 != 0);
        // The driver may have said that there are more than fit.
        let Ok(chains) = queue.iter(&driver.memory) else {
            continue;
        };
        for chain in chains {
            let buffers = driver.flatten(index, chain.head_index(), bounds.chain_max);
            let parsed = request::parse(chain, &driver.memory, bounds);
            check(&driver, buffers.as_deref(), &parsed, bounds);
        }
    }
}

fn check(
    driver: &Driver,
    buffers: Option<&[Descriptor]>,
    parsed: &Result<Request, Reject>,
    bounds: Bounds,
) {
    let status = buffers.and_then(status_of);
    match parsed {
        Err(Reject::Unusable) => assert_eq!(status, None, "a place for a status was not seen"),
        Err(Reject::Status { address, .. }) => assert_eq!(Some(address.0), status),
        Ok(request) => {
            assert_eq!(Some(request.status.0), status);
            check_request(driver, buffers.unwrap_or_default(), request, bounds);
        }
    }
}

/// Where the status byte goes: the last writable one (virtio 1.3 §5.2.6), if it is there.
fn status_of(buffers: &[Descriptor]) -> Option<u64> {
    let last = buffers.iter().rfind(|it| it.is_writable() && it.len > 0)?;
    let at = last.address.checked_add(u64::from(last.len) - 1)?;
    is_memory(at, 1).then_some(at)
}

fn check_request(driver: &Driver, buffers: &[Descriptor], request: &Request, bounds: Bounds) {
    let used: Vec<_> = buffers.iter().filter(|it| it.len > 0).collect();
    let used = || used.iter().copied();
    let first_writable = used().position(|it| it.is_writable());
    let last_readable = used().rposition(|it| !it.is_writable());
    assert!(
        last_readable < first_writable,
        "a readable buffer after a writable one"
    );
    let total = |writable: bool| -> u64 {
        let side = used().filter(|it| it.is_writable() == writable);
        side.map(|it| u64::from(it.len)).sum()
    };
    let present = used().all(|it| it.is_present() || it.is_writable() && it.len == 1);
    assert!(present, "a buffer outside memory");
    let header: Vec<u8> = used()
        .filter(|it| !it.is_writable())
        .flat_map(|it| bytes(driver, it))
        .take(16)
        .collect();
    let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
    let sector = u64::from_le_bytes(header[8..].try_into().unwrap());
    let sum: u64 = request.data.iter().map(|it| u64::from(it.len)).sum();
    assert_eq!(sum, request.data_bytes);
    assert!(
        request
            .data
            .iter()
            .all(|it| it.len > 0 && is_memory(it.address.0, it.len.into()))
    );
    let changes = !bounds.read_only;
    match &request.kind {
        Kind::Read { offset } => {
            assert_eq!((kind, *offset, sum), (0, SECTOR * sector, total(true) - 1));
            assert!(offset + sum <= bounds.capacity_bytes && sum.is_multiple_of(SECTOR));
        }
        Kind::Write { offset } => {
            assert_eq!(
                (kind, *offset, sum),
                (1, SECTOR * sector, total(false) - 16)
            );
            assert!(offset + sum <= bounds.capacity_bytes && sum.is_multiple_of(SECTOR));
            assert!(changes);
        }
        Kind::Flush => assert_eq!((kind, sum), (4, 0)),
        Kind::Identify => assert_eq!((kind, sum), (8, total(true) - 1)),
        Kind::Discard(segments) | Kind::WriteZeroes(segments) => {
            let expected = if matches!(request.kind, Kind::Discard(_)) {
                11
            } else {
                13
            };
            assert_eq!((kind, sum), (expected, 0));
            assert_eq!(16 * segments.len() as u64, total(false) - 16);
            assert!(changes && segments.len() <= SEGMENTS_MAX as usize);
            for it in segments {
                assert!(it.len <= SECTOR * u64::from(SEGMENT_SECTORS_MAX));
                assert!(
                    it.offset
                        .checked_add(it.len)
                        .is_some_and(|end| end <= bounds.capacity_bytes)
                );
            }
        }
    }
}

/// The first bytes of a buffer, a header's worth.
fn bytes(driver: &Driver, buffer: &Descriptor) -> Vec<u8> {
    let mut bytes = vec![0; (buffer.len as usize).min(16)];
    driver
        .memory
        .read_slice(&mut bytes, GuestAddress(buffer.address))
        .unwrap();
    bytes
}
