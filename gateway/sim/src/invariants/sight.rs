//! The world in plain numbers, as the checks see it.

use gateway::message::QueueIndex;
use gateway::replication::record::Record;
use kvs_proto::body::QueueName;
use kvs_proto::{Epoch, Incarnation, Sequence, Transaction};

use crate::check::CopyNumbers;
use crate::gateways::{PLACES, Running};
use crate::plan::Node;
use crate::scenario::SERVER_NAMES;
use crate::world::World;

/// A copy of a queue at a server that is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopySight {
    /// Which queue, by its place.
    pub queue: usize,
    /// Where.
    pub server: usize,
    /// Which life of the server.
    pub life: Incarnation,
    /// Which backup queue of that life: one that is dropped and made anew is another.
    pub uid: u32,
    /// The record names this life of the server: the copy counts.
    pub counts: bool,
    /// Its numbers.
    pub numbers: CopyNumbers,
    /// The last sequence number used up in its epoch.
    pub last_sequence: Sequence,
    /// From here on its last operations are known.
    pub known_after: Transaction,
    /// It refused a change, and its owner may not know yet.
    pub has_refused: bool,
}

/// A queue at a gateway, and what its record says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct QueueSight {
    /// Which life of the gateway; `None`: it is down.
    pub life: Option<u64>,
    /// Its process takes turns.
    pub is_awake: bool,
    /// This gateway's epoch.
    pub epoch: Epoch,
    /// The record has that epoch: the gateway is the owner.
    pub is_owner: bool,
    /// It is in service.
    pub is_open: bool,
    /// Clients are told that it accepts.
    pub is_accepting: bool,
    /// Changes up to this one are committed.
    pub committed: Transaction,
    /// Changes made.
    pub head: Transaction,
    /// Copies that must have answered.
    pub min_sync: usize,
    /// The record names the queue.
    pub is_recorded: bool,
    /// Servers that the record names.
    pub recorded: usize,
    /// Those that join by its record, and make up for members that lack.
    pub joining: usize,
    /// Those of them that are up, in the life that is recorded.
    pub live: usize,
    /// The server whose copy it is being read from; whether the record names it.
    pub source: Option<(usize, bool)>,
}

/// What holds memory, and how much.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct MemorySight {
    /// How many gateways have been started so far.
    pub life: i64,
    /// Of each gateway: bytes left, and its budget.
    pub gateways: Vec<(i64, i64)>,
    /// Of each queue there that has its first bounds: messages and bytes left, and the bounds.
    pub queues: Vec<((i64, i64), (i64, i64))>,
    /// Of each server: bytes of live messages and bytes in all; messages and their bound.
    pub servers: Vec<((u64, u64), (u64, u64))>,
}

/// Looks at all copies, and at all queues of each gateway, by its place.
pub(super) fn see(
    world: &World,
    copies: &mut Vec<CopySight>,
    gateways: &mut [Vec<QueueSight>; PLACES],
) {
    copies.clear();
    gateways.iter_mut().for_each(Vec::clear);
    for (place, settings) in world.scenario().settings.queues.iter().enumerate() {
        let mut records = world.register().records().map(|(_, record)| record);
        let record = records.find(|record| record.queues.iter().any(|it| **it == *settings.name));
        let mut live = 0;
        let names = SERVER_NAMES.iter().enumerate().take(world.scenario().servers);
        for (server, name) in names {
            let Some(host) = world.server(server) else { continue };
            let recorded = record.and_then(|it| it.incarnation_of(name));
            let counts = recorded == Some(host.incarnation);
            live += usize::from(counts);
            if let Some(sight) = see_copy(world, place, server, counts) {
                copies.push(sight);
            }
        }
        let sight = QueueSight {
            min_sync: world.scenario().settings.policy.min_sync,
            is_recorded: record.is_some(),
            recorded: record.map_or(0, |it| it.members.len()),
            joining: record.map_or(0, |it| it.joining.len()),
            live,
            ..QueueSight::default()
        };
        for (at, queues) in gateways.iter_mut().enumerate() {
            let mut sight = sight;
            if let Some(gateway) = world.gateway_at(at) {
                sight.is_awake = world.is_awake(Node::Gateway(at));
                see_queue(gateway, place, record, &mut sight);
            }
            queues.push(sight);
        }
    }
}

fn see_queue(gateway: &Running, place: usize, record: Option<&Record>, sight: &mut QueueSight) {
    let index = QueueIndex(u32::try_from(place).expect("few queues"));
    let unit = gateway.host.unit(index);
    sight.life = Some(gateway.life);
    sight.epoch = gateway.host.epoch(index);
    sight.is_owner = record.is_some_and(|record| record.epoch == sight.epoch);
    sight.is_open = unit.is_open();
    sight.is_accepting = gateway.host.board().is_accepting(index);
    sight.committed = unit.committed();
    sight.head = unit.queue.log().head();
    let is_recorded =
        |it: usize| record.is_some_and(|record| record.incarnation_of(SERVER_NAMES[it]).is_some());
    let source = unit.recovers_from().map(|member| gateway.host.server_of(index, member));
    sight.source = source.map(|it| (it, is_recorded(it)));
}

/// Looks at the copy of a queue at a server; whether it `counts` is the caller's to know.
pub(crate) fn see_copy(
    world: &World,
    queue: usize,
    server: usize,
    counts: bool,
) -> Option<CopySight> {
    let host = world.server(server)?;
    let table = host.worker.table();
    let name = QueueName::parse(world.copy_name(queue).as_bytes())?;
    let copy = table.peek(name)?;
    let attached = copy.attached(table.arena(), 0);
    Some(CopySight {
        queue,
        server,
        life: host.incarnation,
        uid: copy.uid().0,
        counts,
        numbers: CopyNumbers {
            epoch: copy.epoch(),
            transaction: copy.transaction(),
            chain: attached.chain,
            content: attached.content,
            messages: attached.messages,
        },
        last_sequence: copy.last_sequence(),
        known_after: copy.operations_known_after(),
        has_refused: copy.has_refused(),
    })
}

/// Looks at all budgets.
pub(super) fn memory(world: &World) -> MemorySight {
    let mut sight = MemorySight::default();
    for server in (0..world.scenario().servers).filter_map(|it| world.server(it)) {
        let arena = server.worker.table().arena();
        let (messages, bytes) = arena.live();
        let bound = world.scenario().server.messages_max as u64;
        sight.servers.push(((bytes, arena.size_bytes() as u64), (messages, bound)));
    }
    for gateway in world.gateways() {
        sight.life = sight.life.max(gateway.life.cast_signed());
        let board = gateway.host.board();
        let settings = &world.scenario().settings;
        let total = i64::try_from(settings.memory_bytes).expect("a budget below 2^63");
        sight.gateways.push((board.bytes_left(), total));
        for (index, bounds) in (0..).zip(settings.bounds()) {
            if !world.was_reloaded(index as usize) {
                sight.queues.push((board.left(QueueIndex(index)), bounds));
            }
        }
    }
    sight
}
