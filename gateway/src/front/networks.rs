//! Sets of IP networks.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks by their prefixes. Looked through in order once a session, so meant for tens.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// This machine alone: 127.0.0.0/8 and ::1.
    pub fn loopback() -> Networks {
        let network = |text: &str| Networks::parse(text).expect("it is one");
        Networks(["127.0.0.0/8", "::1"].map(network).to_vec())
    }

    /// Networks such as `192.0.2.0/24`, `2001:db8::/32`, or an address alone.
    ///
    /// # Errors
    /// The place of the first one that is wrong, and why.
    pub fn parse_all<'a>(
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Networks, (usize, String)> {
        let parsed = texts.into_iter().enumerate();
        let parsed = parsed.map(|(item, text)| Networks::parse(text).map_err(|why| (item, why)));
        parsed.collect::<Result<_, _>>().map(Networks)
    }

    /// Whether the address is in one of them. An IPv4 address mapped into IPv6 (RFC 4291
    /// §2.5.5.2) is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    fn parse(text: &str) -> Result<IpNet, String> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse().map_err(|_| {
                format!("{text:?} is no network, such as \"192.0.2.0/24\" or \"2001:db8::/32\"")
            })?,
        };
        if network.addr().to_canonical() != network.addr() {
            return Err(format!("{text:?} is mapped into IPv6: write it as an IPv4 network"));
        }
        if network != network.trunc() {
            let right = network.trunc();
            return Err(format!("{text:?} has bits beyond its prefix: did you mean \"{right}\"?"));
        }
        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(networks: &Networks, address: &str) -> bool {
        networks.contains(address.parse().unwrap())
    }

    #[test]
    fn addresses_are_found_by_prefix_mapped_or_not() {
        let texts = ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7", "::1"];
        let networks = Networks::parse_all(texts).unwrap();
        for inside in ["192.0.2.255", "::ffff:192.0.2.1", "2001:db8:ffff::1", "198.51.100.7", "::1"]
        {
            assert!(contains(&networks, inside), "{inside}");
        }
        for outside in ["192.0.3.0", "::ffff:192.0.3.1", "2001:db9::", "198.51.100.6", "::2"] {
            assert!(!contains(&networks, outside), "{outside}");
        }
        assert!(contains(&Networks::loopback(), "127.3.2.1"));
        assert!(!contains(&Networks::default(), "127.0.0.1"));
    }

    #[test]
    fn what_is_no_network_is_named_with_its_place() {
        let texts = ["192.0.2.0/33", "host", "192.0.2.1/24", "::ffff:192.0.2.0/120", ""];
        for (place, text) in texts.iter().enumerate() {
            let mut list = vec!["10.0.0.0/8"; place];
            list.push(text);
            let (item, why) = Networks::parse_all(list).unwrap_err();
            assert_eq!(item, place);
            assert!(why.contains(text), "{why}");
        }
        let (_, why) = Networks::parse_all(["192.0.2.1/24"]).unwrap_err();
        assert!(why.contains("192.0.2.0/24"), "{why}");
    }
}
