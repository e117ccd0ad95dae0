//! What is ours, of all that comes by an interface.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use super::error::XdpError;

/// What is ours: whole TCP segments over IPv4 without options, from a peer's address to our address and a port of
/// ours. Those go to the socket of the NIC queue that their port belongs to; all else, fragments and what is too
/// short included, goes to the kernel.
///
/// What is ours and came by another NIC queue is dropped and counted: no socket there knows the connection, and it
/// would be answered with a reset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// Our address on the link.
    pub local: Ipv4Addr,
    /// Whom we talk to there. At most 256.
    pub peers: Vec<Ipv4Addr>,
    /// Our ports: where we listen, and from where we connect. At most 256 blocks, which do not overlap.
    pub blocks: Vec<PortBlock>,
}

/// Ports of ours, and the NIC queue that the interface steers what comes for them to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortBlock {
    /// The ports.
    pub ports: RangeInclusive<u16>,
    /// The NIC queue.
    pub queue: u32,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is not ours.
    Kernel,
    /// It is ours, and goes to the socket of the NIC queue by which it came.
    Socket,
    /// It is ours, and came by another NIC queue than this, which is its.
    Astray(u32),
}

/// Bounds of a filter, so that its program stays short. More is refused when an interface is opened.
pub(super) const PEERS_MAX: usize = 256;
pub(super) const BLOCKS_MAX: usize = 256;
/// NIC queues are below this. More is refused likewise.
pub(super) const QUEUES_MAX: u32 = 256;

impl Filter {
    /// What becomes of a packet (from its Ethernet header on) that came by a NIC queue: the rule that the program in
    /// the kernel obeys.
    pub fn verdict(&self, packet: &[u8], queue: u32) -> Verdict {
        match self.queue_of(packet) {
            None => Verdict::Kernel,
            Some(its) if its == queue => Verdict::Socket,
            Some(its) => Verdict::Astray(its),
        }
    }

    /// The NIC queue by which a packet should come, if it is ours.
    fn queue_of(&self, packet: &[u8]) -> Option<u32> {
        let (ethernet, packet) = packet.split_at_checked(14)?;
        let (ip, tcp) = packet.split_at_checked(20)?;
        let (ports, _) = tcp.split_at_checked(20)?;
        let is_whole = ip[6] & 0x3f == 0 && ip[7] == 0;
        let is_tcp = ethernet[12..] == [8, 0] && ip[0] == 0x45 && ip[9] == 6;
        let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let is_to_us = address(16) == self.local && self.peers.contains(&address(12));
        let port = u16::from_be_bytes([ports[2], ports[3]]);
        let block = self.blocks.iter().find(|block| block.ports.contains(&port))?;
        (is_whole && is_tcp && is_to_us).then_some(block.queue)
    }

    /// The NIC queues of its blocks, each once, ascending.
    pub fn queues(&self) -> Vec<u32> {
        let mut queues: Vec<u32> = self.blocks.iter().map(|block| block.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    pub(super) fn check(&self) -> Result<(), XdpError> {
        let wrong = |what: &str| Err(XdpError::Options(what.to_owned()));
        if self.blocks.is_empty() {
            return wrong("there are no ports that are ours");
        }
        if self.blocks.len() > BLOCKS_MAX || self.peers.len() > PEERS_MAX {
            return wrong("at most 256 peers and 256 blocks of ports");
        }
        if self.blocks.iter().any(|block| block.ports.is_empty() || *block.ports.start() == 0) {
            return wrong("a block of ports is empty, or begins with 0");
        }
        if self.blocks.iter().any(|block| block.queue >= QUEUES_MAX) {
            return wrong("NIC queues are below 256");
        }
        let mut ranges: Vec<_> = self.blocks.iter().map(|block| block.ports.clone()).collect();
        ranges.sort_unstable_by_key(|ports| *ports.start());
        if ranges.windows(2).any(|pair| pair[0].end() >= pair[1].start()) {
            return wrong("blocks of ports overlap");
        }
        if self.peers.contains(&self.local) {
            return wrong("our own address is among the peers");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter() -> Filter {
        Filter {
            local: Ipv4Addr::new(10, 0, 0, 1),
            peers: vec![Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(200, 0, 0, 3)],
            blocks: vec![
                PortBlock { ports: 7001..=7001, queue: 1 },
                PortBlock { ports: 61_440..=61_503, queue: 2 },
            ],
        }
    }

    fn segment(source: [u8; 4], destination: [u8; 4], port: u16) -> Vec<u8> {
        let mut packet = vec![0; 54];
        packet[12..14].copy_from_slice(&[8, 0]);
        packet[14] = 0x45;
        packet[23] = 6;
        packet[26..30].copy_from_slice(&source);
        packet[30..34].copy_from_slice(&destination);
        packet[36..38].copy_from_slice(&port.to_be_bytes());
        packet
    }

    #[test]
    fn segments_between_a_peer_and_us_go_to_the_socket_of_their_queue() {
        let ours = |port| segment([10, 0, 0, 2], [10, 0, 0, 1], port);
        let verdict = |port, queue| filter().verdict(&ours(port), queue);
        assert_eq!(verdict(7001, 1), Verdict::Socket);
        assert_eq!(verdict(7001, 0), Verdict::Astray(1));
        assert_eq!(verdict(61_440, 2), Verdict::Socket);
        assert_eq!(verdict(61_503, 2), Verdict::Socket);
        assert_eq!(verdict(61_504, 2), Verdict::Kernel);
        let far = segment([200, 0, 0, 3], [10, 0, 0, 1], 7001);
        assert_eq!(filter().verdict(&far, 1), Verdict::Socket);
    }

    #[test]
    fn all_else_goes_to_the_kernel() {
        let ours = segment([10, 0, 0, 2], [10, 0, 0, 1], 7001);
        let changed = |at: usize, byte| {
            let mut packet = ours.clone();
            packet[at] = byte;
            filter().verdict(&packet, 1)
        };
        let kernel = Verdict::Kernel;
        assert_eq!(filter().verdict(&ours[..53], 1), kernel, "too short");
        assert_eq!(filter().verdict(&[], 1), kernel);
        assert_eq!(changed(13, 6), kernel, "ARP");
        assert_eq!(changed(14, 0x46), kernel, "options");
        assert_eq!(changed(20, 0x20), kernel, "the first fragment");
        assert_eq!(changed(21, 1), kernel, "a later fragment");
        assert_eq!(changed(20, 0x40), Verdict::Socket, "not to be fragmented");
        assert_eq!(changed(23, 17), kernel, "UDP");
        assert_eq!(changed(29, 9), kernel, "a stranger");
        assert_eq!(changed(33, 9), kernel, "not to us");
        assert_eq!(changed(37, 0), kernel, "another port");
    }

    #[test]
    fn a_filter_that_makes_no_sense_is_refused() {
        assert!(filter().check().is_ok());
        let refused = |change: fn(&mut Filter)| {
            let mut filter = filter();
            change(&mut filter);
            filter.check().unwrap_err().to_string()
        };
        assert!(refused(|it| it.blocks.clear()).contains("no ports"));
        assert!(refused(|it| it.blocks[0].ports = 61_500..=61_510).contains("overlap"));
        assert!(refused(|it| it.blocks[0].ports = RangeInclusive::new(2, 1)).contains("empty"));
        assert!(refused(|it| it.blocks[0].ports = 0..=1).contains("begins with 0"));
        assert!(refused(|it| it.blocks[0].queue = 256).contains("below 256"));
        assert!(refused(|it| it.peers = vec![it.local]).contains("our own"));
        assert!(refused(|it| it.peers = vec![it.peers[0]; 257]).contains("at most"));
    }

    #[test]
    fn queues_are_told_once_each() {
        let mut filter = filter();
        filter.blocks.push(PortBlock { ports: 1..=2, queue: 1 });
        assert_eq!(filter.queues(), [1, 2]);
    }
}
