//! The protocol between Redis and its clients: commands as they go out, answers (RESP2 and RESP3) as they come in.
//!
//! Written by hand because every request pays for it: an answer's strings are slices of what was read, and a HASH is a list of pairs,
//! where the clients at hand copy the first and hash the second.

use std::fmt;

use bytes::{Bytes, BytesMut};

/// One answer. Its strings share the buffer that they were read into: whoever keeps one for long copies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    SimpleString {
        data: Bytes,
    },
    SimpleError {
        data: Bytes,
    },
    BlobString {
        data: Bytes,
    },
    BlobError {
        data: Bytes,
    },
    VerbatimString {
        data: Bytes,
    },
    Number {
        data: i64,
    },
    /// A truth value, or a number that is no integer or a very large one, as Redis wrote it. Nothing that we ask has such an answer.
    Other {
        data: Bytes,
    },
    Null,
    /// A list, or a set.
    Array {
        data: Vec<Frame>,
    },
    Map {
        data: Vec<(Frame, Frame)>,
    },
    /// What Redis says unasked.
    Push {
        data: Vec<Frame>,
    },
}

/// What came is no answer; nothing that follows can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server speaks another protocol")
    }
}

/// Nothing that we ask nests deeper than three levels.
const DEEPEST: usize = 8;

/// Appends a command.
pub(super) fn write(out: &mut Vec<u8>, command: &str, arguments: &[Bytes]) {
    const HEAD: usize = 16;
    out.reserve(2 * HEAD + command.len() + arguments.iter().map(|argument| HEAD + argument.len()).sum::<usize>());
    write_head(out, b'*', 1 + arguments.len());
    write_string(out, command.as_bytes());
    arguments.iter().for_each(|argument| write_string(out, argument));
}

fn write_string(out: &mut Vec<u8>, string: &[u8]) {
    write_head(out, b'$', string.len());
    out.extend_from_slice(string);
    out.extend_from_slice(b"\r\n");
}

/// By hand, since a command has one of these for each of its words: formatting took longer than all else that is done about a word.
fn write_head(out: &mut Vec<u8>, kind: u8, mut number: usize) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    while number > 0 || first == digits.len() {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.push(kind);
    out.extend_from_slice(&digits[first..]);
    out.extend_from_slice(b"\r\n");
}

/// Takes the first answer out of what was read; `None` if it is not complete yet.
pub(super) fn read(buffer: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
    match end(buffer, 0, DEEPEST)? {
        None => Ok(None),
        Some(end) => Reader { bytes: buffer.split_to(end).freeze(), at: 0 }.frame().map(Some),
    }
}

/// Where the answer ends that begins at `at`.
fn end(bytes: &[u8], at: usize, deepest: usize) -> Result<Option<usize>, Malformed> {
    let Some(line) = line(bytes, at) else { return Ok(None) };
    let next = line.end;
    let mut elements = match line.kind {
        b'+' | b'-' | b':' | b',' | b'(' | b'#' | b'_' => return Ok(Some(next)),
        b'$' | b'!' | b'=' => {
            let Some(length) = line.length()? else { return Ok(Some(next)) };
            let end = next.checked_add(length).and_then(|end| end.checked_add(2)).ok_or(Malformed)?;
            return Ok((end <= bytes.len()).then_some(end));
        }
        b'*' | b'~' | b'>' => line.length()?.unwrap_or(0),
        b'%' => line.length()?.unwrap_or(0).checked_mul(2).ok_or(Malformed)?,
        _ => return Err(Malformed),
    };
    let deepest = deepest.checked_sub(1).ok_or(Malformed)?;
    let mut at = next;
    while elements > 0 {
        match end(bytes, at, deepest)? {
            Some(end) => at = end,
            None => return Ok(None),
        }
        elements -= 1;
    }
    Ok(Some(at))
}

/// The first line of an answer: its kind, what follows that, and where the line ends.
struct Line<'a> {
    kind: u8,
    text: &'a [u8],
    end: usize,
}

/// The line that begins at `at`, if all of it is there.
fn line(bytes: &[u8], at: usize) -> Option<Line<'_>> {
    let rest = bytes.get(at..)?;
    // Such lines are short; what is long stands in strings, whose length goes before them.
    let length = rest.iter().position(|byte| *byte == b'\n')?;
    let (kind, text) = rest[..length].split_first()?;
    Some(Line { kind: *kind, text: text.strip_suffix(b"\r").unwrap_or(text), end: at + length + 1 })
}

impl Line<'_> {
    fn number(&self) -> Result<i64, Malformed> {
        std::str::from_utf8(self.text).ok().and_then(|text| text.parse().ok()).ok_or(Malformed)
    }

    /// `None`: what RESP2 says where RESP3 has a null.
    fn length(&self) -> Result<Option<usize>, Malformed> {
        match self.number()? {
            -1 => Ok(None),
            number => usize::try_from(number).map(Some).map_err(|_| Malformed),
        }
    }
}

/// Reads an answer that is known to be complete.
struct Reader {
    bytes: Bytes,
    at: usize,
}

impl Reader {
    fn frame(&mut self) -> Result<Frame, Malformed> {
        let start = self.at + 1;
        let line = line(&self.bytes, self.at).ok_or(Malformed)?;
        self.at = line.end;
        let text = start..start + line.text.len();
        Ok(match line.kind {
            b'+' => Frame::SimpleString { data: self.bytes.slice(text) },
            b'-' => Frame::SimpleError { data: self.bytes.slice(text) },
            b':' => Frame::Number { data: line.number()? },
            b'_' => Frame::Null,
            b',' | b'(' | b'#' => Frame::Other { data: self.bytes.slice(text) },
            kind => {
                let Some(length) = line.length()? else { return Ok(Frame::Null) };
                match kind {
                    b'$' => Frame::BlobString { data: self.string(length)? },
                    b'!' => Frame::BlobError { data: self.string(length)? },
                    // Three letters for the format and a colon go before the text.
                    b'=' => Frame::VerbatimString { data: self.string(length)?.slice(length.min(4)..) },
                    b'*' | b'~' => Frame::Array { data: self.list(length)? },
                    b'>' => Frame::Push { data: self.list(length)? },
                    b'%' => {
                        let mut data = Vec::with_capacity(length);
                        for _ in 0..length {
                            data.push((self.frame()?, self.frame()?));
                        }
                        Frame::Map { data }
                    }
                    _ => return Err(Malformed),
                }
            }
        })
    }

    fn string(&mut self, length: usize) -> Result<Bytes, Malformed> {
        let end = self.at + length;
        if self.bytes.get(end..end + 2) != Some(b"\r\n") {
            return Err(Malformed);
        }
        let data = self.bytes.slice(self.at..end);
        self.at = end + 2;
        Ok(data)
    }

    fn list(&mut self, length: usize) -> Result<Vec<Frame>, Malformed> {
        let mut data = Vec::with_capacity(length);
        for _ in 0..length {
            data.push(self.frame()?);
        }
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blob(text: &'static str) -> Frame {
        Frame::BlobString { data: Bytes::from_static(text.as_bytes()) }
    }

    #[track_caller]
    fn check(text: &str, expected: Frame) {
        // However it arrives, and with the next answer behind it.
        for split in 0..text.len() {
            let mut buffer = BytesMut::from(&text[..split]);
            assert_eq!(read(&mut buffer), Ok(None), "{text:?} to {split}");
            buffer.extend_from_slice(&text.as_bytes()[split..]);
            buffer.extend_from_slice(b"+next\r\n");
            assert_eq!(read(&mut buffer), Ok(Some(expected.clone())), "{text:?}");
            assert_eq!(&buffer[..], b"+next\r\n");
        }
    }

    #[test]
    fn every_kind_of_answer_is_read_however_it_arrives() {
        let text = |text: &'static str| Bytes::from_static(text.as_bytes());
        check("+OK\r\n", Frame::SimpleString { data: text("OK") });
        check("-ERR no\r\n", Frame::SimpleError { data: text("ERR no") });
        check(":-12\r\n", Frame::Number { data: -12 });
        check("$4\r\na\r\nb\r\n", blob("a\r\nb"));
        check("$0\r\n\r\n", blob(""));
        check("!3\r\nERR\r\n", Frame::BlobError { data: text("ERR") });
        check("=8\r\ntxt:role\r\n", Frame::VerbatimString { data: text("role") });
        check("$-1\r\n", Frame::Null);
        check("*-1\r\n", Frame::Null);
        check("_\r\n", Frame::Null);
        check(",1.5\r\n", Frame::Other { data: text("1.5") });
        check("*0\r\n", Frame::Array { data: vec![] });
        check("~1\r\n$1\r\na\r\n", Frame::Array { data: vec![blob("a")] });
        check("%1\r\n$1\r\na\r\n:1\r\n", Frame::Map { data: vec![(blob("a"), Frame::Number { data: 1 })] });
        let nested = Frame::Array { data: vec![Frame::Array { data: vec![Frame::Null] }, blob("b")] };
        check("*2\r\n*1\r\n_\r\n$1\r\nb\r\n", nested);
        check(">1\r\n$1\r\na\r\n", Frame::Push { data: vec![blob("a")] });
    }

    #[test]
    fn what_is_no_answer_is_told_from_one() {
        for text in
            ["HTTP/1.1 400\r\n", "$x\r\n", "$-2\r\n", ":\r\n", ":1.5\r\n", "$1\r\nabc", "*1\r\n?\r\n", "%-3\r\n"]
        {
            assert_eq!(read(&mut BytesMut::from(text)), Err(Malformed), "{text:?}");
        }
        let deep = "*1\r\n".repeat(1000);
        assert_eq!(read(&mut BytesMut::from(deep.as_str())), Err(Malformed));
        let large = format!("${}\r\n", i64::MAX);
        assert_eq!(read(&mut BytesMut::from(large.as_str())), Ok(None));
    }

    #[test]
    fn a_command_says_how_long_each_of_its_words_is() {
        let mut out = Vec::new();
        write(&mut out, "GET", &[Bytes::from_static(b"a\r\n"), Bytes::new()]);
        assert_eq!(out, b"*3\r\n$3\r\nGET\r\n$3\r\na\r\n\r\n$0\r\n\r\n");
        for length in [9, 10, 99, 100, 1_234_567] {
            let mut out = Vec::new();
            write(&mut out, "GET", &[Bytes::from(vec![b'x'; length])]);
            let expected = format!("*2\r\n$3\r\nGET\r\n${length}\r\n{}\r\n", "x".repeat(length));
            assert!(out == expected.as_bytes(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_nothing_panics(bytes in proptest::collection::vec(prop_oneof![
            any::<u8>(),
            proptest::sample::select(&b"+-:$!=*~%>_,\r\n0123456789"[..]),
        ], 0..64)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = read(&mut buffer) {}
        }
    }
}
