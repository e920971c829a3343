//! The signals that an event loop wants to read rather than suffer (signalfd(2)).

#![expect(
    unsafe_code,
    reason = "signalfd has no safe wrapper in the crates at hand"
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use libc::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use vmm_sys_util::signal::create_sigset;

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM`, `SIGINT`, `SIGHUP` or `SIGQUIT`: the process shall end.
    End,
    /// `SIGCONT`: the process was stopped and goes on.
    Continued,
}

/// The signals above, blocked for this thread and every one that it starts, and readable here.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks the signals in the calling thread: call it before any other thread starts.
    ///
    /// # Errors
    /// The kernel is out of file descriptors.
    pub fn block() -> io::Result<Self> {
        let set = create_sigset(&[SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGCONT])?;
        // SAFETY: `set` is an initialised signal set that outlives the call; what was blocked before
        // is not asked for.
        let failed =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if failed != 0 {
            return Err(io::Error::from_raw_os_error(failed));
        }
        // SAFETY: `set` is an initialised signal set that outlives the call; -1 asks for a new
        // descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd just returned this descriptor, and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that is pending, if there is one.
    pub fn next(&self) -> Option<Signal> {
        // struct signalfd_siginfo: 128 bytes, the signal's number first, as a native u32.
        let mut info = [0; 128];
        let len = rustix::io::read(&self.0, &mut info).ok()?;
        let number = u32::from_ne_bytes(info[..len].first_chunk().copied()?);
        if number.cast_signed() == SIGCONT {
            Some(Signal::Continued)
        } else {
            Some(Signal::End)
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
