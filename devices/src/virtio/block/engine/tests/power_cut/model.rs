//! What each sector of a disk may hold, given the requests that there were and when they came back.
//!
//! A value may be found unless another one *must* have taken its place: one whose write began
//! after the first one's was over. After a power cut only what was flushed must be there.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{IO_ERROR, Machine, OK, sector};
use super::{COUNT, START, snapshot_tag};

/// A value that a sector was given.
#[derive(Clone, Copy, Debug)]
struct Value {
    tag: u32,
    began: u64,
    /// When its request came back, or was dropped.
    over: Option<u64>,
    /// The request came back with success.
    done: bool,
    /// And a flush has made that durable.
    flushed: bool,
}

/// The sectors, counted from [`START`], that a request is for.
pub type Sectors = BTreeSet<usize>;

/// A request in flight, and when it was put on the queue.
#[derive(Clone, Debug)]
pub enum InFlight {
    Change(Sectors),
    Read(std::ops::Range<usize>),
    Flush,
}

#[derive(Clone, Debug)]
pub struct Model {
    sectors: Vec<Vec<Value>>,
    in_flight: BTreeMap<usize, (u64, InFlight)>,
    now: u64,
    /// A flush was answered: from then on the volume is there, whatever happens.
    pub flushed: bool,
    /// A change that came back is durable.
    pub write_through: bool,
}

impl Model {
    pub fn new(stands_on_snapshot: bool, write_through: bool) -> Self {
        let tag = |n| match stands_on_snapshot {
            true => snapshot_tag(START + n),
            false => 0,
        };
        Self {
            sectors: (0..COUNT).map(|n| vec![Value::at_rest(tag(n))]).collect(),
            in_flight: BTreeMap::new(),
            now: 1,
            flushed: false,
            write_through,
        }
    }

    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether a request in flight changes one of these sectors, or reads one that this one changes.
    pub fn overlaps(&self, sectors: &Sectors) -> bool {
        self.in_flight.values().any(|(_, it)| match it {
            InFlight::Change(others) => !others.is_disjoint(sectors),
            InFlight::Read(range) => sectors.range(range.clone()).next().is_some(),
            InFlight::Flush => false,
        })
    }

    /// The request in `slot` is on the queue; a change gives its sectors `tag`.
    pub fn submitted(&mut self, slot: usize, request: InFlight, tag: u32) {
        self.now += 1;
        if let InFlight::Change(sectors) = &request {
            for sector in sectors {
                let value = Value {
                    tag,
                    began: self.now,
                    over: None,
                    done: false,
                    flushed: false,
                };
                self.sectors[*sector].push(value);
            }
        }
        self.in_flight.insert(slot, (self.now, request));
    }

    /// The request in `slot` has come back. Only where `may_fail` may it have failed.
    pub fn came_back(&mut self, slot: usize, machine: &Machine, may_fail: bool) {
        self.now += 1;
        let status = machine.guest.status(slot);
        assert!(
            status == OK || may_fail && status == IO_ERROR,
            "status {status}"
        );
        let done = status == OK;
        let (submitted, request) = self.in_flight.remove(&slot).unwrap();
        match request {
            InFlight::Change(sectors) => {
                let flushed = done && self.write_through;
                self.flushed |= flushed;
                for sector in sectors {
                    let values = self.sectors[sector].iter_mut();
                    for value in values.filter(|it| it.began == submitted) {
                        value.over = Some(self.now);
                        (value.done, value.flushed) = (done, flushed);
                    }
                }
            }
            InFlight::Read(range) => {
                let bytes = machine.guest.data(slot, 512 * range.len());
                if done {
                    self.check(range, &bytes, &|it| {
                        it.done && it.over.is_some_and(|over| over < submitted)
                    });
                }
            }
            InFlight::Flush if done => self.flush(submitted),
            InFlight::Flush => {}
        }
    }

    fn flush(&mut self, submitted: u64) {
        self.flushed = true;
        let values = self.sectors.iter_mut().flatten();
        for value in values.filter(|it| it.done) {
            value.flushed |= value.over.is_some_and(|over| over < submitted);
        }
    }

    /// Asserts that `bytes`, read from the beginning of `range`, may be found where the values that
    /// `must` is true of must be there.
    #[track_caller]
    fn check(&self, range: std::ops::Range<usize>, bytes: &[u8], must: &dyn Fn(&Value) -> bool) {
        assert_eq!(bytes.len(), 512 * range.len());
        for (number, bytes) in range.zip(bytes.chunks(512)) {
            let values = &self.sectors[number];
            let began = values.iter().filter(|it| must(it)).map(|it| it.began).max();
            let may = |it: &&Value| it.over.is_none_or(|over| began.is_none_or(|at| over >= at));
            let legal: Vec<_> = values.iter().filter(may).map(|it| it.tag).collect();
            let found = u32::from_le_bytes(bytes[..4].try_into().unwrap());
            assert!(
                bytes == sector(found) && legal.contains(&found),
                "sector {number} is {found:x?}, none of {legal:x?}"
            );
        }
    }

    /// Asserts that a power cut now may leave `bytes`.
    #[track_caller]
    pub fn check_left(&self, bytes: &[u8]) {
        self.check(0..self.sectors.len(), bytes, &|it| it.flushed);
    }

    /// Asserts that a disk of which nothing was lost may have `bytes` now.
    #[track_caller]
    pub fn check_live(&self, bytes: &[u8]) {
        self.check(0..self.sectors.len(), bytes, &|it| it.done);
    }

    /// The driver is gone, and what it had in flight never comes back.
    pub fn drop_requests(&mut self) {
        self.now += 1;
        self.in_flight.clear();
        for value in self.sectors.iter_mut().flatten() {
            value.over.get_or_insert(self.now);
        }
    }

    /// The disk was opened anew and has `bytes`, all `durable` or not.
    pub fn reopened(&mut self, bytes: &[u8], durable: bool) {
        self.drop_requests();
        self.now += 1;
        for (values, bytes) in self.sectors.iter_mut().zip(bytes.chunks(512)) {
            let tag = u32::from_le_bytes(bytes[..4].try_into().unwrap());
            if durable {
                values.clear();
            }
            values.push(Value {
                tag,
                began: self.now,
                over: Some(self.now),
                done: true,
                flushed: durable,
            });
        }
    }
}

impl Value {
    /// One that was always there.
    fn at_rest(tag: u32) -> Self {
        Self {
            tag,
            began: 0,
            over: Some(0),
            done: true,
            flushed: true,
        }
    }
}
