//! The server as a whole: its workers, from start to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvs_proto::auth::Secret;
use kvs_proto::body::{Counter, Limits};
use kvs_proto::{Incarnation, STATE_SIZE_BYTES_MAX};
use tcpstack::{
    Clock, Idle, Instant, KernelOptions, LinkTransport, LinksTaken, NicQueueCounters, OpenLinks,
    Waker, keep_link_privileges, nic_queues, open_links, pin_current_thread,
};

use crate::IN_FLIGHT_MAX;
use crate::arena::Arena;
use crate::directory::Directory;
use crate::settings::Settings;
use crate::table::QueueTable;
use crate::worker::{Worker, WorkerOptions};

/// A running server: a thread for each worker.
#[derive(Debug)]
pub struct Server {
    links: LinksTaken,
    addresses: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
    wakers: Vec<Waker>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Takes the memory, opens the ports, and starts the workers. `random` fills bytes from the
    /// operating system's random source.
    ///
    /// Where links may bypass the kernel it comes first of all in a process: privileges that are not needed for
    /// that are given up, and threads that there are already would keep them.
    ///
    /// # Errors
    /// Not enough memory, a port or a NIC queue that cannot be opened, or no randomness.
    pub fn start(
        settings: &Settings,
        mut random: impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Server> {
        let binds = settings.listen.iter().any(|address| (1..1024).contains(&address.port()));
        keep_link_privileges(settings.links.choice, binds).map_err(io::Error::other)?;
        let OpenLinks { transports, taken, .. } = links(settings)?;
        let mut bytes = [0; 8];
        random(&mut bytes)?;
        // 0 names no life.
        let incarnation = Incarnation(u64::from_le_bytes(bytes).max(1));
        let workers = usize::from(settings.workers);
        let queues_max = usize::try_from(settings.queues_max).unwrap_or(usize::MAX);
        let directory = Arc::new(Directory::new(workers, queues_max));
        let mut ready = Vec::new();
        for (number, transport) in transports.into_iter().enumerate() {
            let mut key = [0; 32];
            random(&mut key)?;
            let nonce_key = Secret::new(&key);
            ready.push(worker(settings, transport, incarnation, nonce_key, &directory, number)?);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let addresses = ready.iter().flat_map(|(_, addresses)| addresses.clone()).collect();
        let wakers = ready.iter().map(|(worker, _)| worker.transport().waker()).collect();
        let threads = ready.into_iter().enumerate().map(|(number, (worker, _))| {
            let stop = Arc::clone(&stop);
            let core = settings.cores.get(number).copied();
            let spin = settings.spin;
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || run(worker, number, core, spin, &stop))
        });
        let threads = threads.collect::<io::Result<_>>()?;
        tracing::info!(
            name = settings.name,
            incarnation = format_args!("{incarnation:x?}"),
            workers,
            "serving"
        );
        Ok(Server { links: taken, addresses, stop, wakers, threads })
    }

    /// Which way the links take.
    pub fn links(&self) -> &LinksTaken {
        &self.links
    }

    /// Where it listens: all addresses of the first worker, then of the next.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops the workers: what was received is answered, then all connections are closed.
    ///
    /// # Panics
    /// If a worker did.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        for waker in &self.wakers {
            waker.wake();
        }
        for thread in self.threads {
            thread.join().expect("a worker stopped at a broken invariant");
        }
    }
}

/// A transport for each worker; the log says which way they take.
fn links(settings: &Settings) -> io::Result<OpenLinks> {
    let connections_max = usize::try_from(settings.connections_max).unwrap_or(usize::MAX);
    let kernel = KernelOptions {
        connections_max: connections_max + REFUSED_CONNECTIONS_MAX,
        user_timeout: Some(USER_TIMEOUT),
        keep_alive: Some(KEEP_ALIVE),
        ..KernelOptions::default()
    };
    let open = open_links(&settings.links, &kernel, usize::from(settings.workers));
    let open = open.map_err(|why| io::Error::other(format!("`transport` in [links]: {why}")))?;
    if let Some(why) = &open.taken.why_not {
        tracing::warn!(why, "links go by the kernel, although the bypass is wanted");
    }
    for interface in &open.taken.interfaces {
        let (name, mode) = (&interface.name, &interface.mode);
        let why_not_better = interface.why_not_better.as_deref().unwrap_or_default();
        tracing::info!(interface = name, mode, why_not_better, "links bypass the kernel");
    }
    Ok(open)
}

/// One worker, listening.
fn worker(
    settings: &Settings,
    transport: LinkTransport,
    incarnation: Incarnation,
    nonce_key: Secret,
    directory: &Arc<Directory>,
    number: usize,
) -> io::Result<(Worker<LinkTransport>, Vec<SocketAddr>)> {
    let connections_max = usize::try_from(settings.connections_max).unwrap_or(usize::MAX);
    let share = |total: u64| {
        let share = total.div_ceil(u64::from(settings.workers));
        usize::try_from(share).map_err(|_| io::ErrorKind::OutOfMemory)
    };
    let memory_bytes = share(settings.memory_bytes)?;
    // Touching every page may take a while, and a silent start looks like a hanging one.
    tracing::info!(worker = number, memory_bytes, "taking memory");
    let arena = Arena::new(memory_bytes, share(settings.messages_max)?)?;
    tracing::info!(
        worker = number,
        memory_bytes = arena.size_bytes(),
        table_bytes = arena.table_bytes(),
        pages = format_args!("{:?}", arena.pages()),
        "memory taken"
    );
    let table = QueueTable::new(arena, Arc::clone(directory), number, settings.queue);
    let options = WorkerOptions {
        incarnation,
        nonce_key,
        accounts: settings.accounts.clone(),
        limits: limits(settings),
        version_max: settings.version_max,
        connections_max,
    };
    let mut worker = Worker::new(transport, table, options);
    let mut addresses = Vec::new();
    for address in &settings.listen {
        let mut address = *address;
        if address.port() > 0 {
            let above = u16::try_from(number).expect("there are at most 64");
            address.set_port(address.port() + above);
        }
        let listening = worker
            .listen(address)
            .map_err(|error| io::Error::other(format!("cannot listen at {address}: {error}")))?;
        tracing::info!(worker = number, address = %listening, "listening");
        directory.set_port(number, listening.port());
        addresses.push(listening);
    }
    Ok((worker, addresses))
}

fn limits(settings: &Settings) -> Limits {
    Limits {
        message_size_bytes_max: settings.message_size_bytes_max,
        state_size_bytes_max: u32::try_from(STATE_SIZE_BYTES_MAX).expect("small"),
        in_flight_max: u32::try_from(IN_FLIGHT_MAX).expect("small"),
        handles_max: settings.queues_max.min(HANDLES_MAX),
    }
}

/// The loop of a worker's thread.
fn run(
    mut worker: Worker<LinkTransport>,
    number: usize,
    core: Option<usize>,
    spin: Duration,
    stop: &AtomicBool,
) {
    if let Some(core) = core
        && let Err(error) = pin_current_thread(core)
    {
        tracing::warn!(core, %error, "not pinned");
    }
    let clock = Clock::new();
    let mut idle = Idle::new(spin);
    let mut log = CountersLog::new(number, clock.now());
    while !stop.load(Ordering::Acquire) {
        let now = clock.now();
        let worked = worker.turn(now);
        log.tell(now, &worker);
        worker.end_turn(clock.now());
        if worked {
            idle.handle_work(now);
        } else if idle.should_sleep(now) {
            worker.wait(now, log.due());
        } else {
            std::hint::spin_loop();
        }
    }
    let now = clock.now();
    worker.turn(now);
    log.tell_now(&worker);
    worker.close(now);
    let counters = worker.counters();
    tracing::info!(
        frames = counters.get(Counter::Frames),
        stores = counters.get(Counter::Stores),
        deletes = counters.get(Counter::Deletes),
        protocol_errors = counters.get(Counter::ProtocolErrors),
        "stopped"
    );
}

/// What the NIC queues of a worker count, in the log. A worker without any has nothing to tell.
struct CountersLog {
    worker: usize,
    told: Vec<NicQueueCounters>,
    next_at: Instant,
    has_queues: bool,
}

impl CountersLog {
    fn new(worker: usize, now: Instant) -> CountersLog {
        CountersLog { worker, told: Vec::new(), next_at: now, has_queues: true }
    }

    /// When there is something to tell again.
    fn due(&self) -> Option<Instant> {
        self.has_queues.then_some(self.next_at)
    }

    /// Once a while, if they have changed.
    fn tell(&mut self, now: Instant, worker: &Worker<LinkTransport>) {
        if self.has_queues && now >= self.next_at {
            self.next_at = now + COUNTERS_EVERY;
            self.tell_now(worker);
        }
    }

    fn tell_now(&mut self, worker: &Worker<LinkTransport>) {
        let nic_queues = nic_queues(worker.transport());
        self.has_queues = !nic_queues.is_empty();
        if nic_queues != self.told {
            tracing::info!(target: "counters", worker = self.worker, ?nic_queues);
            self.told = nic_queues;
        }
    }
}

/// How often counters are logged, if they have changed.
const COUNTERS_EVERY: Duration = Duration::from_secs(60);

/// Handles of a connection, whatever the bound on queues: some 10 MB of tables.
const HANDLES_MAX: u32 = 1 << 16;

/// Places of the transport for connections that are only told that there are too many.
const REFUSED_CONNECTIONS_MAX: usize = 64;

/// A client that acknowledges nothing for so long is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that is silent for so long is asked whether it is there. Gateways say something more
/// often; those that lost their power would hold places, and room for messages in parts, for ever.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
