//! One connection of a link, to one worker of a server.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kvs_proto::auth::NONCE_SIZE_BYTES;
use kvs_proto::body::{Baseline as BaselineBody, QueueName};
use kvs_proto::{Client, ClientConfig, Epoch, Generation, QueueHandle, Sequence, Tag, Version};
use tcpstack::{ConnectionId, Instant, Transport};
use tracing::warn;

use super::LinkSettings;
use crate::message::QueueIndex;
use crate::replication::request::{Ask, Baseline, Changing, Request};

/// Bytes of requests that wait for one worker. At the bound the copies' pumps pause.
const OUTPUT_BYTES_MAX: usize = 4 << 20;

/// Messages and bytes that one block of recovery has at most.
const BLOCK_COUNT_MAX: u32 = 1000;
const BLOCK_BYTES_MAX: u32 = 8 << 20;

/// Slices handed to the transport at once.
const SLICES_MAX: usize = 64;

/// A lane. New, then connecting, then connected; up once it is welcomed.
#[derive(Debug)]
pub(super) struct Lane {
    address: SocketAddr,
    state: LaneState,
}

#[derive(Debug)]
enum LaneState {
    New,
    Connecting(ConnectionId),
    Connected {
        connection: ConnectionId,
        client: Box<Client>,
        /// The handshake is over.
        up: bool,
        /// The transport took less than was offered, and has not said that there is room again.
        blocked: bool,
        /// When it last said so: bytes have reached the server.
        moved_at: Instant,
        /// When a heart-beat was last sent although something was owed.
        probed_at: Instant,
    },
}

impl Lane {
    pub(super) fn new(address: SocketAddr) -> Lane {
        Lane { address, state: LaneState::New }
    }

    pub(super) fn is_new(&self) -> bool {
        matches!(self.state, LaneState::New)
    }

    pub(super) fn connection(&self) -> Option<ConnectionId> {
        match &self.state {
            LaneState::New => None,
            LaneState::Connecting(connection) | LaneState::Connected { connection, .. } => {
                Some(*connection)
            }
        }
    }

    pub(super) fn client_mut(&mut self) -> Option<&mut Client> {
        match &mut self.state {
            LaneState::Connected { client, .. } => Some(client),
            _ => None,
        }
    }

    /// The version that is spoken.
    pub(super) fn version(&self) -> Option<Version> {
        match &self.state {
            LaneState::Connected { client, .. } => Some(client.version()),
            _ => None,
        }
    }

    /// Whether the worker takes back-fill.
    pub(super) fn can_backfill(&self) -> bool {
        self.version().is_some_and(|version| version >= Version::V2)
    }

    /// Begins to connect; returns false if that is impossible now.
    pub(super) fn connect(
        &mut self,
        now: Instant,
        settings: &LinkSettings,
        local: Option<IpAddr>,
        transport: &mut impl Transport,
    ) -> bool {
        match transport.connect(now, self.address, local) {
            Ok(connection) => {
                self.state = LaneState::Connecting(connection);
                true
            }
            Err(error) => {
                warn!(server = %settings.server, address = %self.address, %error, "cannot connect");
                false
            }
        }
    }

    /// Connected: the handshake begins.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        settings: &LinkSettings,
        nonce: [u8; NONCE_SIZE_BYTES],
    ) {
        let config = ClientConfig {
            account: settings.account.clone(),
            secret: settings.secret.clone(),
            nonce,
            version_max: settings.version_max,
            output_bytes_max: OUTPUT_BYTES_MAX,
        };
        let client = Box::new(Client::new(wire(now), config));
        self.state = LaneState::Connected {
            connection,
            client,
            up: false,
            blocked: false,
            moved_at: Instant::ZERO,
            probed_at: Instant::ZERO,
        };
    }

    pub(super) fn set_up(&mut self) {
        if let LaneState::Connected { up, .. } = &mut self.state {
            *up = true;
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, LaneState::Connected { up: true, .. })
    }

    pub(super) fn unblock(&mut self, now: Instant) {
        if let LaneState::Connected { blocked, moved_at, .. } = &mut self.state {
            *blocked = false;
            *moved_at = now;
        }
    }

    /// Whether another request is welcome. A lane that is on its way up does not hold up others.
    pub(super) fn has_room(&self) -> bool {
        match &self.state {
            LaneState::Connected { client, .. } => client.room() > 0,
            _ => true,
        }
    }

    /// Since when the worker has been silent, or we awake to hear it, if it owes answers and that is too
    /// long.
    pub(super) fn silent_since(
        &self,
        now: Instant,
        settings: &LinkSettings,
        awake_since: Instant,
    ) -> Option<Instant> {
        let LaneState::Connected { client, .. } = &self.state else { return None };
        let since = from_wire(client.last_received()).max(awake_since);
        let is_long = now.saturating_since(since) >= settings.deadline;
        (is_long && client.unanswered() > 0).then_some(since)
    }

    /// Since when nothing has moved although answers are owed: no byte from the worker, none to it
    /// where many wait. `None` if nothing is owed.
    pub(super) fn quiet_since(&self, awake_since: Instant) -> Option<Instant> {
        let LaneState::Connected { client, moved_at, .. } = &self.state else { return None };
        let asked = from_wire(client.oldest_unanswered_since()?);
        let heard = from_wire(client.last_received());
        Some(asked.max(heard).max(*moved_at).max(awake_since))
    }

    /// When the worker last sent something; never, if it is not connected.
    pub(super) fn heard_at(&self) -> Instant {
        match &self.state {
            LaneState::Connected { client, .. } => from_wire(client.last_received()),
            _ => Instant::ZERO,
        }
    }

    /// Sends a heart-beat, whatever is owed, unless one was sent since something was last heard. It
    /// passes what waits in parts, so that a long message does not look like a dead path.
    pub(super) fn probe(&mut self, now: Instant) {
        let LaneState::Connected { client, up: true, probed_at, .. } = &mut self.state else {
            return;
        };
        if *probed_at <= from_wire(client.last_received()) {
            *probed_at = now;
            client.heart_beat(wire(now), Tag(0));
        }
    }

    /// Requests without an answer, and bytes that wait to be sent.
    pub(super) fn backlog(&self) -> (u64, usize) {
        match &self.state {
            LaneState::Connected { client, .. } => {
                (client.unanswered(), OUTPUT_BYTES_MAX - client.room())
            }
            _ => (0, 0),
        }
    }

    /// When the newest request was made that is known to be answered, if any is.
    pub(super) fn answered_since(&self) -> Option<Instant> {
        match &self.state {
            LaneState::Connected { client, .. } => client.answered_since().map(from_wire),
            _ => None,
        }
    }

    /// Sends a heart-beat when the newest request that was answered was made so long ago, unless one is on
    /// its way: also behind a long message that is not answered for long.
    pub(super) fn ask_whether_alive(&mut self, now: Instant, renew_after: Duration) {
        if self.is_up() && self.renewal_at(renew_after).is_some_and(|due| due <= now) {
            let LaneState::Connected { client, .. } = &mut self.state else { return };
            client.heart_beat(wire(now), Tag(0));
        }
    }

    /// When to send the next heart-beat, unless one is on its way.
    fn renewal_at(&self, renew_after: Duration) -> Option<Instant> {
        let LaneState::Connected { client, .. } = &self.state else { return None };
        let is_asked = client.heart_beat_at() > client.answered_since();
        (!is_asked).then(|| self.answered_since().unwrap_or(Instant::ZERO) + renew_after)
    }

    /// When there is something to look at: at least once per heart-beat, so that a longer time
    /// without a look tells that we were stalled.
    pub(super) fn next_deadline(&self, now: Instant, settings: &LinkSettings) -> Instant {
        match &self.state {
            LaneState::New => Instant::ZERO,
            LaneState::Connecting(_) => Instant::MAX,
            LaneState::Connected { client, .. } => {
                let heard = from_wire(client.last_received());
                let owes = client.unanswered() > 0;
                let due = if owes { settings.deadline } else { settings.heart_beat };
                let renewal = self.renewal_at(settings.renew_after()).filter(|_| self.is_up());
                let due = (heard + due).min(renewal.unwrap_or(Instant::MAX));
                if due > now {
                    due.min(now + settings.heart_beat)
                } else {
                    now + settings.heart_beat
                }
            }
        }
    }

    pub(super) fn send_output(&mut self, transport: &mut impl Transport) {
        let LaneState::Connected { connection, client, blocked, .. } = &mut self.state else {
            return;
        };
        while client.has_output() && !*blocked {
            let mut bytes: [&[u8]; SLICES_MAX] = [&[]; SLICES_MAX];
            let count = client.peek_output(&mut bytes);
            let offered = bytes[..count].iter().map(|slice| slice.len()).sum::<usize>();
            let slices: [IoSlice<'_>; SLICES_MAX] = bytes.map(IoSlice::new);
            // If the connection is gone, its event says so.
            let Ok(sent) = transport.send(*connection, &slices[..count]) else { return };
            client.advance_output(sent);
            *blocked = sent < offered;
        }
    }

    /// Attaches a queue as its owner's second connection, of the same generation.
    pub(super) fn attach_second(
        &mut self,
        now: Instant,
        generation: Generation,
        queue: QueueIndex,
        epoch: Epoch,
        name: &str,
        tag: Tag,
    ) {
        let LaneState::Connected { client, up: true, .. } = &mut self.state else { return };
        let queue = QueueHandle(queue.0);
        client.attach(wire(now), queue, tag, epoch, generation, queue_name(name));
    }

    /// Queues a request. Dropped on a lane that is not up: for `Create` and `Attach` the link has
    /// a copy, and nothing else is asked before those are answered.
    pub(super) fn encode(
        &mut self,
        now: Instant,
        generation: Generation,
        tag: Tag,
        request: Request,
    ) {
        let LaneState::Connected { client, up: true, .. } = &mut self.state else { return };
        let now = wire(now);
        let queue = QueueHandle(request.queue.0);
        let epoch = request.epoch;
        match request.ask {
            Ask::Create { name } => {
                // The queue's bounds are kept by us, and its operator may change them at any time. Those of a copy
                // would stay, and refuse what we have taken in good faith.
                let (name, bound) = (queue_name(&name), u64::MAX);
                client.create(now, queue, tag, epoch, generation, name, bound, bound);
            }
            Ask::Attach { name } => {
                client.attach(now, queue, tag, epoch, generation, queue_name(&name));
            }
            Ask::Drop => client.drop_queue(now, queue, tag),
            Ask::BlockGet { after } => {
                client.block_get(now, queue, tag, after, BLOCK_COUNT_MAX, BLOCK_BYTES_MAX);
            }
            Ask::OpsGet { after } => client.ops_get(now, queue, tag, after),
            Ask::IsAlive => client.heart_beat(now, alive_tag(request.queue)),
            Ask::Change { sequence, floor, change } => {
                encode_change(client, now, queue, sequence, floor, change);
            }
        }
    }
}

fn encode_change(
    client: &mut Client,
    now: kvs_proto::Instant,
    queue: QueueHandle,
    sequence: Sequence,
    floor: Sequence,
    change: Changing,
) {
    match change {
        Changing::Store(id, body) => client.store(now, queue, sequence, id, floor, &body),
        Changing::Backfill(id, body) => {
            client.backfill(now, queue, sequence, id, floor, &body);
        }
        Changing::Delete(id) => client.delete(now, queue, sequence, id, floor),
        Changing::Replace(id, version, state) => {
            client.replace(now, queue, sequence, id, floor, version, state);
        }
        Changing::Baseline(Baseline { transaction, hash, content, messages }) => {
            let body = BaselineBody { transaction, chain: hash, content, messages };
            client.baseline(now, queue, sequence, floor, &body);
        }
    }
}

/// The tag of a heart-beat that a queue's copies asked for. Those of the link itself have tag 0.
pub(super) fn alive_tag(queue: QueueIndex) -> Tag {
    Tag(u64::from(queue.0) + 1)
}

fn queue_name(name: &str) -> QueueName<'_> {
    QueueName::parse(name.as_bytes()).expect("names are checked with the configuration")
}

/// The same time on the link's own scale; both count from one origin.
pub(crate) fn wire(now: Instant) -> kvs_proto::Instant {
    kvs_proto::Instant::from_nanos(now.as_nanos())
}

fn from_wire(time: kvs_proto::Instant) -> Instant {
    Instant::from_nanos(time.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tests::settings;

    fn lane(begin: Instant, settings: &LinkSettings) -> Lane {
        let mut lane = Lane::new(settings.address);
        lane.begin(begin, ConnectionId { index: 0, generation: 0 }, settings, [0; 16]);
        lane
    }

    #[test]
    fn a_server_is_silent_only_while_we_could_have_heard_it() {
        let settings = settings();
        let begin = Instant::from_nanos(1_000_000_000);
        let lane = lane(begin, &settings);
        let later = begin + settings.deadline;
        assert_eq!(lane.silent_since(begin + settings.heart_beat, &settings, Instant::ZERO), None);
        assert_eq!(
            lane.silent_since(later, &settings, Instant::ZERO),
            Some(begin),
            "owes a challenge"
        );
        assert_eq!(lane.silent_since(later, &settings, later), None, "we have just come back");
        assert_eq!(lane.silent_since(later + settings.deadline, &settings, later), Some(later));
    }

    #[test]
    fn a_lane_is_quiet_from_when_bytes_last_moved_either_way() {
        let settings = settings();
        let begin = Instant::from_nanos(1_000_000_000);
        let mut lane = lane(begin, &settings);
        assert_eq!(lane.quiet_since(Instant::ZERO), Some(begin));
        let later = begin + Duration::from_millis(7);
        lane.unblock(later);
        assert_eq!(lane.quiet_since(Instant::ZERO), Some(later), "the server takes what waits");
        let back = later + Duration::from_millis(7);
        assert_eq!(lane.quiet_since(back), Some(back), "we have just come back");
    }
}
