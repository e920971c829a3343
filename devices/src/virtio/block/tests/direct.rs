//! Volumes without the host's page cache, where there is a file system for them.

use std::os::unix::fs::OpenOptionsExt;

use kami_image::volume;
use vm_memory::{Bytes, GuestAddress};

use super::super::super::mock::{readable, writable};
use super::*;

/// A folder on a file system with direct I/O: that of temporary files, which may be in memory, or this program's.
fn home() -> tempfile::TempDir {
    let program = std::env::current_exe().unwrap();
    let folders = [std::env::temp_dir(), program.parent().unwrap().to_owned()];
    let homes = folders
        .iter()
        .filter_map(|it| tempfile::tempdir_in(it).ok());
    let mut direct = homes.filter(|home| {
        let path = home.path().join("probe");
        File::create(&path).unwrap();
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_DIRECT);
        options.open(path).is_ok()
    });
    direct.next().unwrap_or_else(|| {
        panic!("neither of {folders:?} has direct I/O: set TMPDIR to a folder that has, or leave these tests out")
    })
}

/// A volume of two layers, so that parts of blocks are copied from one to the other, with nothing cached.
fn uncached(home: &std::path::Path) -> Volume {
    let files = VolumeFiles::new(home);
    let id = VolumeId::generate();
    let mut volume = files.create(&id, SIZE, None).unwrap();
    let overlay = home.join(format!("volumes/{id}.overlay"));
    volume.bypass_cache().unwrap();
    let bytes: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
    File::options()
        .write(true)
        .open(overlay)
        .and_then(|file| file.write_all_at(&bytes, 0))
        .unwrap();
    volume.freeze().unwrap();
    volume
}

/// Where a request's data is: so many bytes behind a page, in pieces of this many bytes, each as far from the next.
type Layout = (u64, usize, u64);

fn layout() -> impl Strategy<Value = Layout> {
    let odd = (0u64..4096, 450usize..6000, 0u64..9);
    prop_oneof![1 => Just((0, DATA_BYTES, 0)), 1 => Just((512, 1024, 512)), 4 => odd]
}

/// What a request is, where, how many sectors long, in which layout.
type Asked = (u32, u64, u64, Layout);

fn asked() -> impl Strategy<Value = Asked> {
    let kind = prop_oneof![
        3 => Just(VIRTIO_BLK_T_OUT),
        3 => Just(VIRTIO_BLK_T_IN),
        1 => Just(VIRTIO_BLK_T_WRITE_ZEROES),
    ];
    let run = (0..SIZE / 512).prop_flat_map(|at| (Just(at), 1..=(SIZE / 512 - at).min(200)));
    (kind, run, layout()).prop_map(|(kind, (at, count), layout)| (kind, at, count, layout))
}

/// Reads or writes `bytes`, which lie in guest memory as `layout` has it; returns the status.
fn transfer(guest: &mut Guest, (kind, at): (u32, u64), bytes: &mut [u8], layout: Layout) -> u8 {
    const HEADER: u64 = 0x10_0000;
    let (skew, step, gap) = layout;
    let memory = &guest.memory;
    let put = |value: u64, at| memory.write_obj(value, GuestAddress(at)).unwrap();
    put(kind.into(), HEADER);
    put(at, HEADER + 8);
    let start = 0x20_0000 + skew;
    let stride = step as u64 + gap;
    let places = || (0..).map(|n| GuestAddress(start + n * stride));
    let mut chain = vec![readable(HEADER, 16)];
    for (place, piece) in places().zip(bytes.chunks(step)) {
        let len = u32::try_from(piece.len()).unwrap();
        chain.push(match kind {
            VIRTIO_BLK_T_IN => writable(place.0, len),
            _ => readable(place.0, len),
        });
        memory.write_slice(piece, place).unwrap();
    }
    chain.push(writable(HEADER + 32, 1));
    guest.queues[0].add(&chain);
    guest.queues[0].kick();
    guest.queues[0].wait_used();
    for (place, piece) in places().zip(bytes.chunks_mut(step)) {
        guest.memory.read_slice(piece, place).unwrap();
    }
    guest.memory.read_obj(GuestAddress(HEADER + 32)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever memory a guest names, what is read is what was written.
    #[test]
    fn uncached_disk_takes_every_request_that_a_cached_one_takes(
        history in prop::collection::vec(asked(), 1..24),
    ) {
        let home = home();
        let volume = uncached(home.path());
        let mut machine = Machine {
            device: BlockDevice::new(volume, CONFIG),
            guest: Guest::new(CONFIG.queues.into()),
            needs_reset: Arc::default(),
        };
        machine.activate(ALL_FEATURES);
        let mut model: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
        for (step, (kind, at, count, layout)) in history.into_iter().enumerate() {
            let guest = &mut machine.guest;
            let start = usize::try_from(at * 512).unwrap();
            let len = usize::try_from(count * 512).unwrap();
            let run = &mut model[start..start + len];
            match kind {
                VIRTIO_BLK_T_OUT => {
                    let mut bytes: Vec<u8> = (0..=240).cycle().skip(step).take(len).collect();
                    run.copy_from_slice(&bytes);
                    prop_assert_eq!(transfer(guest, (kind, at), &mut bytes, layout), OK);
                }
                VIRTIO_BLK_T_IN => {
                    let mut bytes = vec![0xfe; len];
                    prop_assert_eq!(transfer(guest, (kind, at), &mut bytes, layout), OK);
                    prop_assert!(bytes == run);
                }
                _ => {
                    let segment = (at, u32::try_from(count).unwrap(), 0);
                    guest.add_segments((0, 0), kind, &[segment]);
                    prop_assert_eq!(guest.finish_one(), OK);
                    run.fill(0);
                }
            }
        }
        prop_assert_eq!(machine.guest.run((VIRTIO_BLK_T_FLUSH, 0), Data::None), OK);
        for (at, bytes) in (0..).step_by(DATA_BYTES / 512).zip(model.chunks(DATA_BYTES)) {
            prop_assert!(machine.guest.read(at, bytes.len()) == bytes);
        }
    }
}

/// A snapshot reads frozen layers through the cache, whatever the volume itself does.
#[test]
fn uncached_disk_is_frozen_and_its_new_layer_has_no_cache_either() {
    let home = home();
    let volume = uncached(home.path());
    let mut device = Machine {
        device: BlockDevice::new(volume, CONFIG),
        guest: Guest::new(CONFIG.queues.into()),
        needs_reset: Arc::default(),
    };
    device.activate(ALL_FEATURES);
    assert_eq!(device.guest.write(3, &[7; 512]), OK);
    let frozen = outside::freeze(&[device.device.handle()]).unwrap();
    assert_eq!(frozen.layers, [2]);
    assert_eq!(device.guest.write(4, &[8; 512]), OK);
    assert_eq!(device.guest.read(3, 1024), [[7; 512], [8; 512]].concat());
    device.device.reset();
    let state = std::mem::replace(&mut *lock(&device.device.state), State::Lost);
    let State::Idle(mut volume) = state else {
        panic!("the device is at rest");
    };
    let mut extents = Vec::new();
    volume.map_read(2048, 512, &mut extents).unwrap();
    let volume::Place::File { file, .. } = extents[0].place else {
        panic!("it was written");
    };
    let flags = open_flags(&volume, file);
    assert!(volume.alignment(file).is_some() && flags & libc::O_DIRECT != 0);
}

fn open_flags(volume: &Volume, file: volume::FileIndex) -> i32 {
    use std::os::fd::AsRawFd;
    let fd = volume.file(file).as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    i32::from_str_radix(flags.unwrap().trim(), 8).unwrap()
}
