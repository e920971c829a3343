//! The tree is read back, by a reader of its own (Devicetree Specification 0.4, §5).

use std::collections::BTreeMap;

use super::*;
use crate::arch::range::{GIB, MIB};

/// Properties by `/node/…/property`.
type Tree = BTreeMap<String, Vec<u8>>;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn offset(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u32_at(bytes, at)).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap();
    std::str::from_utf8(&bytes[..end]).unwrap()
}

fn parse(blob: &[u8]) -> Tree {
    assert_eq!(u32_at(blob, 0), 0xd00d_feed);
    assert_eq!(offset(blob, 4), blob.len());
    let (mut at, strings) = (offset(blob, 8), offset(blob, 12));
    let (mut tree, mut path) = (Tree::new(), Vec::new());
    loop {
        let token = u32_at(blob, at);
        at += 4;
        match token {
            1 => {
                let name = text(&blob[at..]).to_owned();
                at = (at + name.len() + 1).next_multiple_of(4);
                path.push(name);
            }
            2 => drop(path.pop().unwrap()),
            3 => {
                let (len, name) = (offset(blob, at), strings + offset(blob, at + 4));
                let key = format!("{}/{}", path.join("/"), text(&blob[name..]));
                let value = blob[at + 8..at + 8 + len].to_vec();
                assert_eq!(tree.insert(key, value), None);
                at = (at + 8 + len).next_multiple_of(4);
            }
            9 => break,
            _ => assert_eq!(token, 4),
        }
    }
    assert_eq!(path, [""; 0]);
    tree
}

fn machine(gic: Gic, cpus: u64) -> Machine {
    Machine {
        // As KVM numbers them.
        cpus: (0..cpus).map(|n| 1 << 31 | n >> 4 << 8 | n & 0xf).collect(),
        memory_bytes: 6 * GIB,
        gic,
        pci_window_64: Some(Range::new(256 * GIB, 256 * GIB)),
    }
}

const BOOT: Boot<'_> = Boot {
    cmdline: "quiet",
    initrd: Some(Range::new(0x4800_0000, 0x1234)),
    seed: &[7; SEED_BYTES],
};

fn parsed(gic: Gic, cpus: u64) -> Tree {
    parse(&tree(&machine(gic, cpus), &BOOT).unwrap())
}

fn cells(value: &[u8]) -> Vec<u32> {
    (0..value.len())
        .step_by(4)
        .map(|at| u32_at(value, at))
        .collect()
}

#[test]
fn kernel_finds_its_command_line_initrd_console_and_seeds() {
    let tree = parsed(Gic::V3, 1);
    assert_eq!(tree["/chosen/bootargs"], b"quiet\0");
    assert_eq!(cells(&tree["/chosen/linux,initrd-start"]), [0, 0x4800_0000]);
    assert_eq!(cells(&tree["/chosen/linux,initrd-end"]), [0, 0x4800_1234]);
    assert_eq!(tree["/chosen/rng-seed"].len(), 32);
    assert_eq!(tree["/chosen/kaslr-seed"].len(), 8);
    let console = text(&tree["/chosen/stdout-path"]).to_owned();
    assert_eq!(text(&tree[&format!("{console}/compatible")]), "arm,pl011");
    assert_eq!(
        cells(&tree["/memory@40000000/reg"]),
        [0, 1 << 30, 1, 0x8000_0000]
    );
    let without = Boot {
        initrd: None,
        ..BOOT
    };
    let tree = parse(&super::tree(&machine(Gic::V3, 1), &without).unwrap());
    assert!(!tree.contains_key("/chosen/linux,initrd-start"));
}

#[test]
fn every_processor_is_there_with_its_affinity_and_in_the_map() {
    for cpus in [1, 4, 32] {
        let tree = parsed(Gic::V3, cpus);
        for index in 0..cpus {
            let affinity = index >> 4 << 8 | index & 0xf;
            let cpu = format!("/cpus/cpu@{affinity:x}");
            assert_eq!(
                cells(&tree[&format!("{cpu}/reg")]),
                [u32::try_from(affinity).unwrap()]
            );
            assert_eq!(tree[&format!("{cpu}/enable-method")], b"psci\0");
            let core = format!("/cpus/cpu-map/socket0/cluster0/core{index}/cpu");
            assert_eq!(tree[&core], tree[&format!("{cpu}/phandle")]);
        }
        let count = tree
            .keys()
            .filter(|key| key.ends_with("/enable-method"))
            .count();
        assert_eq!(count as u64, cpus);
    }
}

#[test]
fn gic_v3_has_a_redistributor_a_processor_and_an_its() {
    let tree = parsed(Gic::V3, 4);
    let gic = "/interrupt-controller@8000000";
    let reg = cells(&tree[&format!("{gic}/reg")]);
    assert_eq!(
        reg,
        [0, 0x800_0000, 0, 0x1_0000, 0, 0x810_0000, 0, 0x8_0000]
    );
    let its = &tree[&format!("{gic}/msi-controller@8080000/phandle")];
    let map = cells(&tree["/pcie@10000000/msi-map"]);
    assert_eq!(map, [0, cells(its)[0], 0, 0x1_0000]);
    assert_eq!(cells(&tree["/timer/interrupts"])[..6], [1, 13, 8, 1, 14, 8]);
}

#[test]
fn gic_v2_has_a_frame_for_messages_and_its_timers_name_the_processors() {
    let tree = parsed(Gic::V2, 4);
    let gic = "/interrupt-controller@8000000";
    let reg = cells(&tree[&format!("{gic}/reg")]);
    assert_eq!(reg, [0, 0x800_0000, 0, 0x1000, 0, 0x802_0000, 0, 0x2000]);
    let frame = &tree[&format!("{gic}/v2m@8030000/phandle")];
    assert_eq!(&tree["/pcie@10000000/msi-parent"], frame);
    assert_eq!(cells(&tree["/timer/interrupts"])[..3], [1, 13, 0xf08]);
}

#[test]
fn pci_bus_has_its_windows_one_to_one() {
    let tree = parsed(Gic::V3, 1);
    assert_eq!(
        cells(&tree["/pcie@10000000/reg"]),
        [0, 0x1000_0000, 0, 0x10_0000]
    );
    let low = [0x0200_0000, 0, 0x2000_0000, 0, 0x2000_0000, 0, 0x2000_0000];
    let high = [0x4300_0000, 0x40, 0, 0x40, 0, 0x40, 0];
    assert_eq!(cells(&tree["/pcie@10000000/ranges"]), [low, high].concat());
    let small = Machine {
        pci_window_64: None,
        ..machine(Gic::V3, 1)
    };
    let tree = parse(&super::tree(&small, &BOOT).unwrap());
    assert_eq!(cells(&tree["/pcie@10000000/ranges"]), low);
}

#[test]
fn whatever_names_another_node_names_one_that_is_there() {
    for gic in [Gic::V2, Gic::V3] {
        let tree = parsed(gic, 2);
        let phandles: Vec<u32> = tree
            .iter()
            .filter(|(key, _)| key.ends_with("/phandle"))
            .map(|(_, value)| cells(value)[0])
            .collect();
        for key in [
            "/interrupt-parent",
            "/serial@9000000/clocks",
            "/rtc@9010000/clocks",
            "/gpio-keys/power/gpios",
        ] {
            assert!(phandles.contains(&cells(&tree[key])[0]), "{key}");
        }
    }
}

#[test]
fn largest_tree_fits_into_its_room() {
    let cmdline = "x".repeat(2047);
    let boot = Boot {
        cmdline: &cmdline,
        ..BOOT
    };
    let bytes = tree(&machine(Gic::V3, 32), &boot).unwrap().len() as u64;
    assert!(bytes <= FDT_BYTES / 2 && FDT_BYTES < 2 * MIB, "{bytes}");
}
