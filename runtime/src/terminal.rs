//! A terminal's line discipline: what lies between a person's keys and a program's stdin.
//!
//! `kubectl -t` puts the person's terminal into raw mode and sends every key as it is; on Linux the pod's pseudo-terminal
//! then echoes, edits the line and turns Enter into a newline. A component has no such thing under it, so this does it,
//! as `stty sane` would (termios(3): ICANON, ECHO, ECHOE, ICRNL, ISIG, ONLCR). Pure: bytes in, bytes and signals out.

use crate::limits::TERMINAL_LINE_BYTES_MAX;

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const KILL: u8 = 0x15;
const WORD_ERASE: u8 = 0x17;
const QUIT: u8 = 0x1c;
const DELETE: u8 = 0x7f;

/// What some keys came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Typed {
    /// For the program.
    pub(crate) input: Vec<u8>,
    /// For the person's screen.
    pub(crate) echo: Vec<u8>,
    /// Ctrl-D on an empty line: the input is over.
    pub(crate) ended: bool,
    /// Ctrl-C or Ctrl-\: the program is to end.
    pub(crate) interrupted: bool,
}

/// The line being typed.
#[derive(Debug, Default)]
pub(crate) struct Terminal {
    line: Vec<u8>,
}

impl Terminal {
    /// Takes keys.
    pub(crate) fn take(&mut self, keys: &[u8]) -> Typed {
        let mut typed = Typed::default();
        for key in keys {
            match *key {
                b'\r' | b'\n' => {
                    self.line.push(b'\n');
                    typed.input.append(&mut self.line);
                    typed.echo.extend_from_slice(b"\r\n");
                }
                INTERRUPT | QUIT => {
                    self.line.clear();
                    typed.echo.extend_from_slice(if *key == INTERRUPT { b"^C" } else { b"^\\" });
                    typed.interrupted = true;
                }
                END if self.line.is_empty() => typed.ended = true,
                END => typed.input.append(&mut self.line),
                BACKSPACE | DELETE => self.erase(1, &mut typed.echo),
                KILL => self.erase(usize::MAX, &mut typed.echo),
                WORD_ERASE => {
                    let blanks = self.line.iter().rev().take_while(|byte| **byte == b' ').count();
                    let word = self.line.iter().rev().skip(blanks).take_while(|byte| **byte != b' ').count();
                    let from = self.line.len() - blanks - word;
                    let characters = self.line[from..].iter().filter(|byte| !is_continuation(**byte)).count();
                    self.erase(characters, &mut typed.echo);
                }
                // A line as long as a terminal's may be takes no more but its end.
                _ if self.line.len() >= TERMINAL_LINE_BYTES_MAX => typed.echo.push(0x07),
                byte => {
                    self.line.push(byte);
                    if byte.is_ascii_control() && byte != b'\t' {
                        typed.echo.extend_from_slice(&[b'^', byte ^ 0x40]);
                    } else {
                        typed.echo.push(byte);
                    }
                }
            }
        }
        typed
    }

    /// Takes characters off the line's end, and off the screen.
    fn erase(&mut self, characters: usize, echo: &mut Vec<u8>) {
        for _ in 0..characters {
            let Some(last) = self.line.pop() else { return };
            let mut first = last;
            while is_continuation(first) {
                let Some(byte) = self.line.pop() else { break };
                first = byte;
            }
            let columns = if first.is_ascii_control() && first != b'\t' { 2 } else { 1 };
            (0..columns).for_each(|_| echo.extend_from_slice(b"\x08 \x08"));
        }
    }
}

/// Whether a byte goes on with a character of UTF-8 that began before it.
fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// What a program prints, as a screen in raw mode needs it: each newline also goes back to the first column.
pub(crate) fn shown(printed: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(printed.len() + 16);
    for byte in printed {
        if *byte == b'\n' {
            shown.push(b'\r');
        }
        shown.push(*byte);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_lines() {
        // Keys, what the program gets, what the screen shows.
        let table: [(&str, &str, &str); 9] = [
            ("ls\r", "ls\n", "ls\r\n"),
            ("a\nb\r", "a\nb\n", "a\r\nb\r\n"),
            ("half", "", "half"),
            ("lx\x7fs\r", "ls\n", "lx\x08 \x08s\r\n"),
            ("wrong\x15ok\r", "ok\n", "wrong\x08 \x08\x08 \x08\x08 \x08\x08 \x08\x08 \x08ok\r\n"),
            ("a bc \x17d\r", "a d\n", "a bc \x08 \x08\x08 \x08\x08 \x08d\r\n"),
            ("né\x7f\r", "n\n", "né\x08 \x08\r\n"),
            ("\x1b[A\x7f\x7f\x7f\r", "\n", "^[[A\x08 \x08\x08 \x08\x08 \x08\x08 \x08\r\n"),
            ("prompt\x04", "prompt", "prompt"),
        ];
        for (keys, input, echo) in table {
            let typed = Terminal::default().take(keys.as_bytes());
            assert_eq!(String::from_utf8_lossy(&typed.input), input, "{keys:?}");
            assert_eq!(String::from_utf8_lossy(&typed.echo), echo, "{keys:?}");
            assert!(!typed.ended && !typed.interrupted, "{keys:?}");
        }
    }

    #[test]
    fn control_keys_end_things() {
        let mut terminal = Terminal::default();
        assert!(terminal.take(b"abc\x03").interrupted);
        assert_eq!(terminal.take(b"\r").input, b"\n", "what was typed before Ctrl-C is gone");
        assert!(terminal.take(b"\x04").ended);
        let typed = terminal.take(&[b'x'; TERMINAL_LINE_BYTES_MAX + 3]);
        assert_eq!(
            (terminal.line.len(), typed.echo.iter().filter(|byte| **byte == 7).count()),
            (TERMINAL_LINE_BYTES_MAX, 3)
        );
        assert_eq!(terminal.take(b"\r").input.len(), TERMINAL_LINE_BYTES_MAX + 1);
    }

    #[test]
    fn a_screen_goes_back_to_the_first_column() {
        assert_eq!(shown(b"a\nb\n"), b"a\r\nb\r\n");
    }
}
