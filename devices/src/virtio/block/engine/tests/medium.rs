//! What a power cut leaves of files that were written and synced.
//!
//! A disk owes nothing but what a sync has covered: of everything else each part may have reached it
//! or not, whatever the order in which it was written. The parts are the sectors of a file (a disk
//! writes one whole or not at all), the file's length, and the entries of folders. So each of these
//! has *versions*: the durable one and those since. A power cut leaves any one of each.
//!
//! What a reopened volume shows of a sector follows from one part of each file: that sector of each
//! overlay, and the sector of each bitmap that has its block's bit; besides, from the bitmaps' headers, and
//! from lengths and names. [`Medium::each_state`] tries all combinations of those (unless they
//! are too many), letting all sectors of a file go by the same number at once, and then some states
//! in which every part is chosen for itself.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::ops::Index;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

pub const SECTOR: usize = 512;

/// Where the sectors of a bitmap begin that have bits; those before it go by a number of their own.
const HEADER_BYTES: usize = 4096;

/// The number of a change that no sync reaches any more: one failed, and the host forgot the data.
const FORGOTTEN: u64 = u64::MAX;

/// A file of the simulated disk.
#[derive(Clone, Debug, Default)]
pub struct Shadow {
    /// What a power cut surely leaves.
    pub durable: Vec<u8>,
    /// What it may leave beside: (number, offset, bytes) of the sectors written since, oldest first.
    pub unsynced: Vec<(u64, usize, Vec<u8>)>,
    /// (number, bytes) of the lengths that the file was given since.
    lengths: Vec<(u64, usize)>,
}

/// An entry of a folder: the inodes that it may lead to.
#[derive(Debug, Default)]
struct Name {
    durable: Option<u64>,
    unsynced: Vec<(u64, Option<u64>)>,
}

/// A part of what is on the disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Name(PathBuf),
    Length(u64),
    /// Of the file with this inode, whether among its first 4 KiB.
    Sector(u64, bool),
}

/// The files that a power cut leaves, by their path.
pub type Left = BTreeMap<PathBuf, Vec<u8>>;

#[derive(Debug, Default)]
pub struct Medium {
    shadows: HashMap<u64, Shadow>,
    names: BTreeMap<PathBuf, Name>,
    /// The folders whose entries are watched, and their inodes.
    folders: Vec<(PathBuf, u64)>,
    /// Every file that was ever seen, so that no other gets its inode.
    seen: Vec<File>,
    /// How many changes there were.
    changes: u64,
}

impl Index<&u64> for Medium {
    type Output = Shadow;

    fn index(&self, inode: &u64) -> &Shadow {
        &self.shadows[inode]
    }
}

impl Shadow {
    fn sync(&mut self, covers: u64) {
        let mut last = HashMap::new();
        for (index, (number, offset, bytes)) in self.unsynced.iter().enumerate() {
            if *number <= covers {
                apply(&mut self.durable, *offset, bytes);
                last.insert(*offset, index);
            }
        }
        let mut index = 0..;
        self.unsynced.retain(|(_, offset, _)| {
            let index = index.next().unwrap();
            last.get(offset).is_none_or(|last| index > *last)
        });
        if let Some(at) = self.lengths.iter().rposition(|it| it.0 <= covers) {
            lengthen(&mut self.durable, self.lengths[at].1);
            self.lengths.drain(..=at);
        }
    }

    /// What is left of it.
    fn cut(&self, inode: u64, choose: &mut dyn FnMut(Part, usize) -> usize) -> Vec<u8> {
        let mut left = self.durable.clone();
        if !self.lengths.is_empty() {
            let chosen = choose(Part::Length(inode), 1 + self.lengths.len());
            if let Some(chosen) = chosen.checked_sub(1) {
                lengthen(&mut left, self.lengths[chosen].1);
            }
        }
        let mut sectors = BTreeMap::<_, Vec<_>>::new();
        for (_, offset, bytes) in &self.unsynced {
            sectors.entry(*offset).or_default().push(bytes);
        }
        for (offset, versions) in sectors {
            let part = Part::Sector(inode, offset < HEADER_BYTES);
            if let Some(chosen) = choose(part, 1 + versions.len()).checked_sub(1) {
                apply(&mut left, offset, versions[chosen]);
            }
        }
        left
    }
}

impl Medium {
    /// How many changes there were: a sync that begins now covers those.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    fn change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    /// Watches the entries of `folder`, with what is in it: `durable` or made just now.
    pub fn watch(&mut self, folder: &Path, durable: bool) {
        let inode = fs::metadata(folder).unwrap().ino();
        self.folders.push((folder.to_owned(), inode));
        self.look();
        if durable {
            self.sync(inode, self.changes);
            let files: Vec<_> = self.shadows.keys().copied().collect();
            files.into_iter().for_each(|it| self.sync(it, self.changes));
        }
    }

    /// Takes note of the files that have appeared in the watched folders since, and of those that are gone.
    pub fn look(&mut self) {
        let mut found = BTreeMap::new();
        for (folder, _) in &self.folders {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                found.insert(entry.path(), entry.metadata().unwrap().ino());
            }
        }
        let known = self.names.keys().cloned();
        let paths: Vec<_> = known.chain(found.keys().cloned()).collect();
        for path in paths {
            let inode = found.get(&path).copied();
            let name = self.names.entry(path.clone()).or_default();
            let last = name.unsynced.last().map_or(name.durable, |it| it.1);
            if last == inode {
                continue;
            }
            self.changes += 1;
            name.unsynced.push((self.changes, inode));
            if let Some(inode) = inode
                && !self.shadows.contains_key(&inode)
            {
                self.made(inode, File::open(&path).unwrap());
            }
        }
    }

    /// A new file: nothing of it is durable.
    fn made(&mut self, inode: u64, file: File) {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let mut shadow = Shadow::default();
        shadow.lengths.push((self.change(), bytes.len()));
        for (number, sector) in bytes.chunks(SECTOR).enumerate() {
            if sector != &[0; SECTOR][..sector.len()] {
                let change = (self.change(), number * SECTOR, sector.to_vec());
                shadow.unsynced.push(change);
            }
        }
        self.shadows.insert(inode, shadow);
        self.seen.push(file);
    }

    /// The inode of `file`. What is in a file of no watched folder when it is first met is durable.
    pub fn inode(&mut self, file: &File) -> u64 {
        let metadata = file.metadata().unwrap();
        self.shadows.entry(metadata.ino()).or_insert_with(|| {
            let mut durable = Vec::new();
            if metadata.is_file() {
                durable.resize(usize::try_from(metadata.len()).unwrap(), 0);
                file.read_exact_at(&mut durable, 0).unwrap();
            }
            Shadow {
                durable,
                ..Shadow::default()
            }
        });
        metadata.ino()
    }

    /// Takes note of what was written, sector by sector.
    pub fn written(&mut self, file: &File, offset: u64, len: u64) {
        let inode = self.inode(file);
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        file.read_exact_at(&mut bytes, offset).unwrap();
        let mut offset = usize::try_from(offset).unwrap();
        for sector in bytes.chunks(SECTOR) {
            let change = (self.change(), offset, sector.to_vec());
            let shadow = self.shadows.get_mut(&inode).unwrap();
            shadow.unsynced.push(change);
            offset += sector.len();
        }
    }

    /// Makes durable what was done to the file or the folder up to a count of [`Medium::changes`].
    pub fn sync(&mut self, inode: u64, covers: u64) {
        if let Some(shadow) = self.shadows.get_mut(&inode) {
            shadow.sync(covers);
        }
        let Some((folder, _)) = self.folders.iter().find(|it| it.1 == inode) else {
            return;
        };
        let entries = self.names.iter_mut();
        for (_, name) in entries.filter(|(path, _)| path.parent() == Some(folder)) {
            let covered = name.unsynced.iter().take_while(|it| it.0 <= covers);
            let count = covered.count();
            if let Some((_, inode)) = name.unsynced.drain(..count).next_back() {
                name.durable = inode;
            }
        }
    }

    /// A sync failed: the host counts as clean what it could not write (`fsync(2)`, "Notes").
    pub fn forget(&mut self, inode: u64) {
        if let Some(shadow) = self.shadows.get_mut(&inode) {
            shadow.unsynced.iter_mut().for_each(|it| it.0 = FORGOTTEN);
        }
    }

    fn cut(&self, choose: &mut dyn FnMut(Part, usize) -> usize) -> Left {
        let mut left = Left::new();
        for (path, name) in &self.names {
            let mut versions = vec![name.durable];
            versions.extend(name.unsynced.iter().map(|it| it.1));
            let chosen = match versions.len() {
                1 => 0,
                count => choose(Part::Name(path.clone()), count),
            };
            if let Some(inode) = versions[chosen] {
                left.insert(path.clone(), self.shadows[&inode].cut(inode, choose));
            }
        }
        left
    }

    /// One of the states that a power cut may leave; `choose` gives a number below the one it is given.
    pub fn any_state(&self, choose: &mut dyn FnMut(usize) -> usize) -> Left {
        self.cut(&mut |_, count| choose(count))
    }

    /// The parts that have several versions, and how many.
    fn parts(&self) -> BTreeMap<Part, usize> {
        let mut counts = BTreeMap::new();
        let (mut version, mut most) = (0, 1);
        // Of a name each version may lead to another file.
        while version < most {
            self.cut(&mut |part, count| {
                let known = counts.entry(part).or_insert(count);
                *known = count.max(*known);
                most = count.max(most);
                version.min(count - 1)
            });
            version += 1;
        }
        counts
    }

    /// Visits the states that a power cut may leave, or as many of them as `limit` has it.
    /// Returns whether that was every one that matters, see above.
    pub fn each_state(
        &self,
        limit: usize,
        choose: &mut dyn FnMut(usize) -> usize,
        visit: &mut dyn FnMut(Left),
    ) -> bool {
        let counts = self.parts();
        let all = counts.values().try_fold(1, |all: usize, count| {
            all.checked_mul(*count).filter(|all| *all <= limit)
        });
        for number in 0..all.unwrap_or(limit) {
            let mut rest = number;
            let mut digits = BTreeMap::new();
            for (part, count) in &counts {
                let digit = match (all, number) {
                    // Nothing of the rest is left, or all of it, among others.
                    (None, 0) => 0,
                    (None, 1) => count - 1,
                    (None, _) => choose(*count),
                    (Some(_), _) => rest % count,
                };
                digits.insert(part, digit);
                rest /= count;
            }
            visit(self.cut(&mut |part, count| digits[&part].min(count - 1)));
        }
        all.is_some()
    }
}

fn apply(to: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    lengthen(to, offset + bytes.len());
    to[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Appends zeroes where `bytes` is shorter. `Vec::resize` takes its time in a debug build.
fn lengthen(bytes: &mut Vec<u8>, len: usize) {
    if bytes.len() < len {
        let mut longer = vec![0; len];
        longer[..bytes.len()].copy_from_slice(bytes);
        *bytes = longer;
    }
}
