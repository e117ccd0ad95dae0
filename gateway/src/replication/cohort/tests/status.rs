//! What the operator is told of a cohort.

use kvs_proto::Version;
use tcpstack::Instant;

use crate::link::{LinkState, PathState};
use crate::message::QueueIndex;
use crate::status::{CopyState, QueueStatus, ServiceState};

use super::world::{ISOLATE_AFTER, World, board, cohort_of};

impl World {
    pub(super) fn status(&self) -> Vec<QueueStatus> {
        let mut queues = Vec::new();
        let (path, standby_path) = (PathState::Run, Some(PathState::Ready));
        let link = LinkState { path, standby_path, version: Some(Version::V2) };
        let links = vec![link; self.servers.len()];
        self.cohort.status(self.now, 1000, &links, &self.board, &mut queues);
        queues
    }

    pub(super) fn states(&self) -> Vec<CopyState> {
        self.status()[0].copies.iter().map(|it| it.state).collect()
    }
}

#[test]
fn a_cohort_in_service_tells_of_its_copies_and_what_they_lack() {
    let mut world = World::of(3, 2);
    assert_eq!(world.states(), [CopyState::Sync, CopyState::Sync, CopyState::Spare]);
    world.servers[1].patience = 0;
    world.store(0);
    world.store(0);
    world.settle();
    let queue = &world.status()[0];
    assert_eq!((queue.queue.as_str(), queue.service), ("q0", ServiceState::Open));
    assert!(queue.is_well() && queue.is_accepting);
    assert_eq!((queue.messages, queue.transaction, queue.committed), (2, 2, 0));
    let lags = queue.copies.iter().map(|it| (it.transaction, it.lag_changes));
    let expected = [(Some(2), Some(0)), (Some(0), Some(2)), (None, None)];
    assert!(lags.eq(expected), "{queue:?}");
    assert_eq!(queue.copies[0].lag_bytes, Some(0));
    assert!(queue.copies[1].lag_bytes > Some(10));
    assert!(queue.copies[1].oldest_unanswered_ms.is_some());
    assert_eq!(queue.copies[0].oldest_unanswered_ms, None);
    assert_eq!(queue.copies[1].standby_path, Some(PathState::Ready));
    assert_eq!(queue.copies[1].protocol, Some(2));
    assert_eq!(queue.record_version, world.record.as_ref().map(|it| it.version));
    assert_eq!(world.status()[1].index, 1);
    world.board.set_suspended(QueueIndex(0), true);
    assert!(world.status()[0].is_suspended);
}

#[test]
fn a_server_that_is_away_is_ng_and_a_spare_joins_in_its_place() {
    let mut world = World::of(3, 2);
    world.store(0);
    world.settle();
    world.link_down(1);
    assert_eq!(world.states(), [CopyState::Sync, CopyState::Ng, CopyState::Spare]);
    assert!(!world.status()[0].is_well());
    world.servers[2].patience = 0;
    world.pass(ISOLATE_AFTER);
    assert_eq!(world.states(), [CopyState::Sync, CopyState::Ng, CopyState::Joining]);
    let joining = &world.status()[0].copies[2];
    assert_eq!((joining.transaction, joining.lag_changes), (None, None));
    assert!(!joining.is_recorded);
    world.servers[2].patience = usize::MAX;
    world.settle();
    assert_eq!(world.states(), [CopyState::Sync, CopyState::Ng, CopyState::Sync]);
    assert!(world.status()[0].is_well());
    world.link_up(1);
    world.settle();
    assert_eq!(world.states(), [CopyState::Sync, CopyState::Spare, CopyState::Sync]);
}

#[test]
fn a_gateway_that_starts_or_is_stopped_is_not_well() {
    let cohort = cohort_of(3, 2, false);
    let mut queues = Vec::new();
    let links = [LinkState { path: PathState::Ng, standby_path: None, version: None }; 3];
    cohort.status(Instant::ZERO, 1000, &links, &board(), &mut queues);
    assert_eq!((queues[0].service, queues[0].is_well()), (ServiceState::Starting, false));
    assert_eq!((queues[0].copies[0].state, queues[0].record_version), (CopyState::Ng, None));
    let mut world = World::of(3, 2);
    world.cohort.stop("a test".into());
    assert_eq!(
        (world.status()[0].service, world.status()[0].is_well()),
        (ServiceState::Stopped, false)
    );
}
