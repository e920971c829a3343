//! What a serial port writes to, in tests.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

/// Keeps what is written, unless it is broken.
#[derive(Clone, Default)]
pub(crate) struct Console {
    pub bytes: Arc<Mutex<Vec<u8>>>,
    pub broken: bool,
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.bytes.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}
