//! R/link.sock: somebody who has the right to a tap opens it and hands the descriptor over, so that netd
//! needs no right of its own. One message is one JSON object with one descriptor (SCM_RIGHTS, unix(7)) on a
//! SOCK_SEQPACKET socket; the answer is one JSON object. Only netd's own user and root are heard.

use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control::api::{LinkAnswer, LinkHandover, LinkKind, UplinkHandover};
use control::failure::{Failure, FailureKind};
use rustix::fd::OwnedFd;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

use crate::datapath::LinkTransport;

/// A handover has under 200 bytes.
const MESSAGE_LIMIT: usize = 4_096;
/// Descriptors taken out of one message, to close those that should not be there.
const DESCRIPTOR_LIMIT: usize = 16;
/// A client that says nothing is gone.
const IDLE: Duration = Duration::from_secs(10);
const MOST_CLIENTS: usize = 16;
const BACKLOG: i32 = 16;

/// A good message with its descriptor.
#[derive(Debug)]
pub enum Handed {
    /// A guest's link.
    Link(LinkHandover, LinkTransport),
    /// A bridged network's way to its LAN.
    Uplink(UplinkHandover, OwnedFd),
}

/// The listening socket; its file goes with it.
#[derive(Debug)]
pub struct HandoverSocket {
    listener: AsyncFd<OwnedFd>,
    path: PathBuf,
}

impl Drop for HandoverSocket {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

impl HandoverSocket {
    /// Binds in place of a dead daemon's socket; hold the daemon's lock first.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self {
            listener: crate::sys::watched(socket)?,
            path: path.to_owned(),
        })
    }

    /// Answers handovers for ever; `plug` does what a good one asks for.
    pub async fn serve<P, A>(self, plug: P)
    where
        P: Fn(Handed) -> A + Send + Sync + 'static,
        A: Future<Output = LinkAnswer> + Send,
    {
        let plug = Arc::new(plug);
        let places = Arc::new(Semaphore::new(MOST_CLIENTS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let accepted = self
                .listener
                .async_io(tokio::io::Interest::READABLE, |listener| {
                    Ok(rustix::net::accept_with(
                        listener,
                        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
                    )?)
                })
                .await;
            match accepted {
                Ok(client) => {
                    let plug = Arc::clone(&plug);
                    tokio::spawn(async move {
                        if let Err(error) = serve_client(client, &*plug).await {
                            tracing::debug!(%error, "link handover connection ended");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "link handover: accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn serve_client<P, A>(client: OwnedFd, plug: &P) -> io::Result<()>
where
    P: Fn(Handed) -> A,
    A: Future<Output = LinkAnswer>,
{
    let peer = rustix::net::sockopt::socket_peercred(&client)?;
    let allowed = peer.uid.is_root() || peer.uid == rustix::process::geteuid();
    let client = crate::sys::watched(client)?;
    loop {
        let received = tokio::time::timeout(
            IDLE,
            client.async_io(tokio::io::Interest::READABLE, receive),
        )
        .await;
        let Ok(received) = received else {
            return Ok(());
        };
        let Some((bytes, descriptors, cut)) = received? else {
            return Ok(());
        };
        let request = if allowed {
            read(&bytes, descriptors, cut)
        } else {
            Err(Failure::new(
                FailureKind::Forbidden,
                "only netd's own user and root may plug links in",
            ))
        };
        let answer = match request {
            Ok(handed) => plug(handed).await,
            Err(failure) => LinkAnswer::Error(failure),
        };
        let text = serde_json::to_vec(&answer)?;
        client
            .async_io(tokio::io::Interest::WRITABLE, |client| {
                let mut none = SendAncillaryBuffer::default();
                rustix::net::sendmsg(
                    client,
                    &[IoSlice::new(&text)],
                    &mut none,
                    SendFlags::NOSIGNAL,
                )?;
                Ok(())
            })
            .await?;
    }
}

type Received = (Vec<u8>, Vec<OwnedFd>, bool);

/// One message with its descriptors; `None` at the end of the connection.
fn receive(client: &OwnedFd) -> io::Result<Option<Received>> {
    let mut bytes = vec![0; MESSAGE_LIMIT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTOR_LIMIT))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        client,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 && descriptors.is_empty() {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    let cut = received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Some((bytes, descriptors, cut)))
}

/// Checks a message; descriptors that are not used are closed.
fn read(bytes: &[u8], mut descriptors: Vec<OwnedFd>, cut: bool) -> Result<Handed, Failure> {
    if cut {
        return Err(Failure::invalid(format!(
            "a handover has at most {MESSAGE_LIMIT} bytes and one descriptor"
        )));
    }
    let bridge: Option<UplinkHandover> = serde_json::from_slice(bytes).ok();
    let count = descriptors.len();
    let (Some(descriptor), 1) = (descriptors.pop(), count) else {
        return Err(Failure::invalid(format!(
            "a handover carries one descriptor, this one {count}"
        )));
    };
    rustix::io::ioctl_fionbio(&descriptor, true).map_err(|errno| {
        Failure::invalid(format!("the descriptor is of no use for a link: {errno}"))
    })?;
    if let Some(handover) = bridge {
        let domain = rustix::net::sockopt::socket_domain(&descriptor);
        let kind = rustix::net::sockopt::socket_type(&descriptor);
        if domain != Ok(AddressFamily::PACKET) || kind != Ok(SocketType::RAW) {
            return Err(Failure::invalid(
                "the descriptor is no packet socket (AF_PACKET, SOCK_RAW)",
            ));
        }
        return Ok(Handed::Uplink(handover, descriptor));
    }
    let handover: LinkHandover = serde_json::from_slice(bytes)
        .map_err(|error| Failure::invalid(format!("the handover cannot be read: {error}")))?;
    let transport = match handover.kind {
        LinkKind::Tap => {
            check_tap(&descriptor)?;
            LinkTransport::Tap {
                descriptor,
                vnet_header: handover.vnet_header,
            }
        }
        LinkKind::Stream if handover.vnet_header => {
            return Err(Failure::new(
                FailureKind::Unsupported,
                "a stream link carries no virtio-net header",
            ));
        }
        LinkKind::Stream => {
            let kind = rustix::net::sockopt::socket_type(&descriptor);
            if kind != Ok(SocketType::STREAM) {
                return Err(Failure::invalid("the descriptor is no stream socket"));
            }
            LinkTransport::Stream(descriptor)
        }
    };
    Ok(Handed::Link(handover, transport))
}

/// /dev/net/tun is character device 10:200.
fn check_tap(descriptor: &OwnedFd) -> Result<(), Failure> {
    let found = rustix::fs::fstat(descriptor)
        .map_err(|errno| Failure::invalid(format!("cannot look at the descriptor: {errno}")))?;
    let is_device =
        rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::CharacterDevice;
    let is_tun = (
        rustix::fs::major(found.st_rdev),
        rustix::fs::minor(found.st_rdev),
    ) == (10, 200);
    if is_device && is_tun {
        Ok(())
    } else {
        Err(
            Failure::invalid("the descriptor is no tap (character device 10:200)")
                .with_hint("open /dev/net/tun, then ioctl TUNSETIFF with IFF_TAP | IFF_NO_PI"),
        )
    }
}
