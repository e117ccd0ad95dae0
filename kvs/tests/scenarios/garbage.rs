//! Random bytes on the port, wrong secrets, requests before the handshake.

use std::io::{Read, Write};
use std::net::TcpStream;

use kvs_proto::body::Counter;
use kvs_proto::{Event, Header, Op, Status, Tag};

use crate::link::{Link, now, server, small_server};

#[test]
fn random_bytes_harm_nothing() {
    let server = small_server();
    let mut link = Link::with_queue(&server);
    let mut seed = 7u64;
    for round in 0..50 {
        let mut stream = TcpStream::connect(server.addresses()[0]).unwrap();
        let garbage: Vec<u8> = (0..100 + round * 50)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                seed.to_le_bytes()[7]
            })
            .collect();
        // The server may have closed before it was all sent.
        let _ = stream.write_all(&garbage);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "what cannot be framed is not answered");
    }
    link.store(b"still there");
    link.acknowledged(1);
    link.client.statistics(now(), Tag(1));
    let Event::Counters { counters, .. } = link.event() else { panic!("counters") };
    let get = |wanted| counters.iter().find(|(key, _)| *key == wanted).unwrap().1;
    assert_eq!(get(Counter::ProtocolErrors), 50);
    assert_eq!(get(Counter::Stores), 1);
    server.stop();
}

#[test]
fn a_wrong_secret_and_an_unknown_account_get_the_same_answer() {
    let server = small_server();
    for (account, secret) in [("gw", "guessed"), ("nobody", "the secret of gw")] {
        let mut link = Link::open(server.addresses()[0], account, secret);
        let refusal = link.refused();
        assert_eq!((refusal.op, refusal.status), (Op::Authenticate, Status::NotAuthenticated));
        assert_eq!(link.try_event(), None, "and the connection is closed");
    }
    server.stop();
}

#[test]
fn nothing_is_done_before_the_handshake() {
    let server = small_server();
    let mut stream = TcpStream::connect(server.addresses()[0]).unwrap();
    stream.write_all(&Header::new(Op::Statistics).encode()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let header = Header::decode(answer[..].try_into().unwrap()).unwrap();
    assert_eq!(header.op, Op::Refused);
    assert_eq!(header.generation_or_status, Status::NotAuthenticated as u32);
    server.stop();
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let server = server("memory = \"4 MiB\"\nconnections_max = 4");
    let address = server.addresses()[0];
    let mut first = Link::with_queue(&server);
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
    let _second = Link::new(&server);
    first.store(b"still there");
    first.acknowledged(1);
    drop(silent);
    server.stop();
}

#[test]
fn an_account_has_its_own_queues_only() {
    let server = small_server();
    let mut link = Link::open(server.addresses()[0], "other", "the secret of other");
    assert!(matches!(link.event(), Event::Welcome { .. }));
    assert_eq!(link.create("queue", 1, 1), Err(Status::NotYours));
    assert_eq!(link.attach("queue", 9, 9), Err(Status::NotYours));
    link.create("other/queue", 1, 1).unwrap();
    Link::with_queue(&server);
    link.client.queue_list(now(), Tag(1), None);
    let Event::Queues { queues, finished: true, .. } = link.event() else { panic!("queues") };
    assert_eq!(queues.iter().map(|queue| &queue.name[..]).collect::<Vec<_>>(), ["other/queue"]);
    server.stop();
}

#[test]
fn a_reply_sent_as_a_request_ends_the_connection() {
    let server = small_server();
    let mut link = Link::new(&server);
    link.stream.write_all(&Header::new(Op::Ack).encode()).unwrap();
    // A reply's op is not a request's: the client reports what it gets as a broken protocol.
    let event = link.event();
    assert!(matches!(event, Event::ProtocolError(_)), "{event:?}");
    Link::new(&server);
    server.stop();
}
