//! What the driver may know: the feature bits and `struct virtio_blk_config` (virtio 1.3 §5.2.3,
//! §5.2.4). Nothing in it can be written.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::request::{SECTOR_BYTES, SEGMENT_SECTORS_MAX, SEGMENTS_MAX};

/// Entries of a queue: requests in flight, or descriptors in a chain.
pub(super) const QUEUE_SIZE: u16 = 256;

/// Data buffers of a request: a chain without its header and its status byte.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// What the driver addresses the disk by.
const LOGICAL_BLOCK_BYTES: u32 = 512;

/// log2 of how many logical blocks are a physical one: 4096 bytes, the copy-on-write granule.
const PHYSICAL_BLOCK_EXP: u8 = 3;
const SECTORS_PER_PHYSICAL_BLOCK: u16 = 1 << PHYSICAL_BLOCK_EXP;

/// The bytes of the configuration that the features below give a meaning.
const CONFIG_BYTES: usize = 60;

pub(super) fn features(read_only: bool) -> u64 {
    let mut bits = vec![
        VIRTIO_F_VERSION_1,
        VIRTIO_RING_F_INDIRECT_DESC,
        VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_MQ,
    ];
    if read_only {
        bits.push(VIRTIO_BLK_F_RO);
    } else {
        bits.extend([VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]);
    }
    bits.into_iter().fold(0, |all, bit| all | 1 << bit)
}

/// `struct virtio_blk_config` for a disk of `size_bytes` bytes.
pub(super) fn space(size_bytes: u64, queues: u16) -> [u8; CONFIG_BYTES] {
    let mut space = [0; CONFIG_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| {
        for (to, from) in space.iter_mut().skip(offset).zip(bytes) {
            *to = *from;
        }
    };
    put(0, &(size_bytes / SECTOR_BYTES).to_le_bytes()); // capacity, in sectors
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &LOGICAL_BLOCK_BYTES.to_le_bytes()); // blk_size
    put(24, &[PHYSICAL_BLOCK_EXP]);
    put(26, &SECTORS_PER_PHYSICAL_BLOCK.to_le_bytes()); // min_io_size, in blocks
    put(34, &queues.to_le_bytes());
    put(36, &SEGMENT_SECTORS_MAX.to_le_bytes()); // max_discard_sectors
    put(40, &SEGMENTS_MAX.to_le_bytes()); // max_discard_seg
    put(44, &u32::from(SECTORS_PER_PHYSICAL_BLOCK).to_le_bytes()); // discard_sector_alignment
    put(48, &SEGMENT_SECTORS_MAX.to_le_bytes()); // max_write_zeroes_sectors
    put(52, &SEGMENTS_MAX.to_le_bytes()); // max_write_zeroes_seg
    put(56, &[1]); // write_zeroes_may_unmap
    space
}
