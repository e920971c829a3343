//! The MSI-X table, its control word and its events, beside a model of them (PCI Local Bus 3.0 §6.8.2).

use std::sync::atomic::Ordering;

use super::Input;
use super::machine::{Routes, VECTORS};
use crate::irq::Msi;
use crate::pci::msix::Msix;

/// One vector, as the guest must find it.
#[derive(Clone, Copy, Debug)]
struct Vector {
    dwords: [u32; 4],
    pending: bool,
    raised: u64,
    routed: Option<Msi>,
}

#[derive(Debug)]
struct Model {
    enabled: bool,
    masked: bool,
    /// The hypervisor refuses every change of a route.
    refuses: bool,
    vectors: [Vector; VECTORS],
}

/// Drives an MSI-X table.
pub fn msix(data: &[u8]) {
    let mut input = Input::new(data);
    let routes = Routes::new();
    let msix = Msix::new(u16::try_from(VECTORS).unwrap(), routes.clone());
    let mut model = Model::new();
    while !input.is_empty() {
        let [what, at] = input.array();
        match what % 8 {
            0 => {
                let control = u16::from(at) << 8;
                msix.set_control(control);
                model.set_control(control);
            }
            1 | 2 => {
                let len = 1 + usize::from(what >> 5);
                let bytes = input.bytes(len);
                msix.write_table(at.into(), bytes);
                model.write_table(at.into(), bytes);
            }
            // The whole double words that drivers write.
            3 | 4 => {
                // One more than there are vectors.
                let at = 4 * (at % 16);
                let bytes = input.array::<4>();
                msix.write_table(at.into(), &bytes);
                model.write_table(at.into(), &bytes);
            }
            5 => {
                let vector = if at == 0xff {
                    u16::MAX
                } else {
                    u16::from(at % 4)
                };
                assert!(msix.signal(vector).is_ok());
                model.signal(vector);
            }
            6 => {
                model.refuses = at & 1 != 0;
                routes.refuses.store(model.refuses, Ordering::Relaxed);
            }
            _ => model.check_read(&msix, at.into(), 1 + usize::from(what >> 5)),
        }
    }
    model.check(&msix, &routes);
    routes.refuses.store(false, Ordering::Relaxed);
    msix.reset();
    assert!(!msix.is_enabled());
}

impl Model {
    fn new() -> Self {
        let vector = Vector {
            dwords: [0, 0, 0, 1],
            pending: false,
            raised: 0,
            routed: None,
        };
        Self {
            enabled: false,
            masked: false,
            refuses: false,
            vectors: [vector; VECTORS],
        }
    }

    fn set_control(&mut self, control: u16) {
        self.enabled = control & 0x8000 != 0;
        self.masked = control & 0x4000 != 0;
        if self.enabled {
            return (0..self.vectors.len()).for_each(|it| self.settle(it));
        }
        for vector in &mut self.vectors {
            vector.pending = false;
            vector.routed = None;
        }
    }

    fn write_table(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        for dword in at.div_ceil(4)..end / 4 {
            let from = usize::try_from(dword * 4 - at).unwrap();
            let value = u32::from_le_bytes(bytes[from..from + 4].try_into().unwrap());
            let number = usize::try_from(dword / 4).unwrap();
            let vector = self.vectors.get_mut(number);
            let Some(vector) = vector else { continue };
            let writable = [!3, !0, !0, 1];
            let index = usize::try_from(dword % 4).unwrap();
            vector.dwords[index] = value & writable[index];
            self.settle(number);
        }
    }

    fn signal(&mut self, index: u16) {
        let (live, enabled) = (self.enabled && !self.masked, self.enabled);
        if let Some(vector) = self.vectors.get_mut(usize::from(index))
            && enabled
        {
            vector.pending = true;
            vector.deliver(live);
        }
    }

    /// Routes and sends what may be sent now.
    fn settle(&mut self, index: usize) {
        let live = self.enabled && !self.masked;
        let vector = &mut self.vectors[index];
        if live && !vector.is_masked() && !self.refuses {
            vector.routed = Some(vector.message());
        }
        vector.deliver(live);
    }

    fn check_read(&self, msix: &Msix, at: u64, len: usize) {
        let mut data = [0; 8];
        msix.read_table(at, &mut data[..len]);
        for (byte, at) in data[..len].iter().zip(at..) {
            let vector = self.vectors.get(usize::try_from(at / 16).unwrap());
            let dword = vector.map_or(0, |it| it.dwords[usize::try_from(at / 4 % 4).unwrap()]);
            assert_eq!(*byte, dword.to_le_bytes()[usize::try_from(at % 4).unwrap()]);
        }
    }

    fn check(&self, msix: &Msix, routes: &Routes) {
        let mut pending = [0; 8];
        msix.read_pending(0, &mut pending);
        for (n, vector) in self.vectors.iter().enumerate() {
            self.check_read(msix, 16 * n as u64, 8);
            self.check_read(msix, 16 * n as u64 + 8, 8);
            assert_eq!(pending[0] >> n & 1 != 0, vector.pending, "vector {n}");
            assert_eq!(routes.raised(n), vector.raised, "vector {n}");
        }
    }
}

impl Vector {
    fn is_masked(&self) -> bool {
        self.dwords[3] != 0
    }

    /// Raises what is pending if nothing is in its way.
    fn deliver(&mut self, live: bool) {
        let open = live && !self.is_masked() && self.routed == Some(self.message());
        if open && std::mem::take(&mut self.pending) {
            self.raised += 1;
        }
    }

    fn message(&self) -> Msi {
        let [low, high, data, _] = self.dwords;
        Msi {
            address: u64::from(high) << 32 | u64::from(low),
            data,
        }
    }
}
