//! `sharectl uninstall`: what sharectl left on this machine goes, and nothing else.
//!
//! In the folders only what sharectl itself makes is known by name; what else is there stays, and so does its
//! folder. The programs are the package manager's.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use control::api::{Changes, HostsFileStatus};
use control::config::projects_folder;
use control::config::{Config, HostsFile};
use control::host_interface;
use control::lock;
use control::paths::Daemon;
use serde::Serialize;

use super::host::{installed_writer, round};
use crate::context::Context;
use crate::daemons;
use crate::error::{CliError, Outcome};
use crate::service::removal;
use crate::sys;
use schemars::JsonSchema;

/// Remove what sharectl made on this machine: units, hosts lines, interfaces, state
///
/// Each line says what goes and why it is there; nothing else is touched. The
/// configuration stays, unless --purge is given; the programs are removed the
/// way they came (apt remove sharectl).
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl uninstall --dry-run\n  sharectl uninstall --purge --yes && sudo apt remove sharectl"
)]
pub(crate) struct Args {
    /// The configuration too, and its backup
    #[arg(long)]
    purge: bool,
    /// Do not ask
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// How something is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum How {
    /// By `service remove`, all at once.
    Service,
    /// By stopping the daemon.
    Daemon(Daemon),
    /// By hostsync, all files at once.
    HostsBlock,
    /// By systemctl; its files are things of their own.
    HostsWriter,
    Interface(String),
    Path(PathBuf),
    /// Only when it is empty by then.
    Folder(PathBuf),
}

/// A thing that goes, or stays.
#[derive(Debug, Serialize, JsonSchema)]
struct Item {
    what: String,
    why: String,
    #[serde(skip)]
    how: How,
}

/// Something that stays, and why.
#[derive(Debug, Serialize, JsonSchema)]
struct Left {
    what: String,
    why: String,
}

/// What goes, and what stays.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Removal<'r> {
    remove: &'r [Item],
    left: &'r [Left],
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome<ExitCode> {
    let mut left = Vec::new();
    let items = list(context, args.purge, &mut left)?;
    if args.dry_run || items.is_empty() {
        show(context, &items, &left, "would remove")?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes {
        if !std::io::stdin().is_terminal() {
            return Err(CliError::usage(
                format!(
                    "{} things would be removed, and nobody can be asked",
                    items.len()
                ),
                "sharectl uninstall --dry-run lists them; then: sharectl uninstall --yes",
            ));
        }
        show(context, &items, &left, "would remove")?;
        context.out.text("remove all of this? [y/N] ")?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).ok();
        if !["y", "yes"].contains(&answer.trim()) {
            return Err(CliError::failure(
                "nothing was removed",
                "answer y, or give --yes",
            ));
        }
    }
    let done = carry_out(context, &items, &mut left);
    let (gone, stayed): (Vec<Item>, Vec<Item>) = items
        .into_iter()
        .partition(|item| is_gone(&item.how, &done));
    left.extend(stayed.iter().map(|item| Left {
        what: item.what.clone(),
        why: "it could not be removed, see above".to_owned(),
    }));
    show(context, &gone, &left, "removed")?;
    // A folder that is not empty stays for what is in it, which was said.
    let failed = stayed
        .iter()
        .any(|item| !matches!(item.how, How::Folder(_)));
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn list(context: &Context, purge: bool, left: &mut Vec<Left>) -> Outcome<Vec<Item>> {
    let mut items = Vec::new();
    let mut add = |what: String, why: &str, how| {
        let why = why.to_owned();
        items.push(Item { what, why, how });
    };
    if let Some(removal) = removal::list(context, false)? {
        for (what, why) in removal.removed {
            add(what, &why, How::Service);
        }
        left.extend(
            removal
                .left
                .into_iter()
                .map(|(what, why)| Left { what, why }),
        );
    }
    for daemon in Daemon::ALL.into_iter().rev() {
        if let Ok(Some(pid)) = lock::holder(&context.paths.lock(daemon)) {
            let what = format!("{}, process {pid}", daemon.program());
            add(what, "runs, and is stopped", How::Daemon(daemon));
        }
    }
    let config = context.config().ok();
    for file in hosts_files_with_names(context, config.as_ref()) {
        let what = format!("sharectl's block in {}", file.display());
        add(what, "names of guests", How::HostsBlock);
    }
    hosts_writer(left, &mut add);
    for network in config.iter().flat_map(|config| config.networks.values()) {
        let name = network.name.as_str();
        if network.host_tap.is_some() && host_interface::host_tap(name).is_some() {
            let how = How::Interface(name.to_owned());
            add(
                format!("interface {name}"),
                "the host's own on this network",
                how,
            );
        }
    }
    let sockets = |name: &str| {
        ["compose", "guest", "network", "link.sock"].contains(&name)
            || Daemon::ALL
                .iter()
                .any(|daemon| name.split('.').next() == Some(daemon.name()))
    };
    folder(
        &context.paths.runtime,
        "sockets and locks",
        sockets,
        left,
        &mut add,
    );
    let state = |name: &str| ["leases", "logs", "hosts", "service.json"].contains(&name);
    folder(
        &context.paths.state,
        "leases, logs, backups",
        state,
        left,
        &mut add,
    );
    if purge && context.paths.config.symlink_metadata().is_ok() {
        let file = &context.paths.config;
        let own = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let backup = format!("{own}.bak");
        let projects = projects_folder(file);
        match file.parent().filter(|folder| folder.ends_with("sharectl")) {
            Some(parent) => {
                // The last is the hosts writer's, in root's folder.
                let known = |name: &str| {
                    name == own
                        || name == backup
                        || name == "hosts.toml"
                        || projects.ends_with(name)
                };
                folder(parent, "the configuration", known, left, &mut add);
            }
            // Somebody else's folder: the file alone.
            None => {
                for path in [file.clone(), projects] {
                    if path.symlink_metadata().is_ok() {
                        add(
                            path.display().to_string(),
                            "the configuration",
                            How::Path(path),
                        );
                    }
                }
            }
        }
    }
    Ok(items)
}

/// Root's hosts writer, which is every user's.
fn hosts_writer(left: &mut Vec<Left>, add: &mut impl FnMut(String, &str, How)) {
    let root = std::env::var_os("SHARECTL_MACHINE_ROOT").filter(|root| !root.is_empty());
    let root = root.map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let files = installed_writer(&root);
    if files.is_empty() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        left.extend(files.into_iter().map(|file| Left {
            what: file.display().to_string(),
            why: "root's hosts writer: sudo sharectl uninstall".to_owned(),
        }));
        return;
    }
    // What stands in for a machine has no manager.
    if root == Path::new("/") {
        let what = WRITER_UNITS.join(" and ");
        add(what, "root's hosts writer, is stopped", How::HostsWriter);
    }
    for file in files {
        let what = file.display().to_string();
        add(what, "root's hosts writer", How::Path(file));
    }
}

const WRITER_UNITS: [&str; 2] = ["sharectl-hosts.socket", "sharectl-hosts.service"];

/// What of a folder is ours, then the folder; what is not ours is left.
fn folder(
    folder: &Path,
    why: &str,
    known: impl Fn(&str) -> bool,
    left: &mut Vec<Left>,
    add: &mut impl FnMut(String, &str, How),
) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    // SHARECTL_STATE_DIR can name any folder; in another's, "logs" or "network" may be anybody's.
    let own = folder.file_name().unwrap_or_default().to_string_lossy();
    if own != "sharectl" && !own.starts_with("sharectl-") {
        let why = "not called sharectl, so it may have other things; remove ours by hand";
        left.push(Left {
            what: folder.display().to_string(),
            why: why.to_owned(),
        });
        return;
    }
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if known(&name) {
            add(path.display().to_string(), why, How::Path(path.clone()));
        } else {
            let why = "sharectl does not know it".to_owned();
            left.push(Left {
                what: path.display().to_string(),
                why,
            });
        }
    }
    let what = format!("{}/", folder.display());
    add(
        what,
        "the folder of these, if it is empty then",
        How::Folder(folder.to_owned()),
    );
}

/// The files in which this user's names stand, wherever they are and whoever writes them.
fn hosts_files_with_names(context: &Context, config: Option<&Config>) -> Vec<PathBuf> {
    if let Ok(files) = round::<Vec<HostsFileStatus>>(context, "files") {
        let named = files.into_iter().filter(|status| status.names > 0);
        return named.map(|status| status.file).collect();
    }
    // Without the program, or with a configuration that it cannot read.
    let files = config.iter().flat_map(|config| &config.hosts.files);
    let mut files: Vec<PathBuf> = files
        .filter_map(|file| match file {
            HostsFile::Auto => Some(PathBuf::from("/etc/hosts")),
            HostsFile::Windows => None,
            HostsFile::Path(path) => Some(path.clone()),
        })
        .filter(|file| has_block(file))
        .collect();
    files.dedup();
    files
}

/// Whether a block of this user's daemon stands there (hostsync/src/section.rs has its form).
fn has_block(file: &Path) -> bool {
    let text = std::fs::read(file).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .any(|line| line.trim_end() == "# BEGIN sharectl")
}

/// Goes on after a failure; what is not gone then is told at the end.
fn carry_out(context: &Context, items: &[Item], left: &mut Vec<Left>) -> Stages {
    let limit = Duration::from_secs(15);
    let complain = |outcome: Outcome| {
        let failed = outcome.err();
        if let Some(error) = &failed {
            context.out.warning(&error.to_string());
        }
        failed.is_none()
    };
    let mut done = Stages {
        service: complain(removal::carry_out(context, false, false).map(drop)),
        daemons: complain(daemons::stop(context, limit, true).map(drop)),
        hosts: true,
    };
    if items.iter().any(|item| matches!(item.how, How::HostsBlock)) {
        let cleared: Outcome<Changes> = round(context, "clear");
        done.hosts = match cleared {
            Ok(cleared) => {
                let problems = cleared.problems.iter();
                problems.for_each(|problem| context.out.warning(problem));
                cleared.problems.is_empty()
            }
            Err(error) => complain(Err(error)),
        };
    }
    for item in items {
        match &item.how {
            How::Service | How::Daemon(_) | How::HostsBlock => {}
            How::HostsWriter => {
                let mut line = Command::new("systemctl");
                line.args(["disable", "--now"]).args(WRITER_UNITS);
                if !line.status().is_ok_and(|status| status.success()) {
                    let what = "systemctl did not stop the hosts writer";
                    context
                        .out
                        .warning(&format!("{what}; its files go all the same"));
                }
            }
            How::Interface(name) => {
                if let Some(tap) = host_interface::host_tap(name)
                    && let Err(error) = sys::delete_interface(tap.index)
                {
                    context.out.warning(&format!(
                        "interface {name}: {error}; sudo sharectl network host-tap rm {name}"
                    ));
                }
            }
            // What a stage needs that has to be tried again.
            How::Path(path) if done.keeps(context, path) => {}
            How::Path(path) => {
                if let Err(error) = remove(path) {
                    context.out.warning(&format!("{}: {error}", path.display()));
                }
            }
            How::Folder(folder) => {
                // Where something is left in it, it stays, and was named.
                std::fs::remove_dir(folder).ok();
            }
        }
    }
    // A folder that others share is no loss.
    left.retain(|left| Path::new(&left.what).symlink_metadata().is_ok());
    done
}

/// What went well.
struct Stages {
    service: bool,
    daemons: bool,
    hosts: bool,
}

impl Stages {
    fn keeps(&self, context: &Context, path: &Path) -> bool {
        let (state, runtime) = (&context.paths.state, &context.paths.runtime);
        (!self.service && path == state.join("service.json"))
            || (!self.hosts && path == state.join("hosts"))
            || (!self.daemons && path.starts_with(runtime))
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn is_gone(how: &How, done: &Stages) -> bool {
    match how {
        How::Service => done.service,
        How::Daemon(_) => done.daemons,
        How::HostsBlock => done.hosts,
        // What is left of it shows in its files.
        How::HostsWriter => true,
        How::Interface(name) => host_interface::host_tap(name).is_none(),
        How::Path(path) | How::Folder(path) => path.symlink_metadata().is_err(),
    }
}

fn show(context: &Context, items: &[Item], left: &[Left], verb: &str) -> Outcome {
    if context.out.is_json() {
        return context.out.json(&Removal {
            remove: items,
            left,
        });
    }
    if context.out.quiet {
        return Ok(());
    }
    let mut text = String::new();
    for item in items {
        text.push_str(&format!("{verb} {}   ({})\n", item.what, item.why));
    }
    for left in left {
        text.push_str(&format!("left {}   ({})\n", left.what, left.why));
    }
    if items.is_empty() {
        text.push_str("there is nothing to remove\n");
    }
    context.out.text(&crate::output::printable(&text))
}
