//! Links that come and go: servers are added to a running gateway and taken away.

use std::collections::BTreeSet;

use tcpstack::Transport;
use tracing::info;

use super::{Link, LinkSettings, Links};

impl<T: Transport> Links<T> {
    /// The place of the link to that server, if there is one.
    pub fn place_of_server(&self, server: &str) -> Option<usize> {
        self.links.iter().position(|link| !link.is_gone && link.settings.server == server)
    }

    /// One link more; it takes the place of one that is gone and is not among those that are `used`. So there are
    /// no more places than links were needed at one time.
    pub fn add(&mut self, settings: LinkSettings, used: &BTreeSet<usize>) {
        let free = (0..self.links.len()).find(|it| self.links[*it].is_gone && !used.contains(it));
        info!(server = %settings.server, address = %settings.address, "a server more");
        let mut link = Link::new(settings);
        // The server may have been one of ours before, and refuses what is older than what it knows.
        link.generation = self.generation_past;
        match free {
            Some(place) => self.links[place] = link,
            None => self.links.push(link),
        }
    }

    /// Closes the links to all other servers than those. They keep their places, and nothing is sent there.
    pub fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        for link in &mut self.links {
            if link.is_gone || is_kept(&link.settings.server) {
                continue;
            }
            info!(server = %link.settings.server, "a server less");
            for path in &mut link.paths {
                path.end(link.now, &mut self.transport);
            }
            self.generation_past = self.generation_past.max(link.generation);
            link.is_gone = true;
            link.incarnation = None;
        }
    }
}
