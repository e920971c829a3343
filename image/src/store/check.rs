//! Checking a store: every digest and every reference, in both directions.
//!
//! The rows are read as they are at one moment, and nothing is deleted while the check goes on; what comes
//! to be meanwhile is not looked at. A check changes nothing: see `repair` for what can be done about
//! what it finds.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::{Error, KernelFileId, Store};
use crate::catalogue::CheckedSnapshot;
use crate::chunk::{ChunkPlace, Digest, StoredChunk};
use crate::id::{ImageId, SnapshotId, VolumeId};
use crate::manifest::Image;
use crate::snapshot::Progress;

/// Something wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// SQLite's words.
    Catalogue { problem: String },
    /// A snapshot's table cannot be read, or says something else than the catalogue.
    Table {
        snapshot: SnapshotId,
        problem: String,
    },
    /// A snapshot has chunks in a segment, and the catalogue does not know.
    SegmentUnknown { snapshot: SnapshotId, segment: u64 },
    /// A segment's file is missing or is not that segment.
    Segment { segment: u64, problem: String },
    /// A stored chunk is not what was stored.
    Chunk { place: ChunkPlace, problem: String },
    /// A snapshot with one of those.
    Snapshot { snapshot: SnapshotId, chunks: u64 },
    /// Content that the next snapshot would share, and that no snapshot has.
    Shared { place: ChunkPlace },
    /// An image names a snapshot, a kernel or a ramdisk that is damaged or not there.
    Image { image: ImageId, needs: String },
    /// A volume's files are missing or damaged.
    Volume { volume: VolumeId, problem: String },
    /// A kernel's or ramdisk's file is missing or is not what was stored.
    Kernel {
        kernel: KernelFileId,
        problem: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalogue { problem } => write!(f, "the catalogue: {problem}"),
            Self::Table { snapshot, problem } => write!(f, "{snapshot}: {problem}"),
            Self::SegmentUnknown { snapshot, segment } => {
                write!(
                    f,
                    "{snapshot}: the catalogue lacks its segment {segment:016x}"
                )
            }
            Self::Segment { segment, problem } => write!(f, "segment {segment:016x}: {problem}"),
            Self::Chunk { place, problem } => write!(
                f,
                "segment {:016x} at byte {}: {problem}",
                place.segment, place.offset
            ),
            Self::Snapshot { snapshot, chunks } => {
                write!(f, "{snapshot}: {chunks} of its chunks are damaged")
            }
            Self::Shared { place } => write!(
                f,
                "segment {:016x} at byte {}: no snapshot has what may be shared there",
                place.segment, place.offset
            ),
            Self::Image { image, needs } => write!(f, "{image}: {needs}"),
            Self::Volume { volume, problem } => write!(f, "{volume}: {problem}"),
            Self::Kernel { kernel, problem } => write!(f, "{kernel}: {problem}"),
        }
    }
}

/// What a check has looked at and found.
#[derive(Debug, Default)]
pub struct CheckReport {
    pub findings: Vec<Finding>,
    /// Files that crashes have left: no damage, and [`Store::collect_garbage`] deletes them.
    pub leftovers: Vec<PathBuf>,
    pub snapshots: u64,
    /// Different ones, each read once.
    pub chunks: u64,
    pub volumes: u64,
    pub images: u64,
}

/// The rows as they were at one moment.
struct Rows {
    snapshots: Vec<CheckedSnapshot>,
    segments: BTreeSet<u64>,
    /// Those in which a deletion that was killed may have left content that no snapshot has.
    spare: BTreeSet<u64>,
    shared: Vec<StoredChunk>,
    images: Vec<Image>,
}

/// What the tables say, and what is wrong with it.
#[derive(Default)]
struct Content {
    /// Every place that a table names.
    chunks: HashMap<ChunkPlace, Digest>,
    /// Snapshots that have lost content, now or before.
    damaged: BTreeSet<SnapshotId>,
    /// Those of them of which that is news.
    newly: BTreeSet<SnapshotId>,
    /// Segments that cannot be read at all.
    lost: BTreeSet<u64>,
}

impl Store {
    /// Checks the whole store. `progress` is told of the chunks, which take most of the time.
    ///
    /// # Errors
    /// What keeps it from looking: [`Error::Catalogue`], [`Error::Io`], [`Error::Snapshot`].
    pub fn check(
        &self,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<CheckReport, Error> {
        let _hold = self.snapshots.hold()?;
        let mut report = CheckReport::default();
        let problems = self.catalogue.integrity()?.into_iter();
        let problems = problems.map(|problem| Finding::Catalogue { problem });
        report.findings.extend(problems);
        let rows = self.rows_to_check()?;

        let mut content = Content::default();
        for snapshot in &rows.snapshots {
            self.check_table(snapshot, &rows.segments, &mut content, &mut report);
        }
        self.check_segments(&rows, &mut content, &mut report);
        self.check_content(&rows.snapshots, &mut content, &mut report, progress)?;
        for chunk in &rows.shared {
            let place = chunk.place;
            let known = content.chunks.get(&place);
            let is_left = known.is_none() && rows.spare.contains(&place.segment);
            if known != Some(&chunk.digest) && !is_left {
                report.findings.push(Finding::Shared { place });
            }
        }
        let kernels = self.check_kernels_files(&mut report)?;
        self.check_images(&rows, &content.damaged, &kernels, &mut report);
        self.check_volumes(&content.newly, &mut report)?;
        report.snapshots = rows.snapshots.len() as u64;
        report.chunks = content.chunks.len() as u64;
        report.images = rows.images.len() as u64;
        report.leftovers = self.leftovers()?;
        Ok(report)
    }

    fn rows_to_check(&self) -> Result<Rows, Error> {
        let _moment = self.catalogue.reading()?;
        Ok(Rows {
            snapshots: self.catalogue.snapshots_to_check()?,
            segments: self.catalogue.segments()?,
            spare: self
                .catalogue
                .spare_segments()?
                .into_iter()
                .map(|(segment, _)| segment)
                .collect(),
            shared: self.catalogue.shared_chunks()?,
            images: self.catalogue.images()?,
        })
    }

    /// Reads the table into `content`.
    fn check_table(
        &self,
        snapshot: &CheckedSnapshot,
        segments: &BTreeSet<u64>,
        content: &mut Content,
        report: &mut CheckReport,
    ) {
        let id = snapshot.id;
        let mut found = Vec::new();
        let read = self.snapshots.check_table(&id).and_then(|table| {
            for entry in table.entries() {
                found.push(entry?.1);
            }
            Ok(table.size_bytes())
        });
        let problem = match read {
            Ok(size_bytes) if size_bytes == snapshot.size_bytes => None,
            Ok(_) => Some("its table has another size than the catalogue says".to_owned()),
            Err(error) => Some(chain(&error)),
        };
        if problem.is_some() || snapshot.damaged {
            content.damaged.insert(id);
        }
        // What was found before is not told again; but others may share what is sound of it.
        if let Some(problem) = problem
            && !snapshot.damaged
        {
            content.newly.insert(id);
            report.findings.push(Finding::Table {
                snapshot: id,
                problem,
            });
        }
        let mut named = BTreeSet::new();
        for chunk in found {
            named.insert(chunk.place.segment);
            content.chunks.insert(chunk.place, chunk.digest);
        }
        for segment in named.difference(&snapshot.segments) {
            let segment = *segment;
            if segments.contains(&segment) {
                let snapshot = id;
                report
                    .findings
                    .push(Finding::SegmentUnknown { snapshot, segment });
            }
        }
    }

    fn check_segments(&self, rows: &Rows, content: &mut Content, report: &mut CheckReport) {
        // One that only damaged snapshots had was found before.
        let sound = rows.snapshots.iter().filter(|snapshot| !snapshot.damaged);
        let needed: BTreeSet<_> = sound.flat_map(|it| &it.segments).collect();
        for segment in &rows.segments {
            if let Err(error) = self.snapshots.check_segment(*segment) {
                content.lost.insert(*segment);
                if !needed.contains(segment) {
                    continue;
                }
                report.findings.push(Finding::Segment {
                    segment: *segment,
                    problem: chain(&error),
                });
            }
        }
    }

    /// Reads every chunk, then tells which snapshots have the damaged ones.
    fn check_content(
        &self,
        snapshots: &[CheckedSnapshot],
        content: &mut Content,
        report: &mut CheckReport,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut all: Vec<_> = content
            .chunks
            .iter()
            .map(|(place, digest)| StoredChunk {
                digest: *digest,
                place: *place,
            })
            .collect();
        // As they lie on the disk.
        all.sort_unstable_by_key(|chunk| chunk.place);
        let damaged = self.snapshots.check_chunks(&all, progress)?;
        if damaged.is_empty() {
            return Ok(());
        }
        let places: BTreeSet<_> = damaged.iter().map(|(place, _)| *place).collect();
        let mut new = BTreeSet::new();
        for snapshot in snapshots {
            let mut chunks = 0;
            let count = &mut |place| {
                if places.contains(&place) {
                    chunks += 1;
                    new.insert((snapshot.damaged, place));
                }
            };
            // A table that cannot be read has its own finding.
            let _ = self.snapshots.each_place(&snapshot.id, count);
            if chunks > 0 && content.damaged.insert(snapshot.id) {
                content.newly.insert(snapshot.id);
                let snapshot = snapshot.id;
                report.findings.push(Finding::Snapshot { snapshot, chunks });
            }
        }
        for (place, error) in damaged {
            // Those that only damaged snapshots have were told before.
            if new.contains(&(false, place)) && !content.lost.contains(&place.segment) {
                let problem = chain(&error);
                report.findings.push(Finding::Chunk { place, problem });
            }
        }
        Ok(())
    }

    /// The kernels and ramdisks that are sound.
    fn check_kernels_files(&self, report: &mut CheckReport) -> Result<BTreeSet<String>, Error> {
        let mut sound = BTreeSet::new();
        for kernel in self.kernels()? {
            let hashed = std::fs::File::open(&kernel.path)
                .and_then(|file| Ok(blake3::Hasher::new().update_reader(file)?.finalize()));
            let problem = match hashed {
                Ok(digest) if *digest.as_bytes() == kernel.digest => {
                    sound.insert(kernel.id.to_string());
                    continue;
                }
                Ok(_) => "its file is not what was stored".to_owned(),
                Err(error) => format!("cannot read {}: {error}", kernel.path.display()),
            };
            report.findings.push(Finding::Kernel {
                kernel: kernel.id,
                problem,
            });
        }
        Ok(sound)
    }

    fn check_images(
        &self,
        rows: &Rows,
        damaged: &BTreeSet<SnapshotId>,
        kernels: &BTreeSet<String>,
        report: &mut CheckReport,
    ) {
        let known: BTreeSet<_> = rows.snapshots.iter().map(|snapshot| snapshot.id).collect();
        for image in &rows.images {
            if image.state.as_deref() == Some(super::repair::INVALID) {
                continue;
            }
            let mut needs = Vec::new();
            for snapshot in image.snapshots() {
                if !known.contains(&snapshot) {
                    needs.push(format!("there is no {snapshot}"));
                } else if damaged.contains(&snapshot) {
                    needs.push(format!("{snapshot} is damaged"));
                }
            }
            let kernel = image.kernel_id.map(|id| id.to_string());
            let ramdisk = image.ramdisk_id.map(|id| id.to_string());
            for id in kernel.into_iter().chain(ramdisk) {
                if !kernels.contains(&id) {
                    needs.push(format!("{id} is damaged or not there"));
                }
            }
            report
                .findings
                .extend(needs.into_iter().map(|needs| Finding::Image {
                    image: image.image_id,
                    needs,
                }));
        }
    }

    /// The lowest layer of each volume, which is there whoever uses it.
    fn check_volumes(
        &self,
        newly_damaged: &BTreeSet<SnapshotId>,
        report: &mut CheckReport,
    ) -> Result<(), Error> {
        for volume in self.volumes()? {
            report.volumes += 1;
            let standing = volume.standing();
            let mut problem = None;
            if let Some(base) = standing.base.filter(|base| newly_damaged.contains(base)) {
                problem = Some(format!("it stands on {base}, which is damaged"));
            }
            let above = standing.layer.saturating_add(1);
            if let Err(error) = self.volumes.frozen(&volume.id, &standing, above) {
                // A snapshot that was made meanwhile has put it on another layer.
                let now = self.catalogue.volume(&volume.id)?;
                if now.is_some_and(|now| now.standing() == standing) {
                    problem = Some(chain(&error));
                }
            }
            if let Some(problem) = problem {
                let volume = volume.id;
                report.findings.push(Finding::Volume { volume, problem });
            }
        }
        Ok(())
    }
}

/// The error with all that caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
