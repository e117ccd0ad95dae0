//! The flows of one peer: what was sent to it and not acknowledged, and what it was last told.

use std::time::Duration;

use smoltcp::phy::{ChecksumCapabilities, Device, TxToken};
use smoltcp::wire::TcpSeqNumber;

use super::recovery::{Recovery, RecoveryLimits};
use super::segment::{Segment, renew};
use super::to_smoltcp;
use crate::time::Instant;

/// See the module. A peer has few flows, so they are looked for one by one.
#[derive(Debug)]
pub(super) struct Flows {
    flows: Vec<Flow>,
    limits: RecoveryLimits,
    /// Packets that were sent, and of these, again.
    pub(super) sent: u64,
    pub(super) sent_again: u64,
}

#[derive(Debug)]
struct Flow {
    local_port: u16,
    remote_port: u16,
    recovery: Recovery,
    /// What was acknowledged last, and the window.
    told: Option<(TcpSeqNumber, u16)>,
    /// What the peer acknowledged last.
    heard: Option<TcpSeqNumber>,
}

impl Flows {
    pub(super) fn new(ack_delay: Duration, segments_max: usize) -> Flows {
        let limits =
            RecoveryLimits { segments_max, ack_delay, probe_min: PROBE_MIN, probe_max: PROBE_MAX };
        Flows { flows: Vec::new(), limits, sent: 0, sent_again: 0 }
    }

    /// The stack sends a packet to this peer.
    pub(super) fn handle_sent(&mut self, now: Instant, packet: &[u8]) {
        self.sent += 1;
        let Some(segment) = Segment::read(packet, false) else { return };
        let (local, remote) = (segment.source_port, segment.destination_port);
        let known = self.flows.iter().position(|it| it.is(local, remote));
        if segment.is_reset {
            // Nothing was acknowledged yet: our attempt to connect has met what is left of a former life of ours. The
            // reset clears that away, and the attempt goes on.
            let is_over = |place: &usize| self.flows[*place].told.is_some();
            known.filter(is_over).map(|place| self.flows.swap_remove(place));
            return;
        }
        let place = known.unwrap_or(self.flows.len());
        if known.is_none() {
            if !segment.is_numbered() {
                return;
            }
            let recovery = Recovery::new(self.limits);
            let (local_port, remote_port) = (local, remote);
            self.flows.push(Flow { local_port, remote_port, recovery, told: None, heard: None });
        }
        let flow = &mut self.flows[place];
        flow.told = segment.ack.map(|ack| (ack, segment.window)).or(flow.told);
        if segment.is_numbered() {
            flow.recovery.handle_sent(now, segment.from, segment.to, packet);
        }
    }

    /// A packet comes from this peer. Returns whether the stack is to see it: what only tells of a gap that is
    /// seen to already would have it send everything behind the gap again.
    pub(super) fn handle_received(&mut self, now: Instant, segment: &Segment) -> bool {
        let (local, remote) = (segment.destination_port, segment.source_port);
        let Some(place) = self.flows.iter().position(|it| it.is(local, remote)) else {
            return true;
        };
        if segment.is_reset {
            // If the stack does not believe it, that flow goes on without recovery until it sends again.
            self.flows.swap_remove(place);
            return true;
        }
        let Flow { recovery, heard, told, .. } = &mut self.flows[place];
        let Some(ack) = segment.ack else { return true };
        let is_news = heard.is_none_or(|heard| ack > heard);
        *heard = Some(heard.map_or(ack, |heard| heard.max(ack)));
        let ranges = segment.ranges.iter().flatten().map(|&(from, to)| (number(from), number(to)));
        recovery.handle_ack(now, ack, ranges);
        let is_again = segment.is_numbered() && told.is_some_and(|(told, _)| segment.to <= told);
        if is_again && !is_news {
            recovery.handle_asked_again(now);
        }
        is_news || !segment.tells_of_a_gap() || !recovery.is_waiting()
    }

    /// What the peer has acknowledged on the connection that an attempt to connect runs into; `None` if it runs into
    /// none, or the peer has not said anything there.
    pub(super) fn acknowledged_before(&self, attempt: &Segment) -> Option<TcpSeqNumber> {
        let (local, remote) = (attempt.destination_port, attempt.source_port);
        self.flows.iter().find(|it| it.is(local, remote))?.heard
    }

    /// That connection is over.
    pub(super) fn forget(&mut self, local_port: u16, remote_port: u16) {
        self.flows.retain(|it| !it.is(local_port, remote_port));
    }

    /// Whether anything is not acknowledged.
    pub(super) fn is_waiting(&self) -> bool {
        self.flows.iter().any(|flow| flow.recovery.is_waiting())
    }

    /// Whether the peer does not answer on one of them.
    pub(super) fn is_silent(&self) -> bool {
        self.flows.iter().any(Flow::is_silent)
    }

    /// Whether it does not answer on that one.
    pub(super) fn is_silent_at(&self, (local, remote): (u16, u16)) -> bool {
        self.flows.iter().any(|it| it.is(local, remote) && it.is_silent())
    }

    /// When something has to be sent again, if nothing is heard.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.flows.iter().filter_map(|flow| flow.recovery.deadline()).min()
    }

    /// Sends again what is lost, at most so many packets; how many it were.
    pub(super) fn send_again<D: Device>(
        &mut self,
        now: Instant,
        device: &mut D,
        checksums: &ChecksumCapabilities,
        most: usize,
    ) -> usize {
        let mut count = 0;
        for flow in &mut self.flows {
            while count < most
                && let Some(packet) = flow.recovery.next_lost(now)
            {
                let Some(token) = device.transmit(to_smoltcp(now)) else { break };
                token.consume(packet.len(), |memory| {
                    memory.copy_from_slice(packet);
                    if let Some((ack, window)) = flow.told {
                        renew(memory, ack, window, checksums);
                    }
                });
                count += 1;
            }
        }
        self.sent += u64::try_from(count).expect("few");
        self.sent_again += u64::try_from(count).expect("few");
        count
    }
}

impl Flow {
    /// It was connected once, and what was sent since has been asked for in vain.
    fn is_silent(&self) -> bool {
        self.heard.is_some() && self.recovery.probes() >= SILENT_AFTER_PROBES
    }

    fn is(&self, local_port: u16, remote_port: u16) -> bool {
        (self.local_port, self.remote_port) == (local_port, remote_port)
    }
}

fn number(raw: u32) -> TcpSeqNumber {
    TcpSeqNumber(raw.cast_signed())
}

/// About 25 ms, as each waits for twice as long as the one before: who is only slow has answered long before.
const SILENT_AFTER_PROBES: u32 = 7;

/// Below this a probe would come before a peer that sleeps has woken. (Where that is usual, round trips tell.)
const PROBE_MIN: Duration = Duration::from_micros(200);

/// A peer that does not answer is asked five times a second.
const PROBE_MAX: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use smoltcp::wire::{IpProtocol, Ipv4Packet, TcpPacket};

    use super::*;

    const US: [u8; 4] = [10, 0, 0, 1];
    const PEER: [u8; 4] = [10, 0, 0, 2];
    const START: i32 = 1_000;

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + micros * 1_000)
    }

    /// What we send, from that number on, with 100 octets.
    fn packet(from: i32) -> Vec<u8> {
        let mut packet = vec![0; 140];
        let mut ip = Ipv4Packet::new_unchecked(&mut packet);
        ip.set_version(4);
        ip.set_header_len(20);
        ip.set_total_len(140);
        ip.set_next_header(IpProtocol::Tcp);
        ip.set_src_addr(US.into());
        ip.set_dst_addr(PEER.into());
        ip.fill_checksum();
        let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
        tcp.set_src_port(7);
        tcp.set_dst_port(8);
        tcp.set_header_len(20);
        tcp.set_seq_number(TcpSeqNumber(from));
        tcp.set_ack(true);
        tcp.set_ack_number(TcpSeqNumber(5_000));
        packet
    }

    /// What the peer says of it: it has everything before `upto`, and this range.
    fn answer(upto: i32, range: Option<(i32, i32)>) -> Segment {
        let mut segment = Segment::read(&packet(5_000), false).unwrap();
        (segment.source_port, segment.destination_port) = (8, 7);
        segment.to = segment.from;
        segment.ack = Some(TcpSeqNumber(upto));
        segment.ranges[0] = range.map(|(from, to)| (from.cast_unsigned(), to.cast_unsigned()));
        segment
    }

    fn sender() -> Flows {
        let mut flows = Flows::new(Duration::from_micros(200), 100);
        for segment in 0..6 {
            flows.handle_sent(at(0), &packet(START + segment * 100));
        }
        flows
    }

    #[test]
    fn the_stack_hears_of_what_has_arrived_and_not_of_gaps_alone() {
        let mut flows = sender();
        let gap = Some((START + 300, START + 400));
        assert!(flows.handle_received(at(20), &answer(START + 100, None)));
        assert!(!flows.handle_received(at(21), &answer(START + 100, gap)));
        assert!(flows.handle_received(at(22), &answer(START + 200, gap)), "one more is there");
        assert!(!flows.handle_received(at(23), &answer(START + 200, gap)));
        assert!(flows.handle_received(at(24), &answer(START + 600, None)));
        assert!(!flows.is_waiting());
    }

    #[test]
    fn an_answer_is_sent_again_when_its_question_comes_again() {
        let mut flows = sender();
        assert!(flows.handle_received(at(20), &answer(START + 500, None)));
        let first = flows.deadline().unwrap();
        let mut question = answer(START + 500, None);
        question.from = TcpSeqNumber(4_900);
        flows.handle_received(at(100), &question);
        assert_eq!(flows.deadline(), Some(at(100)));
        assert!(at(100) < first);
        // Not when it is a new one: whoever asks that had no time to hear the answer to another.
        let mut flows = sender();
        assert!(flows.handle_received(at(20), &answer(START + 500, None)));
        (question.from, question.to) = (TcpSeqNumber(5_000), TcpSeqNumber(5_100));
        flows.handle_received(at(100), &question);
        assert_eq!(flows.deadline(), Some(first));
    }
}
