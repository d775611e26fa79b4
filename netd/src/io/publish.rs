//! Binding the host's side of a published port, and opening and closing it while the bind is held.
//! Binding runs in the caller's thread (finding a port's owner may take milliseconds); [`HostSocket::open`]
//! and [`HostSocket::close`] are a system call or three, for the packet thread.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use control::port::{Endpoint, Protocol};
use control::port_owner::{self, Process};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, ipproto, sockopt,
};

use crate::io::host::DATAGRAM_BUFFER;

/// What to bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindRequest {
    /// Ports.
    Ports {
        /// TCP or UDP.
        protocol: Protocol,
        /// All of these, or none.
        required: Vec<IpAddr>,
        /// These where they are free.
        optional: Vec<IpAddr>,
        /// The port.
        port: WantedPort,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// The port of a [`BindRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedPort {
    /// This one.
    This(u16),
    /// A free one; the same number leads to the same port as long as that is free.
    Any(u64),
}

/// Sockets ready for [`crate::datapath::Command::Publish`].
#[derive(Debug)]
pub struct BoundSockets {
    /// Bound; TCP and unix sockets do not listen yet.
    pub sockets: Vec<HostSocket>,
    /// Optional addresses that somebody else has.
    pub skipped: Vec<PublishError>,
}

/// One bound socket.
#[derive(Debug)]
pub struct HostSocket {
    descriptor: OwnedFd,
    endpoint: Endpoint,
    protocol: Protocol,
    open: bool,
    /// The file of a unix socket: it goes with us if it is still ours.
    file: Option<(u64, u64)>,
}

/// Why a port cannot be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Someone else has it.
    #[error("cannot bind {protocol} {address}: in use by {owner}", owner = describe(.owner.as_deref()))]
    InUse {
        /// What was to be bound.
        address: SocketAddr,
        /// TCP or UDP.
        protocol: Protocol,
        /// Who has it, where it can be seen.
        owner: Option<Box<port_owner::PortOwner>>,
    },
    /// The kernel wants a privilege (ports below ip_unprivileged_port_start).
    #[error("cannot bind {protocol} {address}: permission denied")]
    Forbidden {
        /// What was to be bound.
        address: SocketAddr,
        /// TCP or UDP.
        protocol: Protocol,
    },
    /// Anything else.
    #[error("cannot bind {protocol} {address}: {reason}")]
    Failed {
        /// What was to be bound.
        address: SocketAddr,
        /// TCP or UDP.
        protocol: Protocol,
        /// The kernel's words.
        reason: String,
    },
    /// None of the tried ports is free.
    #[error("cannot find a free {protocol} port from {FIRST_CHOSEN} up on {address}")]
    NoneFree {
        /// TCP or UDP.
        protocol: Protocol,
        /// The first address.
        address: IpAddr,
    },
    /// A live unix socket, or something that is no socket, has the path.
    #[error("cannot listen on {path}: {what} is there", path = path.display())]
    PathTaken {
        /// The path.
        path: PathBuf,
        /// What has it.
        what: String,
    },
    /// Anything else about a unix socket.
    #[error("cannot listen on {path}: {reason}", path = path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The kernel's words.
        reason: String,
    },
}

fn describe(owner: Option<&port_owner::PortOwner>) -> String {
    owner.map_or_else(|| "another process".to_owned(), ToString::to_string)
}

/// Where ports are chosen: above the range from which Linux gives outgoing connections theirs
/// (net.ipv4.ip_local_port_range, 32768 to 60999), so that no such connection is in the way later.
const FIRST_CHOSEN: u16 = 61_000;
/// Ports tried.
const CHOICES: u64 = 256;

/// Binds; on failure of a required address nothing stays bound.
///
/// # Errors
/// The first required address that was not to be had.
pub fn bind(request: &BindRequest) -> Result<BoundSockets, PublishError> {
    match request {
        BindRequest::Unix(path) => Ok(BoundSockets {
            sockets: vec![bind_unix(path)?],
            skipped: Vec::new(),
        }),
        BindRequest::Ports {
            protocol,
            required,
            optional,
            port,
        } => {
            let addresses = (&required[..], &optional[..]);
            match port {
                WantedPort::This(port) => bind_ports(*protocol, addresses, *port),
                WantedPort::Any(seed) => choose(*protocol, addresses, *seed),
            }
        }
    }
}

/// The first candidate that is free everywhere, else the first that is free where it must be.
fn choose(
    protocol: Protocol,
    addresses: (&[IpAddr], &[IpAddr]),
    seed: u64,
) -> Result<BoundSockets, PublishError> {
    let room = u64::from(u16::MAX - FIRST_CHOSEN) + 1;
    for whole in [true, false] {
        for step in 0..CHOICES {
            let offset = u16::try_from((seed % room + step) % room).unwrap_or(0);
            match bind_ports(protocol, addresses, FIRST_CHOSEN + offset) {
                Ok(bound) if whole && !bound.skipped.is_empty() => {}
                Err(PublishError::InUse { .. }) => {}
                other => return other,
            }
        }
    }
    let address = addresses.0.first().copied();
    Err(PublishError::NoneFree {
        protocol,
        address: address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
    })
}

fn bind_ports(
    protocol: Protocol,
    (required, optional): (&[IpAddr], &[IpAddr]),
    port: u16,
) -> Result<BoundSockets, PublishError> {
    let mut sockets = Vec::new();
    for address in required {
        sockets.push(bind_one(protocol, SocketAddr::new(*address, port))?);
    }
    let mut skipped = Vec::new();
    for address in optional {
        match bind_one(protocol, SocketAddr::new(*address, port)) {
            Ok(bound) => sockets.push(bound),
            Err(error @ PublishError::InUse { .. }) => skipped.push(error),
            // A host without IPv6 misses nothing, and a low port is told by the required address.
            Err(_not_here) => {}
        }
    }
    Ok(BoundSockets { sockets, skipped })
}

/// Connections that may wait to be accepted; the kernel clamps it to net.core.somaxconn.
const BACKLOG: i32 = 4_096;

fn bind_one(protocol: Protocol, address: SocketAddr) -> Result<HostSocket, PublishError> {
    let failed = |errno: Errno| match errno {
        Errno::ADDRINUSE => PublishError::InUse {
            address,
            protocol,
            owner: port_owner::in_the_way(protocol, address).map(Box::new),
        },
        Errno::ACCESS | Errno::PERM => PublishError::Forbidden { address, protocol },
        other => PublishError::Failed {
            address,
            protocol,
            reason: io::Error::from(other).to_string(),
        },
    };
    try_bind(protocol, address).map_err(failed)
}

fn try_bind(protocol: Protocol, address: SocketAddr) -> rustix::io::Result<HostSocket> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, kind, flags, Some(number))?;
    // The address of an interface that is down now is held until it comes up (ip(7), IP_FREEBIND).
    if address.is_ipv6() {
        // "[::]:80" and "0.0.0.0:80" are two wishes.
        sockopt::set_ipv6_v6only(&socket, true)?;
        sockopt::set_ipv6_freebind(&socket, true).ok();
    } else {
        sockopt::set_ip_freebind(&socket, true).ok();
    }
    match protocol {
        Protocol::Tcp => {
            // Old connections in TIME-WAIT are no reason to refuse; a listener still is.
            sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &address)?;
            // Others that allow reuse would be let in beside a socket that never listened.
            rustix::net::listen(&socket, BACKLOG)?;
            stop_listening(&socket)?;
        }
        Protocol::Udp => {
            if address.ip().is_unspecified() {
                crate::sys::receive_destination(&socket, address.is_ipv6())
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
            }
            rustix::net::bind(&socket, &address)?;
            sockopt::set_socket_recv_buffer_size(&socket, DATAGRAM_BUFFER).ok();
            sockopt::set_socket_send_buffer_size(&socket, DATAGRAM_BUFFER).ok();
        }
    }
    Ok(HostSocket {
        descriptor: socket,
        endpoint: Endpoint::Address(address),
        protocol,
        open: protocol == Protocol::Udp,
        file: None,
    })
}

/// Back to a bound socket that does not listen: connections are refused, the port stays ours. Without
/// SO_REUSEADDR nobody else's SO_REUSEADDR lets them in beside us (a listener keeps them out by itself).
fn stop_listening(socket: &OwnedFd) -> rustix::io::Result<()> {
    rustix::net::shutdown(socket, Shutdown::Read)?;
    sockopt::set_socket_reuseaddr(socket, false)
}

fn bind_unix(path: &Path) -> Result<HostSocket, PublishError> {
    let failed = |error: io::Error| PublishError::Path {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let (descriptor, file) = match try_bind_unix(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            make_way(path)?;
            try_bind_unix(path).map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    Ok(HostSocket {
        descriptor,
        endpoint: Endpoint::Unix(path.to_owned()),
        protocol: Protocol::Tcp,
        open: false,
        file: Some(file),
    })
}

/// Nobody can connect before it listens, so there is no moment with wider rights.
fn try_bind_unix(path: &Path) -> io::Result<(OwnedFd, (u64, u64))> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let file = std::fs::symlink_metadata(path)?;
    Ok((socket, (file.dev(), file.ino())))
}

/// Removes a socket file that nobody has any more.
fn make_way(path: &Path) -> Result<(), PublishError> {
    let taken = |what: String| PublishError::PathTaken {
        path: path.to_owned(),
        what,
    };
    let file = std::fs::symlink_metadata(path);
    let is_socket =
        file.is_ok_and(|file| std::os::unix::fs::FileTypeExt::is_socket(&file.file_type()));
    if !is_socket {
        return Err(taken("a file that is no socket".to_owned()));
    }
    let owner = port_owner::unix_owner(path);
    if let Some(owner) = owner {
        let who = owner
            .as_ref()
            .map_or_else(|| "a process".to_owned(), Process::to_string);
        return Err(taken(format!("the socket of {who}")));
    }
    // A socket of another network namespace is not in our /proc/net/unix, but answers.
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(taken("a socket that somebody serves".to_owned()));
    }
    std::fs::remove_file(path).map_err(|error| PublishError::Path {
        path: path.to_owned(),
        reason: format!("the dead socket there cannot be removed: {error}"),
    })
}

impl HostSocket {
    /// Where it is bound.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// TCP (unix sockets too) or UDP.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The descriptor; another one after [`HostSocket::open`].
    #[must_use]
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Whether connections are taken; UDP always is.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Takes connections from now on.
    ///
    /// # Errors
    /// The kernel's; a bind that was held makes them unlikely.
    pub fn open(&mut self) -> io::Result<()> {
        if self.open {
            return Ok(());
        }
        match &self.endpoint {
            Endpoint::Address(_) => {
                // Accepted connections inherit it, and must not be in the way of the next listen.
                sockopt::set_socket_reuseaddr(&self.descriptor, true)?;
            }
            Endpoint::Unix(path) => {
                // A unix socket that was shut down stays so: it takes a new one.
                if self.file.is_none() {
                    let (descriptor, file) = try_bind_unix(path)?;
                    self.descriptor = descriptor;
                    self.file = Some(file);
                }
            }
        }
        rustix::net::listen(&self.descriptor, BACKLOG)?;
        self.open = true;
        Ok(())
    }

    /// Refuses connections from now on, and resets those that nobody has accepted; accepted ones go on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn close(&mut self) -> io::Result<()> {
        if !self.open || self.protocol == Protocol::Udp {
            return Ok(());
        }
        match &self.endpoint {
            Endpoint::Address(_) => stop_listening(&self.descriptor)?,
            Endpoint::Unix(_) => {
                rustix::net::shutdown(&self.descriptor, Shutdown::Both)?;
                self.remove_file();
            }
        }
        self.open = false;
        Ok(())
    }

    fn remove_file(&mut self) {
        let (Endpoint::Unix(path), Some(ours)) = (&self.endpoint, self.file.take()) else {
            return;
        };
        let same =
            std::fs::symlink_metadata(path).is_ok_and(|file| (file.dev(), file.ino()) == ours);
        if same {
            // Nobody is left to tell.
            std::fs::remove_file(path).ok();
        }
    }
}

impl Drop for HostSocket {
    fn drop(&mut self) {
        self.remove_file();
    }
}

/// Whether the host has this address now.
#[must_use]
pub fn host_has(address: IpAddr) -> bool {
    !matches!(
        std::net::UdpSocket::bind((address, 0)),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn request(required: &[IpAddr], optional: &[IpAddr], port: WantedPort) -> BindRequest {
        BindRequest::Ports {
            protocol: Protocol::Tcp,
            required: required.to_vec(),
            optional: optional.to_vec(),
            port,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn endpoints(bound: &BoundSockets) -> Vec<String> {
        let shown = |socket: &HostSocket| socket.endpoint().to_string();
        bound.sockets.iter().map(shown).collect()
    }

    #[test]
    fn a_taken_port_names_its_owner() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = WantedPort::This(taken.local_addr().unwrap().port());
        for address in ["127.0.0.1", "0.0.0.0"] {
            let error = bind(&request(&[ip(address)], &[], port)).unwrap_err();
            let pid = format!("pid {}", std::process::id());
            assert!(error.to_string().contains(&pid), "{error}");
        }
    }

    #[test]
    fn a_taken_optional_address_is_skipped_and_required_ones_are_all_or_nothing() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let (free, taken) = (ip("127.64.9.9"), ip("127.0.0.1"));
        let bound = bind(&request(&[free], &[taken], WantedPort::This(port))).unwrap();
        assert_eq!(endpoints(&bound), [format!("{free}:{port}")]);
        let skipped = bound.skipped.first().unwrap().to_string();
        assert!(skipped.contains("in use by"), "{skipped}");
        drop(bound);
        assert!(bind(&request(&[free, taken], &[], WantedPort::This(port))).is_err());
        TcpListener::bind((free, port)).unwrap();
    }

    #[test]
    fn a_held_port_refuses_keeps_others_out_and_opens_again() {
        let bound = bind(&request(&[ip("127.64.9.8")], &[], WantedPort::Any(1))).unwrap();
        let mut socket = bound.sockets.into_iter().next().unwrap();
        let address = socket.endpoint().to_string();
        let refused = || {
            let error = TcpStream::connect(&address).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            // The standard library sets SO_REUSEADDR, as nearly every server does.
            let error = TcpListener::bind(&address).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        };
        refused();
        let mut kept = Vec::new();
        for _round in 0..3 {
            socket.open().unwrap();
            let mut client = TcpStream::connect(&address).unwrap();
            let server = rustix::net::accept(socket.descriptor()).unwrap();
            let mut waiting = TcpStream::connect(&address).unwrap();
            socket.close().unwrap();
            refused();
            assert!(waiting.read(&mut [0]).is_err(), "told of an orderly end");
            // What was accepted goes on.
            client.write_all(b"x").unwrap();
            rustix::net::recv(&server, &mut [0; 1][..], rustix::net::RecvFlags::empty()).unwrap();
            kept.push((client, server));
        }
        drop(kept);
        socket.open().unwrap();
        TcpStream::connect(&address).unwrap();
    }

    #[test]
    fn a_chosen_port_is_the_same_again_and_another_when_it_is_taken() {
        let wish = request(&[ip("127.64.9.7")], &[ip("127.0.0.1")], WantedPort::Any(77));
        let first = endpoints(&bind(&wish).unwrap());
        assert_eq!(first.len(), 2);
        assert_eq!(endpoints(&bind(&wish).unwrap()), first);
        let _taken = TcpListener::bind(&first[1]).unwrap();
        let second = bind(&wish).unwrap();
        assert_ne!(endpoints(&second), first);
        assert_eq!(endpoints(&second).len(), 2);
    }

    #[test]
    fn an_address_that_is_not_there_yet_is_held_for_when_it_comes() {
        let absent = ip("203.0.113.77");
        assert!(!host_has(absent) && host_has(ip("127.0.0.1")));
        let bound = bind(&request(&[absent], &[], WantedPort::Any(5))).unwrap();
        assert_eq!(bound.sockets.len(), 1);
    }

    #[test]
    fn a_unix_socket_is_its_owners_alone_and_only_a_dead_one_gives_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let wish = BindRequest::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dead socket's file");
        let mut socket = bind(&wish).unwrap().sockets.pop().unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let refused = || {
            let error = UnixStream::connect(&path).unwrap_err().kind();
            let told = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
            assert!(told.contains(&error), "{error}");
        };
        refused();
        for _round in 0..2 {
            socket.open().unwrap();
            UnixStream::connect(&path).unwrap();
            let error = bind(&wish).unwrap_err().to_string();
            let pid = format!("pid {}", std::process::id());
            assert!(error.contains(&pid), "{error}");
            socket.close().unwrap();
            refused();
        }
        socket.open().unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        let error = bind(&wish).unwrap_err().to_string();
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
