//! `sharectl network dns`: asks the gateway's name server as a guest would, and says who knows.

use std::fmt::Write as _;

use control::api::DnsAnswer;
use control::config::{Config, DEFAULT_NETWORK};
use control::names::NetworkName;
use control::paths::Daemon;

use crate::commands::network::find;
use crate::context::Context;
use crate::error::{CliError, Outcome};

/// Look a name or address up as a guest would, and tell who knows it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl network dns dev.test\n  sharectl network dns 192.168.130.10\n  sharectl network dns example.com --type MX"
)]
pub(crate) struct Args {
    /// The name, or an address for the way back
    #[arg(value_name = "NAME")]
    name: String,
    /// The network whose guest asks [default: the only one, or vmnet8]
    #[arg(long, value_name = "NETWORK")]
    network: Option<NetworkName>,
    /// The type of record [default: A and AAAA, for an address PTR]
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let config = context.config()?;
    let network = match &args.network {
        Some(name) => &find(context, &config, name)?.name,
        None => default_network(&config)?,
    };
    let mut path = format!("/v1/networks/{network}/dns?name={}", encoded(&args.name));
    if let Some(kind) = &args.kind {
        // Writing to a String cannot fail.
        write!(path, "&type={}", encoded(kind)).ok();
    }
    let answers: Vec<DnsAnswer> = context.ask(Daemon::Netd, &path)?;
    if context.out.is_json() {
        context.out.json(&answers)?;
    } else {
        let rows: Vec<Vec<String>> = answers.iter().flat_map(rows).collect();
        context
            .out
            .list(&["DATA", "TYPE", "NAME", "TTL", "FROM"], &rows, Vec::clone)?;
    }
    if answers.iter().any(|answer| !answer.records.is_empty()) {
        return Ok(());
    }
    let codes: Vec<&str> = answers.iter().map(|answer| answer.code.as_str()).collect();
    let what = match codes.as_slice() {
        [.., "NXDOMAIN"] => "does not exist",
        [.., "NOERROR"] => "has no such record",
        _ => "cannot be resolved",
    };
    Err(CliError::failure(
        format!("{} {what} for guests of {network}", args.name),
        "sharectl describe lists a guest's names; records of your own: [network.NAME.records] in the file",
    ))
}

fn rows(answer: &DnsAnswer) -> Vec<Vec<String>> {
    let row = |data: &str, kind: &str, name: &str, ttl: String| {
        let cells = [data, kind, name, &ttl, &answer.source];
        cells.map(str::to_owned).to_vec()
    };
    if answer.records.is_empty() {
        return vec![row(
            &answer.code,
            &answer.kind,
            &answer.name,
            "-".to_owned(),
        )];
    }
    let records = answer.records.iter();
    records
        .map(|record| {
            row(
                &record.data,
                &record.kind,
                &record.name,
                record.ttl.to_string(),
            )
        })
        .collect()
}

fn default_network(config: &Config) -> Outcome<&NetworkName> {
    let mut names = config.networks.keys();
    let only = names.next().filter(|_| config.networks.len() == 1);
    let usual = || {
        let mut names = config.networks.keys();
        names.find(|name| name.as_str() == DEFAULT_NETWORK)
    };
    only.or_else(usual).ok_or_else(|| {
        CliError::usage(
            "the file has several networks, which one asks?".to_owned(),
            "name it: --network NETWORK; all: sharectl network ls",
        )
    })
}

/// As a value in a query (RFC 3986 section 2.3).
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").ok();
        }
    }
    encoded
}
