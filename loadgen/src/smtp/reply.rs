//! Replies of an SMTP server, read from a byte stream (RFC 5321 §4.2).

/// One reply, all its lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Reply {
    /// Its code, 200 to 599.
    pub(crate) code: u16,
    /// The lines' texts behind the code, a line feed behind each.
    pub(crate) text: String,
}

/// The server does not speak SMTP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotSmtp;

/// Gathers bytes to replies.
#[derive(Debug, Default)]
pub(crate) struct ReplyReader {
    line: Vec<u8>,
    text: String,
}

/// Longest line and longest text of a reply; more is no SMTP (RFC 5321 §4.5.3.1.5 has 512 a line).
const REPLY_SIZE_BYTES_MAX: usize = 16 * 1024;

impl ReplyReader {
    /// Takes bytes up to the end of the next reply, if it is among them.
    pub(crate) fn next_reply(&mut self, bytes: &mut &[u8]) -> Option<Result<Reply, NotSmtp>> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (head, rest) = bytes.split_at(end + 1);
            self.line.extend_from_slice(head);
            *bytes = rest;
            let last = self.take_line();
            self.line.clear();
            match last {
                Ok(None) => {}
                Ok(Some(code)) => {
                    return Some(Ok(Reply { code, text: std::mem::take(&mut self.text) }));
                }
                Err(error) => return Some(Err(error)),
            }
        }
        self.line.extend_from_slice(bytes);
        *bytes = &[];
        if self.line.len() <= REPLY_SIZE_BYTES_MAX {
            return None;
        }
        self.line.clear();
        Some(Err(NotSmtp))
    }

    /// Reads the gathered line: the code if it is the reply's last.
    fn take_line(&mut self) -> Result<Option<u16>, NotSmtp> {
        let line = std::str::from_utf8(&self.line).map_err(|_| NotSmtp)?.trim_end();
        let (code, rest) = line.split_at_checked(3).ok_or(NotSmtp)?;
        let code = code.parse().ok().filter(|code| (200..600).contains(code)).ok_or(NotSmtp)?;
        let more = rest.starts_with('-');
        self.text.push_str(rest.get(1..).unwrap_or_default());
        self.text.push('\n');
        if self.text.len() > REPLY_SIZE_BYTES_MAX {
            return Err(NotSmtp);
        }
        Ok((!more).then_some(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(pieces: &[&[u8]]) -> Vec<Result<Reply, NotSmtp>> {
        let mut reader = ReplyReader::default();
        let mut replies = Vec::new();
        for mut piece in pieces.iter().copied() {
            while let Some(reply) = reader.next_reply(&mut piece) {
                replies.push(reply);
            }
        }
        replies
    }

    proptest! {
        #[test]
        fn replies_are_read_at_any_split(cut in 0_usize..50) {
            let wire = b"250-a.example\r\n250-SIZE 10\r\n250 PIPELINING\r\n354\r\n451 4.3.0 later\r\n";
            let cut = cut.min(wire.len());
            let replies = read(&[&wire[..cut], &wire[cut..]]);
            let codes: Vec<_> = replies.iter().map(|reply| reply.as_ref().unwrap().code).collect();
            prop_assert_eq!(codes, [250, 354, 451]);
            prop_assert_eq!(&replies[0].as_ref().unwrap().text, "a.example\nSIZE 10\nPIPELINING\n");
        }

        #[test]
        fn random_bytes_harm_nothing(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let _ = read(&[&bytes]);
        }
    }

    #[test]
    fn what_is_no_smtp_is_told() {
        for wire in [&b"HTTP/1.1 200 OK\r\n"[..], b"99 x\r\n", b"\r\n", &[b'2'; 20_000]] {
            assert_eq!(read(&[wire]).first(), Some(&Err(NotSmtp)));
        }
    }
}
