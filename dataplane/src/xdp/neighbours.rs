//! Where the others are on the link: the Ethernet header of what is sent.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];

/// What the kernel knows of the neighbours of one interface, and of the interface itself.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Neighbours {
    own: Mac,
    /// Those that are peers. As many as a filter may have.
    known: Vec<(Ipv4Addr, Mac)>,
}

impl Neighbours {
    pub(super) fn set_own(&mut self, own: Mac) {
        self.own = own;
    }

    pub(super) fn note(&mut self, address: Ipv4Addr, mac: Mac) {
        match self.known.iter_mut().find(|(known, _)| *known == address) {
            Some((_, known)) => *known = mac,
            None => self.known.push((address, mac)),
        }
    }

    pub(super) fn forget(&mut self, address: Ipv4Addr) {
        self.known.retain(|(known, _)| *known != address);
    }

    pub(super) fn retain(&mut self, peers: &[Ipv4Addr]) {
        self.known.retain(|(known, _)| peers.contains(known));
    }

    pub(super) fn known(&self) -> &[(Ipv4Addr, Mac)] {
        &self.known
    }

    pub(super) fn knows(&self, address: Ipv4Addr) -> bool {
        self.known.iter().any(|(known, _)| *known == address)
    }

    /// Writes the Ethernet header of an IPv4 packet; false if nobody knows where it is to go.
    pub(super) fn address(&self, packet: &[u8], header: &mut [u8]) -> bool {
        let Some(Ok(destination)) = packet.get(16..20).map(<[u8; 4]>::try_from) else {
            return false;
        };
        let destination = Ipv4Addr::from(destination);
        let Some((_, mac)) = self.known.iter().find(|(known, _)| *known == destination) else {
            return false;
        };
        header[..6].copy_from_slice(mac);
        header[6..12].copy_from_slice(&self.own);
        header[12..].copy_from_slice(&ETHERTYPE_IPV4);
        true
    }
}

/// The table as the thread that watches the kernel's news last saw it, for the threads that send.
#[derive(Debug, Default)]
pub(super) struct Board {
    version: AtomicU64,
    table: Mutex<Arc<Neighbours>>,
}

impl Board {
    pub(super) fn publish(&self, table: &Neighbours) {
        let mut published = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if **published != *table {
            *published = Arc::new(table.clone());
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// The table, if it is not the one of that version any more.
    pub(super) fn newer_than(&self, version: &mut u64) -> Option<Arc<Neighbours>> {
        let newest = self.version.load(Ordering::Acquire);
        if newest == *version {
            return None;
        }
        *version = newest;
        Some(self.table())
    }

    pub(super) fn table(&self) -> Arc<Neighbours> {
        Arc::clone(&self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn packet_to(address: Ipv4Addr) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[16..].copy_from_slice(&address.octets());
        packet
    }

    #[test]
    fn a_packet_goes_to_where_its_receiver_was_last_seen() {
        let mut table = Neighbours::default();
        table.set_own([1; 6]);
        table.note(PEER, [2; 6]);
        table.note(PEER, [3; 6]);
        let mut header = [0; 14];
        assert!(table.address(&packet_to(PEER), &mut header));
        assert_eq!(header, [3, 3, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 8, 0]);
    }

    #[test]
    fn nobody_knows_who_was_forgotten_or_what_has_no_address() {
        let mut table = Neighbours::default();
        table.note(PEER, [2; 6]);
        let mut header = [0; 14];
        assert!(!table.address(&packet_to(PEER)[..19], &mut header));
        assert!(!table.address(&packet_to(Ipv4Addr::LOCALHOST), &mut header));
        table.forget(PEER);
        assert!(!table.knows(PEER) && !table.address(&packet_to(PEER), &mut header));
    }

    #[test]
    fn a_table_is_taken_once_and_again_when_it_has_changed() {
        let board = Board::default();
        let (mut version, mut table) = (0, Neighbours::default());
        assert_eq!(board.newer_than(&mut version), None);
        table.note(PEER, [2; 6]);
        board.publish(&table);
        assert!(board.newer_than(&mut version).unwrap().knows(PEER));
        board.publish(&table);
        assert_eq!(board.newer_than(&mut version), None, "it is the same");
        table.retain(&[]);
        board.publish(&table);
        assert!(!board.newer_than(&mut version).unwrap().knows(PEER));
    }
}
