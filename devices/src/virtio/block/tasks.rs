//! The requests in flight, each in a numbered slot that the ring's tokens name.

use super::task::Task;

#[derive(Debug, Default)]
pub(super) struct Tasks {
    /// As many as requests were ever in flight at once: the sum of the queue sizes at most.
    slots: Vec<Option<Task>>,
    free: Vec<u32>,
    count: usize,
}

impl Tasks {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Puts the task that `make` makes of its slot's number there.
    pub fn insert(&mut self, make: impl FnOnce(u32) -> Task) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(make(slot));
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
}
