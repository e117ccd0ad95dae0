//! The program `sim` and who reads its output.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

#[test]
fn it_ends_when_nobody_reads_its_output_any_more() {
    let arguments = ["--seeds", "1000000", "--mails", "10", "--faults", "none", "--jobs", "2"];
    let mut sim = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(sim.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    drop(output);
    let (ended, end) = channel();
    let id = sim.id();
    std::thread::spawn(move || ended.send(sim.wait().unwrap()));
    let Ok(status) = end.recv_timeout(Duration::from_secs(60)) else {
        Command::new("kill").args(["-9", &id.to_string()]).status().unwrap();
        panic!("it still runs");
    };
    assert!(!status.success());
}
