//! What only the kernel transport does.

use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tcpstack::{
    Clock, CloseReason, ConnectionId, Event, Instant, KernelOptions, KernelTransport, RecvError,
    Transport, wait_on_both,
};

const DEADLINE: Duration = Duration::from_secs(10);

#[test]
fn echoes_to_a_plain_socket_and_sees_its_end() {
    let mut server = transport();
    let address = listen(&mut server);
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut reply = [0; 5];
        stream.read_exact(&mut reply).unwrap();
        reply
    });
    let connection = accepted(&mut server);
    let mut finished = false;
    run(&mut server, |server, event| {
        if event == Event::Readable(connection) {
            match server.recv(connection, |bytes| (bytes.len(), bytes.to_vec())) {
                Ok(bytes) => {
                    assert_eq!(server.send(connection, &[IoSlice::new(&bytes)]), Ok(bytes.len()));
                }
                Err(error) => finished = error == RecvError::Finished,
            }
        }
        finished
    });
    assert_eq!(&client.join().unwrap(), b"hello");
}

#[test]
fn a_peer_that_vanishes_under_our_sending_is_a_closed_event_and_no_signal() {
    let mut server = transport();
    let address = listen(&mut server);
    let stream = TcpStream::connect(address).unwrap();
    let connection = accepted(&mut server);
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    let mut reason = None;
    run(&mut server, |server, event| {
        if let Event::Readable(_) = event {
            let _ = server.send(connection, &[IoSlice::new(b"anyone?")]);
            let _ = server.recv(connection, |bytes| (bytes.len(), ()));
        }
        if let Event::Closed { reason: why, .. } = event {
            reason = Some(why);
        }
        reason.is_some()
    });
    assert_eq!(reason, Some(CloseReason::Reset));
}

#[test]
fn the_last_reply_arrives_although_the_peer_goes_on_talking() {
    let mut server = transport();
    let address = listen(&mut server);
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        // More than the server will ever read, on both sides of its close.
        stream.write_all(&vec![b'x'; 300_000]).unwrap();
        let mut reply = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            // Talking on while the reply is on its way is what would provoke a reset.
            let _ = stream.write(&[b'y'; 100]);
            match stream.read(&mut buffer) {
                Ok(0) => return reply,
                Ok(count) => reply.extend_from_slice(&buffer[..count]),
                Err(error) => panic!("{error} after {reply:?}"),
            }
        }
    });
    let connection = accepted(&mut server);
    server.send(connection, &[IoSlice::new(b"421 4.3.2 closing\r\n")]).unwrap();
    server.close(connection);
    let clock = Clock::new();
    while !client.is_finished() {
        let now = clock.now();
        server.poll(now);
        assert_eq!(server.next_event(), None);
        server.wait(now, Some(now + Duration::from_millis(5)));
    }
    assert_eq!(client.join().unwrap(), b"421 4.3.2 closing\r\n");
    while server.statistics().lingering > 0 {
        server.poll(clock.now());
    }
    assert_eq!(server.statistics().lingering_cut, 0);
}

#[test]
fn a_lingering_connection_is_cut_after_its_time() {
    let mut server = KernelTransport::new(KernelOptions {
        linger_time: Duration::from_secs(2),
        ..KernelOptions::default()
    })
    .unwrap();
    let address = listen(&mut server);
    let _silent = TcpStream::connect(address).unwrap();
    let connection = accepted(&mut server);
    server.close(connection);
    assert_eq!(server.statistics().lingering, 1);
    let deadline = server.next_deadline().unwrap();
    server.poll(deadline);
    let statistics = server.statistics();
    assert_eq!((statistics.lingering, statistics.lingering_cut), (0, 1));
}

#[test]
fn another_thread_ends_the_sleep() {
    let mut sleeper = transport();
    let waker = sleeper.waker();
    let clock = Clock::new();
    sleeper.poll(clock.now());
    let other = std::thread::spawn(move || waker.wake());
    // Without the wake-up this would sleep for an hour.
    let now = clock.now();
    sleeper.wait(now, Some(now + Duration::from_secs(3600)));
    other.join().unwrap();
}

#[test]
fn a_wake_up_before_the_sleep_is_not_lost() {
    let mut sleeper = transport();
    sleeper.waker().wake();
    let now = Clock::new().now();
    sleeper.wait(now, Some(now + Duration::from_secs(3600)));
}

#[test]
fn a_thread_sleeps_on_two_transports() {
    let (mut first, mut second) = (transport(), transport());
    let address = listen(&mut second);
    let clock = Clock::new();
    first.poll(clock.now());
    second.poll(clock.now());
    let now = clock.now();
    wait_on_both(&mut first, &mut second, now, Some(now + Duration::from_millis(3)));
    assert!(clock.now() - now >= Duration::from_millis(3), "nothing happened, so it slept");
    let _stream = TcpStream::connect(address).unwrap();
    let now = clock.now();
    let far = Some(now + Duration::from_secs(3600));
    wait_on_both(&mut first, &mut second, now, far);
    second.poll(now);
    // An event waits now, so this must not sleep either.
    wait_on_both(&mut first, &mut second, now, far);
    assert!(matches!(second.next_event(), Some(Event::Accepted { .. })));
}

#[test]
fn a_connect_that_nobody_answers_times_out() {
    // A listener whose backlog is full answers nothing at all.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _fills_the_backlog = TcpStream::connect(address).unwrap();
    let mut client = transport();
    let now = Clock::new().now();
    let connection = client.connect(now, address, None).unwrap();
    client.poll(now);
    assert_eq!(client.next_event(), None);
    let deadline = client.next_deadline().unwrap();
    assert!(deadline > now);
    client.poll(deadline);
    let closed = Event::Closed { connection, reason: CloseReason::TimedOut };
    assert_eq!(client.next_event(), Some(closed));
}

#[test]
fn connects_from_the_address_that_was_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = transport();
    let now = Clock::new().now();
    let local = "127.0.0.2".parse().unwrap();
    client.connect(now, listener.local_addr().unwrap(), Some(local)).unwrap();
    run(&mut client, |_, event| matches!(event, Event::Connected(_)));
    let (_stream, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), local);
}

#[test]
fn the_peers_last_words_are_received_although_a_send_met_its_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = transport();
    let clock = Clock::new();
    let address = listener.local_addr().unwrap();
    let connection = client.connect(clock.now(), address, None).unwrap();
    run(&mut client, |_, event| event == Event::Connected(connection));
    client.send(connection, &[IoSlice::new(b"a body that is too long")]).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.peek(&mut [0]).unwrap();
    stream.write_all(b"552 5.3.4 too long\r\n").unwrap();
    // With unread bytes this is a reset.
    drop(stream);
    let more = [IoSlice::new(b"more of it")];
    assert_eq!(client.send(connection, &more), Ok(0));
    assert_eq!(client.send(connection, &more), Ok(0));
    let (mut heard, mut reason) = (Vec::new(), None);
    run(&mut client, |client, event| {
        match event {
            Event::Readable(_) => {
                let _ = client.recv(connection, |bytes| {
                    heard.extend_from_slice(bytes);
                    (bytes.len(), ())
                });
            }
            Event::Closed { reason: why, .. } => reason = Some(why),
            other => panic!("{other:?}"),
        }
        reason.is_some()
    });
    assert_eq!(heard, b"552 5.3.4 too long\r\n");
    assert_eq!(reason, Some(CloseReason::Reset));
}

#[test]
fn connections_take_turns_when_a_poll_may_not_announce_all() {
    let options = KernelOptions { events_per_poll: 1, ..KernelOptions::default() };
    let mut server = KernelTransport::new(options).unwrap();
    let address = listen(&mut server);
    let mut streams: Vec<TcpStream> = Vec::new();
    let mut names = Vec::new();
    for _ in 0..3 {
        streams.push(TcpStream::connect(address).unwrap());
        names.push(accepted(&mut server));
        streams.last_mut().unwrap().write_all(b"xxxxxxxxxx").unwrap();
    }
    // Long enough to have seen all edges, one a poll. Each takes one byte and has more.
    let mut announced = Vec::new();
    run(&mut server, |server, event| {
        if let Event::Readable(name) = event {
            server.recv(name, |_| (1, ())).unwrap();
            announced.push(name);
        }
        announced.len() == 15
    });
    for name in names {
        let turns = announced.iter().skip(6).filter(|&&at| at == name).count();
        assert_eq!(turns, 3, "{announced:?}");
    }
}

#[test]
fn urgent_data_does_not_hide_what_comes_behind_it() {
    let mut server = transport();
    let address = listen(&mut server);
    let mut stream = TcpStream::connect(address).unwrap();
    let connection = accepted(&mut server);
    stream.write_all(b"abc").unwrap();
    socket2::SockRef::from(&stream).send_out_of_band(b"!").unwrap();
    stream.write_all(b"def").unwrap();
    let mut received = Vec::new();
    run(&mut server, |server, event| {
        if event == Event::Readable(connection) {
            let _ = server.recv(connection, |bytes| {
                received.extend_from_slice(bytes);
                (bytes.len(), ())
            });
        }
        received.len() >= 6
    });
    assert_eq!(received, b"abcdef");
}

#[test]
fn a_paused_connection_does_not_wake_the_sleeper() {
    let mut server = transport();
    let address = listen(&mut server);
    let mut stream = TcpStream::connect(address).unwrap();
    let connection = accepted(&mut server);
    server.set_receiving(connection, false);
    let clock = Clock::new();
    stream.write_all(b"one").unwrap();
    // The first edge takes it off; taking it off reports that it can be written to.
    server.wait(clock.now(), None);
    for _ in 0..3 {
        server.poll(clock.now());
        assert_eq!(server.next_event(), None);
    }
    stream.write_all(b"two").unwrap();
    let now = clock.now();
    server.wait(now, Some(now + Duration::from_millis(5)));
    assert!(clock.now() - now >= Duration::from_millis(5));
}

#[test]
fn a_quiet_transport_sleeps_until_the_callers_deadline_to_the_microsecond() {
    let mut transport = transport();
    let clock = Clock::new();
    transport.poll(clock.now());
    let now = clock.now();
    let until = now + Duration::from_micros(300);
    transport.wait(now, Some(until));
    assert!(clock.now() >= until);
}

#[test]
fn two_transports_share_a_port_when_asked_to() {
    let options = KernelOptions { reuse_port: true, ..KernelOptions::default() };
    let mut first = KernelTransport::new(options.clone()).unwrap();
    let mut second = KernelTransport::new(options).unwrap();
    let address = listen(&mut first);
    second.listen(address).unwrap();
    let streams: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
    let clock = Clock::new();
    let give_up = clock.now() + DEADLINE;
    let accepted = |transport: &KernelTransport| transport.statistics().accepted;
    while accepted(&first) + accepted(&second) < 64 {
        assert!(clock.now() < give_up);
        first.poll(clock.now());
        second.poll(clock.now());
    }
    assert!(accepted(&first) > 0 && accepted(&second) > 0);
    drop(streams);
}

#[test]
fn a_wildcard_of_each_family_can_have_the_same_port() {
    let mut server = transport();
    let six = server.listen("[::]:0".parse().unwrap()).unwrap();
    let port = server.local_address(six).unwrap().port();
    server.listen(SocketAddr::from(([0, 0, 0, 0], port))).unwrap();
}

fn transport() -> KernelTransport {
    KernelTransport::new(KernelOptions::default()).unwrap()
}

fn listen(transport: &mut KernelTransport) -> SocketAddr {
    let listener = transport.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    transport.local_address(listener).unwrap()
}

fn accepted(transport: &mut KernelTransport) -> ConnectionId {
    let mut found = None;
    run(transport, |_, event| {
        if let Event::Accepted { connection, .. } = event {
            found = Some(connection);
        }
        found.is_some()
    });
    found.unwrap()
}

/// Turns until `done` says so of an event.
fn run(transport: &mut KernelTransport, mut done: impl FnMut(&mut KernelTransport, Event) -> bool) {
    let clock = Clock::new();
    let give_up: Instant = clock.now() + DEADLINE;
    loop {
        let now = clock.now();
        assert!(now < give_up, "it did not happen in time");
        transport.poll(now);
        while let Some(event) = transport.next_event() {
            if done(transport, event) {
                return;
            }
        }
        transport.wait(now, Some(give_up));
    }
}
