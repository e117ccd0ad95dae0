//! The program in the kernel against the rule in Rust.

use std::net::Ipv4Addr;

use dataplane::xdp::{Filter, PortBlock, Verdict, XdpInterface, XdpMode, XdpOptions};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::network::{ADDRESSES, Link, is_root, options};

/// `enum xdp_action`.
const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

fn filter() -> Filter {
    Filter {
        local: ADDRESSES[0],
        peers: vec![ADDRESSES[1], Ipv4Addr::new(200, 1, 2, 3)],
        blocks: vec![
            PortBlock { ports: 7_001..=7_001, queue: 0 },
            PortBlock { ports: 61_440..=61_503, queue: 1 },
            PortBlock { ports: 65_535..=65_535, queue: 0 },
        ],
    }
}

/// A packet that is ours, but for what is altered.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let port = prop_oneof![
        Just(7_001_u16),
        Just(61_439),
        Just(61_440),
        Just(61_503),
        Just(61_504),
        Just(65_535),
        any::<u16>()
    ];
    let source =
        prop_oneof![Just(ADDRESSES[1]), Just(Ipv4Addr::new(200, 1, 2, 3)), any::<Ipv4Addr>()];
    let destination = prop_oneof![4 => Just(ADDRESSES[0]), 1 => any::<Ipv4Addr>()];
    let altered = prop::collection::vec((12_usize..54, any::<u8>()), 0..3);
    // Shorter ones the kernel does not run.
    (port, source, destination, altered, prop_oneof![1 => 14_usize..70, 3 => Just(60)]).prop_map(
        |(port, source, destination, altered, length)| {
            let mut packet = vec![0; 70];
            packet[12..15].copy_from_slice(&[8, 0, 0x45]);
            packet[20] = 0x40;
            packet[23] = 6;
            packet[26..30].copy_from_slice(&source.octets());
            packet[30..34].copy_from_slice(&destination.octets());
            packet[36..38].copy_from_slice(&port.to_be_bytes());
            altered.into_iter().for_each(|(at, byte)| packet[at] = byte);
            packet.truncate(length);
            packet
        },
    )
}

fn check(interface: &XdpInterface, filter: &Filter, packet: &[u8], queue: u32) -> Verdict {
    let verdict = filter.verdict(packet, queue);
    let expected = match verdict {
        Verdict::Kernel => PASS,
        Verdict::Socket => REDIRECT,
        Verdict::Astray(_) => DROP,
    };
    let action = interface.run_program(packet, queue).unwrap();
    assert_eq!(action, expected, "{packet:x?} by {queue}");
    verdict
}

fn open(link: &Link) -> (XdpInterface, Vec<dataplane::xdp::XdpPort>) {
    let options = XdpOptions { filter: filter(), ..options(0, XdpMode::Generic) };
    link.open(0, &options)
}

#[test]
fn the_program_does_what_the_rule_says() {
    if !is_root() {
        return;
    }
    let link = Link::new(2);
    let (interface, _ports) = open(&link);
    let mut seen = [0; 3];
    let mut runner = TestRunner::new(Config { cases: 20_000, ..Config::default() });
    let result = runner.run(&(packets(), 0_u32..2), |(packet, queue)| {
        check(&interface, &filter(), &packet, queue);
        Ok(())
    });
    result.unwrap();
    // That the packets are of all kinds.
    let mut runner = TestRunner::deterministic();
    for _ in 0..2_000 {
        let packet = packets().new_tree(&mut runner).unwrap().current();
        seen[match check(&interface, &filter(), &packet, 0) {
            Verdict::Kernel => 0,
            Verdict::Socket => 1,
            Verdict::Astray(_) => 2,
        }] += 1;
    }
    assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
}

#[test]
fn a_program_of_256_peers_does_what_the_rule_says() {
    if !is_root() {
        return;
    }
    let link = Link::new(2);
    let (interface, _ports) = open(&link);
    let peers: Vec<_> = (0..256_u32).map(|it| Ipv4Addr::from(0xc0a8_0000 + it * 7)).collect();
    interface.set_peers(&peers).unwrap();
    let filter = Filter { peers: peers.clone(), ..filter() };
    for address in (0xc0a8_0000..0xc0a8_0800).map(Ipv4Addr::from) {
        let mut packet = vec![0; 54];
        packet[12..15].copy_from_slice(&[8, 0, 0x45]);
        packet[23] = 6;
        packet[26..30].copy_from_slice(&address.octets());
        packet[30..34].copy_from_slice(&ADDRESSES[0].octets());
        packet[36..38].copy_from_slice(&7_001_u16.to_be_bytes());
        let verdict = check(&interface, &filter, &packet, 0);
        assert_eq!(verdict == Verdict::Socket, peers.contains(&address));
    }
}
