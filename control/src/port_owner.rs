//! Who has a port of this host: sockets from `/proc/net`, their processes from `/proc/PID/fd`.
//! What the kernel hides from this user stays unknown and is said to be. It takes milliseconds on a busy
//! machine, so no packet waits for it. See proc_pid_net(5) and proc_pid_fd(5).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use crate::port::Protocol;

/// A socket on a port, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PortOwner {
    /// Where it is bound.
    pub address: SocketAddr,
    /// User id of the socket.
    pub uid: u32,
    /// That user's name, where /etc/passwd has it.
    pub user: Option<String>,
    /// The process, where the kernel shows it to us.
    pub process: Option<Process>,
}

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name, as `ps` shows it.
    pub program: String,
    /// Its command line, shortened.
    pub command: String,
    /// The systemd unit it belongs to.
    pub unit: Option<String>,
}

impl PortOwner {
    /// The command that shows the process to somebody who may see it.
    #[must_use]
    pub fn look_up(&self, protocol: Protocol) -> String {
        let which = match protocol {
            Protocol::Tcp => "-ltnp",
            Protocol::Udp => "-lunp",
        };
        format!("sudo ss {which} 'sport = :{}'", self.address.port())
    }

    /// The command that ends it, as far as one is known.
    #[must_use]
    pub fn stop(&self) -> Option<String> {
        let process = self.process.as_ref()?;
        Some(match &process.unit {
            Some(unit) if self.uid == 0 => format!("sudo systemctl stop {unit}"),
            Some(_) | None => format!("kill {}", process.pid),
        })
    }
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.process, &self.user) {
            (Some(process), _) => process.fmt(f),
            (None, Some(user)) => write!(f, "a process of user {user} (uid {})", self.uid),
            (None, None) => write!(f, "a process of uid {}", self.uid),
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}", self.program, self.pid)?;
        if self.command != self.program && !self.command.is_empty() {
            write!(f, ", `{}`", self.command)?;
        }
        if let Some(unit) = &self.unit {
            write!(f, ", {unit}")?;
        }
        f.write_str(")")
    }
}

/// Who is in the way of binding `address`, if anybody is.
#[must_use]
pub fn in_the_way(protocol: Protocol, address: SocketAddr) -> Option<PortOwner> {
    let sockets = sockets_on(protocol, address.port());
    let socket = sockets.into_iter().find(|socket| {
        let held = socket.address.ip().to_canonical();
        let wanted = address.ip().to_canonical();
        // "[::]" without IPV6_V6ONLY has the IPv4 port too.
        let everywhere = held.is_unspecified() || wanted.is_unspecified();
        held == wanted || everywhere
    });
    socket.map(Socket::owner)
}

/// Everybody who listens on a port, by address.
#[must_use]
pub fn listeners(protocol: Protocol, port: u16) -> Vec<PortOwner> {
    let mut found: Vec<PortOwner> = sockets_on(protocol, port)
        .into_iter()
        .map(Socket::owner)
        .collect();
    found.sort_by_key(|owner| owner.address);
    found
}

/// Whether a process has a unix socket bound to `path` (in this network namespace), and which.
#[must_use]
pub fn unix_owner(path: &Path) -> Option<Option<Process>> {
    let table = std::fs::read_to_string("/proc/net/unix").ok()?;
    let path = path.to_str()?;
    let inodes: Vec<u64> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            // Num RefCount Protocol Flags Type St Inode Path; only a bound one has the path.
            let inode = line.split_ascii_whitespace().nth(6)?;
            let (_, its_path) = line.split_once(&format!(" {inode} "))?;
            (its_path == path).then(|| inode.parse().ok())?
        })
        .collect();
    if inodes.is_empty() {
        return None;
    }
    // Its accepted connections have the path too, and those that wait have no process yet.
    Some(inodes.into_iter().take(4).find_map(process_of))
}

/// A line of /proc/net.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    address: SocketAddr,
    uid: u32,
    inode: u64,
}

impl Socket {
    fn owner(self) -> PortOwner {
        PortOwner {
            address: self.address,
            uid: self.uid,
            user: user_name(self.uid),
            process: process_of(self.inode),
        }
    }
}

fn sockets_on(protocol: Protocol, port: u16) -> Vec<Socket> {
    let mut found = Vec::new();
    for family in ["", "6"] {
        let table = std::fs::read_to_string(format!("/proc/net/{protocol}{family}"));
        let table = table.unwrap_or_default();
        found.extend(
            table
                .lines()
                .skip(1)
                .filter_map(|line| socket(line, protocol, port)),
        );
    }
    found
}

/// A socket that waits for anybody on `port`: TCP that listens, or UDP without a peer.
fn socket(line: &str, protocol: Protocol, port: u16) -> Option<Socket> {
    const LISTEN: &str = "0A";
    const UNCONNECTED: &str = "07";
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
    let (address, its_port) = local.split_once(':')?;
    let its_port = u16::from_str_radix(its_port, 16).ok()?;
    let waits = match protocol {
        Protocol::Tcp => state == LISTEN,
        Protocol::Udp => state == UNCONNECTED,
    };
    if its_port != port || !waits {
        return None;
    }
    Some(Socket {
        address: SocketAddr::new(parse_address(address)?, port),
        uid: uid.parse().ok()?,
        inode: inode.parse().ok()?,
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
    Some(IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical())
}

fn process_of(inode: u64) -> Option<Process> {
    let link = format!("socket:[{inode}]");
    let pid = std::fs::read_dir("/proc")
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
        })?;
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    Some(Process {
        pid,
        program: read("comm").unwrap_or_default().trim_end().to_owned(),
        command: command_line(&read("cmdline").unwrap_or_default()),
        unit: unit_of(&read("cgroup").unwrap_or_default()),
    })
}

/// Arguments end with a zero byte; what a terminal would obey is made visible.
fn command_line(bytes: &str) -> String {
    const LONGEST: usize = 80;
    let line = bytes.trim_end_matches('\0').replace('\0', " ");
    let mut shown: String = line
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if line.chars().count() > LONGEST {
        shown.push_str("...");
    }
    shown
}

/// The innermost service in a cgroup path: `0::/system.slice/nginx.service`.
fn unit_of(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let unit = path
        .rsplit('/')
        .find(|part| part.ends_with(".service") && !part.starts_with("user@"))?;
    Some(unit.escape_debug().to_string())
}

fn user_name(uid: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_with_its_process() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let owner = in_the_way(Protocol::Tcp, address).unwrap();
        assert_eq!(owner.address, address);
        let process = owner.process.unwrap();
        assert_eq!(process.pid, std::process::id());
        assert!(
            process
                .to_string()
                .contains(&format!("pid {}", process.pid))
        );
        let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
        assert!(in_the_way(Protocol::Tcp, everywhere).is_some());
        let elsewhere = SocketAddr::from(([127, 77, 0, 1], address.port()));
        assert_eq!(in_the_way(Protocol::Tcp, elsewhere), None);
        assert_eq!(in_the_way(Protocol::Udp, address), None);
        assert_eq!(listeners(Protocol::Tcp, address.port()).len(), 1);
    }

    #[test]
    fn a_process_that_cannot_be_seen_is_told_by_its_user() {
        let owner = PortOwner {
            address: "0.0.0.0:80".parse().unwrap(),
            uid: 0,
            user: Some("root".to_owned()),
            process: None,
        };
        assert_eq!(owner.to_string(), "a process of user root (uid 0)");
        assert_eq!(owner.look_up(Protocol::Tcp), "sudo ss -ltnp 'sport = :80'");
        assert_eq!(owner.stop(), None);
    }

    #[test]
    fn lines_of_proc_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1";
        let found = socket(line, Protocol::Tcp, 8080).unwrap();
        assert_eq!((found.uid, found.inode), (1000, 4711));
        assert_eq!(found.address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(socket(line, Protocol::Tcp, 80), None);
        assert_eq!(
            socket(&line.replace(" 0A ", " 01 "), Protocol::Tcp, 8080),
            None
        );
        assert_eq!(socket("   0: zz", Protocol::Tcp, 8080), None);
        for (text, address) in [
            ("00000000000000000000000001000000", "::1"),
            ("0000000000000000FFFF00000100007F", "127.0.0.1"),
        ] {
            assert_eq!(parse_address(text), Some(address.parse().unwrap()));
        }
    }

    #[test]
    fn command_and_unit_are_fit_to_show() {
        assert_eq!(
            command_line("nginx\0-g\0daemon off;\0"),
            "nginx -g daemon off;"
        );
        assert_eq!(command_line("a\u{1b}[2J\0"), "a\\u{1b}[2J");
        assert_eq!(command_line(&"x".repeat(100)).len(), 83);
        let unit = |path: &str| unit_of(&format!("1:net:/x\n0::{path}\n"));
        assert_eq!(
            unit("/system.slice/nginx.service"),
            Some("nginx.service".to_owned())
        );
        assert_eq!(
            unit("/user.slice/user@1000.service/app.slice/term.scope"),
            None
        );
        assert_eq!(unit("/"), None);
    }
}
