//! Interrupts: which are counted where, the timer, waiting for one.
//!
//! Implements Arm ARM (DDI 0487) D12 (the generic timer) over the interrupt controller of [`super::gic`]. Interrupts
//! are masked: who waits for one rests until any is pending, takes it, and counts it.

use core::arch::asm;
use core::cell::Cell;
use core::ptr::addr_of;
use core::sync::atomic::{AtomicU32, Ordering};

use super::firmware::{Firmware, Interrupt};
use super::gic::Gic;
use super::{counter_hertz, its};
use crate::console::{Failure, failure};
use crate::hw::{Deadline, Window};
use crate::pci::Message;

const LINES: usize = 32;
/// Shared, a processor's own, then the locality-specific ones.
const SOURCES: usize = 1024 + its::LIMIT as usize;
const MESSAGES: usize = 256;

/// How often interrupts came, for each line; wraps.
static COUNTS: [AtomicU32; LINES] = [const { AtomicU32::new(0) }; LINES];

unsafe extern "C" {
    static exception_report: u8;
    static interrupt_taken: u8;
}

/// A counted interrupt.
#[derive(Clone, Copy)]
pub struct Line(u8);

/// A message that was asked for: of which function and entry, and the interrupt that it becomes.
type Known = (u8, u16, u32);

/// The interrupts of the first processor.
pub struct Interrupts {
    gic: Gic,
    timer: Interrupt,
    timer_line: Line,
    spare: Line,
    lines: Cell<u8>,
    /// The line of each source; the spare one's for those that were not asked for.
    line_of: [Cell<u8>; SOURCES],
    known: [Cell<Option<Known>>; MESSAGES],
}

impl Interrupts {
    /// Turns the interrupt controller on. To be called once.
    pub fn new(firmware: &Firmware) -> Result<Self, Failure> {
        let (timer_line, spare) = (Line(0), Line(1));
        Ok(Self {
            gic: Gic::new(firmware)?,
            timer: firmware.timer,
            timer_line,
            spare,
            lines: Cell::new(2),
            line_of: [const { Cell::new(1) }; SOURCES],
            known: [const { Cell::new(None) }; MESSAGES],
        })
    }

    /// A line that nothing uses; the last one again when all are used.
    pub fn new_line(&self) -> Line {
        let line = self.lines.get();
        self.lines.set((line + 1).min(LINES as u8 - 1));
        Line(line)
    }

    /// Sees that the timer interrupts, and that the processor takes it; lets it interrupt every 10 ms from then on, so
    /// that no wait lasts for ever.
    pub fn start_timer(&self) -> Result<(), Failure> {
        set_timer(counter_hertz() / 10_000);
        self.route(self.timer, self.timer_line)?;
        // SAFETY: boot.s's, accessed through windows only.
        let taken = unsafe { Window::new(addr_of!(interrupt_taken) as u64, 4) };
        // Not at rest, which nothing else would end.
        let deadline = Deadline::new();
        while taken.u32(0) == 0 {
            if deadline.has_passed() {
                return Err(failure!("the timer does not interrupt"));
            }
            // SAFETY: boot.s's handler changes its own word only, and masks interrupts again.
            unsafe { asm!("msr daifclr, #2", "isb", "msr daifset, #2") };
        }
        let seen = self.timer_line.count();
        self.take();
        match self.timer_line.count() == seen {
            false => Ok(()),
            true => Err(failure!("the first interrupt is not the timer's")),
        }
    }

    /// For interrupts that nobody waits for.
    pub fn spare(&self) -> Line {
        self.spare
    }

    /// Lets an interrupt come, counted on `line`.
    pub fn route(&self, interrupt: Interrupt, line: Line) -> Result<(), Failure> {
        self.count_on(interrupt.id, line)?;
        self.gic.enable(interrupt);
        Ok(())
    }

    /// What makes MSI-X entry `entry` of function `number` interrupt this processor on `line`.
    pub fn message(&self, number: u8, entry: u16, line: Line) -> Result<Message, Failure> {
        // The place of this message, or the first free one.
        let place = self.known.iter().find(|place| {
            place
                .get()
                .is_none_or(|(of, at, _)| (of, at) == (number, entry))
        });
        let Some(place) = place else {
            return Err(failure!("more messages than {MESSAGES}"));
        };
        let known = place.get().map(|(_, _, id)| id);
        let (message, id) = self.gic.message(number, entry, known)?;
        place.set(Some((number, entry, id)));
        self.count_on(id, line)?;
        Ok(message)
    }

    fn count_on(&self, id: u32, line: Line) -> Result<(), Failure> {
        match self.line_of(id) {
            Some(place) => place.set(line.0),
            None => return Err(failure!("interrupt {id} is not counted")),
        }
        Ok(())
    }

    fn line_of(&self, id: u32) -> Option<&Cell<u8>> {
        let source = match id.checked_sub(its::FIRST) {
            Some(local) => 1024 + local as usize,
            None => id as usize,
        };
        self.line_of.get(source)
    }

    /// Takes one interrupt, if one is pending. What is still asserted at its end pends again: one at a time, so
    /// that the one who waits for it can see to it.
    fn take(&self) {
        let Some(id) = self.gic.acknowledge() else {
            return;
        };
        if id == self.timer.id {
            set_timer(counter_hertz() / 100);
        }
        let line = self.line_of(id).map_or(self.spare.0, Cell::get);
        let count = &COUNTS[usize::from(line) % LINES];
        count.store(
            count.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
        self.gic.end(id);
    }

    /// Rests until `line` has interrupted since its count was `seen`.
    pub fn wait(&self, line: Line, seen: u32) -> Result<(), Failure> {
        let deadline = Deadline::new();
        while line.count() == seen {
            if deadline.has_passed() {
                return Err(failure!("no interrupt on line {}", line.0));
            }
            self.rest();
        }
        Ok(())
    }

    /// The same without a limit.
    pub fn wait_for_ever(&self, line: Line, seen: u32) {
        while line.count() == seen {
            self.rest();
        }
    }

    fn rest(&self) {
        rest();
        self.take();
    }
}

impl Line {
    /// How many interrupts there were; wraps.
    pub fn count(self) -> u32 {
        COUNTS[usize::from(self.0) % LINES].load(Ordering::Relaxed)
    }
}

/// Lets the virtual timer interrupt after `ticks` of the counter.
fn set_timer(ticks: u64) {
    // SAFETY: the timer's registers; on, its interrupt not masked.
    unsafe {
        asm!(
            "msr cntv_tval_el0, {0}",
            "msr cntv_ctl_el0, {1}",
            "isb",
            in(reg) ticks,
            in(reg) 1u64,
            options(nostack),
        );
    }
}

/// Rests until an interrupt is pending, masked or not.
fn rest() {
    // SAFETY: changes nothing.
    unsafe { asm!("dsb sy", "wfi", options(nostack)) };
}

/// Rests for ever, whatever is pending.
pub fn stop() -> ! {
    loop {
        rest();
    }
}

/// Exceptions are caught from boot.s's first instructions on.
pub fn catch_exceptions() {}

/// What `boot.s` kept of an exception, in words.
pub fn exception() -> Failure {
    // SAFETY: boot.s's, accessed through windows only.
    let report = unsafe { Window::new(addr_of!(exception_report) as u64, 32) };
    let [vector, syndrome, at, address] = [0, 8, 16, 24].map(|part| report.u64(part));
    failure!("exception {vector} (syndrome {syndrome:#x}) at {at:#x}, far {address:#x}")
}
