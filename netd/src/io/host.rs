//! Sockets of the host on a guest's behalf: made non-blocking, never waited for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, ipproto, sockopt};

use crate::engine::icmp::Unreachable;

/// Why a guest's connection cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    /// The far side said no.
    Refused,
    /// It cannot be reached.
    Unreachable(Unreachable),
    /// The host has no descriptor, port or memory left.
    Exhausted(Errno),
}

/// The guest's share of the truth in an errno.
pub fn dial_error(error: Errno) -> DialError {
    match error {
        Errno::CONNREFUSED | Errno::CONNRESET | Errno::PIPE => DialError::Refused,
        Errno::NETUNREACH | Errno::NETDOWN => DialError::Unreachable(Unreachable::Network),
        Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::TIMEDOUT => {
            DialError::Unreachable(Unreachable::Host)
        }
        Errno::ACCESS | Errno::PERM | Errno::INVAL => {
            DialError::Unreachable(Unreachable::Prohibited)
        }
        other => DialError::Exhausted(other),
    }
}

/// Begins a connection; true = it stands already.
pub fn dial(to: SocketAddr) -> Result<(OwnedFd, bool), DialError> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family(to.ip()), SocketType::STREAM, flags, None)
        .map_err(DialError::Exhausted)?;
    prepare_stream(&socket);
    match rustix::net::connect(&socket, &to) {
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS) => Ok((socket, false)),
        Err(error) => Err(dial_error(error)),
    }
}

/// Connects to a unix socket, which happens at once or not at all.
pub fn dial_unix(path: &Path) -> Result<(OwnedFd, bool), DialError> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(DialError::Exhausted)?;
    let address = SocketAddrUnix::new(path).map_err(|_| DialError::Refused)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Ok((socket, true)),
        // Nobody is there, or so busy that its queue is full (unix(7)): either way the guest may try again.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::AGAIN | Errno::PROTOTYPE) => {
            Err(DialError::Refused)
        }
        Err(error) => Err(dial_error(error)),
    }
}

/// What every TCP socket towards the host gets: the guest has its own Nagle, and urgent bytes are bytes.
pub fn prepare_stream(socket: &OwnedFd) {
    sockopt::set_tcp_nodelay(socket, true).ok();
    sockopt::set_socket_oobinline(socket, true).ok();
}

/// A pair for a service of the daemon: the flow's end and the service's.
pub fn service_pair() -> Result<(OwnedFd, UnixStream), DialError> {
    let (ours, theirs) = UnixStream::pair().map_err(|error| exhausted(&error))?;
    for end in [&ours, &theirs] {
        end.set_nonblocking(true)
            .map_err(|error| exhausted(&error))?;
    }
    Ok((ours.into(), theirs))
}

fn exhausted(error: &std::io::Error) -> DialError {
    DialError::Exhausted(Errno::from_io_error(error).unwrap_or(Errno::NOMEM))
}

/// The far side will see a reset when the socket is dropped.
pub fn reset_on_close(socket: &OwnedFd) {
    sockopt::set_socket_linger(socket, Some(Duration::ZERO)).ok();
}

/// Finds dead peers of a connection that was silent for long.
pub fn keep_alive(socket: &OwnedFd) {
    sockopt::set_socket_keepalive(socket, true).ok();
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    }
}

/// A UDP socket on any port, in the family of `like`, with ICMP errors told.
pub fn datagram(like: IpAddr) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family(like), SocketType::DGRAM, flags, None)?;
    let any = match like {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => {
            // An IPv4 address in IPv6 clothes must not be let in or out.
            sockopt::set_ipv6_v6only(&socket, true)?;
            IpAddr::from(Ipv6Addr::UNSPECIFIED)
        }
    };
    rustix::net::bind(&socket, &SocketAddr::new(any, 0))?;
    crate::sys::receive_errors(socket.as_fd(), like.is_ipv6()).ok();
    sockopt::set_socket_recv_buffer_size(&socket, DATAGRAM_BUFFER).ok();
    sockopt::set_socket_send_buffer_size(&socket, DATAGRAM_BUFFER).ok();
    Ok(socket)
}

/// A burst of small datagrams must survive one turn of the loop.
pub const DATAGRAM_BUFFER: usize = 1 << 20;

/// A socket for ICMP echo in the family of `like`, where net.ipv4.ping_group_range allows it.
pub fn echo(like: IpAddr) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let protocol = match like {
        IpAddr::V4(_) => ipproto::ICMP,
        IpAddr::V6(_) => ipproto::ICMPV6,
    };
    let socket = rustix::net::socket_with(family(like), SocketType::DGRAM, flags, Some(protocol))?;
    crate::sys::receive_errors(socket.as_fd(), like.is_ipv6()).ok();
    Ok(socket)
}

/// Raises the process's limit of open files to what the system allows it: every flow is a descriptor, and the
/// usual soft limit of 1,024 is less than one busy guest needs. Returns the limit that holds now, if there is one.
pub fn raise_descriptor_limit() -> Option<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            limit.current
        }
    }
}
