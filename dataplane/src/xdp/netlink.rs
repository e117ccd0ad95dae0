//! What the kernel tells of interfaces and neighbours (rtnetlink(7)), and what it is asked.
//!
//! Reading is a function of bytes to news; what cannot be read, or is of no interest, is none.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::neighbours::Mac;

/// What the kernel has told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum News {
    /// An interface is there, or has changed.
    Link(Link),
    /// The interface with that index is gone.
    NoLink(u32),
    /// A neighbour by an interface. Without an address it is being looked for, or cannot be found.
    Neighbour { interface: u32, address: Ipv4Addr, mac: Option<Mac>, permanent: bool },
    /// The end of an answer.
    Done,
    /// A request failed, with that error number, or succeeded, with 0.
    Answer(i32),
}

/// An interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) is_ethernet: bool,
    /// It is up, and has a carrier.
    pub(super) is_running: bool,
    pub(super) mtu: u32,
    pub(super) mac: Option<Mac>,
}

/// Of linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if.h, linux/if_arp.h and linux/neighbour.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const REPLACE: u16 = 0x100;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const GROUP_LINK: u32 = 1;
const GROUP_NEIGHBOUR: u32 = 4;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 0x40;
const ARPHRD_ETHER: u16 = 1;
const AF_INET: u8 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_FLAGS_EXT: u16 = 15;
const NTF_EXT_MANAGED: u32 = 1;
const NUD_REACHABLE: u16 = 0x02;
const NUD_STALE: u16 = 0x04;
const NUD_DELAY: u16 = 0x08;
const NUD_PROBE: u16 = 0x10;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
/// States in which the address is good to be sent to.
const NUD_VALID: u16 =
    NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_NOARP | NUD_PERMANENT;

const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
const LINK_BYTES: usize = 16;
const NEIGHBOUR_BYTES: usize = 12;
/// The kernel sends no more at once (NLMSG_GOODSIZE is at most this).
const RECEIVED_BYTES_MAX: usize = 32 << 10;

/// A socket to the kernel.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Netlink {
    /// For questions and answers.
    pub(super) fn open() -> io::Result<Netlink> {
        Netlink::bind(0)
    }

    /// For news of interfaces and neighbours.
    pub(super) fn subscribe() -> io::Result<Netlink> {
        Netlink::bind(GROUP_LINK | GROUP_NEIGHBOUR)
    }

    fn bind(groups: u32) -> io::Result<Netlink> {
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        // Without a protocol it is NETLINK_ROUTE, which is 0.
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Netlink { socket, buffer: vec![0; RECEIVED_BYTES_MAX] })
    }

    /// Takes what there is, without waiting. `ENOBUFS` says that some news was lost: everything must be asked anew.
    pub(super) fn receive(&mut self) -> io::Result<Vec<News>> {
        self.receive_with(RecvFlags::DONTWAIT)
    }

    fn receive_with(&mut self, flags: RecvFlags) -> io::Result<Vec<News>> {
        let (_, length) = rustix::net::recv(&self.socket, &mut self.buffer[..], flags)?;
        Ok(read(&self.buffer[..length.min(RECEIVED_BYTES_MAX)]))
    }

    /// The interface of that name.
    pub(super) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        // One by name could be asked for; who is renamed meanwhile is then not found.
        let all = self.ask(&get_links())?;
        Ok(all.into_iter().find_map(|it| match it {
            News::Link(link) if link.name == name => Some(link),
            _ => None,
        }))
    }

    /// All neighbours.
    pub(super) fn neighbours(&mut self) -> io::Result<Vec<News>> {
        self.ask(&get_neighbours())
    }

    /// Has the kernel find a neighbour, and look after it from then on.
    pub(super) fn resolve(&mut self, interface: u32, address: Ipv4Addr) -> io::Result<()> {
        self.ask(&manage_neighbour(interface, address)).map(|_| ())
    }

    fn ask(&mut self, request: &[u8]) -> io::Result<Vec<News>> {
        rustix::net::send(&self.socket, request, SendFlags::empty())?;
        let mut answer = Vec::new();
        loop {
            for news in self.receive_with(RecvFlags::empty())? {
                match news {
                    News::Done | News::Answer(0) => return Ok(answer),
                    News::Answer(error) => return Err(io::Error::from_raw_os_error(error)),
                    news => answer.push(news),
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn get_links() -> Vec<u8> {
    request(RTM_GETLINK, REQUEST | DUMP, &[0; LINK_BYTES], &[])
}

fn get_neighbours() -> Vec<u8> {
    let mut body = [0; NEIGHBOUR_BYTES];
    body[0] = AF_INET;
    request(RTM_GETNEIGH, REQUEST | DUMP, &body, &[])
}

/// A "managed" neighbour: the kernel resolves it now, and again before it forgets it.
fn manage_neighbour(interface: u32, address: Ipv4Addr) -> Vec<u8> {
    let mut body = [0; NEIGHBOUR_BYTES];
    body[0] = AF_INET;
    body[4..8].copy_from_slice(&interface.to_ne_bytes());
    let flags = REQUEST | ACK | CREATE | REPLACE;
    let managed = NTF_EXT_MANAGED.to_ne_bytes();
    let attributes = [(NDA_DST, address.octets()), (NDA_FLAGS_EXT, managed)];
    request(RTM_NEWNEIGH, flags, &body, &attributes)
}

fn request(kind: u16, flags: u16, body: &[u8], attributes: &[(u16, [u8; 4])]) -> Vec<u8> {
    let length = HEADER_BYTES + body.len() + 8 * attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).expect("short").to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Its number, and whom it is from: there is one at a time, and the kernel knows.
    bytes.extend([0; 8]);
    bytes.extend(body);
    for (kind, value) in attributes {
        bytes.extend(8_u16.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
    }
    bytes
}

/// Reads what has come in one piece.
pub(super) fn read(bytes: &[u8]) -> Vec<News> {
    parts(bytes, HEADER_BYTES, |header| number(header, 0)).filter_map(read_message).collect()
}

fn read_message(message: &[u8]) -> Option<News> {
    let kind = u16_at(message, 4)?;
    let body = &message[HEADER_BYTES..];
    match kind {
        NLMSG_DONE => Some(News::Done),
        NLMSG_ERROR => {
            let negative = number(body, 0)?.cast_signed();
            Some(News::Answer(negative.checked_neg().unwrap_or(i32::MAX)))
        }
        RTM_NEWLINK => read_link(body).map(News::Link),
        RTM_DELLINK => number(body, 4).map(News::NoLink),
        RTM_NEWNEIGH | RTM_DELNEIGH => read_neighbour(body, kind == RTM_DELNEIGH),
        _ => None,
    }
}

fn read_link(body: &[u8]) -> Option<Link> {
    let (header, rest) = body.split_at_checked(LINK_BYTES)?;
    let flags = number(header, 8)?;
    let (mut name, mut mtu, mut mac) = (None, None, None);
    for (kind, value) in attributes(rest) {
        match kind {
            IFLA_IFNAME => name = String::from_utf8(value.split(|it| *it == 0).next()?.into()).ok(),
            IFLA_MTU => mtu = number(value, 0),
            IFLA_ADDRESS => mac = Mac::try_from(value).ok(),
            _ => {}
        }
    }
    Some(Link {
        index: number(header, 4)?,
        name: name?,
        is_ethernet: u16_at(header, 2)? == ARPHRD_ETHER,
        is_running: flags & IFF_UP != 0 && flags & IFF_RUNNING != 0,
        mtu: mtu?,
        mac,
    })
}

fn read_neighbour(body: &[u8], is_gone: bool) -> Option<News> {
    let (header, rest) = body.split_at_checked(NEIGHBOUR_BYTES)?;
    if header[0] != AF_INET {
        return None;
    }
    let state = u16_at(header, 8)?;
    let (mut address, mut mac) = (None, None);
    for (kind, value) in attributes(rest) {
        match kind {
            NDA_DST => address = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from),
            NDA_LLADDR => mac = Mac::try_from(value).ok(),
            _ => {}
        }
    }
    let is_known = !is_gone && state & NUD_VALID != 0;
    Some(News::Neighbour {
        interface: number(header, 4)?,
        address: address?,
        mac: mac.filter(|_| is_known),
        permanent: !is_gone && state & NUD_PERMANENT != 0,
    })
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let length = |header: &[u8]| u16_at(header, 0).map(u32::from);
    parts(bytes, ATTRIBUTE_HEADER_BYTES, length)
        .filter_map(|part| Some((u16_at(part, 2)? & !NESTED_OR_ORDERED, &part[4..])))
}

/// Flags in the kind of an attribute.
const NESTED_OR_ORDERED: u16 = 0xc000;

/// What lies one behind the other, each with its length in front, and the next one aligned to four bytes.
fn parts(
    bytes: &[u8],
    header_bytes: usize,
    length_of: impl Fn(&[u8]) -> Option<u32>,
) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::try_from(length_of(rest)?).ok()?;
        if length < header_bytes {
            return None;
        }
        let part = rest.get(..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(part)
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, body: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut rest = body.to_vec();
        for (kind, value) in attributes {
            rest.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
            rest.extend(kind.to_ne_bytes());
            rest.extend(*value);
            rest.resize(rest.len().next_multiple_of(4), 0);
        }
        let mut bytes = u32::try_from(rest.len() + 16).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(rest);
        bytes
    }

    fn link_body(index: u32, flags: u32) -> Vec<u8> {
        let mut body = vec![0, 0, 1, 0];
        body.extend(index.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend([0; 4]);
        body
    }

    fn neighbour(kind: u16, state: u16, mac: &[u8]) -> Vec<u8> {
        let mut body = vec![AF_INET, 0, 0, 0];
        body.extend(7_u32.to_ne_bytes());
        body.extend(state.to_ne_bytes());
        body.extend([0; 2]);
        message(kind, &body, &[(NDA_DST, &[10, 0, 0, 2]), (NDA_LLADDR, mac)])
    }

    fn read_one(bytes: &[u8]) -> News {
        let mut news = read(bytes);
        assert_eq!(news.len(), 1);
        news.pop().unwrap()
    }

    #[test]
    fn an_interface_is_read() {
        let mtu = 1_500_u32.to_ne_bytes();
        let attributes: [(u16, &[u8]); 4] =
            [(IFLA_IFNAME, b"eth0\0"), (99, b"odd"), (IFLA_MTU, &mtu), (IFLA_ADDRESS, &[5; 6])];
        let link = Link {
            index: 7,
            name: "eth0".to_owned(),
            is_ethernet: true,
            is_running: true,
            mtu: 1_500,
            mac: Some([5; 6]),
        };
        let up = message(RTM_NEWLINK, &link_body(7, IFF_UP | IFF_RUNNING), &attributes);
        assert_eq!(read_one(&up), News::Link(link.clone()));
        let down = message(RTM_NEWLINK, &link_body(7, IFF_UP), &attributes);
        assert_eq!(read_one(&down), News::Link(Link { is_running: false, ..link }));
        assert_eq!(read_one(&message(RTM_DELLINK, &link_body(7, 0), &[])), News::NoLink(7));
    }

    #[test]
    fn a_neighbour_is_known_in_the_states_in_which_it_may_be_sent_to() {
        let address = Ipv4Addr::new(10, 0, 0, 2);
        let of = |mac, permanent| News::Neighbour { interface: 7, address, mac, permanent };
        for state in [NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE] {
            let news = read_one(&neighbour(RTM_NEWNEIGH, state, &[3; 6]));
            assert_eq!(news, of(Some([3; 6]), false));
        }
        let permanent = read_one(&neighbour(RTM_NEWNEIGH, NUD_PERMANENT, &[3; 6]));
        assert_eq!(permanent, of(Some([3; 6]), true));
        // Incomplete, failed, gone, and no Ethernet address.
        assert_eq!(read_one(&neighbour(RTM_NEWNEIGH, 1, &[3; 6])), of(None, false));
        assert_eq!(read_one(&neighbour(RTM_NEWNEIGH, 0x20, &[3; 6])), of(None, false));
        assert_eq!(read_one(&neighbour(RTM_DELNEIGH, NUD_REACHABLE, &[3; 6])), of(None, false));
        assert_eq!(read_one(&neighbour(RTM_NEWNEIGH, NUD_STALE, &[3; 20])), of(None, false));
    }

    #[test]
    fn several_messages_are_read_and_the_end_and_errors_told() {
        let mut bytes = neighbour(RTM_NEWNEIGH, NUD_STALE, &[3; 6]);
        bytes.extend(message(77, &[1, 2, 3], &[]));
        // The length of the last does not count what aligns it.
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(message(NLMSG_ERROR, &(-17_i32).to_ne_bytes(), &[]));
        bytes.extend(message(NLMSG_DONE, &[0; 4], &[]));
        let news = read(&bytes);
        assert_eq!(news[1..], [News::Answer(17), News::Done]);
    }

    #[test]
    fn what_is_cut_short_is_no_news() {
        let bytes = neighbour(RTM_NEWNEIGH, NUD_STALE, &[3; 6]);
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), []);
        }
    }

    #[test]
    fn the_kernel_answers_about_the_loopback() {
        let mut netlink = Netlink::open().unwrap();
        let link = netlink.link("lo").unwrap().unwrap();
        assert!(!link.is_ethernet && link.mtu > 0);
        assert_eq!(netlink.link("there-is-none").unwrap(), None);
        netlink.neighbours().unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&bytes);
        }

        #[test]
        fn altered_news_is_read_without_harm(at in 0_usize..56, byte in any::<u8>()) {
            let mut bytes = neighbour(RTM_NEWNEIGH, NUD_STALE, &[3; 6]);
            let at = at.min(bytes.len() - 1);
            bytes[at] = byte;
            read(&bytes);
        }
    }
}
