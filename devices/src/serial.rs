//! The serial console: a 16550A (over `vm-superio`'s) with a bounded queue of input.
//!
//! Left out on purpose: baud rates and modem lines mean nothing here, output is never paced, and the
//! transmitter is always empty.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial as Uart};

use crate::bus::BusDevice;
use crate::irq::Interrupt;
use crate::lock::lock;

/// I/O ports that the device takes.
pub const PORTS: u64 = 8;
/// Bytes of input that wait for the guest, besides the 64 of the UART's own FIFO.
pub const INPUT_BYTES: usize = 64 * 1024;
/// The UART's own FIFO.
const FIFO_BYTES: usize = 64;

/// A 16550A, [`PORTS`] ports long.
pub struct Serial {
    /// Contended by vCPUs and by whoever feeds input.
    port: Mutex<Port>,
}

struct Port {
    uart: Uart<Line, NoEvents, Output>,
    waiting: VecDeque<u8>,
}

struct Line(Arc<dyn Interrupt>);

/// The console's output, until it is taken back.
struct Output(Option<Box<dyn Write + Send>>);

impl Serial {
    /// A UART that raises `interrupt` and writes what the guest sends to `output`, byte by byte,
    /// flushing each.
    pub fn new(interrupt: Arc<dyn Interrupt>, output: Box<dyn Write + Send>) -> Self {
        Self {
            port: Mutex::new(Port {
                uart: Uart::new(Line(interrupt), Output(Some(output))),
                waiting: VecDeque::new(),
            }),
        }
    }

    /// Types `bytes` at the guest; returns how many fitted into the queue of [`INPUT_BYTES`], the
    /// others are dropped.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut port = lock(&self.port);
        let accepted = bytes.len().min(INPUT_BYTES - port.waiting.len());
        port.waiting.extend(bytes.iter().take(accepted));
        port.feed();
        accepted
    }

    /// Takes the output back; what the guest writes from then on is lost.
    pub fn take_output(&self) -> Option<Box<dyn Write + Send>> {
        lock(&self.port).uart.writer_mut().0.take()
    }
}

impl Port {
    /// Moves waiting input into the UART's FIFO, once that is empty: one interrupt for each 64 bytes.
    fn feed(&mut self) {
        if self.waiting.is_empty() || self.uart.fifo_capacity() < FIFO_BYTES {
            return;
        }
        let (front, _) = self.waiting.as_slices();
        let chunk = front.iter().copied().take(FIFO_BYTES).collect::<Vec<u8>>();
        // In loopback mode (the driver's self-test) the UART takes nothing: it waits.
        if let Ok(taken) = self.uart.enqueue_raw_bytes(&chunk) {
            self.waiting.drain(..taken.min(self.waiting.len()));
        }
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut port = lock(&self.port);
        for (register, byte) in (offset..).zip(data) {
            *byte = u8::try_from(register).map_or(0xff, |r| port.uart.read(r));
        }
        port.feed();
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut port = lock(&self.port);
        for (register, byte) in (offset..).zip(data) {
            if let Ok(register) = u8::try_from(register) {
                // An output that fails loses the byte; the guest goes on: the UART has raised its
                // interrupt all the same.
                let _ = port.uart.write(register, *byte);
            }
        }
        port.feed();
    }
}

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.trigger();
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Some(output) => output.write(bytes),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), |output| output.flush())
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = lock(&self.port).waiting.len();
        f.debug_struct("Serial")
            .field("waiting", &waiting)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
