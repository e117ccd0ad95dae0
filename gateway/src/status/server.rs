//! Hands snapshots out: whoever connects to the socket and says nothing gets one, as JSON, and the end. Who writes an
//! order is told what became of it.
//!
//! The workers have nothing to do with how fast a snapshot is fetched.

use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use tracing::{info, warn};

use super::Snapshot;
use super::orders::{self, Order, Outcome};

/// Most readers at a time; one more is told so and sent away.
const READERS_MAX: usize = 8;

/// How long one may take to read its snapshot; the rest is not sent.
const READ_PATIENCE: Duration = Duration::from_secs(5);

/// Longest path of a socket: the system allows 107 bytes, and it is made under a longer name first.
pub const PATH_LEN_MAX: usize = 99;

/// A socket that nobody is served at yet. Its file goes with it.
#[derive(Debug)]
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl StatusSocket {
    /// Makes the socket, for our user alone. One that nobody listens at is replaced: its gateway was killed.
    ///
    /// # Errors
    /// If another process listens there, something else is there, or the system does not let us.
    pub fn bind(path: &Path) -> Result<StatusSocket, String> {
        let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(failed(&"is no socket; it is not replaced"));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(failed(&"another process listens there; give each gateway its own"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&error)),
        }
        // Under another name until it is for nobody else.
        let mut first = path.as_os_str().to_owned();
        first.push(format!(".{}", std::process::id()));
        let first = PathBuf::from(first);
        let _ = fs::remove_file(&first);
        let listener = UnixListener::bind(&first).map_err(|error| failed(&error))?;
        let private = fs::set_permissions(&first, fs::Permissions::from_mode(0o600));
        private.and_then(|()| fs::rename(&first, path)).map_err(|error| {
            let _ = fs::remove_file(&first);
            failed(&error)
        })?;
        Ok(StatusSocket { listener, path: path.to_owned() })
    }

    /// Serves whoever comes, on a thread of its own, until the process ends or [`Serving`] does. `follow` does
    /// what an order says, and says what that is or why not.
    ///
    /// # Errors
    /// If there is no thread.
    pub fn serve(
        self,
        snapshot: impl Fn() -> Snapshot + Send + Sync + 'static,
        follow: impl Fn(&Order) -> Result<String, String> + Send + Sync + 'static,
    ) -> io::Result<Serving> {
        info!(path = %self.path.display(), "the status can be asked for");
        let readers = Arc::new(AtomicUsize::new(0));
        let answer = Arc::new(move |asked| answer(asked, &snapshot, &follow));
        let path = self.path;
        thread::Builder::new().name("status".into()).spawn(move || {
            for stream in self.listener.incoming() {
                match stream {
                    Ok(stream) => admit(stream, &readers, answer.clone()),
                    Err(error) => {
                        warn!(%error, "the status socket cannot accept");
                        thread::sleep(ACCEPT_PAUSE);
                    }
                }
            }
        })?;
        Ok(Serving { path })
    }
}

/// Pause when the system has no descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Removes the socket's file when it is dropped.
#[derive(Debug)]
pub struct Serving {
    path: PathBuf,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// What somebody has asked for: nothing, an order, or something else.
type Asked = Option<Result<Order, String>>;

/// What is answered, as JSON.
fn answer(
    asked: Asked,
    snapshot: impl Fn() -> Snapshot,
    follow: impl Fn(&Order) -> Result<String, String>,
) -> serde_json::Result<Vec<u8>> {
    let outcome = match asked {
        None => return serde_json::to_vec(&snapshot()),
        Some(order) => order.and_then(|order| follow(&order)),
    };
    serde_json::to_vec(&outcome.map_or_else(Outcome::Error, Outcome::Done))
}

fn admit<F>(stream: UnixStream, readers: &Arc<AtomicUsize>, answer: Arc<F>)
where
    F: Fn(Asked) -> serde_json::Result<Vec<u8>> + Send + Sync + 'static,
{
    if readers.fetch_add(1, Ordering::SeqCst) >= READERS_MAX {
        readers.fetch_sub(1, Ordering::SeqCst);
        let why = format!("{{\"error\":\"{READERS_MAX} others are asking; try again\"}}\n");
        // It fits into an empty socket.
        let _ = stream.set_nonblocking(true).and_then(|()| (&stream).write_all(why.as_bytes()));
        return;
    }
    let counted = Counted(readers.clone());
    let serving = move || {
        let counted = counted;
        if let Err(error) = send(&stream, answer.as_ref()) {
            warn!(%error, "a reader of the status did not take it");
        }
        drop(counted);
    };
    if let Err(error) = thread::Builder::new().name("status reader".into()).spawn(serving) {
        warn!(%error, "no thread for a reader of the status");
    }
}

/// A reader that counts.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn send(
    stream: &UnixStream,
    answer: &impl Fn(Asked) -> serde_json::Result<Vec<u8>>,
) -> io::Result<()> {
    let mut text = answer(orders::read(stream))?;
    text.push(b'\n');
    send_within(stream, &text, READ_PATIENCE)
}

/// Sends all of it, or fails when the time is over, however slowly it goes on.
fn send_within(mut stream: &UnixStream, mut text: &[u8], patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    while !text.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(text) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => text = &text[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
