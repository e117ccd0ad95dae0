//! What extensions add to MAIL and RCPT, checked (RFC 5321 §4.1.1.11).

use alloc::boxed::Box;

use crate::path::{ForwardPath, ReversePath};
use crate::reply::Refusal;
use crate::xtext::{OriginalRecipient, decode_xtext};

/// What MAIL said.
#[derive(PartialEq, Eq, Debug)]
pub struct MailParameters {
    /// From whom.
    pub reverse_path: ReversePath,
    /// The size that the client declared, in octets (RFC 1870).
    pub size: Option<u64>,
    /// BODY=8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// SMTPUTF8 (RFC 6531): addresses and header fields may be UTF-8.
    pub utf8: bool,
    /// RET (RFC 3461 §4.3).
    pub ret: Option<Return>,
    /// ENVID (RFC 3461 §4.4) as it came, in `xtext`.
    pub envelope_id: Option<Box<str>>,
    /// MT-PRIORITY (RFC 6710), from -9 to 9.
    pub priority: Option<i8>,
}

/// What RCPT said.
#[derive(PartialEq, Eq, Debug)]
pub struct RecipientParameters {
    /// To whom.
    pub path: ForwardPath,
    /// NOTIFY (RFC 3461 §4.1).
    pub notify: Option<Notify>,
    /// ORCPT (RFC 3461 §4.2, RFC 6533 §3) as it came: an address type, a semicolon, and the
    /// address in `xtext`, `utf-8-addr-xtext` or `utf-8-addr-unitext`.
    pub original: Option<Box<str>>,
}

impl MailParameters {
    /// MAIL with nothing but its path.
    pub(crate) fn new(reverse_path: ReversePath) -> MailParameters {
        MailParameters {
            reverse_path,
            size: None,
            eight_bit: false,
            utf8: false,
            ret: None,
            envelope_id: None,
            priority: None,
        }
    }

    /// Adds what stands behind the path, each parameter at most once.
    pub(crate) fn with_parameters<'a>(
        mut self,
        parameters: impl Iterator<Item = &'a [u8]>,
    ) -> Result<MailParameters, Refusal> {
        let mut seen = Seen::default();
        for parameter in parameters {
            let (keyword, value) = split_parameter(parameter);
            let is = |name: &str| keyword.eq_ignore_ascii_case(name.as_bytes());
            if is("SIZE") {
                seen.note(0)?;
                self.size = Some(size(value)?);
            } else if is("BODY") {
                seen.note(1)?;
                self.eight_bit = body_is_eight_bit(value)?;
            } else if is("SMTPUTF8") {
                seen.note(2)?;
                self.utf8 = utf8(value)?;
            } else if is("RET") {
                seen.note(3)?;
                self.ret = Some(ret(value)?);
            } else if is("ENVID") {
                seen.note(4)?;
                self.envelope_id = Some(envelope_id(value)?);
            } else if is("MT-PRIORITY") {
                seen.note(5)?;
                self.priority = Some(priority(value)?);
            } else {
                return Err(UNKNOWN_PARAMETER);
            }
        }
        Ok(self)
    }
}

impl RecipientParameters {
    /// RCPT with nothing but its path.
    pub(crate) fn new(path: ForwardPath) -> RecipientParameters {
        RecipientParameters { path, notify: None, original: None }
    }

    /// Adds what stands behind the path, each parameter at most once. `utf8` says whether MAIL
    /// said SMTPUTF8.
    pub(crate) fn with_parameters<'a>(
        mut self,
        parameters: impl Iterator<Item = &'a [u8]>,
        utf8: bool,
    ) -> Result<RecipientParameters, Refusal> {
        let mut seen = Seen::default();
        for parameter in parameters {
            let (keyword, value) = split_parameter(parameter);
            if keyword.eq_ignore_ascii_case(b"NOTIFY") {
                seen.note(0)?;
                self.notify = Some(notify(value)?);
            } else if keyword.eq_ignore_ascii_case(b"ORCPT") {
                seen.note(1)?;
                self.original = Some(original(value, utf8)?);
            } else {
                return Err(UNKNOWN_PARAMETER);
            }
        }
        Ok(self)
    }
}

/// How much of a message a failure DSN returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Return {
    /// RET=FULL.
    Full,
    /// RET=HDRS.
    Headers,
}

/// When the sender wants to be told about a recipient. Nothing set is NOTIFY=NEVER.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Notify {
    /// Delivered, or relayed to where no DSN can be expected from.
    pub success: bool,
    /// Failed for good.
    pub failure: bool,
    /// Neither delivered nor failed after an unusual time.
    pub delay: bool,
}

impl Notify {
    /// NOTIFY=NEVER.
    pub const NEVER: Notify = Notify { success: false, failure: false, delay: false };

    /// Whether it is NOTIFY=NEVER.
    pub fn is_never(self) -> bool {
        self == Notify::NEVER
    }
}

/// Most octets of an ENVID (RFC 3461 §4.4); a longer one gets 501.
pub(crate) const ENVELOPE_ID_LEN_MAX: usize = 100;
/// Most octets of an ORCPT (RFC 3461 §4.2); a longer one gets 501.
pub(crate) const ORIGINAL_LEN_MAX: usize = 500;

/// RFC 5321 §4.1.1.11: 555 for what is not recognised or not implemented.
pub(crate) const UNKNOWN_PARAMETER: Refusal =
    Refusal::new(555, (5, 5, 4), "Parameter not recognised");
const BINARY: Refusal = Refusal::new(555, (5, 6, 1), "BINARYMIME is not offered");
const BAD_PARAMETER: Refusal = Refusal::new(501, (5, 5, 4), "Parameter malformed or repeated");

/// Which parameters of a command have come, by a number for each.
#[derive(Default)]
struct Seen(u8);

impl Seen {
    fn note(&mut self, number: u8) -> Result<(), Refusal> {
        let bit = 1 << number;
        if self.0 & bit != 0 {
            return Err(BAD_PARAMETER);
        }
        self.0 |= bit;
        Ok(())
    }
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

/// `body-value` of RFC 6152 §3. The third one, of RFC 3030 §3, needs an extension of its own.
fn body_is_eight_bit(value: Option<&[u8]>) -> Result<bool, Refusal> {
    match value {
        Some(value) if value.eq_ignore_ascii_case(b"8BITMIME") => Ok(true),
        Some(value) if value.eq_ignore_ascii_case(b"7BIT") => Ok(false),
        Some(value) if value.eq_ignore_ascii_case(b"BINARYMIME") => Err(BINARY),
        _ => Err(BAD_PARAMETER),
    }
}

/// RFC 6531 §3.4: it has no value.
fn utf8(value: Option<&[u8]>) -> Result<bool, Refusal> {
    if value.is_none() { Ok(true) } else { Err(BAD_PARAMETER) }
}

/// RFC 3461 §4.3.
fn ret(value: Option<&[u8]>) -> Result<Return, Refusal> {
    match value {
        Some(value) if value.eq_ignore_ascii_case(b"FULL") => Ok(Return::Full),
        Some(value) if value.eq_ignore_ascii_case(b"HDRS") => Ok(Return::Headers),
        _ => Err(BAD_PARAMETER),
    }
}

/// RFC 3461 §4.4: `xtext`, kept as it came.
fn envelope_id(value: Option<&[u8]>) -> Result<Box<str>, Refusal> {
    let text = text(value, ENVELOPE_ID_LEN_MAX)?;
    match decode_xtext(text) {
        Some(decoded) if !decoded.is_empty() => Ok(text.into()),
        _ => Err(BAD_PARAMETER),
    }
}

/// `priority-value` of RFC 6710: -9 to 9, without a plus, a negative zero or leading zeros.
fn priority(value: Option<&[u8]>) -> Result<i8, Refusal> {
    let (is_negative, digits) = match value.ok_or(BAD_PARAMETER)? {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [digit @ b'1'..=b'9'] if is_negative => Ok(-i8::try_from(digit - b'0').unwrap_or(0)),
        [digit @ b'0'..=b'9'] if !is_negative => Ok(i8::try_from(digit - b'0').unwrap_or(0)),
        _ => Err(BAD_PARAMETER),
    }
}

/// `notify-esmtp-value` of RFC 3461 §4.1: NEVER, or a list of the others.
fn notify(value: Option<&[u8]>) -> Result<Notify, Refusal> {
    let value = value.ok_or(BAD_PARAMETER)?;
    if value.eq_ignore_ascii_case(b"NEVER") {
        return Ok(Notify::NEVER);
    }
    let mut notify = Notify::default();
    for element in value.split(|byte| *byte == b',') {
        if element.eq_ignore_ascii_case(b"SUCCESS") {
            notify.success = true;
        } else if element.eq_ignore_ascii_case(b"FAILURE") {
            notify.failure = true;
        } else if element.eq_ignore_ascii_case(b"DELAY") {
            notify.delay = true;
        } else {
            return Err(BAD_PARAMETER);
        }
    }
    Ok(notify)
}

/// RFC 3461 §4.2, kept as it came. Beyond ASCII only in a transaction with SMTPUTF8 (RFC 6533 §3).
fn original(value: Option<&[u8]>, utf8: bool) -> Result<Box<str>, Refusal> {
    let text = text(value, ORIGINAL_LEN_MAX)?;
    let is_allowed = utf8 || text.is_ascii();
    match OriginalRecipient::decode(text) {
        Some(_) if is_allowed => Ok(text.into()),
        _ => Err(BAD_PARAMETER),
    }
}

fn text(value: Option<&[u8]>, len_max: usize) -> Result<&str, Refusal> {
    let value = value.filter(|value| value.len() <= len_max).ok_or(BAD_PARAMETER)?;
    core::str::from_utf8(value).map_err(|_| BAD_PARAMETER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;

    fn mail(parameters: &str) -> Result<MailParameters, u16> {
        let (path, _) = ReversePath::parse(b"<a@b>").unwrap();
        let parameters = parameters.as_bytes().split(|byte| *byte == b' ');
        MailParameters::new(path).with_parameters(parameters).map_err(|refusal| refusal.code)
    }

    fn recipient(parameters: &str, utf8: bool) -> Result<RecipientParameters, u16> {
        let (path, _) = ForwardPath::parse(b"<a@b>").unwrap();
        let parameters = parameters.as_bytes().split(|byte| *byte == b' ');
        let result = RecipientParameters::new(path).with_parameters(parameters, utf8);
        result.map_err(|refusal| refusal.code)
    }

    #[test]
    fn mail_takes_the_parameters_of_every_extension_offered() {
        let parsed = mail("size=7 Body=8BitMime SMTPutf8 ret=Hdrs envid=QQ+2B1 mt-priority=-4");
        let (reverse_path, _) = ReversePath::parse(b"<a@b>").unwrap();
        let expected = MailParameters {
            reverse_path,
            size: Some(7),
            eight_bit: true,
            utf8: true,
            ret: Some(Return::Headers),
            envelope_id: Some("QQ+2B1".into()),
            priority: Some(-4),
        };
        assert_eq!(parsed, Ok(expected));
    }

    #[test]
    fn what_is_wrong_in_a_mail_parameter_gets_its_code() {
        let envid = |len: usize| format!("ENVID={}", "e".repeat(len));
        let fits = envid(ENVELOPE_ID_LEN_MAX);
        let long = envid(ENVELOPE_ID_LEN_MAX + 1);
        let table = [
            ("BODY=BINARYMIME", 555),
            ("BODY=9BIT", 501),
            ("BODY", 501),
            ("BODY=7BIT BODY=7BIT", 501),
            ("SMTPUTF8=1", 501),
            ("SMTPUTF8=", 501),
            ("SMTPUTF8 SMTPUTF8", 501),
            ("RET=FULL", 0),
            ("RET", 501),
            ("RET=NONE", 501),
            ("RET=FULL RET=HDRS", 501),
            (&*fits, 0),
            (&*long, 501),
            ("ENVID=", 501),
            ("ENVID=a+0D+0A", 501),
            ("ENVID=a=b", 501),
            ("ENVID=\u{fc} SMTPUTF8", 501),
            ("MT-PRIORITY=9", 0),
            ("MT-PRIORITY=-9", 0),
            ("MT-PRIORITY=0", 0),
            ("MT-PRIORITY=-0", 501),
            ("MT-PRIORITY=+1", 501),
            ("MT-PRIORITY=01", 501),
            ("MT-PRIORITY=10", 501),
            ("MT-PRIORITY=-10", 501),
            ("MT-PRIORITY=", 501),
            ("MT-PRIORITY", 501),
            ("NOTIFY=NEVER", 555),
            ("AUTH=<>", 555),
            ("=", 555),
        ];
        for (parameters, code) in table {
            assert_eq!(mail(parameters).err().unwrap_or(0), code, "{parameters}");
        }
    }

    #[test]
    fn notify_is_never_or_a_list() {
        let notify = |value: &str| recipient(&format!("NOTIFY={value}"), false).map(|it| it.notify);
        assert_eq!(notify("never"), Ok(Some(Notify::NEVER)));
        let expected = Notify { success: true, failure: false, delay: true };
        assert_eq!(notify("DELAY,success,SUCCESS"), Ok(Some(expected)));
        let all = Notify { success: true, failure: true, delay: true };
        assert_eq!(notify("SUCCESS,FAILURE,DELAY"), Ok(Some(all)));
        for wrong in ["", "NEVER,DELAY", "DELAY,NEVER", "DELAY,", ",DELAY", "DELAY,,FAILURE", "x"] {
            assert_eq!(notify(wrong), Err(501), "{wrong}");
        }
        assert_eq!(recipient("NOTIFY", false), Err(501));
        assert_eq!(recipient("NOTIFY=NEVER NOTIFY=NEVER", false), Err(501));
    }

    #[test]
    fn the_original_recipient_is_checked_and_kept_as_it_came() {
        let long: String = format!("rfc822;{}", "a".repeat(ORIGINAL_LEN_MAX - 7));
        let table = [
            ("rfc822;a+2Bb@c", false, true),
            ("RFC822;a@c", false, true),
            ("x400;/c=de", false, false),
            ("x400;/c+3Dde", false, true),
            ("utf-8;\\x{FC}@c", false, true),
            ("rfc822;+C3+BC@c", false, true),
            ("utf-8;ü@c", true, true),
            ("utf-8;ü@c", false, false),
            ("rfc822;ü@c", true, false),
            ("rfc822;a+0A", false, false),
            ("a@c", false, false),
            ("rfc822;", false, false),
            (";a@c", false, false),
            ("", false, false),
            (&*long, false, true),
        ];
        for (value, utf8, is_valid) in table {
            let expected = if is_valid { Ok(Some(value.into())) } else { Err(501) };
            let parsed = recipient(&format!("ORCPT={value}"), utf8).map(|it| it.original);
            assert_eq!(parsed, expected, "{value} {utf8}");
        }
        assert_eq!(recipient(&format!("ORCPT={long}a"), false), Err(501));
        assert_eq!(recipient("ORCPT=a;b ORCPT=a;b", false), Err(501));
        assert_eq!(recipient("SIZE=1", false), Err(555));
    }
}
