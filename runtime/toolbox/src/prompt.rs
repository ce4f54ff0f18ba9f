//! What a person gets who starts the toolbox on a terminal without a command: a prompt, and every line is a command.
//!
//! It is no shell: a line has words and quotes, and neither pipes nor variables.

use std::io::Read;
use std::process::ExitCode;

use crate::{Streams, commands, run};

/// A line that is longer is no command.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Runs the lines that are typed until `exit` or the end of the input; the exit code is the last command's.
pub fn talk(streams: &mut Streams<'_>) -> ExitCode {
    let mut last = ExitCode::SUCCESS;
    loop {
        let asked = streams.stdout.write_all(b"toolbox> ").and_then(|()| streams.stdout.flush());
        let Some(line) = asked.ok().and_then(|()| read_line(streams.stdin)) else { return last };
        let words = match words(&line) {
            Ok(words) => words,
            Err(why) => {
                // Whoever closed stderr does not want to hear it.
                let _ = writeln!(streams.stderr, "toolbox: {why}");
                continue;
            }
        };
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => {}
            ["exit", ..] => return last,
            ["help", ..] => {
                let _ = writeln!(streams.stdout, "{} exit", commands().collect::<Vec<_>>().join(" "));
            }
            _ => last = run(&words, streams),
        }
    }
}

/// One line without its end. Byte by byte, since what follows belongs to the command.
fn read_line(input: &mut dyn Read) -> Option<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    let mut ended = false;
    while !ended && line.len() < LINE_BYTES_MAX && input.read(&mut byte).ok()? == 1 {
        ended = byte[0] == b'\n';
        line.extend((!ended).then_some(byte[0]));
    }
    (ended || !line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned())
}

/// The words of a line: `'…'` keeps everything, `"…"` everything but `\"` and `\\`, `\` the next letter.
fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let (mut all, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(mark), letter) if letter == mark => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (Some('"'), '\\') if letters.peek().is_some_and(|next| "\"\\".contains(*next)) => {
                word.get_or_insert_default().extend(letters.next());
            }
            (None, '\\') => word.get_or_insert_default().extend(letters.next()),
            (None, blank) if blank.is_whitespace() => all.extend(word.take()),
            (_, letter) => word.get_or_insert_default().push(letter),
        }
    }
    all.extend(word);
    if quote.is_some() { Err("a quote is not closed") } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_words() {
        let table = [
            ("ls  -l\t/data", vec!["ls", "-l", "/data"]),
            ("echo 'a b' \"c \\\" d\\n\" e\\ f ''", vec!["echo", "a b", "c \" d\\n", "e f", ""]),
            ("a'b'\"c\"", vec!["abc"]),
            ("  ", vec![]),
        ];
        for (line, expected) in table {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
        assert!(words("echo 'a").is_err());
    }

    #[test]
    fn every_line_is_a_command() {
        let mut input = &b"echo one two\n\nghost\nfalse\nhelp\nexit\necho never\n"[..];
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = talk(&mut Streams { stdin: &mut input, stdout: &mut out, stderr: &mut err });
        let out = String::from_utf8(out).unwrap();
        assert!(out.starts_with("toolbox> one two\ntoolbox> toolbox> toolbox> toolbox> basename cat "), "{out}");
        assert!(out.ends_with(" whoami exit\ntoolbox> "), "{out}");
        assert_eq!((String::from_utf8(err).unwrap().as_str(), code), ("ghost: not found\n", ExitCode::FAILURE));
        assert_eq!(input, b"echo never\n");
    }
}
