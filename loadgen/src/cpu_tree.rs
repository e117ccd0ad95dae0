//! CPU time of a process and of all that it has started, by program.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::time::Duration;

/// User and system time so far of the process and its descendants, by the program's name. What has ended counts
/// for the program that has waited for it. Empty when there is no such process.
pub fn cpu_by_program(root: u32) -> BTreeMap<String, Duration> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let stats = pids.filter_map(|pid| {
        Some((pid, parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))
    });
    of_tree(root, &stats.collect())
}

/// The time between two looks, where it grew.
pub fn difference(
    before: &BTreeMap<String, Duration>,
    after: &BTreeMap<String, Duration>,
) -> BTreeMap<String, Duration> {
    let since = |(program, &time): (&String, &Duration)| {
        let earlier = before.get(program).copied().unwrap_or_default();
        (program.clone(), time.saturating_sub(earlier))
    };
    after.iter().map(since).filter(|(_, time)| !time.is_zero()).collect()
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Process {
    program: String,
    parent: u32,
    time: Duration,
}

fn of_tree(root: u32, processes: &BTreeMap<u32, Process>) -> BTreeMap<String, Duration> {
    let mut tree = HashSet::from([root]);
    // A parent's number may be above its child's: look until nobody is added. Each round adds one at least.
    loop {
        let before = tree.len();
        let children = processes.iter().filter(|(_, process)| tree.contains(&process.parent));
        let children: Vec<u32> = children.map(|(&pid, _)| pid).collect();
        tree.extend(children);
        if tree.len() == before {
            break;
        }
    }
    let mut times = BTreeMap::new();
    for process in tree.iter().filter_map(|pid| processes.get(pid)) {
        *times.entry(process.program.clone()).or_default() += process.time;
    }
    times
}

/// proc_pid_stat(5): the name in parentheses, then field 4 the parent, 14 to 17 the time of the process and of
/// children that it has waited for, in ticks of 10 milliseconds.
fn parse(stat: &str) -> Option<Process> {
    let (head, fields) = stat.rsplit_once(')')?;
    let (_, program) = head.split_once('(')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok());
    let ticks: u64 = ticks.sum::<Option<u64>>()?;
    let parent = fields.get(1)?.parse().ok()?;
    Some(Process { program: program.into(), parent, time: Duration::from_millis(ticks * 10) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_count_and_strangers_do_not() {
        let process = |program: &str, parent, ms| Process {
            program: program.into(),
            parent,
            time: Duration::from_millis(ms),
        };
        let processes = BTreeMap::from([
            (5, process("smtpd", 9, 30)),
            (7, process("smtpd", 9, 40)),
            (9, process("master", 10, 20)),
            (10, process("bash", 1, 0)),
            (11, process("other", 1, 500)),
        ]);
        let times = of_tree(10, &processes);
        let expected = [("bash", 0), ("master", 20), ("smtpd", 70)];
        let expected = expected.map(|(name, ms)| (name.to_string(), Duration::from_millis(ms)));
        assert_eq!(times, BTreeMap::from(expected));
        let grown =
            difference(&BTreeMap::from([("smtpd".into(), Duration::from_millis(50))]), &times);
        assert_eq!(grown.get("smtpd"), Some(&Duration::from_millis(20)));
        assert!(!grown.contains_key("bash"));
    }

    #[test]
    fn waited_for_children_count() {
        let stat = "12 (a) b (c)) S 3 12 12 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 99";
        let process = parse(stat).unwrap();
        assert_eq!((process.program.as_str(), process.parent), ("a) b (c)", 3));
        assert_eq!(process.time, Duration::from_millis(2150));
    }

    #[test]
    fn this_process_is_there() {
        assert!(!cpu_by_program(std::process::id()).is_empty());
    }
}
