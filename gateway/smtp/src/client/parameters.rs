//! What MAIL and RCPT say beside the paths, and what a server cannot be given.

use core::fmt::{Result as Written, Write};

use memchr::memmem;

use super::{Capabilities, NewMail, NewRecipient};
use crate::esmtp::{Notify, Return};
use crate::reply::Reply;

/// What a transaction needs of the server, and what it declares. Parameters go only where they
/// are offered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Declared {
    capabilities: Capabilities,
    /// BODY=8BITMIME.
    eight_bit: bool,
    /// SMTPUTF8: an address or a header field needs it, not only because the client said so.
    utf8: bool,
}

impl Declared {
    /// Judges a mail, its recipients apart.
    ///
    /// A mail in whose header 8-bit octets stand without SMTPUTF8 having been declared goes as
    /// what it came as: 8-bit content.
    ///
    /// # Errors
    /// The reply that stands for the server's: it could not take the mail for anybody. Nothing
    /// here converts content, so what is not offered is a permanent failure (RFC 6152 §3, RFC
    /// 6531 §3.2).
    pub(super) fn new<R>(
        capabilities: Capabilities,
        mail: &NewMail<'_, R>,
        recipients_need_utf8: bool,
    ) -> Result<Declared, Reply> {
        let size_max = capabilities.size.filter(|size| *size > 0);
        if size_max.is_some_and(|max| size_of(&mail.content) > max) {
            return Err(Reply::local(552, (5, 3, 4), "Larger than the next hop allows"));
        }
        if !capabilities.eight_bit_mime && !mail.content.is_ascii() {
            return Err(Reply::local(554, (5, 6, 3), "The next hop does not offer 8BITMIME"));
        }
        let path_needs_utf8 = !mail.reverse_path.is_ascii();
        let header_needs_utf8 = mail.utf8 && !header_of(&mail.content).is_ascii();
        if path_needs_utf8 && !capabilities.utf8 {
            return Err(no_utf8_addresses());
        }
        if header_needs_utf8 && !capabilities.utf8 {
            let text = "The next hop does not offer SMTPUTF8, which the header needs";
            return Err(Reply::local(554, (5, 6, 9), text));
        }
        Ok(Declared {
            capabilities,
            eight_bit: capabilities.eight_bit_mime && (mail.eight_bit || !mail.content.is_ascii()),
            utf8: path_needs_utf8 || header_needs_utf8 || recipients_need_utf8,
        })
    }

    /// The reply that stands for the server's, where it could not take a recipient's address.
    pub(super) fn refusal_of(capabilities: Capabilities, address: &str) -> Option<Reply> {
        (!capabilities.utf8 && !address.is_ascii()).then(no_utf8_addresses)
    }

    /// Writes the MAIL command, without its CRLF.
    pub(super) fn write_mail<R>(&self, mail: &NewMail<'_, R>, line: &mut impl Write) -> Written {
        write!(line, "MAIL FROM:<{}>", mail.reverse_path)?;
        if self.capabilities.size.is_some() {
            write!(line, " SIZE={}", size_of(&mail.content))?;
        }
        if self.eight_bit {
            line.write_str(" BODY=8BITMIME")?;
        }
        if self.utf8 {
            line.write_str(" SMTPUTF8")?;
        }
        if self.capabilities.dsn {
            match mail.ret {
                Some(Return::Full) => line.write_str(" RET=FULL")?,
                Some(Return::Headers) => line.write_str(" RET=HDRS")?,
                None => {}
            }
            if let Some(id) = mail.envelope_id {
                write!(line, " ENVID={id}")?;
            }
        }
        match mail.priority.filter(|_| self.capabilities.mt_priority) {
            Some(priority) => write!(line, " MT-PRIORITY={priority}"),
            None => Ok(()),
        }
    }

    /// Writes the RCPT command, without its CRLF. What the client did not say is not said for it
    /// (RFC 3461 §5.2.1; ORCPT could be added, but would say no more than the path does).
    pub(super) fn write_recipient(
        &self,
        recipient: &NewRecipient<'_>,
        line: &mut impl Write,
    ) -> Written {
        write!(line, "RCPT TO:<{}>", recipient.address)?;
        if !self.capabilities.dsn {
            return Ok(());
        }
        if let Some(notify) = recipient.notify {
            line.write_str(" NOTIFY=")?;
            write_notify(notify, line)?;
        }
        if let Some(original) = recipient.original {
            line.write_str(" ORCPT=")?;
            write_original(original, self.utf8, line)?;
        }
        Ok(())
    }
}

fn no_utf8_addresses() -> Reply {
    Reply::local(553, (5, 6, 7), "The next hop does not offer SMTPUTF8, which the address needs")
}

fn write_notify(notify: Notify, line: &mut impl Write) -> Written {
    if notify.is_never() {
        return line.write_str("NEVER");
    }
    let words = [(notify.success, "SUCCESS"), (notify.failure, "FAILURE"), (notify.delay, "DELAY")];
    let mut separator = "";
    for (_, word) in words.into_iter().filter(|(is_set, _)| *is_set) {
        write!(line, "{separator}{word}")?;
        separator = ",";
    }
    Ok(())
}

/// Outside a transaction with SMTPUTF8 an address of type `utf-8` is written in ASCII (RFC 6533
/// §3, `utf-8-addr-xtext`).
fn write_original(original: &str, utf8: bool, line: &mut impl Write) -> Written {
    if utf8 || original.is_ascii() {
        return line.write_str(original);
    }
    original.chars().try_for_each(|character| match character.is_ascii() {
        true => line.write_char(character),
        false => write!(line, "\\x{{{:X}}}", u32::from(character)),
    })
}

/// The size that is declared (RFC 1870 §5): with the last CRLF, without the end of data and the
/// dots of dot-stuffing.
fn size_of(content: &[u8]) -> u64 {
    let is_whole = content.is_empty() || content.ends_with(b"\r\n");
    let len = u64::try_from(content.len()).unwrap_or(u64::MAX);
    if is_whole { len } else { len.saturating_add(2) }
}

/// The header section: up to the first empty line.
fn header_of(content: &[u8]) -> &[u8] {
    if content.starts_with(b"\r\n") {
        return &[];
    }
    let end = memmem::find(content, b"\r\n\r\n");
    end.map_or(content, |end| &content[..end])
}
