//! `sharectl schema`: the form of what commands print with --format json.
//!
//! Within a major version fields are added, never taken away or given another meaning; a test
//! (tests/commands/schema.rs) keeps the list of them.

use control::api::{
    Changes, DnsAnswer, FlowStatus, GuestStatus, HostLine, HostsBackup, HostsDiff, HostsFileStatus,
    HostsMended, NetworkStatus, PolicyAnswer, PortStatus, ShareStatus,
};
use control::config::{Config, Guest, HostMount, Network, Share};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{
    config, describe, doctor, down, events, exec, guest, host, import, init, logs, man, network,
    path, port, ps, restart, service, share, status, uninstall, up, wait_ready,
};
use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::mounts::Mount;
use crate::rehearsal::Rehearsal;
use crate::suggest::nearest;
use crate::verbs;

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

/// Either of two, as --dry-run says.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is a schema, and never a value")]
enum OrSteps<'s, T> {
    Done(T),
    Rehearsed(Rehearsal<'s>),
}

type Make = fn(&mut SchemaGenerator) -> Schema;

/// What a command prints under `--format json`.
#[derive(Clone, Copy)]
enum Form {
    /// Values of this schema.
    Json(Make),
    /// No JSON of ours, but this.
    Text(&'static str),
}

/// Every command, in the order of the help pages.
const COMMANDS: &[(&str, Form)] = &[
    ("init", change::<init::FirstFile<'_>>()),
    ("up", change::<up::AllUp<'_>>()),
    ("down", change::<down::Stopped>()),
    ("restart", change::<restart::AllRestarted>()),
    ("status", value::<status::Report>()),
    ("ps", value::<ps::View>()),
    ("wait-ready", value::<wait_ready::Readiness>()),
    ("config check", value::<config::Checked<'_>>()),
    ("config edit", change::<config::Edited<'_>>()),
    ("config show", value::<Config>()),
    ("config schema", value::<Schema>()),
    ("config path", value::<config::Places<'_>>()),
    ("network create", change::<Network>()),
    ("network rm", change::<network::RemovedNetwork<'_>>()),
    ("network renumber", change::<network::Renumbered<'_>>()),
    ("network bridge-socket", change::<network::Bridged<'_>>()),
    ("network host-tap create", change::<network::MadeTap<'_>>()),
    ("network host-tap rm", change::<network::RemovedTap<'_>>()),
    ("network host-tap unit", value::<network::TapUnit>()),
    ("network ls", value::<Vec<NetworkStatus>>()),
    ("network inspect", value::<network::Inspection<'_>>()),
    ("network flows", value::<Vec<FlowStatus>>()),
    // Frames, not JSON, when it is not asked what it would do.
    ("network capture", value::<Rehearsal<'_>>()),
    ("network policy", value::<PolicyAnswer>()),
    ("network dns", value::<Vec<DnsAnswer>>()),
    ("guest add", change::<Guest>()),
    ("guest rm", change::<guest::RemovedGuest<'_>>()),
    ("guest ls", value::<Vec<GuestStatus>>()),
    ("guest args", value::<Vec<String>>()),
    ("guest mounts", value::<Vec<Mount>>()),
    ("guest mount", change::<guest::MountedFolder>()),
    ("guest unmount", change::<guest::UnmountedFolders<'_>>()),
    // The VM's own, when it is not asked what it would do.
    ("guest run", value::<Rehearsal<'_>>()),
    ("guest attach", change::<guest::Attached<'_>>()),
    ("guest detach", change::<Changes>()),
    ("share add", change::<Share>()),
    ("share rm", change::<share::RemovedShare<'_>>()),
    ("share ls", value::<Vec<ShareStatus>>()),
    ("share mount", change::<HostMount>()),
    ("share unmount", change::<share::Unmounted<'_>>()),
    ("port publish", change::<port::Published<'_>>()),
    ("port unpublish", change::<port::Unpublished<'_>>()),
    ("port ls", value::<Vec<PortStatus>>()),
    ("port explain", value::<port::Explanation>()),
    ("port offer", change::<port::Offered<'_>>()),
    ("port withdraw", change::<port::Withdrawn<'_>>()),
    ("host ls", value::<Vec<HostLine>>()),
    ("host add", change::<host::AddedName<'_>>()),
    ("host rm", change::<host::RemovedName<'_>>()),
    ("host sync", value::<Synced>()),
    ("host diff", value::<Vec<HostsDiff>>()),
    ("host dns enable", change::<host::Enabled<'_>>()),
    ("host dns disable", change::<host::Disabled<'_>>()),
    ("host dns status", value::<host::ResolverSetup<'_>>()),
    ("host restore", value::<Restored>()),
    ("host repair", value::<Vec<HostsMended>>()),
    ("host writer status", value::<Vec<HostsFileStatus>>()),
    ("host writer unit", value::<host::WriterUnit>()),
    ("host writer install", value::<host::WriterSteps>()),
    ("path to-guest", value::<Vec<path::Row>>()),
    ("path to-host", value::<Vec<path::Row>>()),
    ("path to-windows", value::<Vec<path::Row>>()),
    ("path to-wsl", value::<Vec<path::Row>>()),
    ("path convert", value::<Vec<path::Row>>()),
    ("exec", value::<Vec<exec::Change>>()),
    ("compose", value::<Vec<exec::Change>>()),
    ("shell-hook", Form::Text("a script for the shell")),
    ("import vmx", value::<import::Imported<'_>>()),
    ("import vmware-networking", value::<import::Imported<'_>>()),
    ("import lima", value::<import::Imported<'_>>()),
    ("describe", value::<Vec<describe::Thing>>()),
    ("events", value::<events::Line<'_>>()),
    ("logs", value::<logs::Line<'_>>()),
    ("doctor", value::<Examined<'_>>()),
    ("service install", value::<service::Installation<'_>>()),
    ("service remove", value::<service::RemovedService>()),
    ("service status", value::<Vec<service::Row>>()),
    ("service logs", value::<logs::Line<'_>>()),
    ("service units", change::<service::WrittenUnits>()),
    ("uninstall", value::<uninstall::Removal<'_>>()),
    ("completions", Form::Text("a script for the shell")),
    // A page itself is roff.
    ("man", change::<man::Pages<'_>>()),
    ("schema", value::<Schema>()),
];

const fn value<T: JsonSchema>() -> Form {
    Form::Json(of::<T>)
}

/// Of a verb with the `--dry-run` that all have in common.
const fn change<T: JsonSchema>() -> Form {
    Form::Json(of::<OrSteps<'_, T>>)
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.root_schema_for::<T>()
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let wanted = verbs::called(&args.command);
    let told = |form: &Form| matches!(form, Form::Json(_));
    let known = || {
        let told = COMMANDS.iter().filter(|(_, form)| told(form));
        told.map(|(name, _)| *name)
    };
    if wanted.is_empty() {
        let names: Vec<&str> = known().collect();
        return context
            .out
            .list(&["COMMAND"], &names, |name| vec![(*name).to_owned()]);
    }
    let (name, make) = match COMMANDS.iter().find(|(name, _)| *name == wanted) {
        Some((name, Form::Json(make))) => (name, make),
        Some((name, Form::Text(what))) => {
            return Err(CliError::failure(
                format!("sharectl {name} prints {what}, also with --format json"),
                "those with a schema: sharectl schema",
            ));
        }
        None => {
            return Err(CliError::failure(
                format!("no schema is told for \"{wanted}\""),
                match nearest(&wanted, known()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "those with one: sharectl schema".to_owned(),
                },
            ));
        }
    };
    // What is printed, not what would be understood.
    let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
    let mut schema = make(&mut settings.into_generator());
    schema.insert("title".to_owned(), format!("sharectl {name}").into());
    context.out.json(&schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_told_of_and_in_the_order_of_the_help() {
        let told: Vec<&str> = COMMANDS.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            told,
            verbs::names(),
            "COMMANDS lacks a verb, or has one too many"
        );
    }

    #[test]
    fn what_can_be_rehearsed_tells_its_steps() {
        for (name, form) in COMMANDS {
            let Form::Json(make) = form else {
                assert!(!verbs::has_steps(name), "{name}");
                continue;
            };
            let schema = make(&mut SchemaGenerator::default()).to_value().to_string();
            assert_eq!(
                schema.contains("RehearsedStep"),
                verbs::has_steps(name),
                "{name}: change::<T>() is for those with the common --dry-run, value::<T>() for others"
            );
        }
    }
}
