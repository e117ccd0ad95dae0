//! The encodings that carry addresses and ids inside of parameters: `xtext` (RFC 3461 §4),
//! `utf-8-addr-xtext` and `utf-8-addr-unitext` (RFC 6533 §3).

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// Decodes `xtext`. None unless all of it is well-formed and stands for printable ASCII, which is
/// all that ENVID and ORCPT may carry (RFC 3461 §4.2 and §4.4): so what comes out is safe in a
/// header field.
pub fn decode_xtext(encoded: &str) -> Option<String> {
    let decoded = decode_xtext_octets(encoded)?;
    let is_printable = decoded.iter().all(|byte| (32..127).contains(byte));
    if is_printable { String::from_utf8(decoded).ok() } else { None }
}

/// Decodes `xtext` that may stand for any octets.
fn decode_xtext_octets(encoded: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, tail) = match (first, tail) {
            (b'+', [high, low, tail @ ..]) => (hex_digit(*high)? * 16 + hex_digit(*low)?, tail),
            (b'+' | b'=', _) => return None,
            (b'!'..=b'~', _) => (*first, tail),
            _ => return None,
        };
        decoded.push(byte);
        rest = tail;
    }
    Some(decoded)
}

/// An address of type `rfc822` that is not ASCII, as `xtext` of its UTF-8. RFC 6533 §3 wants the
/// type `utf-8` for it, but Postfix sends this for every such recipient. None unless it is UTF-8
/// without control characters and without what reorders text.
fn decode_xtext_utf8(encoded: &str) -> Option<String> {
    let decoded = String::from_utf8(decode_xtext_octets(encoded)?).ok()?;
    if decoded.chars().all(is_harmless) { Some(decoded) } else { None }
}

/// Encodes text as `xtext`, octet by octet. Meant for printable ASCII: nothing else is decoded again
/// by [`decode_xtext`].
pub fn encode_xtext(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'!'..=b'~' if byte != b'+' && byte != b'=' => encoded.push(char::from(byte)),
            _ => write_infallible(&mut encoded, format_args!("+{byte:02X}")),
        }
    }
    encoded
}

/// Decodes `utf-8-addr-xtext` and `utf-8-addr-unitext`, which differ in whether characters beyond
/// ASCII stand there as they are. None unless all of it is well-formed and has no control
/// characters and nothing that reorders text.
pub fn decode_utf8_addr_xtext(encoded: &str) -> Option<String> {
    let mut decoded = String::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some(first) = rest.chars().next() {
        let (char, tail) = match first {
            '\\' => embedded_char(rest)?,
            '+' | '=' | ' ' => return None,
            _ => (first, &rest[first.len_utf8()..]),
        };
        if !is_harmless(char) {
            return None;
        }
        decoded.push(char);
        rest = tail;
    }
    Some(decoded)
}

/// Encodes an address as `utf-8-addr-xtext`: ASCII that goes anywhere.
pub fn encode_utf8_addr_xtext(address: &str) -> String {
    let mut encoded = String::with_capacity(address.len());
    for char in address.chars() {
        match char {
            '!'..='~' if !matches!(char, '+' | '=' | '\\') => encoded.push(char),
            _ => write_infallible(&mut encoded, format_args!("\\x{{{:02X}}}", u32::from(char))),
        }
    }
    encoded
}

/// What ORCPT says, decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginalRecipient {
    /// `rfc822`, `utf-8` or another registered type, in lower case.
    pub address_type: Box<str>,
    /// The address itself. ASCII unless the type is `utf-8`; without control characters.
    pub address: Box<str>,
}

impl OriginalRecipient {
    /// Decodes `original-recipient-address` of RFC 3461 §4.2, and the type `utf-8` of RFC 6533 §3.
    /// An address beyond ASCII that says `rfc822` becomes one of type `utf-8`. None when it is
    /// malformed or empty.
    pub fn decode(encoded: &str) -> Option<OriginalRecipient> {
        let (address_type, address) = encoded.split_once(';')?;
        let is_type_char = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if address_type.is_empty() || !address_type.bytes().all(is_type_char) {
            return None;
        }
        let mut address_type = address_type.to_ascii_lowercase();
        let address = match address_type.as_str() {
            "utf-8" => decode_utf8_addr_xtext(address)?,
            "rfc822" => decode_xtext_utf8(address)?,
            _ => decode_xtext(address)?,
        };
        if !address.is_ascii() {
            address_type = "utf-8".into();
        }
        if address.is_empty() {
            return None;
        }
        Some(OriginalRecipient { address_type: address_type.into(), address: address.into() })
    }
}

/// Whether a character is neither a control nor one that breaks or reorders lines of text. Nobody
/// has such in an address, and in logs and headers they mislead the reader.
pub(crate) fn is_harmless(char: char) -> bool {
    let reorders = matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !char.is_control() && !reorders
}

/// `EmbeddedUnicodeChar` of RFC 6533 §3 at the start of `text`: the character and what follows.
fn embedded_char(text: &str) -> Option<(char, &str)> {
    let (digits, rest) = text.strip_prefix("\\x{")?.split_once('}')?;
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    if !(2..=6).contains(&digits.len()) || !digits.bytes().all(is_digit) {
        return None;
    }
    let code = u32::from_str_radix(digits, 16).ok()?;
    Some((char::from_u32(code)?, rest))
}

/// `hexchar` of RFC 3461 §4 has capital letters only.
fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn write_infallible(text: &mut String, arguments: core::fmt::Arguments<'_>) {
    let result = text.write_fmt(arguments);
    debug_assert!(result.is_ok(), "writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn xtext_stands_for_printable_ascii() {
        let table = [
            ("", Some("")),
            ("a@b.example", Some("a@b.example")),
            ("e+3Dmc2+2B", Some("e=mc2+")),
            ("a+20b", Some("a b")),
            ("a b", None),
            ("a=b", None),
            ("a+", None),
            ("a+4", None),
            ("a+3d", None),
            ("a+ZZ", None),
            ("a+0D+0A", None),
            ("a+00", None),
            ("a+7F", None),
            ("a+FC", None),
            ("ü", None),
            ("+é", None),
        ];
        for (encoded, decoded) in table {
            assert_eq!(decode_xtext(encoded).as_deref(), decoded, "{encoded}");
        }
    }

    #[test]
    fn addresses_in_utf_8_have_two_encodings() {
        let table = [
            ("j\\x{FC}rgen@b.example", Some("jürgen@b.example")),
            ("jürgen@b.example", Some("jürgen@b.example")),
            ("a\\x{2B}b\\x{3D}\\x{5C}", Some("a+b=\\")),
            ("\\x{1F4E7}@b", Some("📧@b")),
            ("a\\x{10FFFF}", Some("a\u{10ffff}")),
            ("a+b", None),
            ("a=b", None),
            ("a\\b", None),
            ("a\\x{}", None),
            ("a\\x{F}", None),
            ("a\\x{fc}", None),
            ("a\\x{D800}", None),
            ("a\\x{110000}", None),
            ("a\\x{+FC}", None),
            ("a\\x{0A}", None),
            ("a\\x{85}", None),
            ("a\\x{202E}", None),
            ("a\\x{FC", None),
            ("a\u{1}", None),
        ];
        for (encoded, decoded) in table {
            assert_eq!(decode_utf8_addr_xtext(encoded).as_deref(), decoded, "{encoded}");
        }
    }

    #[test]
    fn an_original_recipient_has_a_type_and_an_address() {
        let decode = |text| {
            let it = OriginalRecipient::decode(text)?;
            Some((String::from(it.address_type), String::from(it.address)))
        };
        let expected = Some(("rfc822".into(), "a+b@c".into()));
        assert_eq!(decode("RFC822;a+2Bb@c"), expected);
        assert_eq!(decode("utf-8;\\x{FC}@c"), Some(("utf-8".into(), "ü@c".into())));
        // As Postfix sends it.
        assert_eq!(decode("rfc822;+C3+BC@c"), Some(("utf-8".into(), "ü@c".into())));
        let wrong = [
            "",
            "rfc822",
            "rfc822;",
            ";a@b",
            "rfc 822;a@b",
            "rfc822;ü@c",
            "rfc822;a+0A",
            "rfc822;a+C3",
            "rfc822;a+C2+85",
            "x400;+C3+BC@c",
            "utf-8;a+2B",
        ];
        for wrong in wrong {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn decoding_gives_back_what_was_encoded(text in "[ -~]{0,40}", address in "[ -~à-ʯ一-丰]{0,40}") {
            prop_assert_eq!(decode_xtext(&encode_xtext(&text)), Some(text));
            let encoded = encode_utf8_addr_xtext(&address);
            prop_assert!(encoded.is_ascii());
            prop_assert_eq!(decode_utf8_addr_xtext(&encoded), Some(address));
        }

        #[test]
        fn what_is_decoded_is_one_line(text in "\\PC{0,20}|[+\\\\x{}0-9A-F]{0,20}") {
            for decoded in [decode_xtext(&text), decode_utf8_addr_xtext(&text)].into_iter().flatten() {
                prop_assert!(decoded.chars().all(is_harmless));
            }
        }
    }
}
