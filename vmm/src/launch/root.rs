//! Which device the guest's root file system is on: a look at the root disk's first sectors.
//!
//! Implements the protective MBR and the header of UEFI 2.10 §5.2–5.3 and the classic MBR, as far as
//! to tell a partition table from none. Which partition holds the root file system is not looked
//! for: cloud images have it first, and `--append root=…` says otherwise.

/// How many bytes of the disk [`device`] wants: the sectors of the MBR and of the GPT's header.
pub const HEAD_BYTES: usize = 1024;

const SECTOR: usize = 512;

/// The root device of a disk that begins with `head`.
pub fn device(head: &[u8]) -> &'static str {
    if is_gpt(head) || is_mbr(head) {
        "/dev/vda1"
    } else {
        "/dev/vda"
    }
}

fn is_gpt(head: &[u8]) -> bool {
    head.get(SECTOR..)
        .is_some_and(|header| header.starts_with(b"EFI PART"))
}

/// The signature alone does not make a partition table: a FAT boot sector and a boot loader before
/// a bare file system carry it too. Every entry must be sound, and one in use.
fn is_mbr(head: &[u8]) -> bool {
    let Some(entries) = head.get(446..510) else {
        return false;
    };
    let signed = head.get(510..512) == Some(&[0x55, 0xaa]);
    let word = |entry: &[u8], at: usize| {
        entry[at..at + 4]
            .iter()
            .rev()
            .fold(0, |n, &b| n << 8 | u32::from(b))
    };
    let is_used = |entry: &[u8]| entry[4] != 0;
    let is_sound = |entry: &[u8]| {
        let (start, sectors) = (word(entry, 8), word(entry, 12));
        matches!(entry[0], 0 | 0x80) && (!is_used(entry) || (start != 0 && sectors != 0))
    };
    let mut all = entries.chunks_exact(16);
    signed && all.clone().all(is_sound) && all.any(is_used)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(entry: [u8; 16]) -> Vec<u8> {
        let mut head = vec![0; HEAD_BYTES];
        head[446..462].copy_from_slice(&entry);
        head[510..512].copy_from_slice(&[0x55, 0xaa]);
        head
    }

    /// An entry of type `kind` with 4096 sectors from sector 2048 on.
    fn entry(status: u8, kind: u8) -> [u8; 16] {
        [status, 0, 0, 0, kind, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0]
    }

    #[test]
    fn partitioned_disks_have_their_root_on_the_first_partition() {
        assert_eq!(device(&disk(entry(0x80, 0x83))), "/dev/vda1");
        let mut gpt = vec![0; HEAD_BYTES];
        gpt[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(device(&gpt), "/dev/vda1");
    }

    #[test]
    fn bare_file_systems_are_the_root_themselves() {
        let empty_table = disk([0; 16]);
        let code_in_place_of_entries = disk(entry(0x33, 0x83));
        let no_sectors = disk([0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0]);
        for head in [
            &empty_table,
            &code_in_place_of_entries,
            &no_sectors,
            &vec![0; 1024],
        ] {
            assert_eq!(device(head), "/dev/vda");
        }
    }

    #[test]
    fn disk_shorter_than_a_sector_is_bare() {
        assert_eq!(device(&[0; 100]), "/dev/vda");
        assert_eq!(device(&[]), "/dev/vda");
    }
}
