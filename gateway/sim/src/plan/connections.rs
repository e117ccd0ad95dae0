//! Connections that are lost or late, hosts that are suspended, and clocks that are set. By draws of their own, so
//! that other faults stay what they are.

use std::time::Duration;

use fastrand::Rng;
use tcpstack::{Instant, SimAttempts};

use super::{Fault, Node, Plan};
use crate::gateways::PLACES;
use crate::scenario::{GATEWAY_SMTP, SINK, Scenario, ends};

impl Plan {
    /// Connections to servers and the next hop are lost without notice, and attempts are lost, or late by more than
    /// their openers wait.
    pub(super) fn add_connection_faults(&mut self, begin: Instant, scenario: &Scenario, seed: u64) {
        let Scenario { load_time, servers, has_standby, .. } = *scenario;
        let mut rng = Rng::with_seed(seed ^ CONNECTIONS);
        let within = |rng: &mut Rng| begin + load_time * rng.u32(5..=90) / 100;
        for _ in 0..rng.u32(0..=3) {
            let at = within(&mut rng);
            let [from, to] = match rng.usize(0..=servers) {
                next_hop if next_hop == servers => [GATEWAY_SMTP.ip(), SINK.ip()],
                server => ends(usize::from(has_standby && rng.bool()), server),
            };
            self.add(at, Fault::Lose(from, to));
        }
        for _ in 0..rng.u32(0..=2) {
            let at = within(&mut rng);
            let fate = SimAttempts {
                lost_ppm: rng.u32(0..=300_000),
                late_ppm: rng.u32(100_000..=500_000),
                late_max: Duration::from_millis(rng.u64(10..=5000)),
            };
            let lasts = Duration::from_millis(rng.u64(200..=3000));
            self.add(at, Fault::Attempts { fate, lasts });
        }
        if rng.u8(0..3) == 0 {
            let at = within(&mut rng);
            let node = match rng.usize(0..=servers) {
                gateway if gateway == servers => Node::Gateway(0),
                server => Node::Server(server),
            };
            let lasts = Duration::from_millis(rng.u64(100..=4000));
            self.add(at, Fault::Suspend { node, lasts });
        }
    }

    /// Somebody sets wall clocks. Retries and ages go by them, leases and deadlines do not.
    pub(super) fn add_clock_steps(&mut self, begin: Instant, scenario: &Scenario, seed: u64) {
        let mut rng = Rng::with_seed(seed ^ CLOCKS);
        for _ in 0..rng.u32(0..=2) {
            let at = begin + scenario.load_time * rng.u32(5..=95) / 100;
            let place = rng.usize(0..PLACES);
            self.add(at, Fault::ClockStep { place, by_ms: rng.i64(-10_000..=10_000) });
        }
    }
}

/// Makes the draws of connections differ from the others of their seed.
const CONNECTIONS: u64 = 0x5eed_10c0_0000_0002;

/// And those of clocks.
const CLOCKS: u64 = 0x5eed_c10c_0000_0002;
