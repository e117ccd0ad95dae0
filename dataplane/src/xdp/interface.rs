//! An interface of which we have some NIC queues.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::bpf::{Attached, Program};
use super::error::XdpError;
use super::filter::Filter;
use super::netlink::{Link, Netlink};
use super::options::{XdpMode, XdpOptions, XdpReport};
use super::port::XdpPort;
use super::rings::Opened;
use super::shared::{Filtering, Outcome, Shared, lock};
use super::statistics::XdpStatistics;
use super::sys;
use super::watch::Watch;

/// An interface of which we have some NIC queues. It is let go of when this, its clones and all its ports are dropped,
/// or the process has ended.
#[derive(Clone, Debug)]
pub struct XdpInterface {
    handle: Arc<Handle>,
}

/// Ends the thread that watches, and takes the program off.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
    watch: Mutex<Option<JoinHandle<()>>>,
}

/// Sockets that the program knows, and the program on an interface.
pub(super) struct Attachment {
    pub(super) mode: XdpMode,
    pub(super) refused: Vec<(XdpMode, String)>,
    pub(super) sockets: Vec<Opened>,
    pub(super) attached: Attached,
}

impl XdpInterface {
    /// Opens a socket on each NIC queue of the filter, attaches the program when all are there, and begins to watch.
    /// The ports are in the order of their queues.
    ///
    /// It needs `CAP_NET_RAW`, `CAP_NET_ADMIN` and `CAP_BPF`, and locked memory for all frames.
    ///
    /// # Errors
    /// [`XdpError`]; nothing is left behind then.
    pub fn open(options: &XdpOptions) -> Result<(XdpInterface, Vec<XdpPort>), XdpError> {
        options.check()?;
        let netlink = XdpError::system("a netlink socket");
        let mut requests = Netlink::open().map_err(netlink)?;
        // Before all questions, so that no change is missed.
        let events = Netlink::subscribe().map_err(XdpError::system("news of netlink"))?;
        let link = find(&mut requests, &options.interface)?;
        let program = Program::load(&options.filter)?;
        let attachment = attach(options, &program, &link, &requests)?;
        let Attachment { mode, refused, sockets, attached } = attachment;
        let huge_pages = sockets.iter().all(|it| it.huge_pages);
        let mtu = link.mtu.min(options.mtu_max());
        let filter = options.filter.clone();
        let filtering = Filtering { filter, program, attached: Some(attached) };
        let outcome = Outcome { mode, refused, huge_pages, trouble: None };
        let shared = Shared::new(options.clone(), mtu, filtering, outcome)
            .map_err(XdpError::system("an eventfd"))?;
        let shared = Arc::new(shared);
        let watch = Watch::begin(Arc::clone(&shared), events, requests, &link);
        let thread = std::thread::Builder::new().name("xdp-watch".to_owned());
        let thread = thread.spawn(|| watch.run()).map_err(XdpError::system("a thread"))?;
        let handle = Arc::new(Handle { shared, watch: Mutex::new(Some(thread)) });
        let port = |(place, socket)| XdpPort::new(Arc::clone(&handle), place, socket);
        let ports = sockets.into_iter().enumerate().map(port).collect::<Result<_, _>>()?;
        Ok((XdpInterface { handle }, ports))
    }

    /// What became of it.
    pub fn report(&self) -> XdpReport {
        let shared = &self.handle.shared;
        let Outcome { mode, refused, huge_pages, trouble } = lock(&shared.outcome).clone();
        let interface = shared.options.interface.clone();
        let (mtu, link) = (shared.mtu, shared.link());
        let neighbours = shared.board.table().known().to_vec();
        XdpReport { interface, mode, refused, huge_pages, mtu, link, trouble, neighbours }
    }

    /// What its NIC queues have counted, in their order.
    pub fn statistics(&self) -> Vec<XdpStatistics> {
        let shared = &self.handle.shared;
        (0..shared.queues.len()).map(|place| shared.statistics(place)).collect()
    }

    /// The peers as of now.
    pub fn peers(&self) -> Vec<Ipv4Addr> {
        lock(&self.handle.shared.filtering).filter.peers.clone()
    }

    /// From now on these are the peers. There is no moment without a program.
    ///
    /// # Errors
    /// [`XdpError`]; then the peers are those that they were.
    pub fn set_peers(&self, peers: &[Ipv4Addr]) -> Result<(), XdpError> {
        let shared = &self.handle.shared;
        let mut filtering = lock(&shared.filtering);
        let filter = Filter { peers: peers.to_vec(), ..filtering.filter.clone() };
        filter.check()?;
        let Filtering { program, attached, .. } = &mut *filtering;
        program.exchange(&filter, attached.as_ref())?;
        filtering.filter = filter;
        drop(filtering);
        shared.alarm.ring();
        Ok(())
    }

    /// What the kernel's program says of a packet that came by a NIC queue: the number of an `enum xdp_action`.
    /// `Err` where the kernel runs no packets that are so short.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn run_program(&self, packet: &[u8], queue: u32) -> std::io::Result<u32> {
        let shared = &self.handle.shared;
        let link = Netlink::open()?.link(&shared.options.interface)?;
        let index = link.ok_or(std::io::ErrorKind::NotFound)?.index;
        lock(&shared.filtering).program.run(packet, index, queue)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        self.shared.alarm.ring();
        if let Some(watch) = lock(&self.watch).take() {
            // If it has panicked it has said so.
            let _ = watch.join();
        }
        lock(&self.shared.filtering).attached = None;
    }
}

/// The interface of that name.
pub(super) fn find(netlink: &mut Netlink, name: &str) -> Result<Link, XdpError> {
    let link = netlink.link(name).map_err(XdpError::system("looking for the interface"))?;
    let link = link.ok_or_else(|| XdpError::NoInterface(name.to_owned()))?;
    match link.is_ethernet && link.mac.is_some() {
        true => Ok(link),
        false => Err(XdpError::NotEthernet(name.to_owned())),
    }
}

/// Opens sockets and attaches the program, in the best mode that works or the one that is wanted.
pub(super) fn attach(
    options: &XdpOptions,
    program: &Program,
    link: &Link,
    netlink: &Netlink,
) -> Result<Attachment, XdpError> {
    let there_are = sys::queues(netlink.as_fd(), &link.name);
    let mut queues = options.filter.queues().into_iter();
    if let Some(queue) = queues.find(|queue| there_are.is_some_and(|count| *queue >= count)) {
        return Err(XdpError::NoQueue { interface: link.name.clone(), queue, there_are });
    }
    let Some(mode) = options.mode else { return attach_best(options, program, link) };
    attach_in(options, program, link, mode)
}

fn attach_best(
    options: &XdpOptions,
    program: &Program,
    link: &Link,
) -> Result<Attachment, XdpError> {
    let mut refused = Vec::new();
    for mode in XdpMode::BEST_FIRST {
        match attach_in(options, program, link, mode) {
            Ok(attachment) => return Ok(Attachment { refused, ..attachment }),
            Err(error) if error.is_of_the_mode() => refused.push((mode, error.to_string())),
            Err(error) => return Err(error),
        }
    }
    Err(XdpError::NoMode(refused))
}

/// The order matters: nothing is taken from the kernel before there is a socket for it.
fn attach_in(
    options: &XdpOptions,
    program: &Program,
    link: &Link,
    mode: XdpMode,
) -> Result<Attachment, XdpError> {
    let mut sockets = Vec::new();
    for queue in options.filter.queues() {
        let opened = open_socket(options, queue, mode)?;
        program.insert(queue, opened.rings.socket())?;
        sockets.push(opened);
    }
    let attached = program.attach(&link.name, link.index, mode)?;
    Ok(Attachment { mode, refused: Vec::new(), sockets, attached })
}

/// The kernel lets go of a queue some time after the last socket there was closed, so one that is in use may just have
/// been ours, in another mode or in the process before.
fn open_socket(options: &XdpOptions, queue: u32, mode: XdpMode) -> Result<Opened, XdpError> {
    for _ in 0..IN_USE_ATTEMPTS {
        match Opened::open(options, queue, mode) {
            Err(XdpError::QueueInUse { .. }) => std::thread::sleep(IN_USE_PAUSE),
            result => return result,
        }
    }
    Opened::open(options, queue, mode)
}

/// Half a second, then it is in use by somebody.
const IN_USE_ATTEMPTS: u32 = 50;
const IN_USE_PAUSE: Duration = Duration::from_millis(10);
