//! What every Arm PrimeCell peripheral ends with: the identification registers by which the AMBA bus knows it
//! (ARM DDI 0183 §3.3.14, DDI 0190 §3.3.10, DDI 0224 §3.4.10; all the same).

/// Bytes of a peripheral's registers.
pub const BYTES: u64 = 0x1000;

/// The first of eight registers that have a byte each.
const ID_INDEX: u64 = 0xfe0 / 4;
/// What the last four say of every PrimeCell.
const CELL_ID: u32 = 0xb105_f00d;

/// Register `index`, counted in 4 bytes, of a peripheral with the id `peripheral`, if it is one of these.
pub(crate) fn id_register(peripheral: u32, index: u64) -> Option<u32> {
    let [a, b, c, d] = peripheral.to_le_bytes();
    let [e, f, g, h] = CELL_ID.to_le_bytes();
    let at = usize::try_from(index.checked_sub(ID_INDEX)?).ok()?;
    [a, b, c, d, e, f, g, h].get(at).copied().map(u32::from)
}
