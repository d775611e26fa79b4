//! Whether a guest is there: it is asked by ARP (RFC 826), which a station answers whatever its firewall says,
//! as soon as it has its address. A lease alone says little: it outlives the guest, and the journal has it
//! after a restart.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::api::GuestPresence;
use control::failure::Failure;
use control::names::GuestName;
use control::server::Params;

use super::network::RunningNetwork;
use super::state::State;

/// Between two questions: an emulated guest that is busy takes some tens of milliseconds.
const PAUSE: Duration = Duration::from_millis(25);
/// Questions at most.
const QUESTIONS: usize = 12;

/// The answer of `GET /v1/guests/{name}/presence`, within [`PAUSE`] times [`QUESTIONS`].
///
/// # Errors
/// When the configuration names no such guest, or its network does not run.
pub(super) async fn ask(state: &State, params: &Params) -> Result<GuestPresence, Failure> {
    let name: GuestName = params.required("name")?;
    let guest = state.guest(&name)?;
    let network = state.network(&guest.network)?;
    let snapshot = network.snapshot().await?;
    let links: Vec<_> = snapshot
        .links
        .iter()
        .filter(|link| link.guest.as_ref() == Some(&name))
        .map(|link| link.link)
        .collect();
    let seen = snapshot.neighbours.iter().find_map(|entry| match entry {
        (IpAddr::V4(address), _, link) if links.contains(link) => Some(*address),
        (IpAddr::V4(_) | IpAddr::V6(_), _, _) => None,
    });
    let given = network.services().await?.guests.get(&name).copied();
    let address = given.or(seen);
    let plugged = !links.is_empty();
    let answers = match address {
        Some(address) if plugged => answers(&network, address).await?,
        Some(_) | None => false,
    };
    Ok(GuestPresence {
        guest: name,
        plugged,
        address,
        answers,
    })
}

async fn answers(network: &Arc<RunningNetwork>, address: Ipv4Addr) -> Result<bool, Failure> {
    let before: Option<Instant> = network.seek(address.into()).await?;
    for _ in 0..QUESTIONS {
        tokio::time::sleep(PAUSE).await;
        if network.seek(address.into()).await? > before {
            return Ok(true);
        }
    }
    Ok(false)
}
