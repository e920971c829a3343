//! The bare-metal test guest: a program of about 120 KiB that boots as a kernel does (on x86_64 by the PVH entry or
//! Linux's 64-bit one, on aarch64 as an `Image`) and tests the machine that it finds itself in. Its source is `guest/`,
//! beside this crate's `src/`.
//!
//! It writes `K` to the serial console as its very first act. What it does then, the word `kami.test=MODE` on its
//! command line says:
//!
//! | mode | does | ends by |
//! |---|---|---|
//! | `hello` | nothing more, on the shortest way | power-off |
//! | (none), `self` | the whole self-test | power-off, or a panic if it failed |
//! | `reset`; `reset-i8042` on x86_64, `reset-warm` on aarch64 | the self-test, a mark on the first disk, a reset; the second boot finds the mark, tests again | as `self` |
//! | `echo` | sends back what the serial port receives, until a `q` | power-off |
//! | `button` | waits for the power button | power-off |
//! | `count` | counts its boots on every disk, then as `button` | power-off |
//! | `write` | writes to its first two disks in turn, for ever | never |
//! | `load` | does jobs of requests, tells how many there were and how long they took | power-off |
//! | `log` | checks the numbered records on every disk, writes and flushes more of them | never; `kami.log=check`: after the check |
//! | `fill` | writes the whole of the last disk; requests that fail are tried again at each byte from the console | power-off |
//! | `panic` | | a panic |
//! | `panic-line` | prints Linux's panic lines | never: halts |
//! | `triple-fault` | | a triple fault; a panic on aarch64, which knows none |
//! | `bad-instruction` | executes what an emulating hypervisor may not know | power-off, where the host knows it |
//! | `fail` | reports a failure | a panic |
//! | `flood` | writes lines without end | never |
//! | `hang`, `spin` | halts with interrupts masked; spins | never |
//!
//! | | x86_64 | aarch64 |
//! |---|---|---|
//! | serial console | COM1 | the PL011 that the device tree's `stdout-path` names |
//! | power-off | `hello`: port 0x600 ← 0x34, else a reset; else ACPI's S5 | PSCI `SYSTEM_OFF` |
//! | reset | ACPI's register; `-i8042`: the keyboard controller | PSCI `SYSTEM_RESET`; `-warm`: `SYSTEM_RESET2` |
//! | panic | pvpanic (port 0x505 ← 1) | pvpanic where the device tree has one, else Linux's panic lines |
//! | power button | ACPI's generic event device | the key of `gpio-keys` on a PL061 |
//! | bad instruction | `cmpxchg16b` at privilege level 0 | a load from a device that also changes its address register |
//! | further processors | INIT, start-up interrupts | PSCI `CPU_ON` |
//! | MSI-X | to the local APIC | through the GICv3's ITS, or a GICv2m frame |
//! | clock | MC146818 | PL031 |
//!
//! `load` does the jobs of `kami.load=JOB[,JOB…]` one after the other, a JOB being
//! `DISK:KIND:BLOCK:DEPTH:QUEUES:LIMIT[:irq]`:
//!
//! | | |
//! |---|---|
//! | DISK | its index, by ascending PCI slot |
//! | KIND | `read`, `write`: sequential, at the end from the start again; `randread`, `randwrite`: blocks at random; `first`, `fillseq`: writes each block once, in a random order that is always the same, or ascending |
//! | BLOCK | bytes of a request, a multiple of 512; blocks are aligned to it |
//! | DEPTH | requests in flight on all queues together, whose buffers fit into the machine's memory; at most 255, and what the queues have room for: the report says how many |
//! | QUEUES | virtqueues, used in turns |
//! | LIMIT | milliseconds; of `first` and `fillseq` per mille of the disk: 500 is every second stretch of 64 KiB (or a block, if larger), the same ones each time |
//! | `irq` | rest until an interrupt comes, instead of looking at the used rings all the time |
//!
//! A job that writes is ended by a flush, outside the time that is told. On x86_64 `kami.tsc_khz=N` has to tell how
//! fast the time-stamp counter is. Indirect descriptors and the event index are used where the device has them.
//!
//! `log` writes the same records, numbered from 1, to each disk that it can write, and says `flushed=N` after a flush of
//! all disks that covers them up to N. Started again with `kami.flushed=N`, it first checks that every disk has each of
//! them up to N, or one that came later to the same place, and fails if not; then it goes on from N + 1. A disk without
//! any record has no log, which is a fault of the first `kami.logs=N` (else 1) disks only. Records have `disk_sectors` of [`pattern::Stamp`] as a
//! mark, with the number of the disk's first record.
//!
//! `fill` has up to eight requests of 64 KiB in flight, ahead over the disk. When some fail it waits for the others and
//! says `fill=error at=SECTOR status=N failed=N`, of the first of them, or `fill=error at=flush status=N`; it reads the
//! first disk and the first block that the last one has taken, and says `fill=alive`; at a byte from the console it says
//! `fill=again`, tries those that failed, and goes on. `fill=done` says that all of it was written and flushed,
//! `fill=verified` that all of it was read again and is right.
//!
//! With `kami.check=all` the self-test reads whole disks instead of samples. It writes to every disk, always
//! the pattern of [`pattern`]. It reports in lines `kami-test: KEY=VALUE`, of which the last is `result=pass` or
//! `result=fail reason=…`: see [`Report`].

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod own;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod own;

#[cfg(test)]
mod calendar;
#[cfg(test)]
mod fdt;
#[cfg(test)]
mod histogram;
pub mod job;
pub mod pattern;
mod report;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::MemfdFlags;

pub use own::{HAS_TRIPLE_FAULT, PROTOCOLS, RESETS};
pub use report::{Disk, Load, Outcome, Report};

use crate::{Error, Kernel, open_unpacked};

/// The test guest for the machine that this program is built for. On x86_64 an ELF file with a PVH entry and a 64-bit
/// entry, which lies at 1 MiB; on aarch64 an `Image`, for the start of RAM. It needs 3 MiB of memory.
pub const TEST_GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/test-guest"));

/// What errors call the test guest.
const NAME: &str = "the built-in test guest";

/// The test guest as a kernel, in a file without a name.
///
/// # Errors
/// Where the host has no memory for the file.
pub fn open() -> Result<Kernel, Error> {
    let path = Path::new(NAME);
    let file = rustix::fs::memfd_create("kami-test-guest", MemfdFlags::CLOEXEC)
        .map_err(|source| Error::write(path, source.into()))?;
    let mut file = File::from(file);
    file.write_all(TEST_GUEST)
        .map_err(|source| Error::write(path, source))?;
    open_unpacked(file, path)
}

/// Writes a disk of `sectors` sectors of 512 bytes that carries the test pattern.
///
/// # Errors
/// Those of `out`.
pub fn write_test_disk(out: impl Write, sectors: u64) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    let stamp = pattern::Stamp {
        generation: 0,
        disk_sectors: sectors,
    };
    let mut bytes = [0; pattern::SECTOR_BYTES];
    for number in 0..sectors {
        pattern::fill(number, stamp, &mut bytes);
        out.write_all(&bytes)?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_guest_needs_no_more_than_3_mib() {
        let kernel = open().unwrap();
        let end = kernel.end_address();
        assert!(end <= 3 << 20, "{end:#x}");
    }

    #[test]
    fn test_disk_carries_the_pattern_and_a_changed_bit_shows() {
        let mut disk = Vec::new();
        write_test_disk(&mut disk, 3).unwrap();
        assert_eq!(disk.len(), 3 * pattern::SECTOR_BYTES);
        let host = pattern::Stamp {
            generation: 0,
            disk_sectors: 3,
        };
        for (number, sector) in (0..).zip(disk.chunks_exact_mut(pattern::SECTOR_BYTES)) {
            let sector: &mut [u8; pattern::SECTOR_BYTES] = sector.try_into().unwrap();
            assert_eq!(pattern::check(number, sector), Some(host));
            assert_eq!(pattern::check(number + 1, sector), None);
            for at in [0, 8, 16, 24, 511] {
                sector[at] ^= 0x10;
                assert_eq!(pattern::check(number, sector), None, "byte {at}");
                sector[at] ^= 0x10;
            }
        }
    }

    #[test]
    fn pattern_is_the_documented_one() {
        let stamp = pattern::Stamp {
            generation: 5,
            disk_sectors: 0,
        };
        let mut sector = [0; pattern::SECTOR_BYTES];
        pattern::fill(7, stamp, &mut sector);
        assert_eq!(sector[..8], (pattern::KEY ^ 7).to_le_bytes());
        assert_eq!(sector[8..16], 5u64.to_le_bytes());
        assert_eq!(sector[16..24], [0; 8]);
        // The first number of splitmix64 from seed (KEY ^ 7) ^ (5 << 17).
        let mut mixed = (pattern::KEY ^ 7 ^ (5 << 17)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        assert_eq!(sector[24..32], (mixed ^ (mixed >> 31)).to_le_bytes());
    }
}
