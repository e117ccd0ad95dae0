//! Command lines (RFC 5321 §4.1.1), parsed into what they mean or into the refusal they get.

use crate::esmtp::{MailParameters, RecipientParameters};
use crate::path::{ForwardPath, HelloName, PathError, ReversePath};
use crate::reply::Refusal;

/// A command that a server may act on.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Command {
    Hello { name: HelloName, extended: bool },
    Mail(MailParameters),
    Recipient(RecipientParameters),
    Data,
    Reset,
    Noop,
    Quit,
    Verify,
    Help,
}

impl Command {
    /// Parses a line without its CRLF. `extended` says whether the client said EHLO, without which
    /// there are no parameters (RFC 5321 §4.1.1.11).
    pub(crate) fn parse(line: &[u8], extended: bool) -> Result<Command, Refusal> {
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
            b"MAIL" => mail(argument, extended),
            b"RCPT" => recipient(argument),
            b"DATA" => alone(argument, Command::Data),
            b"RSET" => alone(argument, Command::Reset),
            b"QUIT" => alone(argument, Command::Quit),
            b"NOOP" => Ok(Command::Noop),
            b"HELP" => Ok(Command::Help),
            b"VRFY" if argument.is_empty() => Err(ARGUMENT_MISSING),
            b"VRFY" => Ok(Command::Verify),
            b"EXPN" | b"TURN" | b"ETRN" | b"ATRN" | b"BDAT" | b"AUTH" | b"STARTTLS" | b"SEND"
            | b"SOML" | b"SAML" | b"BURL" | b"XCLIENT" | b"XFORWARD" | b"LHLO" => {
                Err(NOT_IMPLEMENTED)
            }
            _ => Err(UNKNOWN_COMMAND),
        }
    }
}

const VERB_LEN_MAX: usize = 8;

pub(crate) const NUL_IN_COMMAND: Refusal = Refusal::new(501, (5, 5, 2), "NUL in a command");
pub(crate) const BARE_NEWLINE: Refusal =
    Refusal::new(500, (5, 5, 2), "Lines must end with CR LF, and have no CR or LF inside");
pub(crate) const LINE_TOO_LONG: Refusal = Refusal::new(500, (5, 5, 2), "Line too long");
const UNKNOWN_COMMAND: Refusal = Refusal::new(500, (5, 5, 2), "Command not recognised");
const NOT_IMPLEMENTED: Refusal = Refusal::new(502, (5, 5, 1), "Command not implemented");
const ARGUMENT_MISSING: Refusal = Refusal::new(501, (5, 5, 4), "An argument is missing");
const ARGUMENT_SURPLUS: Refusal = Refusal::new(501, (5, 5, 4), "No argument allowed");
const BAD_HELLO: Refusal = Refusal::new(501, (5, 5, 4), "Not a domain or address literal");
const BAD_SENDER: Refusal = Refusal::new(501, (5, 1, 7), "Syntax of the reverse-path");
const BAD_RECIPIENT: Refusal = Refusal::new(501, (5, 1, 3), "Syntax of the forward-path");
const EIGHT_BIT_ADDRESS: Refusal =
    Refusal::new(553, (5, 6, 7), "Addresses beyond ASCII need SMTPUTF8, which is not offered");
const UNKNOWN_PARAMETER: Refusal = Refusal::new(555, (5, 5, 4), "Parameter not recognised");
const BAD_PARAMETER: Refusal = Refusal::new(501, (5, 5, 4), "Parameter malformed or repeated");

fn hello(argument: &[u8], extended: bool) -> Result<Command, Refusal> {
    if argument.is_empty() {
        return Err(ARGUMENT_MISSING);
    }
    let name = HelloName::parse(argument).map_err(|_| BAD_HELLO)?;
    Ok(Command::Hello { name, extended })
}

fn mail(argument: &[u8], extended: bool) -> Result<Command, Refusal> {
    let path = strip_keyword(argument, b"FROM:").ok_or(BAD_SENDER)?;
    let (reverse_path, rest) =
        ReversePath::parse(path).map_err(|error| path_refusal(error, BAD_SENDER))?;
    let mut mail = MailParameters {
        reverse_path,
        size: None,
        eight_bit: false,
        utf8: false,
        ret: None,
        envelope_id: None,
        priority: None,
    };
    let mut body_given = false;
    for parameter in parameters(rest, BAD_SENDER)? {
        let (keyword, value) = split_parameter(parameter);
        if !extended {
            return Err(UNKNOWN_PARAMETER);
        }
        if keyword.eq_ignore_ascii_case(b"SIZE") {
            if mail.size.is_some() {
                return Err(BAD_PARAMETER);
            }
            mail.size = Some(size(value)?);
        } else if keyword.eq_ignore_ascii_case(b"BODY") {
            if body_given {
                return Err(BAD_PARAMETER);
            }
            body_given = true;
            mail.eight_bit = body_is_eight_bit(value)?;
        } else {
            return Err(UNKNOWN_PARAMETER);
        }
    }
    Ok(Command::Mail(mail))
}

fn recipient(argument: &[u8]) -> Result<Command, Refusal> {
    let path = strip_keyword(argument, b"TO:").ok_or(BAD_RECIPIENT)?;
    let (path, rest) =
        ForwardPath::parse(path).map_err(|error| path_refusal(error, BAD_RECIPIENT))?;
    match parameters(rest, BAD_RECIPIENT)?.next() {
        None => Ok(Command::Recipient(RecipientParameters { path, notify: None, original: None })),
        Some(_) => Err(UNKNOWN_PARAMETER),
    }
}

fn alone(argument: &[u8], command: Command) -> Result<Command, Refusal> {
    if argument.is_empty() { Ok(command) } else { Err(ARGUMENT_SURPLUS) }
}

fn path_refusal(error: PathError, syntax: Refusal) -> Refusal {
    match error {
        PathError::EightBit => EIGHT_BIT_ADDRESS,
        PathError::Syntax | PathError::TooLong => syntax,
    }
}

/// What follows `FROM:` or `TO:`. Blanks before the path are against RFC 5321 §3.3 and common;
/// they do no harm.
fn strip_keyword<'a>(argument: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = argument.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| rest.trim_ascii_start())
}

/// The parameters behind a path; `syntax` is the refusal when no blank divides them from it.
fn parameters(rest: &[u8], syntax: Refusal) -> Result<impl Iterator<Item = &[u8]>, Refusal> {
    if !rest.is_empty() && rest[0] != b' ' {
        return Err(syntax);
    }
    Ok(rest.split(|byte| *byte == b' ').filter(|parameter| !parameter.is_empty()))
}

fn split_parameter(parameter: &[u8]) -> (&[u8], Option<&[u8]>) {
    match parameter.iter().position(|byte| *byte == b'=') {
        None => (parameter, None),
        Some(at) => (&parameter[..at], Some(&parameter[at + 1..])),
    }
}

/// `size-value` of RFC 1870 §3: one to twenty digits. What exceeds 64 bits exceeds every limit.
fn size(value: Option<&[u8]>) -> Result<u64, Refusal> {
    let digits = value.ok_or(BAD_PARAMETER)?;
    if !(1..=20).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(BAD_PARAMETER);
    }
    let add =
        |number: u64, digit: &u8| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Ok(digits.iter().fold(0, add))
}

/// `body-value` of RFC 6152 §3.
fn body_is_eight_bit(value: Option<&[u8]>) -> Result<bool, Refusal> {
    match value {
        Some(value) if value.eq_ignore_ascii_case(b"8BITMIME") => Ok(true),
        Some(value) if value.eq_ignore_ascii_case(b"7BIT") => Ok(false),
        _ => Err(BAD_PARAMETER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &str) -> u16 {
        match Command::parse(line.as_bytes(), true) {
            Ok(_) => 0,
            Err(refusal) => refusal.code,
        }
    }

    #[test]
    fn mail_with_its_parameters() {
        let parsed = Command::parse(b"mail from:<a@b> size=123 BODY=8bitmime", true);
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
            ("MAIL FROM:<a@b> BODY=BINARYMIME", 501),
            ("MAIL FROM:<a@b> SMTPUTF8", 555),
            ("MAIL FROM:<ü@b>", 553),
            ("RCPT TO:<a@b>", 0),
            ("RCPT TO:<>", 501),
            ("RCPT TO:<a@b> NOTIFY=NEVER", 555),
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
            ("BDAT 5 LAST", 502),
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
        let refusal = Command::parse(b"MAIL FROM:<a@b> SIZE=1", false).unwrap_err();
        assert_eq!(refusal.code, 555);
        assert!(Command::parse(b"MAIL FROM:<a@b>", false).is_ok());
    }
}
