//! The contest of transports: setup/links.sh measures it between hosts of its own; here its figures are taken in.

use std::collections::BTreeMap;

use loadgen::compare::{Contender, Family, Role, Run};
use serde_json::Value;

use super::super::Failure;
use super::client::figure;
use super::{Bench, missing};

pub(super) fn take(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let Some(path) = &bench.options.links else {
        let why = "setup/links.sh was not run".to_string();
        bench.comparison.contenders.push(missing(Family::Transports, "links", Role::Ours, why));
        return Ok(());
    };
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines: Vec<Value> =
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    for line in &lines {
        let run = run_of(line).map_err(|e| format!("{}: {e}", path.display()))?;
        if !bench.comparison.contenders.iter().any(|known| known.name == run.contender) {
            bench.comparison.contenders.push(Contender {
                family: Family::Transports,
                name: run.contender.clone(),
                role: Role::Ours,
                version: String::new(),
                setup: setup(&run.contender).into(),
                missing: None,
            });
        }
        bench.add(run);
    }
    Ok(())
}

/// What setup/links.sh --help says of them.
fn setup(way: &str) -> &'static str {
    match way {
        "kernel" => "the kernel's TCP; both ends sleep",
        "kernel-spin" => "the kernel's TCP; neither end sleeps",
        "generic" => "AF_XDP, copied by the kernel; neither end sleeps",
        "copy" => "AF_XDP, copied by the driver; neither end sleeps",
        "copy-sleep" => "AF_XDP, copied by the driver; both ends sleep",
        _ => "",
    }
}

fn run_of(line: &Value) -> Result<Run, Failure> {
    let word = |name: &str| -> Result<String, Failure> {
        match &line[name] {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            _ => Err(format!("a run has no {name}").into()),
        }
    };
    let mut figures = BTreeMap::new();
    for (name, path) in [
        ("rate", &["rate"][..]),
        ("store_p50_us", &["store", "p50_us"]),
        ("store_p99_us", &["store", "p99_us"]),
        ("store_p999_us", &["store", "p999_us"]),
        ("cpu_client_us", &["cpu", "loadgen_us_per_message"]),
        ("cpu_server_us", &["cpu", "kvs_us_per_message"]),
        ("calls_client", &["calls_client"]),
        ("calls_server", &["calls_server"]),
    ] {
        figures.insert(name.to_string(), figure(line, path)?);
    }
    let mut conditions = BTreeMap::new();
    for name in ["mtu", "size", "depth"] {
        conditions.insert(name.to_string(), word(name)?);
    }
    Ok(Run {
        family: Family::Transports,
        contender: word("way")?,
        conditions,
        round: 1,
        figures,
        command: "setup/links.sh".into(),
        failure: None,
    })
}
