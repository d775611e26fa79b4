//! What is measured: something that joins the guest's namespace to the outside one.
//!
//! The peers are here; our own daemon and the prototype are in `ours`. Every peer runs with the
//! options its own documentation names for this use.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::daemons::World;
use tests::{limit, place};

use super::bed::{Bed, FAR, OUTSIDE, Place, ROUTER, Running};
use super::measure::Programs;
use super::ours;

/// Guest ports that every backend publishes, each on the same port plus [`PUBLISHED_OFFSET`].
pub(super) const GUEST_PORTS: &[u16] = &[IPERF, LOAD, LOAD + 1, LOAD + 2, NOBODY];
/// iperf3's own port.
pub(super) const IPERF: u16 = 5201;
/// The first port of `netload serve`.
pub(super) const LOAD: u16 = 7000;
/// A port that nobody serves.
pub(super) const NOBODY: u16 = 7999;
/// From a guest's port to the published one.
pub(super) const PUBLISHED_OFFSET: u16 = 10_000;

const START_LIMIT: Duration = Duration::from_secs(10);

/// Something that joins a guest to the outside.
pub(super) trait Backend {
    /// The head of its column.
    fn name(&self) -> &'static str;

    /// Joins the guest of `bed`, with this MTU on its interface. It is ready when this returns.
    ///
    /// # Errors
    /// When it does not start, with what it said.
    fn start(&self, bed: &Bed, mtu: u32) -> Result<Session>;
}

/// A backend at work; it stops when this is dropped.
#[derive(Debug)]
pub(super) struct Session {
    /// The daemon; `None` for a plain wire.
    pub(super) daemon: Option<Running>,
    /// Where the far side reaches the guest's ports.
    pub(super) inward: Inward,
    /// Whether UDP goes through.
    pub(super) udp: bool,
    /// What plays QEMU, where the daemon wants a socket.
    pub(super) _shim: Option<Running>,
    /// The folders our own daemon lives in.
    pub(super) _world: Option<World>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(status) = self.daemon.as_mut().and_then(Running::ended) {
            super::say(&format!("    the daemon had ended by itself: {status}"));
        }
    }
}

/// How a connection gets into the guest.
#[derive(Debug, Clone, Copy)]
pub(super) enum Inward {
    /// The guest has an address of its own there.
    Routed(Ipv4Addr),
    /// By published ports on the outside address and its loopback.
    Published,
    /// Not at all.
    Never,
}

impl Session {
    /// Where a client of the far side finds this port of the guest.
    pub(super) fn published(&self, port: u16) -> Option<SocketAddrV4> {
        match self.inward {
            Inward::Routed(address) => Some(SocketAddrV4::new(address, port)),
            Inward::Published => Some(SocketAddrV4::new(OUTSIDE, port + PUBLISHED_OFFSET)),
            Inward::Never => None,
        }
    }

    /// Where a client on the outside namespace's loopback finds this port of the guest.
    pub(super) fn on_loopback(&self, port: u16) -> Option<SocketAddrV4> {
        match self.inward {
            Inward::Published => Some(SocketAddrV4::new(
                Ipv4Addr::LOCALHOST,
                port + PUBLISHED_OFFSET,
            )),
            Inward::Routed(_) | Inward::Never => None,
        }
    }
}

/// All backends, in the order of the columns.
pub(super) fn all(programs: &Programs) -> Vec<Box<dyn Backend>> {
    vec![
        Box::new(Veth),
        Box::new(Pasta),
        Box::new(Slirp),
        Box::new(ours::Prototype::new(programs)),
        Box::new(ours::Netd),
        Box::new(Passt {
            shim: programs.shim.clone(),
        }),
        Box::new(ours::NetdStream::new(programs)),
    ]
}

/// A plain wire from the guest to the far side: what this machine can do at most.
struct Veth;

const WIRE_GUEST: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const WIRE_FAR: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

impl Backend for Veth {
    fn name(&self) -> &'static str {
        "veth"
    }

    fn start(&self, bed: &Bed, mtu: u32) -> Result<Session> {
        let far = bed.namespace(Place::Far);
        let (inner, outer) = (format!("{WIRE_GUEST}/24"), format!("{WIRE_FAR}/24"));
        let guest = bed.namespace(Place::Guest);
        guest.join(("tap0", &inner), far, ("wire0", &outer))?;
        guest.run(&format!(
            "ip link set tap0 mtu {mtu} && ip route add {FAR} via {WIRE_FAR}"
        ))?;
        far.run(&format!("ip link set wire0 mtu {mtu}"))?;
        Ok(Session {
            daemon: None,
            inward: Inward::Routed(WIRE_GUEST),
            udp: true,
            _shim: None,
            _world: None,
        })
    }
}

/// pasta, of Debian's passt package.
struct Pasta;

impl Backend for Pasta {
    fn name(&self) -> &'static str {
        "pasta"
    }

    fn start(&self, bed: &Bed, mtu: u32) -> Result<Session> {
        let ports: Vec<_> = GUEST_PORTS
            .iter()
            .map(|port| format!("{}:{port}", port + PUBLISHED_OFFSET))
            .collect();
        let mut line = bed.command(Place::Outside, "pasta");
        line.args(["--foreground", "--config-net", "--netns-only"])
            .args(["--runas", "0", "--ns-ifname", "tap0"])
            .args(["--mtu", &mtu.to_string()])
            .args(["--tcp-ports", &ports.join(","), "--udp-ports", "none"])
            .args(["--tcp-ns", "none", "--udp-ns", "none"])
            .args(["--netns", &bed.path(Place::Guest)]);
        let daemon = Running::start(&mut line, Some(log("pasta")?))?;
        bed.wait_for_address(Place::Guest, "tap0")?;
        bed.wait_for_listener(Place::Outside, IPERF + PUBLISHED_OFFSET)?;
        Ok(Session {
            daemon: Some(daemon),
            inward: Inward::Published,
            udp: true,
            _shim: None,
            _world: None,
        })
    }
}

/// passt, of the same package: pasta's other half, for QEMU's stream socket.
struct Passt {
    shim: PathBuf,
}

impl Backend for Passt {
    fn name(&self) -> &'static str {
        "passt-stream"
    }

    fn start(&self, bed: &Bed, mtu: u32) -> Result<Session> {
        let socket = place::staging()?.join("passt.sock");
        drop(std::fs::remove_file(&socket));
        let ports: Vec<_> = GUEST_PORTS
            .iter()
            .map(|port| format!("{}:{port}", port + PUBLISHED_OFFSET))
            .collect();
        let mut line = bed.command(Place::Outside, "passt");
        line.args(["--foreground", "--runas", "0", "--mtu", &mtu.to_string()])
            .args(["--tcp-ports", &ports.join(","), "--udp-ports", "none"])
            .arg("--socket")
            .arg(&socket);
        let daemon = Running::start(&mut line, Some(log("passt")?))?;
        let shim = ours::start_shim(bed, &self.shim, &socket)?;
        // It lends the guest the address and the gateway of the place it runs in.
        ours::set_up_guest(bed, mtu, (OUTSIDE, ROUTER))?;
        bed.wait_for_listener(Place::Outside, IPERF + PUBLISHED_OFFSET)?;
        Ok(Session {
            daemon: Some(daemon),
            inward: Inward::Published,
            udp: true,
            _shim: Some(shim),
            _world: None,
        })
    }
}

/// slirp4netns, of Debian's package of that name.
struct Slirp;

impl Backend for Slirp {
    fn name(&self) -> &'static str {
        "slirp4netns"
    }

    fn start(&self, bed: &Bed, mtu: u32) -> Result<Session> {
        let api = place::staging()?.join("slirp.sock");
        drop(std::fs::remove_file(&api));
        let mut line = bed.command(Place::Outside, "slirp4netns");
        line.args(["--configure", "--netns-type", "path"])
            .args(["--mtu", &mtu.to_string()])
            .arg("--api-socket")
            .arg(&api)
            .args([&bed.path(Place::Guest), "tap0"]);
        let daemon = Running::start(&mut line, Some(log("slirp4netns")?))?;
        bed.wait_for_address(Place::Guest, "tap0")?;
        for port in GUEST_PORTS {
            let request = serde_json::json!({
                "execute": "add_hostfwd",
                "arguments": {
                    "proto": "tcp",
                    "host_addr": "0.0.0.0",
                    "host_port": port + PUBLISHED_OFFSET,
                    "guest_port": port,
                },
            });
            let answer = limit::retry("slirp4netns's API", START_LIMIT, || {
                ask(&api, &request.to_string())
            })?;
            ensure!(!answer.contains("error"), "slirp4netns: {answer}");
        }
        Ok(Session {
            daemon: Some(daemon),
            inward: Inward::Published,
            udp: true,
            _shim: None,
            _world: None,
        })
    }
}

/// One request to slirp4netns: JSON, then the end of our side.
fn ask(socket: &PathBuf, request: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).context("connect")?;
    stream.set_read_timeout(Some(START_LIMIT))?;
    stream.write_all(request.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Where a daemon's standard error goes; the last start wins.
pub(super) fn log(name: &str) -> Result<File> {
    let path = place::staging()?.join(format!("{name}.log"));
    File::create(&path).with_context(|| format!("create {}", path.display()))
}
