//! Snapshots for tests, and what is made of them.

use super::table::text;
use super::*;

pub(crate) fn copy(kvs: &str, state: CopyState) -> CopyStatus {
    let is_recorded = matches!(state, CopyState::Sync | CopyState::Draining);
    CopyStatus {
        kvs: kvs.into(),
        path: if state == CopyState::Ng { PathState::Ng } else { PathState::Run },
        standby_path: None,
        protocol: (state != CopyState::Ng).then_some(2),
        state,
        is_recorded,
        is_drained: matches!(state, CopyState::Drained | CopyState::Draining),
        transaction: is_recorded.then_some(90),
        lag_changes: is_recorded.then_some(10),
        lag_bytes: is_recorded.then_some(12_345),
        oldest_unanswered_ms: is_recorded.then_some(61_000),
    }
}

/// The first queue, with these copies.
pub(crate) fn queue_of(copies: &[(&str, CopyState)]) -> QueueStatus {
    QueueStatus {
        index: 0,
        queue: "d0.example".into(),
        cohort: "gw1/main/1".into(),
        service: ServiceState::Open,
        is_accepting: true,
        is_suspended: false,
        messages: 7,
        transaction: 100,
        committed: 90,
        epoch: 4,
        record_version: Some(9),
        register: RegisterStatus::Idle,
        lease_left_ms: 900,
        must_be_told: false,
        is_resumed: false,
        moving_to: None,
        cannot_move: false,
        copies: copies.iter().map(|(kvs, state)| copy(kvs, *state)).collect(),
    }
}

/// A gateway with so many queues, each with two copies and a third server in that state.
pub(crate) fn snapshot(queues: u32, third: CopyState) -> Snapshot {
    let queue = |index| QueueStatus {
        index,
        queue: format!("d{index}.example"),
        ..queue_of(&[("a", CopyState::Sync), ("b", CopyState::Sync), ("c", third)])
    };
    snapshot_of((0..queues).map(queue).collect())
}

fn snapshot_of(queues: Vec<QueueStatus>) -> Snapshot {
    Snapshot {
        gateway: About {
            name: "gw1".into(),
            version: "1".into(),
            process: 1,
            started_unix_ms: 1000,
            register: "register".into(),
            links: LinksStatus::default(),
        },
        unix_ms: 91_000,
        silent_workers: Vec::new(),
        servers: servers(&queues),
        queues,
        counters: Vec::new(),
        is_starting: false,
        sender: None,
    }
}

#[test]
fn a_server_that_is_drained_is_named_with_what_is_left_there() {
    let shown = |queues: Vec<QueueStatus>| {
        let snapshot = snapshot_of(queues);
        (text(&snapshot), snapshot.servers[1].clone())
    };
    let draining = || {
        queue_of(&[("a", CopyState::Sync), ("b", CopyState::Draining), ("c", CopyState::Joining)])
    };
    let drained =
        || queue_of(&[("a", CopyState::Sync), ("b", CopyState::Drained), ("c", CopyState::Sync)]);
    let (shows, server) = shown(vec![draining(), drained()]);
    assert!(shows.contains("\nb is being drained: copies of 1 queues are left there\n"), "{shows}");
    assert_eq!((server.copies, server.joining, server.is_drained), (1, 0, true));
    let stuck = QueueStatus { cannot_move: true, ..draining() };
    let (shows, server) = shown(vec![draining(), stuck]);
    assert!(
        shows.contains("copies of 2 queues are left there, AND NO SERVER CAN TAKE THOSE OF 1\n"),
        "{shows}"
    );
    assert_eq!(server.cannot_move, 1);
    let (shows, _) = shown(vec![drained()]);
    assert!(shows.contains("\nb is drained: it has no copies, and may be taken away\n"), "{shows}");
    assert!(snapshot_of(vec![draining()]).is_well(), "it counts until another one does");
}

#[test]
fn a_queue_without_a_lease_says_so_and_whether_it_goes_on_all_the_same() {
    let shown = |must_be_told, is_resumed| {
        let queue = queue_of(&[("a", CopyState::Ng), ("b", CopyState::Ng)]);
        text(&snapshot_of(vec![QueueStatus { must_be_told, is_resumed, ..queue }]))
    };
    assert!(shown(true, false).contains(", no lease "));
    assert!(shown(false, true).contains(", without lease "));
    assert!(!shown(false, false).contains("lease"));
}

#[test]
fn a_gateway_that_tells_less_is_understood() {
    let mut value = serde_json::to_value(snapshot(1, CopyState::Spare)).unwrap();
    value.as_object_mut().unwrap().remove("servers");
    value["queues"][0].as_object_mut().unwrap().remove("moving_to");
    value["queues"][0]["copies"][0].as_object_mut().unwrap().remove("is_drained");
    let told = serde_json::from_value::<Snapshot>(value).unwrap();
    assert!(told.servers.is_empty() && told.is_well());
}

#[test]
fn a_sender_says_what_it_does_and_whether_it_could_take_over() {
    let mut sender = SenderStatus {
        beside: "a".into(),
        state: SenderState::StandingBy,
        rank: Some(0),
        takes_over_after_ms: Some(60_000),
        owner_silent_ms: Some(700),
        trouble: None,
    };
    let of = |sender: &SenderStatus, queues| {
        let sender = Some(sender.clone());
        Snapshot { sender, ..snapshot(queues, CopyState::Spare) }
    };
    let standing = text(&of(&sender, 0));
    let expected = "sender program beside a: stands by, takes over after 1 min 0 s without an owner, \
                    the owner was heard 700 ms ago\n";
    assert!(standing.contains(expected) && of(&sender, 0).is_well(), "{standing}");
    sender.trouble = Some("no settings".into());
    assert!(!of(&sender, 0).is_well() && text(&of(&sender, 0)).contains("TROUBLE: no settings"));
    sender = SenderStatus { state: SenderState::InCharge, trouble: None, ..sender };
    assert!(text(&of(&sender, 1)).contains("sender program beside a: owns the queues\n"));
    let json = serde_json::to_value(of(&sender, 1)).unwrap();
    assert_eq!(json["sender"]["state"], "in_charge");
    let without = serde_json::to_value(snapshot(1, CopyState::Spare)).unwrap();
    assert!(without.get("sender").is_none());
}

#[test]
fn a_gateway_that_has_not_begun_is_not_well() {
    let starting = Snapshot { is_starting: true, ..snapshot(0, CopyState::Spare) };
    assert!(!starting.is_well() && text(&starting).contains("STARTING: it waits for"));
    assert!(snapshot(0, CopyState::Spare).is_well());
}
