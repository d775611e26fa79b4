//! `sharectl init`: a first configuration file.

use control::config::{Config, Surroundings};
use control::host_network;

use crate::context::Context;
use crate::edit;
use crate::error::{CliError, Outcome};
use crate::rehearsal::Step;
use schemars::JsonSchema;
use serde::Serialize;
use std::path::Path;

/// What every new file says; `{subnet line}` is filled in.
const TEMPLATE: &str = include_str!("init.toml");

/// Write a first configuration file
///
/// The network gets a subnet that no interface and no route of this host uses.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl init")]
pub(crate) struct Args {
    /// Replace a file that is there; the old one is kept beside it as config.toml.bak
    #[arg(long)]
    force: bool,
}

/// The text that a new file has, and the subnet in it.
pub(crate) fn template(context: &Context) -> Outcome<(String, String)> {
    let subnet = free_subnet(context)?;
    let line = format!("{:<32}", format!("subnet = \"{subnet}\""));
    let text = TEMPLATE.replace("{subnet line}", &line);
    Ok((subnet, text))
}

/// A file that was made.
#[derive(Serialize, JsonSchema)]
pub(crate) struct FirstFile<'f> {
    config: &'f Path,
    /// That the network in it has.
    subnet: &'f str,
    /// Where the old file is kept, if there was one.
    backup: Option<&'f Path>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let path = &context.paths.config;
    let backup = {
        let mut name = path.clone().into_os_string();
        name.push(".bak");
        std::path::PathBuf::from(name)
    };
    let there = path.symlink_metadata().is_ok();
    if there && !args.force {
        return Err(CliError::conflict(
            format!("{} is there already", path.display()),
            "edit it, or replace it and keep a backup: sharectl init --force",
        ));
    }
    let (subnet, text) = template(context)?;
    Config::parse(&text, path, &Surroundings::of_process())?;
    let failed = |what: &str, error: std::io::Error| {
        CliError::failure(
            format!("cannot {what} {}: {error}", path.display()),
            "name a file that you may write: sharectl init --config FILE",
        )
    };
    if context.is_rehearsal() {
        if there {
            context.would_act(format!("copy the file to {}", backup.display()));
        }
        let old = std::fs::read_to_string(path).unwrap_or_default();
        context.would(Step::write(path, &old, &text));
        return Ok(());
    }
    if there {
        std::fs::copy(path, &backup).map_err(|error| failed("back up", error))?;
    }
    let target = path.canonicalize().unwrap_or_else(|_| path.clone());
    let old = std::fs::File::open(&target).ok();
    edit::replace(&target, text.as_bytes(), old.as_ref())
        .map_err(|error| failed("write", error))?;
    let mut sentence = format!("{} written: network vmnet8 with {subnet}", path.display());
    if there {
        sentence.push_str(&format!("\nthe old file is {}", backup.display()));
    }
    context.out.done(
        &sentence,
        &FirstFile {
            config: path,
            subnet: &subnet,
            backup: there.then_some(&backup),
        },
    )?;
    context
        .out
        .note("next: sharectl up, sharectl guest add NAME, sharectl share add FOLDER");
    Ok(())
}

fn free_subnet(context: &Context) -> Outcome<String> {
    let used = host_network::used_subnets().unwrap_or_else(|error| {
        context.out.warning(&format!(
            "this host's interfaces cannot be listed ({error}); the subnet is a guess"
        ));
        Vec::new()
    });
    let free = host_network::free_subnet(&used).map(|subnet| subnet.to_string());
    free.ok_or_else(|| {
        CliError::failure(
            "every /24 in 192.168.130.0 to 192.168.249.0 and 10.130.0.0 to 10.249.255.0 is in use on this host",
            "write a file by hand with a subnet that is free: docs/config.toml shows how",
        )
    })
}
