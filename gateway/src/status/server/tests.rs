//! The socket with good and bad readers.

use std::io::Read;

use super::*;
use crate::status::client;
use crate::status::orders::Of;
use crate::status::tests::{copy, snapshot};
use crate::status::{CopyState, ServiceState};

/// A directory of a test's own, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("hikyaku-{}-{test}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn no_orders(_: &Order) -> Result<String, String> {
    panic!("nobody gives one")
}

#[test]
fn an_order_is_followed_and_its_giver_told_what_is_done_or_why_not() {
    let directory = Directory::new("orders");
    let socket = StatusSocket::bind(&directory.socket()).unwrap();
    let follow = |order: &Order| match order {
        Order::Move { of: Of::Queue(queue), from, to } => Ok(format!("{queue}: {from} to {to}")),
        other => Err(format!("not {other:?}")),
    };
    let _serving = socket.serve(|| snapshot(1, CopyState::Spare), follow).unwrap();
    let of = Of::Queue("d0.example".into());
    let order = Order::Move { of, from: "a".into(), to: "c".into() };
    assert_eq!(client::give(&directory.socket(), &order), Ok("d0.example: a to c".into()));
    let order = Order::CancelMove { of: Of::Group("main".into()) };
    let why = client::give(&directory.socket(), &order).unwrap_err();
    assert!(why.contains("not CancelMove"), "{why}");
    for garbage in ["{\"move\": {}}\n", "mail\n", "\u{0}", &"x".repeat(10_000)] {
        let mut stream = UnixStream::connect(directory.socket()).unwrap();
        stream.write_all(garbage.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // It may not have been read to its end.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains("this is no order"), "{answer}");
    }
}

#[test]
fn an_order_is_written_as_the_handbook_says() {
    let order = Order::Move { of: Of::Group("main".into()), from: "a".into(), to: "c".into() };
    let text = r#"{"move":{"of":{"group":"main"},"from":"a","to":"c"}}"#;
    assert_eq!(serde_json::to_string(&order).unwrap(), text);
    assert_eq!(serde_json::from_str::<Order>(text).unwrap(), order);
    let text = r#"{"cancel_move":{"of":{"queue":"d0.example"}}}"#;
    let order = Order::CancelMove { of: Of::Queue("d0.example".into()) };
    assert_eq!(serde_json::from_str::<Order>(text).unwrap(), order);
}

#[test]
fn a_thousand_queues_at_three_servers_are_told_and_shown() {
    let directory = Directory::new("thousand");
    let socket = StatusSocket::bind(&directory.socket()).unwrap();
    let mode = fs::metadata(directory.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let serving = socket.serve(|| snapshot(1000, CopyState::Spare), no_orders).unwrap();
    let shown = client::show(&directory.socket(), false, None).unwrap();
    assert_eq!(shown.text.lines().count(), 3 + 1 + 1 + 3000);
    assert!(shown.is_well);
    let row = shown.text.lines().find(|line| line.contains("d7.example")).unwrap();
    let cells = row.split_whitespace().collect::<Vec<_>>();
    let expected = "d7.example 7 open 4 9 a run - sync 90 10 12345 1 min 1 s";
    assert_eq!(cells.join(" "), expected);
    let shown = client::show(&directory.socket(), true, Some("d7.example")).unwrap();
    let told = serde_json::from_str::<Snapshot>(&shown.text).unwrap();
    assert_eq!(told.queues, snapshot(1000, CopyState::Spare).queues[7..8]);
    let why = client::show(&directory.socket(), true, Some("d7")).unwrap_err();
    assert!(why.contains("\"d7\""), "{why}");
    drop(serving);
    assert!(!directory.socket().exists());
}

#[test]
fn a_queue_without_two_copies_or_a_worker_that_is_silent_is_not_well() {
    assert!(snapshot(2, CopyState::Ng).is_well(), "it has two others");
    let mut lacks = snapshot(2, CopyState::Spare);
    lacks.queues[1].copies[0] = copy("a", CopyState::Ng);
    assert!(!lacks.is_well());
    let mut silent = snapshot(2, CopyState::Spare);
    silent.silent_workers = vec![3];
    assert!(!silent.is_well());
    assert!(crate::status::table::text(&silent).contains("WORKER 3 DOES NOT ANSWER"));
    let mut settling = snapshot(2, CopyState::Spare);
    settling.queues[0].service = ServiceState::Settling;
    assert!(!settling.is_well());
}

#[test]
fn readers_that_write_garbage_or_read_nothing_keep_nobody_from_reading() {
    let directory = Directory::new("readers");
    let socket = StatusSocket::bind(&directory.socket()).unwrap();
    // More than a socket takes at once.
    let _serving = socket.serve(|| snapshot(2000, CopyState::Spare), no_orders).unwrap();
    let lazy = UnixStream::connect(directory.socket()).unwrap();
    let mut rude = UnixStream::connect(directory.socket()).unwrap();
    let _ = rude.write_all(&[0xff; 1000]);
    let mut one = UnixStream::connect(directory.socket()).unwrap();
    let mut other = UnixStream::connect(directory.socket()).unwrap();
    let mut texts = [String::new(), String::new()];
    let mut block = [0; 100];
    other.read_exact(&mut block).unwrap();
    one.read_to_string(&mut texts[0]).unwrap();
    other.read_to_string(&mut texts[1]).unwrap();
    texts[1].insert_str(0, std::str::from_utf8(&block).unwrap());
    assert!(texts[0] == texts[1] && texts[0].ends_with("}\n"));
    drop((lazy, rude));
}

#[test]
fn who_does_not_read_is_given_up_however_slowly_it_goes_on() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let text = vec![b'x'; 8 << 20];
    let error = send_within(&ours, &text, Duration::from_millis(1)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop(theirs);
    assert!(send_within(&ours, &text, Duration::from_secs(60)).is_err(), "nobody is there");
}

#[test]
fn too_many_readers_at_once_are_told_so() {
    let directory = Directory::new("crowd");
    let socket = StatusSocket::bind(&directory.socket()).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(receiver);
    let slow = move || {
        let _ = gate.lock().unwrap().recv();
        snapshot(1, CopyState::Spare)
    };
    let _serving = socket.serve(slow, no_orders);
    let connect = |_| UnixStream::connect(directory.socket()).unwrap();
    let waiting = (0..READERS_MAX).map(connect).collect::<Vec<_>>();
    let why = client::show(&directory.socket(), true, None).unwrap_err();
    assert!(why.contains("others are asking"), "{why}");
    drop(sender);
    for mut reader in waiting {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.contains("d0.example"));
    }
}

#[test]
fn the_socket_of_a_killed_gateway_is_replaced_and_that_of_a_living_one_is_not() {
    let directory = Directory::new("stale");
    let socket = StatusSocket::bind(&directory.socket()).unwrap();
    let why = StatusSocket::bind(&directory.socket()).unwrap_err();
    assert!(why.contains("another process listens"), "{why}");
    drop(socket);
    assert!(directory.socket().exists(), "as when it was killed");
    let why = client::show(&directory.socket(), true, None).unwrap_err();
    assert!(why.contains("no gateway can be asked there"), "{why}");
    drop(StatusSocket::bind(&directory.socket()).unwrap());
    fs::remove_file(directory.socket()).unwrap();
    fs::write(directory.socket(), "mail").unwrap();
    let why = StatusSocket::bind(&directory.socket()).unwrap_err();
    assert!(why.contains("is no socket"), "{why}");
    assert_eq!(fs::read_to_string(directory.socket()).unwrap(), "mail");
}

#[test]
fn an_answer_that_is_no_gateways_is_an_error() {
    let directory = Directory::new("garbage");
    let listener = UnixListener::bind(directory.socket()).unwrap();
    let server = thread::spawn(move || listener.accept().unwrap().0.write_all(b"{\"queues\": 7}"));
    let why = client::show(&directory.socket(), false, None).unwrap_err();
    assert!(why.contains("the answer is not a gateway's"), "{why}");
    server.join().unwrap().unwrap();
}
