//! Accesses of any size and alignment to devices whose registers have 4 bytes.

/// Serves an access of any size and alignment from registers of 4 bytes; `read` is called once for
/// each register that the access touches.
pub(crate) fn read_dwords(offset: u64, data: &mut [u8], mut read: impl FnMut(u64) -> u32) {
    let mut current = None;
    for (at, byte) in (offset..).zip(data) {
        let value = match current {
            Some((index, value)) if index == at / 4 => value,
            _ => read(at / 4),
        };
        current = Some((at / 4, value));
        [*byte, ..] = (value >> (8 * (at % 4))).to_le_bytes();
    }
}

/// Cuts a write of any size and alignment into `write(index, value, enabled)`, one for each
/// register of 4 bytes that it touches.
pub(crate) fn write_dwords(offset: u64, data: &[u8], mut write: impl FnMut(u64, u32, u32)) {
    let mut current: Option<(u64, u32, u32)> = None;
    for (at, byte) in (offset..).zip(data) {
        let (value, enabled) = match current {
            Some((index, value, enabled)) if index == at / 4 => (value, enabled),
            Some((index, value, enabled)) => {
                write(index, value, enabled);
                (0, 0)
            }
            None => (0, 0),
        };
        let shift = 8 * (at % 4);
        current = Some((
            at / 4,
            value | u32::from(*byte) << shift,
            enabled | 0xff << shift,
        ));
    }
    if let Some((index, value, enabled)) = current {
        write(index, value, enabled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_of_any_shape_touches_each_register_once() {
        let mut data = [0; 7];
        let mut touched = Vec::new();
        read_dwords(3, &mut data, |index| {
            touched.push(index);
            0x0302_0100 + 0x0404_0404 * u32::try_from(index).unwrap()
        });
        assert_eq!(data, [3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(touched, [0, 1, 2]);

        let mut writes = Vec::new();
        write_dwords(3, &[3, 4, 5, 6, 7, 8], |i, v, e| writes.push((i, v, e)));
        assert_eq!(
            writes,
            [
                (0, 0x0300_0000, 0xff00_0000),
                (1, 0x0706_0504, 0xffff_ffff),
                (2, 8, 0xff)
            ]
        );
    }
}
