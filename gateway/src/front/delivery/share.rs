//! Which recipients of a message go in one transaction.

use std::collections::BTreeSet;

use smtp::{Capabilities, Notify, Protocol};

use crate::message::Envelope;

/// The recipients of one transaction.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Share {
    /// Their places in the envelope, ascending.
    pub(super) places: Vec<usize>,
    /// Said with the null reverse-path.
    pub(super) is_silent: bool,
}

/// What decides about shares on one connection.
#[derive(Debug)]
pub(super) struct Sharing {
    recipients_max: usize,
    /// Most domains of recipients on this connection, and those that were there.
    domains_max: Option<usize>,
    domains: BTreeSet<Box<str>>,
    /// The next hop takes no NOTIFY. Recipients with NOTIFY=NEVER then go apart, with the null
    /// reverse-path, so that no report is sent about them (RFC 3461 §5.2.2). By LMTP there is
    /// nobody behind the next hop who could send one.
    separates_silent: bool,
}

impl Sharing {
    /// By the bound of the destination and what the next hop offers.
    pub(super) fn new(
        recipients_max: usize,
        protocol: Protocol,
        capabilities: &Capabilities,
    ) -> Sharing {
        assert!(recipients_max > 0, "a transaction has recipients");
        let number =
            |limit: std::num::NonZeroU32| usize::try_from(limit.get()).unwrap_or(usize::MAX);
        let limits = &capabilities.limits;
        Sharing {
            recipients_max: limits
                .recipients_max
                .map_or(recipients_max, |max| recipients_max.min(number(max))),
            domains_max: limits.domains_max.map(number),
            domains: BTreeSet::new(),
            separates_silent: protocol == Protocol::Smtp && !capabilities.dsn,
        }
    }

    /// Whether only so many domains may be on this connection.
    pub(super) fn is_bound_to_domains(&self) -> bool {
        self.domains_max.is_some()
    }

    /// Takes the recipients of the next transaction out of the places that are left. Nothing when
    /// the connection can carry none of them: their domains are too many for it.
    pub(super) fn take(&mut self, envelope: &Envelope, left: &mut Vec<usize>) -> Option<Share> {
        let silent = !left.is_empty() && left.iter().all(|it| self.is_silent(envelope, *it));
        let is_mixed = !silent && left.iter().any(|it| self.is_silent(envelope, *it));
        let mut places = Vec::new();
        if left.len() <= self.recipients_max && self.domains_max.is_none() && !is_mixed {
            std::mem::swap(&mut places, left);
        } else {
            let mut rest = Vec::new();
            for place in std::mem::take(left) {
                let is_due = places.len() < self.recipients_max
                    && self.is_silent(envelope, place) == silent
                    && self.admits(&envelope.recipients[place].address);
                if is_due { places.push(place) } else { rest.push(place) }
            }
            *left = rest;
        }
        (!places.is_empty()).then_some(Share { places, is_silent: silent })
    }

    fn is_silent(&self, envelope: &Envelope, place: usize) -> bool {
        self.separates_silent
            && !envelope.reverse_path.is_empty()
            && envelope.recipients[place].notify.is_some_and(Notify::is_never)
    }

    /// Whether the domain of an address was on the connection before, or may be from now on.
    fn admits(&mut self, address: &str) -> bool {
        let Some(most) = self.domains_max else { return true };
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        let domain = domain.to_ascii_lowercase().into_boxed_str();
        self.domains.contains(&domain) || self.domains.len() < most && self.domains.insert(domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Recipient;

    fn envelope(recipients: &[(&str, bool)]) -> Envelope {
        let recipient = |(address, is_silent): &(&str, bool)| Recipient {
            notify: is_silent.then_some(Notify::NEVER),
            ..Recipient::new(*address)
        };
        Envelope::new("s@x", recipients.iter().map(recipient).collect())
    }

    /// All shares on one connection, and what it cannot carry.
    fn shares(sharing: &mut Sharing, envelope: &Envelope) -> (Vec<(Vec<usize>, bool)>, Vec<usize>) {
        let mut left = (0..envelope.recipients.len()).collect();
        let mut shares = Vec::new();
        while let Some(share) = sharing.take(envelope, &mut left) {
            shares.push((share.places, share.is_silent));
        }
        (shares, left)
    }

    fn capabilities(dsn: bool, recipients_max: u32, domains_max: u32) -> Capabilities {
        let mut capabilities = Capabilities { dsn, ..Capabilities::default() };
        capabilities.limits.recipients_max = std::num::NonZeroU32::new(recipients_max);
        capabilities.limits.domains_max = std::num::NonZeroU32::new(domains_max);
        capabilities
    }

    #[test]
    fn the_lower_bound_counts_and_order_stays() {
        let envelope = envelope(&[("0@a", false), ("1@a", false), ("2@a", false)]);
        for (own, theirs) in [(2, 0), (2, 5), (5, 2)] {
            let capabilities = capabilities(true, theirs, 0);
            let mut sharing = Sharing::new(own, Protocol::Smtp, &capabilities);
            let expected = vec![(vec![0, 1], false), (vec![2], false)];
            assert_eq!(shares(&mut sharing, &envelope), (expected, vec![]));
        }
    }

    #[test]
    fn who_shall_never_be_told_goes_apart_where_that_cannot_be_said() {
        let mut envelope = envelope(&[("0@a", true), ("1@a", false), ("2@a", true)]);
        let all = vec![(vec![0, 1, 2], false)];
        let apart = vec![(vec![1], false), (vec![0, 2], true)];
        for (protocol, dsn, expected) in [
            (Protocol::Smtp, true, &all),
            (Protocol::Smtp, false, &apart),
            (Protocol::Lmtp, false, &all),
        ] {
            let mut sharing = Sharing::new(100, protocol, &capabilities(dsn, 0, 0));
            assert_eq!(shares(&mut sharing, &envelope).0, *expected);
        }
        envelope.reverse_path = "".into();
        let mut sharing = Sharing::new(100, Protocol::Smtp, &capabilities(false, 0, 0));
        assert_eq!(shares(&mut sharing, &envelope).0, all);
    }

    #[test]
    fn a_connection_carries_only_so_many_domains() {
        let mail = envelope(&[("0@a", false), ("1@b", false), ("2@A", false), ("3@c", false)]);
        let mut sharing = Sharing::new(100, Protocol::Smtp, &capabilities(true, 0, 2));
        assert_eq!(shares(&mut sharing, &mail), (vec![(vec![0, 1, 2], false)], vec![3]));
        let mail = envelope(&[("0@d", false)]);
        assert_eq!(shares(&mut sharing, &mail), (vec![], vec![0]));
        let mail = envelope(&[("0@b", false)]);
        assert_eq!(shares(&mut sharing, &mail).0.len(), 1);
    }
}
