//! The ways of a link: kernel TCP and AF_XDP between two hosts.

use super::document::cell;
use super::{Chart, Comparison, Contender, Family, Headline, Part, Table};

const FAMILY: Family = Family::Transports;

pub(super) fn part(comparison: &Comparison, _: &mut Vec<Headline>) -> Option<Part> {
    comparison.runs.iter().find(|run| run.family == FAMILY)?;
    let intro = "Two hosts in network namespaces, a segment between them: a client stores and deletes messages at one KVS worker \
                 over one connection, by the kernel's TCP and by AF_XDP. On virtual interfaces the kernel hands over segments of \
                 64 KB uncut, which no card does: large messages at great depth favour it here.";
    let mut part = Part {
        title: "Links: the kernel's TCP and AF_XDP".into(),
        intro: vec![intro.into()],
        ..Part::default()
    };
    let names: Vec<&Contender> = comparison.present(FAMILY).collect();
    let depths = comparison.values(FAMILY, "depth");
    for mtu in comparison.values(FAMILY, "mtu") {
        for size in comparison.values(FAMILY, "size") {
            let at = |name: &str, depth: &str, figure: &str| {
                let conditions = [("mtu", mtu.as_str()), ("size", &size), ("depth", depth)];
                comparison.spread(FAMILY, name, &conditions, figure)
            };
            let row = |(contender, depth): (&&Contender, &String)| {
                let mut row = vec![contender.name.clone(), depth.clone()];
                row.extend(FIGURES.map(|(figure, _)| cell(at(&contender.name, depth, figure))));
                row
            };
            let pairs = names.iter().flat_map(|c| depths.iter().map(move |depth| (c, depth)));
            let mut head = vec!["way".to_string(), "depth".into()];
            head.extend(FIGURES.map(|(_, words)| words.to_string()));
            let title = format!("{size} bytes, MTU {mtu}");
            part.tables.push(Table { title: title.clone(), head, rows: pairs.map(row).collect() });
            let line = |contender: &&Contender| {
                let values = depths.iter().map(|depth| at(&contender.name, depth, "rate"));
                (contender.name.clone(), values.collect())
            };
            part.charts.push(Chart {
                title,
                x: "requests in flight".into(),
                y: "a second".into(),
                steps: depths.clone(),
                lines: names.iter().map(line).collect(),
                logarithmic: true,
            });
        }
    }
    Some(part)
}

const FIGURES: [(&str, &str); 7] = [
    ("rate", "stored and deleted a second"),
    ("store_p50_us", "store p50, µs"),
    ("store_p99_us", "p99, µs"),
    ("cpu_client_us", "client's CPU, µs a message"),
    ("cpu_server_us", "server's"),
    ("calls_client", "client's system calls a message"),
    ("calls_server", "server's"),
];
