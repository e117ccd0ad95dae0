//! Which links go by NIC queues of ours, and opening those.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tcpstack::{
    KernelOptions, LinkInterface, LinkOptions, LinksTaken, OpenLinks, keep_link_privileges,
    open_links, source_for,
};
use tracing::{info, warn};

use crate::link::Route;
use crate::settings::Settings;

/// Connections of one thread's links.
const CONNECTIONS_MAX: usize = 16_384;

/// Gives up the privileges that the gateway does not need, if its links may bypass the kernel. To be called before
/// anything else, as it counts for threads that are started later only.
///
/// # Errors
/// What the system says.
pub fn keep_privileges(settings: &Settings) -> Result<(), String> {
    // Ports of reception are closed and opened again while it runs.
    let binds = settings.reception.listen.iter().any(|address| address.port() < 1024);
    keep_link_privileges(settings.segments.choice, binds)
}

/// Opens what links run on, for each thread that has some; logs which way they take.
///
/// # Errors
/// What the operator insists on cannot be had; why.
pub fn open(settings: &Settings) -> io::Result<OpenLinks> {
    let options = with_peers(settings, source_for);
    let deadline = settings.links.iter().map(|link| link.deadline).max();
    let kernel = KernelOptions {
        connections_max: CONNECTIONS_MAX,
        connect_timeout: deadline.unwrap_or(CONNECT_TIMEOUT),
        user_timeout: deadline,
        ..KernelOptions::default()
    };
    let open = open_links(&options, &kernel, settings.threads.link_workers());
    let open = open.map_err(|why| io::Error::other(format!("`transport` in [links]: {why}")))?;
    log(&open.taken);
    Ok(open)
}

/// The interfaces with the servers that are reached by them, as these settings and the kernel's routes say now.
pub fn interfaces(settings: &Settings) -> Vec<LinkInterface> {
    with_peers(settings, source_for).interfaces
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

fn log(taken: &LinksTaken) {
    if let Some(why) = &taken.why_not {
        warn!(why, "links go by the kernel, although the bypass is wanted");
    }
    for interface in &taken.interfaces {
        let (name, mode) = (&interface.name, &interface.mode);
        let why_not_better = interface.why_not_better.as_deref().unwrap_or_default();
        info!(interface = name, mode, why_not_better, "links bypass the kernel");
    }
}

/// The options of the links, each interface with the servers that are reached by it: those with its address for
/// `local`, and those without a `local` that the kernel would reach from its address, as `source` says.
fn with_peers(settings: &Settings, source: impl Fn(Ipv4Addr) -> Option<Ipv4Addr>) -> LinkOptions {
    let mut options = settings.segments.clone();
    let first = settings.links.iter().map(|it| (it.address, it.local));
    let routes: Vec<Route> =
        first.chain(settings.links.iter().filter_map(|it| it.standby)).collect();
    for (remote, local) in routes {
        let IpAddr::V4(remote) = remote.ip() else { continue };
        let from = match local.filter(|local| !local.is_unspecified()) {
            Some(IpAddr::V4(local)) => Some(local),
            Some(IpAddr::V6(_)) => None,
            None if options.interfaces.is_empty() => None,
            None => source(remote),
        };
        for interface in &mut options.interfaces {
            if from == Some(interface.address) && !interface.peers.contains(&remote) {
                interface.peers.push(remote);
            }
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::settings::tests::GOOD;

    fn settings(servers: &str) -> Settings {
        let interfaces = r#"
[links]
transport = "auto"
[[interface]]
name = "eth1"
address = "10.1.0.1"
nic_queues = "4"
[[interface]]
name = "eth2"
address = "10.2.0.1"
nic_queues = "4"
"#;
        let text = GOOD
            .replace("address = \"127.0.0.1:7001\"", servers)
            .replace("workers = 3", "workers = 1");
        Settings::parse(Path::new("gw1.toml"), &(text + interfaces))
            .unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    fn peers(settings: &Settings, source: Option<[u8; 4]>) -> [Vec<Ipv4Addr>; 2] {
        let options = with_peers(settings, |_| source.map(Ipv4Addr::from));
        let [one, two] = <[_; 2]>::try_from(options.interfaces).unwrap();
        [one.peers, two.peers]
    }

    #[test]
    fn servers_are_peers_on_the_interface_with_our_address_for_them() {
        let server = Ipv4Addr::new(10, 1, 0, 11);
        let standby = Ipv4Addr::new(10, 2, 0, 11);
        let text = "address = \"10.1.0.11:7001\"\nlocal = \"10.1.0.1\"\n\
                    standby_address = \"10.2.0.11:7001\"\nstandby_local = \"10.2.0.1\"";
        assert_eq!(peers(&settings(text), None), [vec![server], vec![standby]]);
        // An address of ours that no interface has: the kernel's.
        let text = "address = \"10.1.0.11:7001\"\nlocal = \"10.3.0.1\"";
        assert_eq!(peers(&settings(text), Some([10, 1, 0, 1]))[0], [Ipv4Addr::LOCALHOST]);
    }

    #[test]
    fn without_an_address_of_ours_the_kernels_way_decides() {
        let text = "address = \"10.1.0.11:7001\"";
        let of = |source| peers(&settings(text), source);
        let both = vec![Ipv4Addr::new(10, 1, 0, 11), Ipv4Addr::LOCALHOST];
        assert_eq!(of(Some([10, 1, 0, 1])), [both, Vec::new()]);
        assert!(of(Some([10, 9, 0, 1])).iter().all(Vec::is_empty));
        assert!(of(None).iter().all(Vec::is_empty));
    }
}
