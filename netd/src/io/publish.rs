//! Binding the host's side of a published port, and saying whose a taken port is.
//! Runs in the caller's thread (reading /proc may take milliseconds), never in the packet thread.
//! See proc_pid_fd(5) and proc_net_tcp for the search.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use control::port::Protocol;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::io::host::DATAGRAM_BUFFER;

/// What to bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindRequest {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// All of these, or none.
    pub required: Vec<SocketAddr>,
    /// These where they are free.
    pub optional: Vec<SocketAddr>,
}

/// Sockets ready for [`crate::datapath::Command::Publish`].
#[derive(Debug)]
pub struct BoundSockets {
    /// Each with the address it really has.
    pub sockets: Vec<(OwnedFd, SocketAddr)>,
    /// Optional addresses that were not to be had, with the reason.
    pub skipped: Vec<(SocketAddr, PublishError)>,
}

/// The process that holds a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOwner {
    /// Process id, where /proc lets us see it.
    pub pid: Option<u32>,
    /// Program name.
    pub program: Option<String>,
    /// User id of the socket.
    pub uid: Option<u32>,
}

/// Why a port cannot be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Someone else has it.
    #[error("cannot bind {protocol} {address}: in use by {owner}", owner = describe(.owner.as_ref()))]
    InUse {
        /// What was to be bound.
        address: SocketAddr,
        /// TCP or UDP.
        protocol: Protocol,
        /// Who has it, where it can be seen.
        owner: Option<PortOwner>,
    },
    /// The kernel wants a privilege (ports below ip_unprivileged_port_start).
    #[error("cannot bind {protocol} {address}: permission denied")]
    Forbidden {
        /// What was to be bound.
        address: SocketAddr,
        /// TCP or UDP.
        protocol: Protocol,
    },
    /// The host has no such address.
    #[error("cannot bind {protocol} {address}: the host has no such address")]
    NoSuchAddress {
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
}

fn describe(owner: Option<&PortOwner>) -> String {
    match owner {
        Some(PortOwner {
            pid: Some(pid),
            program: Some(program),
            ..
        }) => format!("{program} (pid {pid})"),
        Some(PortOwner { pid: Some(pid), .. }) => format!("pid {pid}"),
        Some(PortOwner { uid: Some(uid), .. }) => format!("a process of uid {uid}"),
        Some(_) | None => "another process".to_owned(),
    }
}

/// Binds (TCP: and listens). On failure of a required address nothing stays bound.
pub fn bind(request: &BindRequest) -> Result<BoundSockets, PublishError> {
    let mut sockets = Vec::new();
    for address in &request.required {
        sockets.push(bind_one(request.protocol, *address)?);
    }
    let mut skipped = Vec::new();
    for address in &request.optional {
        match bind_one(request.protocol, *address) {
            Ok(bound) => sockets.push(bound),
            Err(error) => skipped.push((*address, error)),
        }
    }
    Ok(BoundSockets { sockets, skipped })
}

/// Connections that may wait to be accepted; the kernel clamps it to net.core.somaxconn.
const BACKLOG: i32 = 4_096;

fn bind_one(
    protocol: Protocol,
    address: SocketAddr,
) -> Result<(OwnedFd, SocketAddr), PublishError> {
    let failed = |errno: Errno| match errno {
        Errno::ADDRINUSE => PublishError::InUse {
            address,
            protocol,
            owner: owner(protocol, address),
        },
        Errno::ACCESS | Errno::PERM => PublishError::Forbidden { address, protocol },
        Errno::ADDRNOTAVAIL => PublishError::NoSuchAddress { address, protocol },
        other => PublishError::Failed {
            address,
            protocol,
            reason: other.to_string(),
        },
    };
    try_bind(protocol, address).map_err(failed)
}

fn try_bind(protocol: Protocol, address: SocketAddr) -> rustix::io::Result<(OwnedFd, SocketAddr)> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if address.is_ipv6() {
        // "[::]:80" and "0.0.0.0:80" are two wishes.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    match protocol {
        Protocol::Tcp => {
            // Old connections in TIME-WAIT are no reason to refuse; a listener still is.
            sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &address)?;
            rustix::net::listen(&socket, BACKLOG)?;
        }
        Protocol::Udp => {
            rustix::net::bind(&socket, &address)?;
            sockopt::set_socket_recv_buffer_size(&socket, DATAGRAM_BUFFER).ok();
            sockopt::set_socket_send_buffer_size(&socket, DATAGRAM_BUFFER).ok();
        }
    }
    let real = rustix::net::getsockname(&socket)?;
    Ok((socket, SocketAddr::try_from(real).unwrap_or(address)))
}

/// Finds who holds a port, as far as /proc shows it to us.
pub fn owner(protocol: Protocol, address: SocketAddr) -> Option<PortOwner> {
    let (inode, uid) = ["", "6"].iter().find_map(|family| {
        let table = match protocol {
            Protocol::Tcp => format!("/proc/net/tcp{family}"),
            Protocol::Udp => format!("/proc/net/udp{family}"),
        };
        find_socket(&std::fs::read_to_string(table).ok()?, protocol, address)
    })?;
    let pid = find_process(inode);
    let program = pid.and_then(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(name.trim_end().to_owned())
    });
    Some(PortOwner {
        pid,
        program,
        uid: Some(uid),
    })
}

/// The socket in the way: same port, and an address that overlaps. Gives its inode and user.
fn find_socket(table: &str, protocol: Protocol, wanted: SocketAddr) -> Option<(u64, u32)> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [
            _slot,
            local,
            _remote,
            state,
            _queues,
            _timer,
            _retransmits,
            uid,
            _timeout,
            inode,
            ..,
        ] = fields[..]
        else {
            return None;
        };
        let (address, port) = local.split_once(':')?;
        if u16::from_str_radix(port, 16).ok()? != wanted.port()
            || (protocol == Protocol::Tcp && state != LISTEN)
        {
            return None;
        }
        let address = parse_address(address)?;
        let overlaps =
            address.is_unspecified() || wanted.ip().is_unspecified() || address == wanted.ip();
        overlaps.then_some((inode.parse().ok()?, uid.parse().ok()?))
    })
}

/// Addresses in /proc/net are 32-bit words in the host's byte order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        u32::from_str_radix(text.get(at..at + 8)?, 16)
            .ok()
            .map(u32::to_ne_bytes)
    };
    if text.len() == 8 {
        return Some(IpAddr::V4(Ipv4Addr::from(word(0)?)));
    }
    let mut bytes = [0; 16];
    for (index, part) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *part = word(index * 8)?;
    }
    let address = Ipv6Addr::from(bytes);
    Some(
        address
            .to_ipv4_mapped()
            .map_or(IpAddr::V6(address), IpAddr::V4),
    )
}

fn find_process(inode: u64) -> Option<u32> {
    let link = format!("socket:[{inode}]");
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .find_map(|process| {
            let pid: u32 = process.file_name().to_str()?.parse().ok()?;
            let descriptors = std::fs::read_dir(process.path().join("fd")).ok()?;
            let holds = |entry: std::fs::DirEntry| {
                std::fs::read_link(entry.path())
                    .is_ok_and(|target| target.as_os_str() == link.as_str())
            };
            descriptors.flatten().any(holds).then_some(pid)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(required: &[SocketAddr], optional: &[SocketAddr]) -> BindRequest {
        BindRequest {
            protocol: Protocol::Tcp,
            required: required.to_vec(),
            optional: optional.to_vec(),
        }
    }

    #[test]
    fn a_taken_port_names_its_owner() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let Err(PublishError::InUse {
            owner: Some(owner), ..
        }) = bind(&request(&[address], &[]))
        else {
            panic!("bound twice, or the owner was not found")
        };
        assert_eq!(owner.pid, Some(std::process::id()));
        let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
        let error = bind(&request(&[everywhere], &[])).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
    }

    #[test]
    fn a_taken_optional_address_is_skipped_and_required_ones_are_all_or_nothing() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let holder = std::net::TcpListener::bind(taken).unwrap();
        let free = SocketAddr::from(([127, 64, 9, 9], taken.port()));
        let bound = bind(&request(&[free], &[taken])).unwrap();
        assert_eq!(
            bound
                .sockets
                .iter()
                .map(|socket| socket.1)
                .collect::<Vec<_>>(),
            [free]
        );
        assert!(
            matches!(bound.skipped[..], [(address, PublishError::InUse { .. })] if address == taken)
        );
        drop(bound);
        assert!(bind(&request(&[free, taken], &[])).is_err());
        std::net::TcpListener::bind(free).unwrap();
        drop(holder);
    }

    #[test]
    fn addresses_of_proc_are_read() {
        assert_eq!(
            parse_address("0100007F"),
            Some("127.0.0.1".parse().unwrap())
        );
        assert_eq!(
            parse_address("00000000000000000000000001000000"),
            Some("::1".parse().unwrap())
        );
        assert_eq!(
            parse_address("0000000000000000FFFF00000100007F"),
            Some("127.0.0.1".parse().unwrap())
        );
        assert_eq!(parse_address("xyz"), None);
    }
}
