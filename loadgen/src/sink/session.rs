//! One session of the sink: the least of RFC 5321 that a relay needs, as a state machine.

use crate::data::DataDecoder;

/// What a session asks about the mail that it takes in.
pub(super) trait Judge {
    /// The answer to a recipient of a mail with that reverse-path.
    fn judge_recipient(&mut self, reverse_path: &str, address: &str) -> Reply;
    /// The answer to a mail.
    fn judge_mail(&mut self, envelope: &Envelope, content: &[u8]) -> Reply;
}

/// How the sink answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reply {
    /// 250.
    Accept,
    /// 451.
    Transient,
    /// 554 or 550.
    Permanent,
    /// 421, and the connection ends.
    Closing,
    /// Nothing, ever.
    Hang,
    /// Nothing, and the connection ends.
    Close,
}

/// From and to.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    /// The reverse-path without brackets.
    pub(super) reverse_path: String,
    /// The accepted forward-paths without brackets.
    pub(super) recipients: Vec<Box<str>>,
}

/// The server's end of one connection. Bytes go into [`Session::handle_bytes`]; replies gather in
/// `out`.
#[derive(Debug)]
pub(super) struct Session {
    /// Replies to be sent.
    pub(super) out: Vec<u8>,
    /// How many bytes of them have been.
    pub(super) sent: usize,
    mode: Mode,
    /// The beginning of a command whose end has not come.
    line: Vec<u8>,
    in_transaction: bool,
    envelope: Envelope,
    decoder: DataDecoder,
    content: Vec<u8>,
    overflow: bool,
    size_bytes_max: usize,
    /// Commands that were not understood or came in a wrong place.
    pub(super) bad_commands: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Commands,
    Data,
    /// Takes everything and answers nothing.
    Hung,
    /// Ends when what is in `out` has been sent.
    Ending,
}

/// Longest command that is taken; a longer one ends the connection (RFC 5321 §4.5.3.1.4 asks for
/// 512, and extensions for more).
const LINE_SIZE_BYTES_MAX: usize = 4096;

/// A buffer larger than this is given back when its mail is done.
const CONTENT_KEPT_SIZE_BYTES_MAX: usize = 1 << 20;

impl Session {
    /// A session that greets. Mail above `size_bytes_max` is refused with 552.
    pub(super) fn new(size_bytes_max: usize) -> Session {
        Session {
            out: b"220 sink.example ESMTP\r\n".to_vec(),
            sent: 0,
            mode: Mode::Commands,
            line: Vec::new(),
            in_transaction: false,
            envelope: Envelope::default(),
            decoder: DataDecoder::default(),
            content: Vec::new(),
            overflow: false,
            size_bytes_max,
            bad_commands: 0,
        }
    }

    /// Whether the connection is to be closed once `out` has been sent.
    pub(super) fn is_ending(&self) -> bool {
        self.mode == Mode::Ending
    }

    /// Takes bytes from the peer, all of them.
    pub(super) fn handle_bytes(&mut self, mut bytes: &[u8], judge: &mut impl Judge) {
        while !bytes.is_empty() {
            let taken = match self.mode {
                Mode::Commands => self.handle_command_bytes(bytes, judge),
                Mode::Data => self.handle_data_bytes(bytes, judge),
                Mode::Hung | Mode::Ending => return,
            };
            bytes = &bytes[taken..];
        }
    }

    fn handle_command_bytes(&mut self, bytes: &[u8], judge: &mut impl Judge) -> usize {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.line.extend_from_slice(bytes);
            if self.line.len() > LINE_SIZE_BYTES_MAX {
                self.reply("500 5.5.6 line too long\r\n");
                self.mode = Mode::Ending;
            }
            return bytes.len();
        };
        if self.line.is_empty() {
            self.handle_line(&bytes[..end], judge);
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(&bytes[..end]);
            self.handle_line(&line, judge);
            line.clear();
            self.line = line;
        }
        end + 1
    }

    fn handle_line(&mut self, line: &[u8], judge: &mut impl Judge) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (verb, rest) = line.split_at_checked(4).unwrap_or((line, b""));
        if verb.eq_ignore_ascii_case(b"MAIL") {
            self.handle_mail(rest);
        } else if verb.eq_ignore_ascii_case(b"RCPT") {
            self.handle_rcpt(rest, judge);
        } else if verb.eq_ignore_ascii_case(b"DATA") {
            self.handle_data();
        } else if verb.eq_ignore_ascii_case(b"EHLO") {
            self.reset();
            let size = self.size_bytes_max;
            self.reply("250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n");
            self.reply(&format!("250-ENHANCEDSTATUSCODES\r\n250 SIZE {size}\r\n"));
        } else if verb.eq_ignore_ascii_case(b"HELO") {
            self.reset();
            self.reply("250 sink.example\r\n");
        } else if verb.eq_ignore_ascii_case(b"RSET") {
            self.reset();
            self.reply("250 2.0.0 ok\r\n");
        } else if verb.eq_ignore_ascii_case(b"NOOP") {
            self.reply("250 2.0.0 ok\r\n");
        } else if verb.eq_ignore_ascii_case(b"QUIT") {
            self.reply("221 2.0.0 bye\r\n");
            self.mode = Mode::Ending;
        } else {
            self.refuse("500 5.5.1 what?\r\n");
        }
    }

    fn handle_mail(&mut self, rest: &[u8]) {
        let Some((path, parameters)) = read_path(rest, b"FROM:") else {
            return self.refuse("501 5.5.4 that is no reverse-path\r\n");
        };
        if self.in_transaction {
            return self.refuse("503 5.5.1 a transaction is open\r\n");
        }
        let mut sizes = parameters.split(' ').filter_map(|word| word.strip_prefix("SIZE="));
        if sizes.any(|size| size.parse().is_ok_and(|size: usize| size > self.size_bytes_max)) {
            return self.reply("552 5.3.4 too large\r\n");
        }
        path.clone_into(&mut self.envelope.reverse_path);
        self.in_transaction = true;
        self.reply("250 2.1.0 ok\r\n");
    }

    fn handle_rcpt(&mut self, rest: &[u8], judge: &mut impl Judge) {
        let Some((path, _)) = read_path(rest, b"TO:").filter(|(path, _)| !path.is_empty()) else {
            return self.refuse("501 5.5.4 that is no forward-path\r\n");
        };
        if !self.in_transaction {
            return self.refuse("503 5.5.1 MAIL first\r\n");
        }
        let reply = judge.judge_recipient(&self.envelope.reverse_path, path);
        if reply == Reply::Accept {
            self.envelope.recipients.push(path.into());
        }
        self.answer(reply, "250 2.1.5 ok\r\n", "451 4.2.0 not now\r\n", "550 5.1.1 nobody\r\n");
    }

    fn handle_data(&mut self) {
        if self.envelope.recipients.is_empty() {
            return self.refuse("503 5.5.1 RCPT first\r\n");
        }
        self.mode = Mode::Data;
        self.reply("354 go on\r\n");
    }

    fn handle_data_bytes(&mut self, bytes: &[u8], judge: &mut impl Judge) -> usize {
        let (taken, ended) = self.decoder.decode(bytes, &mut self.content);
        if self.content.len() > self.size_bytes_max {
            self.overflow = true;
            self.content.clear();
        }
        if ended {
            self.mode = Mode::Commands;
            if self.overflow {
                self.reply("552 5.3.4 too large\r\n");
            } else {
                let reply = judge.judge_mail(&self.envelope, &self.content);
                let (transient, permanent) = ("451 4.3.0 not now\r\n", "554 5.6.0 never\r\n");
                self.answer(reply, "250 2.0.0 ok\r\n", transient, permanent);
            }
            self.reset();
        }
        taken
    }

    fn answer(&mut self, reply: Reply, accept: &str, transient: &str, permanent: &str) {
        match reply {
            Reply::Accept => self.reply(accept),
            Reply::Transient => self.reply(transient),
            Reply::Permanent => self.reply(permanent),
            Reply::Closing => {
                self.reply("421 4.3.2 going away\r\n");
                self.mode = Mode::Ending;
            }
            Reply::Hang => self.mode = Mode::Hung,
            Reply::Close => self.mode = Mode::Ending,
        }
    }

    fn refuse(&mut self, text: &str) {
        self.bad_commands += 1;
        self.reply(text);
    }

    fn reply(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn reset(&mut self) {
        self.in_transaction = false;
        self.envelope.recipients.clear();
        self.overflow = false;
        self.content.clear();
        self.content.shrink_to(CONTENT_KEPT_SIZE_BYTES_MAX);
    }
}

/// The path behind `word` without its brackets, and the parameters behind it.
fn read_path<'l>(rest: &'l [u8], word: &[u8]) -> Option<(&'l str, &'l str)> {
    let rest = std::str::from_utf8(rest).ok()?.trim_start();
    let (head, tail) = rest.split_at_checked(word.len())?;
    let tail = tail.trim_start().strip_prefix('<')?;
    head.as_bytes().eq_ignore_ascii_case(word).then(|| tail.split_once('>'))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Answers the replies in its lists, last first, then accepts.
    #[derive(Default)]
    struct Scripted {
        recipients: Vec<Reply>,
        mails: Vec<Reply>,
        seen: Vec<(Vec<Box<str>>, Vec<u8>)>,
    }

    impl Judge for Scripted {
        fn judge_recipient(&mut self, _reverse_path: &str, _address: &str) -> Reply {
            self.recipients.pop().unwrap_or(Reply::Accept)
        }
        fn judge_mail(&mut self, envelope: &Envelope, content: &[u8]) -> Reply {
            self.seen.push((envelope.recipients.clone(), content.to_vec()));
            self.mails.pop().unwrap_or(Reply::Accept)
        }
    }

    fn codes(session: &Session) -> String {
        let text = String::from_utf8(session.out.clone()).unwrap();
        let last_lines = text.lines().filter(|line| line.as_bytes()[3] == b' ');
        last_lines.map(|line| &line[..3]).collect::<Vec<_>>().join(" ")
    }

    const DIALOGUE: &[u8] = b"EHLO me\r\nMAIL FROM:<a@b> SIZE=9 BODY=8BITMIME\r\nRCPT TO:<c@d>\r\n\
        rcpt to:<e@f>\r\nDATA\r\n..x\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<g@h>\r\nDATA\r\n.\r\nQUIT\r\n";

    proptest! {
        #[test]
        fn a_dialogue_is_understood_at_any_split(cuts in prop::collection::vec(0_usize..20, 0..99)) {
            let mut judge = Scripted::default();
            let mut session = Session::new(1000);
            let (mut rest, mut cut) = (DIALOGUE, cuts.iter());
            while !rest.is_empty() {
                let size = (1 + cut.next().copied().unwrap_or(0)).min(rest.len());
                session.handle_bytes(&rest[..size], &mut judge);
                rest = &rest[size..];
            }
            prop_assert!(session.is_ending());
            prop_assert_eq!(codes(&session), "220 250 250 250 250 354 250 250 250 354 250 221");
            prop_assert_eq!(&judge.seen[0], &(vec!["c@d".into(), "e@f".into()], b".x\r\n".to_vec()));
            prop_assert_eq!(&judge.seen[1], &(vec!["g@h".into()], Vec::new()));
        }

        #[test]
        fn random_bytes_harm_nothing(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            Session::new(100).handle_bytes(&bytes, &mut Scripted::default());
        }
    }

    #[test]
    fn faults_are_answered_as_asked() {
        let mut judge = Scripted {
            recipients: vec![Reply::Accept, Reply::Permanent, Reply::Transient],
            mails: vec![Reply::Close, Reply::Transient],
            ..Scripted::default()
        };
        let mut session = Session::new(1000);
        session.handle_bytes(
            b"HELO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@a>\r\nRCPT TO:<b@b>\r\nDATA\r\nRCPT TO:<c@c>\r\n\
              DATA\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@c>\r\nDATA\r\n.\r\nNOOP\r\n",
            &mut judge,
        );
        assert_eq!(codes(&session), "220 250 250 451 550 503 250 354 451 250 250 354");
        assert!(session.is_ending());
        assert_eq!(session.bad_commands, 1);
    }

    #[test]
    fn too_much_is_refused() {
        let mut judge = Scripted::default();
        let mut session = Session::new(10);
        session.handle_bytes(
            b"HELO me\r\nMAIL FROM:<> SIZE=11\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n\
              0123456789\r\n\r\n.\r\n",
            &mut judge,
        );
        session.handle_bytes(&[b'x'; LINE_SIZE_BYTES_MAX + 1], &mut judge);
        assert_eq!(codes(&session), "220 250 552 250 250 354 552 500");
        assert!(session.is_ending() && judge.seen.is_empty());
    }
}
