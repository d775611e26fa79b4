//! Waiting until something is there: daemons, guests, ports, mounts. What is lacking is decided by a pure function
//! over what the daemons say (ready/look.rs). Events wake the wait; what has no event, such as a guest that begins to
//! answer, is looked at four times a second.

mod look;

use std::path::PathBuf;
use std::time::Duration;

use control::api::DaemonStatus;
use control::client::Events;
use control::config::Config;
use control::names::{GuestName, ShareName};
use control::paths::Daemon;
use control::port::PortSpec;
use schemars::JsonSchema;
use serde::Serialize;

use crate::commands::any_next;
use crate::context::Context;
use crate::error::{CliError, Outcome};
use look::Facts;

/// Between two looks when nothing happens.
const TICK: Duration = Duration::from_millis(250);
/// After an event; they often come in bursts.
const SETTLE: Duration = Duration::from_millis(20);

/// Something that shall be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// All daemons answer.
    Daemons,
    /// Its link is there, it has an address, and it answers at it.
    Guest(GuestName),
    /// This published port of the host takes connections, and the guest's own does.
    Port(GuestName, u16),
    /// The same for all ports of what is published.
    Spec(GuestName, PortSpec),
    /// The host listens, or would as soon as the guest's port answers.
    Bound(GuestName, PortSpec),
    /// It is served, mounted on the host if it is to be, and mounted in these guests; with none, in any.
    Share(ShareName, Vec<GuestName>),
    /// It is mounted on the host.
    ShareOnHost(ShareName),
    /// A guest's folder is mounted here.
    GuestFolder(GuestName, PathBuf),
}

/// What is not there, why, and the command that looks further.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Missing {
    pub what: String,
    pub why: String,
    pub next: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// When a wait ends, and how long it was meant to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    limit: Duration,
    at: tokio::time::Instant,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        let now = tokio::time::Instant::now();
        // Who waits for ages waits a year.
        let longest = Duration::from_secs(365 * 86_400);
        Self {
            limit,
            at: now + limit.min(longest),
        }
    }

    fn left(&self) -> Duration {
        self.at
            .saturating_duration_since(tokio::time::Instant::now())
    }
}

/// `--wait[=TIME]` of a verb whose effect takes time.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct WaitArgs {
    /// Come back only when it is there, or fail after this long: a number and s, m or h [default: 30s]
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = time)]
    wait: Option<Duration>,
}

impl WaitArgs {
    /// Waits, if that was asked for and something is done at all.
    ///
    /// # Errors
    /// When the time is over, with what is missing.
    pub(crate) fn until(self, context: &Context, wishes: &[Wish]) -> Outcome {
        match self.wait {
            Some(limit) if !context.is_rehearsal() => {
                let waited = until(context, wishes, &Deadline::after(limit));
                waited.map(drop).map_err(Late::into_error)
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// A time on the command line; a number alone is in seconds.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds
        .or_else(|| control::config::duration(text))
        .ok_or_else(|| "write a number and s, m or h, such as 30s".to_owned())
}

/// What the configuration has the host itself do: ports it listens on, shares it mounts.
pub(crate) fn of_the_host(config: &Config) -> Vec<Wish> {
    let ports = config.guests.values().flat_map(|guest| {
        let specs = guest.publish.iter();
        specs.map(|spec| Wish::Bound(guest.name.clone(), spec.clone()))
    });
    let mounted = config.shares.values().filter(|share| share.mount.is_some());
    let mounts = mounted.map(|share| Wish::ShareOnHost(share.name.clone()));
    std::iter::once(Wish::Daemons)
        .chain(ports)
        .chain(mounts)
        .collect()
}

/// What was waited for did not come.
#[derive(Debug)]
pub(crate) enum Late {
    /// In time.
    Missing {
        limit: Duration,
        missing: Vec<Missing>,
    },
    /// Nobody can wait here.
    Failed(CliError),
}

impl Late {
    pub(crate) fn into_error(self) -> CliError {
        match self {
            Self::Failed(error) => error,
            Self::Missing { limit, missing } => {
                let next = missing.first().map(|missing| missing.next.clone());
                let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
                CliError::timed_out(
                    format!(
                        "not ready after {}: {}",
                        crate::output::seconds(limit.as_secs()),
                        lines.join("\n  ")
                    ),
                    next.unwrap_or_else(|| "sharectl status".to_owned()),
                )
            }
        }
    }
}

/// Waits until all of it is there; how long that took.
///
/// # Errors
/// When the time is over, with what is missing then.
pub(crate) fn until(
    context: &Context,
    wishes: &[Wish],
    deadline: &Deadline,
) -> Result<Duration, Late> {
    let begin = tokio::time::Instant::now();
    let progress = context.progress("the daemons");
    let waited = context.wait(async {
        let mut news = News::default();
        loop {
            // Before the look, so that nothing that happens between them is missed.
            news.listen(context).await;
            let facts = Facts::gather(context, wishes, deadline.left()).await;
            let missing: Vec<Missing> =
                wishes.iter().flat_map(|wish| facts.missing(wish)).collect();
            let Some(first) = missing.first() else {
                return Ok(begin.elapsed());
            };
            let left = deadline.left();
            if left.is_zero() {
                let limit = deadline.limit;
                return Err(Late::Missing { limit, missing });
            }
            progress.say(&first.to_string());
            news.next(TICK.min(left)).await;
        }
    });
    drop(progress);
    waited.map_err(Late::Failed)?
}

/// The events of the daemons that run.
#[derive(Default)]
struct News {
    streams: Vec<(Daemon, Events)>,
}

impl News {
    /// Takes up those that have begun to run.
    async fn listen(&mut self, context: &Context) {
        for daemon in Daemon::ALL {
            if self.streams.iter().any(|(known, _)| *known == daemon) {
                continue;
            }
            let client = context.client(daemon);
            let from_now_on = async {
                let status: DaemonStatus = client.get("/v1/status").await?;
                client.events(status.newest_event, true).await
            };
            if let Ok(Ok(events)) = tokio::time::timeout(TICK, from_now_on).await {
                self.streams.push((daemon, events));
            }
        }
    }

    /// The next event, whatever it says, or the end of `longest`.
    async fn next(&mut self, longest: Duration) {
        if self.streams.is_empty() {
            tokio::time::sleep(longest).await;
            return;
        }
        let next = tokio::time::timeout(longest, any_next(&mut self.streams)).await;
        match next {
            Ok((_, Ok(Some(_)))) => tokio::time::sleep(SETTLE.min(longest)).await,
            Ok((ended, Ok(None) | Err(_))) => {
                self.streams.remove(ended);
                // One that ends is asked again, but not without a pause.
                tokio::time::sleep(SETTLE.min(longest)).await;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_or_are_seconds() {
        for (text, expected) in [
            ("30", Some(30)),
            ("30s", Some(30)),
            ("2m", Some(120)),
            ("1h", Some(3_600)),
            ("0", Some(0)),
            ("", None),
            ("soon", None),
            ("-1s", None),
            ("1.5s", None),
        ] {
            let read = time(text).ok().map(|time| time.as_secs());
            assert_eq!(read, expected, "{text}");
        }
    }
}
