//! `sharectl network capture`: a network's frames as a pcapng file.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use control::api::Changes;
use control::capture::Filter;
use control::client::encoded;
use control::failure::FailureKind;
use control::names::{GuestName, NetworkName};
use control::paths::Daemon;
use tokio::signal::unix::{SignalKind, signal};

use super::find;
use crate::context::Context;
use crate::error::{CliError, Outcome};

/// Write a network's frames to a pcapng file, until Ctrl-C
///
/// Each guest's link is an interface of its own, with the direction of every frame. The file is written
/// by this command, so neither root nor rights of the daemon are needed. Frames of
/// up to 64 KiB are what passes on links with offloads; their checksums are filled in. If frames
/// come faster than they can be written some are missing, and the file's end says how many.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl network capture vmnet8 -w x.pcapng\n  sharectl network capture vmnet8 -w - --guest dev | wireshark -k -i -\n  sharectl network capture vmnet8 -w x.pcapng --filter \"host 192.0.2.1 and tcp port 443\" --count 100"
)]
pub(crate) struct Args {
    /// As in `sharectl network ls`
    #[arg(value_name = "NETWORK")]
    network: NetworkName,
    /// The file to write; - is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    write: PathBuf,
    /// Only frames of this guest
    #[arg(long, value_name = "NAME")]
    guest: Option<GuestName>,
    /// Bytes kept of each frame; 0 keeps all
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    snaplen: u32,
    /// End after this many frames
    #[arg(long, value_name = "FRAMES", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// host ADDRESS, port NUMBER, tcp, udp, icmp, arp, ip, ip6, joined by "and"
    #[arg(long, value_name = "FILTER", default_value_t)]
    filter: Filter,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let stdout = args.write.as_os_str() == "-";
    if stdout && std::io::stdout().is_terminal() {
        return Err(CliError::usage(
            "a capture is no text for a terminal",
            "write it to a file: -w x.pcapng, or into wireshark: -w - | wireshark -k -i -",
        ));
    }
    let config = context.config()?;
    find(context, &config, &args.network)?;
    if let Some(guest) = &args.guest {
        context.guest(&config, guest)?;
    }
    if context.is_rehearsal() {
        context.status(Daemon::Netd)?;
        context.would_act(format!(
            "write frames of {} to {}",
            args.network,
            args.write.display()
        ));
        return Ok(());
    }
    context.wait(capture(context, &args, stdout))?
}

async fn capture(context: &Context, args: &Args, stdout: bool) -> Outcome {
    let client = context.client(Daemon::Netd);
    // Ours alone: the process id, and a moment.
    let moment = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let id = format!(
        "{}-{}-{}",
        std::process::id(),
        moment.tv_sec,
        moment.tv_nsec
    );
    let mut path = format!(
        "/v1/captures/{id}?network={}&snaplen={}",
        args.network, args.snaplen
    );
    if let Some(guest) = &args.guest {
        path.push_str(&format!("&guest={guest}"));
    }
    if let Some(count) = args.count {
        path.push_str(&format!("&count={count}"));
    }
    if !args.filter.terms.is_empty() {
        path.push_str(&format!("&filter={}", encoded(&args.filter.to_string())));
    }
    let mut stream = client.stream(&path).await?;
    let mut file = match stdout {
        true => None,
        false => Some(std::fs::File::create(&args.write).map_err(|error| {
            CliError::failure(
                format!("cannot write {}: {error}", args.write.display()),
                "choose another file: -w FILE",
            )
        })?),
    };
    if !stdout {
        let (network, place) = (&args.network, args.write.display());
        context
            .out
            .note(&format!("capturing {network} to {place}; Ctrl-C ends it"));
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let limit = args.seconds.map_or(LONGEST, Duration::from_secs);
    let mut over = std::pin::pin!(tokio::time::sleep(limit.min(LONGEST)));
    let mut ending = false;
    loop {
        let bytes = tokio::select! {
            next = stream.next() => match next? {
                Some(bytes) => Some(bytes),
                None => return Ok(()),
            },
            _ = interrupt.recv(), if !ending => None,
            _ = terminate.recv(), if !ending => None,
            () = &mut over, if !ending => None,
        };
        match (bytes, &mut file) {
            (Some(bytes), Some(file)) => file.write_all(&bytes)?,
            (Some(bytes), None) => context.out.bytes(&bytes)?,
            (None, _) => {
                ending = true;
                // What was captured still comes, and the counts behind it. Over already is as good.
                let path = format!("/v1/captures/{id}");
                match client.delete::<(), Changes>(&path, &()).await {
                    Err(failure) if failure.kind != FailureKind::NotFound => {
                        return Err(failure.into());
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }
}

/// Who captures for longer gives no time at all.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);
