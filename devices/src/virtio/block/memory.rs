//! Guest memory that lies in one piece in this process, which almost all of a driver's buffers do: found with one
//! look-up. What does not lie so takes the way that is right for any memory.

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend as _, GuestMemoryError, GuestMemoryRegion as _,
    VolatileSlice,
};

use crate::GuestMemory;

/// The `len` bytes at `address`, if they are there in one piece.
pub(super) fn piece(
    memory: &GuestMemory,
    address: GuestAddress,
    len: usize,
) -> Option<VolatileSlice<'_>> {
    let (region, offset) = memory.to_region_addr(address)?;
    region.get_slice(offset, len).ok()
}

/// Whether the `len` bytes at `address` are there.
pub(super) fn is_there(memory: &GuestMemory, address: GuestAddress, len: usize) -> bool {
    piece(memory, address, len).is_some() || memory.check_range(address, len)
}

/// Copies the bytes at `address`, all of `out` or none that count.
///
/// # Errors
/// Not all of them are there.
pub(super) fn read(
    memory: &GuestMemory,
    address: GuestAddress,
    out: &mut [u8],
) -> Result<(), GuestMemoryError> {
    match piece(memory, address, out.len()) {
        Some(piece) => {
            piece.copy_to(out);
            Ok(())
        }
        None => memory.read_slice(out, address),
    }
}

/// Passes the `len` bytes at `address` to `each`, piece by piece.
///
/// # Errors
/// Not all of them are there.
pub(super) fn pieces(
    memory: &GuestMemory,
    address: GuestAddress,
    len: usize,
    mut each: impl FnMut((*mut u8, usize)),
) -> Result<(), GuestMemoryError> {
    if let Some(piece) = piece(memory, address, len) {
        each((piece.ptr_guard_mut().as_ptr(), piece.len()));
        return Ok(());
    }
    for piece in memory.get_slices(address, len) {
        let piece = piece?;
        each((piece.ptr_guard_mut().as_ptr(), piece.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two regions side by side, then a gap.
    fn memory() -> GuestMemory {
        let ranges = [(0, 4096), (4096, 4096), (16384, 4096)];
        GuestMemory::from_ranges(&ranges.map(|(at, len)| (GuestAddress(at), len))).unwrap()
    }

    #[test]
    fn bytes_in_two_regions_are_there_in_two_pieces() {
        let memory = memory();
        memory.write_slice(&[7; 200], GuestAddress(4000)).unwrap();
        let mut out = [0; 200];
        read(&memory, GuestAddress(4000), &mut out).unwrap();
        assert_eq!(out, [7; 200]);
        assert!(is_there(&memory, GuestAddress(4000), 200));
        assert!(piece(&memory, GuestAddress(4000), 200).is_none());
        let mut lens = Vec::new();
        pieces(&memory, GuestAddress(4000), 200, |(_, len)| lens.push(len)).unwrap();
        assert_eq!(lens, [96, 104]);
    }

    #[test]
    fn bytes_in_a_gap_are_not_there() {
        let memory = memory();
        for (address, len) in [(8192, 1), (8100, 100), (20000, 500), (u64::MAX, 2)] {
            let address = GuestAddress(address);
            assert!(!is_there(&memory, address, len));
            assert!(read(&memory, address, &mut vec![0; len]).is_err());
            assert!(pieces(&memory, address, len, |_| {}).is_err());
        }
    }
}
