//! Programs that are started, measured and ended.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::super::{Failure, Stop};

/// A program that runs until this is dropped: it is asked to end, and killed if it does not.
pub(super) struct Server {
    child: Child,
    log: PathBuf,
}

/// How long a program may take to listen, and to end.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked for that.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

impl Server {
    /// Starts it on those cores, with its words in a file. It ends with this process, whatever becomes of that.
    pub(super) fn start(command: &[String], cores: &str, log: PathBuf) -> Result<Server, Failure> {
        let output = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "taskset", "-c", cores])
            .args(command)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .map_err(|e| format!("setpriv (of util-linux): {e}"))?;
        Ok(Server { child, log })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Until it accepts connections there.
    pub(super) fn await_port(&mut self, at: SocketAddr, stop: &Stop) -> Result<(), Failure> {
        self.await_what(stop, &format!("does not listen at {at}"), || {
            TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok()
        })
    }

    /// Until `there` is true.
    pub(super) fn await_what(
        &mut self,
        stop: &Stop,
        why_not: &str,
        mut there: impl FnMut() -> bool,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !there() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("it ended at once ({status}): {}", last_line(&self.log)).into());
            }
            if stop.is_raised() {
                return Err("stopped by a signal".into());
            }
            if Instant::now() > deadline {
                return Err(format!("it {why_not}: {}", last_line(&self.log)).into());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    pub(super) fn end(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        let deadline = Instant::now() + END_TIMEOUT;
        while asked && Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        // It may have ended meanwhile.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// The last words in a log, or that there are none.
pub(super) fn last_line(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing").trim().into()
}

/// A port of loopback on which nobody listens, below the range that the kernel connects from.
pub(super) fn free_address() -> Result<SocketAddr, Failure> {
    for _ in 0..1000 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(20_000..32_000)));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err("no free port was found on loopback".into())
}
