//! The operator's work on servers: one is drained for a while, one is taken away and added again, copies are moved. By
//! draws of its own, so that other faults stay what they are.

use std::time::Duration;

use fastrand::Rng;
use tcpstack::Instant;

use super::{Fault, Plan};
use crate::scenario::Scenario;

/// What the operator does about servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerWork {
    /// A server is drained, and after a while it is not any more.
    Drain {
        /// Which.
        server: usize,
        /// How long.
        lasts: Duration,
    },
    /// A server is drained, and stays so: in the end it has no copies, if the others are there.
    DrainForGood {
        /// Which.
        server: usize,
    },
    /// A server is drained no more.
    Undrain {
        /// Which.
        server: usize,
    },
    /// A server is drained, taken away when it has no copies, and added again after a while.
    TakeAway {
        /// Which.
        server: usize,
        /// For how long.
        lasts: Duration,
    },
    /// It has no copies, and is taken away.
    Remove {
        /// Which.
        server: usize,
        /// For how long.
        lasts: Duration,
    },
    /// It is added again.
    Add {
        /// Which.
        server: usize,
    },
    /// All copies are moved from one server to another, as far as they are there.
    Move {
        /// From here
        from: usize,
        /// to there.
        to: usize,
    },
    /// What is being moved stays where it is.
    CancelMoves,
}

impl Plan {
    /// The operator works on servers. Where there is no spare nothing can move, and nothing is taken away.
    pub(super) fn add_server_work(&mut self, begin: Instant, scenario: &Scenario, seed: u64) {
        let Scenario { load_time, servers, .. } = *scenario;
        let mut rng = Rng::with_seed(seed ^ SERVER_WORK);
        if servers > 2 && rng.u8(0..3) == 0 {
            let at = begin + load_time * rng.u32(5..=95) / 100;
            let work = ServerWork::DrainForGood { server: rng.usize(..servers) };
            self.add(at, Fault::Servers(work));
        }
        for _ in 0..rng.u32(0..=4) {
            let at = begin + load_time * rng.u32(5..=95) / 100;
            let work = draw(servers, &mut rng);
            self.add(at, Fault::Servers(work));
            if matches!(work, ServerWork::Move { .. }) && rng.u8(0..4) == 0 {
                let later = at + Duration::from_millis(rng.u64(1..=500));
                self.add(later, Fault::Servers(ServerWork::CancelMoves));
            }
        }
    }
}

fn draw(servers: usize, rng: &mut Rng) -> ServerWork {
    let server = rng.usize(..servers);
    let lasts = Duration::from_millis(rng.u64(10..=4000));
    match rng.u8(0..3) {
        0 if servers > 2 => ServerWork::TakeAway { server, lasts },
        1 if servers > 2 => {
            ServerWork::Move { from: server, to: (server + rng.usize(1..servers)) % servers }
        }
        _ => ServerWork::Drain { server, lasts },
    }
}

/// Makes the draws of work on servers differ from the others of their seed.
const SERVER_WORK: u64 = 0x5eed_05e4_7e45_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_of_servers_is_only_drained_and_of_three_each_is_taken_away_and_moved_from() {
        let draws = |servers| (0..1000).map(move |seed| draw(servers, &mut Rng::with_seed(seed)));
        assert!(draws(2).all(|work| matches!(work, ServerWork::Drain { .. })));
        for place in 0..3 {
            let taken = |it: &ServerWork| matches!(it, ServerWork::TakeAway { server, .. } if *server == place);
            let moved = |it: &ServerWork| matches!(it, ServerWork::Move { from, to } if *from == place && to != from && *to < 3);
            assert!(draws(3).filter(taken).count() > 50 && draws(3).filter(moved).count() > 50);
        }
    }
}
