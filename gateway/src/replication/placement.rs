//! Where servers stand, and which of them may back a queue up together.
//!
//! Three copies are worth as much as their independence: two that stand in one machine die together. So no
//! two copies of a queue, ours included, are ever on one node, and those that share a rack or a power supply
//! are chosen only when there is nothing better.

/// Where a server, or the gateway itself, stands. What has no label shares nothing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Placement {
    /// The machine.
    pub node: Option<String>,
    /// The rack.
    pub rack: Option<String>,
    /// The power supply.
    pub power: Option<String>,
}

impl Placement {
    /// Whether both stand in the same machine.
    pub fn shares_node(&self, other: &Placement) -> bool {
        is_same(&self.node, &other.node)
    }

    /// What they share that may fail, beside the machine.
    fn shared(&self, other: &Placement) -> usize {
        usize::from(is_same(&self.rack, &other.rack))
            + usize::from(is_same(&self.power, &other.power))
    }
}

fn is_same(one: &Option<String>, other: &Option<String>) -> bool {
    one.is_some() && one == other
}

/// The candidate to take beside the `kept` placements (the gateway's among them): none on their nodes; the one
/// that shares least with them; of equal ones the first.
pub fn best<'p, I>(
    candidates: impl Iterator<Item = (I, &'p Placement)>,
    kept: &[&Placement],
) -> Option<I> {
    let allowed = candidates.filter(|(_, it)| !kept.iter().any(|other| it.shares_node(other)));
    let shared = |it: &Placement| kept.iter().map(|other| it.shared(other)).sum::<usize>();
    allowed.min_by_key(|(_, it)| shared(it)).map(|(candidate, _)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(node: &str, rack: &str, power: &str) -> Placement {
        let label = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Placement { node: label(node), rack: label(rack), power: label(power) }
    }

    fn choose(servers: &[Placement], kept: &[&Placement]) -> Option<usize> {
        best(servers.iter().enumerate(), kept)
    }

    #[test]
    fn without_labels_the_order_decides() {
        let servers = [at("", "", ""), at("", "", "")];
        assert_eq!(choose(&servers, &[&at("", "", "")]), Some(0));
        assert_eq!(choose(&[], &[]), None);
    }

    #[test]
    fn no_two_copies_are_on_one_node() {
        let servers = [at("n1", "", ""), at("n2", "", ""), at("n3", "", "")];
        assert_eq!(choose(&servers, &[&at("n1", "", ""), &servers[1]]), Some(2));
        assert_eq!(choose(&servers[..2], &[&at("n1", "", ""), &servers[1]]), None);
    }

    #[test]
    fn what_shares_least_is_taken_and_of_equal_ones_the_first() {
        let own = at("gw", "r1", "p1");
        let servers = [at("a", "r1", "p2"), at("b", "r2", "p2"), at("c", "r2", "p1")];
        assert_eq!(choose(&servers, &[&own]), Some(1));
        assert_eq!(choose(&servers, &[&own, &servers[1]]), Some(0), "two each: the order");
        let far = at("d", "r3", "p3");
        assert_eq!(choose(&[servers[0].clone(), far], &[&own, &servers[1]]), Some(1));
    }
}
