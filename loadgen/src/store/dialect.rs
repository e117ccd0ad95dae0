//! What stores of others are asked, and what they have to answer.
//!
//! * memcached: the meta commands of `doc/protocol.txt` (1.6); `q` leaves good answers out, and `mn` behind a batch
//!   says that all before it is done.
//! * Redis: RESP 2, <https://redis.io/docs/latest/develop/reference/protocol-spec/>.
//!
//! Every answer that can be right is one line known beforehand, so that reading is comparing.

use bytes::Bytes;

use super::outbox::{Outbox, decimal};

/// How a store is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// memcached, `ms` and `md`, each answered.
    Memcached,
    /// memcached, `ms` and `md` without good answers, one `mn` behind each batch.
    MemcachedQuiet,
    /// Redis, SET and DEL, each answered.
    Redis,
    /// Redis, one RPUSH and one LTRIM for each batch.
    RedisList,
    /// Redis, SET and behind each batch WAIT until so many replicas have it; DEL without.
    RedisReplicated {
        /// That many.
        replicas: u8,
    },
}

/// Whether a batch is stored or deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    Store,
    Delete,
}

/// Messages that are asked for together: those from `first` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub(super) op: Op,
    pub(super) first: u64,
    pub(super) count: u64,
    /// Messages that the store holds when the batch is done.
    pub(super) held: u64,
}

/// The lines, without their ends, that have to come for a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answers {
    /// So many times this.
    pub(super) each: (u64, &'static [u8]),
    /// Then this.
    pub(super) last: Option<Vec<u8>>,
}

/// A request with the lines that have to come for it, to find out whether a store stores.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Probe {
    pub(super) request: Vec<u8>,
    pub(super) answers: Vec<Vec<u8>>,
}

/// Replicas have so long, in milliseconds, before a batch counts as not replicated, which ends the run.
const WAIT_MS: &str = "10000";

impl Dialect {
    /// All, by the names that options have.
    pub const NAMES: [(&'static str, Dialect); 5] = [
        ("memcached", Dialect::Memcached),
        ("memcached-quiet", Dialect::MemcachedQuiet),
        ("redis", Dialect::Redis),
        ("redis-list", Dialect::RedisList),
        ("redis-replicated", Dialect::RedisReplicated { replicas: 2 }),
    ];

    /// Whether one answer covers a batch.
    pub fn is_grouped(self) -> bool {
        !matches!(self, Dialect::Memcached | Dialect::Redis)
    }

    /// Writes the requests for a batch. `prefix` is what the run's keys begin with.
    pub(super) fn ask<'a>(
        self,
        out: &mut Outbox,
        prefix: &str,
        batch: Batch,
        value: impl Fn(u64) -> &'a Bytes,
    ) -> Answers {
        let ids = batch.first..batch.first + batch.count;
        let answers = |line, last: Option<&[u8]>| Answers {
            each: (batch.count, line),
            last: last.map(<[u8]>::to_vec),
        };
        match (self, batch.op) {
            (Dialect::Memcached, op) => {
                ids.for_each(|id| memcached(out, op, prefix, id, b"\r\n", value(id)));
                answers(b"HD", None)
            }
            (Dialect::MemcachedQuiet, op) => {
                ids.for_each(|id| memcached(out, op, prefix, id, b" q\r\n", value(id)));
                out.push(b"mn\r\n");
                Answers { each: (0, b""), last: Some(b"MN".to_vec()) }
            }
            (Dialect::Redis, Op::Store) => {
                ids.for_each(|id| redis_set(out, prefix, id, value(id)));
                answers(b"+OK", None)
            }
            (Dialect::RedisReplicated { replicas }, Op::Store) => {
                ids.for_each(|id| redis_set(out, prefix, id, value(id)));
                let count = replicas.to_string();
                out.push(&command(&["WAIT", &count, WAIT_MS]));
                answers(b"+OK", Some(format!(":{count}").as_bytes()))
            }
            (Dialect::Redis | Dialect::RedisReplicated { .. }, Op::Delete) => {
                for id in ids {
                    out.push(b"*2\r\n$3\r\nDEL\r\n");
                    redis_key(out, prefix, id);
                }
                answers(b":1", None)
            }
            (Dialect::RedisList, op) => {
                Answers { each: (0, b""), last: Some(list(out, op, prefix, batch, value)) }
            }
        }
    }

    /// Whether what is stored can be had as it was, and what is deleted is gone.
    pub(super) fn probes(self, prefix: &str) -> Vec<Probe> {
        const VALUE: &str = "what is stored has to be had again";
        let (key, length) = (format!("{prefix}probe"), VALUE.len());
        let probe = |request: Vec<u8>, answers: &[&str]| Probe {
            request,
            answers: answers.iter().map(|line| line.as_bytes().to_vec()).collect(),
        };
        let text = |text: String| text.into_bytes();
        match self {
            Dialect::Memcached | Dialect::MemcachedQuiet => vec![
                probe(text(format!("ms {key} {length}\r\n{VALUE}\r\n")), &["HD"]),
                probe(text(format!("mg {key} v\r\n")), &[&format!("VA {length}"), VALUE]),
                probe(text(format!("md {key}\r\n")), &["HD"]),
                probe(text(format!("mg {key} v\r\n")), &["EN"]),
            ],
            Dialect::Redis | Dialect::RedisReplicated { .. } => vec![
                probe(command(&["SET", &key, VALUE]), &["+OK"]),
                probe(command(&["GET", &key]), &[&format!("${length}"), VALUE]),
                probe(command(&["DEL", &key]), &[":1"]),
                probe(command(&["GET", &key]), &["$-1"]),
            ],
            Dialect::RedisList => vec![
                probe(command(&["RPUSH", &key, VALUE, "another"]), &[":2"]),
                probe(command(&["LTRIM", &key, "0", "0"]), &["+OK"]),
                probe(command(&["LRANGE", &key, "0", "-1"]), &["*1", &format!("${length}"), VALUE]),
                probe(command(&["DEL", &key]), &[":1"]),
            ],
        }
    }

    /// Whether the run has left nothing: its last message, or its list, is gone.
    pub(super) fn last_probe(self, prefix: &str, last: u64) -> Probe {
        let (request, answer) = match self {
            Dialect::Memcached | Dialect::MemcachedQuiet => {
                (format!("mg {prefix}{last} v\r\n").into_bytes(), "EN")
            }
            Dialect::Redis | Dialect::RedisReplicated { .. } => {
                (command(&["EXISTS", &format!("{prefix}{last}")]), ":0")
            }
            Dialect::RedisList => (command(&["LLEN", prefix]), ":0"),
        };
        Probe { request, answers: vec![answer.as_bytes().to_vec()] }
    }
}

fn memcached(out: &mut Outbox, op: Op, prefix: &str, id: u64, flags: &[u8], value: &Bytes) {
    out.push(if op == Op::Store { b"ms " } else { b"md " });
    out.push(prefix.as_bytes());
    out.push_number(id);
    if op == Op::Store {
        out.push(b" ");
        out.push_number(value.len() as u64);
    }
    out.push(flags);
    if op == Op::Store {
        out.push_value(value);
        out.push(b"\r\n");
    }
}

fn redis_set(out: &mut Outbox, prefix: &str, id: u64, value: &Bytes) {
    out.push(b"*3\r\n$3\r\nSET\r\n");
    redis_key(out, prefix, id);
    redis_value(out, value);
}

fn redis_key(out: &mut Outbox, prefix: &str, id: u64) {
    let (digits, length) = decimal(id);
    out.push(b"$");
    out.push_number((prefix.len() + length) as u64);
    out.push(b"\r\n");
    out.push(prefix.as_bytes());
    out.push(&digits[..length]);
    out.push(b"\r\n");
}

pub(super) fn redis_value(out: &mut Outbox, value: &Bytes) {
    out.push(b"$");
    out.push_number(value.len() as u64);
    out.push(b"\r\n");
    out.push_value(value);
    out.push(b"\r\n");
}

/// One command for a batch, and the line that answers it.
fn list<'a>(
    out: &mut Outbox,
    op: Op,
    prefix: &str,
    batch: Batch,
    value: impl Fn(u64) -> &'a Bytes,
) -> Vec<u8> {
    if op == Op::Delete {
        out.push(&command(&["LTRIM", prefix, &batch.count.to_string(), "-1"]));
        return b"+OK".to_vec();
    }
    out.push(b"*");
    out.push_number(batch.count + 2);
    out.push(b"\r\n$5\r\nRPUSH\r\n$");
    out.push_number(prefix.len() as u64);
    out.push(b"\r\n");
    out.push(prefix.as_bytes());
    out.push(b"\r\n");
    (batch.first..batch.first + batch.count).for_each(|id| redis_value(out, value(id)));
    format!(":{}", batch.held).into_bytes()
}

/// A command of Redis.
pub(super) fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(dialect: Dialect, op: Op, count: u64) -> (String, Answers) {
        let mut out = Outbox::default();
        let value = Bytes::from_static(b"mail");
        let batch = Batch { op, first: 9, count, held: 5 };
        let answers = dialect.ask(&mut out, "k", batch, |_| &value);
        let mut slices: [&[u8]; 8] = [&[]; 8];
        let filled = out.peek(&mut slices);
        (String::from_utf8(slices[..filled].concat()).unwrap(), answers)
    }

    #[test]
    fn memcached_answers_each_request_unless_it_is_quiet() {
        let each = Answers { each: (2, b"HD"), last: None };
        let store = "ms k9 4\r\nmail\r\nms k10 4\r\nmail\r\n";
        assert_eq!(asked(Dialect::Memcached, Op::Store, 2), (store.into(), each.clone()));
        assert_eq!(asked(Dialect::Memcached, Op::Delete, 2), ("md k9\r\nmd k10\r\n".into(), each));
        let marker = Answers { each: (0, b""), last: Some(b"MN".to_vec()) };
        let quiet = "ms k9 4 q\r\nmail\r\nms k10 4 q\r\nmail\r\nmn\r\n";
        assert_eq!(asked(Dialect::MemcachedQuiet, Op::Store, 2), (quiet.into(), marker.clone()));
        let quiet = "md k9 q\r\nmd k10 q\r\nmn\r\n";
        assert_eq!(asked(Dialect::MemcachedQuiet, Op::Delete, 2), (quiet.into(), marker));
    }

    #[test]
    fn redis_answers_each_and_for_replicas_the_batch() {
        let set = "*3\r\n$3\r\nSET\r\n$2\r\nk9\r\n$4\r\nmail\r\n";
        let (text, answers) = asked(Dialect::Redis, Op::Store, 1);
        assert_eq!((text.as_str(), answers.each), (set, (1, &b"+OK"[..])));
        let (text, answers) = asked(Dialect::RedisReplicated { replicas: 2 }, Op::Store, 1);
        assert_eq!(text, format!("{set}*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$5\r\n10000\r\n"));
        assert_eq!(answers, Answers { each: (1, b"+OK"), last: Some(b":2".to_vec()) });
        let (text, answers) = asked(Dialect::Redis, Op::Delete, 1);
        assert_eq!(text, "*2\r\n$3\r\nDEL\r\n$2\r\nk9\r\n");
        assert_eq!(answers.each, (1, &b":1"[..]));
    }

    #[test]
    fn a_list_takes_a_batch_by_one_command_and_says_how_many_it_holds() {
        let (text, answers) = asked(Dialect::RedisList, Op::Store, 2);
        assert_eq!(text, "*4\r\n$5\r\nRPUSH\r\n$1\r\nk\r\n$4\r\nmail\r\n$4\r\nmail\r\n");
        assert_eq!(answers.last, Some(b":5".to_vec()));
        let (text, answers) = asked(Dialect::RedisList, Op::Delete, 2);
        assert_eq!(text, "*4\r\n$5\r\nLTRIM\r\n$1\r\nk\r\n$1\r\n2\r\n$2\r\n-1\r\n");
        assert_eq!(answers.last, Some(b"+OK".to_vec()));
    }
}
