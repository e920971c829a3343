//! A disk, its driver, and the store that it lies in, of which a power cut leaves no more than the
//! [`Medium`](super::super::medium) says.

use std::cell::Cell;
use std::os::unix::fs::{FileExt, symlink};
use std::rc::Rc;
use std::sync::mpsc::Receiver;

use kami_image::volume;
use tempfile::TempDir;

use super::super::super::super::outside::Command;
use super::super::medium::Left;
use super::super::*;
use super::model::{InFlight, Model};
use super::{COUNT, Kind, SECTORS, START, bytes_at, visible};

/// Most states that are looked at where the power is cut, those chosen part by part left out.
const STATES: usize = 96;
/// And so many of those.
const CHOSEN_STATES: usize = 8;

/// Files there need no disk: thousands of histories sync nothing then.
const IN_MEMORY: &str = "/dev/shm";

/// A folder in memory where the machine has that.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(IN_MEMORY).unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

pub struct Lab {
    home: TempDir,
    /// The store's earlier folders, whose snapshots are still in use.
    earlier: Vec<TempDir>,
    id: VolumeId,
    standing: Standing,
    pub machine: Machine,
    pub model: Model,
    kind: Kind,
    /// The tag that was written last.
    tag: u32,
    /// How many operations have failed.
    failed: Rc<Cell<u32>>,
    /// The host could not write data that was never flushed, and has dropped it.
    pub has_lost: Rc<Cell<bool>>,
    /// How many states were reopened, and of how many cuts that was not all.
    pub states: usize,
    pub cut_short: usize,
}

impl Lab {
    /// A new volume, of `snapshot` where it stands on one, in a store that has that.
    pub fn new(store: &Path, snapshot: &SnapshotId, kind: Kind, random: u64) -> Self {
        let home = store_beside(store);
        let id = VolumeId::generate();
        let base = kind.snapshot.then_some(snapshot);
        let files = VolumeFiles::new(home.path());
        let sim = Sim::new(random);
        {
            let watched = &mut sim.0.borrow_mut().files;
            watched.watch(&home.path().join("volumes"), true);
            watched.watch(&home.path().join("catalogue"), true);
        }
        fs::write(home.path().join("catalogue/log"), "a row").unwrap();
        let volume = files.create(&id, SECTORS * 512, base).unwrap();
        let machine = machine(volume, home.path(), sim, kind);
        Self {
            home,
            earlier: Vec::new(),
            id,
            standing: Standing::new(SECTORS * 512, base.copied()),
            machine,
            model: Model::new(kind.snapshot, kind.write_through),
            kind,
            tag: 0,
            failed: Rc::default(),
            has_lost: Rc::default(),
            states: 0,
            cut_short: 0,
        }
    }

    pub fn turn(&mut self) {
        for slot in self.machine.turn() {
            let may_fail = self.failed.get() > 0;
            self.model.came_back(slot, &self.machine, may_fail);
        }
    }

    /// Turns until nothing is under way.
    pub fn settle(&mut self) {
        self.turn();
        while !self.model.is_idle() {
            self.turn();
        }
    }

    fn answer<T>(&mut self, answer: &Receiver<T>) -> T {
        loop {
            match answer.try_recv() {
                Ok(answer) => return answer,
                Err(_) => self.turn(),
            }
        }
    }

    /// Puts a request on the queue, in one shape or another.
    fn add(&mut self, slot: usize, request: (u32, u64), data: Data<'_>) {
        // A file without a page cache takes neither pieces of 700 bytes nor some of the others' addresses.
        let shapes = [
            Shape::Plain,
            Shape::Indirect,
            Shape::Pieces(700),
            Shape::Pieces(1536),
        ];
        let guest = &mut self.machine.guest;
        guest.add((0, slot), request, data, shapes[slot % shapes.len()]);
        guest.queues[0].kick();
    }

    pub fn write(&mut self, slot: usize, range: std::ops::Range<usize>) {
        let sectors = range.clone().collect();
        if !self.kind.overlapping && self.model.overlaps(&sectors) {
            return;
        }
        self.tag += 1;
        let bytes = sector(self.tag).repeat(range.len());
        let request = (VIRTIO_BLK_T_OUT, START + range.start as u64);
        self.add(slot, request, Data::Out(&bytes));
        let change = InFlight::Change(sectors);
        self.model.submitted(slot, change, self.tag);
    }

    /// Discards where `unmap` is none. Only whole blocks are discarded.
    pub fn zero(&mut self, slot: usize, ranges: &[std::ops::Range<usize>], unmap: Option<bool>) {
        let whole = |range: &std::ops::Range<usize>| match unmap {
            Some(_) => range.clone(),
            None => range.start.next_multiple_of(8)..range.end / 8 * 8,
        };
        let sectors = ranges.iter().flat_map(whole).collect();
        if !self.kind.overlapping && self.model.overlaps(&sectors) {
            return;
        }
        let request_type = match unmap {
            Some(_) => VIRTIO_BLK_T_WRITE_ZEROES,
            None => VIRTIO_BLK_T_DISCARD,
        };
        let flags = u32::from(unmap.unwrap_or_default());
        let segments: Vec<_> = ranges
            .iter()
            .map(|it| {
                let count = u32::try_from(it.len()).unwrap();
                (START + it.start as u64, count, flags)
            })
            .collect();
        let guest = &mut self.machine.guest;
        guest.add_segments((0, slot), request_type, &segments);
        guest.queues[0].kick();
        self.model.submitted(slot, InFlight::Change(sectors), 0);
    }

    pub fn read(&mut self, slot: usize, range: std::ops::Range<usize>) {
        if !self.kind.overlapping && self.model.overlaps(&range.clone().collect()) {
            return;
        }
        let request = (VIRTIO_BLK_T_IN, START + range.start as u64);
        self.add(slot, request, Data::In(512 * range.len()));
        self.model.submitted(slot, InFlight::Read(range), 0);
    }

    pub fn flush(&mut self, slot: usize) {
        let request = (VIRTIO_BLK_T_FLUSH, 0);
        self.machine.add(slot, request, Data::None);
        self.model.submitted(slot, InFlight::Flush, 0);
    }

    /// The next operation of this sort fails with `errno`.
    pub fn fail(&mut self, sync: bool, errno: i32) {
        let mut failed = Some(Rc::clone(&self.failed));
        let has_lost = Rc::clone(&self.has_lost);
        self.machine.sim.0.borrow_mut().fault = Box::new(move |operation| {
            let is_sync = match operation {
                Operation::SyncData { .. } | Operation::SyncAll { .. } => true,
                Operation::Watch { .. } | Operation::Read(_) => return None,
                _ => false,
            };
            if sync != is_sync {
                return None;
            }
            let failed = failed.take()?;
            failed.set(failed.get() + 1);
            has_lost.set(has_lost.get() || sync);
            Some(errno)
        });
    }

    pub fn freeze(&mut self) -> u32 {
        let held = self.machine.hold(false);
        self.answer(&held);
        let frozen = self.machine.inlet.ask(Command::Freeze).unwrap();
        let layer = self.answer(&frozen).unwrap();
        self.machine.resume();
        layer
    }

    /// A snapshot is made and takes the layers' place: first the catalogue has it so, and then the
    /// device, unless it cannot be `told`.
    pub fn rebase(&mut self, told: bool) {
        let layer = self.freeze();
        let frozen = self.model.clone();
        let flushed = self.machine.inlet.ask(Command::Flush).unwrap();
        if !self.answer(&flushed) {
            assert!(self.failed.get() > 0);
            return;
        }
        self.model.flushed = true;
        let files = VolumeFiles::new(self.home.path());
        let view = files.frozen(&self.id, &self.standing, layer).unwrap();
        let len = usize::try_from(CHUNK_SECTORS * 512).unwrap();
        let mut content = vec![0; 2 * len];
        for (index, chunk) in (0..).zip(content.chunks_mut(len)) {
            view.read_chunk(index, chunk).unwrap();
        }
        content.truncate(usize::try_from(SECTORS * 512).unwrap());
        frozen.check_live(&content[usize::try_from(START * 512).unwrap()..]);
        let snapshot = import(self.home.path(), &content);
        (self.standing.base, self.standing.layer) = (Some(snapshot), layer);
        if !told {
            return;
        }
        let held = self.machine.hold(true);
        self.answer(&held);
        let make = |answer| Command::Rebase(snapshot, layer, answer);
        let rebased = self.machine.inlet.ask(make).unwrap();
        self.answer(&rebased).unwrap();
        self.machine.resume();
        files.delete_below(&self.id, layer).unwrap();
    }

    /// The driver resets the device.
    pub fn reset(self) -> Self {
        let Self {
            machine,
            mut model,
            kind,
            ..
        } = self;
        machine.stop.write(1).unwrap();
        let Machine { engine, sim, .. } = machine;
        let volume = engine.run().unwrap();
        sim.0.borrow_mut().stop_watching();
        model.drop_requests();
        let mut machine = Machine::new(volume, sim);
        machine.engine.disk.write_through = kind.write_through;
        Self {
            machine,
            model,
            ..self
        }
    }

    /// The process is killed, and another one opens the volume.
    pub fn kill(self) -> Self {
        let Self {
            machine, mut model, ..
        } = self;
        machine.sim.0.borrow_mut().kill();
        let Machine { engine, sim, .. } = machine;
        drop(engine);
        let files = VolumeFiles::new(self.home.path());
        files.delete_below(&self.id, self.standing.layer).unwrap();
        let mut volume = files.open(&self.id, &self.standing).unwrap();
        let bytes = visible(&mut volume, START, COUNT);
        model.check_left(&bytes);
        model.reopened(&bytes, false);
        let machine = self::machine(volume, self.home.path(), sim, self.kind);
        Self {
            machine,
            model,
            ..self
        }
    }

    /// Looks at the states that a power cut may leave now.
    pub fn look_at_states(&mut self) {
        let copy = store_beside(self.home.path());
        let (mut all, mut states) = (Vec::new(), 0);
        let sim = Rc::clone(&self.machine.sim.0);
        let mut world = sim.borrow_mut();
        world.files.look();
        let mut random = world.choose(usize::MAX) as u64 | 1;
        let mut choose = |count| {
            // xorshift64 (Marsaglia 2003)
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random >> 16).unwrap() % count
        };
        for _ in 0..CHOSEN_STATES {
            all.push(world.files.any_state(&mut choose));
        }
        let mut visit = |left| {
            states += 1;
            let reopened = self.reopen(copy.path(), &left);
            if let Some(reopened) = reopened.filter(|_| states % 4 == 0) {
                self.goes_on(copy.path(), reopened);
            }
        };
        all.drain(..).for_each(&mut visit);
        let is_all = world.files.each_state(STATES, &mut choose, &mut visit);
        self.states += states;
        self.cut_short += usize::from(!is_all);
    }

    /// Opens the volume as it is `left`, in the store at `home`, and looks at it. None where it is not there,
    /// which it need not be before the first flush.
    fn reopen(&self, home: &Path, left: &Left) -> Option<(Volume, Vec<u8>)> {
        for folder in ["volumes", "catalogue"] {
            fs::remove_dir_all(home.join(folder)).unwrap();
            fs::create_dir(home.join(folder)).unwrap();
        }
        for (path, bytes) in left {
            let name = path.strip_prefix(self.home.path()).unwrap();
            write_sparse(&home.join(name), bytes);
        }
        let row = fs::read(home.join("catalogue/log")).unwrap_or_default();
        let opened = VolumeFiles::new(home).open(&self.id, &self.standing);
        let mut volume = match opened {
            Ok(volume) if row == b"a row" => volume,
            _ if !self.model.flushed => return None,
            Ok(_) => panic!("the catalogue knows nothing of a flushed volume"),
            Err(error) => panic!("{error}: {:?}", left.keys()),
        };
        let bytes = visible(&mut volume, START, COUNT);
        self.model.check_left(&bytes);
        Some((volume, bytes))
    }

    /// The volume goes on: what is written and synced from now on is there when it is opened again, and the rest too.
    fn goes_on(&self, home: &Path, (mut volume, mut bytes): (Volume, Vec<u8>)) {
        let layer = volume.freeze().unwrap();
        assert!(layer >= self.standing.layer);
        let at = usize::try_from(START % 61).unwrap();
        change_sector(&mut volume, START + at as u64);
        volume.sync().unwrap();
        drop(volume);
        bytes[512 * at..][..512].fill(0xcc);
        let volume = VolumeFiles::new(home).open(&self.id, &self.standing);
        assert!(visible(&mut volume.unwrap(), START, COUNT) == bytes);
    }

    /// The power is cut, and the machine goes on with what is left, if any.
    pub fn cut(mut self) -> Option<Self> {
        self.look_at_states();
        let home = store_beside(self.home.path());
        let left = {
            let mut world = self.machine.sim.0.borrow_mut();
            let world = &mut *world;
            let mut random = world.choose(usize::MAX);
            world.files.any_state(&mut |count| {
                random = random.wrapping_mul(6_364_136_223_846_793_005) + 1;
                (random >> 33) % count
            })
        };
        let (volume, bytes) = self.reopen(home.path(), &left)?;
        let random = self.machine.sim.0.borrow_mut().choose(usize::MAX) as u64 | 1;
        let sim = Sim::new(random);
        for folder in ["volumes", "catalogue"] {
            let folder = home.path().join(folder);
            sim.0.borrow_mut().files.watch(&folder, true);
        }
        self.model.reopened(&bytes, true);
        self.model.flushed = true;
        self.machine = machine(volume, home.path(), sim, self.kind);
        self.has_lost.set(false);
        self.earlier.push(std::mem::replace(&mut self.home, home));
        Some(self)
    }
}

/// A machine with `volume`, whose row the catalogue wrote without a sync.
fn machine(mut volume: Volume, home: &Path, sim: Sim, kind: Kind) -> Machine {
    let catalogue = home.join("catalogue");
    let log = File::open(catalogue.join("log")).unwrap();
    volume.sync_before_first_flush(vec![log, File::open(catalogue).unwrap()]);
    // Elsewhere the ring's own look at what was written would have to keep to the file's units.
    if kind.direct && home.starts_with(IN_MEMORY) {
        // Before Linux 6.6 there is none in memory.
        let bypassed = volume.bypass_cache();
        assert!(bypassed.is_ok() || matches!(bypassed, Err(volume::Error::NoDirectIo)));
    }
    let mut machine = Machine::new(volume, sim);
    machine.engine.disk.write_through = kind.write_through;
    machine
}

/// Writes 0xcc to a sector, as a device would.
fn change_sector(volume: &mut Volume, number: u64) {
    let BeginWrite::Ready(plan) = volume.begin_write(512 * number, 512).unwrap() else {
        panic!("nothing is under way");
    };
    let write = |volume: &Volume, bytes: &[u8], offset| {
        let file = File::from(volume.file(plan.file).try_clone_to_owned().unwrap());
        file.write_all_at(bytes, offset).unwrap();
    };
    for fill in plan.fills.iter().flatten() {
        write(
            volume,
            &bytes_at(volume, fill.from, fill.len),
            fill.to_offset,
        );
    }
    write(volume, &[0xcc; 512], plan.offset);
    volume.end_write(plan, true);
}

/// A store that has the snapshots of the one at `home`, and no volumes.
fn store_beside(home: &Path) -> TempDir {
    let store = folder();
    for folder in ["segments", "snapshots"] {
        let folder = Path::new(folder);
        symlink(home.join(folder), store.path().join(folder)).unwrap();
    }
    for folder in ["volumes", "catalogue"] {
        fs::create_dir(store.path().join(folder)).unwrap();
    }
    store
}

/// Writes `bytes` to a new file, those that are not zeroes.
fn write_sparse(path: &Path, bytes: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (number, block) in bytes.chunks(4096).enumerate() {
        if block != &[0; 4096][..block.len()] {
            file.write_all_at(block, 4096 * number as u64).unwrap();
        }
    }
}
