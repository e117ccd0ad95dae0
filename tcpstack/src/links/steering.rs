//! Who is reached past the kernel, changed while the links run: first what comes to the process is steered, then each
//! thread is told.

#[cfg(feature = "xdp")]
use std::net::Ipv4Addr;
#[cfg(feature = "xdp")]
use std::sync::{Arc, Mutex};

#[cfg(feature = "xdp")]
use dataplane::xdp::XdpInterface;

use super::{LinkInterface, LinkTransport};

/// The filters of all interfaces, which tell what is ours of that which comes.
#[derive(Clone, Debug, Default)]
pub struct LinkSteering {
    /// None where the links go by the kernel.
    #[cfg(feature = "xdp")]
    pub(super) interfaces: Vec<Steered>,
}

/// An interface.
#[cfg(feature = "xdp")]
#[derive(Clone, Debug)]
pub(super) struct Steered {
    name: String,
    open: XdpInterface,
    /// Who is to be reached by it, as was said last. Those before are heard, too.
    wanted: Arc<Mutex<Vec<Ipv4Addr>>>,
}

#[cfg(feature = "xdp")]
impl Steered {
    /// One that was opened with these peers.
    pub(super) fn new(name: String, open: XdpInterface, peers: Vec<Ipv4Addr>) -> Steered {
        Steered { name, open, wanted: Arc::new(Mutex::new(peers)) }
    }

    /// Who is wanted, and who was before.
    fn peers(&self) -> (Vec<Ipv4Addr>, Vec<Ipv4Addr>) {
        let wanted = self.wanted.lock().expect("nobody panics while holding it");
        (wanted.clone(), self.open.peers())
    }

    fn set_wanted(&self, wanted: &[Ipv4Addr]) {
        *self.wanted.lock().expect("nobody panics while holding it") = wanted.to_vec();
    }
}

impl LinkSteering {
    /// Whether there is anything to steer.
    pub fn is_bypass(&self) -> bool {
        #[cfg(feature = "xdp")]
        return !self.interfaces.is_empty();
        #[cfg(not(feature = "xdp"))]
        false
    }

    /// From now on what comes from these peers is ours, on each interface that is named here. The threads are to be
    /// told next, by [`set_link_peers`]. What comes from peers that this takes away stays ours until the peers change
    /// again: so their connections are ended properly, and they are told so who have not heard it.
    ///
    /// # Errors
    /// What the system says; then the peers are those that they were, on all interfaces.
    #[cfg(feature = "xdp")]
    pub fn set_peers(&self, interfaces: &[LinkInterface]) -> Result<(), String> {
        let mut changed: Vec<(&Steered, Vec<Ipv4Addr>, Vec<Ipv4Addr>)> = Vec::new();
        for steered in &self.interfaces {
            let Some(wanted) = interfaces.iter().find(|it| it.name == steered.name) else {
                continue;
            };
            let (before, heard) = steered.peers();
            if before == wanted.peers {
                continue;
            }
            let set = |peers: &[Ipv4Addr]| steered.open.set_peers(peers);
            // Where there are too many for the filter with those that leave, they are left at once.
            let result = set(&with_leaving(&wanted.peers, &before)).or_else(|_| set(&wanted.peers));
            if let Err(error) = result {
                for (steered, before, heard) in changed {
                    // It was so a moment ago.
                    let _ = steered.open.set_peers(&heard);
                    steered.set_wanted(&before);
                }
                return Err(format!("interface {}: {error}", steered.name));
            }
            steered.set_wanted(&wanted.peers);
            changed.push((steered, before, heard));
        }
        Ok(())
    }

    /// The same where the bypass is not built: there is nothing to steer.
    ///
    /// # Errors
    /// None.
    #[cfg(not(feature = "xdp"))]
    pub fn set_peers(&self, _interfaces: &[LinkInterface]) -> Result<(), String> {
        Ok(())
    }
}

/// Those who are wanted, and behind them those who were and are not any more.
#[cfg(feature = "xdp")]
fn with_leaving(wanted: &[Ipv4Addr], before: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    let leaving = before.iter().filter(|it| !wanted.contains(it));
    wanted.iter().chain(leaving).copied().collect()
}

/// From now on that thread reaches these peers past the kernel. Connections that it has stay where they are.
#[cfg(feature = "xdp")]
pub fn set_link_peers(transport: &mut LinkTransport, interfaces: &[LinkInterface]) {
    for interface in interfaces {
        let peers = interface.peers.iter().copied().map(std::net::IpAddr::V4);
        transport.set_peers(&interface.name, peers.collect());
    }
}

/// The same where the bypass is not built.
#[cfg(not(feature = "xdp"))]
pub fn set_link_peers(_transport: &mut LinkTransport, _interfaces: &[LinkInterface]) {}
