//! What a disk is loaded with: one kind of request, size and depth, as the test guest and fio are told it.

use std::fmt;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sequential, round and round.
    Read,
    Write,
    /// Uniform over the disk.
    RandRead,
    RandWrite,
    /// Writes every block of the disk once, in random order.
    First,
    /// And in ascending order.
    Fill,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    pub kind: Kind,
    /// Bytes of a request.
    pub block: u32,
    /// Requests in flight, over all queues.
    pub depth: u16,
    pub queues: u16,
    /// Whether the guest sleeps until an interrupt instead of polling the used ring.
    pub irq: bool,
}

/// When a job ends.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    Time(Duration),
    /// So much of the disk is done.
    PerMille(u16),
}

impl Kind {
    /// The word for it, which the test guest and fio share but for [`Kind::First`].
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::RandRead => "randread",
            Self::RandWrite => "randwrite",
            Self::First => "first",
            Self::Fill => "fillseq",
        }
    }

    pub fn is_read(self) -> bool {
        matches!(self, Self::Read | Self::RandRead)
    }
}

impl Job {
    pub const fn new(kind: Kind, block: u32, depth: u16) -> Self {
        Self {
            kind,
            block,
            depth,
            queues: 1,
            irq: false,
        }
    }

    pub const fn queues(self, queues: u16) -> Self {
        Self { queues, ..self }
    }

    pub const fn irq(self) -> Self {
        Self { irq: true, ..self }
    }

    /// When it ends in a run in which others take `time`.
    pub fn limit(&self, time: Duration) -> Limit {
        match self.kind {
            Kind::First | Kind::Fill => Limit::PerMille(1000),
            _ => Limit::Time(time),
        }
    }

    /// As the guest's command line has it: `DISK:KIND:BLOCK:DEPTH:QUEUES:LIMIT[:irq]`.
    pub fn for_guest(&self, disk: usize, limit: Limit) -> String {
        let limit = match limit {
            Limit::Time(time) => time.as_millis(),
            Limit::PerMille(share) => share.into(),
        };
        let irq = if self.irq { ":irq" } else { "" };
        let Self {
            block,
            depth,
            queues,
            ..
        } = self;
        let kind = self.kind.word();
        format!("{disk}:{kind}:{block}:{depth}:{queues}:{limit}{irq}")
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} d{}",
            self.kind.word(),
            size(self.block),
            self.depth
        )?;
        if self.queues > 1 {
            write!(f, " q{}", self.queues)?;
        }
        if self.irq {
            write!(f, " irq")?;
        }
        Ok(())
    }
}

/// 4096 as `4K`.
pub fn size(bytes: u32) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 20) => format!("{}M", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}K", bytes >> 10),
        _ => bytes.to_string(),
    }
}
