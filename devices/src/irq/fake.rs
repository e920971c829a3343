//! Routes and doorbells of a hypervisor that only remembers what it was told.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Doorbells, Interrupt, Line, Msi, MsiSink, MsixRoutes};

pub(crate) struct FakeRoutes {
    events: Vec<EventFd>,
    pub routes: Mutex<Vec<Option<Msi>>>,
    pub changes: AtomicU32,
    pub refuses: AtomicBool,
}

impl FakeRoutes {
    pub fn new(vectors: usize) -> Self {
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        Self {
            events: (0..vectors).map(|_| event()).collect(),
            routes: Mutex::new(vec![None; vectors]),
            changes: AtomicU32::new(0),
            refuses: AtomicBool::new(false),
        }
    }

    /// How often `vector` was raised since the last look.
    pub fn raised(&self, vector: usize) -> u64 {
        self.events[vector].read().unwrap_or(0)
    }

    pub fn route_of(&self, vector: usize) -> Option<Msi> {
        self.routes.lock().unwrap()[vector]
    }
}

impl MsixRoutes for FakeRoutes {
    fn event(&self, vector: u16) -> Option<&EventFd> {
        self.events.get(usize::from(vector))
    }

    fn route(&self, vector: u16, message: Option<Msi>) -> io::Result<()> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(io::Error::other("refused"));
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.routes.lock().unwrap()[usize::from(vector)] = message;
        Ok(())
    }
}

/// Doorbells by address, each with a duplicate of its event.
#[derive(Default)]
pub(crate) struct FakeDoorbells {
    pub registered: Mutex<Vec<(u64, i32, EventFd)>>,
    pub refuses: AtomicBool,
}

impl FakeDoorbells {
    pub fn addresses(&self) -> Vec<u64> {
        let registered = self.registered.lock().unwrap();
        registered.iter().map(|(address, ..)| *address).collect()
    }

    pub fn is_silent(&self) -> bool {
        self.addresses().is_empty()
    }

    /// What the hypervisor does with a guest's write; whether it took it.
    pub fn write(&self, address: u64) -> bool {
        let registered = self.registered.lock().unwrap();
        let doorbell = registered.iter().find(|d| d.0 == address);
        doorbell.map(|d| d.2.write(1).unwrap()).is_some()
    }
}

impl Doorbells for FakeDoorbells {
    fn register(&self, address: u64, event: &EventFd) -> io::Result<()> {
        let mut registered = self.registered.lock().unwrap();
        if self.refuses.load(Ordering::Relaxed) || registered.iter().any(|d| d.0 == address) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        registered.push((address, event.as_raw_fd(), event.try_clone().unwrap()));
        Ok(())
    }

    fn unregister(&self, address: u64, event: &EventFd) -> io::Result<()> {
        let mut registered = self.registered.lock().unwrap();
        let same = |d: &(u64, i32, EventFd)| d.0 == address && d.1 == event.as_raw_fd();
        match registered.iter().position(same) {
            Some(index) => {
                registered.remove(index);
                Ok(())
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Counts edges.
#[derive(Default)]
pub(crate) struct FakeLine(AtomicU32);

impl FakeLine {
    /// Edges since the last look.
    pub fn edges(&self) -> u32 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl Interrupt for FakeLine {
    fn trigger(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A level, and whether somebody drives it.
#[derive(Default)]
pub(crate) struct FakeLevel(AtomicBool);

impl FakeLevel {
    pub fn is_asserted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Line for FakeLevel {
    fn set(&self, asserted: bool) {
        self.0.store(asserted, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub(crate) struct FakeSink(Mutex<Vec<Msi>>);

impl FakeSink {
    /// Messages since the last look.
    pub fn sent(&self) -> Vec<Msi> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl MsiSink for FakeSink {
    fn send(&self, message: Msi) {
        self.0.lock().unwrap().push(message);
    }
}
