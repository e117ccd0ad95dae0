//! What goes by the sockets, and what by the kernel.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use dataplane::Port;
use dataplane::xdp::{BusyPoll, LinkState, PortBlock, XdpMode, XdpOptions, XdpPort};

use crate::network::{
    ADDRESSES, Link, OTHER_PORT, PORT, is_root, number_of, options, receive, segment, send, until,
    until_it_arrives,
};

/// So many packets each way, in bursts, without loss.
fn exchange(ports: &mut [XdpPort; 2], length: usize) {
    const PACKETS: u32 = 5_000;
    const BURST: u32 = 50;
    let (mut sent, mut received) = ([0; 2], [0; 2]);
    until("all packets arrive", || {
        for end in 0..2 {
            // No further ahead than the other end has taken: the ring of a veth holds 256.
            for _ in 0..BURST {
                if sent[end] < PACKETS && sent[end] < received[1 - end] + BURST {
                    send(&mut ports[end], &segment(end, PORT, sent[end], length));
                    sent[end] += 1;
                }
            }
            ports[end].flush();
            while let Some(packet) = receive(&mut ports[end]) {
                assert_eq!(number_of(&packet), received[end], "in their order");
                assert_eq!(packet.len(), length);
                received[end] += 1;
            }
        }
        (received == [PACKETS; 2]).then_some(())
    });
}

fn exchange_in(modes: [XdpMode; 2], change: impl Fn(&mut XdpOptions), length: usize) {
    let link = Link::new(1);
    let mut ends = [0, 1].map(|end| {
        let mut options = options(end, modes[end]);
        change(&mut options);
        link.open(end, &options)
    });
    let [near, far] = &mut ends;
    until_it_arrives(0, &mut near.1[0], &mut far.1[0]);
    until_it_arrives(1, &mut far.1[0], &mut near.1[0]);
    let mut ports = ends.map(|(interface, mut ports)| {
        assert_eq!(interface.report().link, LinkState::Up);
        ports.pop().unwrap()
    });
    exchange(&mut ports, length);
    for port in &ports {
        let statistics = port.statistics();
        assert!(statistics.received >= 5_000 && statistics.sent >= 5_000);
        let dropped = statistics.ring_full + statistics.fill_empty + statistics.dropped;
        assert_eq!(dropped + statistics.no_frame + statistics.invalid, 0, "{statistics:?}");
        // A system call sends many.
        assert!(statistics.send_wake_ups < statistics.sent / 4, "{statistics:?}");
    }
}

#[test]
fn packets_are_exchanged_in_generic_mode() {
    if is_root() {
        exchange_in([XdpMode::Generic; 2], |_| {}, 100);
    }
}

#[test]
fn packets_are_exchanged_in_the_drivers_mode() {
    if is_root() {
        exchange_in([XdpMode::Copy; 2], |_| {}, 1_500);
    }
}

#[test]
fn packets_are_exchanged_between_modes() {
    if is_root() {
        exchange_in([XdpMode::Copy, XdpMode::Generic], |_| {}, 1_000);
    }
}

#[test]
fn packets_are_exchanged_with_busy_polling() {
    if is_root() {
        let busy_poll = Some(BusyPoll { micros: 20, budget: 64 });
        exchange_in([XdpMode::Copy; 2], |options| options.busy_poll = busy_poll, 100);
    }
}

#[test]
fn packets_are_exchanged_with_the_usual_budget_and_small_batches() {
    if is_root() {
        let change = |options: &mut XdpOptions| {
            options.send_budget = None;
            options.batch = 3;
        };
        exchange_in([XdpMode::Generic; 2], change, 100);
    }
}

#[test]
fn long_packets_are_exchanged_up_to_what_a_frame_holds() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    for host in &link.hosts {
        host.run("ip link set hk0 mtu 3498");
    }
    let mut ends = [0, 1].map(|end| {
        let options = XdpOptions { frame_bytes: 4_096, ..options(end, XdpMode::Copy) };
        link.open(end, &options)
    });
    let [near, far] = &mut ends;
    assert_eq!(near.0.report().mtu, 3_498);
    until_it_arrives(0, &mut near.1[0], &mut far.1[0]);
    until_it_arrives(1, &mut far.1[0], &mut near.1[0]);
    exchange(&mut ends.map(|(_, mut ports)| ports.pop().unwrap()), 3_498);
}

#[test]
fn frames_lie_in_huge_pages_where_there_are_some() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
    let count = |name: &str| {
        let count = memory.lines().find_map(|it| it.strip_prefix(name)).unwrap();
        count.trim().parse::<u32>().unwrap()
    };
    let mut ends = [0, 1].map(|end| link.open(end, &options(end, XdpMode::Copy)));
    for (interface, _) in &ends {
        let has_huge_pages = interface.report().huge_pages;
        assert!(has_huge_pages || count("HugePages_Free:") < HUGE_PAGES_AMPLE);
        assert!(!has_huge_pages || count("HugePages_Total:") > 0);
    }
    let [near, far] = &mut ends;
    until_it_arrives(0, &mut near.1[0], &mut far.1[0]);
    until_it_arrives(1, &mut far.1[0], &mut near.1[0]);
    exchange(&mut ends.map(|(_, mut ports)| ports.pop().unwrap()), 1_000);
}

/// More than the tests beside take.
const HUGE_PAGES_AMPLE: u32 = 64;

#[test]
fn auto_takes_what_works_and_says_why_nothing_better() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    let options = XdpOptions { mode: None, ..options(0, XdpMode::Copy) };
    let (interface, _ports) = link.open(0, &options);
    let report = interface.report();
    assert_eq!(report.mode, XdpMode::Copy);
    assert!(matches!(&report.refused[..], [(XdpMode::ZeroCopy, why)] if !why.is_empty()));
    assert_eq!((report.mtu, report.trouble), (1_500, None));
}

#[test]
fn what_is_sent_beyond_the_room_is_counted_and_comes_to_no_harm() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    let mut ends = [0, 1].map(|end| link.open(end, &options(end, XdpMode::Copy)));
    let [near, far] = &mut ends;
    until_it_arrives(0, &mut near.1[0], &mut far.1[0]);
    let port = &mut near.1[0];
    until("all frames are back", || {
        port.flush();
        (port.room() == 512).then_some(())
    });
    (0..600).for_each(|number| send(port, &segment(0, PORT, number, 100)));
    assert_eq!((port.room(), port.statistics().no_frame), (0, 88));
    // Nothing is received that could not be answered.
    send(&mut far.1[0], &segment(1, PORT, 1, 100));
    assert!(receive(port).is_none());
    until("they have left", || {
        port.flush();
        (port.room() == 512).then_some(())
    });
}

#[test]
fn all_else_goes_to_the_kernel() {
    if !is_root() {
        return;
    }
    for mode in [XdpMode::Generic, XdpMode::Copy] {
        let link = Link::new(1);
        let mut ends = [0, 1].map(|end| link.open(end, &options(end, mode)));
        let [near, far] = &mut ends;
        until_it_arrives(0, &mut near.1[0], &mut far.1[0]);
        // ICMP.
        let counted = far.1[0].statistics().received;
        link.hosts[0].run(&format!("ping -q -c 3 -i 0.01 {}", ADDRESSES[1]));
        // Fragments, of UDP.
        let [near, far_socket] = [0, 1].map(|end: usize| {
            link.hosts[end].enter();
            UdpSocket::bind((ADDRESSES[end], PORT)).unwrap()
        });
        near.send_to(&[7; 4_000], (ADDRESSES[1], PORT)).unwrap();
        let mut datagram = [0; 5_000];
        assert_eq!(far_socket.recv(&mut datagram).unwrap(), 4_000);
        // TCP at another port.
        let listener = TcpListener::bind((ADDRESSES[1], 80)).unwrap();
        let server = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        });
        link.hosts[0].enter();
        let mut stream = TcpStream::connect((ADDRESSES[1], 80)).unwrap();
        stream.write_all(&[9; 300_000][..1_000]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut echo = Vec::new();
        stream.read_to_end(&mut echo).unwrap();
        assert_eq!(echo.len(), 1_000);
        server.join().unwrap();
        assert_eq!(far.1[0].statistics().received, counted, "nothing of it came to us");
    }
}

#[test]
fn ours_by_another_queue_is_dropped_and_counted() {
    if !is_root() {
        return;
    }
    let link = Link::new(2);
    let mut ends = [0, 1].map(|end| {
        let mut options = options(end, XdpMode::Copy);
        let ports = OTHER_PORT..=OTHER_PORT + 63;
        options.filter.blocks.push(PortBlock { ports, queue: 1 });
        link.open(end, &options)
    });
    let [near, far] = &mut ends;
    until_it_arrives(0, &mut near.1[0], &mut far.1[0]);
    // What leaves by a queue of a veth comes by the same.
    near.1[1].flush();
    send(&mut near.1[1], &segment(0, OTHER_PORT, 1, 100));
    near.1[1].flush();
    let packet = until("it arrives by its queue", || receive(&mut far.1[1]));
    assert_eq!(number_of(&packet), 1);
    send(&mut near.1[0], &segment(0, OTHER_PORT, 2, 100));
    near.1[0].flush();
    until("it is counted", || (far.0.statistics()[1].astray == 1).then_some(()));
    let astray: Vec<_> = far.0.statistics().iter().map(|it| (it.queue, it.astray)).collect();
    assert_eq!(astray, [(0, 0), (1, 1)]);
    assert!(receive(&mut far.1[0]).is_none() && receive(&mut far.1[1]).is_none());
    // And is still counted when the interface was made again.
    link.remove();
    link.make();
    until_it_arrives(0, &mut near.1[0], &mut far.1[0]);
    assert_eq!((far.0.statistics()[1].astray, far.0.statistics()[0].reopened), (1, 1));
}

#[test]
fn the_peers_change_while_it_runs() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    let mut ends = [0, 1].map(|end| link.open(end, &options(end, XdpMode::Copy)));
    let [near, far] = &mut ends;
    until_it_arrives(0, &mut near.1[0], &mut far.1[0]);
    far.0.set_peers(&[]).unwrap();
    let kernel = far.1[0].statistics().received;
    send(&mut near.1[0], &segment(0, PORT, 1, 100));
    near.1[0].flush();
    until("nobody is a peer", || far.0.report().neighbours.is_empty().then_some(()));
    assert_eq!(far.1[0].statistics().received, kernel);
    assert!(far.0.set_peers(&[ADDRESSES[1]]).is_err(), "that is ourselves");
    far.0.set_peers(&[ADDRESSES[0]]).unwrap();
    until_it_arrives(0, &mut near.1[0], &mut far.1[0]);
    until_it_arrives(1, &mut far.1[0], &mut near.1[0]);
}
