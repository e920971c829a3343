//! Reads a flattened device tree: its nodes one after the other, the properties of each.
//!
//! Implements the Devicetree Specification 0.4: §5 (the format) and §2.3 (`reg`, `#address-cells`, `compatible`).
//! Nothing is trusted: what does not fit ends the walk, and every walk goes over the bytes once. Left out on purpose:
//! the memory reservation block, and translation by `ranges` (whose values are given): what is looked for here stands
//! below parents that map one to one.
//!
//! This file is compiled into the guest too.

const MAGIC: u32 = 0xd00d_feed;
/// §5.2: offsets in the header, and its size in bytes.
const TOTAL_SIZE: usize = 4;
const STRUCTURE_OFFSET: usize = 8;
const STRINGS_OFFSET: usize = 12;
const STRINGS_BYTES: usize = 32;
const STRUCTURE_BYTES: usize = 36;
pub const HEADER_BYTES: usize = 40;

/// §5.4.1: tokens.
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;

/// How deep nodes may be nested; the walk ends at one that is deeper.
const DEPTH_LIMIT: usize = 8;

/// A device tree.
#[derive(Debug, Clone, Copy)]
pub struct Fdt<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
}

/// How many cells of 32 bits the addresses and sizes in the `reg` of a node's children have.
#[derive(Debug, Clone, Copy)]
struct Cells {
    address: usize,
    size: usize,
}

/// A node.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    /// With its unit address.
    pub name: &'a str,
    /// 0 for the root.
    pub depth: usize,
    cells: Cells,
    /// The structure block from the first property on.
    body: &'a [u8],
    strings: &'a [u8],
}

/// The size in bytes that a tree's first [`HEADER_BYTES`] give it, if it is one.
#[must_use]
pub fn total_bytes(header: &[u8]) -> Option<u32> {
    (be32(header, 0)? == MAGIC).then_some(())?;
    be32(header, TOTAL_SIZE)
}

impl<'a> Fdt<'a> {
    /// The tree in `bytes`, if its header is one.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let bytes = bytes.get(..total_bytes(bytes)? as usize)?;
        let block = |offset, size| {
            let rest = bytes.get(be32(bytes, offset)? as usize..)?;
            rest.get(..be32(bytes, size)? as usize)
        };
        Some(Self {
            structure: block(STRUCTURE_OFFSET, STRUCTURE_BYTES)?,
            strings: block(STRINGS_OFFSET, STRINGS_BYTES)?,
        })
    }

    /// The size of what is read of the tree, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.structure.len() + self.strings.len()
    }

    /// Every node, parents before their children.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        Nodes {
            rest: self.structure,
            strings: self.strings,
            depth: 0,
            // §2.3.5: what holds where a parent says nothing.
            cells: [Cells {
                address: 2,
                size: 1,
            }; DEPTH_LIMIT + 1],
        }
    }

    /// The first node that is compatible with `with`.
    #[must_use]
    pub fn compatible(&self, with: &str) -> Option<Node<'a>> {
        self.nodes().find(|node| node.is_compatible(with))
    }

    /// The node that others refer to by `handle`.
    #[must_use]
    pub fn by_handle(&self, handle: u32) -> Option<Node<'a>> {
        self.nodes()
            .find(|node| node.cell("phandle") == Some(handle))
    }
}

impl<'a> Node<'a> {
    /// The value of a property.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        let mut rest = self.body;
        loop {
            match take_cell(&mut rest)? {
                NOP => {}
                PROPERTY => {
                    let (found, value) = take_property(&mut rest, self.strings)?;
                    if found == name {
                        return Some(value);
                    }
                }
                _ => return None,
            }
        }
    }

    /// A property that is a string, or the first string of a list.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&'a str> {
        let value = self.property(name)?;
        core::str::from_utf8(value.split(|&byte| byte == 0).next()?).ok()
    }

    /// The first cell of a property.
    #[must_use]
    pub fn cell(&self, name: &str) -> Option<u32> {
        self.cells(name).next()
    }

    /// All cells of a property; none if there is no such property.
    pub fn cells(&self, name: &str) -> impl Iterator<Item = u32> + use<'a> {
        let mut rest = self.property(name).unwrap_or_default();
        core::iter::from_fn(move || take_cell(&mut rest))
    }

    #[must_use]
    pub fn is_compatible(&self, with: &str) -> bool {
        let list = self.property("compatible").unwrap_or_default();
        list.split(|&byte| byte == 0)
            .any(|one| one == with.as_bytes())
    }

    /// Addresses and sizes of `reg`. Of numbers longer than 64 bits the lower half.
    pub fn reg(&self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        let mut rest = self.property("reg").unwrap_or_default();
        let Cells { address, size } = self.cells;
        core::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            Some((
                take_number(&mut rest, address)?,
                take_number(&mut rest, size)?,
            ))
        })
    }
}

struct Nodes<'a> {
    rest: &'a [u8],
    strings: &'a [u8],
    /// How many nodes have begun that have not ended.
    depth: usize,
    /// For the children of the open node at each depth; the first one for the root, which has no `reg`.
    cells: [Cells; DEPTH_LIMIT + 1],
}

impl<'a> Iterator for Nodes<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match take_cell(&mut self.rest)? {
                BEGIN_NODE => return self.begin(),
                END_NODE => self.depth = self.depth.checked_sub(1)?,
                PROPERTY => {
                    let (name, value) = take_property(&mut self.rest, self.strings)?;
                    let cells = self.cells.get_mut(self.depth)?;
                    match name {
                        "#address-cells" => cells.address = be32(value, 0)? as usize,
                        "#size-cells" => cells.size = be32(value, 0)? as usize,
                        _ => {}
                    }
                }
                NOP => {}
                _ => return None,
            }
        }
    }
}

impl<'a> Nodes<'a> {
    fn begin(&mut self) -> Option<Node<'a>> {
        let name = text_at(self.rest)?;
        // The name's zero byte, then up to the next cell.
        self.rest = self.rest.get((name.len() + 1).next_multiple_of(4)..)?;
        let cells = *self.cells.get(self.depth)?;
        let depth = self.depth;
        self.depth += 1;
        *self.cells.get_mut(self.depth)? = Cells {
            address: 2,
            size: 1,
        };
        Some(Node {
            name,
            depth,
            cells,
            body: self.rest,
            strings: self.strings,
        })
    }
}

/// The rest of a property whose token has been taken: its name and its value.
fn take_property<'a>(rest: &mut &'a [u8], strings: &'a [u8]) -> Option<(&'a str, &'a [u8])> {
    let bytes = take_cell(rest)? as usize;
    let name = strings.get(take_cell(rest)? as usize..)?;
    let value = rest.get(..bytes)?;
    *rest = rest.get(bytes.checked_next_multiple_of(4)?..)?;
    Some((text_at(name)?, value))
}

fn take_cell(rest: &mut &[u8]) -> Option<u32> {
    let value = be32(rest, 0)?;
    *rest = rest.get(4..)?;
    Some(value)
}

fn take_number(rest: &mut &[u8], cells: usize) -> Option<u64> {
    (0..cells).try_fold(0, |number: u64, _| {
        Some(number << 32 | u64::from(take_cell(rest)?))
    })
}

/// The string that begins `bytes`, without its zero byte.
fn text_at(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    core::str::from_utf8(bytes.get(..end)?).ok()
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

#[cfg(test)]
#[path = "fdt/tests.rs"]
mod tests;
