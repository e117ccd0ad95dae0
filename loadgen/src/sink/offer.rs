//! What a sink offers: the extensions in its answer to EHLO.

use std::fmt::Write as _;

/// Which extensions a sink offers. What it does not offer it does not take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// EHLO itself; without it there is HELO only.
    pub ehlo: bool,
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// SIZE (RFC 1870).
    pub size: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034).
    pub status_codes: bool,
    /// SMTPUTF8 (RFC 6531).
    pub utf8: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// CHUNKING (RFC 3030), without BINARYMIME.
    pub chunking: bool,
    /// MT-PRIORITY (RFC 6710).
    pub priority: bool,
    /// LIMITS (RFC 9422).
    pub limits: Option<Limits>,
}

/// The limits that a sink announces (RFC 9422 §4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// MAIL commands of one session.
    pub mails_max: u32,
    /// Recipients of one mail.
    pub recipients_max: u32,
}

impl Default for Offer {
    /// PIPELINING, 8BITMIME, SIZE and ENHANCEDSTATUSCODES.
    fn default() -> Offer {
        Offer {
            ehlo: true,
            pipelining: true,
            eight_bit: true,
            size: true,
            status_codes: true,
            ..Offer::NOTHING
        }
    }
}

impl Offer {
    /// No extension, as behind HELO.
    pub const NOTHING: Offer = Offer {
        ehlo: false,
        pipelining: false,
        eight_bit: false,
        size: false,
        status_codes: false,
        utf8: false,
        dsn: false,
        chunking: false,
        priority: false,
        limits: None,
    };

    /// Leaves an extension out: `ehlo`, or its keyword in small letters.
    ///
    /// # Errors
    /// There is no such extension.
    pub fn without(&mut self, name: &str) -> Result<(), String> {
        self.set(name, false)
    }

    /// Offers an extension: its keyword in small letters; `limits=MAILMAX:RCPTMAX`.
    ///
    /// # Errors
    /// There is no such extension, or those are no limits.
    pub fn with(&mut self, name: &str) -> Result<(), String> {
        let Some(limits) = name.strip_prefix("limits=") else { return self.set(name, true) };
        let numbers = limits.split_once(':').and_then(|(mails, recipients)| {
            Some(Limits {
                mails_max: mails.parse().ok().filter(|&most| most > 0)?,
                recipients_max: recipients.parse().ok().filter(|&most| most > 0)?,
            })
        });
        self.limits = Some(numbers.ok_or_else(|| format!("{limits:?} is not MAILMAX:RCPTMAX"))?);
        Ok(())
    }

    fn set(&mut self, name: &str, offered: bool) -> Result<(), String> {
        let switch = match name {
            "ehlo" => &mut self.ehlo,
            "pipelining" => &mut self.pipelining,
            "8bitmime" => &mut self.eight_bit,
            "size" => &mut self.size,
            "enhancedstatuscodes" => &mut self.status_codes,
            "smtputf8" => &mut self.utf8,
            "dsn" => &mut self.dsn,
            "chunking" => &mut self.chunking,
            "mt-priority" => &mut self.priority,
            _ => return Err(format!("{name:?} is no extension that can be chosen")),
        };
        *switch = offered;
        Ok(())
    }

    /// The answer to EHLO.
    pub(super) fn reply(&self, size_bytes_max: usize) -> String {
        let mut keywords = vec!["sink.example".to_owned()];
        let mut offer = |offered: bool, keyword: &str| {
            if offered {
                keywords.push(keyword.to_owned());
            }
        };
        offer(self.pipelining, "PIPELINING");
        offer(self.eight_bit, "8BITMIME");
        offer(self.status_codes, "ENHANCEDSTATUSCODES");
        offer(self.utf8, "SMTPUTF8");
        offer(self.dsn, "DSN");
        offer(self.chunking, "CHUNKING");
        offer(self.priority, "MT-PRIORITY");
        if let Some(Limits { mails_max, recipients_max }) = self.limits {
            keywords.push(format!("LIMITS MAILMAX={mails_max} RCPTMAX={recipients_max}"));
        }
        if self.size {
            keywords.push(format!("SIZE {size_bytes_max}"));
        }
        let mut text = String::new();
        for (place, keyword) in (1..).zip(&keywords) {
            let sign = if place == keywords.len() { ' ' } else { '-' };
            write!(text, "250{sign}{keyword}\r\n").expect("memory takes every write");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_can_be_chosen() {
        let mut offer = Offer::default();
        for name in ["pipelining", "8bitmime", "size", "enhancedstatuscodes"] {
            offer.without(name).unwrap();
        }
        assert_eq!(offer.reply(9), "250 sink.example\r\n");
        for name in ["dsn", "limits=3:50", "smtputf8", "chunking", "mt-priority", "size"] {
            offer.with(name).unwrap();
        }
        assert_eq!(
            offer.reply(9),
            "250-sink.example\r\n250-SMTPUTF8\r\n250-DSN\r\n250-CHUNKING\r\n250-MT-PRIORITY\r\n\
             250-LIMITS MAILMAX=3 RCPTMAX=50\r\n250 SIZE 9\r\n"
        );
        for name in ["starttls", "limits", "limits=3", "limits=0:1", "limits=a:b"] {
            assert!(offer.with(name).is_err(), "{name}");
        }
    }
}
