//! `sharectl host rm`: a name leaves the hosts files.

use control::api::{Changes, EndedName, HostLine};
use control::config::{Config, RecordName};
use control::failure::{Failure, FailureKind};
use control::names::HostName;
use control::paths::Daemon;

use crate::context::{Context, unknown};
use crate::edit::document;
use crate::error::{CliError, Exit, Outcome};
use schemars::JsonSchema;
use serde::Serialize;

/// Take a name that was added by hand out of the hosts files, also before its time
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl host rm nas.test")]
pub(crate) struct Args {
    /// As in `sharectl host ls`
    name: RecordName,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct RemovedName<'n> {
    removed: &'n RecordName,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let name = &args.name;
    let config = context.config()?;
    if is_static(&config, name) {
        context.change(|draft| {
            let config = draft.config()?;
            if !is_static(&config, name) {
                return Err(absent(context, &config, name));
            }
            let written = spelling(&draft.document, name);
            document::remove_value(&mut draft.document, &["hosts", "static"], &written)?;
            Ok(())
        })?;
        context.reload(&[Daemon::Hostsync])?;
    } else {
        end(context, &config, name)?;
    }
    context
        .out
        .done(&format!("{name} removed"), &RemovedName { removed: name })
}

fn is_static(config: &Config, name: &RecordName) -> bool {
    if name.below {
        config.hosts.wildcards.contains_key(&name.name)
    } else {
        config.hosts.entries.contains_key(&name.name)
    }
}

/// Ends a name that was added for a time; only hostsync knows those.
fn end(context: &Context, config: &Config, name: &RecordName) -> Outcome {
    let ended = EndedName {
        name: name.name.clone(),
        wildcard: name.below,
    };
    let answer: Result<Option<Changes>, Failure> = match context.is_rehearsal() {
        true if !is_for_a_time(context, name)? => return Err(absent(context, config, name)),
        true | false => context.delete(Daemon::Hostsync, "/v1/names", &ended)?,
    };
    match answer {
        Ok(done) => {
            for problem in done.unwrap_or_default().problems {
                context.out.warning(&problem);
            }
            Ok(())
        }
        Err(failure)
            if matches!(
                failure.kind,
                FailureKind::NotFound | FailureKind::NotRunning
            ) =>
        {
            Err(absent(context, config, name))
        }
        Err(failure) => Err(failure.into()),
    }
}

/// Whether hostsync has it until some time; not where it does not run, for then it has none.
fn is_for_a_time(context: &Context, name: &RecordName) -> Outcome<bool> {
    let lines: Result<Vec<HostLine>, CliError> = context.ask(Daemon::Hostsync, "/v1/hosts");
    let same = |line: &HostLine| line.name == name.name && line.wildcard == name.below;
    match lines {
        Ok(lines) => Ok(lines.iter().any(|line| same(line) && line.until.is_some())),
        Err(error) if error.exit == Exit::NotRunning => Ok(false),
        Err(error) => Err(error),
    }
}

/// The key as the file has it, which may be in capitals.
fn spelling(document: &toml_edit::DocumentMut, name: &RecordName) -> String {
    let entries = document
        .get("hosts")
        .and_then(|hosts| hosts.get("static"))
        .and_then(toml_edit::Item::as_table_like);
    let same = |key: &str| RecordName::parse(key).is_ok_and(|other| other == *name);
    let found =
        entries.and_then(|entries| entries.iter().map(|(key, _)| key).find(|key| same(key)));
    found.map_or_else(|| name.to_string(), str::to_owned)
}

fn absent(context: &Context, config: &Config, name: &RecordName) -> CliError {
    let owner = config.guests.values().find(|guest| {
        config
            .names_of(guest)
            .is_ok_and(|names| names.contains(&name.name))
    });
    match owner {
        Some(guest) => CliError::failure(
            format!("{name} belongs to guest \"{}\"", guest.name),
            format!("take it out of names = [...] in [guest.{}]", guest.name),
        ),
        None => {
            let known = config.hosts.entries.keys().map(HostName::as_str);
            unknown(
                "static name",
                &name.to_string(),
                known,
                &context.paths.config,
                &format!("sharectl host add {name} ADDRESS"),
            )
        }
    }
}
