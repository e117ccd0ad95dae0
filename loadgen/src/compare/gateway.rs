//! The contest of the gateways: mail relayed from a client to a sink.

use super::document::{cell, figure, times};
use super::spread::{self, Better};
use super::{Chart, Comparison, Contender, Family, Headline, Part, Role, Spread, Table};

const FAMILY: Family = Family::Gateway;

/// A workload of the closed loop.
type Conditions = [(&'static str, String); 4];

pub(super) fn part(comparison: &Comparison, headlines: &mut Vec<Headline>) -> Option<Part> {
    comparison.runs.iter().find(|run| run.family == FAMILY)?;
    let intro = vec![
        "Mail from one client through the gateway to one sink, all on the same cores. A message counts when it has reached \
         the sink unaltered. Ours answers 250 when three machines have the message: its CPU time is that of the gateway and \
         of both backup servers together, and apart below. The peers keep one copy. The ceiling is the client sending \
         to the sink with nothing between."
            .into(),
        "Closed loop: every session sends its next message when the one before is answered. Open loop: messages are due on a \
         fixed grid, whether or not earlier ones were answered. Latency is from the final dot to the 250."
            .into(),
    ];
    let mut part = Part { title: "Gateways: mail relayed".into(), intro, ..Part::default() };
    let workloads = workloads(comparison);
    part.tables.push(closed(
        comparison,
        &workloads,
        "relayed_per_s",
        "Relayed end to end, messages a second",
    ));
    part.tables.push(closed(
        comparison,
        &workloads,
        "accepted_per_s",
        "Accepted (250), messages a second",
    ));
    let title = "CPU time of the relay, all its processes, microseconds a message";
    part.tables.push(closed(comparison, &workloads, "cpu_relay_us", title));
    let title = "CPU time of everything (relay, client, sink), microseconds a message";
    part.tables.push(closed(comparison, &workloads, "cpu_total_us", title));
    part.tables.push(shares(comparison, &workloads));
    let title = "Final dot to 250 in the closed loop, p99, microseconds";
    part.tables.push(closed(comparison, &workloads, "dot_p99_us", title));
    if !workloads.is_empty() {
        part.charts.push(chart(comparison, &workloads));
    }
    for workload in &workloads {
        add_headlines(comparison, workload, headlines);
    }
    open_loop(comparison, &mut part, headlines);
    Some(part)
}

/// Those of the closed loop, in the order in which they were run.
fn workloads(comparison: &Comparison) -> Vec<Conditions> {
    let mut found: Vec<Conditions> = Vec::new();
    for run in comparison.runs.iter().filter(|run| run.family == FAMILY) {
        let of = |name: &str| run.conditions.get(name).cloned().unwrap_or_default();
        let workload = [
            ("loop", of("loop")),
            ("mix", of("mix")),
            ("sessions", of("sessions")),
            ("connections", of("connections")),
        ];
        if workload[0].1 == "closed" && !found.contains(&workload) {
            found.push(workload);
        }
    }
    found
}

fn words(workload: &Conditions) -> String {
    let [_, (_, mix), (_, sessions), (_, connections)] = workload;
    format!("{mix}, {sessions} sessions, {connections}")
}

fn measured(
    comparison: &Comparison,
    name: &str,
    workload: &Conditions,
    what: &str,
) -> Option<Spread> {
    let conditions: Vec<(&str, &str)> =
        workload.iter().map(|(name, value)| (*name, value.as_str())).collect();
    comparison.spread(FAMILY, name, &conditions, what)
}

fn best(
    comparison: &Comparison,
    role: Role,
    value: impl Fn(&str) -> Option<Spread>,
    better: Better,
) -> Option<(&Contender, Spread)> {
    let contenders = comparison.present(FAMILY).filter(|contender| contender.role == role);
    let values = contenders.filter_map(|contender| Some((contender, value(&contender.name)?)));
    spread::best(values, better)
}

fn closed(comparison: &Comparison, workloads: &[Conditions], what: &str, title: &str) -> Table {
    let better = if what.ends_with("per_s") { Better::More } else { Better::Less };
    let names: Vec<&Contender> = comparison.present(FAMILY).collect();
    let mut head = vec!["workload".to_string()];
    head.extend(names.iter().map(|contender| contender.name.clone()));
    head.push("ours to the best peer".into());
    head.push("ours to the ceiling".into());
    let row = |workload: &Conditions| {
        let value = |name: &str| measured(comparison, name, workload, what);
        let mut row = vec![words(workload)];
        row.extend(names.iter().map(|contender| cell(value(&contender.name))));
        let of = |role| best(comparison, role, value, better).map(|(_, spread)| spread);
        let ours = of(Role::Ours);
        for other in [of(Role::Peer), of(Role::Ceiling)] {
            row.push(ours.zip(other).map_or_else(|| "–".into(), |(a, b)| times(a.over(b))));
        }
        row
    };
    Table { title: title.into(), head, rows: workloads.iter().map(row).collect() }
}

/// What of our CPU time is replication's: the backup servers', program by program.
fn shares(comparison: &Comparison, workloads: &[Conditions]) -> Table {
    let mut rows = Vec::new();
    for contender in comparison.present(FAMILY) {
        let mut programs: Vec<&str> = comparison
            .good_runs(FAMILY)
            .filter(|run| run.contender == contender.name)
            .flat_map(|run| run.figures.keys())
            .filter_map(|name| name.strip_prefix("cpu_of_"))
            .collect();
        programs.sort_unstable();
        programs.dedup();
        for program in programs {
            let mut row = vec![format!("{}: {}", contender.name, program.trim_end_matches("_us"))];
            let figure = format!("cpu_of_{program}");
            row.extend(
                workloads.iter().map(|w| cell(measured(comparison, &contender.name, w, &figure))),
            );
            rows.push(row);
        }
    }
    let mut head = vec!["program".to_string()];
    head.extend(workloads.iter().map(words));
    let title =
        "CPU time by program, microseconds a message (kvs: what replication costs at the backups)";
    Table { title: title.into(), head, rows }
}

fn chart(comparison: &Comparison, workloads: &[Conditions]) -> Chart {
    let line = |contender: &Contender| {
        let at = |w: &Conditions| measured(comparison, &contender.name, w, "relayed_per_s");
        (contender.name.clone(), workloads.iter().map(at).collect())
    };
    Chart {
        title: "Relayed end to end, by workload".into(),
        x: "workload".into(),
        y: "messages a second".into(),
        steps: workloads.iter().map(words).collect(),
        lines: comparison.present(FAMILY).map(line).collect(),
        logarithmic: true,
    }
}

fn add_headlines(comparison: &Comparison, workload: &Conditions, headlines: &mut Vec<Headline>) {
    let [_, (_, mix), _, (_, connections)] = workload;
    if !mix.starts_with("70:1k") || connections != "reused" {
        return;
    }
    let relayed = |name: &str| measured(comparison, name, workload, "relayed_per_s");
    let ours = best(comparison, Role::Ours, relayed, Better::More);
    let peer = best(comparison, Role::Peer, relayed, Better::More);
    if let (Some((_, ours)), Some((peer, theirs))) = (ours, peer) {
        headlines.push(Headline {
            what: format!("Mail relayed end to end, {}", words(workload)),
            ours: format!("{} a second, three copies", figure(ours)),
            theirs: format!("{}: {} a second, one copy", peer.name, figure(theirs)),
            ratio: ours.over(theirs),
        });
    }
}

/// Latency at fixed rates, as far as a contender keeps up.
fn open_loop(comparison: &Comparison, part: &mut Part, headlines: &mut Vec<Headline>) {
    let rates = comparison.values(FAMILY, "rate");
    if rates.is_empty() {
        return;
    }
    let at = |name: &str, rate: &str, what: &str| {
        comparison.spread(FAMILY, name, &[("loop", "open"), ("rate", rate)], what)
    };
    for (what, title) in [
        ("dot_mean_us", "mean"),
        ("dot_p50_us", "p50"),
        ("dot_p99_us", "p99"),
        ("dot_p999_us", "p99.9"),
    ] {
        let mut head = vec!["offered a second".to_string()];
        head.extend(comparison.present(FAMILY).map(|contender| contender.name.clone()));
        let row = |rate: &String| {
            let mut row = vec![rate.clone()];
            row.extend(comparison.present(FAMILY).map(|c| cell(at(&c.name, rate, what))));
            row
        };
        let rows = rates.iter().map(row).collect();
        let title =
            format!("Open loop: final dot to 250, {title}, microseconds (–: did not keep up)");
        part.tables.push(Table { title, head, rows });
    }
    for (what, title) in [("dot_p50_us", "p50"), ("dot_p99_us", "p99")] {
        let line = |contender: &Contender| {
            let values = rates.iter().map(|rate| at(&contender.name, rate, what));
            (contender.name.clone(), values.collect())
        };
        part.charts.push(Chart {
            title: format!("Final dot to 250 by offered rate, {title}"),
            x: "offered a second".into(),
            y: "microseconds".into(),
            lines: comparison.present(FAMILY).map(line).collect(),
            steps: rates.clone(),
            logarithmic: true,
        });
    }
    // The highest rate at which both we and a peer keep up.
    let common = rates.iter().filter(|rate| rate.parse::<f64>().is_ok()).rev().find_map(|rate| {
        let mean = |name: &str| at(name, rate, "dot_mean_us");
        let ours = best(comparison, Role::Ours, mean, Better::Less)?;
        let peer = best(comparison, Role::Peer, mean, Better::Less)?;
        Some((rate, ours.1, peer))
    });
    if let Some((rate, ours, (peer, theirs))) = common {
        headlines.push(Headline {
            what: format!("Final dot to 250, mean, {rate} messages a second offered (the most that a peer keeps up with)"),
            ours: format!("{} µs", figure(ours)),
            theirs: format!("{}: {} µs", peer.name, figure(theirs)),
            ratio: theirs.over(ours),
        });
    }
}
