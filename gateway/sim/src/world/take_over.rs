//! Processes that are stopped, and gateways that take the queues over from one another.

use std::time::Duration;

use super::{LATE, World};
use crate::gateways::{PLACES, SMTP, STANDBY};
use crate::plan::{Fault, Node, Trouble};
use crate::scenario::{SERVERS, STANDBYS};

impl World {
    /// A node's process is stopped for a while: its host's kernel goes on.
    pub(super) fn pause(&mut self, node: Node, lasts: Duration) {
        let now = self.now();
        self.paused_nodes.retain(|(_, until)| now < *until);
        self.paused_nodes.push((node, now + lasts));
        // What it had sent is answered late, and told of late.
        self.mark_duplicates(&[Duration::ZERO, lasts, lasts + LATE]);
    }

    /// The gateway is in trouble for a while, and another one is started meanwhile.
    pub(super) fn begin_take_over(&mut self, trouble: Trouble, lasts: Duration, after: Duration) {
        let place = self.newest().expect("one is up, or it had to wait").place;
        match trouble {
            Trouble::None => {}
            Trouble::Stopped => self.pause(Node::Gateway(place), lasts),
            Trouble::CutOff => self.cut_off(place, lasts),
            Trouble::Alone => {
                self.cut_off(place, lasts);
                let life = self.newest().expect("as before").life;
                self.register.cut_off(life, self.now() + lasts);
            }
        }
        self.plan.add(self.now() + after, Fault::SuccessorStart);
    }

    /// A gateway reaches no server, and next hops and clients still.
    fn cut_off(&mut self, place: usize, lasts: Duration) {
        let now = self.now();
        for server in 0..self.servers.len() {
            let mut segments = vec![(SMTP[place].ip(), SERVERS[server].ip())];
            if self.scenario.has_standby {
                segments.push((STANDBY[place], STANDBYS[server].ip()));
            }
            for (gateway, server) in segments {
                self.network.partition(gateway, server);
                self.plan.add(now + lasts, Fault::Heal(gateway, server));
            }
        }
    }

    /// Another gateway of the same name starts, on the other host.
    pub(super) fn start_successor(&mut self) {
        let place = self.newest().map_or(self.last_place, |it| it.place);
        self.start_gateway((place + 1) % PLACES);
        self.mark_last_acts();
    }
}
