//! A snapshot as a table for people.

use std::fmt::Write;

use super::{
    CopyState, QueueStatus, RegisterStatus, SenderState, SenderStatus, ServiceState, Snapshot,
    links,
};
use crate::link::PathState;

const TITLES: [&str; 13] = [
    "QUEUE",
    "MESSAGES",
    "SERVICE",
    "EPOCH",
    "RECORD",
    "KVS",
    "PATH",
    "STANDBY",
    "STATE",
    "TRANSACTION",
    "LAG",
    "LAG BYTES",
    "OLDEST",
];

/// Columns that hold numbers, which stand to the right.
const RIGHT: [bool; 13] =
    [false, true, false, true, true, false, false, false, false, true, true, true, true];

/// What stands where there is nothing to say.
const NOTHING: &str = "-";

/// The table, with a head of some lines.
pub fn text(snapshot: &Snapshot) -> String {
    let mut text = head(snapshot);
    let mut rows = vec![TITLES.map(String::from)];
    rows.extend(snapshot.queues.iter().flat_map(rows_of));
    let mut widths = [0; TITLES.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &rows {
        let mut line = String::new();
        for ((cell, width), right) in row.iter().zip(widths).zip(RIGHT) {
            let _ = match right {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn head(snapshot: &Snapshot) -> String {
    let about = &snapshot.gateway;
    let mut accepted = 0;
    let mut delivered = 0;
    let mut deferred = 0;
    let mut sessions = 0;
    let mut cohorts = crate::replication::cohort::CohortCounters::default();
    for worker in &snapshot.counters {
        if let Some(front) = &worker.front {
            accepted += front.reception.accepted;
            sessions += front.reception.sessions;
            delivered += front.delivery.delivered;
            deferred += front.delivery.deferred;
        }
        if let Some(shard) = &worker.shard {
            cohorts.isolations += shard.cohorts.isolations;
            cohorts.fills += shard.cohorts.fills;
        }
    }
    let queued = snapshot.queues.iter().map(|it| it.messages).sum::<u64>();
    let well = snapshot.queues.iter().filter(|it| it.is_well()).count();
    let running = snapshot.unix_ms.saturating_sub(about.started_unix_ms);
    let mut text = format!(
        "gateway {} {} (process {}), running for {}, register {}\n\
         {sessions} sessions, {accepted} messages accepted, {queued} queued; recipients: {delivered} \
         delivered, {deferred} deferred\n\
         copies: {} isolated, {} filled; {well} of {} queues have all of theirs\n",
        about.name,
        about.version,
        about.process,
        duration(running),
        about.register,
        cohorts.isolations,
        cohorts.fills,
        snapshot.queues.len(),
    );
    text.push_str(&links::text(&about.links, &snapshot.counters));
    for server in snapshot.servers.iter().filter(|it| it.is_drained) {
        let (kvs, left) = (&server.kvs, server.copies + server.joining);
        let _ = match (left, server.cannot_move) {
            (0, _) if !snapshot.silent_workers.is_empty() => Ok(()),
            (0, _) => writeln!(text, "{kvs} is drained: it has no copies, and may be taken away"),
            (_, 0) => {
                writeln!(text, "{kvs} is being drained: copies of {left} queues are left there")
            }
            (_, stuck) => writeln!(
                text,
                "{kvs} is being drained: copies of {left} queues are left there, AND NO SERVER CAN TAKE THOSE OF \
                 {stuck}"
            ),
        };
    }
    if snapshot.is_starting {
        text.push_str(
            "STARTING: it waits for the register, or for a sender program that has its queues\n",
        );
    }
    if let Some(sender) = &snapshot.sender {
        text.push_str(&sender_line(sender));
    }
    for worker in &snapshot.silent_workers {
        let _ = writeln!(text, "WORKER {worker} DOES NOT ANSWER: its queues are missing here");
    }
    text.push('\n');
    text
}

fn sender_line(sender: &SenderStatus) -> String {
    let mut text = format!("sender program beside {}: ", sender.beside);
    text.push_str(match sender.state {
        SenderState::StandingBy => "stands by",
        SenderState::TakingOver => "takes over",
        SenderState::InCharge => "owns the queues",
        SenderState::Leaving => "leaves the queues",
    });
    if sender.state == SenderState::StandingBy {
        if let Some(after) = sender.takes_over_after_ms {
            let _ = write!(text, ", takes over after {} without an owner", duration(after));
        }
        let _ = match sender.owner_silent_ms {
            Some(silent) => write!(text, ", the owner was heard {} ago", duration(silent)),
            None => write!(text, ", nobody tells of an owner"),
        };
    }
    if let Some(trouble) = &sender.trouble {
        let _ = write!(text, "\nTROUBLE: {trouble}");
    }
    text + "\n"
}

/// One row for each server, whole, so that rows can be picked out of the table.
fn rows_of(queue: &QueueStatus) -> Vec<[String; 13]> {
    let or_nothing = |number: Option<u64>| number.map_or(NOTHING.into(), |it| it.to_string());
    let mut service = match queue.service {
        ServiceState::Starting => "starting",
        ServiceState::Recovering => "recovering",
        ServiceState::Settling => "settling",
        ServiceState::Creating => "creating",
        ServiceState::Open if queue.is_suspended => "suspended",
        ServiceState::Open if queue.is_accepting => "open",
        ServiceState::Open => "not accepting",
        ServiceState::Stopped => "stopped",
    }
    .to_owned();
    if queue.register == RegisterStatus::Failed {
        service.push_str(", no register");
    }
    if queue.is_resumed {
        service.push_str(", without lease");
    } else if queue.must_be_told {
        service.push_str(", no lease");
    }
    let rows = queue.copies.iter().map(|copy| {
        [
            queue.queue.clone(),
            queue.messages.to_string(),
            service.clone(),
            queue.epoch.to_string(),
            or_nothing(queue.record_version),
            copy.kvs.clone(),
            path(copy.path).into(),
            copy.standby_path.map_or(NOTHING, path).into(),
            state(copy.state).into(),
            or_nothing(copy.transaction),
            or_nothing(copy.lag_changes),
            or_nothing(copy.lag_bytes),
            copy.oldest_unanswered_ms.map_or(NOTHING.into(), duration),
        ]
    });
    rows.collect()
}

/// In the words of the paper's Table I.
fn path(state: PathState) -> &'static str {
    match state {
        PathState::Run => "run",
        PathState::Ready => "ready",
        PathState::Ng => "NG",
    }
}

fn state(state: CopyState) -> &'static str {
    match state {
        CopyState::Sync => "sync",
        CopyState::Resuming => "resuming",
        CopyState::Joining => "joining",
        CopyState::Draining => "draining",
        CopyState::Moving => "moving",
        CopyState::Drained => "drained",
        CopyState::Spare => "spare",
        CopyState::Ng => "NG",
    }
}

/// Two units at most.
fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..60 => format!("{}.{} s", seconds, milliseconds % 1000 / 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
