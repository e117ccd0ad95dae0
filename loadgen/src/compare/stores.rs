//! The contest of the stores: store and delete over one connection.

use super::document::{cell, figure, times};
use super::spread::{self, Better};
use super::{Chart, Comparison, Contender, Family, Headline, Part, Role, Spread, Table};

const FAMILY: Family = Family::Kvs;

/// Ratios for the first sight; the others are in the tables.
const HEADLINE_SIZES: [&str; 3] = ["400", "1k", "4k"];

pub(super) fn part(comparison: &Comparison, headlines: &mut Vec<Headline>) -> Option<Part> {
    comparison.runs.iter().find(|run| run.family == FAMILY)?;
    let mut part = Part {
        title: "Stores: store and delete".into(),
        intro: vec![
            "One connection, one server core, the client on another one. Each message is stored, and deleted when its store \
             was acknowledged; a message counts when both are. Every contender at each depth (requests in flight); the \
             tables show the best. \"Sleeping\": client and server sleep when there is nothing to do. \"Awake\": the client \
             spins and the server's core never halts; ours spins there itself."
                .into(),
            "Ratios are to the best peer that acknowledges each message. Those that acknowledge a batch by one answer, \
             or keep three copies, are shown beside. The null server acknowledges and forgets: what TCP over loopback \
             allows this client."
                .into(),
        ],
        ..Part::default()
    };
    for waiting in comparison.values(FAMILY, "waiting") {
        part.tables.push(best_depths(comparison, &waiting, headlines));
        part.charts.push(by_size(comparison, &waiting));
        part.tables.push(unpipelined(comparison, &waiting, headlines));
        for size in comparison.values(FAMILY, "size") {
            part.charts.push(by_depth(comparison, &waiting, &size));
        }
    }
    Some(part)
}

/// The depth at which a contender stores most, and what it stores there.
fn best(
    comparison: &Comparison,
    name: &str,
    waiting: &str,
    size: &str,
) -> Option<(String, Spread)> {
    let depths = comparison.values(FAMILY, "depth");
    let measured = depths.into_iter().filter_map(|depth| {
        let conditions = [("waiting", waiting), ("size", size), ("depth", &depth)];
        let spread = comparison.spread(FAMILY, name, &conditions, "rate")?;
        Some((depth, spread))
    });
    spread::best(measured, Better::More)
}

fn best_of_role<'a>(
    comparison: &'a Comparison,
    role: Role,
    waiting: &str,
    size: &str,
) -> Option<(&'a Contender, Spread)> {
    let contenders = comparison.present(FAMILY).filter(|contender| contender.role == role);
    let measured = contenders.filter_map(|contender| {
        let (_, spread) = best(comparison, &contender.name, waiting, size)?;
        Some((contender, spread))
    });
    spread::best(measured, Better::More)
}

fn best_depths(comparison: &Comparison, waiting: &str, headlines: &mut Vec<Headline>) -> Table {
    let names: Vec<&Contender> = comparison.present(FAMILY).collect();
    let mut head = vec!["bytes".to_string()];
    head.extend(names.iter().map(|contender| contender.name.clone()));
    head.extend(["ours to the best peer".into(), "ours to the null server".into()]);
    let mut rows = Vec::new();
    for size in comparison.values(FAMILY, "size") {
        let mut row = vec![size.clone()];
        row.extend(names.iter().map(|contender| {
            best(comparison, &contender.name, waiting, &size).map_or_else(
                || "–".into(),
                |(depth, spread)| format!("{} @{depth}", figure(spread)),
            )
        }));
        let ours = best_of_role(comparison, Role::Ours, waiting, &size);
        let peer = best_of_role(comparison, Role::Peer, waiting, &size);
        let null = best_of_role(comparison, Role::Ceiling, waiting, &size);
        let ratio = |other: Option<(&Contender, Spread)>| Some(ours?.1.over(other?.1));
        row.push(ratio(peer).map_or_else(|| "–".into(), times));
        row.push(ratio(null).map_or_else(|| "–".into(), times));
        rows.push(row);
        if let (Some((_, ours)), Some((peer, theirs)), true) =
            (ours, peer, HEADLINE_SIZES.contains(&size.as_str()))
        {
            headlines.push(Headline {
                what: format!(
                    "Store and delete, {size} bytes, {waiting}, one connection, best depth"
                ),
                ours: format!("{} a second", figure(ours)),
                theirs: format!("{}: {} a second", peer.name, figure(theirs)),
                ratio: ours.over(theirs),
            });
        }
    }
    let title = format!("Messages stored and deleted a second at the best depth (@), {waiting}");
    Table { title, head, rows }
}

/// How long one store takes that nothing goes before.
fn unpipelined(comparison: &Comparison, waiting: &str, headlines: &mut Vec<Headline>) -> Table {
    let names: Vec<&Contender> = comparison.present(FAMILY).collect();
    let mut head = vec!["bytes".to_string()];
    head.extend(names.iter().map(|contender| contender.name.clone()));
    let mut rows = Vec::new();
    for size in comparison.values(FAMILY, "size") {
        let conditions = [("waiting", waiting), ("size", &size), ("depth", "1")];
        let time = |name: &str| comparison.spread(FAMILY, name, &conditions, "store_p50_us");
        let mut row = vec![size.clone()];
        row.extend(names.iter().map(|contender| cell(time(&contender.name))));
        rows.push(row);
        let of = |role| {
            let times = names.iter().filter(|c| c.role == role);
            let times = times.filter_map(|c| Some((&c.name, time(&c.name)?)));
            spread::best(times, Better::Less)
        };
        if let (Some((_, ours)), Some((name, theirs)), "1k") =
            (of(Role::Ours), of(Role::Peer), size.as_str())
        {
            headlines.push(Headline {
                what: format!("One store of 1k, nothing else in flight, {waiting}"),
                ours: format!("{} µs", figure(ours)),
                theirs: format!("{name}: {} µs", figure(theirs)),
                ratio: theirs.over(ours),
            });
        }
    }
    let title =
        format!("Microseconds until a store is acknowledged, one in flight, p50, {waiting}");
    Table { title, head, rows }
}

fn by_size(comparison: &Comparison, waiting: &str) -> Chart {
    let steps = comparison.values(FAMILY, "size");
    let line = |contender: &Contender| {
        let at = |size: &String| best(comparison, &contender.name, waiting, size).map(|(_, s)| s);
        (contender.name.clone(), steps.iter().map(at).collect())
    };
    Chart {
        title: format!("Best depth, by size, {waiting}"),
        x: "bytes of a message".into(),
        y: "a second".into(),
        lines: comparison.present(FAMILY).map(line).collect(),
        steps,
        logarithmic: true,
    }
}

fn by_depth(comparison: &Comparison, waiting: &str, size: &str) -> Chart {
    let steps = comparison.values(FAMILY, "depth");
    let line = |contender: &Contender| {
        let at = |depth: &String| {
            let conditions = [("waiting", waiting), ("size", size), ("depth", depth)];
            comparison.spread(FAMILY, &contender.name, &conditions, "rate")
        };
        (contender.name.clone(), steps.iter().map(at).collect())
    };
    Chart {
        title: format!("By depth, {size} bytes, {waiting}"),
        x: "requests in flight".into(),
        y: "a second".into(),
        lines: comparison.present(FAMILY).map(line).collect(),
        steps,
        logarithmic: true,
    }
}
