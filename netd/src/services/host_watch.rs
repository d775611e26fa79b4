//! Told by the kernel whenever the host's own network changes: interfaces, addresses, routes (rtnetlink(7)).
//! What changed is not read: whoever cares looks again, so a lost message costs nothing. A host whose
//! network stands still never wakes us.

use std::io;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE (linux/rtnetlink.h).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// A VPN that comes up changes an interface, addresses and many routes, one after the other.
const SETTLE: Duration = Duration::from_millis(200);

/// Counts changes of the host's network.
pub type HostChanges = watch::Receiver<u64>;

/// Follows the host's network until nobody listens; without netlink nothing is ever told.
pub async fn follow(changes: watch::Sender<u64>) {
    let socket = match open() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "cannot follow the host's network; its changes count after a reload");
            return;
        }
    };
    loop {
        tokio::select! {
            outcome = drain(&socket) => if let Err(error) = outcome {
                tracing::warn!(%error, "cannot follow the host's network any more");
                return;
            },
            () = changes.closed() => return,
        }
        tokio::time::sleep(SETTLE).await;
        while let Ok(Ok(())) = tokio::time::timeout(Duration::ZERO, drain(&socket)).await {}
        changes.send_modify(|number| *number += 1);
    }
}

fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    // Protocol 0 is NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    crate::sys::watched(socket)
}

/// Waits for messages and forgets them.
async fn drain(socket: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut buffer = [0_u8; 4096];
    loop {
        let mut ready = socket.readable().await?;
        let mut any = false;
        loop {
            match rustix::net::recv(socket.get_ref(), &mut buffer[..], RecvFlags::TRUNC) {
                // ENOBUFS: there were more than fit, which says the same.
                Ok(_) | Err(Errno::NOBUFS) => any = true,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        if any {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_idle_host_tells_nothing_and_a_gone_listener_ends_it() {
        let (sender, receiver) = watch::channel(0);
        let following = tokio::spawn(follow(sender));
        drop(receiver);
        tokio::time::timeout(Duration::from_secs(20), following)
            .await
            .unwrap()
            .unwrap();
    }
}
