//! Configurations that are taken and refused, and servers that go.

use std::sync::atomic::{AtomicBool, Ordering};

use tcpstack::{KernelOptions, KernelTransport};

use super::*;
use crate::message::QueueIndex;
use crate::replication::cohort::MoveOrder;
use crate::replication::placement::Placement;
use crate::settings::kept::kept;
use crate::settings::tests::{GOOD, with_spare};
use crate::status::desk::Part;
use crate::status::orders::{Of, Order};
use crate::status::tests::queue_of;
use crate::status::{CopyState, ServiceState, WorkerCounters};

fn reloader() -> Reloader {
    reloader_of(GOOD, Shared::new(Vec::new(), 0))
}

fn reloader_of(text: &str, shared: Shared) -> Reloader {
    let path = PathBuf::from("/etc/hikyaku/gw1.toml");
    let settings = Settings::parse(&path, text).unwrap();
    let board = Arc::new(settings.board());
    Reloader::new(path, text.into(), settings, board, Arc::new(shared))
}

/// How a worker is that works by these settings; without, by those of its start.
type Told<'t> = dyn Fn(Option<&Settings>) -> Vec<QueueStatus> + Sync + 't;

/// Does that with a gateway of one worker and three servers, which tells how it is whenever it is asked.
fn with_worker<R>(told: &Told<'_>, act: impl FnOnce(&mut Reloader) -> R) -> (Reloader, R) {
    let waker = KernelTransport::new(KernelOptions::default()).unwrap().waker();
    let mut reloader = reloader_of(&with_spare(), Shared::new(vec![waker], 0));
    let (shared, is_over) = (reloader.shared.clone(), AtomicBool::new(false));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let wanted = shared.seen_by_workers().1.wanted();
                let (settings, desk) = shared.seen_by_workers();
                let counters =
                    WorkerCounters { worker: 0, shard: None, front: None, nic_queues: Vec::new() };
                let queues = told(settings.as_deref());
                desk.leave(0, wanted, Part { queues, counters });
                std::thread::yield_now();
            }
        });
        let result = act(&mut reloader);
        is_over.store(true, Ordering::SeqCst);
        result
    });
    (reloader, result)
}

/// Takes a text in.
fn take_with(text: &str, told: &Told<'_>) -> (Reloader, Result<usize, String>) {
    let take = |reloader: &mut Reloader| reloader.take(text.into());
    let (reloader, taken) = with_worker(told, take);
    (reloader, taken.map(|it| it.len()).map_err(|why| why.to_string()))
}

const IN_SYNC: CopyState = CopyState::Sync;

#[test]
fn a_sender_works_by_what_the_register_has_and_goes_on_with_what_it_had_if_that_is_wrong() {
    let local = crate::settings::kept::tests::local();
    let text = |from: &str, to: &str| kept(&GOOD.replace(from, to));
    let before = text("", "");
    let settings = Settings::parse_kept("gw1", &before, &local).unwrap();
    let board = Arc::new(settings.board());
    let shared = Arc::new(Shared::new(Vec::new(), 0));
    let mut reloader = Reloader::of_kept(local, before.clone(), settings, board, shared);
    assert!(reloader.follow_register(&before) && reloader.number == 1);
    assert!(reloader.follow_register(&text("rate_max = 7", "rate_max = 8")));
    let rate = |it: &Reloader| it.settings.delivery.destinations[0].rate_per_second.unwrap();
    assert_eq!((rate(&reloader).get(), reloader.number), (8, 2));
    assert!(!reloader.follow_register(&text("rate_max = 7", "rate_max = -7")));
    assert!(!reloader.follow_register(&text("hostname = \"gw1", "hostname = \"gw2")));
    assert_eq!((rate(&reloader).get(), reloader.number), (8, 2));
    reloader.reload();
    assert_eq!(reloader.number, 2, "it has no file");
}

#[test]
fn a_server_that_nobody_needs_is_taken_away_and_gets_no_copy_meanwhile() {
    let told = |_: Option<&Settings>| {
        vec![queue_of(&[("a", IN_SYNC), ("b", IN_SYNC), ("c", CopyState::Spare)])]
    };
    let (reloader, taken) = take_with(GOOD, &told);
    assert!(taken.is_ok(), "{taken:?}");
    assert_eq!(reloader.settings.links.len(), 2);
    let (in_force, _) = reloader.shared.seen_by_workers();
    assert_eq!(in_force.unwrap().links.len(), 2);
}

#[test]
fn a_server_with_copies_is_not_taken_away_and_it_is_told_what_it_has() {
    for state in [IN_SYNC, CopyState::Joining] {
        let told = |_: Option<&Settings>| vec![queue_of(&[("a", IN_SYNC), ("c", state)])];
        let (reloader, taken) = take_with(GOOD, &told);
        let why = taken.unwrap_err();
        assert!(
            why.contains("\"c\" cannot be taken out of group \"main\": it has copies of 1 queues"),
            "{why}"
        );
        assert_eq!(reloader.settings.links.len(), 3, "all is as it was");
        assert!(reloader.shared.seen_by_workers().0.is_none(), "and nobody was disturbed");
    }
}

#[test]
fn a_server_that_is_chosen_just_as_it_is_taken_away_stays() {
    // It is chosen before the worker has heard that it is not to be chosen any more.
    let told = |settings: Option<&Settings>| match settings {
        None => vec![queue_of(&[("a", IN_SYNC), ("b", IN_SYNC), ("c", CopyState::Spare)])],
        Some(_) => vec![queue_of(&[("a", IN_SYNC), ("b", IN_SYNC), ("c", CopyState::Joining)])],
    };
    let (reloader, taken) = take_with(GOOD, &told);
    assert!(taken.unwrap_err().contains("it has copies of 1 queues"));
    let (in_force, _) = reloader.shared.seen_by_workers();
    let in_force = in_force.unwrap();
    assert_eq!((in_force.links.len(), &in_force.drained[..]), (3, &[false; 3][..]), "as before");
}

#[test]
fn no_server_is_taken_away_while_a_queue_is_not_in_service() {
    let told = |_: Option<&Settings>| {
        let queue = queue_of(&[("a", CopyState::Resuming), ("c", CopyState::Spare)]);
        vec![QueueStatus { service: ServiceState::Starting, ..queue }]
    };
    let why = take_with(GOOD, &told).1.unwrap_err();
    assert!(why.contains("not in service yet"), "{why}");
}

#[test]
fn what_may_change_is_in_force_at_once_and_is_named() {
    let mut reloader = reloader();
    let text = GOOD
        .replace("rate_max = 7", "rate_max = 8\nreceive = \"suspended\"\nmessages_max = 10")
        .replace("hostname", "memory = \"32 MiB\"\nhostname");
    let before = reloader.board.bytes_left();
    let differences = reloader.take(text).unwrap();
    let keys = differences.iter().map(|it| it.key.as_str()).collect::<Vec<_>>();
    let queue = |key: &str| format!("queue[\"example.net\"].{key}");
    let expected = ["memory".into(), queue("messages_max"), queue("rate_max"), queue("receive")];
    assert_eq!(keys, expected);
    let board = &reloader.board;
    assert!(board.is_suspended(QueueIndex(0)) && !board.is_suspended(QueueIndex(1)));
    assert_eq!(board.left(QueueIndex(0)).0, 10);
    assert_eq!((before, board.bytes_left()), (1 << 30, 32 << 20));
    assert_eq!(reloader.settings.delivery.destinations[0].rate_per_second.unwrap().get(), 8);
    reloader.take(GOOD.into()).unwrap();
    assert!(!reloader.board.is_suspended(QueueIndex(0)));
    assert_eq!(reloader.board.left(QueueIndex(0)).0, 1_000_000);
    assert_eq!((reloader.board.bytes_left(), reloader.number), (1 << 30, 3));
}

#[test]
fn the_same_configuration_again_changes_nothing() {
    let mut reloader = reloader();
    let left = reloader.board.left(QueueIndex(0));
    for _ in 0..100 {
        assert_eq!(reloader.take(GOOD.into()), Ok(Vec::new()));
    }
    assert_eq!(reloader.board.left(QueueIndex(0)), left);
}

#[test]
fn a_file_with_mistakes_is_refused_as_a_whole_with_all_of_them() {
    let mut reloader = reloader();
    let text = GOOD.replace("rate_max = 7", "rate_max = -1\nreceive = \"of\"\nsend = \"on\"");
    let text = text.replace("domains = []", "domains = []\nreceive = \"suspended\"");
    let why = reloader.take(text).unwrap_err().to_string();
    assert!(why.contains("`rate_max` is -1") && why.contains("`receive` is \"of\""), "{why}");
    assert!(!reloader.board.is_suspended(QueueIndex(1)));
    assert_eq!((reloader.number, reloader.text.as_str()), (1, GOOD));
}

#[test]
fn what_only_a_start_can_change_is_refused_as_a_whole_and_named() {
    let mut reloader = reloader();
    let text =
        GOOD.replace("workers = 3", "workers = 2").replace("name = \"gw1\"", "name = \"gw2\"");
    let text = text.replace("domains = []", "domains = []\nreceive = \"suspended\"");
    let why = reloader.take(text).unwrap_err();
    assert_eq!(why, ReloadError::Fixed(vec!["name", "threads"]));
    assert_eq!(why.to_string(), "only a start can change `name`, `threads`");
    assert!(!reloader.board.is_suspended(QueueIndex(1)));
    assert_eq!(reloader.number, 1);
}

#[test]
fn values_in_the_log_end_after_a_line() {
    assert_eq!(shown(&None), "default");
    let long = "é".repeat(1000);
    assert_eq!(shown(&Some(long)).chars().count(), VALUE_LEN_MAX + 1);
}

fn move_of(of: Of, from: &str, to: &str) -> Order {
    Order::Move { of, from: from.into(), to: to.into() }
}

fn example() -> Of {
    Of::Queue("d0.example".into())
}

#[test]
fn a_move_is_ordered_until_it_is_over_or_called_off() {
    // The worker does what it is told, and says so.
    let told = |settings: Option<&Settings>| {
        let order = settings.and_then(|it| it.moves.get("gw1/main/1"));
        let copies = [("a", IN_SYNC), ("b", IN_SYNC), ("c", CopyState::Spare)];
        vec![QueueStatus { moving_to: order.map(|it| it.to.clone()), ..queue_of(&copies) }]
    };
    let (reloader, done) = with_worker(&told, |reloader| {
        let done = reloader.follow(&move_of(example(), "a", "c"));
        let again = reloader.follow(&move_of(Of::Group("main".into()), "b", "c"));
        assert!(again.unwrap_err().contains("is being moved to \"c\": cancel that first"));
        done
    });
    assert_eq!(done.unwrap(), "the copies of 1 queues, d0.example among them, move from a to c");
    let order = MoveOrder { number: 1, from: "a".into(), to: "c".into() };
    assert_eq!(reloader.settings.moves["gw1/main/1"], order);
    let (reloader, ()) = with_worker(&told, |reloader| {
        let nothing = reloader.follow(&Order::CancelMove { of: example() });
        assert!(nothing.unwrap_err().contains("no copies of these queues are being moved"));
        reloader.follow(&move_of(example(), "a", "c")).unwrap();
        let kept = reloader.follow(&Order::CancelMove { of: example() });
        assert_eq!(kept.unwrap(), "the copies of 1 queues stay where they are");
        reloader.follow(&move_of(example(), "b", "c")).unwrap();
        assert_eq!(reloader.take(with_spare()), Ok(Vec::new()), "a reload does not forget it");
    });
    assert_eq!(reloader.settings.moves["gw1/main/1"].number, 2);
}

#[test]
fn queues_go_on_without_a_lease_when_told_and_only_where_nobody_can_say_whose_they_are() {
    let told = |settings: Option<&Settings>| {
        let copies = [("a", CopyState::Ng), ("b", CopyState::Ng)];
        let must_be_told = settings.is_none_or(|it| it.resume == 0);
        vec![QueueStatus { must_be_told, is_resumed: !must_be_told, ..queue_of(&copies) }]
    };
    let (reloader, ()) = with_worker(&told, |reloader| {
        let done = reloader.follow(&Order::Resume).unwrap();
        assert!(done.contains("1 queues, d0.example among them"), "{done}");
        assert!(reloader.follow(&Order::Resume).unwrap_err().contains("nothing to do"));
        assert_eq!(reloader.take(with_spare()), Ok(Vec::new()), "a reload does not forget it");
    });
    assert_eq!(reloader.settings.resume, 1);
}

#[test]
fn a_move_that_cannot_be_is_refused_and_it_is_said_why() {
    let refused = |copies: &[(&str, CopyState)], order: &Order| {
        let told = |_: Option<&Settings>| vec![queue_of(copies)];
        let (reloader, done) = with_worker(&told, |reloader| reloader.follow(order));
        assert!(reloader.settings.moves.is_empty());
        assert!(reloader.shared.seen_by_workers().0.is_none(), "nobody was disturbed");
        done.unwrap_err()
    };
    let usual = [("a", IN_SYNC), ("b", IN_SYNC), ("c", CopyState::Spare)];
    let third = |state| [("a", IN_SYNC), ("b", IN_SYNC), ("c", state)];
    let group = |name: &str| Of::Group(name.into());
    for (copies, of, from, to, why) in [
        (usual, Of::Queue("d9.example".into()), "a", "c", "there is no queue named \"d9.example\""),
        (usual, group("other"), "a", "c", "there is no group named \"other\""),
        (usual, example(), "a", "a", "both where the copies are and where they are to go"),
        (usual, example(), "c", "a", "server \"c\" has no copies"),
        (usual, group("main"), "z", "c", "server \"z\" has no copies"),
        (usual, example(), "a", "b", "server \"b\" has a copy of queue \"d0.example\" already"),
        (usual, example(), "a", "z", "has no server named \"z\""),
        (third(CopyState::Ng), example(), "a", "c", "server \"c\" is not there"),
        (third(CopyState::Drained), example(), "a", "c", "server \"c\" is drained"),
    ] {
        let told = refused(&copies, &move_of(of, from, to));
        assert!(told.contains(why), "{told}");
    }
    let starting = |_: Option<&Settings>| {
        vec![QueueStatus { service: ServiceState::Settling, ..queue_of(&usual) }]
    };
    let order = move_of(example(), "a", "c");
    let (_, done) = with_worker(&starting, |reloader| reloader.follow(&order));
    assert!(done.unwrap_err().contains("not in service"));
    let told = |_: Option<&Settings>| vec![queue_of(&usual)];
    let (_, done) = with_worker(&told, |reloader| {
        let at = |node: &str| Placement { node: Some(node.into()), ..Placement::default() };
        reloader.settings.placements = vec![at("n1"), at("n2"), at("n2")];
        let done = reloader.follow(&move_of(example(), "a", "c"));
        assert!(reloader.follow(&move_of(example(), "b", "c")).is_ok(), "in its place");
        done
    });
    assert!(done.unwrap_err().contains("\"c\" is on one node with b, which has a copy"));
}
