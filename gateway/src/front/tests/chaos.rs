//! Everything at once, from a seed: resets, short sends, clients that leave, a moody next hop and
//! a moody shard. Nothing acknowledged may be lost, and no room may leak.

use std::collections::BTreeSet;

use smtp::IllegalPipelining;

use super::shard::Mode;
use super::*;

/// Runs one seed; returns how many mails got their 250 and how many were delivered.
fn run(seed: u64) -> (usize, usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let options = SimOptions {
        reset_ppm: random.u32(0..20_000),
        split_ppm: 500_000,
        short_send_ppm: 300_000,
        window_bytes: 2_000,
        ..SimOptions::default()
    };
    let mut world = world_on(SimNetwork::new(seed, options), |config| {
        // The clients of this test say all they have to say at once.
        config.reception.trusted_rules.illegal_pipelining = IllegalPipelining::Allow;
        for destination in &mut config.delivery.destinations {
            destination.connections_max = random.u32(1..4);
            destination.pipeline_transactions = random.bool();
            destination.messages_per_connection_max = random.u32(1..10);
        }
    });
    world.shard.retries = true;
    let mut acknowledged = BTreeSet::new();
    let mut open: Vec<(ConnectionId, usize)> = Vec::new();
    for number in 0..150 {
        shake(&mut world, &mut random);
        if world.front.local_addresses().is_empty() {
            world.board.set_accepting(Q0, true);
            world.run_for(Duration::from_millis(1));
        }
        let client = world.connect();
        let size = random.usize(0..3_000);
        let second = if random.bool() { "RCPT TO:<2@b.example>\r\n" } else { "" };
        world.client.send(
            client,
            &format!(
                "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<1@a.example>\r\n{second}DATA\r\n\
                 N: {number};\r\n..{}\r\n.\r\nQUIT\r\n",
                "x\r\n".repeat(size / 3)
            ),
        );
        open.push((client, number));
        if random.u8(0..4) == 0 {
            let (leaver, _) = open.swap_remove(random.usize(0..open.len()));
            world.client.transport.abort(leaver);
        }
        world.run_for(Duration::from_millis(random.u64(0..200)));
        for (client, number) in &open {
            note(&world, *client, *number, &mut acknowledged);
        }
    }
    settle(&mut world);
    for (client, number) in &open {
        note(&world, *client, *number, &mut acknowledged);
    }
    let delivered: BTreeSet<(usize, String)> = world
        .next_hop
        .messages
        .iter()
        .flat_map(|message| {
            let number = number_of(&message.content);
            message.recipients.iter().map(move |recipient| (number, recipient.clone()))
        })
        .collect();
    let lost: Vec<_> = acknowledged.difference(&delivered).collect();
    assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
    (acknowledged.len(), delivered.len())
}

/// Notes the recipients of a mail that has got the 250 to its end of data: those accepted.
fn note<T: Transport>(
    world: &World<T>,
    client: ConnectionId,
    number: usize,
    acknowledged: &mut BTreeSet<(usize, String)>,
) {
    let replies = world.client.received(client);
    if !replies.contains("250 2.0.0 Ok: queued") {
        return;
    }
    let to_rcpt = |line: &&str| line.contains("Recipient ok") || line.contains("kept safe now");
    for (reply, recipient) in replies.lines().filter(to_rcpt).zip(["1@a.example", "2@b.example"]) {
        if reply.starts_with("250") {
            acknowledged.insert((number, recipient.to_owned()));
        }
    }
}

fn number_of(content: &str) -> usize {
    let (_, rest) = content.split_once("N: ").unwrap();
    rest.split_once(';').unwrap().0.parse().unwrap()
}

/// Changes the mood of the shard, of the switches and of the next hop.
fn shake<T: Transport>(world: &mut World<T>, random: &mut fastrand::Rng) {
    let queue = QueueIndex(random.u32(0..2));
    while !world.shard.queue(queue).waiting.is_empty() {
        if random.bool() { world.shard.commit(queue) } else { world.shard.refuse(queue) }
    }
    world.shard.queue(queue).mode =
        *random.choice(&[Mode::Commit, Mode::Commit, Mode::Wait, Mode::Refuse]).unwrap();
    world.board.set_accepting(queue, random.u8(0..8) > 0);
    let moods: [&[(&str, &str)]; 6] = [
        &[],
        &[],
        &[("greeting", "421 busy")],
        &[("RCPT", "close")],
        &[(".", "451 later")],
        &[("MAIL", "421 not now")],
    ];
    world.next_hop.rules = random.choice(moods).unwrap().to_vec();
    world.next_hop.set_listening(random.u8(0..6) > 0);
}

/// Lets everything come to its end, and checks that nothing is left over.
fn settle<T: Transport>(world: &mut World<T>) {
    world.next_hop.rules.clear();
    world.next_hop.set_listening(true);
    for queue in [Q0, Q1] {
        world.board.set_accepting(queue, true);
        world.shard.queue(queue).mode = Mode::Commit;
        while !world.shard.queue(queue).waiting.is_empty() {
            world.shard.commit(queue);
        }
    }
    world.run_until("empty queues", |world| {
        let is_empty = |queue: &super::shard::FakeQueue| {
            queue.ready.is_empty() && queue.outstanding.is_empty() && queue.held.is_empty()
        };
        world.shard.queues.iter().all(is_empty)
            && world.front.counters().reception.sessions == 0
            && world.front.counters().reception.waiting == 0
    });
    world.assert_board_is_whole();
    world.front.stop();
    world.run_until("the end", |world| world.front.is_stopped());
}

#[test]
fn nothing_is_lost_and_no_room_leaks_whatever_happens() {
    let (mut acknowledged, mut delivered) = (0, 0);
    for seed in 0..40 {
        let (more_acknowledged, more_delivered) = run(seed);
        acknowledged += more_acknowledged;
        delivered += more_delivered;
    }
    assert!(acknowledged > 500 && delivered > 500, "vacuous: {acknowledged}, {delivered}");
}
