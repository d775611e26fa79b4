//! Our own columns: the daemon behind a tap and behind QEMU's stream socket, and the prototype on smoltcp's
//! sockets (netd/examples/smoltcp_engine) that docs/decisions/0001-tcp-engine.md compares with it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tests::daemons::{Kind, World};
use tests::{limit, programs};

use super::backend::{Backend, GUEST_PORTS, Inward, PUBLISHED_OFFSET, Session, log};
use super::bed::{Bed, OUTSIDE, Place, Running};
use super::measure::Programs;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 130, 1);
/// The guest's name in our configuration.
const NAME: &str = "bench";
/// From the daemon's start to its first answer.
const START_LIMIT: Duration = Duration::from_secs(15);

const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 130, 2);
/// The address a guest on a stream socket is known by.
const GUEST_MAC: &str = "52:54:00:62:65:6e";

/// The prototype on smoltcp's sockets; TCP outward only.
pub(super) struct Prototype {
    program: PathBuf,
}

impl Prototype {
    pub(super) fn new(programs: &Programs) -> Self {
        Self {
            program: programs.prototype.clone(),
        }
    }
}

impl Backend for Prototype {
    fn name(&self) -> &'static str {
        "smoltcp"
    }

    fn start(&self, bed: &Bed, mtu: u32) -> Result<Session> {
        // It opens the tap where it is started and then goes outside.
        let mut line = bed.command(Place::Guest, &self.program);
        line.args(["tap0", &bed.path(Place::Outside)]);
        let mut daemon = Running::start(&mut line, Some(log("smoltcp")?))?;
        daemon.line()?;
        set_up_guest(bed, mtu, (GUEST, GATEWAY))?;
        Ok(Session {
            daemon: Some(daemon),
            inward: Inward::Never,
            udp: false,
            _shim: None,
            _world: None,
        })
    }
}

/// Our own daemon, as an ordinary user, with a tap that `sharectl guest attach` opened for it.
pub(super) struct Netd;

impl Backend for Netd {
    fn name(&self) -> &'static str {
        super::OURS
    }

    fn start(&self, bed: &Bed, mtu: u32) -> Result<Session> {
        let (world, daemon) = start_netd(bed, mtu)?;
        world.attach(NAME, bed.namespace(Place::Guest))?;
        set_up_guest(bed, mtu, (GUEST, GATEWAY))?;
        Ok(Session {
            daemon: Some(daemon),
            inward: Inward::Published,
            udp: true,
            _shim: None,
            _world: Some(world),
        })
    }
}

/// The same with QEMU's framing: netd/examples/qemu_shim stands between the tap and the guest's socket.
pub(super) struct NetdStream {
    shim: PathBuf,
}

impl NetdStream {
    pub(super) fn new(programs: &Programs) -> Self {
        Self {
            shim: programs.shim.clone(),
        }
    }
}

impl Backend for NetdStream {
    fn name(&self) -> &'static str {
        super::OURS_STREAM
    }

    fn start(&self, bed: &Bed, mtu: u32) -> Result<Session> {
        let (world, daemon) = start_netd(bed, mtu)?;
        let socket = world.runtime().join("guest").join(NAME).join("link.sock");
        let shim = start_shim(bed, &self.shim, &socket)?;
        set_up_guest(bed, mtu, (GUEST, GATEWAY))?;
        Ok(Session {
            daemon: Some(daemon),
            inward: Inward::Published,
            udp: true,
            _shim: Some(shim),
            _world: Some(world),
        })
    }
}

/// The part of QEMU, in the guest's namespace; it connects when the socket is there.
pub(super) fn start_shim(bed: &Bed, program: &Path, socket: &Path) -> Result<Running> {
    let mut line = bed.command(Place::Guest, program);
    line.arg(socket).arg("tap0");
    let mut shim = Running::start(&mut line, Some(log("qemu_shim")?))?;
    shim.line().context("qemu_shim")?;
    bed.run(
        Place::Guest,
        &format!("ip link set tap0 address {GUEST_MAC}"),
    )?;
    Ok(shim)
}

fn start_netd(bed: &Bed, mtu: u32) -> Result<(World, Running)> {
    let publish: Vec<_> = GUEST_PORTS
        .iter()
        .flat_map(|port| {
            [OUTSIDE, Ipv4Addr::LOCALHOST]
                .map(|bind| format!("\"{bind}:{}:{port}\"", port + PUBLISHED_OFFSET))
        })
        .collect();
    let config = format!(
        "[network.bench]\ntype = \"nat\"\nsubnet = \"192.168.130.0/24\"\nmtu = {mtu}\n\n\
         [guest.{NAME}]\nnetwork = \"bench\"\naddress = \"{GUEST}\"\nmac = \"{GUEST_MAC}\"\npublish = [{}]\n",
        publish.join(", ")
    );
    let world = World::new(&config)?.inside(bed.namespace(Place::Outside));
    let mut line = world.command(programs::folder()?.join("sharectl-netd"));
    // What a user's daemon logs, not what a test's does.
    line.env("SHARECTL_LOG", "info");
    let daemon = Running::start(&mut line, Some(log("sharectl")?))?;
    limit::retry("the daemon's first answer", START_LIMIT, || {
        world.get(Kind::Netd, "/v1/status")
    })?;
    Ok((world, daemon))
}

/// Gives the guest's tap its address and route, as a lease would.
pub(super) fn set_up_guest(
    bed: &Bed,
    mtu: u32,
    (guest, gateway): (Ipv4Addr, Ipv4Addr),
) -> Result<()> {
    bed.run(
        Place::Guest,
        &format!(
            "ip link set tap0 mtu {mtu} up && ip address add {guest}/24 dev tap0 && \
             ip route add default via {gateway}"
        ),
    )
}
