//! Property: a volume reads as a vector of bytes does, whatever is done to it in whatever order, and what was
//! frozen of it reads as a copy of that vector.

use super::*;
use proptest::prelude::*;

const MAX_BYTES: u64 = 5 << 20;

#[derive(Clone, Debug)]
enum Op {
    Change(u64, u64, Change),
    /// The fills and `done` bytes of the data are written, then the write fails.
    Fail(u64, u64, u8, u64),
    /// Two requests at the same time.
    Two((u64, u64, Change), (u64, u64, Change)),
    Read(u64, u64),
    Flush,
    FailFlush,
    Reopen,
    Grow(u64),
    Freeze,
    /// Snapshots take the place of the oldest frozen layers; the catalogue says so before the volume is told,
    /// if it is told at all.
    Rebase {
        told: bool,
    },
}

/// Offset and length, by sectors, of requests large and small; the caller cuts them to fit.
fn range() -> impl Strategy<Value = (u64, u64)> {
    let len = prop_oneof![4 => 1u64..24, 1 => 1u64..3000];
    (0..MAX_BYTES / 512, len).prop_map(|(offset, len)| (offset * 512, len * 512))
}

fn a_change() -> impl Strategy<Value = (u64, u64, Change)> {
    let change = prop_oneof![
        3 => (128u8..).prop_map(Change::Write),
        1 => Just(Change::Punch),
    ];
    (range(), change).prop_map(|((offset, len), change)| (offset, len, change))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => a_change().prop_map(|(offset, len, change)| Op::Change(offset, len, change)),
        2 => (range(), 128u8.., 0u64..4096)
            .prop_map(|((offset, len), byte, done)| Op::Fail(offset, len, byte, done)),
        // The second mostly in the first one's blocks.
        3 => (a_change(), a_change(), prop::option::weighted(0.8, 0u64..12)).prop_map(
            |(one, mut two, near)| {
                two.0 = near.map_or(two.0, |sectors| one.0 + sectors * 512);
                Op::Two(one, two)
            }
        ),
        3 => range().prop_map(|(offset, len)| Op::Read(offset, len)),
        1 => Just(Op::Flush),
        1 => Just(Op::FailFlush),
        1 => Just(Op::Reopen),
        1 => (1u64..600).prop_map(|sectors| Op::Grow(sectors * 512)),
        2 => Just(Op::Freeze),
        1 => prop::bool::weighted(0.7).prop_map(|told| Op::Rebase { told }),
    ]
}

/// A volume as it was.
struct Kept {
    standing: Standing,
    /// The layer that was begun then.
    layer: u32,
    model: Vec<u8>,
}

/// A volume and what it should read as.
struct Pair<'a> {
    home: &'a Home,
    files: VolumeFiles,
    id: VolumeId,
    standing: Standing,
    /// What the snapshot below all layers is.
    base: Vec<u8>,
    volume: Option<Volume>,
    model: Vec<u8>,
    /// Oldest first.
    frozen: Vec<Kept>,
}

impl Pair<'_> {
    fn volume(&mut self) -> &mut Volume {
        self.volume.as_mut().unwrap()
    }

    /// Cuts a range to the volume.
    fn fit(&self, offset: u64, len: u64) -> (u64, u64) {
        let size = self.model.len() as u64;
        let offset = offset % size;
        (offset, len.min(size - offset))
    }

    fn slice(&mut self, offset: u64, len: u64) -> &mut [u8] {
        let start = usize::try_from(offset).unwrap();
        &mut self.model[start..start + usize::try_from(len).unwrap()]
    }

    fn reopen(&mut self) {
        self.volume = None;
        self.standing.size_bytes = self.model.len() as u64;
        let volume = self.files.open(&self.id, &self.standing);
        self.volume = Some(volume.unwrap());
    }

    fn freeze(&mut self) {
        let layer = self.volume().freeze().unwrap();
        let kept = Kept {
            standing: self.standing,
            layer,
            model: self.model.clone(),
        };
        if let Some(last) = self.frozen.last().filter(|last| last.layer == layer) {
            // Nothing was written since.
            assert!(self.model.starts_with(&last.model));
            assert!(self.model[last.model.len()..].iter().all(|byte| *byte == 0));
        } else {
            self.frozen.push(kept);
        }
    }

    /// Whether everything that was frozen still is.
    fn check_frozen(&mut self) {
        flush(self.volume());
        for kept in &self.frozen {
            let standing = Standing {
                size_bytes: kept.standing.size_bytes,
                ..self.standing
            };
            let view = self.files.frozen(&self.id, &standing, kept.layer).unwrap();
            assert!(content(&view) == kept.model);
            let changed = view.changed_chunks().unwrap();
            assert!(changed.is_sorted());
            let len = usize::try_from(chunk::CHUNK_BYTES).unwrap();
            for (index, chunk) in (0u64..).zip(kept.model.chunks(len)) {
                let start = usize::try_from(index).unwrap() * len;
                let old = self.base.iter().skip(start).chain(std::iter::repeat(&0));
                assert!(changed.contains(&index) || chunk.iter().eq(old.take(chunk.len())));
            }
        }
    }

    fn rebase(&mut self, told: bool) {
        self.check_frozen();
        if self.frozen.is_empty() {
            return;
        }
        let kept = self.frozen.remove(0);
        let snapshot = self.home.import(&kept.model);
        (self.standing.base, self.standing.layer) = (Some(snapshot), kept.layer);
        self.base = kept.model;
        if told {
            self.volume().rebase(&snapshot, kept.layer).unwrap();
            self.files.delete_below(&self.id, kept.layer).unwrap();
        } else {
            self.reopen();
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Change(offset, len, change) => {
                let (offset, len) = self.fit(offset, len);
                write(self.volume(), offset, len, change);
                self.slice(offset, len).fill(change.byte());
            }
            Op::Fail(offset, len, byte, done) => self.fail(offset, len, byte, done),
            Op::Two(one, two) => self.two(one, two),
            Op::Read(offset, len) => {
                let (offset, len) = self.fit(offset, len);
                let bytes = read(self.volume(), offset, usize::try_from(len).unwrap());
                assert!(bytes == self.slice(offset, len));
            }
            Op::Flush => flush(self.volume()),
            Op::Freeze => self.freeze(),
            Op::Rebase { told } => self.rebase(told),
            Op::FailFlush => {
                let plan = self.volume().begin_flush();
                self.volume().end_flush(plan, false);
            }
            Op::Reopen => {
                flush(self.volume());
                self.reopen();
            }
            Op::Grow(bytes) => {
                flush(self.volume());
                let size = self.model.len() + usize::try_from(bytes).unwrap();
                if size as u64 <= MAX_BYTES {
                    self.model.resize(size, 0);
                    self.reopen();
                }
            }
        }
    }

    fn fail(&mut self, offset: u64, len: u64, byte: u8, done: u64) {
        let (offset, len) = self.fit(offset, len);
        let mut plan = ready(self.volume(), offset, len);
        fill(self.volume(), &plan);
        let whole = plan.len;
        plan.len = done.min(whole);
        change(self.volume(), &plan, Change::Write(byte));
        plan.len = whole;
        self.volume().end_write(plan, false);
        // What the overlay had already may be torn; everything else is as it was.
        let bytes = read(self.volume(), offset, usize::try_from(len).unwrap());
        for (was, is) in self.slice(offset, len).iter_mut().zip(bytes) {
            assert!(is == *was || is == byte);
            *was = is;
        }
    }

    /// Both plans are made before either is carried out, and the second overtakes the first,
    /// unless it has to wait.
    fn two(&mut self, one: (u64, u64, Change), two: (u64, u64, Change)) {
        let (one_at, one_len) = self.fit(one.0, one.1);
        let (two_at, two_len) = self.fit(two.0, two.1);
        let first = ready(self.volume(), one_at, one_len);
        let waits = match self.volume().begin_write(two_at, two_len).unwrap() {
            BeginWrite::Ready(second) => {
                self.carry_out(second, two_at, two.2);
                false
            }
            BeginWrite::Busy => true,
        };
        self.carry_out(first, one_at, one.2);
        if waits {
            self.apply(Op::Change(two_at, two_len, two.2));
        }
    }

    fn carry_out(&mut self, plan: WritePlan, offset: u64, what: Change) {
        let volume = self.volume();
        fill(volume, &plan);
        change(volume, &plan, what);
        let len = plan.len;
        volume.end_write(plan, true);
        self.slice(offset, len).fill(what.byte());
    }
}

fn run(with_snapshot: bool, part_bytes: u64, size: u64, ops: Vec<Op>) {
    let home = Home::new();
    let mut files = home.volumes();
    files.part_bytes = part_bytes;
    let id = VolumeId::generate();
    let snapshot = with_snapshot.then_some(home.snapshot);
    let mut model = vec![0; usize::try_from(size).unwrap()];
    if with_snapshot {
        model[..home.content.len()].copy_from_slice(&home.content);
    }
    let volume = files.create(&id, size, snapshot.as_ref()).unwrap();
    let mut pair = Pair {
        home: &home,
        files,
        id,
        standing: Standing::new(size, snapshot),
        base: match with_snapshot {
            true => home.content.clone(),
            false => Vec::new(),
        },
        volume: Some(volume),
        model,
        frozen: Vec::new(),
    };
    for op in ops {
        pair.apply(op);
    }
    pair.check_frozen();
    for _ in 0..2 {
        let len = pair.model.len();
        let all = read(pair.volume(), 0, len);
        assert!(all == pair.model);
        flush(pair.volume());
        pair.reopen();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn volume_matches_a_vector(
        with_snapshot in prop::bool::weighted(0.8),
        part_blocks in prop_oneof![Just(1u64 << 31), 40u64..600],
        extra_sectors in 0u64..3000,
        ops in prop::collection::vec(op(), 1..40),
    ) {
        let size = 4 * chunk::CHUNK_BYTES + 3 * 4096 + 512 + extra_sectors * 512;
        run(with_snapshot, part_blocks * BLOCK_BYTES, size, ops);
    }
}
