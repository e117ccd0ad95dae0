//! Connections without work, which any lane with the same terms may go on with.
//!
//! Where thousands of queues share a next hop, mail for each of them is rare: a connection for each would mostly be idle,
//! and be cold when it is wanted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use smtp::Protocol;
use tcpstack::ConnectionId;

use crate::front::config::Destination;

/// All that a connection has from the destination that it was made for. Those of equal terms are interchangeable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Terms {
    pub(super) next_hop: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) pipeline_transactions: bool,
    pub(super) transactions_max: u32,
    pub(super) recipients_max: usize,
    /// Longest that a transaction may take.
    pub(super) transfer_timeout: Duration,
}

impl Terms {
    /// Of connections for that destination to one of its addresses.
    pub(super) fn new(destination: &Destination, next_hop: SocketAddr) -> Terms {
        Terms {
            next_hop,
            protocol: destination.protocol,
            pipeline_transactions: destination.pipeline_transactions,
            transactions_max: destination.messages_per_connection_max,
            recipients_max: destination.recipients_max,
            transfer_timeout: destination.transfer_timeout,
        }
    }
}

/// Connections that were without work when they were put in: whoever takes one looks whether it still is. Each is there at
/// most once, which is its owner's part.
#[derive(Debug, Default)]
pub(super) struct Pool {
    by_terms: HashMap<Terms, Vec<ConnectionId>>,
}

impl Pool {
    pub(super) fn put(&mut self, terms: Terms, id: ConnectionId) {
        self.by_terms.entry(terms).or_default().push(id);
    }

    /// The last that was put in: the others get old, and end.
    pub(super) fn take(&mut self, terms: Terms) -> Option<ConnectionId> {
        self.by_terms.get_mut(&terms)?.pop()
    }

    /// Takes out one that has ended.
    pub(super) fn forget(&mut self, terms: Terms, id: ConnectionId) {
        let Some(ids) = self.by_terms.get_mut(&terms) else { return };
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            self.by_terms.remove(&terms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u32) -> ConnectionId {
        ConnectionId { index, generation: 0 }
    }

    #[test]
    fn the_last_one_put_in_comes_out_first_and_only_for_equal_terms() {
        let hop = "192.0.2.1:25".parse().unwrap();
        let destination = Destination::new("q", vec![hop]);
        let terms = Terms::new(&destination, hop);
        let others = Terms { recipients_max: terms.recipients_max + 1, ..terms };
        let mut pool = Pool::default();
        (0..4).for_each(|index| pool.put(terms, id(index)));
        assert_eq!(pool.take(others), None);
        pool.forget(terms, id(3));
        pool.forget(others, id(2));
        let taken: Vec<_> = std::iter::from_fn(|| pool.take(terms)).collect();
        assert_eq!(taken, [id(2), id(1), id(0)]);
        pool.forget(terms, id(0));
        assert!(pool.by_terms.is_empty());
    }
}
