//! `sharectl host dns`: the host asks hostsync for the names that hostsync knows.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command as Program;

use clap::Subcommand;
use control::api::ResolverStatus;
use control::config::Config;
use control::names::HostName;
use control::paths::Daemon;

use crate::context::Context;
use crate::edit;
use crate::error::{CliError, Outcome};
use crate::output::comma_list;
use crate::rehearsal::Step;
use crate::resolver::{
    Found, Owner, SetupFile, detect, files, global_servers, lacks_other_servers,
};
use schemars::JsonSchema;
use serde::Serialize;

/// The host's own resolver asks hostsync for our names, wildcards too: set up, undo, look
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Example:\n  sharectl host dns enable\n  sudo sharectl host dns enable --apply --config ~/.config/sharectl/config.toml"
)]
pub(crate) enum Command {
    /// Show the one-time set-up for this host's resolver; with --apply, make it
    ///
    /// What is written is one small file (two for NetworkManager) of sharectl's own, which sends
    /// our domains, and no others, to hostsync. Nothing else is changed.
    #[command(after_help = "Example:\n  sharectl host dns enable")]
    Enable(Change),
    /// Show how that is undone; with --apply, undo it
    ///
    /// Takes away the files that "enable" wrote, and nothing else.
    #[command(after_help = "Example:\n  sudo sharectl host dns disable --apply")]
    Disable(Change),
    Status(Place),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Change {
    /// Do it, instead of showing it; needs root
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    place: Place,
}

/// Show who manages name resolution here, and whether it asks hostsync
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl host dns status")]
pub(crate) struct Place {
    /// Look and write below this folder, such as an image's, and tell no service
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Enable(args) => enable(context, &args),
            Self::Disable(args) => disable(context, &args),
            Self::Status(args) => status(context, &args),
        }
    }
}

/// Where to ask, and for what. The file decides, so that root sees the same as its user.
fn target(context: &Context, config: &Config) -> Outcome<(SocketAddr, Vec<HostName>)> {
    let Some(dns) = config.hosts.dns else {
        return Err(CliError::failure(
            format!("dns is off in {}", context.paths.config.display()),
            "write dns = \"on\" below [hosts], then: sharectl up, and once more this",
        ));
    };
    let domains = config.host_domains(std::iter::empty());
    Ok((dns.listen, domains.into_iter().collect()))
}

fn manager(place: &Place) -> Outcome<Owner> {
    detect(&place.root).map_err(|why| {
        CliError::failure(
            why,
            "install systemd-resolved; or let your own resolver ask the address of `sharectl host dns status`",
        )
    })
}

fn enable(context: &Context, args: &Change) -> Outcome {
    let (resolver, domains) = target(context, &context.config()?)?;
    if domains.is_empty() {
        return Err(CliError::failure(
            "there is no domain yet that names here are below",
            "add a network, a source or a name first: sharectl host add box.test 127.0.0.1",
        ));
    }
    let manager = manager(&args.place)?;
    let files = files(manager, &args.place.root, (resolver, &domains));
    if manager == Owner::Resolved && lacks_other_servers(&args.place.root) {
        return Err(CliError::failure(
            "no link has a DNS server, so systemd-resolved would ask only ours, for all names",
            "give a link its servers first: resolvectl dns LINK SERVER, or in its network's settings",
        ));
    }
    if manager == Owner::Resolved
        && let Some(theirs) = global_servers(&args.place.root)
    {
        context.out.warning(&format!(
            "{} has DNS= for all names, which systemd-resolved then asks for ours too; give those \
             servers to a link instead (resolvectl dns LINK ...)",
            theirs.display()
        ));
    }
    let mut found = Vec::new();
    for file in &files {
        let state = look(file)?;
        if state == Found::Foreign {
            return Err(CliError::conflict(
                format!("{} is not sharectl's own", file.path.display()),
                "move it away first, or set the resolver up by hand",
            ));
        }
        found.push(state);
    }
    if !args.apply && !context.is_rehearsal() {
        return show(context, manager, &files);
    }
    if context.is_rehearsal() {
        let changed = files.iter().zip(&found);
        for (file, _) in changed.filter(|(_, state)| **state != Found::Current) {
            let old = std::fs::read_to_string(&file.path).unwrap_or_default();
            context.would(Step::write(&file.path, &old, &file.text));
        }
        return would_tell(context, args, manager);
    }
    if found.iter().all(|state| *state == Found::Current) {
        return finished(context, "nothing had to change", manager, &files);
    }
    write(&files, &found)?;
    tell(context, args, manager)?;
    let sentence = format!(
        "{} asks {resolver} for {}",
        manager.name(),
        comma_list(&domains)
    );
    finished(context, &sentence, manager, &files)
}

/// All files or none.
fn write(files: &[SetupFile], found: &[Found]) -> Outcome {
    for (number, file) in files.iter().enumerate() {
        let written = edit::replace(&file.path, file.text.as_bytes(), None);
        let Err(error) = written else {
            continue;
        };
        // The first failure is the one to tell.
        for (earlier, state) in files.iter().zip(found).take(number) {
            if *state == Found::Absent {
                std::fs::remove_file(&earlier.path).ok();
            }
        }
        return Err(refused("write", &file.path, &error));
    }
    Ok(())
}

fn disable(context: &Context, args: &Change) -> Outcome {
    // Of every manager: another may be in charge by now.
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 53));
    let mut ours: Vec<(Owner, PathBuf)> = Vec::new();
    for manager in [Owner::Resolved, Owner::NetworkManager, Owner::Dnsmasq] {
        for file in files(manager, &args.place.root, (nowhere, &[])) {
            if matches!(look(&file)?, Found::Current | Found::Stale) {
                ours.push((manager, file.path));
            }
        }
    }
    if ours.is_empty() {
        return context.out.done(
            "there is nothing to take away",
            &Disabled::Done { removed: &[] },
        );
    }
    let mut managers: Vec<Owner> = ours.iter().map(|(manager, _)| *manager).collect();
    managers.dedup();
    let paths: Vec<&PathBuf> = ours.iter().map(|(_, path)| path).collect();
    if context.is_rehearsal() {
        for path in &paths {
            context.would_act(format!("remove {}", path.display()));
        }
        let mut told = managers.iter();
        return told.try_for_each(|manager| would_tell(context, args, *manager));
    }
    if !args.apply {
        let mut lines: Vec<String> = paths
            .iter()
            .map(|path| format!("rm {}", path.display()))
            .collect();
        lines.extend(managers.iter().map(|manager| manager.reload().join(" ")));
        context
            .out
            .done(&lines.join("\n"), &Disabled::Shown { commands: &lines })?;
        context
            .out
            .note("to have that done: sudo sharectl host dns disable --apply");
        return Ok(());
    }
    for path in &paths {
        std::fs::remove_file(path).map_err(|error| refused("remove", path, &error))?;
    }
    for manager in managers {
        tell(context, args, manager)?;
    }
    context.out.done(
        &format!(
            "removed {}",
            comma_list(paths.iter().map(|path| path.display()))
        ),
        &Disabled::Done { removed: &paths },
    )
}

/// What `enable` did, or shows to do by hand.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Enabled<'e> {
    /// Without --apply.
    Shown {
        manager: Owner,
        files: &'e [SetupFile],
        /// What has the manager read them.
        command: [&'static str; 3],
    },
    /// With --apply: the files that are there now.
    Done {
        manager: Owner,
        files: &'e [&'e PathBuf],
    },
}

/// What `disable` did, or shows to do by hand.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Disabled<'d> {
    /// Without --apply.
    Shown { commands: &'d [String] },
    /// With --apply.
    Done { removed: &'d [&'d PathBuf] },
}

/// Whom this host asks.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ResolverSetup<'r> {
    manager: Option<Owner>,
    /// Why the manager is not known.
    reason: Option<&'r String>,
    /// Where hostsync shall answer; none: it shall not.
    address: Option<SocketAddr>,
    /// Ours.
    files: &'r [PathBuf],
    /// What stands there.
    setup: Option<Found>,
    resolver: &'r ResolverStatus,
}

fn status(context: &Context, args: &Place) -> Outcome {
    let config = context.config()?;
    let running: Option<ResolverStatus> = context.ask_if_up(Daemon::Hostsync, "/v1/dns");
    let running = running.unwrap_or_default();
    let detected = detect(&args.root);
    let (mut setup, mut paths) = (None, Vec::new());
    if let (Ok(manager), Ok((resolver, domains))) = (&detected, target(context, &config)) {
        for file in files(*manager, &args.root, (resolver, &domains)) {
            let state = look(&file)?;
            // The worst of them counts.
            setup = Some(match setup {
                Some(Found::Current) | None => state,
                Some(other) => other,
            });
            paths.push(file.path);
        }
    }
    let wanted = config.hosts.dns.map(|dns| dns.listen);
    let managed = match &detected {
        Ok(manager) => manager.name().to_owned(),
        Err(why) => why.clone(),
    };
    if context.out.is_json() {
        return context.out.json(&ResolverSetup {
            manager: detected.as_ref().ok().copied(),
            reason: detected.as_ref().err(),
            address: wanted,
            files: &paths,
            setup,
            resolver: &running,
        });
    }
    let said = match setup {
        None if wanted.is_none() => "dns is off in the configuration".to_owned(),
        None => "none is possible".to_owned(),
        Some(Found::Absent) => "not made; see: sharectl host dns enable".to_owned(),
        Some(Found::Current) => format!("made: {}", comma_list(paths.iter().map(|p| p.display()))),
        Some(Found::Stale) => {
            "made for other domains or another address; again: sharectl host dns enable".to_owned()
        }
        Some(Found::Foreign) => format!(
            "{} is not sharectl's own",
            comma_list(paths.iter().map(|path| path.display()))
        ),
    };
    context.out.text(&format!(
        "managed by  {managed}\nset-up      {said}\nlistening   {}\ndomains     {}\nquestions   {} answered, {} of others refused, {} malformed\n",
        comma_list(&running.listening),
        comma_list(&running.domains),
        running.answered,
        running.refused,
        running.malformed,
    ))?;
    for problem in &running.problems {
        context.out.warning(problem);
    }
    Ok(())
}

/// What would be done, as commands to copy.
fn show(context: &Context, manager: Owner, files: &[SetupFile]) -> Outcome {
    if context.out.is_json() {
        return context.out.json(&Enabled::Shown {
            manager,
            files,
            command: manager.reload(),
        });
    }
    let mut text = String::new();
    for file in files {
        text.push_str(&format!("{}:\n", file.path.display()));
        for line in file.text.lines() {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text.push_str(&format!("{}\n", manager.reload().join(" ")));
    context.out.text(&text)?;
    context
        .out
        .note("to have that done: sudo sharectl host dns enable --apply, with your --config");
    Ok(())
}

fn finished(context: &Context, sentence: &str, manager: Owner, files: &[SetupFile]) -> Outcome {
    let paths: Vec<&PathBuf> = files.iter().map(|file| &file.path).collect();
    context.out.done(
        sentence,
        &Enabled::Done {
            manager,
            files: &paths,
        },
    )
}

fn would_tell(context: &Context, args: &Change, manager: Owner) -> Outcome {
    if args.place.root == Path::new("/") {
        context.would_act(format!("run {}", manager.reload().join(" ")));
    }
    Ok(())
}

/// Has the manager read its files again; not for another root than this host's.
fn tell(context: &Context, args: &Change, manager: Owner) -> Outcome {
    if args.place.root != Path::new("/") {
        return Ok(());
    }
    let [program, arguments @ ..] = manager.reload();
    let done = Program::new(program).args(arguments).output();
    let reason = match done {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    context.out.warning(&format!(
        "{} did not read it yet: {reason}; please give: {}",
        manager.name(),
        manager.reload().join(" ")
    ));
    Ok(())
}

fn look(file: &SetupFile) -> Outcome<Found> {
    file.found()
        .map_err(|error| refused("read", &file.path, &error))
}

fn refused(what: &str, path: &Path, error: &io::Error) -> CliError {
    let hint = if error.kind() == io::ErrorKind::PermissionDenied {
        "this once it needs root: sudo sharectl host dns, with your --config"
    } else {
        "is the folder there, and writable?"
    };
    CliError::failure(format!("cannot {what} {}: {error}", path.display()), hint)
}
