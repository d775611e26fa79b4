//! Egress policy outside the packet thread, which decides all of it: what the configuration says becomes
//! its rules, and DNS over TCP asks it about names.

use std::collections::BTreeMap;
use std::sync::Arc;

use control::config::{Config, Network};
use control::names::GuestName;
use control::rate::RateLimit;
use tokio::sync::oneshot;

use crate::datapath::Command;
use crate::engine::policy::Policies;
use crate::services::network::RunningNetwork;

/// The rules of a network and its guests.
#[must_use]
pub fn policies(config: &Config, network: &Network) -> Policies {
    let guests = config.guests_on(&network.name);
    let guests = guests.map(|guest| (&guest.name, &guest.egress));
    Policies::new(&network.egress, guests)
}

/// The limits of its guests.
#[must_use]
pub fn rates(config: &Config, network: &Network) -> BTreeMap<GuestName, RateLimit> {
    config
        .guests_on(&network.name)
        .filter(|guest| guest.rate_limit != RateLimit::default())
        .map(|guest| (guest.name.clone(), guest.rate_limit))
        .collect()
}

/// What a guest's DNS connection asks the packet thread.
#[derive(Debug)]
pub struct NamePolicy {
    /// Whose packet thread.
    pub network: Arc<RunningNetwork>,
    /// The guest, where known.
    pub guest: Option<GuestName>,
}

impl NamePolicy {
    /// The answer to a query for a name that may not be asked for outside. A packet thread that is
    /// gone refuses nothing: nobody hears the answer.
    pub async fn refusal(&self, query: &[u8]) -> Option<Vec<u8>> {
        let (reply, answer) = oneshot::channel();
        let command = Command::AskName {
            guest: self.guest.clone(),
            query: query.to_vec(),
            reply,
        };
        self.network.command(command).ok()?;
        answer.await.ok().flatten()
    }

    /// An answer is about to leave; when this is done the guest may connect to what it says.
    pub async fn learn(&self, answer: &[u8]) {
        let (done, learned) = oneshot::channel();
        let command = Command::LearnAnswer {
            guest: self.guest.clone(),
            answer: answer.to_vec(),
            done,
        };
        if self.network.command(command).is_ok() {
            // It has ended: nobody hears the answer.
            learned.await.ok();
        }
    }
}
