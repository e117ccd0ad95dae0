//! Faults of nodes and of the next hop beside crashes. By draws of their own, so that other faults stay
//! what they are.

use std::time::Duration;

use fastrand::Rng;
use loadgen::sink::{Fault as SinkFault, Faults as SinkFaults, Phase};
use tcpstack::Instant;

use super::{Fault, Plan, crash};
use crate::scenario::Scenario;

/// A node whose processor may be busy with something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node {
    /// That of the gateway at a place.
    Gateway(usize),
    /// A server's.
    Server(usize),
    /// The next hop's.
    Sink,
}

impl Plan {
    /// Nodes are slow for a while, and a server may die for good if there is a spare.
    pub(super) fn add_node_faults(&mut self, begin: Instant, scenario: &Scenario, seed: u64) {
        let Scenario { load_time, servers, .. } = *scenario;
        let mut rng = Rng::with_seed(seed ^ NODES);
        let within = |rng: &mut Rng| begin + load_time * rng.u32(5..=95) / 100;
        for _ in 0..rng.u32(0..=4) {
            let at = within(&mut rng);
            let node = match rng.usize(0..servers + 2) {
                0 => Node::Gateway(0),
                1 => Node::Sink,
                server => Node::Server(server - 2),
            };
            // From what is hardly felt to what looks like a dead node.
            let turn = Duration::from_micros(1000 << rng.u32(0..=8));
            let lasts = Duration::from_millis(rng.u64(100..=3000));
            self.add(at, Fault::SlowNode { node, turn, lasts });
        }
        if servers > 2 && rng.u8(0..3) == 0 {
            let at = within(&mut rng);
            let fault = Fault::ServerDeath { server: rng.usize(..servers), how: crash(&mut rng) };
            self.add(at, fault);
        }
    }
}

/// What the next hop does wrong at each step of a transaction, beside what was drawn before: a few
/// kinds in each run, so that each phase has its turn in some and mail gets through in all.
pub(super) fn sink_faults_everywhere(faults: SinkFaults, seed: u64) -> SinkFaults {
    let drawn = misbehaviour(seed);
    drawn
        .into_iter()
        .fold(faults, |faults, (phase, fault, how_often)| faults.with(phase, fault, how_often))
}

fn misbehaviour(seed: u64) -> Vec<(Phase, SinkFault, f64)> {
    let mut rng = Rng::with_seed(seed ^ NEXT_HOP);
    let mut drawn = Vec::new();
    for _ in 0..rng.u32(0..=4) {
        let phase = *rng.choice(Phase::ALL.iter()).expect("not empty");
        let fault = match (phase, rng.u8(0..4)) {
            // The content has no reply of its own, and a client waits for none after QUIT.
            (Phase::Content | Phase::Quit, 0 | 1) => SinkFault::Drop,
            (Phase::Content | Phase::Quit, _) => SinkFault::Reset,
            (_, 0) => SinkFault::Transient,
            (_, 1) => SinkFault::Closing,
            (_, 2) => SinkFault::Drop,
            (_, _) => SinkFault::Reset,
        };
        // What happens once for each connection happens seldom.
        let is_seldom = matches!(phase, Phase::Greeting | Phase::Ehlo | Phase::Quit);
        drawn.push((phase, fault, rng.f64() * if is_seldom { 0.3 } else { 0.02 }));
    }
    if rng.u8(0..4) == 0 {
        let phase = *rng.choice(Phase::ALL.iter()).expect("not empty");
        drawn.push((phase, SinkFault::Hang, 0.001));
    }
    drawn
}

/// Makes the draws of nodes differ from the others of their seed.
const NODES: u64 = 0x5eed_0f40_0de5_0000;

/// And those of the next hop.
const NEXT_HOP: u64 = 0x5eed_04e8_7400_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_of_a_transaction_fails_in_some_run_and_none_in_some() {
        let drawn = (0..1000).map(misbehaviour).collect::<Vec<_>>();
        for phase in Phase::ALL {
            let runs = drawn.iter().filter(|run| run.iter().any(|it| it.0 == phase)).count();
            assert!((50..500).contains(&runs), "{phase:?} in {runs} of a thousand runs");
        }
        assert!(drawn.iter().any(Vec::is_empty));
    }
}
