//! A comparison that is made up, and what is read of it.

use super::*;

pub(super) fn run(
    family: Family,
    contender: &str,
    conditions: &[(&str, &str)],
    round: u32,
    figures: &[(&str, f64)],
) -> Run {
    Run {
        family,
        contender: contender.into(),
        conditions: conditions
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
        round,
        figures: figures.iter().map(|(name, value)| ((*name).into(), *value)).collect(),
        command: "loadgen kvs".into(),
        failure: None,
    }
}

fn contender(family: Family, name: &str, role: Role) -> Contender {
    Contender {
        family,
        name: name.into(),
        role,
        version: "1".into(),
        setup: "as <it> comes".into(),
        missing: None,
    }
}

/// Rounds of two stores at two depths.
pub(super) fn stores(ours: [f64; 2], theirs: [f64; 2]) -> Comparison {
    let mut comparison = Comparison::default();
    let family = Family::Kvs;
    comparison.contenders =
        vec![contender(family, "us", Role::Ours), contender(family, "them", Role::Peer)];
    for (name, rates) in [("us", ours), ("them", theirs)] {
        for (round, rate) in (1..).zip(rates) {
            for (depth, factor) in [("1", 0.1), ("16", 1.0)] {
                let conditions = [("waiting", "sleeping"), ("size", "1k"), ("depth", depth)];
                let figures = [("rate", rate * factor), ("store_p50_us", 1e5 / rate)];
                comparison.runs.push(run(family, name, &conditions, round, &figures));
            }
        }
    }
    comparison
}

#[test]
fn the_best_depths_are_compared() {
    let document = Document::of(&stores([3000.0, 3300.0], [1000.0, 1100.0]));
    let headline = &document.headlines[0];
    assert_eq!(headline.standing(), Standing::Ahead);
    assert!((headline.ratio.median - 3.0).abs() < 1e-9, "{headline:?}");
    assert!((headline.ratio.low - 3000.0 / 1100.0).abs() < 1e-9);
    assert!(headline.theirs.starts_with("them: 1,050"), "{headline:?}");
    // Less time is better: the ratio is above 1 all the same.
    assert!(document.headlines[1].ratio.median > 1.0, "{:?}", document.headlines[1]);
}

#[test]
fn nobody_is_ahead_where_rounds_overlap_and_we_are_behind_where_they_are_better() {
    let level = Document::of(&stores([1000.0, 1200.0], [1100.0, 1000.0]));
    assert_eq!(level.headlines[0].standing(), Standing::Level);
    let behind = Document::of(&stores([800.0, 900.0], [1000.0, 1100.0]));
    assert_eq!(behind.headlines[0].standing(), Standing::Behind);
    assert!(behind.to_html().contains("class=\"headline behind\""));
}

#[test]
fn runs_that_failed_count_for_nothing_and_are_named() {
    let mut comparison = stores([3000.0, 3000.0], [1000.0, 1000.0]);
    let mut wrong = comparison.runs[5].clone();
    wrong.figures.insert("rate".into(), 1e9);
    wrong.failure = Some("the server answered \"ERROR\"".into());
    comparison.runs.push(wrong);
    let document = Document::of(&comparison);
    assert!((document.headlines[0].ratio.median - 3.0).abs() < 1e-9);
    assert!(document.to_markdown().contains("the server answered \"ERROR\""));
}

#[test]
fn who_is_missing_is_named_and_text_does_not_become_markup() {
    let mut comparison = stores([3000.0, 3000.0], [1000.0, 1000.0]);
    let mut absent = contender(Family::Kvs, "absent", Role::Peer);
    absent.missing = Some("it is not installed".into());
    comparison.contenders.push(absent);
    let document = Document::of(&comparison);
    let (html, markdown) = (document.to_html(), document.to_markdown());
    for text in [&html, &markdown] {
        assert!(text.contains("left out: it is not installed"));
    }
    assert!(html.contains("as &lt;it&gt; comes") && !html.contains("as <it> comes"));
    assert!(!html.contains("http"), "a page needs nothing from elsewhere");
    assert!(html.contains("<svg") && html.contains("<polyline"));
}

#[test]
fn the_json_holds_everything() {
    let comparison = stores([3000.0, 3000.0], [1000.0, 1000.0]);
    let text = serde_json::to_string(&comparison).unwrap();
    let again: Comparison = serde_json::from_str(&text).unwrap();
    assert_eq!(Document::of(&again).to_html(), Document::of(&comparison).to_html());
}

#[test]
fn gateways_recovery_and_links_are_shown_too() {
    let mut comparison = Comparison::default();
    let relayed = [
        ("relayed_per_s", 1000.0),
        ("cpu_of_kvs_us", 7.0),
        ("dot_mean_us", 50.0),
        ("dot_p99_us", 90.0),
    ];
    for (name, role, factor) in [("us", Role::Ours, 10.0), ("them", Role::Peer, 1.0)] {
        for family in [Family::Gateway, Family::Recovery, Family::Transports] {
            comparison.contenders.push(contender(family, name, role));
        }
        let closed = [
            ("loop", "closed"),
            ("mix", "70:1k,30:10k"),
            ("sessions", "10"),
            ("connections", "reused"),
        ];
        let open = [("loop", "open"), ("rate", "300")];
        let scaled = relayed.map(|(name, value)| (name, value * factor));
        comparison.runs.push(run(Family::Gateway, name, &closed, 1, &scaled));
        comparison.runs.push(run(Family::Gateway, name, &open, 1, &scaled));
        let blocks = [("block", "100"), ("messages", "500000")];
        comparison.runs.push(run(Family::Recovery, name, &blocks, 1, &[("whole_s", factor)]));
        let links = [("mtu", "1500"), ("size", "1k"), ("depth", "32")];
        comparison.runs.push(run(Family::Transports, name, &links, 1, &[("rate", 5.0)]));
    }
    let document = Document::of(&comparison);
    let titles: Vec<&str> = document.parts.iter().map(|part| part.title.as_str()).collect();
    assert_eq!(titles.len(), 4, "{titles:?}");
    let headlines: Vec<_> =
        document.headlines.iter().map(|h| (h.standing(), h.ratio.median)).collect();
    // Mail ten times, latency and recovery a tenth.
    assert_eq!(
        headlines,
        [(Standing::Ahead, 10.0), (Standing::Behind, 0.1), (Standing::Behind, 0.1)]
    );
    assert!(document.to_markdown().contains("us: kvs"));
}

#[test]
fn steps_are_named_below_a_chart_or_numbered_where_there_are_too_many() {
    let chart = |workloads: usize| Chart {
        title: "relayed".into(),
        x: "workload".into(),
        y: "a second".into(),
        steps: (0..workloads).map(|n| format!("70:1k,30:10k, {n} sessions, reused")).collect(),
        lines: vec![("us".into(), vec![None; workloads])],
        logarithmic: true,
    };
    let svg = chart(6).to_svg();
    for text in [">70:1k,30:10k</text>", ">5 sessions</text>", ">reused</text>"] {
        assert!(svg.contains(text), "{text}");
    }
    let svg = chart(12).to_svg();
    assert!(svg.contains(">row 12</text>") && !svg.contains("sessions"));
}
