//! The requests in flight, each in a numbered slot that the ring's tokens name.

use super::task::Task;
use super::transfer::Transfers;

/// How many of the vectors of requests that ended are kept for those to come.
const SPARE_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Tasks {
    /// As many as requests were ever in flight at once: the sum of the queue sizes at most.
    slots: Vec<Option<Task>>,
    free: Vec<u32>,
    count: usize,
    spare: Vec<Transfers>,
}

impl Tasks {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Puts the task that `make` makes of its slot's number there; the transfers are empty.
    pub fn insert(&mut self, make: impl FnOnce(u32, Transfers) -> Task) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let transfers = self.spare.pop().unwrap_or_default();
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(make(slot, transfers));
            self.count += 1;
        }
        slot
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Task> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    pub fn remove(&mut self, slot: u32) -> Option<Task> {
        let task = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        self.count -= 1;
        Some(task)
    }

    /// Keeps what a task that ended can leave to the next one.
    pub fn recycle(&mut self, task: Task) {
        if let Some(transfers) = task.into_transfers().emptied()
            && self.spare.len() < SPARE_MAX
        {
            self.spare.push(transfers);
        }
    }
}
