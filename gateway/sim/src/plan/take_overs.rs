//! Processes that are stopped, and gateways that take the queues over from one another. By draws of their own,
//! so that other faults stay what they are.

use std::num::NonZeroU32;
use std::time::Duration;

use fastrand::Rng;
use tcpstack::Instant;

use super::{Fault, Node, Plan, QueueChange};
use crate::gateways::PLACES;
use crate::scenario::{FaultLevel, Options, Scenario};

/// What befalls a gateway while another one is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Nothing: somebody starts a second one by mistake.
    None,
    /// Its process is stopped.
    Stopped,
    /// It reaches no server, and the register, next hops and clients still.
    CutOff,
    /// It reaches neither server nor register, and next hops and clients still.
    Alone,
}

impl Plan {
    /// Processes are stopped, from what is hardly felt to what outlasts leases and deadlines.
    pub(super) fn add_pauses(&mut self, begin: Instant, scenario: &Scenario, seed: u64) {
        let Scenario { load_time, servers, .. } = *scenario;
        let mut rng = Rng::with_seed(seed ^ PAUSES);
        for _ in 0..rng.u32(0..=3) {
            let at = begin + load_time * rng.u32(5..=95) / 100;
            let node = match rng.usize(0..servers + PLACES + 2) {
                0 => Node::Sink,
                place if place <= PLACES => Node::Gateway(place - 1),
                // The first gateway is the one that is there in most runs.
                place if place == PLACES + 1 => Node::Gateway(0),
                server => Node::Server(server - PLACES - 2),
            };
            let lasts = Duration::from_millis(match rng.u8(0..3) {
                0 => rng.u64(1..=200),
                1 => rng.u64(200..=2500),
                _ => rng.u64(2500..=5000),
            });
            self.add(at, Fault::Pause { node, lasts });
        }
    }

    /// Another gateway takes the queues over, and perhaps the first one takes them back, while there is
    /// something in them: next hops get mail slowly for a while.
    pub(super) fn add_take_overs(
        &mut self,
        begin: Instant,
        scenario: &Scenario,
        options: &Options,
    ) {
        let mut rng = Rng::with_seed(options.seed ^ TAKE_OVERS);
        let is_asked_for = options.faults == FaultLevel::TakeOvers;
        if !is_asked_for && rng.u8(0..3) > 0 {
            return;
        }
        let at = begin + scenario.load_time * rng.u32(25..=55) / 100;
        for queue in 0..u32::try_from(scenario.settings.queues.len()).expect("few queues") {
            let change = QueueChange::Rate(NonZeroU32::MIN.saturating_add(rng.u32(0..=4)));
            let early = Duration::from_millis(rng.u64(1000..=3500));
            let slowed_at = begin + at.saturating_since(begin).saturating_sub(early);
            self.add(slowed_at, Fault::Reload { queue, change, lasts: Duration::from_secs(8) });
        }
        let is_sabotaged = options.sabotage.is_some();
        let mut at = at;
        for round in 0..if is_sabotaged { 1 } else { rng.u32(1..=3) } {
            let trouble = match rng.u8(0..5) {
                _ if is_sabotaged => Trouble::Alone,
                0 => Trouble::None,
                1 => Trouble::CutOff,
                2 => Trouble::Alone,
                _ => Trouble::Stopped,
            };
            let lasts = Duration::from_millis(rng.u64(500..=5000));
            let lasts = if is_sabotaged { Duration::from_secs(5) } else { lasts };
            let after = Duration::from_millis(rng.u64(0..=1000));
            self.add(at, Fault::TakeOver { trouble, lasts, after });
            // Soon enough to meet what the one before has left, or late enough not to.
            at += Duration::from_millis(rng.u64(if round == 0 { 300..=6000 } else { 1000..=4000 }));
        }
    }
}

/// Makes the draws of processes that are stopped differ from the others of their seed.
const PAUSES: u64 = 0x5eed_57a1_1000_0000;

/// And those of take-overs.
const TAKE_OVERS: u64 = 0x5eed_2222_0000_0001;
