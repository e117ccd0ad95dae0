//! Accepting when the process is out of descriptors. A program of its own, because it is run again
//! with few of them.

use std::fs::File;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use tcpstack::{Clock, Event, KernelOptions, KernelTransport, OpenError, Transport};

#[test]
fn accepting_pauses_without_descriptors_and_goes_on_with_them() {
    if std::env::var_os(MARK).is_none() {
        let status = Command::new("sh")
            .args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\""])
            .arg(std::env::current_exe().unwrap())
            .arg("accepting_pauses_without_descriptors_and_goes_on_with_them")
            .env(MARK, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let options = KernelOptions::default();
    let pause = options.accept_pause;
    let mut server = KernelTransport::new(options).unwrap();
    let listener = server.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.local_address(listener).unwrap();
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    hoard.pop();
    let client = TcpStream::connect(address).unwrap();

    // The newcomer waits in the backlog: no event, no crash, and no spinning.
    let now = Clock::new().now();
    server.wait(now, Some(now + Duration::from_secs(10)));
    server.poll(now);
    assert_eq!(server.next_event(), None);
    assert_eq!(server.statistics().accept_pauses, 1);
    assert_eq!(server.next_deadline(), Some(now + pause));
    server.poll(now);
    assert_eq!(server.statistics().accept_pauses, 1, "it does not try before its time");
    let connect = server.connect(now, address, None);
    assert!(matches!(connect, Err(OpenError::TableFull)), "{connect:?}");

    // Still none: it pauses again. Then there are some.
    server.poll(now + pause);
    assert_eq!(server.statistics().accept_pauses, 2);
    hoard.clear();
    server.poll(now + pause * 2);
    assert!(matches!(server.next_event(), Some(Event::Accepted { .. })));
    drop(client);
}

const MARK: &str = "HIKYAKU_TEST_FEW_DESCRIPTORS";
