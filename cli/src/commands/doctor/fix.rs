//! `--fix`: what mends a finding without the loss of anything, in the order in which one thing needs another.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use control::api::{Changes, HostsMended};
use control::lock;
use control::paths::Daemon;
use schemars::JsonSchema;
use serde::Serialize;

use super::daemons::answers;
use crate::commands::host::round_with;
use crate::context::Context;
use crate::daemons;

/// For the daemons to answer after their start.
const START_LIMIT: Duration = Duration::from_secs(15);

/// Something that is safe to do. The order is the one in which they are done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Repair {
    /// A folder of sharectl's is for its owner alone.
    Close(PathBuf),
    /// A socket that no process has, of a daemon that does not run.
    RemoveSocket(Daemon, PathBuf),
    /// The process number of a daemon that is gone.
    ClearLock(Daemon),
    /// A folder that is shared; its parent is there.
    MakeFolder(PathBuf),
    /// The markers of a hosts file; the lines of others stay.
    HostsFile(PathBuf),
    /// Every daemon that does not run.
    Start,
    /// The daemon reads the configuration again, and tries again what had failed.
    Reload(Daemon),
}

impl std::fmt::Display for Repair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Close(folder) => write!(f, "chmod 700 {}", folder.display()),
            Self::RemoveSocket(_, socket) => write!(f, "rm {}", socket.display()),
            Self::ClearLock(daemon) => write!(f, "empty {daemon}'s file with the process number"),
            Self::MakeFolder(folder) => write!(f, "mkdir {}", folder.display()),
            Self::HostsFile(file) => write!(f, "sharectl host repair {}", file.display()),
            Self::Start => f.write_str("sharectl up"),
            Self::Reload(daemon) => write!(f, "have {daemon} read the configuration again"),
        }
    }
}

/// Whether it is to be done or only shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Do,
    Show,
}

/// What became of one.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Repaired {
    /// As a command, as far as it is one.
    pub what: String,
    /// False when it was only shown, or failed.
    pub done: bool,
    pub error: Option<String>,
}

/// Each once, in their order; one that fails does not keep the others from being done.
pub(super) fn carry_out(context: &Context, mut repairs: Vec<Repair>, wish: Wish) -> Vec<Repaired> {
    // What a folder that is back needs.
    if repairs
        .iter()
        .any(|repair| matches!(repair, Repair::MakeFolder(_)))
    {
        repairs.push(Repair::Reload(Daemon::Sharefs));
    }
    repairs.sort();
    repairs.dedup();
    // Whoever is started reads it anyway.
    let stopped = |daemon: Daemon| matches!(lock::holder(&context.paths.lock(daemon)), Ok(None));
    repairs.retain(|repair| !matches!(repair, Repair::Reload(daemon) if stopped(*daemon)));
    let carry_out = |repair: &Repair| {
        let outcome = match wish {
            Wish::Do => repair.carry_out(context),
            Wish::Show => Ok(()),
        };
        Repaired {
            what: repair.to_string(),
            done: wish == Wish::Do && outcome.is_ok(),
            error: outcome.err(),
        }
    };
    repairs.iter().map(carry_out).collect()
}

pub(super) fn as_text(repairs: &[Repaired]) -> String {
    if repairs.is_empty() {
        return "nothing that --fix mends\n\n".to_owned();
    }
    let line = |repaired: &Repaired| match (&repaired.error, repaired.done) {
        (Some(error), _) => format!("failed  {}: {error}\n", repaired.what),
        (None, true) => format!("done    {}\n", repaired.what),
        (None, false) => format!("would   {}\n", repaired.what),
    };
    let lines: String = repairs.iter().map(line).collect();
    format!("{lines}\n")
}

impl Repair {
    fn carry_out(&self, context: &Context) -> Result<(), String> {
        let said = |error: std::io::Error| error.to_string();
        match self {
            Self::Close(folder) => {
                let mode = std::fs::Permissions::from_mode(0o700);
                std::fs::set_permissions(folder, mode).map_err(said)
            }
            Self::RemoveSocket(daemon, socket) => {
                // The daemon cannot start meanwhile.
                let _lock = acquired(context, *daemon)?;
                let found = std::fs::symlink_metadata(socket).map_err(said)?;
                if !found.file_type().is_socket() || answers(socket) {
                    return Err("it is in use by now".to_owned());
                }
                std::fs::remove_file(socket).map_err(said)
            }
            // Giving a lock back empties its file.
            Self::ClearLock(daemon) => acquired(context, *daemon).map(drop),
            Self::MakeFolder(folder) => std::fs::create_dir(folder).map_err(said),
            Self::HostsFile(file) => {
                let file = file.display().to_string();
                let mended = round_with::<Vec<HostsMended>>(context, &["repair", &file]);
                mended.map(drop).map_err(|error| error.to_string())
            }
            Self::Start => {
                daemons::prepare(&context.paths).map_err(|error| error.to_string())?;
                let started = daemons::start(context, START_LIMIT);
                started.map(drop).map_err(|error| error.to_string())
            }
            Self::Reload(daemon) => {
                let client = context.client(*daemon);
                let answer = context.wait(async {
                    tokio::time::timeout(START_LIMIT, client.post::<_, Changes>("/v1/reload", &()))
                        .await
                });
                match answer.map_err(|error| error.to_string())? {
                    Err(_) => Err(format!("{daemon} does not answer")),
                    Ok(Err(failure)) => Err(failure.to_string()),
                    Ok(Ok(done)) if done.problems.is_empty() => Ok(()),
                    Ok(Ok(done)) => Err(done.problems.join("; ")),
                }
            }
        }
    }
}

fn acquired(context: &Context, daemon: Daemon) -> Result<lock::Lock, String> {
    lock::acquire(&context.paths.lock(daemon)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::super::daemons::leftovers;
    use super::super::facts::tests::Bed;
    use super::super::finding::State;
    use super::super::shares::folders;
    use super::*;

    #[test]
    fn leftovers_go_and_a_missing_folder_comes_and_showing_does_neither() {
        let bed = Bed::with("[share.a]\npath = \"@/gone\"\n");
        let context = bed.facts.context();
        let socket = bed.facts.paths.runtime.join("netd.sock");
        drop(UnixListener::bind(&socket).unwrap());
        std::fs::write(bed.facts.paths.lock(Daemon::Netd), "4711\n").unwrap();
        let repairs = || {
            let found = leftovers(&bed.facts).into_iter().chain(folders(&bed.facts));
            found.filter_map(|found| found.repair).collect::<Vec<_>>()
        };
        assert_eq!(repairs().len(), 3);
        let shown = carry_out(&context, repairs(), Wish::Show);
        assert!(
            shown
                .iter()
                .all(|repaired| !repaired.done && repaired.error.is_none())
        );
        assert!(socket.exists() && repairs().len() == 3);
        assert!(as_text(&shown).starts_with(&format!("would   rm {}", socket.display())));
        let done = carry_out(&context, repairs(), Wish::Do);
        assert!(done.iter().all(|repaired| repaired.done), "{done:?}");
        assert!(repairs().is_empty());
        assert_eq!(folders(&bed.facts)[0].state, State::Ok);
    }

    #[test]
    fn a_socket_that_came_alive_meanwhile_stays() {
        let bed = Bed::with("");
        let socket = bed.facts.paths.runtime.join("netd.sock");
        let _alive = UnixListener::bind(&socket).unwrap();
        let repair = Repair::RemoveSocket(Daemon::Netd, socket.clone());
        let done = carry_out(&bed.facts.context(), vec![repair], Wish::Do);
        assert_eq!(done[0].error.as_deref(), Some("it is in use by now"));
        assert!(socket.exists());
    }
}
