//! One hostile client: says hello, then as little as it can.

use crate::smtp::reply::ReplyReader;

/// What a member of the crowd does once it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing.
    Idle,
    /// A command, a byte at a time.
    SlowCommand,
    /// A mail's content, a byte at a time.
    SlowData,
}

/// Why a server is rid of a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It said 421, with that text.
    Closing(String),
    /// It refused what a member needs to get in, with that code and text.
    Refused(String),
    /// It does not speak SMTP.
    NotSmtp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Greeting,
    Hello,
    Mail,
    Rcpt,
    Data,
    /// In, and doing what it came for.
    Held,
}

/// The client's end of one connection. Bytes go into [`Member::handle_bytes`]; what is to be sent
/// gathers in `out`.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) out: Vec<u8>,
    kind: Kind,
    stage: Stage,
    reader: ReplyReader,
    /// How many bytes went out slowly.
    slow_bytes: usize,
}

/// What slow commands are made of, again and again.
const SLOW_COMMAND: &[u8] =
    b"NOOP xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n";
/// What slow content is made of.
const SLOW_DATA: &[u8] = b"X-Slow: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n";

impl Member {
    pub(super) fn new(kind: Kind) -> Member {
        Member {
            out: Vec::new(),
            kind,
            stage: Stage::Greeting,
            reader: ReplyReader::default(),
            slow_bytes: 0,
        }
    }

    /// Whether it is in.
    pub(super) fn is_held(&self) -> bool {
        self.stage == Stage::Held
    }

    /// Takes what the server sent. `recipient` is for those that need one. `Some`: it is over.
    pub(super) fn handle_bytes(&mut self, mut bytes: &[u8], recipient: &str) -> Option<End> {
        while let Some(reply) = self.reader.next_reply(&mut bytes) {
            let Ok(reply) = reply else { return Some(End::NotSmtp) };
            let text = format!("{} {}", reply.code, reply.text.lines().next().unwrap_or_default());
            if reply.code == 421 {
                return Some(End::Closing(text));
            }
            let (next, command) = match self.stage {
                Stage::Greeting if reply.code == 220 => {
                    (Stage::Hello, "EHLO crowd.example\r\n".into())
                }
                Stage::Hello if reply.code == 250 && self.kind == Kind::SlowData => {
                    (Stage::Mail, "MAIL FROM:<crowd@crowd.example>\r\n".into())
                }
                Stage::Hello if reply.code == 250 => (Stage::Held, String::new()),
                Stage::Mail if reply.code == 250 => {
                    (Stage::Rcpt, format!("RCPT TO:<{recipient}>\r\n"))
                }
                Stage::Rcpt if reply.code == 250 => (Stage::Data, "DATA\r\n".into()),
                Stage::Data if reply.code == 354 => (Stage::Held, String::new()),
                // A slow command has come to its end, and was answered.
                Stage::Held => (Stage::Held, String::new()),
                _ => return Some(End::Refused(text)),
            };
            self.stage = next;
            self.out.extend_from_slice(command.as_bytes());
        }
        None
    }

    /// Lets a slow one say its next byte.
    pub(super) fn handle_interval(&mut self) {
        let text = match self.kind {
            Kind::Idle => return,
            Kind::SlowCommand => SLOW_COMMAND,
            Kind::SlowData => SLOW_DATA,
        };
        if self.is_held() && self.out.is_empty() {
            self.out.push(text[self.slow_bytes % text.len()]);
            self.slow_bytes += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(member: &mut Member, reply: &str) -> (String, Option<End>) {
        let end = member.handle_bytes(reply.as_bytes(), "a@b");
        (String::from_utf8(std::mem::take(&mut member.out)).unwrap(), end)
    }

    #[test]
    fn an_idle_one_says_hello_and_no_more() {
        let mut member = Member::new(Kind::Idle);
        assert_eq!(talk(&mut member, "220 hi\r\n").0, "EHLO crowd.example\r\n");
        assert_eq!(talk(&mut member, "250-a\r\n250 SIZE\r\n"), (String::new(), None));
        member.handle_interval();
        assert!(member.is_held() && member.out.is_empty());
    }

    #[test]
    fn slow_ones_say_a_byte_at_a_time() {
        let mut member = Member::new(Kind::SlowData);
        let greeted = ["220 hi\r\n", "250 ok\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"];
        let said: String = greeted.iter().map(|reply| talk(&mut member, reply).0).collect();
        assert!(said.ends_with("MAIL FROM:<crowd@crowd.example>\r\nRCPT TO:<a@b>\r\nDATA\r\n"));
        for expected in ["X", "-", "S"] {
            member.handle_interval();
            assert_eq!(talk(&mut member, "").0, expected);
        }
        let mut member = Member::new(Kind::SlowCommand);
        talk(&mut member, "220 hi\r\n250 ok\r\n");
        let mut command = String::new();
        while !command.ends_with('\n') {
            member.handle_interval();
            // The second is in vain while the first has not gone out.
            member.handle_interval();
            command += &talk(&mut member, "").0;
        }
        assert!(command.starts_with("NOOP xx") && command.ends_with("x\r\n"));
        assert_eq!(talk(&mut member, "250 ok\r\n").1, None);
    }

    #[test]
    fn it_tells_how_it_was_thrown_out() {
        let closing = End::Closing("421 4.4.2 too slow".into());
        let mut held = Member::new(Kind::Idle);
        talk(&mut held, "220 hi\r\n250 ok\r\n");
        assert_eq!(talk(&mut held, "421 4.4.2 too slow\r\n").1, Some(closing.clone()));
        assert_eq!(talk(&mut Member::new(Kind::Idle), "421 4.4.2 too slow\r\n").1, Some(closing));
        let refused = Some(End::Refused("554 no".into()));
        assert_eq!(talk(&mut Member::new(Kind::Idle), "554 no\r\n").1, refused);
        assert_eq!(talk(&mut Member::new(Kind::Idle), "hello\r\n").1, Some(End::NotSmtp));
    }
}
