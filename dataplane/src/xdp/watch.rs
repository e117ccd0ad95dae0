//! The thread that follows what the kernel tells of an interface and its neighbours.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::XdpError;
use super::interface::{Attachment, attach, find};
use super::neighbours::Neighbours;
use super::netlink::{Link, Netlink, News};
use super::options::LinkState;
use super::shared::{Shared, lock};

pub(super) struct Watch {
    shared: Arc<Shared>,
    events: Netlink,
    requests: Netlink,
    /// The interface, while it is there.
    index: Option<u32>,
    /// What the kernel knows of the peers.
    table: Neighbours,
    /// Those that an operator has told the kernel for good: it is not to look for them.
    permanent: Vec<Ipv4Addr>,
    /// Those that the kernel was told to look after.
    managed: Vec<Ipv4Addr>,
    /// As of the last turn.
    peers: Vec<Ipv4Addr>,
    /// Nothing is tried again before.
    again_at: Instant,
}

/// How long after one attempt to open the interface or to find a peer comes the next.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Watch {
    /// Looks at everything for the first time.
    pub(super) fn begin(
        shared: Arc<Shared>,
        events: Netlink,
        requests: Netlink,
        link: &Link,
    ) -> Watch {
        let (table, again_at) = (Neighbours::default(), Instant::now());
        let (index, permanent, managed) = (Some(link.index), Vec::new(), Vec::new());
        let peers = shared.options.filter.peers.clone();
        let mut watch =
            Watch { shared, events, requests, index, table, permanent, managed, peers, again_at };
        watch.handle_link(link);
        watch.look_at_neighbours();
        watch.see_to_neighbours();
        watch.shared.board.publish(&watch.table);
        watch
    }

    /// Until the interface is let go of.
    pub(super) fn run(mut self) {
        while !self.shared.is_over.load(Ordering::Acquire) {
            self.sleep();
            self.shared.alarm.silence();
            self.take_news();
            self.take_peers();
            if Instant::now() >= self.again_at {
                self.again_at = Instant::now() + AGAIN_AFTER;
                if self.index.is_none() {
                    self.reopen();
                }
                self.see_to_neighbours();
            }
            self.shared.board.publish(&self.table);
        }
    }

    /// Until there is news, or something is to be tried again.
    fn sleep(&self) {
        let in_order = self.index.is_some() && self.missing().is_empty();
        let rest = self.again_at.saturating_duration_since(Instant::now());
        let rest = Timespec::try_from(rest).expect("a second at most");
        let mut wait_for = [
            PollFd::new(&self.events, PollFlags::IN),
            PollFd::from_borrowed_fd(self.shared.alarm.as_fd(), PollFlags::IN),
        ];
        // If it fails, for a signal, the turn is one without news.
        let _ = poll(&mut wait_for, (!in_order).then_some(&rest));
    }

    fn take_news(&mut self) {
        for _ in 0..NEWS_PER_TURN {
            match self.events.receive() {
                Ok(news) => news.iter().for_each(|it| self.handle(it)),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.look_again(),
                // There is none.
                Err(_) => return,
            }
        }
    }

    fn handle(&mut self, news: &News) {
        match news {
            News::Link(link) if Some(link.index) == self.index => self.handle_link(link),
            News::Link(link) if link.name == self.shared.options.interface => {
                // It is there again, perhaps before we heard that it was gone.
                self.handle_gone();
                self.again_at = Instant::now();
            }
            News::NoLink(index) if Some(*index) == self.index => {
                self.handle_gone();
                self.again_at = Instant::now();
            }
            News::Neighbour { interface, address, mac, permanent }
                if Some(*interface) == self.index =>
            {
                self.handle_neighbour(*address, *mac, *permanent);
            }
            _ => {}
        }
    }

    fn handle_link(&mut self, link: &Link) {
        if let Some(mac) = link.mac {
            self.table.set_own(mac);
        }
        let was = self.shared.link();
        let is = if link.is_running { LinkState::Up } else { LinkState::Down };
        self.shared.set_link(is);
        if is == LinkState::Up && was != is {
            // The kernel may have forgotten its neighbours meanwhile, and that it was to look after them.
            self.managed.clear();
            self.again_at = Instant::now();
        }
        let Shared { mtu, .. } = *self.shared;
        let too_small = format!("its MTU is {} now, and packets of {mtu} are sent", link.mtu);
        self.shared.set_trouble((link.mtu < mtu).then_some(too_small));
    }

    /// The kernel has closed the sockets and taken the program off.
    fn handle_gone(&mut self) {
        if self.index.take().is_some() {
            self.shared.set_link(LinkState::Gone);
            self.shared.set_trouble(Some("the interface is gone".to_owned()));
            lock(&self.shared.filtering).attached = None;
            self.table = Neighbours::default();
            self.permanent.clear();
            self.managed.clear();
        }
    }

    fn handle_neighbour(&mut self, address: Ipv4Addr, mac: Option<[u8; 6]>, permanent: bool) {
        self.permanent.retain(|it| *it != address);
        if permanent {
            self.permanent.push(address);
        }
        match mac {
            Some(mac) if self.is_peer(address) => self.table.note(address, mac),
            _ => {
                self.table.forget(address);
                self.managed.retain(|it| *it != address);
            }
        }
    }

    fn take_peers(&mut self) {
        let filtering = lock(&self.shared.filtering);
        if filtering.filter.peers != self.peers {
            self.peers.clone_from(&filtering.filter.peers);
            self.again_at = Instant::now();
        }
    }

    fn is_peer(&self, address: Ipv4Addr) -> bool {
        self.peers.contains(&address)
    }

    /// Peers that the kernel does not know, or has not been told to look after.
    fn missing(&self) -> Vec<Ipv4Addr> {
        let is_seen_to = |it: &Ipv4Addr| self.permanent.contains(it) || self.managed.contains(it);
        let mut peers = self.peers.clone();
        peers.retain(|it| !self.table.knows(*it) || !is_seen_to(it));
        peers
    }

    /// Some news was lost.
    fn look_again(&mut self) {
        let name = self.shared.options.interface.clone();
        match find(&mut self.requests, &name) {
            Ok(link) => self.handle(&News::Link(link)),
            Err(_) => self.handle_gone(),
        }
        self.look_at_neighbours();
    }

    fn look_at_neighbours(&mut self) {
        // If it fails it is tried again as long as somebody is missing.
        let Ok(all) = self.requests.neighbours() else { return };
        self.table.retain(&[]);
        all.iter().for_each(|it| self.handle(it));
    }

    /// Has the kernel look for those that it does not know, and look after all: what is sent past it does not show it
    /// that they are still there.
    fn see_to_neighbours(&mut self) {
        self.table.retain(&self.peers);
        let Some(index) = self.index else { return };
        if self.missing().iter().any(|it| !self.table.knows(*it)) {
            // Who has become a peer just now may have been known for long, and is no news.
            self.look_at_neighbours();
        }
        for peer in self.missing() {
            // What it finds is news. If it does not do it, it is asked again.
            if !self.permanent.contains(&peer) && self.requests.resolve(index, peer).is_ok() {
                self.managed.push(peer);
            }
            if !self.table.knows(peer) {
                self.managed.retain(|it| *it != peer);
            }
        }
    }

    fn reopen(&mut self) {
        let shared = Arc::clone(&self.shared);
        match self.try_reopen(&shared) {
            Ok(link) => {
                self.index = Some(link.index);
                self.handle_link(&link);
                self.look_at_neighbours();
                // Last, so that a port that wakes finds all of it.
                shared.queues.iter().for_each(|queue| queue.bell.ring());
            }
            Err(error) => shared.set_trouble(Some(error.to_string())),
        }
    }

    fn try_reopen(&mut self, shared: &Shared) -> Result<Link, XdpError> {
        let options = &shared.options;
        let link = find(&mut self.requests, &options.interface)?;
        let mut filtering = lock(&shared.filtering);
        // The program is the same, so that it goes on counting.
        let opened = attach(options, &filtering.program, &link, &self.requests)?;
        let Attachment { mode, refused, sockets, attached } = opened;
        let huge_pages = sockets.iter().all(|it| it.huge_pages);
        filtering.attached = Some(attached);
        for (queue, socket) in shared.queues.iter().zip(sockets) {
            *lock(&queue.next) = Some(socket);
            queue.generation.fetch_add(1, Ordering::Release);
        }
        let mut outcome = lock(&shared.outcome);
        (outcome.mode, outcome.refused, outcome.huge_pages) = (mode, refused, huge_pages);
        Ok(link)
    }
}

/// What is left waits for the next turn.
const NEWS_PER_TURN: usize = 64;
