//! Checks that a JSON text can be read, and removes its whitespace. One pass, without recursion.

use std::borrow::Cow;

use super::InvalidValue::{self, DuplicateKey, LoneSurrogate, NotJson, NumberOutOfRange, ReservedKey, TooDeep};
use super::{MAX_NESTING, Refusal};

/// Returns the text without whitespace outside strings, or `None` if it has none. Everything else keeps its bytes.
pub(super) fn compact(text: &[u8], longest: usize) -> Result<Option<Vec<u8>>, Refusal> {
    if std::str::from_utf8(text).is_err() {
        return Err(Refusal::Invalid(NotJson));
    }
    let mut scanner = Scanner { text, at: 0, out: Vec::new(), copied: 0, keys: Vec::new() };
    scanner.document(longest)?;
    if scanner.copied == 0 {
        return Ok(None);
    }
    scanner.out.extend_from_slice(&text[scanner.copied..]);
    Ok(Some(scanner.out))
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// What comes before `copied`, without whitespace.
    out: Vec<u8>,
    copied: usize,
    /// The keys of all objects that are open, outermost first.
    keys: Vec<Cow<'a, [u8]>>,
}

/// An array or object that is not closed yet.
enum Open {
    Array,
    /// Its keys begin here in `keys`.
    Object(usize),
}

impl<'a> Scanner<'a> {
    fn document(&mut self, longest: usize) -> Result<(), Refusal> {
        let mut open = Vec::new();
        self.skip_whitespace();
        loop {
            let mut ended = self.begin_value(&mut open).map_err(Refusal::Invalid)?;
            while ended {
                self.skip_whitespace();
                if self.out.len() + self.at - self.copied > longest {
                    return Err(Refusal::TooLong);
                }
                if open.is_empty() {
                    return if self.at == self.text.len() { Ok(()) } else { Err(Refusal::Invalid(NotJson)) };
                }
                ended = self.after_value(&mut open).map_err(Refusal::Invalid)?;
            }
        }
    }

    /// Reads a value up to its end, or up to the first value inside it. Returns whether it has ended.
    fn begin_value(&mut self, open: &mut Vec<Open>) -> Result<bool, InvalidValue> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| true),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| true),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            Some(b'[') => self.enter(open, Open::Array, b']'),
            Some(b'{') => self.enter(open, Open::Object(self.keys.len()), b'}'),
            _ => Err(NotJson),
        }
    }

    /// Reads what follows a value in an array or object. Returns whether that array or object has ended.
    fn after_value(&mut self, open: &mut Vec<Open>) -> Result<bool, InvalidValue> {
        match (self.next(), open.last()) {
            (Some(b','), Some(Open::Array)) => {
                self.skip_whitespace();
                Ok(false)
            }
            (Some(b','), Some(Open::Object(_))) => {
                self.skip_whitespace();
                self.key().map(|()| false)
            }
            (Some(b']'), Some(Open::Array)) => {
                open.pop();
                Ok(true)
            }
            (Some(b'}'), Some(Open::Object(first_key))) => {
                let keys = &mut self.keys[*first_key..];
                keys.sort_unstable();
                if keys.windows(2).any(|pair| pair[0] == pair[1]) {
                    return Err(DuplicateKey);
                }
                self.keys.truncate(*first_key);
                open.pop();
                Ok(true)
            }
            _ => Err(NotJson),
        }
    }

    fn enter(&mut self, open: &mut Vec<Open>, container: Open, end: u8) -> Result<bool, InvalidValue> {
        if open.len() == MAX_NESTING {
            return Err(TooDeep);
        }
        self.at += 1;
        self.skip_whitespace();
        if self.peek() == Some(end) {
            self.at += 1;
            return Ok(true);
        }
        let is_object = matches!(container, Open::Object(_));
        open.push(container);
        if is_object {
            self.key()?;
        }
        Ok(false)
    }

    /// Reads a key and its colon.
    fn key(&mut self) -> Result<(), InvalidValue> {
        if self.peek() != Some(b'"') {
            return Err(NotJson);
        }
        let text = self.string()?;
        let key = if text.contains(&b'\\') {
            Cow::Owned(serde_json::from_slice::<String>(text).map_err(|_| NotJson)?.into_bytes())
        } else {
            Cow::Borrowed(&text[1..text.len() - 1])
        };
        if key.starts_with(b"$serde_json::private::") {
            return Err(ReservedKey);
        }
        self.keys.push(key);
        self.skip_whitespace();
        if self.next() != Some(b':') {
            return Err(NotJson);
        }
        self.skip_whitespace();
        Ok(())
    }

    /// Reads a string and returns it with its quotes.
    fn string(&mut self) -> Result<&'a [u8], InvalidValue> {
        let from = self.at;
        self.at += 1;
        loop {
            match self.next().ok_or(NotJson)? {
                b'"' => return Ok(&self.text[from..self.at]),
                b'\\' => match self.next().ok_or(NotJson)? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => self.escaped_code_point()?,
                    _ => return Err(NotJson),
                },
                0..0x20 => return Err(NotJson),
                _ => {}
            }
        }
    }

    /// Reads the digits after `\u`, and the second half of a surrogate pair.
    fn escaped_code_point(&mut self) -> Result<(), InvalidValue> {
        match self.hex4()? {
            0xD800..0xDC00 => {
                if (self.next(), self.next()) != (Some(b'\\'), Some(b'u')) {
                    return Err(LoneSurrogate);
                }
                if matches!(self.hex4()?, 0xDC00..0xE000) { Ok(()) } else { Err(LoneSurrogate) }
            }
            0xDC00..0xE000 => Err(LoneSurrogate),
            _ => Ok(()),
        }
    }

    fn hex4(&mut self) -> Result<u32, InvalidValue> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or(NotJson)?;
            code = code * 16 + digit;
        }
        Ok(code)
    }

    fn number(&mut self) -> Result<(), InvalidValue> {
        let from = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let integer_end = self.at;
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        let has_exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if has_exponent {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        // Without an exponent only the digits before the point can make a number that large.
        if has_exponent || integer_end - from > f64::MAX_10_EXP as usize {
            let text = std::str::from_utf8(&self.text[from..self.at]).map_err(|_| NotJson)?;
            if !text.parse::<f64>().is_ok_and(f64::is_finite) {
                return Err(NumberOutOfRange);
            }
        }
        Ok(())
    }

    /// Reads at least one digit.
    fn digits(&mut self) -> Result<(), InvalidValue> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > from { Ok(()) } else { Err(NotJson) }
    }

    fn literal(&mut self, word: &[u8]) -> Result<bool, InvalidValue> {
        if !self.text[self.at..].starts_with(word) {
            return Err(NotJson);
        }
        self.at += word.len();
        Ok(true)
    }

    fn skip_whitespace(&mut self) {
        let from = self.at;
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        if self.at > from {
            self.out.extend_from_slice(&self.text[self.copied..from]);
            self.copied = self.at;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }
}

#[cfg(test)]
mod tests;
