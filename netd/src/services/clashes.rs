//! Which networks clash with the host's own network now: looked at when the configuration is applied and
//! whenever the host's network changes (a VPN comes up, a laptop moves), told once each way.

use std::sync::{Arc, Mutex};

use control::config::Config;
use control::events::{EventBody, EventLog};
use control::host_network::{self, Clash};

use crate::services::host_watch::HostChanges;
use crate::services::network::lock;
use crate::services::state::State;

/// The clashes of now.
#[derive(Debug, Default)]
pub struct Clashes {
    known: Mutex<Vec<Clash>>,
}

impl Clashes {
    /// Looks at the host again; what is new, or gone, becomes an event.
    pub fn look(&self, config: &Config, events: &EventLog) {
        let used = match host_network::used_subnets() {
            Ok(used) => used,
            Err(error) => {
                tracing::warn!(%error, "cannot list the host's interfaces");
                return;
            }
        };
        self.replace(host_network::clashes(config, &used), events);
    }

    fn replace(&self, found: Vec<Clash>, events: &EventLog) {
        let mut known = lock(&self.known);
        for clash in found.iter().filter(|clash| !known.contains(clash)) {
            tracing::warn!("{clash} (hint: {})", clash.remedy());
            events.publish(EventBody::SubnetClash {
                network: clash.network.clone(),
                subnet: clash.subnet.to_string(),
                message: clash.to_string(),
                remedy: clash.remedy(),
            });
        }
        let clear = known
            .iter()
            .filter(|was| !found.iter().any(|now| now.network == was.network));
        for clash in clear {
            tracing::info!(network = %clash.network, "the host uses the network's subnet no more");
            events.publish(EventBody::SubnetClear {
                network: clash.network.clone(),
                subnet: clash.subnet.to_string(),
            });
        }
        *known = found;
    }

    /// For the status.
    pub fn problems(&self) -> Vec<String> {
        let known = lock(&self.known);
        let text = |clash: &Clash| format!("{clash} (hint: {})", clash.remedy());
        known.iter().map(text).collect()
    }
}

/// Follows the host's network until the daemon ends.
pub async fn follow(state: Arc<State>, mut changes: HostChanges) {
    while changes.changed().await.is_ok() {
        state.clashes.look(&state.config(), &state.events);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use control::config::Surroundings;
    use control::host_network::UsedSubnet;

    use super::*;

    #[test]
    fn a_clash_is_told_once_and_its_end_once() {
        let text = "[network.vmnet8]\nsubnet = \"10.7.0.0/24\"\n";
        let config = Config::parse(text, Path::new("c"), &Surroundings::of_process()).unwrap();
        let (clashes, events) = (Clashes::default(), EventLog::new());
        let vpn = |subnet: &str| UsedSubnet {
            subnet: subnet.parse().unwrap(),
            interface: "tun0".to_owned(),
        };
        let with = |used: &[UsedSubnet]| {
            clashes.replace(host_network::clashes(&config, used), &events);
            (events.newest(), clashes.problems().len())
        };
        assert_eq!(with(&[]), (0, 0));
        assert_eq!(with(&[vpn("10.0.0.0/8")]), (1, 1));
        assert_eq!(with(&[vpn("10.0.0.0/8")]), (1, 1));
        assert!(clashes.problems()[0].contains("sharectl network renumber vmnet8"));
        assert_eq!(with(&[vpn("10.8.0.0/16")]), (2, 0));
        assert_eq!(with(&[]), (2, 0));
    }
}
