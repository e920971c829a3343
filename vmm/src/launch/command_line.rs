//! The kernel's command line.

use kami_image::store::LaunchedVolume;
use kami_image::volume::{Place, Volume};

use super::{Error, root};
use crate::arch::host;

/// What comes first: the console of this host's machines, then `rw` and `rootwait`, which let a kernel without a
/// ramdisk find and mount its root as one with a ramdisk does; all are Linux's own
/// (Documentation/admin-guide/kernel-parameters.txt).
pub fn default() -> String {
    format!("console={} rw rootwait", host::CONSOLE)
}

/// The kernel's command line: the default, the root device as the root disk's first sectors tell, and
/// what the user appends.
pub fn of(volumes: &mut [LaunchedVolume], append: &str) -> Result<String, Error> {
    let mut line = default();
    if let Some(root) = volumes.first_mut() {
        let mut head = [0; root::HEAD_BYTES];
        read_head(&mut root.volume, &mut head)?;
        line.push_str(" root=");
        line.push_str(root::device(&head));
    }
    if !append.is_empty() {
        line.push(' ');
        line.push_str(append);
    }
    Ok(line)
}

/// Reads the volume's first bytes into `head`, as many as there are.
fn read_head(volume: &mut Volume, head: &mut [u8]) -> Result<(), Error> {
    let len = volume.size_bytes().min(head.len() as u64);
    let mut extents = Vec::new();
    volume.map_read(0, len, &mut extents).map_err(Error::Root)?;
    let mut rest = head;
    for extent in extents {
        let len = usize::try_from(extent.len)
            .unwrap_or(rest.len())
            .min(rest.len());
        let (part, later) = rest.split_at_mut(len);
        if let Place::File { file, offset } = extent.place {
            let read = rustix::io::pread(volume.file(file), &mut *part, offset);
            read.map_err(|error| Error::io("read the root disk")(error.into()))?;
        }
        rest = later;
    }
    Ok(())
}
