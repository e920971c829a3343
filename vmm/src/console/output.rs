//! Where the guest's console is shown: a terminal, a pipe, a file.
//!
//! A listener that is slow slows the guest down, one that stopped does not stop it: bytes wait in
//! 16 KiB; when they are full and nothing moved for [`PATIENCE`], new ones are dropped (the log has
//! them) until half of what waits is gone, and a note tells how many. A listener that went away
//! (`EPIPE`, or a terminal that hung up) is forgotten, and the guest goes on.
//!
//! Nothing here may block the event loop, and standard output cannot be made non-blocking: the flag
//! would hold for everyone who shares the open file, the user's shell too. So a terminal or a
//! pipe is opened once more, through `/proc/self/fd/1`, which gives an open file of our own.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::stdio::stdout;

/// How many bytes wait for the listener: 16 KiB.
const PENDING_BYTES: usize = 16 << 10;

/// How long a listener that takes nothing holds the guest up.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The most that is written at once to a file that could not be opened once more: when poll(2) says
/// that it can be written, this much fits into a pipe or a socket (`PIPE_BUF`).
const SMALL_BYTES: usize = 4096;

/// A listener, and what it has not taken yet.
#[derive(Debug)]
pub struct Output {
    file: Option<OwnedFd>,
    /// Writes may block, so they follow poll(2) and stay small.
    blocking: bool,
    pending: VecDeque<u8>,
    /// When the listener took something last.
    moved: Instant,
    dropped: u64,
}

impl Output {
    /// No listener: everything is dropped.
    pub fn none() -> Self {
        Self::new(None, false)
    }

    /// Standard output.
    ///
    /// # Errors
    /// It is closed.
    pub fn stdout() -> io::Result<Self> {
        let stat = rustix::fs::fstat(stdout())?;
        let reopened = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Fifo | FileType::CharacterDevice => {
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                // Refused for the terminal of another user, after su(1).
                rustix::fs::open("/proc/self/fd/1", flags, Mode::empty()).ok()
            }
            // A file's offset is shared with the shell, and must stay so. A socket has no name.
            _ => None,
        };
        // A disk takes whatever it has room for.
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let blocking = reopened.is_none() && !is_file;
        let file = match reopened {
            Some(file) => file,
            None => stdout().try_clone_to_owned()?,
        };
        Ok(Self::new(Some(file), blocking))
    }

    /// The file at `path`, emptied if it is there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn file(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let blocking = !file.metadata()?.is_file();
        Ok(Self::new(Some(file.into()), blocking))
    }

    fn new(file: Option<OwnedFd>, blocking: bool) -> Self {
        Self {
            file,
            blocking,
            pending: VecDeque::new(),
            moved: Instant::now(),
            dropped: 0,
        }
    }

    /// Whether the guest shall wait: the listener is behind, but not for long.
    pub fn holds_up(&self) -> bool {
        self.is_full() && self.dropped == 0 && self.moved.elapsed() < PATIENCE
    }

    /// Takes `bytes` for the listener, as many as may wait.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.file.is_none() {
            return;
        }
        if self.pending.is_empty() {
            self.moved = Instant::now();
        }
        self.tell_dropped();
        if self.is_full() || self.dropped > 0 {
            self.dropped += bytes.len() as u64;
        } else {
            self.pending.extend(bytes);
        }
    }

    /// Writes what the listener takes now, given whether poll(2) said that it takes something.
    pub fn pump(&mut self, writable: bool) {
        while let Some(file) = &self.file
            && !self.pending.is_empty()
            && (writable || !self.blocking)
        {
            let (bytes, _) = self.pending.as_slices();
            let len = if self.blocking {
                bytes.len().min(SMALL_BYTES)
            } else {
                bytes.len()
            };
            match rustix::io::write(file, &bytes[..len]) {
                Ok(written) => {
                    self.pending.drain(..written);
                    self.moved = Instant::now();
                    self.tell_dropped();
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::NOSPC) => return self.lose_pending(),
                Err(_) => return self.close(),
            }
            if self.blocking {
                return;
            }
        }
    }

    /// The file to poll for room, while something waits.
    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.file
            .as_ref()
            .filter(|_| !self.pending.is_empty())
            .map(AsFd::as_fd)
    }

    /// Nothing waits any more, or nothing more will be taken.
    pub fn is_done(&self) -> bool {
        self.pending.is_empty() || self.moved.elapsed() >= PATIENCE
    }

    fn is_full(&self) -> bool {
        self.pending.len() >= PENDING_BYTES
    }

    fn tell_dropped(&mut self) {
        if self.dropped > 0 && self.pending.len() <= PENDING_BYTES / 2 {
            let note = format!("\r\n[kami: {} bytes not shown]\r\n", self.dropped);
            self.pending.extend(note.as_bytes());
            self.dropped = 0;
        }
    }

    /// A full disk loses what waited. There may be room again later: the next byte tries.
    fn lose_pending(&mut self) {
        self.dropped += self.pending.len() as u64;
        self.pending.clear();
    }

    fn close(&mut self) {
        self.file = None;
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write, pipe};

    /// A pipe that holds one page, and an output that writes to it without blocking.
    fn piped() -> (std::io::PipeReader, Output) {
        let (reader, writer) = pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        (reader, Output::new(Some(writer.into()), false))
    }

    #[test]
    fn bytes_reach_the_listener_in_order() {
        let (mut reader, mut output) = piped();
        output.push(b"one ");
        output.push(b"two");
        output.pump(false);
        assert!(output.is_done() && output.waits_for().is_none());
        drop(output);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
    }

    #[test]
    fn listener_that_stopped_costs_bytes_but_no_wait_beyond_patience() {
        let (mut reader, mut output) = piped();
        output.push(&[b'a'; 4096]);
        output.pump(false);
        output.push(&[b'b'; PENDING_BYTES]);
        output.pump(false);
        assert!(output.holds_up());
        output.moved = Instant::now().checked_sub(PATIENCE).unwrap();
        assert!(!output.holds_up());
        output.push(b"lost");
        assert!(!output.holds_up());
        // The listener comes back: half is drained, then the note follows what waited.
        output.pump(false);
        let mut shown = Vec::new();
        for more in [&b""[..], b"shown"] {
            output.push(more);
            while !output.pending.is_empty() {
                let mut page = [0; 4096];
                let len = reader.read(&mut page).unwrap();
                shown.extend_from_slice(&page[..len]);
                output.pump(false);
            }
        }
        drop(output);
        reader.read_to_end(&mut shown).unwrap();
        assert!(shown.ends_with(b"b\r\n[kami: 4 bytes not shown]\r\nshown"));
    }

    #[test]
    fn listener_that_went_away_is_forgotten() {
        let (reader, mut output) = piped();
        drop(reader);
        output.push(b"x");
        output.pump(false);
        assert!(output.is_done());
        output.push(&[0; 2 * PENDING_BYTES]);
        assert!(output.pending.is_empty() && !output.holds_up());
    }

    #[test]
    fn full_disk_loses_bytes_but_not_the_listener() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut output = Output::new(Some(full.into()), false);
        output.push(b"lost");
        output.pump(false);
        assert!(output.waits_for().is_none());
        output.push(b"more");
        let pending = String::from_utf8_lossy(output.pending.make_contiguous());
        assert_eq!(pending, "\r\n[kami: 4 bytes not shown]\r\nmore");
    }

    #[test]
    fn listener_that_may_block_is_written_after_poll_only() {
        let (mut reader, writer) = pipe().unwrap();
        let mut output = Output::new(Some(writer.into()), true);
        output.push(&[b'x'; 2 * SMALL_BYTES]);
        output.pump(false);
        assert_eq!(output.pending.len(), 2 * SMALL_BYTES);
        output.pump(true);
        assert_eq!(output.pending.len(), SMALL_BYTES);
        reader.read_exact(&mut [0; SMALL_BYTES]).unwrap();
    }

    #[test]
    fn file_is_emptied_first() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all(b"old text").unwrap();
        let mut output = Output::file(file.path()).unwrap();
        output.push(b"new");
        output.pump(false);
        assert_eq!(std::fs::read(file.path()).unwrap(), b"new");
    }
}
