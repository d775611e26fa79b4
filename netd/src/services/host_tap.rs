//! `host-access = "tap"`: the host itself as a station of a network, by a tap that root made once and this user
//! owns. Plugged in whenever it is there.

use std::sync::Arc;
use std::time::Duration;

use control::host_interface::{self, HostTap};
use control::paths::Paths;

use crate::datapath::LinkTransport;
use crate::services::host_watch::HostChanges;
use crate::services::network::RunningNetwork;

const PROBLEM: &str = "host tap";
/// A tap that fails at once must not make us spin.
const PAUSE: Duration = Duration::from_millis(500);

/// Keeps the tap plugged in for ever; dropping the future leaves it as it is.
pub async fn keep(network: Arc<RunningNetwork>, paths: Paths, mut changes: HostChanges) {
    loop {
        changes.borrow_and_update();
        match attach(&network).await {
            Ok((tap, end)) => {
                tracing::info!(network = %network.name(), "the host is on the network");
                watch(&network, &paths, &tap, end, &mut changes).await;
                tokio::time::sleep(PAUSE).await;
            }
            Err(problem) => {
                network.set_problem(PROBLEM, Some(with_hint(&network, &paths, &problem)));
                if changes.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

type End = tokio::sync::oneshot::Receiver<crate::datapath::LinkEnd>;

async fn attach(network: &RunningNetwork) -> Result<(HostTap, End), String> {
    let name = network.name().as_str();
    let tap = host_interface::host_tap(name)
        .ok_or_else(|| format!("this host has no tap {name} for network {name}"))?;
    let descriptor = crate::sys::open_tap(name, true).map_err(|error| {
        let owner = tap
            .owner
            .map_or_else(|| "root".to_owned(), |owner| owner.to_string());
        format!("cannot open the tap {name}, which belongs to user {owner}: {error}")
    })?;
    let transport = LinkTransport::Tap {
        descriptor,
        vnet_header: true,
    };
    let end = network
        .attach_host(transport, tap.mac)
        .await
        .map_err(|failure| failure.to_string())?;
    Ok((tap, end))
}

/// Returns when the link has ended; until then says what the host's side lacks.
async fn watch(
    network: &RunningNetwork,
    paths: &Paths,
    plugged: &HostTap,
    mut end: End,
    changes: &mut HostChanges,
) {
    loop {
        let now = host_interface::host_tap(network.name().as_str());
        let Some(now) = now.filter(|now| now.index == plugged.index) else {
            network.detach_kind("host-tap");
            end.await.ok();
            return;
        };
        let name = network.name();
        let wanted = network.config().host_tap;
        let problem = match wanted {
            _ if !now.up => Some(format!("the tap {name} is down")),
            Some(address) if !now.has(address) => Some(format!(
                "the tap {name} does not have the address {address}"
            )),
            Some(_) | None => None,
        };
        network.set_problem(
            PROBLEM,
            problem.map(|problem| with_hint(network, paths, &problem)),
        );
        tokio::select! {
            _ = &mut end => return,
            outcome = changes.changed() => if outcome.is_err() {
                return;
            },
        }
    }
}

fn with_hint(network: &RunningNetwork, paths: &Paths, problem: &str) -> String {
    format!(
        "{problem} (hint: sudo sharectl --config {} network host-tap create {})",
        paths.config.display(),
        network.name()
    )
}
