//! In which form domains are compared.

use std::borrow::Cow;

use idna::AsciiDenyList;

/// The form of a domain that is the same for all ways to write it: A-labels in lower case (RFC 5890
/// §2.3.2.1). `Bücher.example` and `xn--bcher-kva.example` are one domain, and so have one route
/// and one rule. Address literals and names that IDNA does not allow are put into lower case only.
/// What is sent on stays as the client wrote it.
pub(super) fn comparable(domain: &str) -> Cow<'_, str> {
    if !domain.is_ascii() {
        let folded = idna::domain_to_ascii_cow(domain.as_bytes(), AsciiDenyList::EMPTY);
        return folded.unwrap_or_else(|_| domain.to_lowercase().into());
    }
    if domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return domain.to_ascii_lowercase().into();
    }
    domain.into()
}

/// The local part and the domain, or address literal, of an address.
pub(super) fn split_address(address: &str) -> Option<(&str, &str)> {
    // There may be an at sign in a literal, as in a local part in quotes.
    let literal = address.ends_with(']').then(|| address.rfind("@[")).flatten();
    let at = literal.or_else(|| address.rfind('@'))?;
    Some((&address[..at], &address[at + 1..]))
}

/// The local part without its quotes, if it has some: `"user"` and `"us\er"` are the mailbox `user`
/// (RFC 5321 §4.1.2).
pub(super) fn unquoted(local: &str) -> Cow<'_, str> {
    let Some(inner) = local.strip_prefix('"').and_then(|it| it.strip_suffix('"')) else {
        return local.into();
    };
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(char) = chars.next() {
        text.push(if char == '\\' { chars.next().unwrap_or(char) } else { char });
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_where_their_domain_begins() {
        let table = [
            ("a@b.example", Some(("a", "b.example"))),
            ("\"a@b\"@c.example", Some(("\"a@b\"", "c.example"))),
            ("a@[192.0.2.1]", Some(("a", "[192.0.2.1]"))),
            ("\"a@[\"@[x:y@z.example]", Some(("\"a@[\"", "[x:y@z.example]"))),
            ("a@b]", Some(("a", "b]"))),
            ("postmaster", None),
        ];
        for (address, expected) in table {
            assert_eq!(split_address(address), expected, "{address}");
        }
    }

    #[test]
    fn quotes_do_not_make_another_mailbox() {
        let table = [
            ("user", "user"),
            ("\"user\"", "user"),
            ("\"us\\er\"", "user"),
            ("\"a\\\"b\\\\\"", "a\"b\\"),
            ("\"\"", ""),
            ("\"", "\""),
        ];
        for (local, expected) in table {
            assert_eq!(unquoted(local), expected, "{local}");
        }
    }

    #[test]
    fn all_ways_to_write_a_domain_are_one() {
        let table = [
            ("mail.example", "mail.example"),
            ("Mail.EXAMPLE", "mail.example"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.Example", "xn--bcher-kva.example"),
            ("bu\u{308}cher.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
            ("[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
            (".ü.example", ".xn--tda.example"),
            // Not allowed by IDNA, whoever sends it.
            ("\u{378}Ü.example", "\u{378}ü.example"),
        ];
        for (domain, expected) in table {
            assert_eq!(comparable(domain), expected, "{domain}");
        }
    }
}
