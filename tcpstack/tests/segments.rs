//! What goes by a segment of a link's transport, and what by the kernel.
#![cfg(feature = "userspace")]

use std::io::{IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use dataplane::{WireEnd, WireOptions, wire};
use smoltcp::phy::Medium;
use tcpstack::{
    Clock, ConnectionId, Event, Instant, KernelOptions, KernelTransport, LinkChoice, LinkMode,
    LinkOptions, LinkTuning, LinksTaken, OpenError, Segment, SegmentTransport, Transport,
    UserspaceOptions, UserspaceTransport, open_links, source_for, wait_on_both,
};

const CLIENT: [u8; 4] = [127, 0, 0, 9];
const SERVER: [u8; 4] = [127, 0, 0, 1];

/// Both ends of a wire, each the other's peer.
fn pair() -> [SegmentTransport<WireEnd>; 2] {
    let options = WireOptions { medium: Medium::Ip, frame_bytes: 1500, ..WireOptions::default() };
    let (client, server) = wire(options);
    let make = |port, address: [u8; 4], peer: [u8; 4], seed| {
        let options = UserspaceOptions::new(address.into(), seed);
        let segment = Segment {
            interface: "wire".into(),
            nic_queue: 3,
            address: address.into(),
            peers: vec![peer.into()],
            stack: UserspaceTransport::new(port, options),
        };
        let kernel = KernelTransport::new(KernelOptions::default()).unwrap();
        SegmentTransport::new(kernel, vec![segment])
    };
    [make(client, CLIENT, SERVER, 1), make(server, SERVER, CLIENT, 2)]
}

/// Turns of both until something is found in the events of the one that is asked.
fn until<T>(
    ends: &mut [SegmentTransport<WireEnd>; 2],
    mut find: impl FnMut(usize, Event) -> Option<T>,
) -> T {
    let clock = Clock::new();
    let give_up = clock.now() + Duration::from_secs(20);
    loop {
        let now = clock.now();
        assert!(now < give_up, "it did not happen in time");
        for (end, transport) in ends.iter_mut().enumerate() {
            transport.poll(now);
            let mut found = None;
            while let Some(event) = transport.next_event() {
                found = found.or_else(|| find(end, event));
            }
            transport.flush(now);
            if let Some(found) = found {
                return found;
            }
        }
    }
}

fn received(ends: &[SegmentTransport<WireEnd>; 2]) -> [u64; 2] {
    [0, 1].map(|end| ends[end].segments()[0].stack.statistics().received)
}

#[test]
fn a_peer_is_reached_by_its_segment_and_others_by_the_kernel() {
    let mut ends = pair();
    let listener = ends[1].listen(SocketAddr::from((SERVER, 0))).unwrap();
    let address = ends[1].local_address(listener).unwrap();
    let now = Clock::new().now();
    // Another address of ours than the segment's is not on it.
    let local = Some(IpAddr::from([127, 0, 0, 1]));
    for (local, is_on_segment) in [(None, true), (Some(CLIENT.into()), true), (local, false)] {
        let before = received(&ends);
        let connection = ends[0].connect(now, address, local).unwrap();
        let (accepted, peer) = until(&mut ends, |end, event| match event {
            Event::Accepted { listener: at, connection, peer } => {
                assert_eq!((end, at), (1, listener));
                Some((connection, peer))
            }
            _ => None,
        });
        assert_eq!(peer.ip(), local.unwrap_or(CLIENT.into()));
        ends[1].send(accepted, &[IoSlice::new(b"hello")]).unwrap();
        until(&mut ends, |end, event| {
            (end == 0 && event == Event::Readable(connection)).then_some(())
        });
        let text = ends[0].recv(connection, |bytes| (bytes.len(), bytes.to_vec())).unwrap();
        assert_eq!(text, b"hello");
        // The part that has it shows in its name; on the segment its packets are counted.
        assert_eq!(connection.index % 2 == 1, is_on_segment, "{local:?}");
        assert!(!is_on_segment || received(&ends) > before, "{local:?}");
    }
}

#[test]
fn somebody_who_is_no_peer_is_served_by_the_kernel_at_the_same_address() {
    let mut ends = pair();
    let listener = ends[1].listen(SocketAddr::from((SERVER, 0))).unwrap();
    let address = ends[1].local_address(listener).unwrap();
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"who is there").unwrap();
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).unwrap();
        answer
    });
    let heard: ConnectionId = until(&mut ends, |_, event| match event {
        Event::Readable(connection) => Some(connection),
        _ => None,
    });
    assert_eq!(ends[1].recv(heard, |bytes| (bytes.len(), bytes.len())), Ok(12));
    ends[1].send(heard, &[IoSlice::new(b"nobody")]).unwrap();
    assert_eq!(&client.join().unwrap(), b"nobody");
    assert_eq!(received(&ends), [0, 0]);
}

#[test]
fn names_of_both_parts_differ_and_stay_small() {
    let mut ends = pair();
    let listener = ends[1].listen(SocketAddr::from((SERVER, 0))).unwrap();
    let address = ends[1].local_address(listener).unwrap();
    let now = Clock::new().now();
    let by = |local: [u8; 4]| Some(IpAddr::from(local));
    let mut names = Vec::new();
    for local in [CLIENT, SERVER, CLIENT, SERVER] {
        names.push(ends[0].connect(now, address, by(local)).unwrap().index);
    }
    names.sort_unstable();
    assert_eq!(names, [0, 1, 2, 3]);
}

#[test]
fn a_busy_thread_seldom_asks_a_kernel_that_has_nothing_to_tell() {
    let mut ends = pair();
    ends[0].listen(SocketAddr::from((SERVER, 0))).unwrap();
    let turns = |end: &mut SegmentTransport<WireEnd>, from: u64| {
        let before = end.kernel_polls();
        for micros in 0..10_000 {
            end.poll(Instant::from_nanos((from + micros) * 1_000));
            assert_eq!(end.next_event(), None);
        }
        end.kernel_polls() - before
    };
    assert_eq!(turns(&mut ends[0], 1_000_000), 10, "in ten milliseconds");
    // With a connection by the kernel it is asked more often. Nobody accepts this one.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let now = Instant::from_nanos(1_010_000_000);
    ends[0].connect(now, nobody.local_addr().unwrap(), Some(SERVER.into())).unwrap();
    ends[0].poll(now);
    let _ = ends[0].next_event();
    let polls = turns(&mut ends[0], 1_020_000);
    assert!((200..=202).contains(&polls), "{polls}");
}

#[test]
fn nobody_listens_in_one_part_alone() {
    let mut ends = pair();
    let listener = ends[1].listen(SocketAddr::from((SERVER, 0))).unwrap();
    let address = ends[1].local_address(listener).unwrap();
    assert!(matches!(ends[1].listen(address), Err(OpenError::Address(_))));
    ends[1].unlisten(listener);
    assert_eq!(ends[1].local_address(listener), None);
    let again = ends[1].listen(address).unwrap();
    assert_eq!(ends[1].local_address(again), Some(address));
}

#[test]
fn a_sleeper_hears_of_the_kernels_news() {
    let options = LinkOptions {
        choice: LinkChoice::Kernel,
        mode: LinkMode::Auto,
        frames: 4096,
        frame_bytes: 2048,
        busy_poll: Duration::ZERO,
        verify_checksums: true,
        tuning: LinkTuning::default(),
        interfaces: Vec::new(),
    };
    let mut open = open_links(&options, &KernelOptions::default(), 2).unwrap();
    assert_eq!(open.taken, LinksTaken::kernel());
    let [mut links, mut other] = [open.transports.remove(0), open.transports.remove(0)];
    let listener = links.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = links.local_address(listener).unwrap();
    let client = std::thread::spawn(move || TcpStream::connect(address));
    let clock = Clock::new();
    let give_up = clock.now() + Duration::from_secs(20);
    let is_accepted = |links: &mut tcpstack::LinkTransport| {
        links.poll(clock.now());
        std::iter::from_fn(|| links.next_event()).any(|it| matches!(it, Event::Accepted { .. }))
    };
    while !is_accepted(&mut links) {
        assert!(clock.now() < give_up);
        wait_on_both(&mut links, &mut other, clock.now(), Some(give_up));
    }
    client.join().unwrap().unwrap();
}

#[test]
fn the_bypass_without_interfaces_or_privileges_falls_back_only_where_it_may() {
    let interface = tcpstack::LinkInterface {
        name: "there-is-none".into(),
        address: SERVER.into(),
        peers: vec![CLIENT.into()],
        queues: vec![tcpstack::LinkQueue { number: 0, ports: 7001..=7001 }],
    };
    let options = |choice| LinkOptions {
        choice,
        mode: LinkMode::Auto,
        frames: 512,
        frame_bytes: 2048,
        busy_poll: Duration::ZERO,
        verify_checksums: true,
        tuning: LinkTuning::default(),
        interfaces: vec![interface.clone()],
    };
    let kernel = KernelOptions::default();
    let why = open_links(&options(LinkChoice::Afxdp), &kernel, 1).err().expect("it must not open");
    let open = open_links(&options(LinkChoice::Auto), &kernel, 1).unwrap();
    assert_eq!(open.transports.len(), 1);
    assert_eq!(open.taken, LinksTaken { why_not: Some(why), ..LinksTaken::kernel() });
}

#[test]
fn the_kernels_way_tells_our_address() {
    assert_eq!(source_for(SERVER.into()), Some(SERVER.into()));
}
