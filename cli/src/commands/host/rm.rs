//! `sharectl host rm`: a name leaves the hosts files.

use control::names::HostName;
use control::paths::Daemon;

use crate::context::{Context, unknown};
use crate::edit::document;
use crate::error::{CliError, Outcome};

/// Take a name that was added by hand out of the hosts files
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl host rm nas.test")]
pub(crate) struct Args {
    /// As in `sharectl host ls`
    name: HostName,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let name = &args.name;
    context.change(|draft| {
        let config = draft.config()?;
        if !config.hosts.entries.contains_key(name) {
            return Err(absent(context, &config, name));
        }
        let written = spelling(&draft.document, name);
        document::remove_value(&mut draft.document, &["hosts", "static"], &written)?;
        Ok(())
    })?;
    context.reload(&[Daemon::Hostsync])?;
    context.out.done(
        &format!("{name} removed"),
        &serde_json::json!({ "removed": name }),
    )
}

/// The key as the file has it, which may be in capitals.
fn spelling(document: &toml_edit::DocumentMut, name: &HostName) -> String {
    let entries = document
        .get("hosts")
        .and_then(|hosts| hosts.get("static"))
        .and_then(toml_edit::Item::as_table_like);
    let same = |key: &str| HostName::parse(key).is_ok_and(|other| other == *name);
    let found =
        entries.and_then(|entries| entries.iter().map(|(key, _)| key).find(|key| same(key)));
    found.unwrap_or(name.as_str()).to_owned()
}

fn absent(context: &Context, config: &control::config::Config, name: &HostName) -> CliError {
    let owner = config.guests.values().find(|guest| {
        config
            .names_of(guest)
            .is_ok_and(|names| names.contains(name))
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
                name.as_str(),
                known,
                &context.paths.config,
                &format!("sharectl host add {name} ADDRESS"),
            )
        }
    }
}
