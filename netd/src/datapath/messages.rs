//! What the packet thread is told ([`Command`]) and what it tells ([`Notice`]).
//! Both cross bounded queues; nothing here is per packet.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use control::api::GuestAnswer;
use control::egress::FlowQuestion;
use control::mac::MacAddress;
use control::names::GuestName;
use control::port::Protocol;
use tokio::sync::oneshot;

use super::capture::{CaptureId, CaptureReader, NewCapture};
use super::egress::Checked;
use crate::engine::counters::{LinkCounters, NetworkCounters};
use crate::engine::services::{LeaseEvent, LinkId};
use crate::engine::settings::NetworkSettings;
use crate::io::publish::BoundSockets;
use crate::io::vhost::{Order, OrderError, Session};

/// How frames of one guest reach us.
#[derive(Debug)]
pub enum LinkTransport {
    /// QEMU's `-netdev stream`: a connected unix or TCP socket, each frame after its length (u32, big-endian).
    Stream(OwnedFd),
    /// A tap device's descriptor (IFF_TAP | IFF_NO_PI).
    Tap {
        /// The descriptor, from wherever it was opened.
        descriptor: OwnedFd,
        /// Opened with IFF_VNET_HDR: checksums and segmentation are left to whoever needs them.
        vnet_header: bool,
    },
    /// A bound unix datagram socket, a frame each datagram (QEMU's `-netdev dgram`, vfkit).
    Dgram(OwnedFd),
    /// A vhost-user device: [`Command::Vhost`] says where the guest's queues are.
    Vhost(Session),
    /// A packet socket (AF_PACKET, SOCK_RAW): the way of a bridged network to its LAN.
    Uplink {
        /// The socket, from wherever it was opened.
        descriptor: OwnedFd,
        /// The interface's number.
        interface: u32,
    },
}

/// A link to be attached.
#[derive(Debug)]
pub struct NewLink {
    /// The descriptor and its kind.
    pub transport: LinkTransport,
    /// Whose it is, where known.
    pub guest: Option<GuestName>,
    /// The guest's MAC where the configuration says one: then no other link may speak for it.
    pub mac: Option<MacAddress>,
}

/// A published port, for [`Command::Unpublish`] and [`Command::Retarget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublishId(pub u32);

/// A published port: ready sockets (see [`crate::io::publish::bind`]) and where they lead.
#[derive(Debug)]
pub struct NewPublish {
    /// TCP or UDP, the same as in `sockets`.
    pub protocol: Protocol,
    /// Whose port: its link is watched for it.
    pub guest: GuestName,
    /// The guest's address; `None` = not known yet, connections are refused meanwhile.
    pub address: Option<IpAddr>,
    /// The guest's port.
    pub port: u16,
    /// Bound sockets; those of TCP are opened while the guest's port takes connections.
    pub sockets: BoundSockets,
}

/// Tells which forwarded DNS query an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DnsToken(pub u64);

/// An order to the packet thread.
#[derive(Debug)]
pub enum Command {
    /// Take a link; answers with its number, or `None` if the descriptor is of no use (logged).
    AttachLink {
        /// The link.
        link: NewLink,
        /// Told when it is in use.
        reply: oneshot::Sender<Option<LinkId>>,
    },
    /// What a VMM wants of the device that a link is.
    Vhost {
        /// The link.
        link: LinkId,
        /// What to do.
        order: Order,
        /// Told when it is done.
        reply: oneshot::Sender<Result<u16, OrderError>>,
    },
    /// Close a link and end its flows; [`Notice::LinkDown`] follows.
    DetachLink(LinkId),
    /// Start to serve ready sockets.
    Publish {
        /// What to serve.
        publish: NewPublish,
        /// Told its number.
        reply: oneshot::Sender<PublishId>,
    },
    /// The guest behind a published port has another address now (`None`: none).
    Retarget {
        /// Which.
        id: PublishId,
        /// Where it leads from now on; open connections stay.
        address: Option<IpAddr>,
    },
    /// Close a published port's sockets; open connections stay.
    Unpublish(PublishId),
    /// New settings; subnet and gateway may not change while flows exist (they are ended).
    Reconfigure(Box<NetworkSettings>),
    /// The answer to a [`Notice::DnsQuery`].
    DnsAnswer {
        /// From the notice.
        token: DnsToken,
        /// The DNS message for the guest.
        payload: Vec<u8>,
    },
    /// What the guests' published ports answer.
    GuestAnswers(oneshot::Sender<HashMap<PublishId, GuestAnswer>>),
    /// Counters and links as they are now.
    Snapshot(oneshot::Sender<Snapshot>),
    /// Flows as they are now, those that carried most first.
    Flows {
        /// Only of this guest's links.
        guest: Option<GuestName>,
        /// At most so many.
        limit: usize,
        /// Told them.
        reply: oneshot::Sender<Vec<FlowSnapshot>>,
    },
    /// What would become of a guest's flow.
    Check {
        /// The guest.
        guest: GuestName,
        /// The flow.
        question: FlowQuestion,
        /// Told the answer.
        reply: oneshot::Sender<Checked>,
    },
    /// Ask every guest who has an address.
    Seek {
        /// Whose owner is sought.
        address: IpAddr,
        /// Told when it was heard last, before the question.
        reply: oneshot::Sender<Option<Instant>>,
    },
    /// A query that came over TCP: may the guest ask for that name outside?
    AskName {
        /// The guest, where known.
        guest: Option<GuestName>,
        /// The DNS message.
        query: Vec<u8>,
        /// Told the refusal, if it may not.
        reply: oneshot::Sender<Option<Vec<u8>>>,
    },
    /// An answer that will leave over TCP once this is done.
    LearnAnswer {
        /// The guest, where known.
        guest: Option<GuestName>,
        /// The DNS message.
        answer: Vec<u8>,
        /// Told when its addresses are known.
        done: oneshot::Sender<()>,
    },
    /// Begin to capture frames.
    StartCapture {
        /// Which.
        wanted: NewCapture,
        /// Told where they come out; nothing if too many captures run.
        reply: oneshot::Sender<Option<CaptureReader>>,
    },
    /// End a capture; its reader gets what waits and the counts.
    StopCapture(CaptureId),
    /// Run a closure on the gateway services inside the packet thread (reload reservations, list leases ...).
    Services(ServicesCall),
    /// End every flow and the thread.
    Shutdown,
}

/// A closure for [`Command::Services`]; it must take microseconds. It reaches the concrete services by
/// `as_any_mut().downcast_mut()` and answers through a channel that it captured.
pub struct ServicesCall(pub Box<ServicesClosure>);

/// What [`ServicesCall`] boxes.
pub type ServicesClosure = dyn FnOnce(&mut dyn crate::engine::services::GatewayServices) + Send;

impl std::fmt::Debug for ServicesCall {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ServicesCall")
    }
}

/// Why a link went away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEnd {
    /// By [`Command::DetachLink`] or shutdown.
    Detached,
    /// The other end closed it.
    Closed,
    /// The other end sent something that is no frame.
    Garbage(String),
    /// The descriptor failed.
    Failed(String),
}

/// News from the packet thread.
#[derive(Debug)]
pub enum Notice {
    /// A link is in use.
    LinkUp {
        /// Its number.
        link: LinkId,
        /// Whose, where known.
        guest: Option<GuestName>,
    },
    /// A link is gone.
    LinkDown {
        /// Its number.
        link: LinkId,
        /// Whose, where known.
        guest: Option<GuestName>,
        /// Why.
        end: LinkEnd,
    },
    /// A MAC was seen on a link for the first time.
    MacLearned {
        /// The address.
        mac: MacAddress,
        /// Where.
        link: LinkId,
        /// Whose link, where known.
        guest: Option<GuestName>,
    },
    /// From the services: a lease was bound or ended.
    Lease(LeaseEvent),
    /// A query that the services want forwarded; answer by [`Command::DnsAnswer`] within 10 s.
    DnsQuery {
        /// For the answer.
        token: DnsToken,
        /// The DNS message.
        payload: Vec<u8>,
        /// The asking address.
        address: IpAddr,
        /// The asking guest, where known.
        guest: Option<GuestName>,
    },
    /// A guest connected to a TCP service of the gateway; bytes go both ways over `stream`.
    ServiceStream {
        /// The gateway's port.
        port: u16,
        /// The guest's end.
        peer: SocketAddr,
        /// The guest, where known.
        guest: Option<GuestName>,
        /// Our half of a socket pair, non-blocking.
        stream: UnixStream,
    },
    /// A guest wanted something that is refused. At most one a second; `more` = how many were left out.
    Refused {
        /// The guest, where known.
        guest: Option<GuestName>,
        /// TCP, UDP or ICMP.
        protocol: &'static str,
        /// What it wanted.
        destination: SocketAddr,
        /// Why not.
        reason: Cow<'static, str>,
        /// Refusals since the last notice that were not told one by one.
        more: u64,
    },
    /// A guest's rate limit drops datagrams. Told again after a while.
    Limited {
        /// The guest.
        guest: GuestName,
        /// Datagrams dropped since its limit was set.
        dropped: u64,
    },
    /// Something about the host that a person should know, told once (no ping sockets, out of descriptors ...).
    HostLimit {
        /// What is missing.
        message: String,
        /// The command that mends it.
        hint: Option<String>,
    },
}

/// One link in a [`Snapshot`].
#[derive(Clone, Debug)]
pub struct LinkSnapshot {
    /// Its number.
    pub link: LinkId,
    /// Whose.
    pub guest: Option<GuestName>,
    /// "stream", "tap", "dgram", "vhost-user", "uplink".
    pub kind: &'static str,
    /// MACs learned on it.
    pub macs: Vec<MacAddress>,
    /// Counters.
    pub counters: LinkCounters,
}

/// One flow.
#[derive(Clone, Debug)]
pub struct FlowSnapshot {
    /// "tcp", "udp" or "icmp".
    pub protocol: &'static str,
    /// The link it uses, where the guest has been found.
    pub link: Option<LinkId>,
    /// The guest behind that link, where it has a name.
    pub guest_name: Option<GuestName>,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end as the guest sees it; unspecified for a UDP mapping that has not sent.
    pub remote: SocketAddr,
    /// The name by which the guest learned that address last.
    pub name: Option<String>,
    /// The guest began (false: a published port).
    pub outbound: bool,
    /// For people: "dialing", "open", "closing", ...
    pub state: &'static str,
    /// Time since it began.
    pub age: Duration,
    /// Time without a packet.
    pub idle: Duration,
    /// What passed.
    pub traffic: Traffic,
    /// Segments sent to the guest once more.
    pub retransmits: u64,
}

/// What passed of one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Payload bytes from the guest.
    pub bytes_out: u64,
    /// Payload bytes to the guest.
    pub bytes_in: u64,
    /// Packets from the guest.
    pub packets_out: u64,
    /// Packets to the guest.
    pub packets_in: u64,
}

impl Traffic {
    /// Packets of a guest.
    pub(super) fn sent(&mut self, packets: usize, bytes: usize) {
        self.packets_out += packets as u64;
        self.bytes_out += bytes as u64;
    }

    /// A packet to a guest.
    pub(super) fn received(&mut self, bytes: usize) {
        self.packets_in += 1;
        self.bytes_in += bytes as u64;
    }
}

/// The packet thread's state as numbers.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Network counters.
    pub counters: NetworkCounters,
    /// Links, by number.
    pub links: Vec<LinkSnapshot>,
    /// TCP flows there are.
    pub tcp_flows: usize,
    /// UDP mappings there are.
    pub udp_mappings: usize,
    /// Payload bytes resting in buffers.
    pub buffered_bytes: usize,
    /// The address table: address, MAC, link.
    pub neighbours: Vec<(IpAddr, MacAddress, LinkId)>,
}
