//! The way that links take, and what their NIC queues count.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use tcpstack::{LinksTaken, NicQueueCounters};

use super::WorkerCounters;

/// Which way the links take.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct LinksStatus {
    /// Which TCP they use.
    pub transport: LinkTransportTaken,
    /// Why not the bypass, where it is wanted.
    pub why_not: Option<String>,
    /// The interfaces with NIC queues of ours.
    pub interfaces: Vec<InterfaceStatus>,
}

/// Which TCP links use.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkTransportTaken {
    /// The kernel's.
    #[default]
    Kernel,
    /// The process's own, over AF_XDP, for servers that are reached by an interface below.
    Afxdp,
}

/// An interface with NIC queues of ours.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// How packets get to us: `zero-copy`, `copy` or `generic`.
    pub mode: String,
    /// Why none of the better ways, if there is one.
    pub why_not_better: Option<String>,
}

/// A NIC queue of ours.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NicQueueStatus {
    /// The interface.
    pub interface: String,
    /// The NIC queue.
    pub nic_queue: u32,
    /// What it has counted since the start, by name.
    pub counters: BTreeMap<String, u64>,
}

impl From<&LinksTaken> for LinksStatus {
    fn from(taken: &LinksTaken) -> LinksStatus {
        let interface = |it: &tcpstack::InterfaceTaken| InterfaceStatus {
            name: it.name.clone(),
            mode: it.mode.clone(),
            why_not_better: it.why_not_better.clone(),
        };
        LinksStatus {
            transport: match taken.is_bypass {
                true => LinkTransportTaken::Afxdp,
                false => LinkTransportTaken::Kernel,
            },
            why_not: taken.why_not.clone(),
            interfaces: taken.interfaces.iter().map(interface).collect(),
        }
    }
}

impl From<NicQueueCounters> for NicQueueStatus {
    fn from(it: NicQueueCounters) -> NicQueueStatus {
        let counters = it.counters.into_iter().map(|(name, count)| (name.to_owned(), count));
        let NicQueueCounters { interface, nic_queue, .. } = it;
        NicQueueStatus { interface, nic_queue, counters: counters.collect() }
    }
}

/// The lines about it; none where links go by the kernel as they are to.
pub(super) fn text(links: &LinksStatus, workers: &[WorkerCounters]) -> String {
    let mut text = String::new();
    if let Some(why) = &links.why_not {
        let _ = writeln!(text, "LINKS GO BY THE KERNEL: {why}");
    }
    for interface in &links.interfaces {
        let _ =
            write!(text, "links bypass the kernel on {}, mode {}", interface.name, interface.mode);
        let _ = match &interface.why_not_better {
            Some(why) => writeln!(text, " ({why})"),
            None => writeln!(text),
        };
    }
    for (worker, queue) in
        workers.iter().flat_map(|it| it.nic_queues.iter().map(move |queue| (it.worker, queue)))
    {
        let NicQueueStatus { interface, nic_queue, counters } = queue;
        let counted = counters.iter().filter(|(_, count)| **count > 0);
        let counted = counted.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>();
        let _ = writeln!(
            text,
            "  worker {worker}, {interface} NIC queue {nic_queue}: {}",
            if counted.is_empty() { "nothing yet".into() } else { counted.join(", ") }
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken() -> LinksTaken {
        let interface = |name: &str, why: Option<&str>| tcpstack::InterfaceTaken {
            name: name.into(),
            mode: "copy".into(),
            mtu: 1500,
            why_not_better: why.map(Into::into),
        };
        let interfaces = vec![interface("eth1", Some("zero-copy: no")), interface("eth2", None)];
        LinksTaken { is_bypass: true, why_not: None, interfaces }
    }

    #[test]
    fn the_way_and_what_its_queues_count_are_shown() {
        let counters = vec![("received", 7), ("dropped", 0)];
        let queue = NicQueueCounters { interface: "eth1".into(), nic_queue: 4, counters };
        let worker =
            WorkerCounters { worker: 2, shard: None, front: None, nic_queues: vec![queue.into()] };
        assert_eq!(
            text(&(&taken()).into(), &[worker]),
            "links bypass the kernel on eth1, mode copy (zero-copy: no)\n\
             links bypass the kernel on eth2, mode copy\n  worker 2, eth1 NIC queue 4: received 7\n"
        );
        let json = serde_json::to_value(LinksStatus::from(&taken())).unwrap();
        assert_eq!(json["transport"], "afxdp");
        assert_eq!(json["interfaces"][0]["mode"], "copy");
    }

    #[test]
    fn a_fall_back_says_why_and_the_kernel_alone_says_nothing() {
        let why_not = Some("no permission".to_owned());
        let fallen = LinksTaken { why_not, ..LinksTaken::kernel() };
        assert_eq!(text(&(&fallen).into(), &[]), "LINKS GO BY THE KERNEL: no permission\n");
        assert_eq!(text(&(&LinksTaken::kernel()).into(), &[]), "");
    }
}
