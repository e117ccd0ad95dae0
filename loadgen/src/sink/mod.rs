//! The cheapest possible receiver of mail, which checks what it gets and misbehaves when asked to.

mod counts;
mod desk;
mod faults;
mod offer;
mod order;
mod parameters;
mod session;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::PathBuf;

use tcpstack::{
    ConnectionId, Event as TcpEvent, Instant, ListenerId, OpenError, RecvError, Transport,
};

pub use counts::SinkCounts;
pub use faults::{Fault, FaultCounts, Faults, Misbehaviour, Phase};
pub use offer::{Limits, Offer};

use crate::ledger::{Event, Recorder};
use desk::Desk;
use session::{Session, Settings};

/// How a [`Sink`] behaves.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// Where it listens; not empty.
    pub listen: Vec<SocketAddr>,
    /// Its number in ledgers.
    pub sink: u32,
    /// Decides which mails the faults hit.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// How far first attempts may be displaced within a queue before it counts as a fault; 0:
    /// strict; `None`: not judged here. Judged by sequence numbers, so it fits senders with one
    /// session or few, and no faults at recipients; the ledger judges by acceptance.
    pub displacement_max: Option<u64>,
    /// What it offers.
    pub offer: Offer,
    /// It speaks LMTP (RFC 2033) instead of SMTP.
    pub lmtp: bool,
    /// Recipients of one mail beyond that are answered 452, without a word in EHLO.
    pub recipients_max: Option<u32>,
    /// Largest mail that is taken; larger ones are answered 552.
    pub size_bytes_max: usize,
    /// Where each accepted mail is written: `N.eml` as received (dots undone) and `N.envelope`.
    pub dump: Option<PathBuf>,
    /// Microseconds since 1970 at [`Instant::ZERO`].
    pub unix_origin_us: u64,
}

impl Default for SinkConfig {
    /// Well-behaved, at a free port of the loopback interface.
    fn default() -> SinkConfig {
        SinkConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            sink: 0,
            seed: 0,
            faults: Faults::default(),
            displacement_max: None,
            offer: Offer::default(),
            lmtp: false,
            recipients_max: None,
            size_bytes_max: 64 << 20,
            dump: None,
            unix_origin_us: 0,
        }
    }
}

/// The sink: sessions on one transport, as many as the transport takes. The loop around it calls
/// [`Sink::turn`], and [`Sink::wait`] when there was nothing to do.
pub struct Sink<T: Transport> {
    transport: T,
    listeners: Vec<ListenerId>,
    /// By the connection's index.
    sessions: Vec<Option<(ConnectionId, Session)>>,
    /// When replies go on that go a byte at a time.
    timers: BinaryHeap<Reverse<(Instant, ConnectionId)>>,
    desk: Desk,
}

impl<T: Transport> Sink<T> {
    /// Begins to listen.
    ///
    /// # Errors
    /// The first address that cannot be listened at says why.
    pub fn open(
        mut transport: T,
        config: SinkConfig,
        now: Instant,
        recorder: Box<dyn Recorder>,
    ) -> Result<Sink<T>, OpenError> {
        let listeners = config
            .listen
            .iter()
            .map(|&address| transport.listen(address))
            .collect::<Result<_, _>>()?;
        let desk = Desk::new(config, now, recorder);
        Ok(Sink { transport, listeners, sessions: Vec::new(), timers: BinaryHeap::new(), desk })
    }

    /// Where it listens, with real ports.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|&id| self.transport.local_address(id)).collect()
    }

    /// What it has counted.
    pub fn counts(&self) -> &SinkCounts {
        &self.desk.counts
    }

    /// The first faults that it counted, in words.
    pub fn examples(&self) -> &[String] {
        &self.desk.examples
    }

    /// What it has done wrong on purpose.
    pub fn done_wrong(&self) -> &FaultCounts {
        &self.desk.done_wrong
    }

    /// Sets what it does wrong from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.desk.config.faults = faults;
    }

    /// Does what there is to do, and answers whether there was anything.
    pub fn turn(&mut self, now: Instant) -> bool {
        self.desk.now = now;
        self.transport.poll(now);
        let mut worked = false;
        while let Some(event) = self.transport.next_event() {
            worked = true;
            match event {
                TcpEvent::Accepted { connection, .. } => self.handle_accepted(connection),
                TcpEvent::Readable(connection) => self.handle_readable(connection),
                TcpEvent::Writable(connection) => self.send(connection),
                TcpEvent::Closed { connection, .. } => self.forget(connection),
                TcpEvent::Connected(_) => unreachable!("a sink connects to nobody"),
            }
        }
        while self.timers.peek().is_some_and(|&Reverse((due, _))| due <= now) {
            let Some(Reverse((_, connection))) = self.timers.pop() else { break };
            worked = true;
            self.send(connection);
        }
        self.desk.recorder.turn(now);
        self.transport.flush(now);
        worked
    }

    /// When it wants its next turn, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|&Reverse((due, _))| due);
        [timer, self.transport.next_deadline()].into_iter().flatten().min()
    }

    /// Sleeps until something happens, or until then.
    pub fn wait(&mut self, now: Instant, until: Option<Instant>) {
        self.transport.wait(now, until);
    }

    /// Ends on purpose: the log gets its end, connections are cut.
    ///
    /// # Errors
    /// The first mail that could not be dumped says why.
    pub fn finish(mut self) -> io::Result<SinkCounts> {
        let at_us = self.desk.unix_us();
        self.desk.recorder.record(Event::End { at_us });
        self.desk.dump_error.map_or(Ok(self.desk.counts), Err)
    }

    fn handle_accepted(&mut self, connection: ConnectionId) {
        self.desk.counts.connections += 1;
        let index = connection.index as usize;
        if self.sessions.len() <= index {
            self.sessions.resize_with(index + 1, || None);
        }
        let SinkConfig { size_bytes_max, offer, lmtp, recipients_max, .. } = self.desk.config;
        let settings = Settings { size_bytes_max, offer, lmtp, recipients_max };
        let session = Session::new(settings, &mut self.desk);
        self.sessions[index] = Some((connection, session));
        self.send(connection);
    }

    fn handle_readable(&mut self, connection: ConnectionId) {
        let Some(session) = session_of(&mut self.sessions, connection) else { return };
        let desk = &mut self.desk;
        let received = self.transport.recv(connection, |bytes| {
            session.handle_bytes(bytes, desk);
            (bytes.len(), ())
        });
        desk.counts.bad_commands += std::mem::take(&mut session.bad_commands);
        match received {
            Ok(()) => self.send(connection),
            Err(RecvError::WouldBlock) => {}
            Err(RecvError::Finished | RecvError::Gone) => {
                self.transport.close(connection);
                self.forget(connection);
            }
        }
    }

    /// Sends what there is. While the peer does not take it nothing more is received, so that
    /// replies cannot pile up.
    fn send(&mut self, connection: ConnectionId) {
        let now = self.desk.now;
        let Some(session) = session_of(&mut self.sessions, connection) else { return };
        let rest = session.output.sendable(now);
        if !rest.is_empty() {
            let Ok(sent) = self.transport.send(connection, &[IoSlice::new(rest)]) else { return };
            session.output.note_sent(sent, now);
        }
        let all_sent = session.output.is_empty();
        if all_sent && session.is_ending() {
            self.transport.close(connection);
            self.forget(connection);
        } else if all_sent && session.is_resetting() {
            self.transport.abort(connection);
            self.forget(connection);
        } else {
            self.transport.set_receiving(connection, all_sent && !session.is_stalled());
            if let Some(due) = session.output.next_due() {
                self.timers.push(Reverse((due, connection)));
            }
        }
    }

    fn forget(&mut self, connection: ConnectionId) {
        if let Some(session) = session_of(&mut self.sessions, connection) {
            session.handle_end(&mut self.desk);
            self.sessions[connection.index as usize] = None;
        }
    }
}

fn session_of(
    sessions: &mut [Option<(ConnectionId, Session)>],
    connection: ConnectionId,
) -> Option<&mut Session> {
    let (of, session) = sessions.get_mut(connection.index as usize)?.as_mut()?;
    (*of == connection).then_some(session)
}
