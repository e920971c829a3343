//! Finds the guest kernel's panic in what it prints, for guests without a pvpanic driver.
//!
//! Linux begins its panic with the line `Kernel panic - not syncing: …` and ends it with `---[ end
//! Kernel panic` when it stays, or with `Rebooting in N seconds..` when it will reset (kernel/panic.c,
//! `vpanic`). Only such a line's start counts, behind the time stamp: what a program prints about
//! a panic in the middle of a line is not one. A program with access to the console can imitate
//! the whole line, and fools nobody but its own operator.

const SEEN: &[u8] = b"Kernel panic - not syncing";
const PRINTED: [&[u8]; 2] = [b"---[ end Kernel panic", b"Rebooting in "];

/// The start of the line being printed, and what was found before.
#[derive(Debug, Default)]
pub(super) struct PanicLine {
    line: [u8; 32],
    len: usize,
    /// Within `[   12.345678] `, which is no part of the line.
    in_stamp: bool,
    seen: bool,
    printed: bool,
}

impl PanicLine {
    /// The guest's kernel panicked, and may still be printing why.
    pub(super) fn is_seen(&self) -> bool {
        self.seen
    }

    /// The guest's kernel panicked and has printed why.
    pub(super) fn is_printed(&self) -> bool {
        self.printed
    }

    /// Takes the next byte of the console.
    pub(super) fn next(&mut self, byte: u8) {
        match byte {
            b'\r' | b'\n' => {
                self.len = 0;
                self.in_stamp = false;
            }
            b'[' if self.len == 0 => self.in_stamp = true,
            b']' if self.in_stamp => self.in_stamp = false,
            _ if self.in_stamp => {}
            b' ' if self.len == 0 => {}
            _ => {
                if let Some(place) = self.line.get_mut(self.len) {
                    *place = byte;
                    self.len += 1;
                    self.look();
                }
            }
        }
    }

    fn look(&mut self) {
        let line = &self.line[..self.len];
        self.seen |= line == SEEN;
        self.printed |= self.seen && PRINTED.contains(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> (bool, bool) {
        let mut line = PanicLine::default();
        text.bytes().for_each(|byte| line.next(byte));
        (line.is_seen(), line.is_printed())
    }

    #[test]
    fn panic_is_seen_at_its_line_and_printed_at_its_end() {
        let start = "[    1.25] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n";
        assert_eq!(found(start), (true, false));
        let stays = "[    1.30] ---[ end Kernel panic - not syncing: VFS ]---\r\n";
        assert_eq!(found(&format!("{start}{stays}")), (true, true));
        let resets = "[    1.30] Rebooting in 10 seconds..";
        assert_eq!(found(&format!("{start}{resets}")), (true, true));
    }

    #[test]
    fn panic_without_time_stamps_is_seen() {
        assert_eq!(found("ok\nKernel panic - not syncing: x"), (true, false));
    }

    #[test]
    fn talk_about_panics_is_no_panic() {
        for text in [
            "grep: Kernel panic - not syncing: x\n",
            "Rebooting in 10 seconds..\n",
            "[ 1.0] systemd[1]: Kernel panic - not syncing",
            "Kernel panic - not sync\ning",
        ] {
            assert_eq!(found(text), (false, false), "{text}");
        }
    }
}
