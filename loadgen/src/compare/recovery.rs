//! The contest of recovery: everything read back in blocks.

use super::document::{cell, figure, times};
use super::spread::{self, Better};
use super::{Chart, Comparison, Contender, Family, Headline, Part, Role, Spread, Table};

const FAMILY: Family = Family::Recovery;

pub(super) fn part(comparison: &Comparison, headlines: &mut Vec<Headline>) -> Option<Part> {
    comparison.runs.iter().find(|run| run.family == FAMILY)?;
    let blocks = comparison.values(FAMILY, "block");
    let messages = comparison.values(FAMILY, "messages").join(", ");
    let at =
        |name: &str, block: &str| comparison.spread(FAMILY, name, &[("block", block)], "whole_s");
    let names: Vec<&Contender> = comparison.present(FAMILY).collect();
    let mut head = vec!["messages in a block".to_string()];
    head.extend(names.iter().map(|contender| contender.name.clone()));
    head.push("ours to the best peer".into());
    let best = |role: Role, block: &str| {
        let values = names.iter().filter(|contender| contender.role == role);
        let values = values.filter_map(|contender| Some((*contender, at(&contender.name, block)?)));
        spread::best(values, Better::Less)
    };
    let row = |block: &String| {
        let mut row = vec![block.clone()];
        row.extend(names.iter().map(|contender| cell(at(&contender.name, block))));
        let both = best(Role::Ours, block).zip(best(Role::Peer, block));
        row.push(both.map_or_else(|| "–".into(), |((_, a), (_, b))| times(b.over(a))));
        row
    };
    let rows = blocks.iter().map(row).collect();
    let title = format!("Seconds to read {messages} messages of 1 KB");
    let table = Table { title: title.clone(), head, rows };
    let line = |contender: &&Contender| {
        let values = blocks.iter().map(|block| at(&contender.name, block)).collect();
        (contender.name.clone(), values)
    };
    let chart = Chart {
        title,
        x: "messages in a block".into(),
        y: "seconds".into(),
        lines: names.iter().map(line).collect(),
        steps: blocks.clone(),
        logarithmic: true,
    };
    let of = |role: Role| -> Option<(&Contender, Spread)> {
        let values = blocks.iter().filter_map(|block| best(role, block));
        spread::best(values, Better::Less)
    };
    if let (Some((_, ours)), Some((peer, theirs))) = (of(Role::Ours), of(Role::Peer)) {
        headlines.push(Headline {
            what: format!("Recovery of {messages} messages of 1 KB, best block size"),
            ours: format!("{} s", figure(ours)),
            theirs: format!("{}: {} s", peer.name, figure(theirs)),
            ratio: theirs.over(ours),
        });
    }
    let intro = "A queue is filled, the client leaves, comes back by a new connection, and reads everything in blocks, the next \
                 when the one before is there. Ours begins with taking the queue over, and every message is compared with what was \
                 stored. Small blocks read only the beginning; the time for all is reckoned from that part.";
    Some(Part {
        title: "Recovery".into(),
        intro: vec![intro.into()],
        charts: vec![chart],
        tables: vec![table],
    })
}
