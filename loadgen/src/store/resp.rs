//! Arrays of strings, as Redis sends them (RESP 2), out of pieces that are cut anywhere.

/// Reads one array after the other.
#[derive(Debug, Default)]
pub(super) struct Arrays {
    /// A line, or a string with its line's end, of which more has to come.
    begun: Vec<u8>,
    state: State,
    /// Strings of the array that have not come.
    left: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Array,
    Length,
    /// Of so many bytes, its line's end included.
    Text(usize),
}

/// What an array is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part<'a> {
    /// One of its strings.
    Text(&'a [u8]),
    /// It is complete.
    End,
}

/// The longest string that is taken; Redis' own bound is above that, what we store is below it.
const TEXT_SIZE_BYTES_MAX: usize = 64 << 20;
/// Lengths and errors are shorter.
const LINE_SIZE_BYTES_MAX: usize = 512;

impl Arrays {
    /// Calls `take` for each part that these bytes complete, until that fails.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(Part<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        while !bytes.is_empty() {
            match self.state {
                State::Text(length) if self.begun.is_empty() && bytes.len() >= length => {
                    take(Part::Text(text(&bytes[..length])?))?;
                    bytes = &bytes[length..];
                    self.handle_text_end(&mut take)?;
                }
                State::Text(length) => {
                    let taken = bytes.len().min(length - self.begun.len());
                    self.begun.extend_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    if self.begun.len() == length {
                        take(Part::Text(text(&self.begun)?))?;
                        self.begun.clear();
                        self.handle_text_end(&mut take)?;
                    }
                }
                State::Array | State::Length => {
                    let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
                    self.begun.extend_from_slice(&bytes[..end]);
                    bytes = &bytes[end..];
                    if self.begun.ends_with(b"\r\n") {
                        let line = std::mem::take(&mut self.begun);
                        self.handle_line(&line[..line.len() - 2], &mut take)?;
                    } else if self.begun.len() > LINE_SIZE_BYTES_MAX {
                        return Err("the server sends a line without end".into());
                    }
                }
            }
        }
        Ok(())
    }

    fn handle_line(
        &mut self,
        line: &[u8],
        take: &mut impl FnMut(Part<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let kind = if self.state == State::Array { b'*' } else { b'$' };
        let number = line.strip_prefix(&[kind]).and_then(|rest| str::from_utf8(rest).ok());
        let number = number.and_then(|digits| digits.parse::<u64>().ok());
        let Some(number) = number else {
            return Err(format!("the server answered \"{}\"", line.escape_ascii()));
        };
        if self.state == State::Length {
            let length = usize::try_from(number).ok().filter(|&l| l <= TEXT_SIZE_BYTES_MAX);
            self.state = State::Text(length.ok_or("the server sends a string beyond bounds")? + 2);
            return Ok(());
        }
        self.left = number;
        if number == 0 {
            return take(Part::End);
        }
        self.state = State::Length;
        Ok(())
    }

    fn handle_text_end(
        &mut self,
        take: &mut impl FnMut(Part<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        self.left -= 1;
        self.state = if self.left == 0 { State::Array } else { State::Length };
        if self.left == 0 { take(Part::End) } else { Ok(()) }
    }
}

fn text(bytes: &[u8]) -> Result<&[u8], String> {
    bytes.strip_suffix(b"\r\n").ok_or_else(|| "a string is longer than the server said".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8], step: usize) -> Result<Vec<String>, String> {
        let (mut arrays, mut seen) = (Arrays::default(), Vec::new());
        for piece in text.chunks(step) {
            arrays.feed(piece, |part| {
                seen.push(match part {
                    Part::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
                    Part::End => "END".into(),
                });
                Ok(())
            })?;
        }
        Ok(seen)
    }

    #[test]
    fn arrays_are_the_same_however_they_are_cut() {
        let text = b"*2\r\n$5\r\nhe\r\no\r\n$0\r\n\r\n*0\r\n*1\r\n$1\r\nx\r\n";
        for step in 1..=text.len() {
            let seen = read(text, step).unwrap();
            assert_eq!(seen, ["he\r\no", "", "END", "END", "x", "END"], "in pieces of {step}");
        }
    }

    #[test]
    fn what_is_no_array_of_strings_is_an_error() {
        for wrong in
            ["-ERR no\r\n", "*1\r\n:5\r\n", "*1\r\n$1\r\nxyz\r\n", "*-1\r\n", "*1\r\n$-1\r\n"]
        {
            assert!(read(wrong.as_bytes(), 3).is_err(), "{wrong:?}");
        }
        assert!(read(&[b'*'; 2000], 100).is_err());
    }
}
