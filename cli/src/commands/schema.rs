//! `sharectl schema`: the form of what commands print with --format json.
//!
//! Within a major version fields are added, never taken away or given another meaning; a test
//! (tests/commands/schema.rs) keeps the list of them.

use control::api::{
    Changes, DnsAnswer, FlowStatus, GuestStatus, HostLine, HostsBackup, HostsDiff, HostsMended,
    NetworkStatus, PolicyAnswer, PortStatus, ShareStatus,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{
    config, describe, doctor, events, exec, logs, network, path, port, ps, service, status,
    wait_ready,
};
use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::mounts::Mount;
use crate::suggest::nearest;

/// Print the JSON Schema of what a command prints with --format json
///
/// Without a command: which there are. Within a major version fields are added to what is printed, and none is
/// taken away or changes its meaning. The form of the configuration file is `sharectl config schema`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl schema ps\n  sharectl schema guest ls > guests.schema.json"
)]
pub(crate) struct Args {
    /// The command, such as `guest ls`
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

/// Either of two, as --dry-run says.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is a schema, and never a value")]
enum Synced {
    Changes(Changes),
    Differences(Vec<HostsDiff>),
}

/// Either of two, as --fix says.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is a schema, and never a value")]
enum Examined<'r> {
    Findings(Vec<doctor::Numbered>),
    Mended(doctor::Report<'r>),
}

/// Either of two, as an option says.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is a schema, and never a value")]
enum Restored {
    Mended(Vec<HostsMended>),
    /// With --list.
    Kept(Vec<HostsBackup>),
}

type Make = fn(&mut SchemaGenerator) -> Schema;

/// Every command that tells something.
const COMMANDS: [(&str, Make); 29] = [
    ("config path", of::<config::Places<'_>>),
    ("describe", of::<Vec<describe::Thing>>),
    ("doctor", of::<Examined<'_>>),
    ("events", of::<events::Line<'_>>),
    ("exec", of::<Vec<exec::Change>>),
    ("compose", of::<Vec<exec::Change>>),
    ("guest args", of::<Vec<String>>),
    ("guest ls", of::<Vec<GuestStatus>>),
    ("guest mounts", of::<Vec<Mount>>),
    ("host diff", of::<Vec<HostsDiff>>),
    ("host ls", of::<Vec<HostLine>>),
    ("host repair", of::<Vec<HostsMended>>),
    ("host restore", of::<Restored>),
    ("host sync", of::<Synced>),
    ("logs", of::<logs::Line<'_>>),
    ("network dns", of::<Vec<DnsAnswer>>),
    ("network flows", of::<Vec<FlowStatus>>),
    ("network inspect", of::<network::Inspection<'_>>),
    ("network ls", of::<Vec<NetworkStatus>>),
    ("network policy", of::<PolicyAnswer>),
    ("path to-guest", of::<Vec<path::Row>>),
    ("path to-host", of::<Vec<path::Row>>),
    ("port explain", of::<port::Explanation>),
    ("port ls", of::<Vec<PortStatus>>),
    ("ps", of::<ps::View>),
    ("service status", of::<Vec<service::Row>>),
    ("share ls", of::<Vec<ShareStatus>>),
    ("status", of::<status::Report>),
    ("wait-ready", of::<wait_ready::Readiness>),
];

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.root_schema_for::<T>()
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let wanted = args.command.join(" ");
    let known = || COMMANDS.iter().map(|(name, _)| *name);
    if wanted.is_empty() {
        let names: Vec<&str> = known().collect();
        return context
            .out
            .list(&["COMMAND"], &names, |name| vec![(*name).to_owned()]);
    }
    let Some((name, make)) = COMMANDS.iter().find(|(name, _)| *name == wanted) else {
        return Err(CliError::failure(
            format!("no schema is told for \"{wanted}\""),
            match nearest(&wanted, known()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "those with one: sharectl schema".to_owned(),
            },
        ));
    };
    // What is printed, not what would be understood.
    let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
    let mut schema = make(&mut settings.into_generator());
    schema.insert("title".to_owned(), format!("sharectl {name}").into());
    context.out.json(&schema)
}
