//! A link that goes down, an interface that goes away, a peer that has another address.

use dataplane::Port;
use dataplane::xdp::{LinkState, XdpMode};

use crate::network::{
    ADDRESSES, INTERFACE, Link, PORT, is_root, options, segment, send, until, until_it_arrives,
};

fn both_ways(ends: &mut [(dataplane::xdp::XdpInterface, Vec<dataplane::xdp::XdpPort>); 2]) {
    let [near, far] = ends;
    until_it_arrives(0, &mut near.1[0], &mut far.1[0]);
    until_it_arrives(1, &mut far.1[0], &mut near.1[0]);
}

#[test]
fn a_link_that_was_down_works_when_it_is_up_again() {
    if !is_root() {
        return;
    }
    for mode in [XdpMode::Generic, XdpMode::Copy] {
        let link = Link::new(1);
        let mut ends = [0, 1].map(|end| link.open(end, &options(end, mode)));
        both_ways(&mut ends);
        for end in 0..2 {
            link.hosts[end].run(&format!("ip link set {INTERFACE} down"));
            // The other one has no carrier then.
            for (interface, ports) in &mut ends {
                until("it is down", || (interface.report().link == LinkState::Down).then_some(()));
                let before = ports[0].statistics().link_down;
                send(&mut ports[0], &segment(end, PORT, 1, 100));
                ports[0].flush();
                let statistics = ports[0].statistics();
                let lost = statistics.link_down + statistics.no_neighbour;
                assert!(lost > before, "it was lost, and said so");
            }
            link.hosts[end].run(&format!("ip link set {INTERFACE} up"));
            both_ways(&mut ends);
        }
    }
}

#[test]
fn a_link_that_is_down_keeps_nobody_awake() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    let mut ends = [0, 1].map(|end| link.open(end, &options(end, XdpMode::Copy)));
    both_ways(&mut ends);
    let (interface, ports) = &mut ends[0];
    // Its kernel has them, and does not get rid of them.
    link.hosts[0].run(&format!("ip link set {INTERFACE} down"));
    until("it is down", || (interface.report().link == LinkState::Down).then_some(()));
    let calls = ports[0].statistics().send_wake_ups;
    for _ in 0..100 {
        send(&mut ports[0], &segment(0, PORT, 1, 100));
        ports[0].flush();
        assert!(!ports[0].has_unsent());
    }
    assert_eq!(ports[0].statistics().send_wake_ups, calls);
}

#[test]
fn an_mtu_that_has_become_too_small_is_told() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    let (interface, _ports) = link.open(0, &options(0, XdpMode::Copy));
    let trouble = || interface.report().trouble;
    assert_eq!(trouble(), None);
    link.hosts[0].run(&format!("ip link set {INTERFACE} mtu 1000"));
    let said = until("it is told", trouble);
    assert_eq!(said, "its MTU is 1000 now, and packets of 1500 are sent");
    link.hosts[0].run(&format!("ip link set {INTERFACE} mtu 1500"));
    until("it is mended", || trouble().is_none().then_some(()));
}

#[test]
fn an_interface_that_is_made_again_is_opened_again() {
    if !is_root() {
        return;
    }
    for mode in [XdpMode::Generic, XdpMode::Copy] {
        let link = Link::new(1);
        let mut ends = [0, 1].map(|end| link.open(end, &options(end, mode)));
        both_ways(&mut ends);
        for times in 1..=2 {
            link.remove();
            for (interface, ports) in &mut ends {
                until("it is gone", || (interface.report().link == LinkState::Gone).then_some(()));
                send(&mut ports[0], &segment(0, PORT, 1, 100));
                ports[0].flush();
            }
            link.make();
            both_ways(&mut ends);
            for (end, (interface, ports)) in ends.iter().enumerate() {
                assert_eq!(ports[0].statistics().reopened, times);
                let report = interface.report();
                assert_eq!((report.link, report.trouble), (LinkState::Up, None));
                assert!(link.hosts[end].has_program());
            }
        }
    }
}

#[test]
fn who_sleeps_while_the_interface_is_gone_wakes_when_it_is_there() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    let (interface, mut ports) = link.open(0, &options(0, XdpMode::Copy));
    link.remove();
    until("it is gone", || (interface.report().link == LinkState::Gone).then_some(()));
    let bell = ports[0].descriptor().unwrap();
    let is_ready = |descriptor| {
        let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which lives across the call.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    };
    assert!(!is_ready(bell), "it sleeps");
    link.make();
    until("it is woken", || is_ready(bell).then_some(()));
    ports[0].flush();
    assert!(!is_ready(ports[0].descriptor().unwrap()), "and sleeps again at the new socket");
    assert_eq!(ports[0].statistics().reopened, 1);
}

#[test]
fn a_peer_is_followed_to_another_address() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    let mut ends = [0, 1].map(|end| link.open(end, &options(end, XdpMode::Copy)));
    both_ways(&mut ends);
    let knows = |end: usize, mac: &str| {
        let neighbours = ends[end].0.report().neighbours;
        let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        neighbours.iter().any(|it| it.0 == ADDRESSES[1 - end] && text(it.1) == mac)
    };
    link.hosts[1].run("ip link set hk0 address 02:00:00:00:00:77");
    // As a card that takes over from another does.
    link.hosts[1].run("ip neigh flush dev hk0");
    until("the peer has asked for us, and so is known", || {
        link.hosts[1].run(&format!("ping -q -c 1 -W 1 {}", ADDRESSES[0]));
        knows(0, "02:00:00:00:00:77").then_some(())
    });
    both_ways(&mut ends);
}

#[test]
fn what_an_operator_has_said_for_good_is_left_alone() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    let peer = ADDRESSES[1];
    link.hosts[0].run(&format!(
        "ip neigh add {peer} lladdr 02:00:00:00:00:99 nud permanent dev {INTERFACE}"
    ));
    let (interface, _ports) = link.open(0, &options(0, XdpMode::Copy));
    until("it is known", || {
        (interface.report().neighbours == [(peer, [2, 0, 0, 0, 0, 0x99])]).then_some(())
    });
    assert!(link.hosts[0].run("ip neigh show").contains("PERMANENT"));
}

#[test]
fn the_kernel_looks_after_the_peers() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    let (interface, _ports) = link.open(0, &options(0, XdpMode::Copy));
    until("it is known", || (interface.report().neighbours.len() == 1).then_some(()));
    assert!(link.hosts[0].run("ip neigh show").contains("managed"));
    link.hosts[0].run(&format!("ip neigh del {} dev {INTERFACE}", ADDRESSES[1]));
    until("it is found again", || {
        let neighbours = link.hosts[0].run("ip neigh show");
        (neighbours.contains("managed") && neighbours.contains("lladdr")).then_some(())
    });
}
