//! Asks servers for how long the owner of queues has been silent, and takes nothing from it.
//!
//! One inquiry has a connection to each server by each way there, and to the workers that have the queues. It is
//! over when all have answered, or when its time is.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kvs_proto::auth::NONCE_SIZE_BYTES;
use kvs_proto::body::QueueName;
use kvs_proto::{Client, ClientConfig, Event as Said, Status, Tag, Version};
use tcpstack::{ConnectionId, Event, Instant, Transport};

use crate::link::{LinkSettings, wire};

/// Most queues of one server that are asked about: they have one owner, and any of them would do.
pub const QUEUES_MAX: usize = 64;

/// Bytes that may wait to be sent: more than that many questions have.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Slices handed to the transport at once.
const SLICES_MAX: usize = 16;

/// A server, and what is asked about there.
#[derive(Debug)]
pub struct Question {
    /// How it is reached, and who asks.
    pub server: LinkSettings,
    /// The names of queues there; what is beyond [`QUEUES_MAX`] is not asked.
    pub queues: Vec<String>,
}

/// What a server has said.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Answer {
    /// The least silence of all queues that it knows.
    pub idle: Option<Duration>,
    /// What went wrong, if nothing was said.
    pub error: Option<String>,
}

/// An inquiry under way. [`turn`](Self::turn) until [`is_over`](Self::is_over), then
/// [`finish`](Self::finish).
#[derive(Debug)]
pub struct Inquiry {
    questions: Vec<Question>,
    answers: Vec<Answer>,
    lines: Vec<Line>,
    random: fastrand::Rng,
}

/// A connection.
#[derive(Debug)]
struct Line {
    connection: ConnectionId,
    /// Place of its question.
    question: usize,
    address: SocketAddr,
    local: Option<IpAddr>,
    /// Queues that are asked about here, by place in the question.
    queues: Vec<usize>,
    client: Option<Box<Client>>,
    /// Questions that were asked and not answered; all of them before it is welcomed.
    open: usize,
}

impl Inquiry {
    /// Begins to connect to all servers. The seed must not be guessable.
    pub fn begin<T: Transport>(
        now: Instant,
        transport: &mut T,
        questions: Vec<Question>,
        seed: u64,
    ) -> Inquiry {
        let answers = vec![Answer::default(); questions.len()];
        let random = fastrand::Rng::with_seed(seed);
        let mut inquiry = Inquiry { questions, answers, lines: Vec::new(), random };
        for place in 0..inquiry.questions.len() {
            let Question { server, queues } = &inquiry.questions[place];
            let queues = (0..queues.len().min(QUEUES_MAX)).collect::<Vec<_>>();
            let ways = [Some((server.address, server.local)), server.standby];
            for (address, local) in ways.into_iter().flatten() {
                inquiry.connect(now, transport, place, (address, local), queues.clone());
            }
        }
        inquiry
    }

    /// Takes what came and sends what there is. Returns whether there was anything.
    pub fn turn<T: Transport>(&mut self, now: Instant, transport: &mut T) -> bool {
        transport.poll(now);
        let mut worked = false;
        while let Some(event) = transport.next_event() {
            worked = true;
            self.handle_event(now, transport, event);
        }
        for line in &mut self.lines {
            line.send(transport);
        }
        transport.flush(now);
        worked
    }

    /// Whether nothing more will be said.
    pub fn is_over(&self) -> bool {
        self.lines.is_empty()
    }

    /// Ends it; the answers, in the order of the questions.
    pub fn finish<T: Transport>(mut self, transport: &mut T) -> Vec<Answer> {
        for line in self.lines.drain(..) {
            let answer = &mut self.answers[line.question];
            answer.error.get_or_insert_with(|| format!("{} does not answer", line.address));
            transport.abort(line.connection);
        }
        self.answers
    }

    fn connect<T: Transport>(
        &mut self,
        now: Instant,
        transport: &mut T,
        question: usize,
        (address, local): (SocketAddr, Option<IpAddr>),
        queues: Vec<usize>,
    ) {
        match transport.connect(now, address, local) {
            Ok(connection) => {
                let open = queues.len();
                let client = None;
                self.lines.push(Line {
                    connection,
                    question,
                    address,
                    local,
                    queues,
                    client,
                    open,
                });
            }
            Err(error) => self.note_error(question, format!("{address}: {error}")),
        }
    }

    fn note_error(&mut self, question: usize, error: String) {
        self.answers[question].error = Some(error);
    }

    fn handle_event<T: Transport>(&mut self, now: Instant, transport: &mut T, event: Event) {
        match event {
            Event::Connected(connection) => {
                let Some(place) = self.place(connection) else { return };
                let mut nonce = [0; NONCE_SIZE_BYTES];
                self.random.fill(&mut nonce);
                let line = &mut self.lines[place];
                let server = &self.questions[line.question].server;
                let config = ClientConfig {
                    account: server.account.clone(),
                    secret: server.secret.clone(),
                    nonce,
                    version_max: server.version_max,
                    output_bytes_max: OUTPUT_BYTES_MAX,
                };
                line.client = Some(Box::new(Client::new(wire(now), config)));
            }
            Event::Readable(connection) => {
                let Some(place) = self.place(connection) else { return };
                let Some(client) = &mut self.lines[place].client else { return };
                let received = transport.recv(connection, |bytes| {
                    client.handle_bytes(wire(now), bytes);
                    (bytes.len(), ())
                });
                if received == Err(tcpstack::RecvError::Finished) {
                    return self.end(transport, place, Some("it hangs up".into()));
                }
                self.handle_said(now, transport, place);
            }
            Event::Closed { connection, reason } => {
                if let Some(place) = self.place(connection) {
                    self.end(transport, place, Some(format!("{reason:?}")));
                }
            }
            Event::Writable(_) | Event::Accepted { .. } => {}
        }
    }

    /// Takes what the server of a line has said.
    fn handle_said<T: Transport>(&mut self, now: Instant, transport: &mut T, place: usize) {
        let mut elsewhere: Vec<(u16, Vec<usize>)> = Vec::new();
        let line = &mut self.lines[place];
        let (question, address, local) = (line.question, line.address, line.local);
        let mut failure = None;
        while let Some(said) = line.client.as_mut().and_then(|client| client.poll_event()) {
            match said {
                Said::Welcome { version: Version::V1, .. } => {
                    failure = Some("it speaks version 1, which does not tell of owners".into());
                }
                Said::Welcome { .. } => line.ask(now, &self.questions[question].queues),
                Said::Owner { idle_ms, .. } => {
                    line.open = line.open.saturating_sub(1);
                    let idle = idle_ms.map(|idle| Duration::from_millis(idle.into()));
                    let answer = &mut self.answers[question];
                    answer.idle = answer.idle.into_iter().chain(idle).min();
                }
                Said::Refused(refusal) if refusal.status == Status::WrongWorker => {
                    line.open = line.open.saturating_sub(1);
                    let queue = usize::try_from(refusal.sequence.0).unwrap_or(usize::MAX);
                    match elsewhere.iter_mut().find(|(port, _)| *port == refusal.port) {
                        Some((_, queues)) => queues.push(queue),
                        None => elsewhere.push((refusal.port, vec![queue])),
                    }
                }
                // It has restarted, and is not recorded any more, or is about not to be.
                Said::Refused(refusal) if refusal.status == Status::UnknownQueue => {
                    line.open = line.open.saturating_sub(1);
                }
                Said::Refused(refusal) => failure = Some(format!("{:?}", refusal.status)),
                Said::ProtocolError(error) => failure = Some(format!("{error:?}")),
                other => failure = Some(format!("it says {other:?}")),
            }
        }
        if line.open == 0 || failure.is_some() {
            self.end(transport, place, failure);
        }
        // A worker that sends us on from where we were sent is not followed.
        for (port, queues) in elsewhere.into_iter().filter(|(port, _)| *port != address.port()) {
            let is_first = self.questions[question].server.address.port() == address.port();
            let known = self.questions[question].queues.len();
            if is_first && queues.iter().all(|queue| *queue < known) {
                let to = (SocketAddr::new(address.ip(), port), local);
                self.connect(now, transport, question, to, queues);
            }
        }
    }

    fn end<T: Transport>(&mut self, transport: &mut T, place: usize, failure: Option<String>) {
        let Line { connection, question, address, .. } = self.lines.swap_remove(place);
        transport.close(connection);
        if let Some(why) = failure {
            return self.note_error(question, format!("{address}: {why}"));
        }
        // The other way to the same worker leads to the same answer.
        let is_same = |it: &Line| it.question == question && it.address.port() == address.port();
        while let Some(other) = self.lines.iter().position(is_same) {
            transport.abort(self.lines.swap_remove(other).connection);
        }
    }

    fn place(&self, connection: ConnectionId) -> Option<usize> {
        self.lines.iter().position(|line| line.connection == connection)
    }
}

impl Line {
    fn ask(&mut self, now: Instant, queues: &[String]) {
        let Some(client) = &mut self.client else { return };
        for place in &self.queues {
            let name = QueueName::parse(queues[*place].as_bytes());
            let Some(name) = name else {
                self.open -= 1;
                continue;
            };
            client.owner_get(wire(now), Tag(*place as u64), name);
        }
    }

    fn send(&mut self, transport: &mut impl Transport) {
        let Some(client) = &mut self.client else { return };
        while client.has_output() {
            let mut bytes: [&[u8]; SLICES_MAX] = [&[]; SLICES_MAX];
            let count = client.peek_output(&mut bytes);
            let offered = bytes[..count].iter().map(|slice| slice.len()).sum::<usize>();
            let slices: [IoSlice<'_>; SLICES_MAX] = bytes.map(IoSlice::new);
            // If the connection is gone, its event says so.
            let Ok(sent) = transport.send(self.connection, &slices[..count]) else { return };
            client.advance_output(sent);
            if sent < offered {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tcpstack::{SimNetwork, SimOptions, SimPath, SimTransport};

    use super::*;
    use crate::link::tests::server::Server;
    use crate::link::tests::settings;

    const PORT: u16 = 7000;

    fn ours() -> IpAddr {
        [10, 0, 0, 1].into()
    }

    fn theirs() -> IpAddr {
        [10, 0, 1, 1].into()
    }

    struct Bench {
        network: SimNetwork,
        transport: SimTransport,
        server: Server,
        now: Instant,
    }

    impl Bench {
        fn new() -> Bench {
            let delay = Duration::from_micros(50);
            let path = SimPath { delay, jitter: delay };
            let network = SimNetwork::new(1, SimOptions { path, ..SimOptions::default() });
            let addresses = [(theirs(), PORT).into(), (theirs(), PORT + 1).into()];
            let server = Server::new(network.host_with(&[theirs()]), &addresses);
            let transport = network.host_with(&[ours()]);
            Bench { network, transport, server, now: Instant::ZERO }
        }

        /// Asks about these queues, for two seconds at most.
        fn ask(&mut self, queues: &[&str]) -> Answer {
            let queues = queues.iter().map(|name| (*name).to_owned()).collect();
            let questions = vec![Question { server: settings(), queues }];
            let mut inquiry = Inquiry::begin(self.now, &mut self.transport, questions, 1);
            let until = self.now + Duration::from_secs(2);
            while !inquiry.is_over() && self.now < until {
                self.now += Duration::from_micros(100);
                self.network.advance(self.now);
                inquiry.turn(self.now, &mut self.transport);
                self.server.turn(self.now);
            }
            inquiry.finish(&mut self.transport).remove(0)
        }
    }

    fn silent(milliseconds: u64) -> Answer {
        Answer { idle: Some(Duration::from_millis(milliseconds)), error: None }
    }

    #[test]
    fn the_least_silence_of_all_queues_counts() {
        let mut bench = Bench::new();
        bench.server.idle_ms = [("gw/x".into(), 700), ("gw/y".into(), 300)].into();
        assert_eq!(bench.ask(&["gw/x"]), silent(700));
        assert_eq!(bench.ask(&["gw/x", "gw/y", "gw/unknown"]), silent(300));
        assert_eq!(bench.ask(&["gw/unknown"]), Answer::default(), "it knows nothing of an owner");
    }

    #[test]
    fn queues_are_asked_about_where_they_live() {
        let mut bench = Bench::new();
        bench.server.idle_ms = [("gw/x".into(), 700), ("gw/y".into(), 300)].into();
        bench.server.ports = [("gw/y".into(), PORT + 1)].into();
        assert_eq!(bench.ask(&["gw/x", "gw/y"]), silent(300));
        assert_eq!(bench.server.wrong_workers, 1);
    }

    #[test]
    fn a_server_that_does_not_answer_says_nothing_of_an_owner() {
        let mut bench = Bench::new();
        bench.server.is_stopped = true;
        let answer = bench.ask(&["gw/x"]);
        assert_eq!(answer.idle, None);
        assert!(answer.error.unwrap().contains("10.0.1.1:7000 does not answer"));
    }

    #[test]
    fn a_server_of_version_1_cannot_tell() {
        let mut bench = Bench::new();
        bench.server.version_max = Version::V1;
        let answer = bench.ask(&["gw/x"]);
        assert_eq!(answer.idle, None);
        assert!(answer.error.unwrap().contains("version 1"));
    }
}
