//! What extensions add to MAIL and RCPT, checked.

use alloc::boxed::Box;

use crate::path::{ForwardPath, ReversePath};

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
    /// MT-PRIORITY (RFC 6710 §5.1), from -9 to 9.
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
