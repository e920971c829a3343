//! Who gets a completion: the 64 bits that travel with each operation through the ring.

/// Marks of what is no request; requests are numbered from 0 up and never reach them. Events have
/// the top bit, [`super::ring::WATCH`].
const FLUSH: u32 = 0x7fff_ffff;
const DOORBELL: u32 = 0x8000_0000;
const STOP: u32 = 0x8000_0001;
const COMMAND: u32 = 0x8000_0002;
const TIMER: u32 = 0x8000_0003;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The request in this slot.
    Task(u32),
    Flush,
    /// The doorbell of the queue that the token's index names.
    Doorbell,
    Stop,
    /// There are commands from outside.
    Command,
    /// The request that is held back by a limit may go on.
    Timer,
}

/// A target and which of its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub target: Target,
    pub index: usize,
}

impl Target {
    /// Whether this is an event that is watched, and no operation on the disk.
    pub fn is_event(self) -> bool {
        !matches!(self, Self::Task(_) | Self::Flush)
    }
}

impl Token {
    pub fn new(target: Target, index: usize) -> Self {
        Self { target, index }
    }

    pub fn pack(self) -> u64 {
        let target = match self.target {
            Target::Task(slot) => slot,
            Target::Flush => FLUSH,
            Target::Doorbell => DOORBELL,
            Target::Stop => STOP,
            Target::Command => COMMAND,
            Target::Timer => TIMER,
        };
        u64::from(target) << 32 | self.index as u64 & u64::from(u32::MAX)
    }

    pub fn unpack(packed: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = packed.to_le_bytes();
        let target = match u32::from_le_bytes([e, f, g, h]) {
            FLUSH => Target::Flush,
            DOORBELL => Target::Doorbell,
            STOP => Target::Stop,
            COMMAND => Target::Command,
            TIMER => Target::Timer,
            slot => Target::Task(slot),
        };
        Self::new(target, u32::from_le_bytes([a, b, c, d]) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::WATCH;
    use super::*;

    #[test]
    fn token_survives_packing() {
        let targets = [Target::Task(0), Target::Task(70_000), Target::Flush];
        let events = [
            Target::Doorbell,
            Target::Stop,
            Target::Command,
            Target::Timer,
        ];
        for target in targets.into_iter().chain(events) {
            for index in [0, 1, 1 << 20] {
                let token = Token::new(target, index);
                assert_eq!(Token::unpack(token.pack()), token);
                let is_event = events.contains(&target);
                assert_eq!(target.is_event(), is_event);
                assert_eq!(token.pack() & WATCH != 0, is_event);
            }
        }
    }
}
