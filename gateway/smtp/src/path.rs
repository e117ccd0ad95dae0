//! Addresses and names as commands carry them (RFC 5321 §4.1.2 and §4.1.3, RFC 6531 §3.3).
//!
//! Addresses may be UTF-8 here; whether the transaction allows that is for the caller to check.

use alloc::boxed::Box;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

use crate::xtext::is_harmless;

/// A checked reverse-path: a mailbox, or empty for the null reverse-path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReversePath(Box<str>);

impl ReversePath {
    /// Parses a path in angle brackets from the start of `input`; returns it and what follows.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn parse(input: &[u8]) -> Result<(ReversePath, &[u8]), PathError> {
        let (inner, rest) = split_brackets(input)?;
        if inner.is_empty() {
            return Ok((ReversePath(Box::default()), rest));
        }
        let mailbox = strip_source_route(inner)?;
        check_mailbox(mailbox)?;
        Ok((ReversePath(mailbox.into()), rest))
    }

    /// The mailbox without brackets; empty is the null reverse-path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it needs no SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }

    /// The mailbox without brackets; empty is the null reverse-path.
    pub fn into_boxed_str(self) -> Box<str> {
        self.0
    }
}

/// A checked forward-path: a mailbox, or `Postmaster` without a domain (RFC 5321 §4.5.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardPath {
    mailbox: Box<str>,
    /// Where the domain begins: at most the length of `mailbox`. None for a bare postmaster.
    domain_start: Option<usize>,
}

impl ForwardPath {
    /// Parses a path in angle brackets from the start of `input`; returns it and what follows.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn parse(input: &[u8]) -> Result<(ForwardPath, &[u8]), PathError> {
        let (inner, rest) = split_brackets(input)?;
        if inner.eq_ignore_ascii_case("postmaster") {
            return Ok((ForwardPath { mailbox: inner.into(), domain_start: None }, rest));
        }
        let mailbox = strip_source_route(inner)?;
        let domain_start = check_mailbox(mailbox)?;
        let domain_start = Some(domain_start);
        Ok((ForwardPath { mailbox: mailbox.into(), domain_start }, rest))
    }

    /// The mailbox without brackets.
    pub fn as_str(&self) -> &str {
        &self.mailbox
    }

    /// Whether it needs no SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.mailbox.is_ascii()
    }

    /// The domain or address literal as the client wrote it; none for a bare postmaster.
    pub fn domain(&self) -> Option<&str> {
        self.domain_start.map(|start| &self.mailbox[start..])
    }

    /// The mailbox without brackets.
    pub fn into_boxed_str(self) -> Box<str> {
        self.mailbox
    }
}

/// The name that a client gave with HELO or EHLO.
///
/// RFC 5321 §4.1.1.1 wants a domain or an address literal, and real clients send host names with
/// underscores too. Whatever is let in here is safe in a trace header and in a log line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HelloName(Box<str>);

impl HelloName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`PathError`] when it is empty, longer than 255 octets, or has characters other than
    /// letters, digits and `.-_:[]`.
    pub fn parse(input: &[u8]) -> Result<HelloName, PathError> {
        if input.is_empty() {
            return Err(PathError::Syntax);
        }
        if input.len() > DOMAIN_LEN_MAX {
            return Err(PathError::TooLong);
        }
        // RFC 6531 §3.7.1: ASCII whatever the server offers.
        let text = utf8(input)?;
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if !text.bytes().all(is_allowed) {
            return Err(PathError::Syntax);
        }
        Ok(HelloName(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why something is not an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathError {
    /// Not in the grammar of RFC 5321 §4.1.2.
    Syntax,
    /// Octets above 127 that are not UTF-8.
    NotUtf8,
    /// A path above 256 octets with its brackets, or a domain above 255 (RFC 5321 §4.5.3.1).
    TooLong,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PathError::Syntax => "not an address by RFC 5321",
            PathError::NotUtf8 => "neither ASCII nor UTF-8",
            PathError::TooLong => "too long",
        })
    }
}

impl core::error::Error for PathError {}

/// RFC 5321 §4.5.3.1.3: a path, with its brackets, in octets whatever they stand for. The local part has no bound of its own here:
/// long ones are in use (variable envelope return paths), and the section asks for no limits
/// where they can be avoided.
const PATH_LEN_MAX: usize = 256;
/// RFC 5321 §4.5.3.1.2.
const DOMAIN_LEN_MAX: usize = 255;

/// What is between the brackets, and what follows them. A bracket in a quoted local part does not
/// end the path.
fn split_brackets(input: &[u8]) -> Result<(&str, &[u8]), PathError> {
    let Some(inner) = input.strip_prefix(b"<") else {
        return Err(PathError::Syntax);
    };
    let end = closing_bracket(inner).ok_or(PathError::Syntax)?;
    let text = utf8(&inner[..end])?;
    if end + 2 > PATH_LEN_MAX {
        return Err(PathError::TooLong);
    }
    Ok((text, &inner[end + 1..]))
}

fn closing_bracket(inner: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut at = 0;
    while at < inner.len() {
        match inner[at] {
            b'>' if !quoted => return Some(at),
            b'"' => quoted = !quoted,
            b'\\' if quoted => at += 1,
            _ => {}
        }
        at += 1;
    }
    None
}

/// Source routes are checked and ignored (RFC 5321 §4.1.1.3 and appendix C): only the mailbox at
/// the end counts, for routing too, so they give nobody a relay.
fn strip_source_route(inner: &str) -> Result<&str, PathError> {
    if !inner.starts_with('@') {
        return Ok(inner);
    }
    let (route, mailbox) = inner.split_once(':').ok_or(PathError::Syntax)?;
    for hop in route.split(',') {
        check_domain(hop.strip_prefix('@').ok_or(PathError::Syntax)?)?;
    }
    Ok(mailbox)
}

/// Checks `local-part "@" ( Domain / address-literal )` and says where the domain begins.
fn check_mailbox(mailbox: &str) -> Result<usize, PathError> {
    if !mailbox.is_ascii() && !mailbox.chars().all(is_harmless) {
        return Err(PathError::Syntax);
    }
    let local_len = match mailbox.as_bytes().first() {
        Some(b'"') => quoted_len(mailbox.as_bytes())?,
        _ => mailbox.find('@').ok_or(PathError::Syntax)?,
    };
    if !mailbox.starts_with('"') {
        check_dot_string(&mailbox[..local_len])?;
    }
    let domain = mailbox[local_len..].strip_prefix('@').ok_or(PathError::Syntax)?;
    match domain.strip_prefix('[') {
        Some(literal) => check_literal(literal)?,
        None => check_domain(domain)?,
    }
    Ok(local_len + 1)
}

/// Octets of a quoted string with both quotes (`Quoted-string` of RFC 5321 §4.1.2; RFC 6531 §3.3
/// adds UTF-8 to `qtextSMTP`, and not to what a backslash may quote).
fn quoted_len(text: &[u8]) -> Result<usize, PathError> {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'"' => return Ok(at + 1),
            b'\\' if text.get(at + 1).is_some_and(|&next| is_printable(next)) => at += 2,
            byte if (is_printable(byte) && byte != b'\\') || !byte.is_ascii() => at += 1,
            _ => return Err(PathError::Syntax),
        }
    }
    Err(PathError::Syntax)
}

/// `Dot-string` of RFC 5321 §4.1.2; RFC 6531 §3.3 adds UTF-8 to `atext`.
fn check_dot_string(text: &str) -> Result<(), PathError> {
    let is_atext = |byte: u8| {
        byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte) || !byte.is_ascii()
    };
    let is_atom = |atom: &str| !atom.is_empty() && atom.bytes().all(is_atext);
    if text.split('.').all(is_atom) { Ok(()) } else { Err(PathError::Syntax) }
}

/// `Domain` of RFC 5321 §4.1.2, with the U-labels of RFC 6531 §3.3 as far as that needs no tables:
/// what else IDNA forbids in them is found by whoever looks the domain up.
fn check_domain(domain: &str) -> Result<(), PathError> {
    let is_label_char = |char: char| match char {
        // IDNA takes these for dots: to us and to another host the domain would be a different one.
        '\u{3002}' | '\u{ff0e}' | '\u{ff61}' => false,
        _ if char.is_ascii() => char.is_ascii_alphanumeric() || char == '-',
        _ => !char.is_whitespace() && is_harmless(char),
    };
    let is_label = |label: &str| {
        let ends_well = !label.starts_with('-') && !label.ends_with('-');
        !label.is_empty() && ends_well && label.chars().all(is_label_char)
    };
    if domain.len() > DOMAIN_LEN_MAX {
        return Err(PathError::TooLong);
    }
    if domain.split('.').all(is_label) { Ok(()) } else { Err(PathError::Syntax) }
}

/// `address-literal` of RFC 5321 §4.1.3, its opening bracket removed.
fn check_literal(literal: &str) -> Result<(), PathError> {
    let inner = literal.strip_suffix(']').ok_or(PathError::Syntax)?;
    let is_dcontent = |byte: u8| is_printable(byte) && !b" []\\".contains(&byte);
    let is_valid = match inner.split_once(':') {
        None => inner.parse::<Ipv4Addr>().is_ok(),
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6") => {
            address.parse::<Ipv6Addr>().is_ok()
        }
        Some((tag, content)) => {
            check_domain(tag).is_ok()
                && tag.is_ascii()
                && !tag.contains('.')
                && !content.is_empty()
                && content.bytes().all(is_dcontent)
        }
    };
    if is_valid { Ok(()) } else { Err(PathError::Syntax) }
}

fn is_printable(byte: u8) -> bool {
    (32..127).contains(&byte)
}

fn utf8(input: &[u8]) -> Result<&str, PathError> {
    core::str::from_utf8(input).map_err(|_| PathError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;

    fn forward(text: &str) -> Result<(String, Option<String>), PathError> {
        let (path, rest) = ForwardPath::parse(text.as_bytes())?;
        assert!(rest.is_empty(), "{rest:?}");
        Ok((path.as_str().into(), path.domain().map(Into::into)))
    }

    #[test]
    fn mailboxes_of_rfc_5321_section_4_1_2_are_taken() {
        let table = [
            ("<a@b>", "a@b", "b"),
            ("<user.name+tag@mail.example>", "user.name+tag@mail.example", "mail.example"),
            ("<\"a b\\\"@>\"@x.example>", "\"a b\\\"@>\"@x.example", "x.example"),
            ("<\"\"@x.example>", "\"\"@x.example", "x.example"),
            ("<u@[192.0.2.1]>", "u@[192.0.2.1]", "[192.0.2.1]"),
            ("<u@[IPv6:2001:db8::1]>", "u@[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
            ("<u@[x-tag:anything]>", "u@[x-tag:anything]", "[x-tag:anything]"),
            ("<@a.example,@b.example:u@c.example>", "u@c.example", "c.example"),
            ("<u@1.2-3.x>", "u@1.2-3.x", "1.2-3.x"),
        ];
        for (input, mailbox, domain) in table {
            assert_eq!(forward(input), Ok((mailbox.into(), Some(domain.into()))), "{input}");
        }
    }

    #[test]
    fn postmaster_needs_no_domain() {
        assert_eq!(forward("<PostMaster>"), Ok(("PostMaster".into(), None)));
        assert_eq!(forward("<someone>"), Err(PathError::Syntax));
    }

    #[test]
    fn the_null_path_is_a_reverse_path_only() {
        let (path, rest) = ReversePath::parse(b"<> SIZE=1").unwrap();
        assert_eq!((path.as_str(), rest), ("", &b" SIZE=1"[..]));
        assert_eq!(forward("<>"), Err(PathError::Syntax));
    }

    #[test]
    fn what_is_outside_the_grammar_is_refused() {
        let table = [
            "a@b",
            "<a@b",
            "<@b>",
            "<a@>",
            "<a b@c>",
            "<.a@b>",
            "<a.@b>",
            "<a..b@c>",
            "<a@-b>",
            "<a@b->",
            "<a@b..c>",
            "<a@b.>",
            "<a@b_c>",
            "<\"a@b>",
            "<\"a\\\u{1}\"@b>",
            "<a@[1.2.3]>",
            "<a@[IPv6:zz]>",
            "<a@[1.2.3.4>",
            "<@a:>",
            "<@a,b:c@d>",
            "<a@b@c>",
            "<<a@b>",
            "",
        ];
        for input in table {
            assert_eq!(forward(input), Err(PathError::Syntax), "{input}");
        }
    }

    #[test]
    fn addresses_may_be_utf_8() {
        // RFC 6531 §3.3: atext, qtextSMTP and sub-domain are extended.
        let table = [
            ("<jürgen@bücher.example>", "bücher.example"),
            ("<\"ü \\\"@>\"@b.example>", "b.example"),
            ("<用户@例子.测试>", "例子.测试"),
            ("<अजय@डाटा.भारत>", "डाटा.भारत"),
            ("<@ü.example:a@b>", "b"),
        ];
        for (input, domain) in table {
            let (path, _) = ForwardPath::parse(input.as_bytes()).unwrap();
            assert_eq!(path.domain(), Some(domain), "{input}");
        }
        assert!(!ForwardPath::parse("<ü@b>".as_bytes()).unwrap().0.is_ascii());
        assert!(ReversePath::parse(b"<>").unwrap().0.is_ascii());
    }

    #[test]
    fn what_misleads_a_reader_or_a_resolver_is_refused() {
        let table = [
            "<a\u{85}@b>",
            "<a\u{2028}@b>",
            "<a\u{202e}@b>",
            "<\"a\u{9b}\"@b>",
            "<\"a\\ü\"@b>",
            "<a@b\u{3002}c>",
            "<a@b\u{ff0e}c>",
            "<a@b\u{a0}c>",
            "<a@b..ü>",
            "<a@-ü>",
            "<a@[ü:x]>",
            "<a@[x:ü]>",
        ];
        for input in table {
            assert_eq!(forward(input), Err(PathError::Syntax), "{input:?}");
        }
    }

    #[test]
    fn octets_above_127_that_are_not_utf_8_are_named() {
        for input in [&b"<\xff@b>"[..], b"<a@b\xe4>", b"<\"\xc3\"@b>", b"<\xed\xa0\x80@b>"] {
            assert_eq!(ForwardPath::parse(input).map(|_| ()), Err(PathError::NotUtf8));
        }
    }

    #[test]
    fn a_path_has_at_most_256_octets() {
        let fits = format!("<{}@b>", "a".repeat(252));
        let exceeds = format!("<{}@b>", "a".repeat(253));
        assert!(forward(&fits).is_ok());
        assert_eq!(forward(&exceeds), Err(PathError::TooLong));
        assert!(forward(&format!("<{}@b>", "ü".repeat(126))).is_ok());
        assert_eq!(forward(&format!("<{}@b>", "ü".repeat(127))), Err(PathError::TooLong));
    }

    #[test]
    fn hello_names_are_safe_to_print() {
        for name in ["mx.example", "[192.0.2.1]", "[IPv6:::1]", "my_host", "localhost"] {
            assert!(HelloName::parse(name.as_bytes()).is_ok(), "{name}");
        }
        for name in ["", "a b", "a(b)", "a;b", "a\r", "a\0", "ü"] {
            assert!(HelloName::parse(name.as_bytes()).is_err(), "{name}");
        }
    }
}
