//! One connection to a backup queue server: a transport and the protocol's client end, joined.

use std::io::IoSlice;
use std::net::SocketAddr;

use kvs_proto::auth::{NONCE_SIZE_BYTES, Secret};
use kvs_proto::{Client, ClientConfig, Version};
use tcpstack::{
    CloseReason, ConnectionId, Event as TcpEvent, Instant, OpenError, RecvError, Transport,
};

/// Who connects to which server.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub to: SocketAddr,
    /// The account's name.
    pub account: String,
    /// Its secret.
    pub secret: Secret,
    /// Fresh for each connection.
    pub nonce: [u8; NONCE_SIZE_BYTES],
}

/// Why a link is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    /// The connection ended.
    Closed(CloseReason),
    /// The server finished it.
    Finished,
}

/// A connection and its client.
pub(super) struct Link<T: Transport> {
    pub(super) transport: T,
    connection: ConnectionId,
    config: ClientConfig,
    client: Option<Client>,
    over: Option<Over>,
}

/// The most slices handed to one `send`: what a sendmsg takes comfortably.
const SLICES_PER_SEND: usize = 128;

/// Requests are made while less than this waits to be sent.
const OUTPUT_SIZE_BYTES_MAX: usize = 4 << 20;

impl<T: Transport> Link<T> {
    pub(super) fn open(mut transport: T, now: Instant, target: &Target) -> Result<Self, OpenError> {
        let connection = transport.connect(now, target.to, None)?;
        let config = ClientConfig {
            account: target.account.clone(),
            secret: target.secret.clone(),
            nonce: target.nonce,
            version_max: Version::CURRENT,
            output_bytes_max: OUTPUT_SIZE_BYTES_MAX,
        };
        Ok(Link { transport, connection, config, client: None, over: None })
    }

    /// The client, once connected.
    pub(super) fn client(&mut self) -> Option<&mut Client> {
        self.client.as_mut()
    }

    /// Why it is over, if it is.
    pub(super) fn over(&self) -> Option<Over> {
        self.over
    }

    /// Takes what came. Answers whether anything did.
    pub(super) fn receive(&mut self, now: Instant) -> bool {
        self.transport.poll(now);
        let mut worked = false;
        while let Some(event) = self.transport.next_event() {
            worked = true;
            match event {
                TcpEvent::Connected(_) => {
                    self.client = Some(Client::new(proto_time(now), self.config.clone()));
                }
                TcpEvent::Readable(id) => {
                    let Some(client) = &mut self.client else { continue };
                    let received = self.transport.recv(id, |bytes| {
                        client.handle_bytes(proto_time(now), bytes);
                        (bytes.len(), ())
                    });
                    if received == Err(RecvError::Finished) {
                        self.over = Some(Over::Finished);
                    }
                }
                TcpEvent::Closed { reason, .. } => self.over = Some(Over::Closed(reason)),
                TcpEvent::Writable(_) => {}
                TcpEvent::Accepted { .. } => unreachable!("a client does not listen"),
            }
        }
        worked
    }

    /// Sends what there is, as far as the transport takes it.
    pub(super) fn send(&mut self, now: Instant) {
        let Some(client) = &mut self.client else { return self.transport.flush(now) };
        while client.has_output() {
            let mut pieces: [&[u8]; SLICES_PER_SEND] = [&[]; SLICES_PER_SEND];
            let filled = client.peek_output(&mut pieces);
            let slices: [IoSlice<'_>; SLICES_PER_SEND] = pieces.map(IoSlice::new);
            let offered: usize = pieces[..filled].iter().map(|piece| piece.len()).sum();
            let Ok(sent) = self.transport.send(self.connection, &slices[..filled]) else { break };
            client.advance_output(sent);
            if sent < offered {
                break;
            }
        }
        self.transport.flush(now);
    }

    /// Ends the connection and gives the transport back.
    pub(super) fn close(mut self, now: Instant) -> T {
        self.transport.close(self.connection);
        self.transport.flush(now);
        self.transport
    }
}

pub(super) const fn proto_time(now: Instant) -> kvs_proto::Instant {
    kvs_proto::Instant::from_nanos(now.as_nanos())
}
