//! The console's output on its way from the serial port to whoever listens, watched for a panic.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use super::ending::Ending;
use super::panic_watch::{PanicWatch, Sight};

type Slot = Arc<Mutex<Option<Box<dyn Write + Send>>>>;

/// The listener, to be had back when the machine has ended.
pub struct Listener(Slot);

/// What the serial port writes to.
pub struct Tap {
    /// Contended by nobody: the serial port's own lock is held around every write, and the listener is
    /// taken out once all vCPUs have stopped.
    listener: Slot,
    watch: PanicWatch,
    ending: Arc<Ending>,
}

impl Listener {
    /// Takes the listener back. What is written from then on is lost.
    pub fn take(self) -> Box<dyn Write + Send> {
        let mut listener = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listener.take().unwrap_or_else(|| Box::new(io::sink()))
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

impl Tap {
    pub fn new(listener: Box<dyn Write + Send>, ending: Arc<Ending>) -> (Self, Listener) {
        let slot = Slot::new(Mutex::new(Some(listener)));
        let tap = Self {
            listener: slot.clone(),
            watch: PanicWatch::default(),
            ending,
        };
        (tap, Listener(slot))
    }

    fn to_listener<T: Default>(
        &self,
        op: impl FnOnce(&mut (dyn Write + Send)) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *listener {
            Some(listener) => op(&mut **listener),
            None => Ok(T::default()),
        }
    }
}

impl Write for Tap {
    /// Gives all of `bytes` to the listener before they are acted upon, so that it has a panic's last line
    /// when the machine ends.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to_listener(|listener| listener.write_all(bytes));
        for &byte in bytes {
            match self.watch.see(byte) {
                Some(Sight::Begin) => self.ending.panic_begins(),
                Some(Sight::End) => self.ending.panic_ends(),
                None => {}
            }
        }
        written.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to_listener(|listener| listener.flush())
    }
}
