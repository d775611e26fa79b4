//! The way of a bridged network to its LAN: finds the interface, opens a packet socket where we have the right
//! (or uses one that somebody with more rights handed over), plugs it into the switch, and does so again
//! whenever the interface comes back. What is missing stands in the status, with the command that mends it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use control::host_interface::{self, HostInterface};
use control::names::NetworkName;
use control::paths::Paths;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::sync::watch;

use crate::datapath::LinkTransport;
use crate::services::host_watch::HostChanges;
use crate::services::network::RunningNetwork;

/// A socket that somebody handed over.
pub type HandedSocket = watch::Receiver<Option<Arc<OwnedFd>>>;

/// What kind of standing problem this is.
const PROBLEM: &str = "uplink";
/// An interface that fails at once must not make us spin.
const PAUSE: Duration = Duration::from_millis(500);

/// Keeps the uplink for ever; dropping the future leaves it as it is.
pub async fn keep(
    network: Arc<RunningNetwork>,
    wanted: Option<String>,
    paths: Paths,
    mut changes: HostChanges,
    mut handed: HandedSocket,
) {
    loop {
        changes.borrow_and_update();
        let socket = handed.borrow_and_update().clone();
        match attach(&network, wanted.as_deref(), &paths, socket).await {
            Ok((interface, end)) => {
                network.set_problem(PROBLEM, None);
                stay(&network, wanted.as_deref(), interface, end, &mut changes).await;
                tokio::time::sleep(PAUSE).await;
            }
            Err(problem) => {
                tracing::warn!(network = %network.name(), "{problem}");
                network.set_problem(PROBLEM, Some(problem));
                tokio::select! {
                    outcome = changes.changed() => if outcome.is_err() {
                        return;
                    },
                    outcome = handed.changed() => if outcome.is_err() {
                        return;
                    },
                }
            }
        }
    }
}

type Plugged = (
    HostInterface,
    tokio::sync::oneshot::Receiver<crate::datapath::LinkEnd>,
);

async fn attach(
    network: &RunningNetwork,
    wanted: Option<&str>,
    paths: &Paths,
    socket: Option<Arc<OwnedFd>>,
) -> Result<Plugged, String> {
    let name = network.name();
    let interface = host_interface::bridgeable(wanted)
        .map_err(|error| format!("{error} (hint: {})", error.hint(name.as_str())))?;
    let descriptor = match socket {
        Some(handed) => handed.try_clone(),
        None => open().map_err(Into::into),
    };
    let descriptor = descriptor.map_err(|error| {
        format!(
            "network {name} cannot listen on {}: {error} (hint: {})",
            interface.name,
            remedy(name, paths)
        )
    })?;
    network
        .set_lan(Some(interface.clone()))
        .map_err(|failure| failure.message)?;
    let transport = LinkTransport::Uplink {
        descriptor,
        interface: interface.index,
    };
    let (_, end) = network
        .attach(transport, "uplink", None)
        .await
        .map_err(|failure| failure.to_string())?;
    tracing::info!(network = %name, interface = interface.name, "bridged");
    Ok((interface, end))
}

/// CAP_NET_RAW is all that is needed, and only here.
fn open() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| match errno {
        // Some kernels say so to whoever lacks the right in the namespace.
        Errno::ACCESS => Errno::PERM,
        other => other,
    })
}

/// Two ways: the right for good, or one socket until netd ends.
fn remedy(network: &NetworkName, paths: &Paths) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| Path::new("sharectl-netd").into());
    format!(
        "sudo setcap cap_net_raw+ep {} and start netd again; or until netd ends: sudo env \
         SHARECTL_RUNTIME_DIR={} sharectl --config {} network bridge-socket {network}",
        program.display(),
        paths.runtime.display(),
        paths.config.display()
    )
}

/// Returns when the link has ended, or is of another interface than it should be.
async fn stay(
    network: &RunningNetwork,
    wanted: Option<&str>,
    mut interface: HostInterface,
    mut end: tokio::sync::oneshot::Receiver<crate::datapath::LinkEnd>,
    changes: &mut HostChanges,
) {
    loop {
        tokio::select! {
            _ = &mut end => return,
            outcome = changes.changed() => if outcome.is_err() {
                return;
            },
        }
        match host_interface::bridgeable(wanted) {
            Ok(now) if now == interface => {}
            Ok(now) if now.index == interface.index => {
                if let Err(failure) = network.set_lan(Some(now.clone())) {
                    tracing::warn!(network = %network.name(), %failure, "the host's new address on the LAN is not told");
                }
                interface = now;
            }
            // Another one, or none: the socket tells of a lost interface only when it is asked.
            Ok(_) | Err(_) => {
                network.detach_kind("uplink");
                end.await.ok();
                return;
            }
        }
    }
}
