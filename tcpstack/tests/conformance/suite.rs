//! What every `Transport` must do.

use std::collections::BTreeMap;
use std::io::IoSlice;

use tcpstack::{CloseReason, ConnectionId, Event, OpenError, RecvError, SendError, Transport};

use crate::harness::{End, Harness, Setup, World};

pub(crate) fn connects_accepts_and_echoes<H: Harness>() {
    echo(&mut World::<H>::new());
}

pub(crate) fn connects_over_ipv6<H: Harness>() {
    echo(&mut World::<H>::with(Setup { ipv6: true, ..Setup::default() }));
}

fn echo<H: Harness>(world: &mut World<H>) {
    let (client, server) = world.pair();
    let slices = [IoSlice::new(b"EH"), IoSlice::new(b""), IoSlice::new(b"LO x\r\n")];
    let sent = world.at(End::Client).send(client, &slices).unwrap();
    world.send_all(End::Client, client, &b"EHLO x\r\n"[sent..]);
    assert_eq!(world.receive(End::Server, server, 8), b"EHLO x\r\n");
    world.send_all(End::Server, server, b"250 y\r\n");
    assert_eq!(world.receive(End::Client, client, 7), b"250 y\r\n");
}

pub(crate) fn a_connect_to_nobody_is_refused<H: Harness>() {
    let mut world = World::<H>::new();
    let (listener, address) = world.listen();
    world.at(End::Server).unlisten(listener);
    let connection = world.connect(address);
    let event = world.until(|end, _| end == End::Client);
    assert_eq!(event, Event::Closed { connection, reason: CloseReason::Refused });
    assert_gone(&mut world, End::Client, connection);
}

pub(crate) fn an_address_in_use_cannot_be_listened_at<H: Harness>() {
    let mut world = World::<H>::new();
    let (listener, address) = world.listen();
    let again = world.at(End::Server).listen(address);
    assert!(matches!(again, Err(OpenError::Address(_))), "{again:?}");
    world.at(End::Server).unlisten(listener);
    assert_eq!(world.at(End::Server).local_address(listener), None);
    world.at(End::Server).listen(address).unwrap();
}

pub(crate) fn a_send_before_connected_takes_nothing_and_brings_writable<H: Harness>() {
    let mut world = World::<H>::new();
    let (_, address) = world.listen();
    let client = world.connect(address);
    assert_eq!(world.at(End::Client).send(client, &[IoSlice::new(b"early")]), Ok(0));
    world.until(|_, event| event == Event::Writable(client));
    let of_client: Vec<Event> = events_of(&world, End::Client);
    assert_eq!(of_client, [Event::Connected(client), Event::Writable(client)]);
}

pub(crate) fn a_close_before_connected_brings_no_event<H: Harness>() {
    let mut world = World::<H>::new();
    let (_, address) = world.listen();
    let closed = world.connect(address);
    world.at(End::Client).close(closed);
    let aborted = world.connect(address);
    world.at(End::Client).abort(aborted);
    world.settle();
    assert_eq!(events_of(&world, End::Client), []);
}

pub(crate) fn content_survives_short_sends_both_ways<H: Harness>() {
    let mut world = World::<H>::new();
    let (client, server) = world.pair();
    let ends = [(End::Client, client), (End::Server, server)];
    let content: Vec<u8> = (0..BULK_BYTES).map(pattern).collect();
    let (mut sent, mut received) = ([0; 2], [0; 2]);
    let mut short_sends = 0;
    let mut may_send = [true; 2];
    while received != [BULK_BYTES; 2] {
        for side in [0, 1] {
            while may_send[side] && sent[side] < BULK_BYTES {
                let (end, name) = ends[side];
                let rest = &content[sent[side]..];
                // Odd slices, so that a short send ends within one.
                let (first, second) = rest.split_at(rest.len().min(777));
                let second = &second[..second.len().min(70_001)];
                let slices = [IoSlice::new(first), IoSlice::new(second)];
                let taken = world.at(end).send(name, &slices).unwrap();
                may_send[side] = taken == first.len() + second.len();
                short_sends += usize::from(!may_send[side]);
                sent[side] += taken;
            }
        }
        for (end, event) in world.turn() {
            let side = usize::from(end == End::Server);
            match event {
                Event::Writable(_) => may_send[side] = true,
                Event::Readable(name) => {
                    let start = received[side];
                    let taken = world.at(end).recv(name, |bytes| {
                        // Not all at once either.
                        let taken = bytes.len().min(10_007);
                        assert_eq!(bytes[..taken], content[start..start + taken]);
                        (taken, taken)
                    });
                    received[side] += taken.unwrap_or(0);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(short_sends > 10, "the buffers were meant to fill");
}

pub(crate) fn a_send_that_was_taken_whole_brings_no_writable<H: Harness>() {
    let mut world = World::<H>::new();
    let (client, server) = world.pair();
    world.log.clear();
    let mut whole = 0;
    for _ in 0..20 {
        // A stack may take less at any time; then it owes a Writable.
        match world.at(End::Client).send(client, &[IoSlice::new(b"x")]).unwrap() {
            1 => whole += 1,
            _ => drop(world.until(|_, event| event == Event::Writable(client))),
        }
    }
    assert!(whole > 10);
    world.receive(End::Server, server, whole);
    world.settle();
    let writable = events_of(&world, End::Client).len();
    assert_eq!(writable, 20 - whole);
}

pub(crate) fn writable_comes_once_after_a_short_send<H: Harness>() {
    let mut world = World::<H>::new();
    let (client, server) = world.pair();
    let chunk = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    // Until the window and all buffers are full, whatever passes in between.
    loop {
        let taken = world.at(End::Client).send(client, &[IoSlice::new(&chunk)]).unwrap();
        sent += taken;
        if taken < chunk.len() {
            world.log.clear();
            world.settle();
            if events_of(&world, End::Client).is_empty() {
                break;
            }
        }
    }
    world.receive(End::Server, server, sent);
    world.settle();
    assert_eq!(events_of(&world, End::Client), [Event::Writable(client)]);
}

pub(crate) fn readable_repeats_until_all_is_taken<H: Harness>() {
    let mut world = World::<H>::new();
    let (client, server) = world.pair();
    world.send_all(End::Client, client, b"abcdef");
    world.until_readable(End::Server, server);
    world.settle();
    for expected in [b"ab", b"cd", b"ef"] {
        // Each turn announces it anew, because something is left.
        world.until_readable(End::Server, server);
        assert_eq!(world.receive(End::Server, server, 2), expected);
    }
    world.at(End::Server).recv(server, |_| (0, ())).unwrap_err();
    world.log.clear();
    world.settle();
    assert_eq!(events_of(&world, End::Server), []);
}

pub(crate) fn left_bytes_come_again_alone_and_first<H: Harness>() {
    let mut world = World::<H>::new();
    let (client, server) = world.pair();
    world.send_all(End::Client, client, b"first");
    let mut left = Vec::new();
    world.until_readable(End::Server, server);
    world.settle();
    world
        .at(End::Server)
        .recv(server, |bytes| {
            left = bytes[1..].to_vec();
            (1, ())
        })
        .unwrap();
    if left.is_empty() {
        // The stack had cut the bytes here; nothing was left then.
        assert_eq!(world.receive(End::Server, server, 4), b"irst");
        return;
    }
    world.send_all(End::Client, client, b"second");
    world.settle();
    for _ in 0..3 {
        // Nothing is taken, so the same comes again, and nothing newer.
        let offered = world.at(End::Server).recv(server, |bytes| (0, bytes.to_vec())).unwrap();
        assert_eq!(offered, left);
    }
    let offered = world.at(End::Server).recv(server, |bytes| (2, bytes.to_vec())).unwrap();
    assert_eq!(offered, left);
    let expected = [&left[2..], &b"irstsecond"[left.len()..]].concat();
    assert_eq!(world.receive(End::Server, server, expected.len()), expected);
}

pub(crate) fn recv_into_takes_left_bytes_then_the_rest<H: Harness>() {
    let mut world = World::<H>::new();
    let (client, server) = world.pair();
    let content: Vec<u8> = (0..20_000).map(pattern).collect();
    world.send_all(End::Client, client, &content);
    assert_eq!(world.receive(End::Server, server, 3), content[..3]);
    let mut received = content[..3].to_vec();
    let mut into = vec![0; 6_001];
    while received.len() < content.len() {
        match world.at(End::Server).recv_into(server, &mut into) {
            Ok(count) => received.extend_from_slice(&into[..count]),
            Err(error) => {
                assert_eq!(error, RecvError::WouldBlock);
                world.until_readable(End::Server, server);
            }
        }
    }
    assert_eq!(received, content);
    let end = world.at(End::Server).recv_into(server, &mut into);
    assert_eq!(end, Err(RecvError::WouldBlock));
    world.at(End::Client).finish(client);
    world.until_readable(End::Server, server);
    assert_eq!(world.at(End::Server).recv_into(server, &mut into), Err(RecvError::Finished));
}

pub(crate) fn a_paused_connection_is_not_announced_until_resumed<H: Harness>() {
    let mut world = World::<H>::new();
    let (client, server) = world.pair();
    world.send_all(End::Client, client, b"one");
    world.until_readable(End::Server, server);
    world.at(End::Server).set_receiving(server, false);
    world.send_all(End::Client, client, b"two");
    world.log.clear();
    world.settle();
    assert_eq!(events_of(&world, End::Server), []);
    world.at(End::Server).set_receiving(server, true);
    assert_eq!(world.receive(End::Server, server, 6), b"onetwo");
    // Paused while nothing is there; bytes come; resumed.
    world.at(End::Server).set_receiving(server, false);
    world.send_all(End::Client, client, b"three");
    world.log.clear();
    world.settle();
    assert_eq!(events_of(&world, End::Server), []);
    world.at(End::Server).set_receiving(server, true);
    assert_eq!(world.receive(End::Server, server, 5), b"three");
    // The end of the stream waits likewise.
    world.at(End::Server).set_receiving(server, false);
    world.at(End::Client).finish(client);
    world.log.clear();
    world.settle();
    assert_eq!(events_of(&world, End::Server), []);
    world.at(End::Server).set_receiving(server, true);
    assert_eq!(world.receive_rest(End::Server, server), b"");
}

pub(crate) fn finish_ends_one_direction_only<H: Harness>() {
    let mut world = World::<H>::new();
    let (client, server) = world.pair();
    world.send_all(End::Client, client, b"QUIT\r\n");
    world.at(End::Client).finish(client);
    assert_eq!(world.receive_rest(End::Server, server), b"QUIT\r\n");
    world.log.clear();
    world.settle();
    assert_eq!(events_of(&world, End::Server), [], "the end is announced once");
    let again = world.at(End::Server).recv(server, |_| (0, ()));
    assert_eq!(again, Err(RecvError::Finished));
    world.send_all(End::Server, server, b"221 bye\r\n");
    world.at(End::Server).finish(server);
    assert_eq!(world.receive_rest(End::Client, client), b"221 bye\r\n");
    world.log.clear();
    world.settle();
    assert_eq!(world.log, [], "both have finished, neither has closed");
    world.at(End::Client).close(client);
    world.at(End::Server).close(server);
    world.settle();
    assert_eq!(world.log, []);
}

pub(crate) fn finish_reaches_the_peer_after_all_bytes<H: Harness>() {
    let mut world = World::<H>::new();
    let (client, server) = world.pair();
    let content: Vec<u8> = (0..30_000).map(pattern).collect();
    let sent = world.at(End::Client).send(client, &[IoSlice::new(&content)]).unwrap();
    world.at(End::Client).finish(client);
    assert_eq!(world.receive_rest(End::Server, server), content[..sent]);
}

pub(crate) fn what_was_sent_arrives_after_a_close<H: Harness>() {
    let mut world = World::<H>::new();
    let (client, server) = world.pair();
    let content: Vec<u8> = (0..30_000).map(pattern).collect();
    let sent = world.at(End::Client).send(client, &[IoSlice::new(&content)]).unwrap();
    assert!(sent > 0);
    world.at(End::Client).close(client);
    assert_gone(&mut world, End::Client, client);
    assert_eq!(world.receive_rest(End::Server, server), content[..sent]);
}

pub(crate) fn the_last_reply_survives_a_close_before_all_was_read<H: Harness>() {
    let mut world = World::<H>::new();
    let (client, server) = world.pair();
    world.send_all(End::Client, client, b"nonsense that nobody will read\r\n");
    world.until_readable(End::Server, server);
    world.send_all(End::Server, server, b"554 5.5.0 no\r\n");
    world.at(End::Server).close(server);
    // More arrives after the close, before the client has looked.
    world.send_all(End::Client, client, b"and more\r\n");
    world.settle();
    assert_eq!(world.receive_rest(End::Client, client), b"554 5.5.0 no\r\n");
}

pub(crate) fn an_abort_is_a_reset_at_the_peer<H: Harness>() {
    let mut world = World::<H>::new();
    let (client, server) = world.pair();
    world.at(End::Client).abort(client);
    assert_gone(&mut world, End::Client, client);
    let mut reason = None;
    while reason.is_none() {
        for (_, event) in world.turn() {
            match event {
                Event::Readable(name) => {
                    let _ = world.at(End::Server).recv(name, |bytes| (bytes.len(), ()));
                }
                Event::Closed { connection, reason: why } => {
                    assert_eq!(connection, server);
                    reason = Some(why);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(reason, Some(CloseReason::Reset));
    assert_gone(&mut world, End::Server, server);
}

pub(crate) fn a_reset_is_noticed_while_paused<H: Harness>() {
    let mut world = World::<H>::new();
    let (client, server) = world.pair();
    world.at(End::Server).set_receiving(server, false);
    world.at(End::Client).abort(client);
    let event = world.until(|end, _| end == End::Server);
    assert_eq!(event, Event::Closed { connection: server, reason: CloseReason::Reset });
}

pub(crate) fn a_reset_is_noticed_after_the_peer_finished<H: Harness>() {
    let mut world = World::<H>::new();
    let (client, server) = world.pair();
    world.at(End::Client).finish(client);
    assert_eq!(world.receive_rest(End::Server, server), b"");
    world.at(End::Client).abort(client);
    let event = world.until(|end, _| end == End::Server);
    assert_eq!(event, Event::Closed { connection: server, reason: CloseReason::Reset });
}

pub(crate) fn a_stale_name_does_not_reach_the_next_connection<H: Harness>() {
    let mut world = World::<H>::new();
    let (_, address) = world.listen();
    let (old, old_server) = world.pair_at(address);
    world.at(End::Client).close(old);
    world.at(End::Server).close(old_server);
    world.settle();
    let (new, new_server) = world.pair_at(address);
    assert_eq!((new.index, new_server.index), (old.index, old_server.index));
    for (end, stale) in [(End::Client, old), (End::Server, old_server)] {
        assert_gone(&mut world, end, stale);
        world.at(end).set_receiving(stale, false);
        world.at(end).finish(stale);
        world.at(end).close(stale);
        world.at(end).abort(stale);
    }
    world.send_all(End::Client, new, b"still here");
    assert_eq!(world.receive(End::Server, new_server, 10), b"still here");
}

pub(crate) fn no_event_comes_for_a_closed_name<H: Harness>() {
    let mut world = World::<H>::new();
    let (_, address) = world.listen();
    let (client, server) = world.pair_at(address);
    let (other, other_server) = world.pair_at(address);
    world.send_all(End::Client, client, b"unread");
    world.send_all(End::Client, other, b"unread");
    world.at(End::Client).abort(client);
    world.settle();
    // Collected, and not handed out yet.
    let now = world.harness.now();
    world.at(End::Server).poll(now);
    world.at(End::Server).close(server);
    world.at(End::Server).abort(other_server);
    assert_eq!(world.at(End::Server).next_event(), None);
    world.log.clear();
    world.settle();
    assert_eq!(events_of(&world, End::Server), []);
}

pub(crate) fn unlisten_refuses_newcomers_and_keeps_the_others<H: Harness>() {
    let mut world = World::<H>::new();
    let (listener, address) = world.listen();
    let (client, server) = world.pair_at(address);
    world.at(End::Server).unlisten(listener);
    let refused = world.connect(address);
    let event = world.until(|end, _| end == End::Client);
    assert_eq!(event, Event::Closed { connection: refused, reason: CloseReason::Refused });
    world.send_all(End::Client, client, b"on");
    assert_eq!(world.receive(End::Server, server, 2), b"on");
}

pub(crate) fn many_connections_do_not_mix<H: Harness>() {
    let mut world = World::<H>::new();
    let (_, address) = world.listen();
    let clients: Vec<ConnectionId> = (0..MANY).map(|_| world.connect(address)).collect();
    // Each client says its index; the server says it back. By end and name: what was heard, and
    // how much was said.
    let mut heard = [BTreeMap::<ConnectionId, Vec<u8>>::new(), BTreeMap::new()];
    let mut said = [BTreeMap::<ConnectionId, usize>::new(), BTreeMap::new()];
    while heard[0].values().filter(|reply| reply.len() == 4).count() < MANY {
        for (end, event) in world.turn() {
            let side = usize::from(end == End::Server);
            let (Event::Connected(name)
            | Event::Writable(name)
            | Event::Readable(name)
            | Event::Accepted { connection: name, .. }) = event
            else {
                panic!("{event:?}");
            };
            let buffer = heard[side].entry(name).or_default();
            if let Event::Readable(name) = event {
                let _ = world.at(end).recv(name, |bytes| {
                    buffer.extend_from_slice(bytes);
                    (bytes.len(), ())
                });
            }
            let word =
                if end == End::Client { name.index.to_be_bytes().to_vec() } else { buffer.clone() };
            let said = said[side].entry(name).or_default();
            if word.len() == 4 && *said < 4 {
                let rest = [IoSlice::new(&word[*said..])];
                *said += world.at(end).send(name, &rest).unwrap();
            }
        }
    }
    for client in clients {
        assert_eq!(heard[0][&client], client.index.to_be_bytes());
    }
}

pub(crate) fn a_full_table_refuses_to_connect<H: Harness>() {
    let mut world = World::<H>::with(Setup { connections_max: 2, ..Setup::default() });
    let (_, address) = world.listen();
    let (first, first_server) = world.pair_at(address);
    let (second, _) = world.pair_at(address);
    assert!(first.index < 2 * H::PARTS && second.index < 2 * H::PARTS);
    let now = world.harness.now();
    let third = world.at(End::Client).connect(now, address, None);
    assert!(matches!(third, Err(OpenError::TableFull)), "{third:?}");
    world.at(End::Client).close(first);
    world.at(End::Server).close(first_server);
    world.pair_at(address);
}

pub(crate) fn newcomers_wait_for_a_place_at_a_full_server<H: Harness>() {
    let mut world = World::<H>::with(Setup { connections_max: 2, ..Setup::default() });
    let (_, address) = world.listen();
    let (_, first_server) = world.pair_at(address);
    let (second, second_server) = world.pair_at(address);
    world.at(End::Client).close(second);
    world.receive_rest(End::Server, second_server);
    // The server still holds two; the client has a place for a third.
    world.connect(address);
    world.log.clear();
    world.settle();
    assert_eq!(events_of(&world, End::Server), []);
    world.at(End::Server).close(first_server);
    world.until(|_, event| matches!(event, Event::Accepted { .. }));
}

fn assert_gone<H: Harness>(world: &mut World<H>, end: End, name: ConnectionId) {
    let transport = world.at(end);
    assert_eq!(transport.recv(name, |bytes| (bytes.len(), ())), Err(RecvError::Gone));
    assert_eq!(transport.recv_into(name, &mut [0]), Err(RecvError::Gone));
    assert_eq!(transport.send(name, &[IoSlice::new(b"x")]), Err(SendError::Gone));
}

fn events_of<H: Harness>(world: &World<H>, end: End) -> Vec<Event> {
    world.log.iter().filter(|(at, _)| *at == end).map(|&(_, event)| event).collect()
}

/// No period that a buffer size could hide.
fn pattern(index: usize) -> u8 {
    u8::try_from((index * 31 + index / 251 * 7) % 256).expect("below 256")
}

/// Many times what the buffers of all harnesses hold.
const BULK_BYTES: usize = 2_000_000;

const MANY: usize = 100;
