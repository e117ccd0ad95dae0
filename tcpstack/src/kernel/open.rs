//! Making sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::options::KernelOptions;
use super::sys;
use crate::transport::{CloseReason, OpenError};

/// A bound, listening, non-blocking socket.
pub(super) fn listener(
    address: SocketAddr,
    options: &KernelOptions,
) -> Result<TcpListener, OpenError> {
    let socket = socket(address, options).map_err(open_error)?;
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    let prepared = (|| {
        if address.is_ipv6() {
            // Else [::]:25 would take IPv4 too, and 0.0.0.0:25 beside it would fail.
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(options.reuse_port)?;
        socket.bind(&address.into())?;
        socket.listen(backlog)
    })();
    prepared.map_err(open_error)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// How an attempt to connect began.
pub(super) enum Attempt {
    /// The answer will come as an event.
    UnderWay(TcpStream),
    /// It has failed already, for a reason that lies with the peer.
    Failed(CloseReason),
}

/// Begins to connect.
pub(super) fn connection(
    remote: SocketAddr,
    local: Option<IpAddr>,
    options: &KernelOptions,
) -> Result<Attempt, OpenError> {
    let socket = socket(remote, options).map_err(open_error)?;
    if let Some(local) = local {
        sys::set_bind_address_no_port(&socket).map_err(OpenError::Address)?;
        socket.bind(&SocketAddr::new(local, 0).into()).map_err(OpenError::Address)?;
    }
    match socket.connect(&remote.into()) {
        Ok(()) => Ok(Attempt::UnderWay(TcpStream::from_std(socket.into()))),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINPROGRESS | libc::EINTR) => {
                Ok(Attempt::UnderWay(TcpStream::from_std(socket.into())))
            }
            Some(libc::ECONNREFUSED) => Ok(Attempt::Failed(CloseReason::Refused)),
            Some(libc::ECONNRESET) => Ok(Attempt::Failed(CloseReason::Reset)),
            Some(libc::ETIMEDOUT) => Ok(Attempt::Failed(CloseReason::TimedOut)),
            _ => Err(OpenError::Address(error)),
        },
    }
}

/// A socket with the options that both kinds share. Linux hands those of a listener on to what it
/// accepts, so that accepting costs one system call.
fn socket(address: SocketAddr, options: &KernelOptions) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if options.user_timeout.is_some() {
        socket.set_tcp_user_timeout(options.user_timeout)?;
    }
    if let Some(time) = options.keep_alive {
        let interval = Duration::from_secs(1);
        let probing = TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(10);
        socket.set_tcp_keepalive(&probing)?;
    }
    if let Some(bytes) = options.socket_send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.socket_receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    Ok(socket)
}

/// Whether the process or the machine has run out of descriptors or memory.
pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

fn open_error(error: io::Error) -> OpenError {
    if is_exhaustion(&error) { OpenError::TableFull } else { OpenError::Address(error) }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    #[test]
    fn accepted_connections_have_the_listeners_options() {
        let time = Duration::from_secs(7);
        let (user_timeout, keep_alive) = (Some(Duration::from_secs(5)), Some(time));
        let options = KernelOptions { user_timeout, keep_alive, ..KernelOptions::default() };
        let listener = listener("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), time);
        assert_eq!(socket.tcp_user_timeout().unwrap(), user_timeout);
    }
}
