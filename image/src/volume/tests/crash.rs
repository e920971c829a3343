//! Property: whatever a power cut leaves, a volume reopens with every flushed write in it, and every
//! sector has a value that it once had; what lies in the overlays beyond that never shows. That holds with
//! layers too, of which a power cut may leave any part that no flush has reached.

use super::*;
use crate::chunk::Digest;
use proptest::prelude::*;
use std::collections::HashMap;
use std::os::unix::fs::FileExt;

const SECTORS: u64 = 4200;
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
    let range = (0..SECTORS - 64, 1u64..64);
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
    /// Each layer's overlay as the last sync left it.
    durable: HashMap<u32, Vec<u8>>,
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

    fn overlay(&self, layer: u32) -> (File, Vec<u8>) {
        let path = names::overlay(&self.home.path().join("volumes"), &self.id, layer, 0);
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut bytes = vec![0; self.live.len()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        (file, bytes)
    }

    /// The data of all layers is synced, and before it what names them.
    fn sync_data(&mut self) {
        for layer in self.layers() {
            self.durable.insert(layer, self.overlay(layer).1);
        }
        self.unnamed.clear();
    }

    fn freeze(&mut self) -> Option<u32> {
        let layer = match self.volume().freeze() {
            Ok(layer) => layer,
            Err(Error::Busy { .. }) => return None,
            Err(error) => panic!("{error}"),
        };
        if !self.durable.contains_key(&layer) {
            self.durable.insert(layer, vec![0; self.live.len()]);
            self.unnamed.push(layer);
        }
        Some(layer)
    }

    fn rebase(&mut self, told: bool) {
        let Some(layer) = self.freeze() else {
            return;
        };
        self.sync_data();
        self.volume().sync().unwrap();
        let snapshot = self.home.import(&self.live);
        (self.standing.base, self.standing.layer) = (Some(snapshot), layer);
        self.legal.clear();
        if told {
            self.volume().rebase(&snapshot, layer).unwrap();
            self.home.volumes().delete_below(&self.id, layer).unwrap();
        } else {
            self.volume = None;
            let files = self.home.volumes();
            self.volume = Some(files.open(&self.id, &self.standing).unwrap());
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
                self.sync_data();
                flush(self.volume());
                self.legal.clear();
                for (sector, byte) in self.unended.clone() {
                    self.allow(sector, byte);
                }
            }
            Op::Freeze => drop(self.freeze()),
            Op::Rebase { told } => self.rebase(told),
            Op::Crash { by } => self.crash(by),
            Op::CrashInFlush { by } => {
                // Steps of FlushPlan: the data is synced before the first page is written.
                self.sync_data();
                let plan = self.volume().begin_flush();
                for page in plan.pages.iter().filter(|page| chooses(by, page.offset)) {
                    pwrite(self.volume(), page.file, page.offset, &page.bytes[..]);
                }
                self.crash(by);
            }
        }
    }

    fn crash(&mut self, by: u64) {
        let layers = self.layers();
        self.volume = None;
        for layer in &layers {
            self.cut(*layer, by);
        }
        for layer in std::mem::take(&mut self.unnamed) {
            self.lose(layer, by);
        }
        let files = self.home.volumes();
        self.volume = Some(files.open(&self.id, &self.standing).unwrap());
        self.check();
        // What is left is on the disk.
        self.durable.clear();
        self.sync_data();
        self.legal.clear();
        self.unended.clear();
    }

    /// What a power cut leaves of a layer's overlay.
    fn cut(&self, layer: u32, by: u64) {
        let (file, mut bytes) = self.overlay(layer);
        let path = names::bitmap(&self.home.path().join("volumes"), &self.id, layer);
        let bitmap = std::fs::read(path).unwrap();
        let durable = &self.durable[&layer];
        for (sector, bytes) in (0u64..).zip(bytes.chunks_mut(512)) {
            let block = usize::try_from(sector / 8).unwrap();
            let held = bitmap
                .get(4096 + block / 8)
                .is_some_and(|byte| byte >> (block % 8) & 1 == 1);
            if !held {
                bytes.fill(GARBAGE);
            } else if chooses(by, sector) {
                let start = usize::try_from(sector * 512).unwrap();
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
        if by(0) {
            std::fs::remove_file(names::overlay(&folder, &self.id, layer, 0)).unwrap();
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
        let volume = home.volumes().create(&id, size, Some(&home.snapshot)).unwrap();
        let durable = HashMap::from([(0, vec![0; live.len()])]);
        let mut host = Host {
            home: &home,
            id,
            standing: Standing::new(size, Some(home.snapshot)),
            volume: Some(volume),
            live,
            durable,
            unnamed: Vec::new(),
            legal: HashMap::new(),
            unended: Vec::new(),
        };
        for op in ops {
            host.apply(op);
        }
        host.apply(Op::Crash { by: 0 });
    }
}
