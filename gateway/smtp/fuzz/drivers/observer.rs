//! Somebody between a client and its next hop, who knows RFC 5321 and reads both ways.

use std::collections::VecDeque;
use std::ops::Range;

use smtp::{Capabilities, Finished, REPLY_LINE_MAX, REPLY_LINES_MAX, RecipientResult, Results};

use super::client_session::{Mail, Options};
use super::rules;

/// Reads what a client sends and gets, and checks what it concludes.
///
/// Everything that a client says is a *unit*: a command, or content with its end of data; by LMTP
/// content is one for each recipient who was accepted. The greeting counts as the answer to a unit
/// of its own. Answers come in the order of units.
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
    /// The texts of its lines, in capitals.
    lines: Vec<String>,
    /// The lines of the reply to EHLO, in capitals.
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
    /// And that of the recipient, by LMTP.
    Content(usize, Option<usize>),
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
    mail_unit: usize,
    /// The units of the recipients to whom it can be sent, by their places, once they are sent.
    recipients: Vec<(usize, Option<usize>)>,
    data: Option<usize>,
    /// The units of the content, once it is sent.
    content: Option<Range<usize>>,
    /// The answer to content that was not sent to its end.
    refusal: Option<u16>,
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
            lines: Vec::new(),
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
        let words = str::from_utf8(text.get(4..).unwrap_or_default()).unwrap_or_default();
        self.lines.push(words.trim_start_matches(' ').to_ascii_uppercase());
        self.begun = Some((code, lines));
        if separator == b' ' {
            self.begun = None;
            self.receive_answer(code);
        }
    }

    fn receive_answer(&mut self, code: u16) {
        let unit = self.units.get(self.answers.len()).copied();
        let lines = std::mem::take(&mut self.lines);
        let class = code / 100;
        self.answers.push(code);
        self.end = match unit {
            Some(Unit::Quit) => Some(End::Answered),
            None if self.has_quit => Some(End::Answered),
            _ if code == 421 => Some(End::Answered),
            None if class >= 4 && self.is_sending_content() => {
                self.transactions.last_mut().expect("content is of one").refusal = Some(code);
                Some(End::Answered)
            }
            None => Some(End::Malformed),
            Some(Unit::Greeting) => (code != 220).then_some(End::Answered),
            Some(Unit::ExtendedHello) if class == 5 && !self.options.is_lmtp => None,
            Some(Unit::ExtendedHello) if class == 2 => {
                self.offers = lines;
                None
            }
            Some(Unit::ExtendedHello | Unit::Hello) => (class != 2).then_some(End::Answered),
            // By LMTP there is no way on then.
            Some(Unit::Data(number)) if code == 354 => {
                let is_lost = self.options.is_lmtp && self.accepted(number).next().is_none();
                is_lost.then_some(End::Malformed)
            }
            Some(Unit::Data(_)) => (class < 4).then_some(End::Malformed),
            Some(Unit::Reset) => (class != 2).then_some(End::Malformed),
            Some(Unit::Mail(_) | Unit::Recipient(..) | Unit::Content(..)) => {
                (class == 3).then_some(End::Malformed)
            }
        };
    }

    /// Whether 354 came and the end of data did not go.
    fn is_sending_content(&self) -> bool {
        let last = self.units.len() - 1;
        matches!(self.units[last], Unit::Data(_)) && self.answers.get(last) == Some(&354)
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
            "EHLO gw.example" | "LHLO gw.example" => {
                assert_eq!(self.units, [Unit::Greeting]);
                assert_eq!(line.starts_with('L'), self.options.is_lmtp);
                Unit::ExtendedHello
            }
            "HELO gw.example" => {
                assert!(!self.options.is_lmtp);
                assert_eq!(self.units, [Unit::Greeting, Unit::ExtendedHello]);
                assert_eq!(self.answers[1] / 100, 5);
                Unit::Hello
            }
            "DATA" => {
                let number = self.transactions.len() - 1;
                let transaction = &mut self.transactions[number];
                assert!(transaction.recipients.iter().all(|(_, unit)| unit.is_some()));
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
        let recipients: Vec<_> = (0..mail.recipients.len())
            .filter(|place| self.can_have(mail.recipients[*place].address))
            .map(|place| (place, None))
            .collect();
        assert!(!recipients.is_empty(), "mail for nobody is not sent");
        let needs_utf8 = (mail.utf8 && !mail.has_ascii_header())
            || recipients.iter().any(|(place, _)| !mail.recipients[*place].address.is_ascii());
        assert_eq!(parameters.split(' ').any(|it| it == "SMTPUTF8"), needs_utf8);
        for parameter in parameters.split(' ').skip(1) {
            let is_asked = match parameter {
                "BODY=8BITMIME" => !mail.content.is_ascii(),
                "SMTPUTF8" => needs_utf8,
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
            let is_answered =
                before.content.as_ref().is_none_or(|units| units.end <= self.answers.len());
            assert!(is_answered || self.options.pipelines_transactions);
        }
        let mail_unit = self.units.len();
        let (data, content, refusal) = (None, None, None);
        let transaction = Transaction { key, mail, mail_unit, recipients, data, content, refusal };
        self.transactions.push(transaction);
        Unit::Mail(self.transactions.len() - 1)
    }

    fn read_recipient(&mut self, line: &str) -> Unit {
        let number = self.transactions.len().checked_sub(1).expect("MAIL comes before RCPT");
        let unit = self.units.len();
        let transaction = &mut self.transactions[number];
        let next = transaction.recipients.iter_mut().find(|(_, unit)| unit.is_none());
        let (place, slot) = next.expect("each recipient is sent once");
        let (place, recipient) = (*place, transaction.mail.recipients[*place]);
        *slot = Some(unit);
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
        let places: Vec<_> = match self.options.is_lmtp {
            true => self.accepted(number).map(Some).collect(),
            false => vec![None],
        };
        self.transactions[number].content = Some(unit..unit + places.len());
        self.units.extend(places.into_iter().map(|place| Unit::Content(number, place)));
    }

    /// The recipients of a transaction that were accepted, by their places.
    fn accepted(&self, number: usize) -> impl Iterator<Item = usize> {
        let transaction = &self.transactions[number];
        let has_mail = self.class(transaction.mail_unit) == 2;
        let was_taken =
            move |unit: Option<usize>| has_mail && unit.is_some_and(|unit| self.class(unit) == 2);
        transaction.recipients.iter().filter(move |it| was_taken(it.1)).map(|(place, _)| *place)
    }

    /// Whether the server can be given an address.
    fn can_have(&self, address: &str) -> bool {
        address.is_ascii() || self.offers("SMTPUTF8").is_some()
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
        assert_eq!(capabilities.utf8, self.offers("SMTPUTF8").is_some());
        assert_eq!(capabilities.dsn, self.offers("DSN").is_some());
        assert_eq!(capabilities.mt_priority, self.offers("MT-PRIORITY").is_some());
    }

    /// The client says what became of a transaction.
    pub fn check_finished(&mut self, finished: &Finished) {
        let is_key = |transaction: &Transaction| transaction.key == finished.key;
        let Some(number) = self.transactions.iter().position(is_key) else {
            return self.check_unsent(finished);
        };
        let transaction = &self.transactions[number];
        let Results::Recipients(results) = &finished.results else {
            // MAIL was refused for the time being, or not answered.
            assert!(matches!(self.class(transaction.mail_unit), 0 | 3 | 4));
            return;
        };
        assert_eq!(results.len(), transaction.mail.recipients.len());
        assert_eq!(finished.dsn_passed_on, self.offers("DSN").is_some());
        for (place, result) in results.iter().enumerate() {
            self.check_result(number, place, result);
        }
        if results.contains(&RecipientResult::Delivered) {
            assert!(finished.reply.as_ref().is_some_and(smtp::Reply::is_positive));
        }
    }

    /// The client says what became of one recipient.
    fn check_result(&self, number: usize, place: usize, result: &RecipientResult) {
        let transaction = &self.transactions[number];
        let kind = match result {
            RecipientResult::Delivered => 2,
            RecipientResult::Transient(_) => 4,
            RecipientResult::Permanent(_) => 5,
            RecipientResult::Unknown => 0,
        };
        if !self.can_have(transaction.mail.recipients[place].address) {
            return assert_eq!(kind, 5, "what cannot be sent fails");
        }
        let was_taken = self.accepted(number).any(|it| it == place);
        if let (true, Some(content)) = (was_taken, &transaction.content) {
            // The answer to the end of data decides; without one nobody knows.
            let is_about = |unit: &usize| match self.units[*unit] {
                Unit::Content(_, about) => about.is_none_or(|it| it == place),
                _ => false,
            };
            let unit = content.clone().find(is_about).expect("it is in order of recipients");
            let expected = if self.class(unit) == 3 { 0 } else { self.class(unit) };
            return assert_eq!(kind, expected, "the answer to the end of data decides");
        }
        let units = transaction.mail_unit..=transaction.last_unit();
        let mut answers: Vec<u16> = units.map(|unit| self.class(unit)).collect();
        answers.extend(transaction.refusal.map(|code| code / 100));
        match kind {
            4 => assert!(self.end.is_some() || answers.iter().any(|class| *class >= 4)),
            5 => assert!(answers.contains(&5), "somebody must have said 5xx"),
            _ => panic!("{result:?} without content, or for nobody"),
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
            let mut words = line.split(' ').filter(|word| !word.is_empty());
            let is_size = words.next() == Some("SIZE");
            let size = words.next().and_then(|size| size.parse().ok()).unwrap_or(0);
            is_size && (1..mail.size()).contains(&size)
        });
        let is_eight_bit = !mail.content.is_ascii() && lacks("8BITMIME");
        let is_utf8 = mail.utf8 && !mail.has_ascii_header() && lacks("SMTPUTF8");
        let has_recipient = mail.recipients.iter().any(|it| self.can_have(it.address));
        assert!(is_large || is_eight_bit || is_utf8 || !has_recipient);
    }
}

impl Transaction {
    /// The last unit that was sent of it.
    fn last_unit(&self) -> usize {
        let recipient = self.recipients.iter().rev().find_map(|(_, unit)| *unit);
        let content = self.content.as_ref().map(|units| units.end - 1);
        content.or(self.data).or(recipient).unwrap_or(self.mail_unit)
    }
}
