//! What each client may still do: one table for all fronts.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Arc, Mutex, MutexGuard};

use crossbeam_utils::CachePadded;
use tcpstack::Instant;

use crate::rate::{Bucket, Rate};

/// Sessions and rates of all clients. A client is an IPv4 address, or an IPv6 /64, which is the
/// least that a site gets (RFC 6177 §2).
///
/// A client with sessions is in the table, so those are bounded by the sessions that fronts let in.
/// A client without sessions is kept until all its rates are forgotten, a minute at most, and no
/// more than [`IDLE_MAX`] of them: at the bound the one kept longest is forgotten early, and may
/// have another minute's worth at once.
#[derive(Debug)]
pub struct Clients {
    /// Which client is in which part nobody outside can guess.
    hasher: RandomState,
    parts: Box<[CachePadded<Mutex<Part>>]>,
}

/// What each client may do.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ClientLimits {
    /// Sessions at a time.
    pub sessions_max: Option<NonZeroU32>,
    /// New sessions a minute.
    pub sessions_per_minute: Option<NonZeroU32>,
    /// Transactions a minute.
    pub transactions_per_minute: Option<NonZeroU32>,
    /// Recipients a minute, refused ones included.
    pub recipients_per_minute: Option<NonZeroU32>,
    /// Octets that all its transactions together may hold in the gateway's budget before their mail is
    /// stored.
    pub content_max: Option<NonZeroU64>,
}

/// Which limit keeps a client from beginning a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionExcess {
    /// It has as many as it may have at a time.
    AtOnce,
    /// It has begun as many as it may within a minute.
    TooFast,
}

/// A client's session, counted until it is dropped.
#[derive(Debug)]
pub struct ClientSession {
    clients: Arc<Clients>,
    client: Client,
}

/// What one transaction of a client holds of [`ClientLimits::content_max`], until it is dropped.
#[derive(Debug)]
pub struct ContentRoom {
    clients: Arc<Clients>,
    client: Client,
    max: u64,
    bytes: u64,
}

/// An IPv6 prefix of 64 bits, or a mapped IPv4 address in full.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Client(u128);

#[derive(Default, Debug)]
struct Part {
    entries: HashMap<Client, Entry>,
    /// Clients that were without sessions when they were listed, each once (its flag), in the
    /// order in which they are looked at again.
    idle: VecDeque<Client>,
}

#[derive(Default, Debug)]
struct Entry {
    sessions: u32,
    /// Held by its transactions.
    content_bytes: u64,
    is_listed: bool,
    session_rate: Bucket,
    transaction_rate: Bucket,
    recipient_rate: Bucket,
}

impl Default for Clients {
    fn default() -> Clients {
        let parts = std::iter::repeat_with(CachePadded::default).take(PARTS).collect();
        Clients { hasher: RandomState::new(), parts }
    }
}

impl Clients {
    /// Counts a session of the client, if it may have one more.
    ///
    /// # Errors
    /// [`SessionExcess`]; nothing is counted then.
    pub fn begin_session(
        self: &Arc<Clients>,
        address: IpAddr,
        limits: &ClientLimits,
        now: Instant,
    ) -> Result<ClientSession, SessionExcess> {
        let client = Client::of(address);
        let mut part = self.part(client);
        part.forget_idle(now);
        let entry = part.entries.entry(client).or_default();
        let is_allowed = if limits.sessions_max.is_some_and(|max| entry.sessions >= max.get()) {
            Err(SessionExcess::AtOnce)
        } else if !take(&mut entry.session_rate, limits.sessions_per_minute, now) {
            Err(SessionExcess::TooFast)
        } else {
            entry.sessions += 1;
            Ok(())
        };
        part.list(client);
        is_allowed.map(|()| ClientSession { clients: Arc::clone(self), client })
    }

    /// How many clients are in the table.
    pub fn count(&self) -> usize {
        self.parts.iter().map(|part| lock(part).entries.len()).sum()
    }

    fn part(&self, client: Client) -> MutexGuard<'_, Part> {
        let hash = self.hasher.hash_one(client);
        let place = usize::try_from(hash % PARTS as u64).expect("below the number of parts");
        lock(&self.parts[place])
    }
}

impl ClientSession {
    /// Counts a transaction of the client; whether it may have one more.
    pub fn begin_transaction(&self, limits: &ClientLimits, now: Instant) -> bool {
        let rate = limits.transactions_per_minute;
        rate.is_none() || self.with(|entry| take(&mut entry.transaction_rate, rate, now))
    }

    /// Counts a recipient of the client; whether it may have one more.
    pub fn add_recipient(&self, limits: &ClientLimits, now: Instant) -> bool {
        let rate = limits.recipients_per_minute;
        rate.is_none() || self.with(|entry| take(&mut entry.recipient_rate, rate, now))
    }

    /// For a transaction of the client; none without a limit.
    pub fn content_room(&self, limits: &ClientLimits) -> Option<ContentRoom> {
        let (clients, client) = (Arc::clone(&self.clients), self.client);
        limits.content_max.map(|max| ContentRoom { clients, client, max: max.get(), bytes: 0 })
    }

    fn with<R>(&self, action: impl FnOnce(&mut Entry) -> R) -> R {
        let mut part = self.clients.part(self.client);
        action(part.entries.get_mut(&self.client).expect("a client with a session is kept"))
    }
}

impl ContentRoom {
    /// Holds `bytes` from now on, if the client may; else as many as before.
    pub fn resize(&mut self, bytes: u64) -> bool {
        let mut part = self.clients.part(self.client);
        let Some(entry) = part.entries.get_mut(&self.client) else { return false };
        let others = entry.content_bytes.saturating_sub(self.bytes);
        let total = others.saturating_add(bytes);
        // One transaction alone always may: a mail that is larger, in all its queues together, could
        // never come else.
        if bytes > self.bytes && total > self.max && others > 0 {
            return false;
        }
        (entry.content_bytes, self.bytes) = (total, bytes);
        true
    }
}

impl Drop for ContentRoom {
    fn drop(&mut self) {
        // A client that has no session any more may have been forgotten with what it held.
        self.resize(0);
    }
}

impl Drop for ClientSession {
    fn drop(&mut self) {
        let mut part = self.clients.part(self.client);
        let entry = part.entries.get_mut(&self.client).expect("a client with a session is kept");
        entry.sessions -= 1;
        part.list(self.client);
    }
}

impl Part {
    /// Lists a client to be forgotten, if it has no session.
    fn list(&mut self, client: Client) {
        let Some(entry) = self.entries.get_mut(&client) else { return };
        if entry.sessions == 0 && !entry.is_listed {
            entry.is_listed = true;
            self.idle.push_back(client);
        }
        if self.idle.len() > IDLE_MAX / PARTS {
            self.look_at_idle(|_| true);
        }
    }

    /// Looks at the next two of the idle clients: more than one session can list.
    fn forget_idle(&mut self, now: Instant) {
        self.look_at_idle(|entry| entry.is_forgettable(now));
        self.look_at_idle(|entry| entry.is_forgettable(now));
    }

    /// Takes the next of the idle clients off the list, or puts it at the end again.
    fn look_at_idle(&mut self, is_forgettable: impl FnOnce(&Entry) -> bool) {
        let Some(client) = self.idle.pop_front() else { return };
        let entry = self.entries.get_mut(&client).expect("who is listed is kept");
        if entry.sessions > 0 {
            entry.is_listed = false;
        } else if is_forgettable(entry) {
            self.entries.remove(&client);
        } else {
            self.idle.push_back(client);
        }
    }
}

impl Entry {
    fn is_forgettable(&self, now: Instant) -> bool {
        let buckets = [self.session_rate, self.transaction_rate, self.recipient_rate];
        buckets.iter().all(|bucket| bucket.full_at() <= now)
    }
}

impl Client {
    fn of(address: IpAddr) -> Client {
        match address.to_canonical() {
            IpAddr::V4(address) => Client(address.to_ipv6_mapped().to_bits()),
            IpAddr::V6(address) => Client(address.to_bits() & PREFIX_64.to_bits()),
        }
    }
}

fn take(bucket: &mut Bucket, per_minute: Option<NonZeroU32>, now: Instant) -> bool {
    per_minute.is_none_or(|count| bucket.take(Rate::per_minute(count), now))
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().expect("who holds it does not panic")
}

/// Most clients without sessions that are kept.
pub const IDLE_MAX: usize = 65_536;
/// So that fronts seldom wait for each other.
const PARTS: usize = 64;
const PREFIX_64: Ipv6Addr = Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0xffff, 0, 0, 0, 0);

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const START: Instant = Instant::from_nanos(1 << 40);

    fn limits(number: u32) -> ClientLimits {
        let number = NonZeroU32::new(number);
        ClientLimits {
            sessions_max: number,
            sessions_per_minute: number,
            transactions_per_minute: number,
            recipients_per_minute: number,
            content_max: None,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn sessions_at_once_are_counted_by_address_and_by_prefix() {
        let clients = Arc::new(Clients::default());
        let limits = ClientLimits { sessions_per_minute: None, ..limits(2) };
        let begin = |address| clients.begin_session(ip(address), &limits, START);
        let held = [begin("192.0.2.1"), begin("::ffff:192.0.2.1")].map(Result::unwrap);
        assert_eq!(begin("192.0.2.1").unwrap_err(), SessionExcess::AtOnce);
        let _other = begin("192.0.2.2").unwrap();
        let _six = [begin("2001:db8::1"), begin("2001:db8::ffff:1")].map(Result::unwrap);
        assert_eq!(begin("2001:db8:0:0:9::").unwrap_err(), SessionExcess::AtOnce);
        assert!(begin("2001:db8:0:1::").is_ok());
        drop(held);
        assert!(begin("192.0.2.1").is_ok());
    }

    #[test]
    fn rates_outlive_sessions_and_are_forgotten_after_a_minute() {
        let clients = Arc::new(Clients::default());
        let begin = |seconds| {
            let now = START + Duration::from_secs(seconds);
            clients.begin_session(ip("192.0.2.1"), &limits(2), now)
        };
        assert!(begin(0).is_ok() && begin(0).is_ok());
        assert_eq!(begin(1).unwrap_err(), SessionExcess::TooFast);
        assert!(begin(30).is_ok(), "a half of the minute gives back one of two");
        assert_eq!(clients.count(), 1);
        for other in 0..IDLE_MAX {
            let address = IpAddr::from((0xc0a8_0000 + u32::try_from(other).unwrap()).to_be_bytes());
            let _ = clients.begin_session(address, &limits(2), START + Duration::from_secs(91));
        }
        let late = START + Duration::from_secs(200);
        for other in 0..20 * u32::try_from(PARTS).unwrap() {
            let address = IpAddr::from((0x0a00_0000 + other).to_be_bytes());
            let _ = clients.begin_session(address, &ClientLimits::default(), late);
        }
        assert!(clients.count() < IDLE_MAX, "{}", clients.count());
    }

    #[test]
    fn a_table_that_is_full_of_idle_clients_forgets_the_oldest_and_no_session() {
        let clients = Arc::new(Clients::default());
        let busy = clients.begin_session(ip("10.9.9.9"), &limits(1), START).unwrap();
        for other in 0..u32::try_from(2 * IDLE_MAX).unwrap() {
            let address = IpAddr::from((0xc000_0000 + other).to_be_bytes());
            let _ = clients.begin_session(address, &limits(1), START);
        }
        assert!(clients.count() <= IDLE_MAX + PARTS + 1, "{}", clients.count());
        let again = clients.begin_session(ip("10.9.9.9"), &limits(1), START);
        assert_eq!(again.unwrap_err(), SessionExcess::AtOnce);
        drop(busy);
    }

    #[test]
    fn transactions_and_recipients_have_rates_of_their_own() {
        let clients = Arc::new(Clients::default());
        let session = clients.begin_session(ip("10.0.0.1"), &limits(9), START).unwrap();
        let taken = (0..9).filter(|_| session.begin_transaction(&limits(3), START)).count();
        assert_eq!(taken, 3);
        let taken = (0..9).filter(|_| session.add_recipient(&limits(4), START)).count();
        assert_eq!(taken, 4);
        assert!(session.add_recipient(&ClientLimits::default(), START));
    }

    #[test]
    fn transactions_of_a_client_share_its_room_for_content() {
        let clients = Arc::new(Clients::default());
        let limits = ClientLimits { content_max: NonZeroU64::new(1000), ..ClientLimits::default() };
        let begin = |address| clients.begin_session(ip(address), &limits, START).unwrap();
        let sessions = [begin("10.0.0.1"), begin("10.0.0.1"), begin("10.0.0.2")];
        let [mut one, mut two, mut other] =
            sessions.each_ref().map(|session| session.content_room(&limits).unwrap());
        assert!(one.resize(600) && two.resize(400) && other.resize(1000));
        assert!(!two.resize(401) && !one.resize(601));
        assert!(other.resize(5000), "a transaction alone may hold more");
        assert!(one.resize(100) && two.resize(900));
        drop(one);
        let mut third = sessions[0].content_room(&limits).unwrap();
        assert!(!third.resize(101), "what was given back once is not given back twice");
        assert!(third.resize(100) && third.resize(50) && !two.resize(951));
        drop((two, third));
        assert!(sessions[0].content_room(&ClientLimits::default()).is_none());
        let kept = begin("10.0.0.2");
        drop((sessions, other));
        let again = [(), ()].map(|()| kept.content_room(&limits).unwrap());
        let [mut one, mut two] = again;
        assert!(one.resize(400) && two.resize(600) && !two.resize(601));
    }
}
