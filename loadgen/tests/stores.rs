//! The loads on stores of others against small stores that are right, and that are wrong in one thing, in virtual time.

use std::collections::{BTreeMap, HashMap};
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use loadgen::store::{Dialect, ListRecovery, ListRecoveryConfig, StoreConfig, StoreLoad};
use tcpstack::{Event, Instant, RecvError, SimNetwork, SimOptions, SimTransport, Transport};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
const AT: SocketAddr = SocketAddr::new(SERVER, 7000);

/// What a store does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// It says that it stores, and does not.
    Forgets,
    /// It gives something else back.
    Alters,
    /// It refuses the five hundredth request.
    Refuses,
    /// It says nothing to the five hundredth request, and goes on.
    Skips,
    /// It does not delete.
    Keeps,
}

/// A store: requests in, answers out.
struct Store {
    transport: SimTransport,
    wrong: Wrong,
    input: Vec<u8>,
    output: Vec<u8>,
    values: HashMap<Vec<u8>, Vec<u8>>,
    lists: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    requests: u32,
}

impl Store {
    fn open(mut transport: SimTransport, wrong: Wrong) -> Store {
        transport.listen(AT).unwrap();
        let (input, output) = (Vec::new(), Vec::new());
        let (values, lists) = (HashMap::new(), BTreeMap::new());
        Store { transport, wrong, input, output, values, lists, requests: 0 }
    }

    fn turn(&mut self, now: Instant) -> bool {
        self.transport.poll(now);
        let mut worked = false;
        while let Some(event) = self.transport.next_event() {
            worked = true;
            let connection = match event {
                Event::Readable(connection) | Event::Writable(connection) => connection,
                _ => continue,
            };
            let input = &mut self.input;
            let received = self.transport.recv(connection, |bytes| {
                input.extend_from_slice(bytes);
                (bytes.len(), ())
            });
            if !matches!(received, Ok(()) | Err(RecvError::WouldBlock)) {
                self.transport.close(connection);
                self.input.clear();
                self.output.clear();
                continue;
            }
            let answers = self.answer_all();
            self.output.extend_from_slice(&answers);
            if self.output.is_empty() {
                continue;
            }
            // The client may have gone meanwhile.
            let sent = self.transport.send(connection, &[IoSlice::new(&self.output)]).unwrap_or(0);
            self.output.drain(..sent);
        }
        self.transport.flush(now);
        worked
    }

    fn answer_all(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        while let Some((words, taken)) = request(rest) {
            rest = &rest[taken..];
            self.requests += 1;
            let answer = self.answer(&words);
            match self.wrong {
                Wrong::Refuses if self.requests == 500 => {
                    output.extend_from_slice(b"SERVER_ERROR no\r\n")
                }
                Wrong::Skips if self.requests == 500 => {}
                _ => output.extend_from_slice(&answer),
            }
        }
        self.input = rest.to_vec();
        output
    }

    fn answer(&mut self, words: &[Vec<u8>]) -> Vec<u8> {
        let word = |place: usize| words.get(place).map_or(&[][..], Vec::as_slice);
        let quiet = words[1..].iter().any(|word| word == b"q");
        let line = |text: &str| format!("{text}\r\n").into_bytes();
        let key = word(1).to_vec();
        match word(0) {
            b"ms" => {
                self.put(key, words[words.len() - 1].clone());
                if quiet { Vec::new() } else { line("HD") }
            }
            b"md" => {
                self.remove(&key);
                if quiet { Vec::new() } else { line("HD") }
            }
            b"mn" => line("MN"),
            b"mg" => match self.values.get(&key) {
                Some(value) => {
                    [line(&format!("VA {}", value.len())), value.clone(), line("")].concat()
                }
                None => line("EN"),
            },
            b"SET" => {
                self.put(key, word(2).to_vec());
                line("+OK")
            }
            b"GET" => self.values.get(&key).map_or(line("$-1"), |value| bulk(value)),
            b"EXISTS" => line(&format!(":{}", u8::from(self.values.contains_key(&key)))),
            b"DEL" => {
                self.remove(&key);
                self.lists.remove(&key);
                line(":1")
            }
            b"WAIT" => line(&format!(":{}", str::from_utf8(word(1)).unwrap())),
            b"RPUSH" => {
                let list = self.lists.entry(key).or_default();
                list.extend(words[2..].iter().cloned());
                line(&format!(":{}", list.len()))
            }
            b"LTRIM" => {
                let list = self.lists.entry(key).or_default();
                let (first, last) = range(word(2), word(3), list.len());
                if self.wrong != Wrong::Keeps {
                    *list = list[first.min(list.len())..last].to_vec();
                }
                line("+OK")
            }
            b"LRANGE" => {
                let list = self.lists.entry(key).or_default();
                let (first, last) = range(word(2), word(3), list.len());
                let mut values = list[first.min(last)..last].to_vec();
                match self.wrong {
                    Wrong::Forgets => drop(values.pop()),
                    Wrong::Alters => values.iter_mut().for_each(|value| value[9] ^= 1),
                    _ => {}
                }
                let head = line(&format!("*{}", values.len()));
                values.iter().fold(head, |text, value| [text, bulk(value)].concat())
            }
            b"LLEN" => line(&format!(":{}", self.lists.get(&key).map_or(0, Vec::len))),
            other => panic!("no such command: {other:?}"),
        }
    }

    fn put(&mut self, key: Vec<u8>, mut value: Vec<u8>) {
        match self.wrong {
            Wrong::Forgets => return,
            Wrong::Alters => value[0] ^= 1,
            _ => {}
        }
        self.values.insert(key, value);
    }

    fn remove(&mut self, key: &[u8]) {
        if self.wrong != Wrong::Keeps {
            self.values.remove(key);
        }
    }
}

/// From the first to behind the last, as Redis counts.
fn range(first: &[u8], last: &[u8], length: usize) -> (usize, usize) {
    let number = |word: &[u8]| str::from_utf8(word).unwrap().parse::<i64>().unwrap();
    let last = number(last);
    let end = if last < 0 { length } else { usize::try_from(last).unwrap() + 1 };
    (usize::try_from(number(first)).unwrap(), end.min(length))
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

/// The words of the next request and its length, if it is whole. The value of `ms` is its last word.
fn request(input: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let (line, mut at) = line_at(input, 0)?;
    let Some(count) = line.strip_prefix(b"*") else {
        let mut words: Vec<_> = line.split(|&byte| byte == b' ').map(<[u8]>::to_vec).collect();
        if words[0] == b"ms" {
            let length: usize = str::from_utf8(&words[2]).unwrap().parse().unwrap();
            words.push(input.get(at..at + length)?.to_vec());
            at = input.get(at + length..at + length + 2).map(|_| at + length + 2)?;
        }
        return Some((words, at));
    };
    let mut words = Vec::new();
    for _ in 0..str::from_utf8(count).unwrap().parse::<usize>().unwrap() {
        let (head, begin) = line_at(input, at)?;
        let length: usize = str::from_utf8(&head[1..]).unwrap().parse().unwrap();
        words.push(input.get(begin..begin + length)?.to_vec());
        at = input.get(begin + length..begin + length + 2).map(|_| begin + length + 2)?;
    }
    Some((words, at))
}

/// A line without its end, and where the next begins.
fn line_at(input: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let end = input[at..].windows(2).position(|two| two == b"\r\n")?;
    Some((&input[at..at + end], at + end + 2))
}

/// Turns both until the client's turn says that it is done, or, if something is skipped, nobody has anything to do.
fn run(
    network: &SimNetwork,
    store: &mut Store,
    mut turn: impl FnMut(Instant) -> (bool, bool),
) -> bool {
    loop {
        let now = network.now();
        assert!(now < Instant::ZERO + Duration::from_secs(600), "it does not end");
        let (worked, done) = turn(now);
        if done {
            return true;
        }
        if !(store.turn(now) | worked) {
            let Some(next) = network.next_event_at() else { return false };
            network.advance(next);
        }
    }
}

/// The load, and whether it came to its end.
fn run_load(
    dialect: Dialect,
    depth: usize,
    batch: usize,
    wrong: Wrong,
) -> (StoreLoad<SimTransport>, bool) {
    let network = SimNetwork::new(5, SimOptions::default());
    let mut store = Store::open(network.host(SERVER), wrong);
    let config = StoreConfig {
        to: AT,
        dialect,
        prefix: "k".into(),
        size_bytes: 700,
        depth,
        batch,
        total: Some(1000),
        duration: None,
        seed: 1,
    };
    let mut load = StoreLoad::open(network.host(CLIENT), network.now(), config).unwrap();
    let done = run(&network, &mut store, |now| (load.turn(now), load.is_done()));
    if wrong == Wrong::Nothing {
        assert!(store.values.is_empty() && store.lists.values().all(Vec::is_empty));
    }
    (load, done)
}

#[test]
fn every_message_is_stored_and_deleted_whatever_the_dialect() {
    for (name, dialect) in Dialect::NAMES {
        for (depth, batch) in [(1, 1), (16, 4), (100, 30), (1024, 256)] {
            let (load, _) = run_load(dialect, depth, batch, Wrong::Nothing);
            assert_eq!(load.failure(), None, "{name} {depth} {batch}");
            let measured = load.measured();
            assert_eq!(measured.messages, 1000, "{name} {depth} {batch}");
            assert_eq!((measured.store.count(), measured.delete.count()), (1000, 1000));
        }
    }
}

#[test]
fn a_store_that_does_not_store_or_gives_something_else_is_found_out() {
    for (name, dialect) in Dialect::NAMES {
        if dialect == Dialect::RedisList {
            continue;
        }
        for wrong in [Wrong::Forgets, Wrong::Alters, Wrong::Keeps] {
            let (load, _) = run_load(dialect, 16, 4, wrong);
            assert!(load.failure().is_some_and(|why| why.contains("is right")), "{name}");
            assert_eq!(load.measured().messages, 0, "{name}");
        }
    }
    for wrong in [Wrong::Alters, Wrong::Keeps] {
        assert!(run_load(Dialect::RedisList, 16, 4, wrong).0.failure().is_some());
    }
}

#[test]
fn one_wrong_answer_ends_the_run() {
    for (name, dialect) in Dialect::NAMES.into_iter().filter(|(_, d)| *d != Dialect::RedisList) {
        let (load, _) = run_load(dialect, 16, 4, Wrong::Refuses);
        assert!(load.failure().is_some_and(|why| why.contains("SERVER_ERROR")), "{name}");
    }
}

#[test]
fn a_missing_answer_is_not_made_up() {
    for dialect in [Dialect::Memcached, Dialect::Redis] {
        let (load, done) = run_load(dialect, 16, 4, Wrong::Skips);
        // The answers behind it are taken for its own, until one is of the other kind or the last is missing.
        assert!(!done || load.failure().is_some());
        assert!(load.measured().messages < 1000);
    }
}

fn run_recovery(wrong: Wrong) -> ListRecovery<SimTransport> {
    let network = SimNetwork::new(6, SimOptions::default());
    let mut store = Store::open(network.host(SERVER), wrong);
    let config = ListRecoveryConfig {
        to: AT,
        list: "k".into(),
        messages: 600,
        size_bytes: 100,
        blocks: vec![1, 10, 256],
        rounds_max: 50,
    };
    let mut recovery = ListRecovery::open(network.host(CLIENT), network.now(), config).unwrap();
    run(&network, &mut store, |now| (recovery.turn(now), recovery.is_done()));
    recovery
}

#[test]
fn every_block_size_reads_the_list() {
    let recovery = run_recovery(Wrong::Nothing);
    assert_eq!(recovery.failure(), None);
    let read: Vec<_> = recovery.times().iter().map(|t| (t.block, t.messages, t.rounds)).collect();
    assert_eq!(read, [(1, 50, 50), (10, 500, 50), (256, 600, 3)]);
}

#[test]
fn a_list_that_is_short_or_altered_is_found_out() {
    for (wrong, word) in [(Wrong::Forgets, "ended"), (Wrong::Alters, "not what was stored")] {
        let recovery = run_recovery(wrong);
        assert!(
            recovery.failure().is_some_and(|why| why.contains(word)),
            "{:?}",
            recovery.failure()
        );
    }
}
