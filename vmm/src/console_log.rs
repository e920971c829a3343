//! The log of a guest's console: `console.log` and, before it, `console.log.1` in the instance's
//! folder.
//!
//! The guest decides how much it prints, so the log is two files that take turns: when
//! `console.log` reaches [`HALF_BYTES`] it becomes `console.log.1`, whose old content is gone.
//! At least the last 512 KiB are there, at most 1 MiB. Bytes are kept as the guest sent them.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

/// When a half is full: 512 KiB.
pub const HALF_BYTES: u64 = 512 << 10;

const NAME: &str = "console.log";
const OLDER: &str = "console.log.1";

/// The writing side.
#[derive(Debug)]
pub struct ConsoleLog {
    folder: PathBuf,
    file: File,
    len: u64,
}

impl ConsoleLog {
    /// Starts the log in `folder`, or goes on with the one that is there.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let file = open_half(&folder.join(NAME))?;
        Ok(Self {
            len: file.metadata()?.len(),
            folder: folder.to_owned(),
            file,
        })
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// The disk is full or broken; what could not be written is not in the log.
    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.len >= HALF_BYTES {
                self.turn()?;
            }
            let room = usize::try_from(HALF_BYTES - self.len).unwrap_or(usize::MAX);
            let now = &bytes[..bytes.len().min(room)];
            let written = self.file.write(now)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.len += written as u64;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        let name = self.folder.join(NAME);
        fs::rename(&name, self.folder.join(OLDER))?;
        self.file = open_half(&name)?;
        self.len = 0;
        Ok(())
    }
}

fn open_half(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// The reading side.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    halves: VecDeque<File>,
}

impl Reader {
    /// Opens the log in `folder`; one that was never written is empty.
    ///
    /// # Errors
    /// A half is there but cannot be opened.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let mut halves = VecDeque::new();
        // The newer one first: if it turns meanwhile, it is met again under the older name.
        let newer = open_if_there(&folder.join(NAME))?;
        if let Some(older) = open_if_there(&folder.join(OLDER))? {
            let turned = newer.as_ref().is_some_and(|f| same_file(f, &older));
            if !turned {
                halves.push_back(older);
            }
        }
        halves.extend(newer);
        Ok(Self {
            folder: folder.to_owned(),
            halves,
        })
    }

    /// Copies to `out` what the log holds beyond what was copied before.
    ///
    /// # Errors
    /// Reading the log or writing `out` fails.
    pub fn copy(&mut self, out: &mut dyn Write) -> io::Result<()> {
        loop {
            // Whether the newest half has turned is asked before it is read: what comes after that
            // can then only be in the next one.
            let current = open_if_there(&self.folder.join(NAME))?;
            let newest = self.halves.back();
            if let Some(current) = current
                && !newest.is_some_and(|newest| same_file(newest, &current))
            {
                self.halves.push_back(current);
            }
            let Some(half) = self.halves.front_mut() else {
                return Ok(());
            };
            copy_all(half, out)?;
            if self.halves.len() == 1 {
                return out.flush();
            }
            self.halves.pop_front();
        }
    }

    /// Copies to `out` all that comes, until `ended` says that no more will.
    ///
    /// # Errors
    /// As [`Reader::copy`], or there is no inotify instance left.
    pub fn follow(
        &mut self,
        out: &mut dyn Write,
        mut ended: impl FnMut() -> bool,
    ) -> io::Result<()> {
        let changes =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        use inotify::WatchFlags as W;
        // The lock file's closing, in the same folder, tells the end of the instance.
        let flags = W::MODIFY | W::CREATE | W::MOVED_TO | W::CLOSE_WRITE | W::DELETE_SELF;
        // A folder that is gone already reads as ended below.
        let _ = inotify::add_watch(&changes, &self.folder, flags);
        loop {
            // Asked first: what was printed before the end is then copied.
            let last = ended();
            self.copy(out)?;
            if last {
                return Ok(());
            }
            // The time-out only covers what inotify cannot see, such as a network file system.
            let second = Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            let mut fds = [PollFd::new(&changes, PollFlags::IN)];
            match poll(&mut fds, Some(&second)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let mut events = [0; 4096];
            while rustix::io::read(&changes, &mut events).is_ok_and(|len| len > 0) {}
        }
    }
}

fn copy_all(half: &mut File, out: &mut dyn Write) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        match half.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => out.write_all(&buffer[..len])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn same_file(a: &File, b: &File) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(range: std::ops::Range<u32>) -> Vec<u8> {
        range
            .flat_map(|n| format!("{n:07}\n").into_bytes())
            .collect()
    }

    fn read(folder: &Path) -> Vec<u8> {
        let mut out = Vec::new();
        Reader::open(folder).unwrap().copy(&mut out).unwrap();
        out
    }

    #[test]
    fn log_that_was_never_written_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), b"");
    }

    #[test]
    fn log_keeps_the_newest_half_to_whole_mebibyte() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = ConsoleLog::open(folder.path()).unwrap();
        // 8 bytes a line: 400 000 lines are 3.05 MiB, in pieces that straddle the turns.
        for start in (0..400_000).step_by(1000) {
            log.append(&numbered(start..start + 1000)).unwrap();
        }
        let kept = read(folder.path());
        assert!(kept.len() as u64 >= HALF_BYTES && kept.len() as u64 <= 2 * HALF_BYTES);
        let first = 400_000 - u32::try_from(kept.len() / 8).unwrap();
        assert!(kept == numbered(first..400_000));
    }

    #[test]
    fn reopened_log_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["one ", "two"] {
            let mut log = ConsoleLog::open(folder.path()).unwrap();
            log.append(text.as_bytes()).unwrap();
        }
        assert_eq!(read(folder.path()), b"one two");
    }

    #[test]
    fn reader_goes_on_across_a_turn() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = ConsoleLog::open(folder.path()).unwrap();
        log.append(&numbered(0..10)).unwrap();
        let mut reader = Reader::open(folder.path()).unwrap();
        let mut out = Vec::new();
        reader.copy(&mut out).unwrap();
        log.append(&numbered(10..70_000)).unwrap();
        reader.copy(&mut out).unwrap();
        assert!(out == numbered(0..70_000));
    }

    #[test]
    fn follower_copies_what_came_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = ConsoleLog::open(folder.path()).unwrap();
        let mut reader = Reader::open(folder.path()).unwrap();
        let mut out = Vec::new();
        let mut asked = 0;
        let ended = || {
            asked += 1;
            // Only the log's change wakes the follower for the second question.
            log.append(b"more ").unwrap();
            asked == 3
        };
        reader.follow(&mut out, ended).unwrap();
        assert_eq!(out, b"more more more ");
    }
}
