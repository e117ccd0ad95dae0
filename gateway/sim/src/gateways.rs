//! Gateways of one name, each on a host of its own: the one that serves, and perhaps a former one that does not
//! know yet that it is the owner no more.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use gateway::message::QueueIndex;
use gateway::settings::Settings;
use kvs_proto::Epoch;
use tcpstack::{Instant, SimTapped};

use crate::dialogue::{Dialogue, Seen};
use crate::gateway_host::GatewayHost;
use crate::scenario::{GATEWAY_SMTP, GATEWAY_STANDBY, SINK, Scenario};

/// Hosts on which a gateway may run.
pub const PLACES: usize = 2;

/// Where each of them receives mail.
pub const SMTP: [SocketAddr; PLACES] =
    [GATEWAY_SMTP, SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 25)];

/// Their addresses on the second network segment.
pub const STANDBY: [IpAddr; PLACES] = [GATEWAY_STANDBY, IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2))];

/// A gateway that runs.
#[derive(Debug)]
pub struct Running {
    /// Its process.
    pub host: GatewayHost,
    /// On which of the hosts.
    pub place: usize,
    /// Which life of the name it is, as the register knows it: a later start has a higher one.
    pub life: u64,
    /// Another one was started while it ran, or it while another one ran: either may lose records to the
    /// other, and has to stop then.
    pub is_contested: bool,
    /// What it did with paths has been counted.
    pub is_counted: bool,
    /// Its SMTP connections, by their ends.
    dialogues: BTreeMap<(SocketAddr, SocketAddr), Dialogue>,
}

/// What was seen on an SMTP connection of a gateway.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// When.
    pub at: Instant,
    /// Which life of the gateway.
    pub life: u64,
    /// The gateway is the client, and the server is the next hop; else it is the server.
    pub is_delivery: bool,
    /// What.
    pub seen: Seen,
    /// The queues of the recipients, by place, with the epoch of this gateway.
    pub queues: Vec<(usize, Epoch)>,
}

impl Running {
    /// A gateway that has just been started.
    pub fn new(host: GatewayHost, place: usize, life: u64, is_contested: bool) -> Running {
        let dialogues = BTreeMap::new();
        Running { host, place, life, is_contested, is_counted: false, dialogues }
    }

    /// Takes in what it sent or took; tells what that shows.
    pub fn see(&mut self, tapped: &SimTapped, scenario: &Scenario, sightings: &mut Vec<Sighting>) {
        let SimTapped { at, local, remote, is_sent, bytes } = tapped;
        let is_delivery = *remote == SINK;
        let dialogue = self.dialogues.entry((*local, *remote)).or_default();
        let mut all = Vec::new();
        if *is_sent == is_delivery {
            dialogue.take_commands(bytes, &mut all);
        } else {
            dialogue.take_replies(bytes, &mut all);
        }
        for seen in all {
            let (Seen::EndOfData(to) | Seen::Answered(to, _)) = &seen;
            let mut queues = to.iter().filter_map(|it| scenario.queue_of(it)).collect::<Vec<_>>();
            queues.sort_unstable();
            queues.dedup();
            let epoch = |queue: usize| {
                self.host.epoch(QueueIndex(u32::try_from(queue).expect("few queues")))
            };
            let queues = queues.into_iter().map(|queue| (queue, epoch(queue))).collect();
            let (at, life) = (*at, self.life);
            sightings.push(Sighting { at, life, is_delivery, seen, queues });
        }
    }
}

/// The addresses of the host at a place.
pub fn addresses(place: usize, has_standby: bool) -> Vec<IpAddr> {
    let standby = has_standby.then_some(STANDBY[place]);
    [SMTP[place].ip()].into_iter().chain(standby).collect()
}

/// The settings of the gateway of the first host, for that at a place.
pub fn settings_at(place: usize, first: &Settings) -> Settings {
    let mut settings = first.clone();
    settings.reception.listen = vec![SMTP[place]];
    for link in &mut settings.links {
        if let Some((_, local)) = &mut link.standby {
            *local = Some(STANDBY[place]);
        }
    }
    settings
}
