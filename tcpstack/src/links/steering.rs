//! Who is reached past the kernel, changed while the links run: first what comes to the process is steered, then each
//! thread is told.

#[cfg(feature = "xdp")]
use dataplane::xdp::XdpInterface;

use super::{LinkInterface, LinkTransport};

/// The filters of all interfaces, which tell what is ours of that which comes.
#[derive(Clone, Debug, Default)]
pub struct LinkSteering {
    /// With their names. None where the links go by the kernel.
    #[cfg(feature = "xdp")]
    pub(super) interfaces: Vec<(String, XdpInterface)>,
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
    /// told next, by [`set_link_peers`].
    ///
    /// # Errors
    /// What the system says; then the peers are those that they were, on all interfaces.
    #[cfg(feature = "xdp")]
    pub fn set_peers(&self, interfaces: &[LinkInterface]) -> Result<(), String> {
        let mut changed: Vec<(_, Vec<_>)> = Vec::new();
        for (name, open) in &self.interfaces {
            let Some(wanted) = interfaces.iter().find(|it| it.name == *name) else { continue };
            let before = open.peers();
            if before == wanted.peers {
                continue;
            }
            if let Err(error) = open.set_peers(&wanted.peers) {
                for (open, before) in changed {
                    // It was so a moment ago.
                    let _ = XdpInterface::set_peers(open, &before[..]);
                }
                return Err(format!("interface {name}: {error}"));
            }
            changed.push((open, before));
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
