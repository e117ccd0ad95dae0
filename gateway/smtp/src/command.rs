//! Command lines (RFC 5321 §4.1.1), parsed into what they mean or into the refusal they get.

use crate::esmtp::{MailParameters, RecipientParameters, UNKNOWN_PARAMETER};
use crate::path::{ForwardPath, HelloName, PathError, ReversePath};
use crate::reply::Refusal;

/// A command that a server may act on.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Command {
    Hello {
        name: HelloName,
        extended: bool,
    },
    Mail(MailParameters),
    Recipient(RecipientParameters),
    Data,
    /// BDAT (RFC 3030 §2).
    Chunk {
        size: u64,
        is_last: bool,
    },
    Reset,
    Noop,
    Quit,
    Verify,
    Help,
}

/// What the session allows at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Dialect {
    /// The client said EHLO, without which there are no parameters (RFC 5321 §4.1.1.11).
    pub(crate) extended: bool,
    /// The MAIL of this transaction said SMTPUTF8.
    pub(crate) utf8: bool,
}

impl Command {
    /// Parses a line without its CRLF. Behind a BDAT that is refused stands content whose length
    /// is not known, so that the next command cannot be found.
    pub(crate) fn parse(line: &[u8], dialect: Dialect) -> Result<Command, Refusal> {
        if line.contains(&0) {
            return Err(NUL_IN_COMMAND);
        }
        if line.contains(&b'\r') {
            return Err(BARE_NEWLINE);
        }
        let line = line.trim_ascii_end();
        let verb_len = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        let (verb, argument) = line.split_at(verb_len);
        let argument = argument.trim_ascii_start();
        let mut upper = [0; VERB_LEN_MAX];
        let Some(upper) = upper.get_mut(..verb.len()) else {
            return Err(UNKNOWN_COMMAND);
        };
        upper.copy_from_slice(verb);
        upper.make_ascii_uppercase();
        match &*upper {
            b"HELO" => hello(argument, false),
            b"EHLO" => hello(argument, true),
            b"MAIL" => mail(argument, dialect),
            b"RCPT" => recipient(argument, dialect),
            b"DATA" => alone(argument, Command::Data),
            b"BDAT" => chunk(argument),
            b"RSET" => alone(argument, Command::Reset),
            b"QUIT" => alone(argument, Command::Quit),
            b"NOOP" => Ok(Command::Noop),
            b"HELP" => Ok(Command::Help),
            b"VRFY" if argument.is_empty() => Err(ARGUMENT_MISSING),
            b"VRFY" => Ok(Command::Verify),
            b"EXPN" | b"TURN" | b"ETRN" | b"ATRN" | b"AUTH" | b"STARTTLS" | b"SEND" | b"SOML"
            | b"SAML" | b"BURL" | b"XCLIENT" | b"XFORWARD" | b"LHLO" => Err(NOT_IMPLEMENTED),
            _ => Err(UNKNOWN_COMMAND),
        }
    }
}

const VERB_LEN_MAX: usize = 8;

pub(crate) const NUL_IN_COMMAND: Refusal = Refusal::new(501, (5, 5, 2), "NUL in a command");
pub(crate) const BARE_NEWLINE: Refusal =
    Refusal::new(500, (5, 5, 2), "Lines must end with CR LF, and have no CR or LF inside");
pub(crate) const LINE_TOO_LONG: Refusal = Refusal::new(500, (5, 5, 2), "Line too long");
/// The session cannot go on after this: see [`Command::parse`].
pub(crate) const BAD_CHUNK: Refusal =
    Refusal::new(501, (5, 5, 4), "Syntax: BDAT chunk-size [LAST]");
const UNKNOWN_COMMAND: Refusal = Refusal::new(500, (5, 5, 2), "Command not recognised");
const NOT_IMPLEMENTED: Refusal = Refusal::new(502, (5, 5, 1), "Command not implemented");
const ARGUMENT_MISSING: Refusal = Refusal::new(501, (5, 5, 4), "An argument is missing");
const ARGUMENT_SURPLUS: Refusal = Refusal::new(501, (5, 5, 4), "No argument allowed");
const BAD_HELLO: Refusal = Refusal::new(501, (5, 5, 4), "Not a domain or address literal");
const BAD_SENDER: Refusal = Refusal::new(501, (5, 1, 7), "Syntax of the reverse-path");
const BAD_RECIPIENT: Refusal = Refusal::new(501, (5, 1, 3), "Syntax of the forward-path");
/// RFC 6531 §3.5: 550 where MAIL, and 553 where RCPT would have to be ASCII.
const SENDER_NOT_ASCII: Refusal =
    Refusal::new(550, (5, 6, 7), "A sender beyond ASCII needs SMTPUTF8");
const RECIPIENT_NOT_ASCII: Refusal =
    Refusal::new(553, (5, 6, 7), "A recipient beyond ASCII needs SMTPUTF8 at MAIL");

fn hello(argument: &[u8], extended: bool) -> Result<Command, Refusal> {
    if argument.is_empty() {
        return Err(ARGUMENT_MISSING);
    }
    let name = HelloName::parse(argument).map_err(|_| BAD_HELLO)?;
    Ok(Command::Hello { name, extended })
}

fn mail(argument: &[u8], dialect: Dialect) -> Result<Command, Refusal> {
    let path = strip_keyword(argument, b"FROM:").ok_or(BAD_SENDER)?;
    let (reverse_path, rest) = ReversePath::parse(path).map_err(|error| match error {
        PathError::NotUtf8 if !says_utf8(argument) => SENDER_NOT_ASCII,
        _ => BAD_SENDER,
    })?;
    let parameters = parameters(rest, dialect, BAD_SENDER)?;
    let mail = MailParameters::new(reverse_path).with_parameters(parameters)?;
    if !mail.utf8 && !mail.reverse_path.is_ascii() {
        return Err(SENDER_NOT_ASCII);
    }
    Ok(Command::Mail(mail))
}

fn recipient(argument: &[u8], dialect: Dialect) -> Result<Command, Refusal> {
    let path = strip_keyword(argument, b"TO:").ok_or(BAD_RECIPIENT)?;
    let (path, rest) = ForwardPath::parse(path).map_err(|error| match error {
        PathError::NotUtf8 if !dialect.utf8 => RECIPIENT_NOT_ASCII,
        _ => BAD_RECIPIENT,
    })?;
    if !dialect.utf8 && !path.is_ascii() {
        return Err(RECIPIENT_NOT_ASCII);
    }
    let parameters = parameters(rest, dialect, BAD_RECIPIENT)?;
    RecipientParameters::new(path).with_parameters(parameters, dialect.utf8).map(Command::Recipient)
}

/// `bdat-cmd` of RFC 3030 §2.
fn chunk(argument: &[u8]) -> Result<Command, Refusal> {
    let mut words = argument.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let digits = words.next().ok_or(BAD_CHUNK)?;
    let add = |size: u64, digit: &u8| match digit {
        b'0'..=b'9' => size.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    };
    let size = digits.iter().try_fold(0, add).ok_or(BAD_CHUNK)?;
    let is_last = match words.next() {
        None => false,
        Some(marker) if marker.eq_ignore_ascii_case(b"LAST") => true,
        Some(_) => return Err(BAD_CHUNK),
    };
    if words.next().is_some() {
        return Err(BAD_CHUNK);
    }
    Ok(Command::Chunk { size, is_last })
}

fn alone(argument: &[u8], command: Command) -> Result<Command, Refusal> {
    if argument.is_empty() { Ok(command) } else { Err(ARGUMENT_SURPLUS) }
}

/// What follows `FROM:` or `TO:`. Blanks before the path are against RFC 5321 §3.3 and common;
/// they do no harm.
fn strip_keyword<'a>(argument: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = argument.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| rest.trim_ascii_start())
}

/// The parameters behind a path; `syntax` is the refusal when no blank divides them from it.
fn parameters(
    rest: &[u8],
    dialect: Dialect,
    syntax: Refusal,
) -> Result<impl Iterator<Item = &[u8]>, Refusal> {
    match rest {
        [] | [b' ', ..] => {}
        _ => return Err(syntax),
    }
    let mut parameters = rest.split(|byte| *byte == b' ').filter(|it| !it.is_empty()).peekable();
    if !dialect.extended && parameters.peek().is_some() {
        return Err(UNKNOWN_PARAMETER);
    }
    Ok(parameters)
}

/// Whether MAIL says SMTPUTF8, where its path cannot be parsed.
fn says_utf8(argument: &[u8]) -> bool {
    argument.split(|byte| *byte == b' ').any(|word| word.eq_ignore_ascii_case(b"SMTPUTF8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENDED: Dialect = Dialect { extended: true, utf8: false };

    fn code(line: &str) -> u16 {
        match Command::parse(line.as_bytes(), EXTENDED) {
            Ok(_) => 0,
            Err(refusal) => refusal.code,
        }
    }

    #[test]
    fn mail_with_its_parameters() {
        let parsed = Command::parse(b"mail from:<a@b> size=123 BODY=8bitmime", EXTENDED);
        let Ok(Command::Mail(mail)) = parsed else { panic!("{parsed:?}") };
        assert_eq!(mail.reverse_path.as_str(), "a@b");
        assert_eq!((mail.size, mail.eight_bit), (Some(123), true));
    }

    #[test]
    fn each_mistake_gets_its_code() {
        let table = [
            ("", 500),
            ("HELO", 501),
            ("HELO a b", 501),
            ("EHLO mx.example", 0),
            ("MAIL FROM:<>", 0),
            ("MAIL FROM: <a@b>", 0),
            ("MAIL <a@b>", 501),
            ("MAIL FROM:a@b", 501),
            ("MAIL FROM:<a@b>SIZE=1", 501),
            ("MAIL FROM:<a@b> SIZE", 501),
            ("MAIL FROM:<a@b> SIZE=x", 501),
            ("MAIL FROM:<a@b> SIZE=1 SIZE=1", 501),
            ("MAIL FROM:<a@b> SIZE=99999999999999999999", 0),
            ("MAIL FROM:<a@b> SIZE=999999999999999999999", 501),
            ("MAIL FROM:<a@b> BODY=BINARYMIME", 555),
            ("MAIL FROM:<a@b> SMTPUTF8", 0),
            ("MAIL FROM:<ü@b> SMTPUTF8", 0),
            ("MAIL FROM:<ü@b>", 550),
            ("RCPT TO:<a@b>", 0),
            ("RCPT TO:<>", 501),
            ("RCPT TO:<a@b> NOTIFY=NEVER", 0),
            ("RCPT TO:<a@b> SMTPUTF8", 555),
            ("RCPT TO:<a@ü>", 553),
            ("DATA", 0),
            ("DATA x", 501),
            ("QUIT", 0),
            ("QUIT now", 501),
            ("RSET", 0),
            ("NOOP anything", 0),
            ("VRFY", 501),
            ("VRFY a", 0),
            ("HELP", 0),
            ("EXPN list", 502),
            ("BDAT 5", 0),
            ("bdat 005 last", 0),
            ("BDAT 18446744073709551615", 0),
            ("BDAT 18446744073709551616", 501),
            ("BDAT", 501),
            ("BDAT LAST", 501),
            ("BDAT -5", 501),
            ("BDAT 5x", 501),
            ("BDAT 5 FIRST", 501),
            ("BDAT 5 LAST x", 501),
            ("STARTTLS", 502),
            ("AUTH PLAIN x", 502),
            ("MAILX FROM:<a@b>", 500),
            ("VERYLONGVERB", 500),
            ("NOOP \0", 501),
            ("NOOP a\rb", 500),
        ];
        for (line, expected) in table {
            assert_eq!(code(line), expected, "{line:?}");
        }
    }

    #[test]
    fn without_ehlo_there_are_no_parameters() {
        let plain = Dialect { extended: false, utf8: false };
        for line in [&b"MAIL FROM:<a@b> SIZE=1"[..], b"RCPT TO:<a@b> NOTIFY=NEVER"] {
            assert_eq!(Command::parse(line, plain).unwrap_err().code, 555);
        }
        assert!(Command::parse(b"MAIL FROM:<a@b>", plain).is_ok());
    }

    #[test]
    fn addresses_beyond_ascii_need_smtputf8_in_their_transaction() {
        // RFC 6531 §3.5.
        let utf8 = Dialect { extended: true, utf8: true };
        let table: [(&[u8], Dialect, u16); 8] = [
            ("MAIL FROM:<ü@b> SMTPUTF8".as_bytes(), EXTENDED, 0),
            ("MAIL FROM:<ü@b>".as_bytes(), utf8, 550),
            (b"MAIL FROM:<\xfc@b>", EXTENDED, 550),
            (b"MAIL FROM:<\xfc@b> SMTPUTF8", EXTENDED, 501),
            ("RCPT TO:<ü@b>".as_bytes(), EXTENDED, 553),
            ("RCPT TO:<ü@b>".as_bytes(), utf8, 0),
            (b"RCPT TO:<\xfc@b>", EXTENDED, 553),
            (b"RCPT TO:<\xfc@b>", utf8, 501),
        ];
        for (line, dialect, code) in table {
            let refused = Command::parse(line, dialect).err();
            assert_eq!(refused.map_or(0, |refusal| refusal.code), code, "{line:?}");
        }
    }
}
