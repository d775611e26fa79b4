//! `sharectl network policy`: what a guest may reach.

use std::process::ExitCode;

use control::api::PolicyAnswer;
use control::egress::{FlowQuestion, Verdict};
use control::names::GuestName;
use control::paths::Daemon;

use crate::context::Context;
use crate::error::Outcome;

/// Tell whether a guest's flow would be allowed, and by which rule
///
/// Nothing is sent. A name is judged by the addresses that the guest's DNS answers gave for it. The
/// exit code is 0 for "allow" and 1 for "deny".
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl network policy dev github.com:443\n  sharectl network policy dev host:5432\n  sharectl network policy dev 192.0.2.1/icmp"
)]
pub(crate) struct Args {
    /// As in `sharectl guest ls`
    #[arg(value_name = "GUEST")]
    guest: GuestName,
    /// DESTINATION:PORT[/tcp|udp] or DESTINATION/icmp; DESTINATION is an address, a name or host
    #[arg(value_name = "FLOW")]
    flow: FlowQuestion,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome<ExitCode> {
    let config = context.config()?;
    context.guest(&config, &args.guest)?;
    let path = format!(
        "/v1/guests/{}/policy?flow={}",
        args.guest,
        control::client::encoded(&args.flow.to_string())
    );
    let answer: PolicyAnswer = context.ask(Daemon::Netd, &path)?;
    let addresses: Vec<String> = answer.addresses.iter().map(ToString::to_string).collect();
    let known = if addresses.is_empty() {
        String::new()
    } else {
        format!(" (now {})", addresses.join(", "))
    };
    let sentence = format!(
        "{}: {} to {}{known}: {}",
        answer.verdict, answer.guest, answer.flow, answer.reason
    );
    context.out.done(&sentence, &answer)?;
    Ok(match answer.verdict {
        Verdict::Allow => ExitCode::SUCCESS,
        Verdict::Deny => ExitCode::FAILURE,
    })
}
