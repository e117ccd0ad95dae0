//! The other ends: a client that a test speaks for, and a next hop with rules.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::net::SocketAddr;

use tcpstack::{ConnectionId, Event, Instant, RecvError, Transport};

/// Connections with what came in on them and what is to go out.
pub(super) struct Peer<T> {
    pub(super) transport: T,
    lines: BTreeMap<ConnectionId, Line>,
    pub(super) accepted: Vec<ConnectionId>,
}

#[derive(Default)]
struct Line {
    received: Vec<u8>,
    unsent: Vec<u8>,
    is_over: bool,
}

impl<T: Transport> Peer<T> {
    pub(super) fn new(transport: T) -> Peer<T> {
        Peer { transport, lines: BTreeMap::new(), accepted: Vec::new() }
    }

    pub(super) fn connect(&mut self, now: Instant, to: SocketAddr) -> ConnectionId {
        let id = self.transport.connect(now, to, None).unwrap();
        self.lines.insert(id, Line::default());
        id
    }

    pub(super) fn send(&mut self, id: ConnectionId, text: &str) {
        self.lines.get_mut(&id).unwrap().unsent.extend_from_slice(text.as_bytes());
        self.push(id);
    }

    /// Ends a connection from here.
    pub(super) fn close(&mut self, id: ConnectionId) {
        self.transport.close(id);
        self.lines.get_mut(&id).unwrap().is_over = true;
    }

    /// Whether the front, or the client itself, has ended the connection.
    pub(super) fn is_over(&self, id: ConnectionId) -> bool {
        self.lines[&id].is_over
    }

    pub(super) fn received(&self, id: ConnectionId) -> String {
        String::from_utf8_lossy(&self.lines[&id].received).into_owned()
    }

    pub(super) fn take_received(&mut self, id: ConnectionId) -> Vec<u8> {
        std::mem::take(&mut self.lines.get_mut(&id).unwrap().received)
    }

    pub(super) fn forget_received(&mut self, id: ConnectionId) {
        self.take_received(id);
    }

    /// The codes of complete replies.
    pub(super) fn reply_codes(&self, id: ConnectionId) -> Vec<String> {
        let text = self.received(id);
        let complete = text.split_inclusive("\r\n").filter(|line| line.ends_with("\r\n"));
        let last = complete.filter(|line| line.as_bytes().get(3) == Some(&b' '));
        last.map(|line| line[..3].to_owned()).collect()
    }

    /// Moves bytes; returns whether anything happened.
    pub(super) fn turn(&mut self, now: Instant) -> bool {
        self.transport.poll(now);
        let mut has_worked = false;
        while let Some(event) = self.transport.next_event() {
            has_worked = true;
            match event {
                Event::Accepted { connection, .. } => {
                    self.lines.insert(connection, Line::default());
                    self.accepted.push(connection);
                }
                Event::Connected(id) | Event::Writable(id) => self.push(id),
                Event::Readable(id) => self.pull(id),
                Event::Closed { connection, .. } => {
                    self.lines.get_mut(&connection).unwrap().is_over = true;
                }
            }
        }
        self.transport.flush(now);
        has_worked
    }

    fn push(&mut self, id: ConnectionId) {
        let line = self.lines.get_mut(&id).unwrap();
        if !line.unsent.is_empty() && !line.is_over {
            let sent = self.transport.send(id, &[IoSlice::new(&line.unsent)]).unwrap_or(0);
            line.unsent.drain(..sent);
        }
    }

    fn pull(&mut self, id: ConnectionId) {
        let line = self.lines.get_mut(&id).unwrap();
        let received = self.transport.recv(id, |bytes| {
            line.received.extend_from_slice(bytes);
            (bytes.len(), ())
        });
        if received == Err(RecvError::Finished) {
            line.is_over = true;
            self.transport.close(id);
        }
    }
}

/// A server that answers by rules.
pub(super) struct NextHop<T> {
    pub(super) peer: Peer<T>,
    address: SocketAddr,
    listener: Option<tcpstack::ListenerId>,
    /// The first rule whose prefix begins the line decides the reply; `.` stands for the end of
    /// data (by LMTP with the recipient behind it), `greeting` for the greeting, and the reply
    /// `close` for closing without one. An empty reply is none at all. `2close` and `2` are the
    /// same, but what was asked is done. After `hang` nothing more comes at all. Else all is
    /// accepted.
    pub(super) rules: Vec<(&'static str, &'static str)>,
    /// What it says to EHLO, or by LMTP to LHLO.
    pub(super) extensions: Vec<&'static str>,
    pub(super) is_lmtp: bool,
    stuck: BTreeSet<ConnectionId>,
    pub(super) messages: Vec<Delivered>,
    sessions: BTreeMap<ConnectionId, HopSession>,
}

/// What the next hop has taken.
#[derive(Clone, Debug)]
pub(super) struct Delivered {
    pub(super) connection: ConnectionId,
    /// The path of MAIL, and what follows it.
    pub(super) mail: String,
    pub(super) recipients: Vec<String>,
    pub(super) content: String,
}

#[derive(Default)]
struct HopSession {
    input: Vec<u8>,
    /// None outside a transaction.
    mail: Option<String>,
    recipients: Vec<String>,
    content: Option<String>,
    is_greeted: bool,
}

impl<T: Transport> NextHop<T> {
    pub(super) fn new(transport: T, address: SocketAddr) -> NextHop<T> {
        let mut hop = NextHop {
            peer: Peer::new(transport),
            address,
            listener: None,
            rules: Vec::new(),
            extensions: vec!["PIPELINING", "SIZE", "8BITMIME"],
            is_lmtp: false,
            stuck: BTreeSet::new(),
            messages: Vec::new(),
            sessions: BTreeMap::new(),
        };
        hop.set_listening(true);
        hop
    }

    /// Whether it has been asked to take content.
    pub(super) fn has_mail(&self) -> bool {
        self.sessions.values().any(|session| session.content.is_some())
    }

    pub(super) fn set_listening(&mut self, listening: bool) {
        match (listening, self.listener.take()) {
            (true, None) => {
                let listener = self.peer.transport.listen(self.address).unwrap();
                self.address = self.peer.transport.local_address(listener).unwrap();
                self.listener = Some(listener);
            }
            (false, Some(listener)) => self.peer.transport.unlisten(listener),
            (_, listener) => self.listener = listener,
        }
    }

    pub(super) fn turn(&mut self, now: Instant) -> bool {
        let has_worked = self.peer.turn(now);
        for id in self.peer.accepted.clone() {
            self.serve(id);
        }
        has_worked
    }

    fn serve(&mut self, id: ConnectionId) {
        let mut session = self.sessions.remove(&id).unwrap_or_default();
        if !session.is_greeted {
            session.is_greeted = true;
            self.answer(id, "greeting", "220 hop");
        }
        session.input.extend(self.peer.take_received(id));
        while !self.stuck.contains(&id)
            && let Some(end) = session.input.windows(2).position(|pair| pair == b"\r\n")
        {
            let line: Vec<u8> = session.input.drain(..end + 2).collect();
            let line = String::from_utf8(line[..end].to_vec()).unwrap();
            self.handle_line(id, &mut session, &line);
        }
        self.sessions.insert(id, session);
    }

    fn handle_line(&mut self, id: ConnectionId, session: &mut HopSession, line: &str) {
        if let Some(content) = &mut session.content {
            if line != "." {
                content.push_str(line.strip_prefix('.').unwrap_or(line));
                return content.push_str("\r\n");
            }
            let content = session.content.take().unwrap();
            let mail = session.mail.take().unwrap();
            let mut recipients = std::mem::take(&mut session.recipients);
            if self.is_lmtp {
                recipients.retain(|it| self.answer(id, &format!(".{it}"), "250 2.0.0 stored"));
            } else if !self.answer(id, ".", "250 2.0.0 taken") {
                recipients.clear();
            }
            if !recipients.is_empty() {
                self.messages.push(Delivered { connection: id, mail, recipients, content });
            }
            return;
        }
        let extensions = self.extensions.iter().map(|it| format!("250-{it}\r\n"));
        let hello = extensions.collect::<String>() + "250 HELP";
        let positive = match line.split([' ', ':']).next().unwrap() {
            "EHLO" if !self.is_lmtp => &*hello,
            "LHLO" if self.is_lmtp => &*hello,
            "EHLO" | "LHLO" | "HELO" => "500 5.5.1 what",
            "RCPT" if session.mail.is_none() => "503 5.5.1 no mail",
            "DATA" if session.recipients.is_empty() => "554 5.5.1 nobody",
            "DATA" => "354 go",
            "QUIT" => "221 bye",
            _ => "250 2.0.0 ok",
        };
        let is_positive = self.answer(id, line, positive);
        match line.split_once(":<") {
            Some(("RCPT TO", path)) if is_positive => {
                session.recipients.push(path.split_once('>').unwrap().0.to_owned());
            }
            Some(("MAIL FROM", path)) => {
                session.mail = is_positive.then(|| path.to_owned());
                session.recipients.clear();
            }
            _ if line == "DATA" && is_positive && !session.recipients.is_empty() => {
                session.content = Some(String::new());
            }
            _ => {}
        }
    }

    /// Answers as the rules say; returns whether the answer was positive.
    fn answer(&mut self, id: ConnectionId, line: &str, positive: &str) -> bool {
        let rule = self.rules.iter().find(|(prefix, _)| line.starts_with(prefix));
        let reply = rule.map_or(positive, |(_, reply)| reply);
        if self.peer.is_over(id) {
            return false;
        }
        match reply {
            "close" | "2close" => self.peer.close(id),
            "" | "2" => {}
            "hang" => _ = self.stuck.insert(id),
            reply => self.peer.send(id, &format!("{reply}\r\n")),
        }
        reply.starts_with(['2', '3'])
    }
}
