//! What can be done about what a check finds: damaged and dangling things go out of the way, into
//! `quarantine/`, and what used them is marked. Content that is lost does not come back.
//!
//! | found | done |
//! |---|---|
//! | a damaged chunk | copied to `quarantine/`, and no snapshot shares it any more |
//! | a damaged table | moved to `quarantine/` |
//! | a segment that is another file | moved to `quarantine/` |
//! | a snapshot with any of these | in the state `error`; volumes that stand on it read what is left |
//! | an image that needs such a snapshot, or a kernel that is not sound | in the state `invalid`, and is not launched |
//! | a damaged kernel or ramdisk | moved to `quarantine/`, its row removed |
//! | content to share that no snapshot has | not shared any more |
//!
//! The catalogue's own file and the files of volumes are left as they are.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::check::{CheckReport, Finding};
use super::{Error, Store, create_private};
use crate::chunk::pending::sync_folder;
use crate::chunk::{CHUNK_LEN, ChunkPlace};
use crate::fault;
use crate::id::ImageId;

/// EC2's state of an image that cannot be used.
pub(super) const INVALID: &str = "invalid";

/// The folder in the store's.
const QUARANTINE: &str = "quarantine";

impl Store {
    /// Does what can be done about each of the report's findings. Returns those about which nothing could be.
    ///
    /// # Errors
    /// [`Error::Io`] where the quarantine cannot be written; [`Error::Catalogue`]. A check tells what
    /// is left to do.
    pub fn repair(&self, report: &CheckReport) -> Result<Vec<Finding>, Error> {
        let mut left = Vec::new();
        if report.findings.is_empty() {
            return Ok(left);
        }
        let folder = self.home.join(QUARANTINE);
        create_private(&folder).map_err(Error::io("create", &folder))?;
        let mut moves = Vec::new();
        // What is copied is copied before anything refers to it no more.
        for finding in &report.findings {
            if let Finding::Chunk { place, .. } = finding {
                self.copy_chunk(*place, &folder)?;
            }
        }
        sync_folder(&folder).map_err(Error::io("sync", &folder))?;
        fault::point("repair.copied");

        let transaction = self.durable()?;
        for finding in &report.findings {
            if !self.mark(finding, &mut moves)? {
                left.push(finding.clone());
            }
        }
        self.catalogue.commit(transaction)?;
        fault::point("repair.marked");
        for path in moves {
            move_into(&path, &folder)?;
        }
        self.catalogue.tidy();
        Ok(left)
    }

    /// Writes down what was found, and what file is to be moved away. False where nothing can be
    /// done.
    fn mark(&self, finding: &Finding, moves: &mut Vec<PathBuf>) -> Result<bool, Error> {
        match finding {
            Finding::Catalogue { .. } | Finding::Volume { .. } => return Ok(false),
            Finding::Table { snapshot, .. } => {
                self.catalogue.mark_snapshot_damaged(snapshot)?;
                moves.push(self.snapshots.table_path(snapshot));
            }
            Finding::Snapshot { snapshot, .. } => self.catalogue.mark_snapshot_damaged(snapshot)?,
            Finding::SegmentUnknown { snapshot, segment } => {
                self.catalogue.add_snapshot_segment(snapshot, *segment)?;
            }
            Finding::Segment { segment, .. } => {
                for offset in self.catalogue.chunks_of_segment(*segment)? {
                    self.catalogue.remove_chunk(ChunkPlace {
                        segment: *segment,
                        offset,
                    })?;
                }
                moves.push(self.snapshots.segment_path(*segment));
            }
            Finding::Chunk { place, .. } | Finding::Shared { place } => {
                self.catalogue.remove_chunk(*place)?;
            }
            Finding::Image { image, needs } => self.mark_image(image, needs)?,
            Finding::Kernel { kernel, .. } => {
                moves.push(self.kernels_folder().join(kernel.to_string()));
                self.catalogue.remove_kernel(kernel)?;
            }
        }
        Ok(true)
    }

    fn mark_image(&self, id: &ImageId, needs: &str) -> Result<(), Error> {
        if let Some(mut image) = self.catalogue.image(id)? {
            image.state = Some(INVALID.to_owned());
            let reason = json!({ "Code": "Server.InternalError", "Message": needs });
            image.other.insert("StateReason".to_owned(), reason);
            self.catalogue.update_image(&image)?;
        }
        Ok(())
    }

    /// Copies what a damaged chunk's place holds now, if it can be read.
    fn copy_chunk(&self, place: ChunkPlace, folder: &Path) -> Result<(), Error> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; CHUNK_LEN];
        let segment = self.snapshots.segment_path(place.segment);
        let read = std::fs::File::open(&segment)
            .and_then(|file| file.read_exact_at(&mut bytes, place.offset));
        if let Err(error) = read {
            tracing::warn!(path = %segment.display(), %error, "cannot read a damaged chunk");
            return Ok(());
        }
        let name = format!("{:016x}-{}.chunk", place.segment, place.offset);
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(Error::io("write", &path))
    }
}

/// Moves the file, if there is one, under its own name.
fn move_into(path: &Path, folder: &Path) -> Result<(), Error> {
    let to = folder.join(path.file_name().unwrap_or_default());
    match std::fs::rename(path, to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("move", path)(error))
        }
        _ => Ok(()),
    }
}
