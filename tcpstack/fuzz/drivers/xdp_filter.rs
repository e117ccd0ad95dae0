//! The filter of an interface: the program that the kernel runs, against the rule.
//!
//! The input is the NIC queue, and a frame that begins as one of ours does, with what the input lays over it. Without
//! root no program can be loaded, and the rule alone is run.

use std::net::Ipv4Addr;

use dataplane::xdp::{Filter, PortBlock, Verdict, XdpInterface, XdpMode, XdpOptions, XdpPort};
use fuzzing::Script;

use super::network::{ADDRESSES, Link, options};

/// `enum xdp_action`.
const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

struct Opened {
    interface: XdpInterface,
    _ports: Vec<XdpPort>,
    _link: Link,
}

thread_local! {
    static OPENED: Option<Opened> = open();
}

fn filter() -> Filter {
    Filter {
        local: ADDRESSES[0],
        peers: vec![ADDRESSES[1], Ipv4Addr::new(200, 1, 2, 3)],
        blocks: vec![
            PortBlock { ports: 7_001..=7_001, queue: 0 },
            PortBlock { ports: 61_440..=61_503, queue: 1 },
        ],
    }
}

fn open() -> Option<Opened> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let link = Link::new(2);
    let options = XdpOptions { filter: filter(), ..options(0, XdpMode::Generic) };
    let (interface, ports) = link.open(0, &options);
    Some(Opened { interface, _ports: ports, _link: link })
}

/// Runs the packet that `input` describes through both.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let queue = u32::from(script.byte() & 1);
    let mut packet = vec![0; 60];
    packet[12..15].copy_from_slice(&[8, 0, 0x45]);
    packet[23] = 6;
    packet[26..30].copy_from_slice(&ADDRESSES[1].octets());
    packet[30..34].copy_from_slice(&ADDRESSES[0].octets());
    packet[36..38].copy_from_slice(&7_001_u16.to_be_bytes());
    // The kernel runs nothing shorter than an Ethernet header.
    packet.truncate(60 - usize::from(script.byte() % 47));
    while !script.is_over() {
        let at = usize::from(script.byte()) % packet.len();
        packet[at] = script.byte();
    }
    let verdict = filter().verdict(&packet, queue);
    let expected = match verdict {
        Verdict::Kernel => PASS,
        Verdict::Socket => REDIRECT,
        Verdict::Astray(its) => {
            assert_ne!(its, queue);
            DROP
        }
    };
    OPENED.with(|opened| {
        let Some(opened) = opened else { return };
        let action = opened.interface.run_program(&packet, queue).expect("the kernel runs it");
        assert_eq!(action, expected, "{packet:x?} by {queue}");
    });
}
