//! Sees a Linux guest panic by what it prints, for guests without a pvpanic driver.
//!
//! Linux begins with `Kernel panic - not syncing: …` and, when it stays so, ends with
//! `---[ end Kernel panic …` (`kernel/panic.c`). Both count where the kernel prints them: at the start
//! of a line, or right behind a time stamp's `] `, since a kernel's line may follow a prompt that has not
//! ended. A program that prints the whole line fools nobody but its own operator.

/// How much of a line is looked at, from its start or from the last `]` on, in bytes.
const MARK_BYTES: usize = 32;
const BEGIN: &[u8] = b"Kernel panic - not syncing";
const END: &[u8] = b"---[ end Kernel panic";

const _: () = assert!(BEGIN.len() <= MARK_BYTES && END.len() <= MARK_BYTES);

/// What a guest's output says about a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    Begin,
    End,
}

/// Follows a guest's output.
#[derive(Debug, Default)]
pub struct PanicWatch {
    /// The bytes since the last place where a message may begin.
    mark: [u8; MARK_BYTES],
    len: usize,
    last: u8,
}

impl PanicWatch {
    /// Takes the next byte of the output.
    pub fn see(&mut self, byte: u8) -> Option<Sight> {
        let stamp_ended = self.last == b']' && byte == b' ';
        self.last = byte;
        if stamp_ended || matches!(byte, b'\n' | b'\r') {
            self.len = 0;
            return None;
        }
        *self.mark.get_mut(self.len)? = byte;
        self.len += 1;
        match self.mark.get(..self.len)? {
            BEGIN => Some(Sight::Begin),
            END => Some(Sight::End),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sights(output: &str) -> Vec<Sight> {
        let mut watch = PanicWatch::default();
        output.bytes().filter_map(|byte| watch.see(byte)).collect()
    }

    #[test]
    fn a_panic_is_seen_from_its_first_to_its_last_line() {
        let output = "[    0.51] Run /init\r\n\
            [    1.234567] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0\r\n\
            [    1.235] CPU: 0 PID: 1 Comm: init Not tainted 6.1.0\r\n\
            [    1.236] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---\r\n";
        assert_eq!(sights(output), [Sight::Begin, Sight::End]);
    }

    #[test]
    fn stamps_may_be_missing_more_or_behind_a_prompt() {
        for output in [
            "Kernel panic - not syncing: x",
            "\nKernel panic - not syncing",
            "[    1.2][    T1] Kernel panic - not syncing: x",
            "debian login: [   99.1] Kernel panic - not syncing: sysrq",
        ] {
            assert_eq!(sights(output), [Sight::Begin], "{output}");
        }
    }

    #[test]
    fn talk_about_panics_is_none() {
        for output in [
            "grep: Kernel panic - not syncing",
            "# echo Kernel panic - not syncing",
            "[    1.2] kmsg: Kernel panic - not syncing: x",
            "Kernel panic - not sync\ning",
            "xKernel panic - not syncing",
        ] {
            assert_eq!(sights(output), [], "{output}");
        }
    }

    #[test]
    fn endless_line_is_bounded() {
        let mut watch = PanicWatch::default();
        for _ in 0..1_000_000 {
            assert_eq!(watch.see(b'x'), None);
        }
        assert_eq!(watch.len, MARK_BYTES);
    }
}
