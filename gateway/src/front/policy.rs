//! Whom reception takes mail from, and for whom: all that needs no look-up.

use std::net::IpAddr;
use std::sync::Arc;

use super::addresses::AddressSet;
use super::domains::split_address;
use super::networks::Networks;

/// Who may relay where. By default nobody but this machine, so that a gateway is no open relay
/// before its operator has said anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelayPolicy {
    /// Clients that may send to every recipient that has a route, the default route included.
    pub networks: Networks,
    /// Domains that everybody may send to.
    pub domains: AddressSet,
    /// Highest MT-PRIORITY (RFC 6710) that clients of `networks` may ask for; what is above it is
    /// lowered to it. Other clients' priorities are lowered to 0.
    pub priority_max: i8,
}

impl Default for RelayPolicy {
    fn default() -> RelayPolicy {
        RelayPolicy {
            networks: Networks::loopback(),
            domains: AddressSet::default(),
            priority_max: 9,
        }
    }
}

impl RelayPolicy {
    /// Whether the client may relay.
    pub fn is_trusted(&self, client: IpAddr) -> bool {
        self.networks.contains(client)
    }

    /// The priority that a message gets when its client has asked for `asked`.
    pub fn priority(&self, asked: i8, is_trusted: bool) -> i8 {
        asked.min(if is_trusted { self.priority_max } else { 0 })
    }
}

/// What senders and recipients are refused for, beside routing. For all clients the refused
/// addresses and unknown recipients; for clients outside of the relay networks the others, since
/// machines of one's own are often less well configured.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Checks {
    /// MAIL from one of these: 550 5.7.1.
    pub senders_refused: Arc<AddressSet>,
    /// RCPT to one of these: 550 5.7.1.
    pub recipients_refused: Arc<AddressSet>,
    /// MAIL from an address literal or from a domain without a dot: 550 5.1.8.
    pub sender_domain: bool,
    /// MAIL after a HELO or EHLO with a name that is no address literal and has no dot: 550 5.7.1.
    pub hello_name: bool,
    /// With the null reverse-path a second RCPT: 452 4.5.3. RFC 5321 allows several recipients for
    /// a notification; hardly anybody sends such.
    pub null_sender_one_recipient: bool,
}

impl Checks {
    /// Whether the domain of a sender (the null reverse-path has none and passes) is one that
    /// mail can go back to without our network.
    pub fn sender_domain_is_full(reverse_path: &str) -> bool {
        split_address(reverse_path).is_none_or(|(_, domain)| is_full(domain))
    }

    /// Whether a client's name is an address literal or has a dot.
    pub fn hello_name_is_full(name: &str) -> bool {
        (name.starts_with('[') && name.ends_with(']')) || is_full(name)
    }
}

/// Whether the local part of a recipient asks for a route of its own: `user%other@here`,
/// `other!user@here`, or a mailbox in quotes. A next hop that honours such makes a relay of
/// whoever passes it on.
pub(super) fn asks_for_a_route(recipient: &str) -> bool {
    let local = split_address(recipient).map_or(recipient, |(local, _)| local);
    local.contains(['%', '!', '@'])
}

fn is_full(domain: &str) -> bool {
    !domain.starts_with('[') && domain.trim_matches('.').contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_in_local_parts_are_seen_and_plain_ones_pass() {
        for asks in ["a%b.example@r.example", "b!a@r.example", "\"a@b.example\"@r.example"] {
            assert!(asks_for_a_route(asks), "{asks}");
        }
        for plain in ["a@r.example", "a+b=c@r.example", "\"a b\"@r.example", "Postmaster"] {
            assert!(!asks_for_a_route(plain), "{plain}");
        }
    }

    #[test]
    fn names_are_full_with_a_dot_inside() {
        for full in ["a.example", "[192.0.2.1]", "[IPv6:::1]"] {
            assert!(Checks::hello_name_is_full(full), "{full}");
        }
        for short in ["localhost", "a.", ".a", "[1.2"] {
            assert!(!Checks::hello_name_is_full(short), "{short}");
        }
        for full in ["", "a@b.example"] {
            assert!(Checks::sender_domain_is_full(full), "{full}");
        }
        for short in ["a@b", "a@[192.0.2.1]", "a@[x:b@c.example]", "\"a@x.example\"@b"] {
            assert!(!Checks::sender_domain_is_full(short), "{short}");
        }
    }

    #[test]
    fn priorities_are_lowered_and_never_raised() {
        let policy = RelayPolicy { priority_max: 4, ..RelayPolicy::default() };
        let lowered = [(9, true), (4, true), (-3, true), (9, false), (-3, false)]
            .map(|(asked, is_trusted)| policy.priority(asked, is_trusted));
        assert_eq!(lowered, [4, 4, -3, 0, -3]);
    }
}
