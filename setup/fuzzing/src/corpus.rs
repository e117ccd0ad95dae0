//! Inputs as text: one file for each target instead of hundreds, and changes that can be read.

/// The inputs that are kept of one target, in ascending order, each once.
///
/// As text each is a line: printable ASCII stands for itself, a backslash for two, `\r` and `\n` for
/// CR and LF, and `\xNN` for any other byte.
#[derive(PartialEq, Eq, Debug)]
pub struct Corpus {
    inputs: Vec<Vec<u8>>,
}

impl Corpus {
    /// A corpus of these inputs.
    pub fn new(mut inputs: Vec<Vec<u8>>) -> Corpus {
        inputs.sort();
        inputs.dedup();
        Corpus { inputs }
    }

    /// Reads the text.
    ///
    /// # Errors
    /// The number of the first line that has something else, counted from 1.
    pub fn parse(text: &str) -> Result<Corpus, usize> {
        let parse = |(place, line): (usize, &str)| input(line.as_bytes()).ok_or(place + 1);
        Ok(Corpus { inputs: text.lines().enumerate().map(parse).collect::<Result<_, _>>()? })
    }

    /// The text.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for input in &self.inputs {
            for &byte in input {
                match byte {
                    b'\\' => text.push_str("\\\\"),
                    b'\r' => text.push_str("\\r"),
                    b'\n' => text.push_str("\\n"),
                    b' '..=b'~' => text.push(char::from(byte)),
                    _ => text.push_str(&format!("\\x{byte:02x}")),
                }
            }
            text.push('\n');
        }
        text
    }

    /// The inputs.
    pub fn inputs(&self) -> &[Vec<u8>] {
        &self.inputs
    }
}

/// What a line stands for.
fn input(line: &[u8]) -> Option<Vec<u8>> {
    let mut input = Vec::with_capacity(line.len());
    let mut rest = line;
    while let [first, tail @ ..] = rest {
        let (byte, tail) = match (first, tail) {
            (b'\\', [b'\\', tail @ ..]) => (b'\\', tail),
            (b'\\', [b'r', tail @ ..]) => (b'\r', tail),
            (b'\\', [b'n', tail @ ..]) => (b'\n', tail),
            (b'\\', [b'x', high, low, tail @ ..]) => {
                let digits = [*high, *low];
                (u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?, tail)
            }
            (b'\\', _) => return None,
            (b' '..=b'~', _) => (*first, tail),
            _ => return None,
        };
        input.push(byte);
        rest = tail;
    }
    Some(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let all: Vec<u8> = (0..=255).collect();
        let corpus = Corpus::new(vec![all, b"EHLO c\r\n".to_vec(), Vec::new(), b"\\x".to_vec()]);
        assert_eq!(Corpus::parse(&corpus.to_text()), Ok(corpus));
    }

    #[test]
    fn an_input_is_a_line_that_can_be_read() {
        let twice = vec![b"b\x80".to_vec(), b"NOOP\r\n".to_vec(), b"b\x80".to_vec()];
        assert_eq!(Corpus::new(twice).to_text(), "NOOP\\r\\n\nb\\x80\n");
    }

    #[test]
    fn other_text_is_refused_with_its_line() {
        for bad in ["\\", "\\q", "\\x4", "\\xgg", "\u{e9}", "\t"] {
            assert_eq!(Corpus::parse(&format!("ok\n{bad}\n")), Err(2), "{bad:?}");
        }
    }
}
