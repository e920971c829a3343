//! MSI-X (PCI Local Bus 3.0 §6.8.2): capability, table and pending bits of one function.
//!
//! An event that comes while its vector is masked must stay pending and be sent upon unmask
//! (§6.8.2.9). Every event of ours passes [`Msix::signal`], so the pending bit is kept here, decided
//! under the lock that masking takes: a masked vector's eventfd is simply not signalled. Hence
//! masking changes nothing in the hypervisor (no route is taken away, none set again when the guest
//! only masks around a handler), and no event can be lost in an irqfd without a route. A route changes
//! where a vector is unmasked with another message, and goes away when the guest disables MSI-X.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use super::config::Capability;
use crate::dwords::{read_dwords, write_dwords};
use crate::irq::{Msi, MsixRoutes};
use crate::lock::lock;
use crate::rate::RateLimit;

const CAPABILITY_ID: u8 = 0x11;
const ENTRY_DWORDS: u64 = 4;
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
const VECTOR_MASKED: u32 = 1;

/// The most vectors that a function can have.
pub const MAX_VECTORS: u16 = 2048;

/// Where the table and the pending bits lie.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    pub bar: u8,
    /// Offset in the BAR, in bytes, a multiple of 8; 16 bytes a vector.
    pub table: u32,
    /// Offset in the BAR, in bytes, a multiple of 8; a bit a vector, in whole 8 bytes.
    pub pending: u32,
}

/// The guest decides how often a route is changed.
static WARNINGS: RateLimit = RateLimit::new();

/// The MSI-X state of one function.
pub struct Msix {
    routes: Arc<dyn MsixRoutes>,
    /// Contended by vCPUs (table, control) and the function's worker (events). Nothing else is
    /// locked while it is held.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    enabled: bool,
    function_masked: bool,
    vectors: Vec<Vector>,
}

#[derive(Clone, Debug)]
struct Vector {
    message: Msi,
    masked: bool,
    pending: bool,
    /// The message that the hypervisor routes the event to.
    routed: Option<Msi>,
}

/// The capability of a function with `vectors` vectors, 1 to [`MAX_VECTORS`].
pub fn capability(vectors: u16, placement: Placement) -> Capability {
    // §6.8.2.3: the table size is encoded as N - 1.
    let control = vectors.saturating_sub(1) & 0x7ff;
    let bir = u32::from(placement.bar & 7);
    let mut body = control.to_le_bytes().to_vec();
    body.extend((placement.table & !7 | bir).to_le_bytes());
    body.extend((placement.pending & !7 | bir).to_le_bytes());
    Capability {
        id: CAPABILITY_ID,
        body,
        writable: (CONTROL_ENABLE | CONTROL_FUNCTION_MASK)
            .to_le_bytes()
            .to_vec(),
    }
}

impl Msix {
    /// `vectors` masked vectors, MSI-X disabled.
    pub fn new(vectors: u16, routes: Arc<dyn MsixRoutes>) -> Self {
        let vector = Vector {
            message: Msi::default(),
            masked: true,
            pending: false,
            routed: None,
        };
        Self {
            routes,
            state: Mutex::new(State {
                enabled: false,
                function_masked: false,
                vectors: vec![vector; usize::from(vectors.min(MAX_VECTORS))],
            }),
        }
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> u16 {
        u16::try_from(lock(&self.state).vectors.len()).unwrap_or(MAX_VECTORS)
    }

    pub fn is_enabled(&self) -> bool {
        lock(&self.state).enabled
    }

    /// Takes the message control word that the guest has written.
    pub fn set_control(&self, control: u16) {
        let mut state = lock(&self.state);
        state.enabled = control & CONTROL_ENABLE != 0;
        state.function_masked = control & CONTROL_FUNCTION_MASK != 0;
        if state.enabled {
            for vector in 0..state.vectors.len() {
                self.settle(&mut state, vector);
            }
        } else {
            self.unroute(&mut state);
        }
    }

    /// Raises `vector`, or leaves it pending while it is masked. While MSI-X is disabled there is
    /// nothing to raise, and nothing is remembered; nor is it for a vector that there is not, such as
    /// virtio's "no vector".
    ///
    /// # Errors
    /// The event cannot be signalled, or there is none.
    pub fn signal(&self, vector: u16) -> io::Result<()> {
        let mut state = lock(&self.state);
        let live = state.enabled && !state.function_masked;
        if !state.enabled {
            return Ok(());
        }
        match state.vectors.get_mut(usize::from(vector)) {
            None => Ok(()),
            // Where the route is not the message's, the hypervisor has refused that one.
            Some(v) if live && !v.masked && v.routed == Some(v.message) => self.raise(vector),
            Some(v) => {
                v.pending = true;
                Ok(())
            }
        }
    }

    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let state = lock(&self.state);
        read_dwords(offset, data, |dword| {
            let vector = usize::try_from(dword / ENTRY_DWORDS).ok();
            vector
                .and_then(|v| state.vectors.get(v))
                .map_or(0, |v| v.dword(dword % ENTRY_DWORDS))
        });
    }

    /// Writes the table. §6.8.2: software writes whole double words; anything else is ignored.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.state);
        write_dwords(offset, data, |dword, value, enabled| {
            let Ok(index) = usize::try_from(dword / ENTRY_DWORDS) else {
                return;
            };
            if let Some(vector) = state.vectors.get_mut(index)
                && enabled == u32::MAX
            {
                vector.set_dword(dword % ENTRY_DWORDS, value);
                self.settle(&mut state, index);
            }
        });
    }

    /// Reads pending bits (§6.8.2.10); they are read-only.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let state = lock(&self.state);
        read_dwords(offset, data, |dword| {
            let first = usize::try_from(dword.saturating_mul(32)).unwrap_or(usize::MAX);
            let bits = state.vectors.iter().skip(first).take(32).zip(0..32);
            bits.fold(0, |bits, (v, n)| bits | u32::from(v.pending) << n)
        });
    }

    /// Returns to the state of power-on, without any route.
    pub fn reset(&self) {
        let mut state = lock(&self.state);
        state.enabled = false;
        state.function_masked = false;
        self.unroute(&mut state);
        for vector in &mut state.vectors {
            vector.message = Msi::default();
            vector.masked = true;
        }
    }

    /// Where vector `index` may be sent now: routes its message and sends what is pending.
    fn settle(&self, state: &mut State, index: usize) {
        let live = state.enabled && !state.function_masked;
        let (Some(vector), Ok(number)) = (state.vectors.get_mut(index), u16::try_from(index))
        else {
            return;
        };
        if !live || vector.masked {
            return;
        }
        if vector.routed != Some(vector.message) {
            if let Err(error) = self.routes.route(number, Some(vector.message)) {
                // The event stays pending; the guest finds its device silent.
                if WARNINGS.allows() {
                    tracing::warn!(vector = number, %error, "cannot route an msi-x vector");
                }
                return;
            }
            vector.routed = Some(vector.message);
        }
        if std::mem::take(&mut vector.pending)
            && let Err(error) = self.raise(number)
            && WARNINGS.allows()
        {
            tracing::warn!(vector = number, %error, "cannot raise an msi-x vector");
        }
    }

    fn unroute(&self, state: &mut State) {
        for (vector, number) in state.vectors.iter_mut().zip(0..) {
            vector.pending = false;
            if vector.routed.take().is_some()
                && let Err(error) = self.routes.route(number, None)
                && WARNINGS.allows()
            {
                tracing::warn!(vector = number, %error, "cannot take an msi-x route away");
            }
        }
    }

    fn raise(&self, vector: u16) -> io::Result<()> {
        match self.routes.event(vector) {
            Some(event) => event.write(1),
            None => Err(io::Error::other("the msi-x vector has no event")),
        }
    }
}

impl Vector {
    fn dword(&self, index: u64) -> u32 {
        let [a, b, c, d, e, f, g, h] = self.message.address.to_le_bytes();
        match index {
            0 => u32::from_le_bytes([a, b, c, d]),
            1 => u32::from_le_bytes([e, f, g, h]),
            2 => self.message.data,
            _ => u32::from(self.masked),
        }
    }

    fn set_dword(&mut self, index: u64, value: u32) {
        let address = self.message.address;
        match index {
            // §6.8.2.5: the lowest two bits of the address read zero.
            0 => self.message.address = address & !0xffff_ffff | u64::from(value & !3),
            1 => self.message.address = address & 0xffff_ffff | u64::from(value) << 32,
            2 => self.message.data = value,
            _ => self.masked = value & VECTOR_MASKED != 0,
        }
    }
}

impl fmt::Debug for Msix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Msix").field(&lock(&self.state)).finish()
    }
}

#[cfg(test)]
mod tests;
