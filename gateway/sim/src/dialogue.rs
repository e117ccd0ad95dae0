//! An SMTP connection as its bytes show it: when an end of data goes to a server, for whom, and when the
//! answer to it is known. What either program thinks of that is not asked.

use std::collections::VecDeque;
use std::rc::Rc;

/// What was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// An end of data from the client, for the recipients that were accepted.
    EndOfData(Rc<[String]>),
    /// The answer to one.
    Answered(Rc<[String]>, u16),
}

/// One connection. The bytes of each direction come in any pieces, and those of both in the order of time.
/// What is kept is a line, and what was asked and not answered yet, which the programs bound.
#[derive(Debug)]
pub struct Dialogue {
    command: Vec<u8>,
    reply: Vec<u8>,
    content: Content,
    /// What the next replies answer.
    asked: VecDeque<Asked>,
    /// Those of the present transaction that were accepted.
    recipients: Vec<String>,
}

/// Where the client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content {
    /// Between messages.
    Commands,
    /// Behind DATA, until it is answered.
    Asked,
    /// In the content, of whose end so many bytes have come.
    Bytes(usize),
}

#[derive(Debug)]
enum Asked {
    Greeting,
    Mail,
    Recipient(String),
    Data,
    EndOfData(Rc<[String]>),
    Other,
}

/// What ends the content, with the end of the line before.
const END_OF_DATA: &[u8] = b"\r\n.\r\n";

impl Default for Dialogue {
    fn default() -> Dialogue {
        Dialogue {
            command: Vec::new(),
            reply: Vec::new(),
            content: Content::Commands,
            asked: VecDeque::from([Asked::Greeting]),
            recipients: Vec::new(),
        }
    }
}

impl Dialogue {
    /// Bytes of the client.
    pub fn take_commands(&mut self, bytes: &[u8], seen: &mut Vec<Seen>) {
        for byte in bytes {
            match self.content {
                Content::Bytes(matched) => self.take_content(*byte, matched, seen),
                Content::Commands | Content::Asked => {
                    self.command.push(*byte);
                    if self.command.ends_with(b"\r\n") {
                        let line = std::mem::take(&mut self.command);
                        self.take_command(String::from_utf8_lossy(&line).trim_end());
                    }
                }
            }
        }
    }

    /// Bytes of the server.
    pub fn take_replies(&mut self, bytes: &[u8], seen: &mut Vec<Seen>) {
        for byte in bytes {
            self.reply.push(*byte);
            if self.reply.ends_with(b"\r\n") {
                let line = std::mem::take(&mut self.reply);
                let code = std::str::from_utf8(&line[..line.len().min(3)]).unwrap_or_default();
                if let (Ok(code), Some(b' ')) = (code.parse(), line.get(3)) {
                    self.take_reply(code, seen);
                }
            }
        }
    }

    fn take_content(&mut self, byte: u8, matched: usize, seen: &mut Vec<Seen>) {
        let matched = match byte {
            _ if byte == END_OF_DATA[matched] => matched + 1,
            b'\r' => 1,
            _ => 0,
        };
        self.content = Content::Bytes(matched);
        if matched == END_OF_DATA.len() {
            self.content = Content::Commands;
            let recipients = Rc::from(self.recipients.clone());
            self.asked.push_back(Asked::EndOfData(Rc::clone(&recipients)));
            seen.push(Seen::EndOfData(recipients));
        }
    }

    fn take_command(&mut self, line: &str) {
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let asked = match &verb[..] {
            "MAIL" => Asked::Mail,
            "RCPT" => {
                let path = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
                Asked::Recipient(path.map(|(path, _)| path.to_owned()).unwrap_or_default())
            }
            "DATA" => {
                self.content = Content::Asked;
                Asked::Data
            }
            _ => Asked::Other,
        };
        self.asked.push_back(asked);
    }

    fn take_reply(&mut self, code: u16, seen: &mut Vec<Seen>) {
        match self.asked.pop_front() {
            Some(Asked::Mail) => self.recipients.clear(),
            Some(Asked::Recipient(path)) if code / 100 == 2 => self.recipients.push(path),
            // The line before the content ends with it.
            Some(Asked::Data) if code == 354 => self.content = Content::Bytes(2),
            Some(Asked::Data) => self.content = Content::Commands,
            Some(Asked::EndOfData(recipients)) => seen.push(Seen::Answered(recipients, code)),
            // Without a question it is a good-bye.
            Some(Asked::Greeting | Asked::Recipient(_) | Asked::Other) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends' words, in order: commands behind `C`, replies behind `S`.
    fn see(script: &[(char, &str)], piece: usize) -> Vec<Seen> {
        let (mut dialogue, mut seen) = (Dialogue::default(), Vec::new());
        for (who, words) in script {
            for bytes in words.as_bytes().chunks(piece) {
                match who {
                    'C' => dialogue.take_commands(bytes, &mut seen),
                    _ => dialogue.take_replies(bytes, &mut seen),
                }
            }
        }
        seen
    }

    fn to(paths: &[&str]) -> Rc<[String]> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn an_end_of_data_is_for_those_that_were_accepted_and_its_answer_follows() {
        let script = [
            ('S', "220 hello\r\n"),
            ('C', "EHLO a\r\n"),
            ('S', "250-b\r\n250 PIPELINING\r\n"),
            ('C', "MAIL FROM:<x@y>\r\nRCPT TO:<a@d0>\r\nRCPT TO:<b@d0> NOTIFY=NEVER\r\nDATA\r\n"),
            ('S', "250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n"),
            ('C', "DATA\r\n..\r\n\r\n.\r\nMAIL FROM:<x@y>\r\nrcpt to:<c@d1>\r\ndata\r\n"),
            ('S', "250 2.0.0 Ok: queued as 1\r\n"),
            ('S', "250 ok\r\n250 ok\r\n354 go\r\n"),
            ('C', ".\r\n"),
            ('S', "451 later\r\n421 bye\r\n"),
        ];
        for piece in [1, 3, 1000] {
            assert_eq!(
                see(&script, piece),
                [
                    Seen::EndOfData(to(&["a@d0"])),
                    Seen::Answered(to(&["a@d0"]), 250),
                    Seen::EndOfData(to(&["c@d1"])),
                    Seen::Answered(to(&["c@d1"]), 451),
                ]
            );
        }
    }

    #[test]
    fn a_refused_data_is_no_content() {
        let script = [
            ('S', "220 hello\r\n"),
            ('C', "MAIL FROM:<x@y>\r\nRCPT TO:<a@d0>\r\nDATA\r\n"),
            ('S', "250 ok\r\n451 no\r\n503 no\r\n"),
            ('C', "QUIT\r\n.\r\n"),
        ];
        assert_eq!(see(&script, 2), []);
    }
}
