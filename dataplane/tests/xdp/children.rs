//! What happens to other processes, which are this program again in a role.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use dataplane::Port;
use dataplane::xdp::{Privilege, PrivilegeError, XdpError, XdpInterface, XdpMode, keep_privileges};

use crate::network::{INTERFACE, Link, PORT, is_root, options, segment, send, until};

/// A process that was started on the host on which this thread is.
struct Process {
    child: Child,
    said: BufReader<ChildStdout>,
}

const ROLE: &str = "HIKYAKU_XDP_TEST_ROLE";

impl Process {
    fn start(role: &str) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "children::a_process_in_a_role", "--nocapture"]);
        command.env(ROLE, role);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Process { child, said }
    }

    /// What it says behind the next `> `. The test harness says other things.
    fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "it has ended");
            if let Some((_, said)) = line.trim_end().split_once("> ") {
                return said.to_owned();
            }
        }
    }

    fn go_on(&mut self) {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(what: impl std::fmt::Display) {
    println!("> {what}");
}

fn wait_for_word() {
    std::io::stdin().lines().next().unwrap().unwrap();
}

/// Not a test, but what the processes of the tests do.
#[test]
fn a_process_in_a_role() {
    let Some(role) = std::env::var_os(ROLE) else { return };
    match role.to_str().unwrap() {
        "hold" => {
            let opened = XdpInterface::open(&options(0, XdpMode::Copy));
            match &opened {
                Ok(_) => say("open"),
                Err(error) => say(error),
            }
            wait_for_word();
        }
        "without" => alone(|| {
            keep_only(rustix::thread::CapabilitySet::NET_RAW);
            say(XdpInterface::open(&options(0, XdpMode::Copy)).unwrap_err());
            say(keep_privileges(&[]).unwrap_err());
        }),
        "memlock" => alone(|| {
            let limit = rustix::process::Rlimit { current: Some(65_536), maximum: Some(65_536) };
            rustix::process::setrlimit(rustix::process::Resource::Memlock, limit).unwrap();
            let all = rustix::thread::capabilities(None).unwrap().permitted;
            keep_only(all & !rustix::thread::CapabilitySet::IPC_LOCK);
            let error = XdpInterface::open(&options(0, XdpMode::Copy)).unwrap_err();
            assert!(matches!(error, XdpError::Memlock(_)), "{error}");
            say(error);
        }),
        "dropped" => alone(drop_and_reopen),
        without if without.starts_with("CAP_") => alone(|| {
            keep_privileges(&[]).unwrap();
            let kept = rustix::thread::capabilities(None).unwrap().permitted;
            let one = match without {
                "CAP_NET_RAW" => rustix::thread::CapabilitySet::NET_RAW,
                "CAP_NET_ADMIN" => rustix::thread::CapabilitySet::NET_ADMIN,
                _ => rustix::thread::CapabilitySet::BPF,
            };
            keep_only(kept & !one);
            match XdpInterface::open(&options(0, XdpMode::Copy)) {
                Ok(_) => say("open"),
                Err(error) => say(error),
            }
        }),
        other => panic!("there is no role {other}"),
    }
}

/// In a process of one thread, while this one waits for it.
fn alone(role: impl FnOnce()) {
    // SAFETY: the other thread of this process waits for the one that is here, and holds nothing that the role needs.
    match unsafe { libc::fork() } {
        0 => {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(role));
            // SAFETY: it ends the process at once, without what belongs to the one before.
            unsafe { libc::_exit(i32::from(result.is_err())) }
        }
        child => {
            let mut status = 0;
            // SAFETY: the status lives across the call.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "it has panicked");
        }
    }
}

fn keep_only(keep: rustix::thread::CapabilitySet) {
    let inheritable = rustix::thread::CapabilitySet::empty();
    let sets = rustix::thread::CapabilitySets { effective: keep, permitted: keep, inheritable };
    rustix::thread::set_capabilities(None, sets).unwrap();
}

fn drop_and_reopen() {
    let own = std::env::temp_dir().join(format!("hikyaku-xdp-{}", std::process::id()));
    std::fs::write(&own, "secret").unwrap();
    std::os::unix::fs::chown(&own, Some(1), Some(1)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&own, mode).unwrap();
    keep_privileges(&[Privilege::BindService]).unwrap();
    let read = std::fs::read(&own);
    std::fs::remove_file(&own).or_else(|_| std::fs::write("/dev/null", "")).unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    assert!(std::os::unix::fs::chroot("/").is_err(), "CAP_SYS_CHROOT");
    std::net::TcpListener::bind("127.0.0.1:25").expect("CAP_NET_BIND_SERVICE was kept");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    say(status.lines().filter(|it| it.starts_with("Cap")).collect::<Vec<_>>().join(" "));
    // Whom it starts has no more, though it is root.
    let child = Command::new("cat").arg("/proc/self/status").output().unwrap();
    let child = String::from_utf8(child.stdout).unwrap();
    let permitted = child.lines().find(|it| it.starts_with("CapPrm")).unwrap();
    say(permitted);
    assert!(child.contains("NoNewPrivs:\t1"));
    let (interface, mut ports) = XdpInterface::open(&options(0, XdpMode::Copy)).unwrap();
    say("open");
    until("it was opened again", || {
        ports[0].flush();
        (ports[0].statistics().reopened == 1).then_some(())
    });
    until("the peer was found again", || {
        send(&mut ports[0], &segment(0, PORT, 1, 100));
        ports[0].flush();
        (ports[0].statistics().sent > 0).then_some(())
    });
    interface.set_peers(&[]).unwrap();
    say("reopened");
    wait_for_word();
}

#[test]
fn the_program_is_gone_when_its_process_was_killed() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    link.hosts[0].enter();
    let mut process = Process::start("hold");
    assert_eq!(process.line(), "open");
    assert!(link.hosts[0].has_program());
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    until("the program is gone", || (!link.hosts[0].has_program()).then_some(()));
    // And the next one finds all as it was.
    let mut process = Process::start("hold");
    assert_eq!(process.line(), "open");
    process.go_on();
}

#[test]
fn a_second_process_is_told_that_there_is_one() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    let _first = link.open(0, &options(0, XdpMode::Copy));
    let mut process = Process::start("hold");
    let said = process.line();
    assert!(said.contains("NIC queue 0 of hk0 is in use by another AF_XDP socket"), "{said}");
}

#[test]
fn what_is_missing_is_named() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    link.hosts[0].enter();
    let mut process = Process::start("without");
    let said = process.line();
    assert!(said.starts_with("not permitted: ") && said.contains("CAP_BPF"), "{said}");
    let said = process.line();
    let expected = "AF_XDP needs CAP_NET_ADMIN, CAP_BPF, which this process does not have";
    assert_eq!(said, expected);
    let said = Process::start("memlock").line();
    assert!(said.contains("2097152 bytes") && said.contains("RLIMIT_MEMLOCK"), "{said}");
}

#[test]
fn what_is_kept_opens_it_again_and_does_nothing_else() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    link.hosts[0].enter();
    let mut process = Process::start("dropped");
    // CAP_NET_BIND_SERVICE (10), CAP_NET_ADMIN (12), CAP_NET_RAW (13), CAP_BPF (39), and nothing inherited.
    let mut kept = 1_u64 << 10 | 1 << 12 | 1 << 13 | 1 << 39;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).maximum;
    let has = rustix::thread::capabilities(None).unwrap().permitted;
    if limit.is_some() && !has.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
        // The limit of locked memory cannot be raised here: CAP_IPC_LOCK (14).
        kept |= 1 << 14;
    }
    let kept = format!("{kept:016x}");
    let none = format!("{:016x}", 0);
    let expected =
        format!("CapInh:\t{none} CapPrm:\t{kept} CapEff:\t{kept} CapBnd:\t{kept} CapAmb:\t{none}");
    assert_eq!(process.line(), expected);
    assert_eq!(process.line(), format!("CapPrm:\t{kept}"));
    assert_eq!(process.line(), "open");
    link.remove();
    link.make();
    assert_eq!(process.line(), "reopened");
    assert!(link.hosts[0].run(&format!("ip link show {INTERFACE}")).contains("xdp"));
    process.go_on();
}

#[test]
fn each_of_what_is_kept_is_needed() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    link.hosts[0].enter();
    for name in ["CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_BPF"] {
        let said = Process::start(name).line();
        assert!(said.starts_with("not permitted: "), "without {name}: {said}");
    }
}

#[test]
fn privileges_are_not_given_up_by_one_of_several_threads() {
    if is_root() {
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        assert!(matches!(keep_privileges(&[]), Err(PrivilegeError::Threads(2..))));
        drop(end);
        assert!(other.join().unwrap().is_err());
    }
}
