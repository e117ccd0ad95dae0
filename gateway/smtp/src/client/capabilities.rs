//! What a server offers in its answer to EHLO or LHLO.

use core::num::NonZeroU32;

/// What the server offers, of what we use. CHUNKING and BINARYMIME are not among it: content
/// always has lines, so it goes by DATA.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Capabilities {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub utf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 6710.
    pub mt_priority: bool,
    /// RFC 1870: offered, with its largest message in octets (0: no fixed bound).
    pub size: Option<u64>,
    /// RFC 9422.
    pub limits: Limits,
}

/// What the server says it will not go beyond (RFC 9422 §4).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Limits {
    /// MAILMAX: transactions in one session.
    pub transactions_max: Option<NonZeroU32>,
    /// RCPTMAX: recipients in one transaction.
    pub recipients_max: Option<NonZeroU32>,
    /// RCPTDOMAINMAX: different domains of recipients in one session.
    pub domains_max: Option<NonZeroU32>,
}

impl Capabilities {
    /// Notes one line of an EHLO reply (RFC 5321 §4.1.1.1). The first is the server's name, which
    /// could only by malice be one of these words.
    pub(super) fn note(&mut self, line: &[u8]) {
        let line = core::str::from_utf8(line).unwrap_or_default();
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let keyword = words.next().unwrap_or_default();
        let is = |name: &str| keyword.eq_ignore_ascii_case(name);
        if is("PIPELINING") {
            self.pipelining = true;
        } else if is("8BITMIME") {
            self.eight_bit_mime = true;
        } else if is("SMTPUTF8") {
            self.utf8 = true;
        } else if is("DSN") {
            self.dsn = true;
        } else if is("MT-PRIORITY") {
            self.mt_priority = true;
        } else if is("SIZE") {
            self.size = Some(words.next().and_then(|number| number.parse().ok()).unwrap_or(0));
        } else if is("LIMITS") {
            words.for_each(|word| self.limits.note(word));
        }
    }
}

impl Limits {
    /// Notes one `name=value`. Names that we do not know and values that are no number of one to
    /// six digits are passed over (RFC 9422 §3).
    fn note(&mut self, word: &str) {
        let Some((name, value)) = word.split_once('=') else { return };
        let is_number = value.len() <= 6 && value.bytes().all(|byte| byte.is_ascii_digit());
        let number = if is_number { value.parse().ok() } else { None };
        let limit = match () {
            () if name.eq_ignore_ascii_case("MAILMAX") => &mut self.transactions_max,
            () if name.eq_ignore_ascii_case("RCPTMAX") => &mut self.recipients_max,
            () if name.eq_ignore_ascii_case("RCPTDOMAINMAX") => &mut self.domains_max,
            () => return,
        };
        *limit = number.or(*limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(lines: &[&str]) -> Capabilities {
        let mut capabilities = Capabilities::default();
        lines.iter().for_each(|line| capabilities.note(line.as_bytes()));
        capabilities
    }

    #[test]
    fn keywords_are_known_in_any_case() {
        let all = capabilities(&[
            "mx.example at your service",
            "pipelining",
            "8BitMime",
            "SMTPUTF8",
            "DSN",
            "MT-PRIORITY MIXER",
            "SIZE 1000",
            "LIMITS RCPTMAX=20 mailmax=5  RCPTDOMAINMAX=1 FUTURE=x",
        ]);
        let limit = |number| NonZeroU32::new(number);
        let limits =
            Limits { transactions_max: limit(5), recipients_max: limit(20), domains_max: limit(1) };
        let expected = Capabilities {
            pipelining: true,
            eight_bit_mime: true,
            utf8: true,
            dsn: true,
            mt_priority: true,
            size: Some(1000),
            limits,
        };
        assert_eq!(all, expected);
    }

    #[test]
    fn values_that_are_no_numbers_are_passed_over() {
        let none = capabilities(&[
            "SIZE many",
            "LIMITS RCPTMAX=0 MAILMAX=+5 RCPTDOMAINMAX= RCPTMAX MAILMAX=1000000 =",
            "XPIPELINING",
            "",
            "\u{e9}",
        ]);
        assert_eq!(none, Capabilities { size: Some(0), ..Capabilities::default() });
    }
}
