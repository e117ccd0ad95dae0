//! Hosts in network namespaces of their own, which go when the test ends, and a link between two of them.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::{Duration, Instant};

use dataplane::Port;
use dataplane::xdp::{Filter, PortBlock, XdpInterface, XdpMode, XdpOptions, XdpPort};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use smoltcp::phy::{Device, RxToken, TxToken};

/// Whether the test can run. Where it must (setup/test.sh xdp), it fails if it cannot.
pub(crate) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    let must = std::env::var_os("HIKYAKU_XDP_TESTS").is_some_and(|it| it == "required");
    assert!(is_root || !must, "tests of AF_XDP need root");
    if !is_root {
        eprintln!("skipped: this needs root");
    }
    is_root
}

/// A network namespace.
pub(crate) struct Host(File);

impl Host {
    pub(crate) fn new() -> Host {
        let made = std::thread::spawn(|| {
            // SAFETY: no descriptors are unshared, only this thread's network.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let host = Host(made.join().unwrap());
        host.run("ip link set lo up");
        host
    }

    /// This thread is on that host from now on, with what it starts and opens.
    pub(crate) fn enter(&self) {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    pub(crate) fn run(&self, command: &str) -> String {
        self.enter();
        let mut words = command.split_whitespace();
        let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Whether there is an XDP program on its interface.
    pub(crate) fn has_program(&self) -> bool {
        self.run(&format!("ip link show dev {INTERFACE}")).contains("xdp")
    }
}

/// The interface of either host.
pub(crate) const INTERFACE: &str = "hk0";
pub(crate) const ADDRESSES: [Ipv4Addr; 2] =
    [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];
/// Ours at both ends; queue 0, and queue 1 where there is one.
pub(crate) const PORT: u16 = 7_000;
pub(crate) const OTHER_PORT: u16 = 7_064;

/// Two hosts and a link.
pub(crate) struct Link {
    pub(crate) hosts: [Host; 2],
    queues: u32,
}

impl Link {
    pub(crate) fn new(queues: u32) -> Link {
        let link = Link { hosts: [Host::new(), Host::new()], queues };
        link.make();
        link
    }

    /// Makes the interfaces, at first or again.
    pub(crate) fn make(&self) {
        let [near, far] = &self.hosts;
        let queues = format!("numrxqueues {0} numtxqueues {0}", self.queues);
        let netns = far.path();
        near.run(&format!(
            "ip link add {INTERFACE} {queues} type veth peer name {INTERFACE} {queues} netns {netns}"
        ));
        for (host, address) in self.hosts.iter().zip(ADDRESSES) {
            host.run(&format!("ip addr add {address}/24 dev {INTERFACE}"));
            host.run(&format!("ip link set {INTERFACE} up"));
        }
    }

    pub(crate) fn remove(&self) {
        self.hosts[0].run(&format!("ip link del {INTERFACE}"));
    }

    /// Opens the interface of one host.
    pub(crate) fn open(&self, end: usize, options: &XdpOptions) -> (XdpInterface, Vec<XdpPort>) {
        self.hosts[end].enter();
        XdpInterface::open(options).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Options of one end.
pub(crate) fn options(end: usize, mode: XdpMode) -> XdpOptions {
    let blocks = vec![PortBlock { ports: PORT..=PORT + 63, queue: 0 }];
    let filter = Filter { local: ADDRESSES[end], peers: vec![ADDRESSES[1 - end]], blocks };
    XdpOptions { mode: Some(mode), frames: 1_024, ..XdpOptions::new(INTERFACE, filter) }
}

/// A TCP segment from one end to the other, from its IP header on. It carries a number and is that long.
pub(crate) fn segment(from: usize, port: u16, number: u32, length: usize) -> Vec<u8> {
    let mut packet = vec![0; length.max(44)];
    let total = u16::try_from(packet.len()).unwrap();
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&ADDRESSES[from].octets());
    packet[16..20].copy_from_slice(&ADDRESSES[1 - from].octets());
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet[40..44].copy_from_slice(&number.to_be_bytes());
    packet
}

pub(crate) fn number_of(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[40..44].try_into().unwrap())
}

const NOW: smoltcp::time::Instant = smoltcp::time::Instant::ZERO;

pub(crate) fn send(port: &mut XdpPort, packet: &[u8]) {
    let token = port.transmit(NOW).unwrap();
    token.consume(packet.len(), |memory| memory.copy_from_slice(packet));
}

pub(crate) fn receive(port: &mut XdpPort) -> Option<Vec<u8>> {
    let (token, _) = port.receive(NOW)?;
    Some(token.consume(<[u8]>::to_vec))
}

/// Turns of both ends, one after the other, until there is an answer.
pub(crate) fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = attempt() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not in 30 s");
        std::thread::yield_now();
    }
}

/// Sends from one port until something arrives at the other: it takes a while until addresses are known.
pub(crate) fn until_it_arrives(from: usize, sender: &mut XdpPort, receiver: &mut XdpPort) {
    until("a packet arrives", || {
        send(sender, &segment(from, PORT, 0, 100));
        sender.flush();
        receiver.flush();
        receive(receiver)
    });
    // What was sent twice is not to be taken for what comes next.
    until("all else has arrived", || {
        receiver.flush();
        receive(receiver).is_none().then_some(())
    });
}
