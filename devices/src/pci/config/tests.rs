use proptest::prelude::*;

use super::*;

const IDENTITY: Identity = Identity {
    vendor_id: 0x1234,
    device_id: 0x5678,
    revision: 0x9a,
    class: 0x01_8000,
    subsystem_vendor_id: 0xbcde,
    subsystem_id: 0xf012,
};

fn space() -> ConfigSpace {
    let mut builder = Builder::new(&IDENTITY);
    builder.bar(0, BarWidth::Bits64, 0x1_0000).unwrap();
    builder.bar(2, BarWidth::Bits32, 0x1000).unwrap();
    let capability = |id, body: &[u8], writable: &[u8]| Capability {
        id,
        body: body.to_vec(),
        writable: writable.to_vec(),
    };
    let first = builder.capability(&capability(0x09, &[7, 1, 2, 3, 4], &[0, 0xff]));
    let second = builder.capability(&capability(0x11, &[5, 6], &[]));
    assert_eq!((first, second), (Ok(0x40), Ok(0x48)));
    builder.build()
}

#[test]
fn header_says_what_it_was_built_from() {
    let space = space();
    assert_eq!(space.read(0), 0x5678_1234);
    assert_eq!(space.read(1), 0x0010_0000, "capabilities, nothing decoded");
    assert_eq!(space.read(2), 0x0180_009a);
    assert_eq!(space.read(3), 0, "a type 0 header, one function");
    assert_eq!(space.read(11), 0xf012_bcde);
    assert_eq!(space.read(15), 0, "no interrupt pin");
    assert_eq!((space.read(64), space.read(255)), (0, 0));
}

#[test]
fn capabilities_are_linked_and_only_their_writable_bits_change() {
    let space = space();
    assert_eq!(space.read(13), 0x40);
    assert_eq!((space.read(16), space.read(17)), (0x0107_4809, 0x0004_0302));
    assert_eq!(space.read(18), 0x0605_0011);
    for register in 16..19 {
        space.write(register, u32::MAX, u32::MAX);
    }
    assert_eq!(space.read(16), 0xff07_4809);
    assert_eq!((space.read(17), space.read(18)), (0x0004_0302, 0x0605_0011));
}

#[test]
fn sizing_tells_each_bars_size_and_kind() {
    let space = space();
    for register in 4..10 {
        space.write(register, u32::MAX, u32::MAX);
    }
    let sizes = [4, 5, 6, 7, 8, 9].map(|r| space.read(r));
    assert_eq!(sizes, [0xffff_0004, 0xffff_ffff, 0xffff_f000, 0, 0, 0]);
}

#[test]
fn bar_is_decoded_where_the_guest_puts_it_while_memory_is_on() {
    let space = space();
    space.place_bar(0, 0x12_3456_0000);
    space.place_bar(2, 0xe000_1000);
    assert_eq!(space.bar_address(0), None);
    space.write(1, COMMAND_MEMORY, 0xff);
    assert_eq!(space.bar_address(0), Some(0x12_3456_0000));
    assert_eq!(space.find_bar(0x12_3456_fffc, 4), Some((0, 0xfffc)));
    assert_eq!(space.find_bar(0x12_3456_fffd, 4), None, "beyond its end");
    assert_eq!(space.find_bar(0x12_3455_fffc, 8), None, "before its start");
    assert_eq!(space.find_bar(0xe000_1000, 1), Some((2, 0)));
    // One half at a time, as a guest moves it.
    space.write(5, 0, u32::MAX);
    assert_eq!(space.find_bar(0x3456_0000, 1), Some((0, 0)));
    space.write(1, 0, 0xff);
    assert_eq!((space.bar_address(0), space.bar_address(2)), (None, None));
    assert_eq!(space.find_bar(0x3456_0000, 1), None);
}

#[test]
fn bars_that_cannot_be_are_refused() {
    let mut builder = Builder::new(&IDENTITY);
    builder.bar(1, BarWidth::Bits64, 16).unwrap();
    for (bar, width, size) in [
        (0, BarWidth::Bits64, 16), // its upper half is taken
        (2, BarWidth::Bits32, 16),
        (3, BarWidth::Bits32, 8),
        (3, BarWidth::Bits32, 24),
        (3, BarWidth::Bits32, 1 << 32),
        (5, BarWidth::Bits64, 16),
        (6, BarWidth::Bits32, 16),
        (255, BarWidth::Bits64, 16),
    ] {
        let refused = Err(Error::Bar { bar, size });
        assert_eq!(builder.bar(bar, width, size), refused);
    }
    builder.bar(0, BarWidth::Bits32, 1 << 31).unwrap();
    builder.bar(4, BarWidth::Bits64, 1 << 63).unwrap();
}

#[test]
fn capabilities_beyond_the_end_are_refused() {
    let mut builder = Builder::new(&IDENTITY);
    let capability = Capability {
        id: 9,
        body: vec![0; 190],
        writable: Vec::new(),
    };
    assert_eq!(builder.capability(&capability), Ok(0x40));
    let more = Capability {
        body: Vec::new(),
        ..capability
    };
    let full = Error::CapabilitiesFull { id: 9, offset: 255 };
    assert_eq!(builder.capability(&more), Err(full));
}

proptest! {
    #[test]
    fn no_write_changes_what_is_read_only(
        writes in prop::collection::vec((any::<u8>(), any::<u32>(), any::<u32>()), 0..64),
    ) {
        let (space, fresh) = (space(), space());
        for (register, value, enabled) in writes {
            space.write(register, value, enabled);
        }
        for register in [0, 2, 7, 8, 9, 10, 11, 12, 13, 14, 17, 18] {
            prop_assert_eq!(space.read(register), fresh.read(register));
        }
        prop_assert_eq!(space.read(4) & 0xffff, 4);
        prop_assert_eq!(space.read(1) >> 16, 0x10);
        if let Some(address) = space.bar_address(0) {
            prop_assert_eq!(address % 0x1_0000, 0);
            let last = address + 0xffff;
            prop_assert_eq!(space.find_bar(last, 1).map(|(_, offset)| offset % 0x1000), Some(0xfff));
            prop_assert_eq!(space.find_bar(last, u64::MAX), None);
        }
    }
}
