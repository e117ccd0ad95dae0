//! Paths and parameters of MAIL and RCPT, read strictly: what was not offered may not come.

use super::offer::Offer;

/// What the parameters of MAIL say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct MailParameters {
    /// SIZE (RFC 1870 §4).
    pub(super) size: Option<u64>,
    /// SMTPUTF8 (RFC 6531 §3.4).
    pub(super) utf8: bool,
}

/// What is wrong with a parameter, in a few words.
pub(super) type Fault = String;

/// Reads the parameters of MAIL.
pub(super) fn read_mail(text: &str, offer: &Offer) -> Result<MailParameters, Fault> {
    let mut parameters = MailParameters::default();
    each(text, |name, value| {
        let (offered, right) = match name {
            "SIZE" => {
                parameters.size =
                    value.filter(|text| is_number(text, 20)).and_then(|text| text.parse().ok());
                (offer.size, parameters.size.is_some())
            }
            "BODY" => {
                let eight = value.is_some_and(|value| value.eq_ignore_ascii_case("8BITMIME"));
                (
                    offer.eight_bit,
                    eight || value.is_some_and(|value| value.eq_ignore_ascii_case("7BIT")),
                )
            }
            "SMTPUTF8" => {
                parameters.utf8 = true;
                (offer.utf8, value.is_none())
            }
            "RET" => {
                let known =
                    |text: &str| ["FULL", "HDRS"].iter().any(|of| of.eq_ignore_ascii_case(text));
                (offer.dsn, value.is_some_and(known))
            }
            "ENVID" => (offer.dsn, value.is_some_and(|text| is_xtext(text, 100))),
            "MT-PRIORITY" => (offer.priority, value.is_some_and(is_priority)),
            _ => (false, true),
        };
        (offered, right)
    })?;
    Ok(parameters)
}

/// Reads the parameters of RCPT.
pub(super) fn read_rcpt(text: &str, offer: &Offer) -> Result<(), Fault> {
    each(text, |name, value| match name {
        "NOTIFY" => (offer.dsn, value.is_some_and(is_notify)),
        "ORCPT" => (offer.dsn, value.is_some_and(is_original_recipient)),
        _ => (false, true),
    })
}

/// Hands each parameter, its name in capitals, to `read`, which says whether it was offered and
/// whether its value is right. No name may come twice (RFC 5321 §4.1.1.11).
fn each(text: &str, mut read: impl FnMut(&str, Option<&str>) -> (bool, bool)) -> Result<(), Fault> {
    let mut seen: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
        let name = name.to_ascii_uppercase();
        let (offered, right) = read(&name, value);
        if !offered {
            return Err(format!("the parameter {word:?} belongs to nothing that was offered"));
        }
        if !right {
            return Err(format!("the parameter {word:?} has no such value"));
        }
        if seen.contains(&name) {
            return Err(format!("the parameter {name} comes twice"));
        }
        seen.push(name);
    }
    Ok(())
}

fn is_number(text: &str, digits_max: usize) -> bool {
    (1..=digits_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// From -9 to 9 (RFC 6710 §5).
fn is_priority(text: &str) -> bool {
    is_number(text.strip_prefix('-').unwrap_or(text), 1)
}

/// NEVER alone, or some of the others, each once (RFC 3461 §4.1).
fn is_notify(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    let words: Vec<&str> = text.split(',').collect();
    let is_distinct = |(at, word): (usize, &&str)| !words[..at].contains(word);
    text == "NEVER"
        || (words.iter().all(|word| ["SUCCESS", "FAILURE", "DELAY"].contains(word))
            && words.iter().enumerate().all(is_distinct))
}

/// An address type, and the address as xtext (RFC 3461 §4.2) or as UTF-8 (RFC 6533 §3).
fn is_original_recipient(text: &str) -> bool {
    let Some((kind, address)) = text.split_once(';') else { return false };
    let is_atom = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !kind.is_empty()
        && kind.bytes().all(is_atom)
        && text.len() <= 500
        && if kind.eq_ignore_ascii_case("utf-8") {
            !address.is_empty() && address.bytes().all(|byte| byte > b' ' && byte != 0x7f)
        } else {
            is_xtext(address, 500)
        }
}

/// RFC 3461 §4: printable characters without `+` and `=`, and `+` with two capital hexadecimal digits.
fn is_xtext(text: &str, size_max: usize) -> bool {
    let mut bytes = text.bytes();
    let hex = |byte: Option<u8>| byte.is_some_and(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    while let Some(byte) = bytes.next() {
        let right = match byte {
            b'+' => hex(bytes.next()) && hex(bytes.next()),
            b'!'..=b'~' => byte != b'=',
            _ => false,
        };
        if !right {
            return false;
        }
    }
    (1..=size_max).contains(&text.len())
}

/// The path behind `word` without its brackets, and the parameters behind it. Quoted local parts may
/// have any character between their quotes (RFC 5321 §4.1.2).
pub(super) fn read_path<'l>(rest: &'l [u8], word: &[u8]) -> Option<(&'l str, &'l str)> {
    let rest = std::str::from_utf8(rest).ok()?.trim_start();
    let (head, tail) = rest.split_at_checked(word.len())?;
    let tail = tail.trim_start().strip_prefix('<')?;
    if !head.as_bytes().eq_ignore_ascii_case(word) {
        return None;
    }
    let (mut quoted, mut escaped) = (false, false);
    for (at, letter) in tail.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => return Some((&tail[..at], &tail[at + 1..])),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Offer {
        let mut offer = Offer::default();
        for name in ["dsn", "smtputf8", "mt-priority"] {
            offer.with(name).unwrap();
        }
        offer
    }

    #[test]
    fn what_was_offered_is_taken() {
        let text = " SIZE=10 body=8bitmime SMTPUTF8 RET=HDRS ENVID=a+2Bb MT-PRIORITY=-3";
        let expected = MailParameters { size: Some(10), utf8: true };
        assert_eq!(read_mail(text, &all()), Ok(expected));
        for text in [
            "NOTIFY=NEVER ORCPT=rfc822;a+3Db@c",
            "NOTIFY=SUCCESS,FAILURE,DELAY",
            "orcpt=utf-8;\\x{98db}@x notify=failure",
            "",
        ] {
            assert_eq!(read_rcpt(text, &all()), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_was_not_offered_is_none() {
        for word in ["SIZE=1", "BODY=7BIT", "SMTPUTF8", "RET=FULL", "ENVID=a", "MT-PRIORITY=1", "X"]
        {
            assert!(read_mail(word, &Offer::NOTHING).is_err(), "{word}");
        }
        for word in ["NOTIFY=NEVER", "ORCPT=rfc822;a@b", "SIZE=1"] {
            assert!(read_rcpt(word, &Offer::NOTHING).is_err(), "{word}");
        }
    }

    #[test]
    fn wrong_values_are_none() {
        for word in [
            "SIZE",
            "SIZE=",
            "SIZE=x",
            "SIZE=123456789012345678901",
            "BODY=BINARYMIME",
            "BODY",
            "SMTPUTF8=1",
            "RET=NO",
            "ENVID=",
            "ENVID=a=b",
            "ENVID=+2b",
            "ENVID=+2",
            "MT-PRIORITY=10",
            "MT-PRIORITY=+1",
            "SIZE=1 SIZE=1",
            "ret=full RET=HDRS",
        ] {
            assert!(read_mail(word, &all()).is_err(), "{word}");
        }
        for word in [
            "NOTIFY=",
            "NOTIFY=NEVER,FAILURE",
            "NOTIFY=DELAY,DELAY",
            "NOTIFY=x",
            "ORCPT=a@b",
            "ORCPT=;a@b",
            "ORCPT=rfc822;",
            "ORCPT=rfc822;a b",
        ] {
            assert!(read_rcpt(word, &all()).is_err(), "{word}");
        }
    }

    #[test]
    fn paths_are_read_with_their_quotes() {
        let read = |text: &'static str| read_path(text.as_bytes(), b"TO:");
        assert_eq!(read(" to:<a@b> X=1"), Some(("a@b", " X=1")));
        assert_eq!(read("TO: <\"a>\\\" b\"@c>"), Some(("\"a>\\\" b\"@c", "")));
        assert_eq!(read("TO:<>"), Some(("", "")));
        for text in ["TO:a@b", "TO:<a@b", "FROM:<a@b>", "T", "TO:<\"a>"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
