//! SMTP on both sides, without the connections.

use std::sync::Arc;

use bytes::Bytes;
use smtp::{
    ClientEvent, ClientOptions, ClientSession, NewMail, NewRecipient, Protocol, ServerEvent,
    ServerLimits, ServerSession, SessionRules,
};

use crate::{BLOCK, Gauge, Part};

/// What the server's end of a session does for mails that a client sends one command after another.
#[derive(Debug)]
pub struct Reception {
    session: ServerSession,
    /// Of one mail: the commands as they are sent, and the content with its end.
    sent: Vec<Vec<u8>>,
    content: Vec<u8>,
}

impl Reception {
    /// For mails of so many bytes.
    pub fn new(size_bytes: usize) -> Reception {
        let limits = ServerLimits {
            hostname: "gateway.example.com".into(),
            message_size_max: 10 << 20,
            recipients_max: 1000,
            text_line_max: 1000,
            errors_max: 10,
            mails_max: u32::MAX,
        };
        let mut session = ServerSession::new(Arc::new(limits), SessionRules::default());
        let mut content = Vec::with_capacity(2 * size_bytes);
        receive(&mut session, b"EHLO client.example.org\r\n", &mut content);
        let mut body = lines(size_bytes);
        body.extend_from_slice(b".\r\n");
        let commands = [
            &b"MAIL FROM:<sender@example.org> SIZE=1024 BODY=8BITMIME\r\n"[..],
            b"RCPT TO:<recipient@example.net>\r\n",
            b"DATA\r\n",
            &body,
        ];
        Reception { session, sent: commands.map(<[u8]>::to_vec).into(), content }
    }
}

impl Part for Reception {
    fn handle_block(&mut self, gauge: &mut dyn Gauge) {
        for _ in 0..BLOCK {
            for bytes in &self.sent {
                gauge.begin();
                receive(&mut self.session, bytes, &mut self.content);
                gauge.end();
            }
            assert!(!self.content.is_empty(), "the mail has come");
            self.content.clear();
        }
    }
}

/// What counts for reception, by this name: the client's bytes are taken, all of them, what they ask for is
/// granted, and the replies are sent.
#[inline(never)]
fn receive(session: &mut ServerSession, mut bytes: &[u8], content: &mut Vec<u8>) {
    loop {
        bytes = &bytes[session.handle_bytes(bytes, content)..];
        match session.poll_event() {
            Some(ServerEvent::Mail(_)) => session.accept_mail(),
            Some(ServerEvent::Recipient(_)) => session.accept_recipient(),
            Some(ServerEvent::DataRequested) => session.accept_data(),
            Some(ServerEvent::EndOfData(_)) => session.commit("a1b2"),
            Some(other) => panic!("{other:?}"),
            None if bytes.is_empty() => break,
            None => {}
        }
    }
    let sent = session.output().len();
    session.consume_output(sent);
}

/// What the client's end of a session does for mails that it hands to a server with PIPELINING.
#[derive(Debug)]
pub struct Delivery {
    session: ClientSession,
    content: Bytes,
    /// Bytes that were to be sent.
    sent: usize,
}

impl Delivery {
    /// For mails of so many bytes.
    pub fn new(size_bytes: usize) -> Delivery {
        let options = ClientOptions {
            hostname: "gateway.example.com".into(),
            protocol: Protocol::Smtp,
            pipeline_transactions: false,
        };
        let mut session = ClientSession::new(options);
        session.handle_bytes(b"220 next.example.net ESMTP\r\n");
        let sent = send(&mut session);
        session.handle_bytes(b"250-next.example.net\r\n250-PIPELINING\r\n250 8BITMIME\r\n");
        assert_eq!(session.poll_event(), Some(ClientEvent::Ready));
        Delivery { session, content: lines(size_bytes).into(), sent }
    }
}

impl Part for Delivery {
    fn handle_block(&mut self, gauge: &mut dyn Gauge) {
        for key in 0..BLOCK as u64 {
            gauge.begin();
            self.sent += deliver(&mut self.session, key, &self.content);
            gauge.end();
        }
    }
}

/// What counts for delivery, by this name: a transaction from its MAIL to the answer to its last dot.
#[inline(never)]
fn deliver(session: &mut ClientSession, key: u64, content: &Bytes) -> usize {
    let recipient = NewRecipient { address: "recipient@example.net", notify: None, original: None };
    session.submit(NewMail {
        key,
        reverse_path: "sender@example.org",
        recipients: [recipient].into_iter(),
        content: content.clone(),
        leading_dot: false,
        eight_bit: true,
        utf8: false,
        ret: None,
        envelope_id: None,
        priority: None,
    });
    let mut sent = send(session);
    session.handle_bytes(b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 Go ahead\r\n");
    sent += send(session);
    session.handle_bytes(b"250 2.0.0 Ok: taken\r\n");
    let Some(ClientEvent::Finished(_)) = session.poll_event() else {
        panic!("the server has taken it")
    };
    sent
}

/// Sends all that there is to send; returns how many bytes.
fn send(session: &mut ClientSession) -> usize {
    let mut sent = 0;
    loop {
        let length = session.output().slices().map(<[u8]>::len).sum::<usize>();
        if length == 0 {
            return sent;
        }
        session.consume_output(length);
        sent += length;
    }
}

/// Lines of text, so many bytes in all.
fn lines(size_bytes: usize) -> Vec<u8> {
    let line = b"All work and no play makes a mail of lines that are as long as this one.\r\n";
    let mut text = line.repeat(size_bytes / line.len());
    text.extend(std::iter::repeat_n(b'x', size_bytes.saturating_sub(text.len() + 2)));
    text.extend_from_slice(b"\r\n");
    text
}
