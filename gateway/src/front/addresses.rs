//! Sets of mail addresses and domains.

use std::borrow::Cow;
use std::collections::HashSet;

use super::domains::{comparable, split_address, unquoted};

/// Addresses, the domains of all their addresses, and those with all their subdomains.
///
/// Nothing here distinguishes upper and lower case, in local parts neither: RFC 5321 §2.4 leaves
/// those to the domain's own servers, of which none tells two people apart by case, and a sender
/// who is refused must not come in by a capital letter. Nor by quotes around his local part.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AddressSet {
    /// In the form that is compared: `user@example.net`, `@example.net`, and `.example.net` for subdomains.
    entries: HashSet<Box<str>>,
}

impl AddressSet {
    /// Adds an address (`user@example.net`), a domain (`@example.net` or `example.net`), or the
    /// subdomains of a domain at any depth, without itself (`.example.net`).
    ///
    /// # Errors
    /// Why it is none of them.
    pub fn add(&mut self, entry: &str) -> Result<(), String> {
        let (local, domain) = entry.rsplit_once('@').unwrap_or(("", entry));
        let suffix = domain.strip_prefix('.').unwrap_or(domain);
        let is_local = !local.chars().any(|it| it.is_whitespace() || it.is_control());
        let is_domain = !suffix.is_empty()
            && !suffix.chars().any(|it| it.is_whitespace() || it.is_control() || it == '<')
            && suffix.split('.').all(|label| !label.is_empty());
        let is_mixed = entry.contains('@') && domain.starts_with('.');
        // A literal has no subdomains, and its dots are of another kind.
        let is_literal = domain.starts_with('[') && domain.ends_with(']');
        if !is_local || is_mixed || !(is_domain || is_literal) {
            let right = "\"user@example.net\", \"example.net\" or \".example.net\"";
            return Err(format!("{entry:?} is no address and no domain: give such as {right}"));
        }
        let has_prefix = entry.contains('@') || domain.starts_with('.');
        let entry = lower_case(entry);
        self.entries.insert(if has_prefix { entry.into() } else { format!("@{entry}").into() });
        Ok(())
    }

    /// Whether the address itself, its domain, or a domain above that is in the set.
    pub fn contains(&self, address: &str) -> bool {
        if self.entries.is_empty() {
            return false;
        }
        let address = lower_case(address);
        let Some((local, _)) = split_address(&address) else { return false };
        self.entries.contains(&*address) || self.has_domain(&address[local.len()..])
    }

    /// Whether the domain (or an address literal in its brackets) is in the set, or one above it.
    pub fn contains_domain(&self, domain: &str) -> bool {
        !self.entries.is_empty() && self.has_domain(&format!("@{}", lower_case(domain)))
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// With the at sign in front, in the form that is compared.
    fn has_domain(&self, domain: &str) -> bool {
        if self.entries.contains(domain) {
            return true;
        }
        // A literal is no name: nothing is above it.
        !domain.starts_with("@[")
            && domain.match_indices('.').any(|(dot, _)| self.entries.contains(&domain[dot..]))
    }
}

/// An address or a domain in the form that is compared.
fn lower_case(text: &str) -> Cow<'_, str> {
    let is_as_compared = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase() && byte != b'"';
    match split_address(text) {
        _ if text.bytes().all(is_as_compared) => text.into(),
        None => comparable(text),
        Some((local, domain)) => {
            format!("{}@{}", unquoted(local).to_lowercase(), comparable(domain)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(entries: &[&str]) -> AddressSet {
        let mut set = AddressSet::default();
        entries.iter().for_each(|entry| set.add(entry).unwrap());
        set
    }

    #[test]
    fn addresses_domains_and_subdomains_are_found_in_any_case() {
        let set = set(&["Bad@one.example", "two.example", "@[192.0.2.1]", ".Three.example"]);
        for inside in [
            "bad@one.example",
            "BAD@One.Example",
            "x@TWO.example",
            "x@[192.0.2.1]",
            "x@a.three.example",
            "\"a@b\"@b.a.three.example",
        ] {
            assert!(set.contains(inside), "{inside}");
        }
        for outside in [
            "good@one.example",
            "x@a.two.example",
            "x@three.example",
            "x@notthree.example",
            "x@[192.0.2.2]",
            "two.example@x.example",
            "",
        ] {
            assert!(!set.contains(outside), "{outside}");
        }
        assert!(set.contains_domain("Two.example") && set.contains_domain("x.three.example"));
        assert!(!set.contains_domain("one.example"));
        assert!(!AddressSet::default().contains("x@two.example"));
    }

    #[test]
    fn no_other_way_to_write_a_domain_leads_around_its_rule() {
        let set = set(&["xn--bcher-kva.example", ".ü.example", "Ä@x.example"]);
        assert!(set.contains_domain("Bücher.example") && set.contains("x@a.xn--tda.example"));
        assert!(set.contains("ä@X.example") && !set.contains("a@x.example"));
    }

    #[test]
    fn no_other_way_to_write_a_local_part_leads_around_its_rule() {
        let set = set(&["bad@x.example", "\"Two.Words\"@x.example", ".y.example"]);
        for inside in [
            "\"bad\"@x.example",
            "\"b\\ad\"@X.example",
            "\"BAD\"@x.example",
            "two.words@x.example",
            "\"two\\.words\"@x.example",
            "\"a@b\"@a.y.example",
        ] {
            assert!(set.contains(inside), "{inside}");
        }
        for outside in ["\"bad \"@x.example", "\"bad@x.example\"@z.example", "u@[x:bad@x.example]"]
        {
            assert!(!set.contains(outside), "{outside}");
        }
    }

    #[test]
    fn what_is_neither_address_nor_domain_is_refused() {
        let mut set = AddressSet::default();
        for wrong in ["", "@", ".", "x@", "x@.example", "a b@c", "a..b", "x@a b", "example."] {
            assert!(set.add(wrong).is_err(), "{wrong}");
        }
        assert!(set.is_empty());
    }
}
