//! What a DSN says of one recipient: fields for programs (RFC 3464 §2.3) and words for people.

use std::net::{IpAddr, SocketAddr};

use smtp::{EnhancedCode, OriginalRecipient, Reply, encode_utf8_addr_xtext};

use super::compose::{clean, put, put_line};
use crate::api::{Report, ReportKind};
use crate::front::date::Date;
use crate::message::{Explanation, RecipientStatus};

/// What became of a recipient (RFC 3464 §2.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Failed,
    Delayed,
    Delivered,
    /// Passed on to where no report can be expected from.
    Relayed,
}

/// One recipient in a report.
#[derive(Debug)]
pub(super) struct Told<'a> {
    pub(super) action: Action,
    report: &'a Report,
    place: usize,
    explanation: Option<&'a Explanation>,
    /// The DSN may have UTF-8 in it.
    utf8: bool,
}

impl<'a> Told<'a> {
    pub(super) fn new(
        report: &'a Report,
        place: usize,
        is_final_hop: bool,
        utf8: bool,
    ) -> Told<'a> {
        let action = match (report.kind, report.state.status(place)) {
            (ReportKind::Delay, _) => Action::Delayed,
            (ReportKind::Final, RecipientStatus::Delivered) if is_final_hop => Action::Delivered,
            (ReportKind::Final, RecipientStatus::Delivered) => Action::Relayed,
            (ReportKind::Final, _) => Action::Failed,
        };
        let explanation = report.state.explanation(place);
        Told { action, report, place, explanation, utf8 }
    }

    /// Appends the recipient's group of fields.
    pub(super) fn append_fields(&self, text: &mut String) {
        let recipient = &self.report.message.envelope.recipients[self.place];
        let original = recipient.original.as_deref().and_then(OriginalRecipient::decode);
        if let Some(OriginalRecipient { address_type, address }) = original {
            let address = match &*address_type {
                // In ASCII too, where the DSN has no UTF-8 (RFC 6533 §3): a backslash is encoded.
                "utf-8" if !self.utf8 => encode_utf8_addr_xtext(&address),
                _ => self.encoded(&address),
            };
            put(text, "Original-Recipient", format_args!("{address_type}; {address}"));
        }
        let address_type = if recipient.address.is_ascii() { "rfc822" } else { "utf-8" };
        let address = self.encoded(&recipient.address);
        put(text, "Final-Recipient", format_args!("{address_type}; {address}"));
        put(text, "Action", self.action.name());
        put(text, "Status", self.status());
        if let Some(Explanation { reply, next_hop, .. }) = self.explanation {
            let reply = clean_reply(reply);
            if next_hop.is_empty() {
                put(text, "Diagnostic-Code", format_args!("x-local; {reply}"));
            } else {
                put(text, "Remote-MTA", remote(next_hop));
                put(text, "Diagnostic-Code", format_args!("smtp; {reply}"));
            }
        }
        let state = &self.report.state;
        if state.attempts > 0 {
            put(text, "Last-Attempt-Date", Date { unix_ms: state.noted_unix_ms });
        }
        if self.action == Action::Delayed {
            put(text, "Will-Retry-Until", Date { unix_ms: self.report.retry_until_unix_ms });
        }
    }

    /// Appends two lines for people.
    pub(super) fn append_words(&self, text: &mut String) {
        let recipient = &self.report.message.envelope.recipients[self.place];
        put_line(text, format_args!("<{}>", self.encoded(&recipient.address)));
        let what = match self.action {
            Action::Failed if self.is_expired() => "failed: it could not be delivered in time",
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Delivered => "delivered",
            Action::Relayed => "passed on to a system that confirms nothing",
        };
        match self.explanation {
            Some(Explanation { reply, next_hop, .. }) => {
                let who = if next_hop.is_empty() { "because" } else { "the next hop answered" };
                put_line(text, format_args!("    {what}; {who}: {}", clean_reply(reply)));
            }
            None => put_line(text, format_args!("    {what}")),
        }
    }

    /// An address as the DSN can have it: where that has no UTF-8, addresses that do are encoded
    /// by RFC 6533 §3.
    fn encoded(&self, address: &str) -> String {
        if address.is_ascii() || self.utf8 {
            clean(address)
        } else {
            encode_utf8_addr_xtext(address)
        }
    }

    /// Whether the recipient failed by time alone: the last answer left hope, or there was none.
    fn is_expired(&self) -> bool {
        self.explanation.is_some_and(|it| !it.reply.is_permanent())
    }

    /// RFC 3463. An expiry is 4.4.7: the same mail may be delivered another time.
    fn status(&self) -> EnhancedCode {
        let given = self.explanation.and_then(|it| it.reply.enhanced);
        let of_class = |class: u8| given.filter(|it| it.0 == class);
        match self.action {
            Action::Failed if self.is_expired() => EnhancedCode(4, 4, 7),
            Action::Failed => of_class(5).unwrap_or(EnhancedCode(5, 0, 0)),
            Action::Delayed => of_class(4).unwrap_or(EnhancedCode(4, 0, 0)),
            Action::Delivered | Action::Relayed => of_class(2).unwrap_or(EnhancedCode(2, 0, 0)),
        }
    }
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Delivered => "delivered",
            Action::Relayed => "relayed",
        }
    }
}

/// A reply in ASCII on one line.
fn clean_reply(reply: &Reply) -> String {
    let is_kept = |char: char| matches!(char, ' '..='~');
    reply.to_string().chars().map(|char| if is_kept(char) { char } else { '?' }).collect()
}

/// Who gave an answer. We know next hops by address (RFC 3464 §2.3.5 wants a name).
fn remote(next_hop: &str) -> String {
    match next_hop.parse::<SocketAddr>().map(|it| it.ip().to_canonical()) {
        Ok(IpAddr::V4(address)) => format!("dns; [{address}]"),
        Ok(IpAddr::V6(address)) => format!("dns; [IPv6:{address}]"),
        Err(_) => {
            format!("x-local; {}", clean(next_hop).replace(|char: char| !char.is_ascii(), "?"))
        }
    }
}
