//! Property: whatever a power cut leaves, a volume reopens with every flushed write in it, and every
//! sector has a value that it once had; what lies in the overlays beyond that never shows. That holds with
//! layers too, of which a power cut may leave any part that no flush has reached, and where an overlay has
//! several files. What is durable follows from the flush plans alone.
//!
//! The block device's own test of this goes further, but for the files.

use super::*;
use crate::chunk::Digest;
use proptest::prelude::*;
use std::collections::HashMap;
use std::os::unix::fs::FileExt;

const SECTORS: u64 = 4203;
/// What a file of an overlay holds: the volume has three, the last one with a part of a block at its end.
const PART_SECTORS: u64 = 2048;
const PARTS: u64 = 3;
/// Stands in blocks that the disk does not vouch for. Nothing writes it.
const GARBAGE: u8 = 0xee;

#[derive(Clone, Debug)]
enum Op {
    Change(u64, u64, Change),
    /// A write whose data is on its way when the power goes: the device never ends it.
    Unended(u64, u64, u8),
    Flush,
    /// The power goes, `by` deciding what of the last writes had reached the disk.
    Crash {
        by: u64,
    },
    /// As above, in the middle of a flush: its data is on disk, but not all of its pages.
    CrashInFlush {
        by: u64,
    },
    Freeze,
    /// A snapshot takes the place of what there is; told that to the volume or not, the catalogue knows it.
    Rebase {
        told: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let range = (0..SECTORS, 1u64..64).prop_map(|(at, len)| (at, len.min(SECTORS - at)));
    prop_oneof![
        6 => (range.clone(), prop_oneof![(128u8..0xe0).prop_map(Change::Write), Just(Change::Punch)])
            .prop_map(|((offset, len), change)| Op::Change(offset * 512, len * 512, change)),
        2 => (range, 128u8..0xe0)
            .prop_map(|((offset, len), byte)| Op::Unended(offset * 512, len * 512, byte)),
        2 => Just(Op::Flush),
        1 => any::<u64>().prop_map(|by| Op::Crash { by }),
        1 => any::<u64>().prop_map(|by| Op::CrashInFlush { by }),
        2 => Just(Op::Freeze),
        1 => any::<bool>().prop_map(|told| Op::Rebase { told }),
    ]
}

/// A cheap choice for sector or page `number` of a crash.
fn chooses(by: u64, number: u64) -> bool {
    let digest = Digest::of(&[by.to_le_bytes(), number.to_le_bytes()].concat());
    digest.0[0] & 1 == 1
}

struct Host<'a> {
    home: &'a Home,
    id: VolumeId,
    standing: Standing,
    volume: Option<Volume>,
    /// What reads give while the power is on.
    live: Vec<u8>,
    /// The files of each layer's overlay as the last sync left them.
    durable: HashMap<(u32, u64), Vec<u8>>,
    /// The layers whose names and headers no sync has reached.
    unnamed: Vec<u32>,
    /// For each sector that was written since the last flush, the values a crash may leave.
    legal: HashMap<u64, Vec<u8>>,
    /// The sectors of writes that have not ended, and their values.
    unended: Vec<(u64, u8)>,
}

impl Host<'_> {
    fn volume(&mut self) -> &mut Volume {
        self.volume.as_mut().unwrap()
    }

    fn layers(&self) -> Vec<u32> {
        let layers = self.volume.as_ref().unwrap().stack.layers.iter();
        layers.map(|layer| layer.number).collect()
    }

    fn files(&self) -> VolumeFiles {
        let mut files = self.home.volumes();
        files.part_bytes = PART_SECTORS * 512;
        files
    }

    fn path(&self, layer: u32, part: u64) -> PathBuf {
        names::overlay(&self.home.path().join("volumes"), &self.id, layer, part)
    }

    /// A file of a layer's overlay, and what it holds.
    fn overlay(&self, layer: u32, part: u64) -> (File, Vec<u8>) {
        let path = self.path(layer, part);
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        (file, bytes)
    }

    /// Syncs what the plan of a flush has synced before it writes pages.
    fn sync_data(&mut self, plan: &FlushPlan) {
        let stack = &self.volume.as_ref().unwrap().stack;
        let mut synced = Vec::new();
        let mut named = Vec::new();
        for layer in &stack.layers {
            let parts = (0..).zip(layer.overlay());
            let reached =
                parts.filter(|(_, file)| plan.data.contains(file) || plan.once.contains(file));
            synced.extend(reached.map(|(part, _)| (layer.number, part)));
            if layer.files().all(|file| plan.once.contains(&file)) {
                named.push(layer.number);
            }
        }
        let folder = self.volume.as_ref().unwrap().home.as_ref().unwrap().folder;
        if plan.once.contains(&folder) {
            self.unnamed.retain(|layer| !named.contains(layer));
        }
        for (layer, part) in synced {
            self.durable
                .insert((layer, part), self.overlay(layer, part).1);
        }
    }

    /// A flush, which ends before its bitmaps are synced where that is how much of its pages is written.
    fn flush(&mut self, written: &dyn Fn(u64) -> bool) {
        let plan = self.volume().begin_flush();
        self.sync_data(&plan);
        for page in plan.pages.iter().filter(|page| written(page.offset)) {
            pwrite(self.volume(), page.file, page.offset, &page.bytes[..]);
        }
        self.volume().end_flush(plan, true);
    }

    /// What there is now is what a power cut leaves.
    fn settle(&mut self) {
        self.durable.clear();
        for layer in self.layers() {
            for part in 0..PARTS {
                self.durable
                    .insert((layer, part), self.overlay(layer, part).1);
            }
        }
        self.unnamed.clear();
    }

    fn freeze(&mut self) -> Option<u32> {
        let layer = match self.volume().freeze() {
            Ok(layer) => layer,
            Err(Error::Busy { .. }) => return None,
            Err(error) => panic!("{error}"),
        };
        if !self.durable.contains_key(&(layer, 0)) {
            self.begun(layer);
        }
        Some(layer)
    }

    /// Nothing of the layer is durable.
    fn begun(&mut self, layer: u32) {
        for part in 0..PARTS {
            let len = self.overlay(layer, part).1.len();
            self.durable.insert((layer, part), vec![0; len]);
        }
        self.unnamed.push(layer);
    }

    fn rebase(&mut self, told: bool) {
        let Some(layer) = self.freeze() else {
            return;
        };
        self.flush(&|_| true);
        let snapshot = self.home.import(&self.live);
        (self.standing.base, self.standing.layer) = (Some(snapshot), layer);
        self.legal.clear();
        if told {
            self.volume().rebase(&snapshot, layer).unwrap();
            self.files().delete_below(&self.id, layer).unwrap();
        } else {
            self.volume = None;
            self.volume = Some(self.files().open(&self.id, &self.standing).unwrap());
        }
    }

    fn allow(&mut self, sector: u64, value: u8) {
        let was = self.live[usize::try_from(sector * 512).unwrap()];
        self.legal
            .entry(sector)
            .or_insert_with(|| vec![was])
            .push(value);
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Change(offset, len, change) => {
                match self.volume().begin_write(offset, len).unwrap() {
                    BeginWrite::Ready(plan) => self.volume().end_write(plan, false),
                    // Waits for a write that never ends.
                    BeginWrite::Busy => return,
                }
                write(self.volume(), offset, len, change);
                for sector in offset / 512..(offset + len) / 512 {
                    self.allow(sector, change.byte());
                }
                let start = usize::try_from(offset).unwrap();
                self.live[start..start + usize::try_from(len).unwrap()].fill(change.byte());
            }
            Op::Unended(offset, len, byte) => {
                let volume = self.volume.as_mut().unwrap();
                let BeginWrite::Ready(plan) = volume.begin_write(offset, len).unwrap() else {
                    return;
                };
                fill(volume, &plan);
                change(volume, &plan, Change::Write(byte));
                for sector in offset / 512..(offset + len) / 512 {
                    self.allow(sector, byte);
                    self.unended.push((sector, byte));
                }
            }
            Op::Flush => {
                self.flush(&|_| true);
                self.legal.clear();
                for (sector, byte) in self.unended.clone() {
                    self.allow(sector, byte);
                }
            }
            Op::Freeze => drop(self.freeze()),
            Op::Rebase { told } => self.rebase(told),
            Op::Crash { by } => self.crash(by),
            Op::CrashInFlush { by } => {
                self.flush(&|page| chooses(by, page));
                self.crash(by);
            }
        }
    }

    fn crash(&mut self, by: u64) {
        let layers = self.layers();
        self.volume = None;
        for layer in layers {
            (0..PARTS).for_each(|part| self.cut((layer, part), by));
        }
        for layer in std::mem::take(&mut self.unnamed) {
            self.lose(layer, by);
        }
        self.volume = Some(self.files().open(&self.id, &self.standing).unwrap());
        self.check();
        // What is left is on the disk.
        self.settle();
        self.legal.clear();
        self.unended.clear();
    }

    /// What a power cut leaves of a file of an overlay.
    fn cut(&self, (layer, part): (u32, u64), by: u64) {
        let (file, mut bytes) = self.overlay(layer, part);
        let path = names::bitmap(&self.home.path().join("volumes"), &self.id, layer);
        let bitmap = std::fs::read(path).unwrap();
        let durable = &self.durable[&(layer, part)];
        let first = part * PART_SECTORS;
        for (sector, bytes) in (first..).zip(bytes.chunks_mut(512)) {
            let block = usize::try_from(sector / 8).unwrap();
            let held = bitmap
                .get(4096 + block / 8)
                .is_some_and(|byte| byte >> (block % 8) & 1 == 1);
            if !held {
                bytes.fill(GARBAGE);
            } else if chooses(by, sector) {
                let start = usize::try_from((sector - first) * 512).unwrap();
                bytes.copy_from_slice(&durable[start..start + bytes.len()]);
            }
        }
        file.write_all_at(&bytes, 0).unwrap();
    }

    /// What a power cut leaves of the names and the header of a layer that no sync has reached.
    fn lose(&self, layer: u32, by: u64) {
        let folder = self.home.path().join("volumes");
        let bitmap = names::bitmap(&folder, &self.id, layer);
        let by = |n: u64| chooses(by, u64::from(layer) << 32 | n);
        if by(4) {
            std::fs::remove_file(self.path(layer, 1)).unwrap();
        }
        if by(0) {
            std::fs::remove_file(self.path(layer, 0)).unwrap();
        }
        if by(1) {
            std::fs::remove_file(bitmap).unwrap();
        } else if by(2) {
            let file = File::create(bitmap).unwrap();
            file.set_len(if by(3) { 0 } else { 4096 }).unwrap();
        }
    }

    fn check(&mut self) {
        let len = self.live.len();
        let bytes = read(self.volume(), 0, len);
        for (sector, (is, was)) in (0u64..).zip(bytes.chunks(512).zip(self.live.chunks(512))) {
            let legal = match self.legal.get(&sector) {
                Some(values) => values
                    .iter()
                    .any(|value| is.iter().all(|byte| byte == value)),
                None => is == was,
            };
            assert!(
                legal,
                "sector {sector} is {:?}, was {:?}",
                &is[..4],
                &was[..4]
            );
        }
        self.live = bytes;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn power_cut_leaves_legal_values_and_every_flushed_write(
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let home = Home::new();
        let id = VolumeId::generate();
        let size = SECTORS * 512;
        let mut live = vec![0; usize::try_from(size).unwrap()];
        live[..home.content.len()].copy_from_slice(&home.content);
        let mut host = Host {
            home: &home,
            id,
            standing: Standing::new(size, Some(home.snapshot)),
            volume: None,
            live,
            durable: HashMap::new(),
            unnamed: Vec::new(),
            legal: HashMap::new(),
            unended: Vec::new(),
        };
        let volume = host.files().create(&id, size, Some(&home.snapshot)).unwrap();
        host.volume = Some(volume);
        // Before the first flush nothing need be there; that is the block device's test.
        host.settle();
        for op in ops {
            host.apply(op);
        }
        host.apply(Op::Crash { by: 0 });
    }
}
