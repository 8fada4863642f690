//! Redis' protocol, as far as one must read it to see where a command or a reply ends (versions 2 and 3).

/// How many bytes the first complete value takes; `None` if more bytes are needed.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let (line, mut used) = line(bytes)?;
    let number = || std::str::from_utf8(&line[1..]).ok()?.parse::<i64>().ok();
    match line.first()? {
        // A text of a given length, and a line break.
        b'$' | b'!' | b'=' => match number() {
            Some(-1) => {}
            given => used += usize::try_from(given?).ok()? + 2,
        },
        // As many values as it says; twice as many for a map. An attribute belongs to the value after it.
        kind @ (b'*' | b'~' | b'>' | b'%' | b'|') => {
            let values = number()?.max(0) * if matches!(kind, b'%' | b'|') { 2 } else { 1 } + i64::from(*kind == b'|');
            for _ in 0..values {
                used += length(bytes.get(used..)?)?;
            }
        }
        // Everything else is one line: `+OK`, `-ERR …`, `:1`, `_`, `#t`, `,1.5`, `(123`.
        _ => {}
    }
    (used <= bytes.len()).then_some(used)
}

/// The first line without its end, and where the next one begins.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.windows(2).position(|window| window == b"\r\n")?;
    Some((&bytes[..end], end + 2))
}

/// The name of a command, in lower case: the first text in its list. A client may also send it as a line of plain text.
pub fn command_name(command: &[u8]) -> String {
    let name = match line(command) {
        Some((b"", _)) | None => &b""[..],
        Some((first, rest)) if first[0] == b'*' => match line(&command[rest..]) {
            Some((_, text)) => line(&command[rest + text..]).map_or(&b""[..], |(name, _)| name),
            None => b"",
        },
        Some((first, _)) => first.split(|byte| *byte == b' ').next().unwrap_or_default(),
    };
    String::from_utf8_lossy(name).to_ascii_lowercase()
}

/// Whether a value from the server answers a command; pushed values (RESP3) answer nothing.
pub fn is_reply(value: &[u8]) -> bool {
    value.first() != Some(&b'>')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_kind_have_an_end() {
        for value in [
            "+OK\r\n",
            "-ERR no\r\n",
            ":12\r\n",
            "_\r\n",
            "#t\r\n",
            ",1.5\r\n",
            "$-1\r\n",
            "$0\r\n\r\n",
            "$4\r\na\r\nb\r\n",
            "=7\r\ntxt:abc\r\n",
            "!3\r\nERR\r\n",
            "*-1\r\n",
            "*0\r\n",
            "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
            "*2\r\n*1\r\n:1\r\n$2\r\nab\r\n",
            "%1\r\n+a\r\n:1\r\n",
            "~2\r\n+a\r\n+b\r\n",
            ">2\r\n+message\r\n$1\r\nx\r\n",
            "|1\r\n+ttl\r\n:3\r\n*1\r\n:7\r\n",
        ] {
            assert_eq!(length(value.as_bytes()), Some(value.len()), "{value:?}");
            assert_eq!(length(format!("{value}+next\r\n").as_bytes()), Some(value.len()), "{value:?}");
            for end in 0..value.len() {
                assert_eq!(length(&value.as_bytes()[..end]), None, "{:?}", &value[..end]);
            }
        }
    }

    #[test]
    fn commands_have_a_name() {
        assert_eq!(command_name(b"*2\r\n$7\r\nHGETALL\r\n$1\r\nk\r\n"), "hgetall");
        assert_eq!(command_name(b"PING extra\r\n"), "ping");
        assert_eq!(command_name(b"*0\r\n"), "");
        assert!(is_reply(b"+OK\r\n"));
        assert!(!is_reply(b">1\r\n+x\r\n"));
    }
}
