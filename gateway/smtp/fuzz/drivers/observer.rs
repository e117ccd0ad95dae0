//! Somebody between a client and its next hop, who knows RFC 5321 and reads both ways.

use std::collections::VecDeque;

use smtp::{Capabilities, Finished, REPLY_LINE_MAX, REPLY_LINES_MAX, RecipientResult, Results};

use super::client_session::{Mail, Options};
use super::rules;

/// Reads what a client sends and gets, and checks what it concludes.
///
/// Everything that a client says is a *unit*: a command, or content with its end of data. The
/// greeting counts as the answer to a unit of its own. Answers come in the order of units.
#[derive(Debug)]
pub struct Observer {
    options: Options,
    /// Sent and not read: less than a whole unit.
    pending: Vec<u8>,
    units: Vec<Unit>,
    /// Codes of the answers that came.
    answers: Vec<u16>,
    /// A part of a reply line, and the reply that has begun: its code and lines.
    line: Vec<u8>,
    begun: Option<(u16, usize)>,
    /// The keywords of the reply to EHLO, in capitals.
    offers: Vec<String>,
    /// Submitted and not sent.
    mails: VecDeque<(u64, Mail)>,
    /// Sent in part or whole, in order.
    transactions: Vec<Transaction>,
    has_quit: bool,
    resets: usize,
    /// Why the session must be over.
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    Greeting,
    ExtendedHello,
    Hello,
    /// The number is that of the transaction.
    Mail(usize),
    /// And that of the recipient.
    Recipient(usize, usize),
    Data(usize),
    Content(usize),
    Reset,
    Quit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// What came is no answer to what was asked.
    Malformed,
    /// An answer ended it: to the greeting, hello, QUIT, or 421.
    Answered,
    Lost,
}

#[derive(Debug)]
struct Transaction {
    key: u64,
    mail: Mail,
    /// The recipients' and the content's units, once they are sent.
    recipients: Vec<usize>,
    mail_unit: usize,
    data: Option<usize>,
    content: Option<usize>,
}

impl Observer {
    /// At the start of a connection.
    pub fn new(options: Options) -> Observer {
        Observer {
            options,
            pending: Vec::new(),
            units: vec![Unit::Greeting],
            answers: Vec::new(),
            line: Vec::new(),
            begun: None,
            offers: Vec::new(),
            mails: VecDeque::new(),
            transactions: Vec::new(),
            has_quit: false,
            resets: 0,
            end: None,
        }
    }

    /// The client was given a mail.
    pub fn note_mail(&mut self, key: u64, mail: Mail) {
        self.mails.push_back((key, mail));
    }

    /// The client was told to quit.
    pub fn note_quit(&mut self) {
        self.has_quit = true;
    }

    /// The connection is over.
    pub fn note_loss(&mut self) {
        self.end.get_or_insert(End::Lost);
    }

    /// Whether what came from the next hop must have ended the session.
    pub fn must_be_over(&self) -> bool {
        self.end.is_some()
    }

    /// The next hop sends this.
    pub fn receive(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.end.is_some() {
                return;
            }
            self.line.push(*byte);
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.receive_line(&line);
            } else if self.line.len() > REPLY_LINE_MAX {
                self.end = Some(End::Malformed);
            }
        }
    }

    fn receive_line(&mut self, line: &[u8]) {
        let text = line.strip_suffix(b"\n").expect("a line's end");
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let code = match text {
            [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9', ..] if line.len() <= REPLY_LINE_MAX => {
                text[..3].iter().fold(0, |code, digit| 10 * code + u16::from(digit - b'0'))
            }
            _ => 0,
        };
        let separator = text.get(3).copied().unwrap_or(b' ');
        let lines = match self.begun {
            Some((begun, lines)) if begun == code => lines + 1,
            Some(_) => 0,
            None => 1,
        };
        let is_sound = code > 0 && b" -".contains(&separator);
        if !is_sound || !(1..=REPLY_LINES_MAX).contains(&lines) {
            self.end = Some(End::Malformed);
            return;
        }
        if self.units.get(self.answers.len()) == Some(&Unit::ExtendedHello) {
            let words =
                String::from_utf8_lossy(text.get(4..).unwrap_or_default()).to_ascii_uppercase();
            self.offers.push(words);
        }
        self.begun = Some((code, lines));
        if separator == b' ' {
            self.begun = None;
            self.receive_answer(code);
        }
    }

    fn receive_answer(&mut self, code: u16) {
        let unit = self.units.get(self.answers.len()).copied();
        let class = code / 100;
        self.answers.push(code);
        self.end = match unit {
            None => Some(End::Malformed),
            Some(Unit::Quit) => Some(End::Answered),
            Some(_) if code == 421 => Some(End::Answered),
            Some(Unit::Greeting) => (code != 220).then_some(End::Answered),
            Some(Unit::ExtendedHello) if class == 5 => {
                self.offers.clear();
                None
            }
            Some(Unit::ExtendedHello | Unit::Hello) => (class != 2).then_some(End::Answered),
            Some(Unit::Data(_)) if code == 354 => None,
            Some(Unit::Data(_)) => (class < 4).then_some(End::Malformed),
            Some(Unit::Reset) => (class != 2).then_some(End::Malformed),
            Some(Unit::Mail(_) | Unit::Recipient(..) | Unit::Content(_)) => {
                (class == 3).then_some(End::Malformed)
            }
        };
    }

    /// The client sends this.
    pub fn send(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        while !self.pending.is_empty() {
            let last = self.units.len() - 1;
            let is_content = match self.units[last] {
                Unit::Data(_) => {
                    assert!(self.answers.len() > last, "nothing follows DATA before its answer");
                    self.answers[last] == 354
                }
                Unit::Greeting | Unit::ExtendedHello | Unit::Hello | Unit::Quit => {
                    assert!(self.answers.len() > last, "nothing follows before the answer");
                    false
                }
                _ => false,
            };
            let offers_pipelining = self.offers("PIPELINING").is_some();
            assert!(offers_pipelining || self.answers.len() > last, "PIPELINING is not offered");
            let length = if is_content {
                rules::end_of_data(&self.pending)
            } else {
                self.pending.iter().position(|byte| *byte == b'\n').map(|at| at + 1)
            };
            let Some(length) = length else { return };
            let unit: Vec<u8> = self.pending.drain(..length).collect();
            if is_content { self.read_content(&unit) } else { self.read_command(&unit) }
        }
    }

    fn read_command(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r\n").expect("commands end with CRLF");
        let line = str::from_utf8(line).expect("commands are UTF-8");
        assert!(!line.contains(char::is_control), "commands have no control characters");
        let unit = match line {
            "EHLO gw.example" => {
                assert_eq!(self.units, [Unit::Greeting]);
                Unit::ExtendedHello
            }
            "HELO gw.example" => {
                assert_eq!(self.units, [Unit::Greeting, Unit::ExtendedHello]);
                assert_eq!(self.answers[1] / 100, 5);
                Unit::Hello
            }
            "DATA" => {
                let number = self.transactions.len() - 1;
                let transaction = &mut self.transactions[number];
                assert_eq!(transaction.recipients.len(), transaction.mail.recipients.len());
                assert_eq!(transaction.data.replace(self.units.len()), None);
                Unit::Data(number)
            }
            "RSET" => {
                self.resets += 1;
                assert!(self.resets <= self.transactions.len(), "a transaction is reset once");
                Unit::Reset
            }
            "QUIT" => {
                assert!(self.has_quit);
                Unit::Quit
            }
            _ if line.starts_with("MAIL FROM:") => self.read_mail(line),
            _ => self.read_recipient(line),
        };
        self.units.push(unit);
    }

    fn read_mail(&mut self, line: &str) -> Unit {
        let (key, mail) = self.mails.pop_front().expect("only what was submitted is sent");
        let path = format!("MAIL FROM:<{}>", mail.reverse_path);
        let parameters = line.strip_prefix(&path).expect("the path of the mail");
        let size = format!("SIZE={}", mail.size());
        for parameter in parameters.split(' ').skip(1) {
            let is_asked = match parameter {
                "BODY=8BITMIME" => !mail.content.is_ascii(),
                "SMTPUTF8" => mail.utf8,
                "RET=HDRS" | "ENVID=id+2B1" | "MT-PRIORITY=3" => mail.has_parameters,
                _ => parameter == size,
            };
            assert!(is_asked, "{parameter} is not of this mail");
            let keyword = match parameter.split('=').next().expect("not empty") {
                "BODY" => "8BITMIME",
                "RET" | "ENVID" => "DSN",
                keyword => keyword,
            };
            assert!(self.offers(keyword).is_some(), "{keyword} is not offered");
        }
        if let Some(before) = self.transactions.last() {
            let is_answered = before.content.is_none_or(|unit| unit < self.answers.len());
            assert!(is_answered || self.options.pipelines_transactions);
        }
        let mail_unit = self.units.len();
        let recipients = Vec::new();
        let (data, content) = (None, None);
        self.transactions.push(Transaction { key, mail, recipients, mail_unit, data, content });
        Unit::Mail(self.transactions.len() - 1)
    }

    fn read_recipient(&mut self, line: &str) -> Unit {
        let number = self.transactions.len().checked_sub(1).expect("MAIL comes before RCPT");
        let unit = self.units.len();
        let transaction = &mut self.transactions[number];
        let place = transaction.recipients.len();
        let recipient = transaction.mail.recipients[place];
        transaction.recipients.push(unit);
        let path = format!("RCPT TO:<{}>", recipient.address);
        let parameters = line.strip_prefix(&path).expect("the path of the recipient");
        for parameter in parameters.split(' ').skip(1) {
            let is_asked = match parameter {
                "NOTIFY=NEVER" => recipient.notify.is_some(),
                "ORCPT=rfc822;c@d" => recipient.original.is_some(),
                _ => false,
            };
            assert!(is_asked && self.offers("DSN").is_some(), "{parameter}");
        }
        Unit::Recipient(number, place)
    }

    fn read_content(&mut self, data: &[u8]) {
        let unit = self.units.len();
        let number = self.transactions.len() - 1;
        let (mail, sent) = (&self.transactions[number].mail, rules::unstuffed(data));
        if self.accepted(number).next().is_none() {
            assert_eq!(sent, b"", "content goes to nobody who has no recipient");
        } else {
            let is_whole = mail.content.is_empty() || mail.content.ends_with(b"\r\n");
            let end: &[u8] = if is_whole { b"" } else { b"\r\n" };
            assert_eq!(sent, [mail.content, end].concat());
        }
        self.transactions[number].content = Some(unit);
        self.units.push(Unit::Content(number));
    }

    /// The recipients of a transaction that were accepted, by their places.
    fn accepted(&self, number: usize) -> impl Iterator<Item = usize> {
        let transaction = &self.transactions[number];
        let has_mail = self.class(transaction.mail_unit) == 2;
        let recipients = transaction.recipients.iter().enumerate();
        recipients
            .filter(move |(_, unit)| has_mail && self.class(**unit) == 2)
            .map(|(place, _)| place)
    }

    /// The first digit of the answer to a unit; 0 if there is none.
    fn class(&self, unit: usize) -> u16 {
        self.answers.get(unit).map_or(0, |code| code / 100)
    }

    /// The line of the reply to EHLO that offers an extension.
    fn offers(&self, keyword: &str) -> Option<&str> {
        let mut lines = self.offers.iter();
        lines.find(|line| line.split(' ').next() == Some(keyword)).map(String::as_str)
    }

    /// The client says that it is ready.
    pub fn check_ready(&self, capabilities: Capabilities) {
        assert_eq!(self.class(self.units.len() - 1), 2, "hello was accepted");
        assert_eq!(capabilities.pipelining, self.offers("PIPELINING").is_some());
        assert_eq!(capabilities.eight_bit_mime, self.offers("8BITMIME").is_some());
        assert_eq!(capabilities.size.is_some(), self.offers("SIZE").is_some());
    }

    /// The client says what became of a transaction.
    pub fn check_finished(&mut self, finished: &Finished) {
        let is_key = |transaction: &Transaction| transaction.key == finished.key;
        let Some(number) = self.transactions.iter().position(is_key) else {
            return self.check_unsent(finished);
        };
        let transaction = &self.transactions[number];
        let units = transaction.mail_unit..=transaction.units_end();
        let answers: Vec<u16> =
            units.filter_map(|unit| self.answers.get(unit)).map(|code| code / 100).collect();
        let Results::Recipients(results) = &finished.results else {
            let judged = self.answers.get(transaction.mail_unit);
            assert!(
                judged.is_none_or(|code| matches!(code / 100, 3 | 4)),
                "what was judged was tried"
            );
            return;
        };
        assert_eq!(results.len(), transaction.mail.recipients.len());
        let accepted: Vec<usize> = self.accepted(number).collect();
        let end = transaction.content.map_or(0, |unit| self.class(unit));
        for (place, result) in results.iter().enumerate() {
            let was_taken = accepted.contains(&place);
            assert_eq!(
                *result == RecipientResult::Delivered,
                was_taken && end == 2,
                "delivered is what both answers say"
            );
            match result {
                RecipientResult::Delivered => {}
                RecipientResult::Permanent(_) => assert!(answers.contains(&5)),
                RecipientResult::Transient(_) => assert!(self.end.is_some() || !answers.is_empty()),
                RecipientResult::Unknown => {
                    assert!(transaction.content.is_some() && matches!(end, 0 | 3));
                }
            }
        }
    }

    /// A transaction of which nothing was sent: refused for what is not offered, or over.
    fn check_unsent(&mut self, finished: &Finished) {
        let place = self.mails.iter().position(|(key, _)| *key == finished.key);
        let (_, mail) = self.mails.remove(place.expect("a mail")).expect("it is there");
        let Results::Recipients(results) = &finished.results else {
            return assert!(self.must_be_over());
        };
        assert_eq!(results.len(), mail.recipients.len());
        for result in results {
            match result {
                RecipientResult::Permanent(_) => self.check_refused_in_advance(&mail),
                RecipientResult::Transient(_) => assert!(self.must_be_over()),
                RecipientResult::Delivered | RecipientResult::Unknown => {
                    panic!("nothing was sent")
                }
            }
        }
    }

    fn check_refused_in_advance(&self, mail: &Mail) {
        let lacks = |keyword| self.offers(keyword).is_none();
        let is_large = self.offers.iter().any(|line| {
            let size = line.strip_prefix("SIZE ").and_then(|size| size.split(' ').next());
            size.is_some_and(|size| size.parse().is_ok_and(|size| (1..mail.size()).contains(&size)))
        });
        let is_eight_bit = !mail.content.is_ascii() && lacks("8BITMIME");
        assert!(is_large || is_eight_bit || (mail.utf8 && lacks("SMTPUTF8")));
    }
}

impl Transaction {
    /// The last unit that was sent of it.
    fn units_end(&self) -> usize {
        let recipient = self.recipients.last().copied();
        self.content.or(self.data).or(recipient).unwrap_or(self.mail_unit)
    }
}
