//! `sharectl events`: what happened, from all daemons in order of time.

use control::api::DaemonStatus;
use control::client::Events;
use control::events::Event;
use control::failure::{Failure, FailureKind};
use control::paths::Daemon;
use schemars::JsonSchema;
use serde::Serialize;

use super::logs::DaemonArg;
use crate::context::Context;
use crate::error::{CliError, Outcome};

/// Show what happened: leases, links, ports, shares, names
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl events --follow\n  sharectl events netd --since 120\n  sharectl events --since 2026-11-22T20:00 --format json"
)]
pub(crate) struct Args {
    /// Only of this daemon
    #[arg(value_enum)]
    daemon: Option<DaemonArg>,
    /// Go on with what happens from now
    #[arg(short, long)]
    follow: bool,
    /// Only after this number (with a daemon), or from this time on (RFC 3339, UTC)
    #[arg(long, value_name = "NUMBER|TIME", value_parser = since)]
    since: Option<Since>,
}

#[derive(Debug, Clone)]
enum Since {
    Number(u64),
    /// A beginning of a time as events have it; such texts sort as the times do.
    Time(String),
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(number) = text.parse() {
        return Ok(Since::Number(number));
    }
    let form = "0000-00-00T00:00:00.000Z";
    let fits = text.len() >= 4
        && text.len() <= form.len()
        && text.bytes().zip(form.bytes()).all(|(b, f)| {
            if f == b'0' {
                b.is_ascii_digit()
            } else {
                b == f || (b == b'Z' && f == b'.')
            }
        });
    if fits {
        Ok(Since::Time(text.trim_end_matches('Z').to_owned()))
    } else {
        Err("write the number of an event, or a time such as 2026-11-22T20:00:00".to_owned())
    }
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Line<'e> {
    daemon: &'static str,
    #[serde(flatten)]
    event: &'e Event,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    if matches!(args.since, Some(Since::Number(_))) && args.daemon.is_none() {
        return Err(CliError::usage(
            "each daemon numbers its own events, so a number alone says nothing",
            "name the daemon: sharectl events netd --since NUMBER",
        ));
    }
    let daemons: Vec<Daemon> = args
        .daemon
        .map_or_else(|| Daemon::ALL.to_vec(), |daemon| vec![daemon.into()]);
    context.wait(stream(context, &daemons, &args))?
}

async fn stream(context: &Context, daemons: &[Daemon], args: &Args) -> Outcome {
    let first = match args.since {
        Some(Since::Number(number)) => number,
        Some(Since::Time(_)) | None => 0,
    };
    // What was, from all, in order of time; then what comes, as it comes.
    let mut past: Vec<(Daemon, Event)> = Vec::new();
    let mut streams = Vec::new();
    for daemon in daemons {
        match begin(context, *daemon, first, args.follow).await {
            Ok((events, stream)) => {
                past.extend(events.into_iter().map(|event| (*daemon, event)));
                streams.push((*daemon, stream));
            }
            Err(failure) if failure.kind == FailureKind::NotRunning && daemons.len() > 1 => {
                context.out.warning(&format!("{daemon} is not running"));
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    if streams.is_empty() {
        return Err(CliError::not_running(
            "no daemon is running",
            "start them: sharectl up",
        ));
    }
    past.sort_by(|(_, a), (_, b)| a.at.cmp(&b.at));
    for (daemon, event) in &past {
        show(context, args, *daemon, event)?;
    }
    while args.follow && !streams.is_empty() {
        let (index, next) = any_next(&mut streams).await;
        let daemon = streams[index].0;
        match next {
            Ok(Some(event)) => show(context, args, daemon, &event)?,
            Ok(None) | Err(_) => {
                context.out.warning(&format!("{daemon} ended its events"));
                streams.remove(index);
            }
        }
    }
    Ok(())
}

/// The events that there are, and the stream that goes on behind them.
async fn begin(
    context: &Context,
    daemon: Daemon,
    first: u64,
    follow: bool,
) -> Result<(Vec<Event>, Events), Failure> {
    let client = context.client(daemon);
    let status: DaemonStatus = client.get("/v1/status").await?;
    let mut stream = client.events(first, follow).await?;
    let mut past = Vec::new();
    let mut seen = first;
    while seen < status.newest_event {
        let Some(event) = stream.next().await? else {
            break;
        };
        seen = event.seq;
        past.push(event);
    }
    Ok((past, stream))
}

/// The next event of any daemon, with the place of its stream. There must be a stream.
pub(crate) async fn any_next(
    streams: &mut [(Daemon, Events)],
) -> (usize, Result<Option<Event>, Failure>) {
    let mut waits: Vec<_> = streams
        .iter_mut()
        .map(|(_, events)| Box::pin(events.next()))
        .collect();
    std::future::poll_fn(|cx| {
        for (index, wait) in waits.iter_mut().enumerate() {
            if let std::task::Poll::Ready(next) = wait.as_mut().poll(cx) {
                return std::task::Poll::Ready((index, next));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

fn show(context: &Context, args: &Args, daemon: Daemon, event: &Event) -> Outcome {
    if let Some(Since::Time(time)) = &args.since
        && event.at.as_str() < time.as_str()
    {
        return Ok(());
    }
    if context.out.is_json() {
        return context.out.json_line(&Line {
            daemon: daemon.name(),
            event,
        });
    }
    context.out.text(&format!("{}\n", as_text(daemon, event)?))
}

/// Time, daemon, number, kind, and the rest as key=value.
pub(super) fn as_text(daemon: Daemon, event: &Event) -> Outcome<String> {
    let mut kind = String::new();
    let mut rest = String::new();
    let value = serde_json::to_value(&event.body)?;
    for (key, value) in value.as_object().into_iter().flatten() {
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => continue,
            serde_json::Value::Array(list) => {
                let parts = list.iter().map(|part| {
                    part.as_str()
                        .map_or_else(|| part.to_string(), str::to_owned)
                });
                parts.collect::<Vec<_>>().join(",")
            }
            serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::Object(_) => value.to_string(),
        };
        if text.is_empty() {
            continue;
        }
        if key == "kind" {
            kind = text;
        } else if text.contains(char::is_whitespace) {
            rest.push_str(&format!(" {key}={text:?}"));
        } else {
            rest.push_str(&format!(" {key}={text}"));
        }
    }
    let line = format!("{} {daemon:<8} {:>5}  {kind}{rest}", event.at, event.seq);
    Ok(crate::output::printable(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_beginnings_of_times_are_understood() {
        assert!(matches!(since("120"), Ok(Since::Number(120))));
        for text in [
            "2026-11",
            "2026-11-22T20:00:00",
            "2026-11-22T20:00:00Z",
            "2026-11-22T20:00:00.123Z",
        ] {
            assert!(matches!(since(text), Ok(Since::Time(_))), "{text}");
        }
        for text in [
            "yesterday",
            "22.11.2026",
            "-5",
            "",
            "2026-11-22T20:00:00.123Z+1",
        ] {
            assert!(since(text).is_err(), "{text}");
        }
    }

    #[test]
    fn event_is_one_line_of_pairs() {
        let event: Event = serde_json::from_str(
            r#"{"seq":7,"at":"2026-11-22T20:00:00.000Z","kind":"hosts-refused","file":"/etc/hosts","message":"read only\n\u001b[2J"}"#,
        )
        .unwrap();
        assert_eq!(
            as_text(Daemon::Hostsync, &event).unwrap(),
            r#"2026-11-22T20:00:00.000Z hostsync     7  hosts-refused file=/etc/hosts message="read only\n\u{1b}[2J""#
        );
    }
}
