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

#[cfg(test)]
mod tests {
    use super::*;

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
