//! From the guest's serial port to whoever listens, without the guest waiting for them.
//!
//! The vCPU that writes the port leaves its bytes in an [`Inbox`]; the instance's event loop takes
//! them out, gives them to the log and to an [`output::Output`]. A wake-up is paid for the first byte
//! after a pause only: while the loop has said that it comes back by itself ([`Inbox::take`]), a
//! byte costs the vCPU no system call.

pub mod output;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use rustix::event::{EventfdFlags, eventfd};

/// When the inbox is full and the writer waits: 16 KiB.
const INBOX_BYTES: usize = 16 << 10;

#[derive(Debug)]
struct Shared {
    /// The vCPU that prints and the event loop contend for it.
    state: Mutex<State>,
    room: Condvar,
    wake: OwnedFd,
}

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    /// The reader sleeps until it is woken.
    asleep: bool,
    /// Nobody reads any more.
    closed: bool,
    /// Something was written, ever.
    used: bool,
}

/// The reading side, owned by the event loop.
#[derive(Debug)]
pub struct Inbox(Arc<Shared>);

/// The writing side, which the machine's serial port owns.
#[derive(Debug)]
pub struct Writer(Arc<Shared>);

impl Inbox {
    /// An empty inbox.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            state: Mutex::new(State {
                bytes: Vec::new(),
                asleep: true,
                closed: false,
                used: false,
            }),
            room: Condvar::new(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })))
    }

    /// Moves all bytes to the end of `into`. When there were none, the next byte signals the
    /// event; else the caller comes back by itself.
    pub fn take(&self, into: &mut Vec<u8>) {
        let mut state = self.0.lock();
        state.asleep = state.bytes.is_empty();
        into.append(&mut state.bytes);
        drop(state);
        self.0.room.notify_all();
    }

    /// Quietens the event.
    pub fn woken(&self) {
        let _ = rustix::io::read(&self.0.wake, &mut [0; 8]);
    }

    /// The machine's end of the inbox.
    pub fn writer(&self) -> Writer {
        Writer(Arc::clone(&self.0))
    }

    /// The other threads' way to wake the reader.
    pub fn watcher(&self) -> Watcher {
        Watcher(Arc::clone(&self.0))
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }
}

impl Drop for Inbox {
    /// Lets a writer go on that waits for room.
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.room.notify_all();
    }
}

/// What the other threads see of an inbox.
#[derive(Clone, Debug)]
pub struct Watcher(Arc<Shared>);

impl Watcher {
    /// Wakes the reader.
    pub fn wake(&self) {
        self.0.wake();
    }

    /// Whether the guest has printed anything.
    pub fn was_used(&self) -> bool {
        self.0.lock().used
    }
}

impl io::Write for Writer {
    /// Takes all of `bytes`. Waits while the inbox is full: the event loop makes room within a
    /// second, whatever its listeners do.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let state = self.0.lock();
        let full = |state: &mut State| state.bytes.len() >= INBOX_BYTES && !state.closed;
        let waited = self.0.room.wait_while(state, full);
        let mut state = waited.unwrap_or_else(|e| e.into_inner());
        state.used = true;
        if !state.closed {
            state.bytes.extend_from_slice(bytes);
        }
        if std::mem::take(&mut state.asleep) {
            drop(state);
            self.0.wake();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn is_signalled(inbox: &Inbox) -> bool {
        rustix::io::read(inbox, &mut [0; 8]).is_ok()
    }

    #[test]
    fn only_the_first_byte_after_an_empty_take_wakes() {
        let inbox = Inbox::new().unwrap();
        let mut writer = inbox.writer();
        writer.write_all(b"a").unwrap();
        assert!(is_signalled(&inbox));
        writer.write_all(b"b").unwrap();
        assert!(!is_signalled(&inbox));
        let mut taken = Vec::new();
        inbox.take(&mut taken);
        writer.write_all(b"c").unwrap();
        assert!(!is_signalled(&inbox));
        inbox.take(&mut taken);
        assert_eq!(taken, b"abc");
        inbox.take(&mut taken);
        writer.write_all(b"d").unwrap();
        assert!(is_signalled(&inbox));
    }

    #[test]
    fn full_inbox_holds_the_writer_until_it_is_taken_or_dropped() {
        let inbox = Inbox::new().unwrap();
        let mut writer = inbox.writer();
        writer.write_all(&[0; INBOX_BYTES]).unwrap();
        let writing = std::thread::spawn(move || {
            writer.write_all(&[1; INBOX_BYTES]).unwrap();
            writer.write_all(&[2]).unwrap();
        });
        let mut taken = Vec::new();
        while taken.len() < 2 * INBOX_BYTES {
            inbox.take(&mut taken);
            std::thread::yield_now();
        }
        drop(inbox);
        writing.join().unwrap();
    }
}
