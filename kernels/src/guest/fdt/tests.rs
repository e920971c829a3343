use proptest::prelude::*;

use super::*;

/// Writes a tree: what [`Fdt`] reads, from the other side.
#[derive(Default)]
struct Tree {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Tree {
    fn cell(mut self, value: u32) -> Self {
        self.structure.extend(value.to_be_bytes());
        self
    }

    fn padded(mut self, bytes: &[u8]) -> Self {
        self.structure.extend(bytes);
        let end = self.structure.len().next_multiple_of(4);
        self.structure.resize(end, 0);
        self
    }

    fn begin(self, name: &str) -> Self {
        self.cell(BEGIN_NODE)
            .padded(&[name.as_bytes(), b"\0"].concat())
    }

    fn end(self) -> Self {
        self.cell(END_NODE)
    }

    fn property(mut self, name: &str, value: &[u8]) -> Self {
        let at = self.strings.len();
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        self.cell(PROPERTY)
            .cell(value.len().try_into().unwrap())
            .cell(at.try_into().unwrap())
            .padded(value)
    }

    fn cells(self, name: &str, cells: &[u32]) -> Self {
        let bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.property(name, &bytes)
    }

    fn bytes(self) -> Vec<u8> {
        let end = 9;
        let this = self.cell(end);
        let structure_bytes = this.structure.len();
        let strings_at = HEADER_BYTES + structure_bytes;
        let total = strings_at + this.strings.len();
        let header = [
            MAGIC as usize,
            total,
            HEADER_BYTES,
            strings_at,
            0,
            17,
            16,
            0,
            this.strings.len(),
            structure_bytes,
        ];
        let header = header.map(|field| u32::try_from(field).unwrap().to_be_bytes());
        [header.concat(), this.structure, this.strings].concat()
    }
}

fn sample() -> Vec<u8> {
    Tree::default()
        .begin("")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .begin("memory@40000000")
        .property("device_type", b"memory\0")
        .cells("reg", &[0, 0x4000_0000, 0, 0x800_0000, 1, 0, 2, 0])
        .end()
        .cell(NOP)
        .begin("cpus")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[0])
        .begin("cpu@100")
        .cell(NOP)
        .cells("reg", &[0x100])
        .end()
        .end()
        .begin("pl011@9000000")
        .property("compatible", b"arm,pl011\0arm,primecell\0")
        .cells("phandle", &[7])
        .cells("reg", &[0, 0x900_0000, 0, 0x1000])
        .end()
        .begin("pci")
        // Says nothing of its children's cells: two and one.
        .begin("child")
        .cells("reg", &[1, 2, 3])
        .end()
        .end()
        .end()
        .bytes()
}

#[test]
fn every_node_is_found_in_order_with_its_depth() {
    let bytes = sample();
    let fdt = Fdt::new(&bytes).unwrap();
    let nodes: Vec<_> = fdt.nodes().map(|node| (node.depth, node.name)).collect();
    assert_eq!(
        nodes,
        [
            (0, ""),
            (1, "memory@40000000"),
            (1, "cpus"),
            (2, "cpu@100"),
            (1, "pl011@9000000"),
            (1, "pci"),
            (2, "child"),
        ]
    );
    assert!(fdt.bytes() < bytes.len());
}

#[test]
fn reg_has_the_cells_that_the_parent_says() {
    let bytes = sample();
    let fdt = Fdt::new(&bytes).unwrap();
    let reg = |name: &str| -> Vec<_> {
        let node = fdt.nodes().find(|node| node.name == name);
        node.unwrap().reg().collect()
    };
    let memory = [(0x4000_0000, 0x800_0000), (1 << 32, 2 << 32)];
    assert_eq!(reg("memory@40000000"), memory);
    assert_eq!(reg("cpu@100"), [(0x100, 0)]);
    assert_eq!(reg("child"), [(1 << 32 | 2, 3)]);
    assert_eq!(reg("cpus"), []);
}

#[test]
fn nodes_are_found_by_what_they_are_and_by_handle() {
    let bytes = sample();
    let fdt = Fdt::new(&bytes).unwrap();
    for node in [fdt.compatible("arm,primecell"), fdt.by_handle(7)] {
        assert_eq!(node.unwrap().name, "pl011@9000000");
    }
    assert!(fdt.compatible("arm").is_none());
    assert!(fdt.by_handle(8).is_none());
    let memory = fdt.nodes().nth(1).unwrap();
    assert_eq!(memory.text("device_type"), Some("memory"));
    assert_eq!(memory.cells("reg").count(), 8);
    assert_eq!(memory.property("compatible"), None);
    // Of a node's own properties only, not its children's or the next one's.
    let cpus = fdt.nodes().find(|node| node.name == "cpus").unwrap();
    assert_eq!(cpus.cell("reg"), None);
}

#[test]
fn what_is_no_tree_is_refused() {
    let bytes = sample();
    assert!(Fdt::new(&bytes[..HEADER_BYTES]).is_none());
    assert!(Fdt::new(&[]).is_none());
    let mut other = bytes.clone();
    other[0] = 0;
    assert!(Fdt::new(&other).is_none());
    assert_eq!(total_bytes(&bytes).unwrap() as usize, bytes.len());
}

#[test]
fn walk_ends_at_a_node_that_is_too_deep() {
    let mut tree = Tree::default();
    for _ in 0..100 {
        tree = tree.begin("x");
    }
    let bytes = tree.bytes();
    assert_eq!(Fdt::new(&bytes).unwrap().nodes().count(), DEPTH_LIMIT);
}

proptest! {
    /// Neither a panic nor a walk that does not end, whatever is broken.
    #[test]
    fn broken_trees_end_the_walk(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = sample();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let length = bytes.len();
        if let Some(fdt) = Fdt::new(&bytes) {
            for node in fdt.nodes() {
                prop_assert!(node.reg().count() <= length);
                prop_assert!(node.property("reg").unwrap_or_default().len() <= length);
            }
            let _ = (fdt.by_handle(7), fdt.compatible("arm,pl011"));
        }
    }
}
