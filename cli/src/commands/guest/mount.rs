//! `sharectl guest mount`: a guest's folder on the host, now and whenever the guest is there.

use std::path::PathBuf;
use std::str::FromStr;

use control::api::GuestMountStatus;
use control::config::GuestMount;
use control::names::GuestName;
use control::paths::Daemon;
use schemars::JsonSchema;
use serde::Serialize;
use toml_edit::{InlineTable, Value};

use crate::commands::share::absolute;
use crate::context::Context;
use crate::edit::{Draft, document};
use crate::error::{CliError, Outcome};
use crate::ready::{WaitArgs, Wish};

/// Mount a guest's folder on the host, as a 9P server in the guest serves it
///
/// It is there while the guest's server is, also after a reboot, and gone while it is not. Only the user
/// that sharefs runs as gets in; what is done there is done in the guest as --owner. In the guest,
/// `apt-get install diod` and `diod -f -n -e /` serve everything to whoever is on the virtual network.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl guest mount dev:/ ~/vm/dev --wait\n  sharectl guest mount dev:/etc ~/vm/etc --owner 0:0 --read-only"
)]
pub(crate) struct Args {
    /// The guest, and the folder in it
    #[arg(value_name = "GUEST:PATH")]
    what: GuestPath,
    /// Where on the host; a folder that is empty or not there yet
    #[arg(value_name = "FOLDER")]
    folder: String,
    /// As whom in the guest; what is that user's looks like yours here [default: your own numbers]
    #[arg(long, value_name = "UID:GID")]
    owner: Option<String>,
    /// That user's name, for servers that know users by name
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The TCP port of the guest's server [default: 564]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// What the guest's server calls it (9P's aname), with PATH below that [default: PATH]
    #[arg(long, value_name = "NAME")]
    export: Option<String>,
    /// Refuse every change
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

/// `GUEST:PATH`.
#[derive(Debug, Clone)]
struct GuestPath {
    guest: GuestName,
    path: String,
}

impl FromStr for GuestPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (guest, path) = text
            .split_once(':')
            .ok_or("a guest and a path in it, like dev:/")?;
        let guest = guest
            .parse()
            .map_err(|error: control::names::NameError| error.to_string())?;
        if !path.starts_with('/') {
            return Err("the path in the guest is absolute, like dev:/home/ann".to_owned());
        }
        Ok(Self {
            guest,
            path: path.to_owned(),
        })
    }
}

impl Args {
    /// As the file has it: a path alone, or with options.
    fn value(&self) -> Value {
        let mut table = InlineTable::new();
        let texts = [
            ("export", &self.export),
            ("owner", &self.owner),
            ("user", &self.user),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                table.insert(key, text.as_str().into());
            }
        }
        if let Some(port) = self.port {
            table.insert("port", i64::from(port).into());
        }
        if self.read_only {
            table.insert("read-only", true.into());
        }
        if table.is_empty() {
            return self.what.path.as_str().into();
        }
        let mut whole = InlineTable::new();
        whole.insert("path", self.what.path.as_str().into());
        whole.extend(table);
        Value::InlineTable(whole)
    }
}

/// A guest's folder on the host.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum MountedFolder {
    /// As sharefs sees it.
    Live(GuestMountStatus),
    /// sharefs does not run.
    Later(GuestMount),
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let guest = &args.what.guest;
    let mut draft = Draft::open(&context.paths.config)?;
    let before = draft.config()?;
    let known = context.guest(&before, guest)?;
    let folder = absolute(&args.folder)?;
    // One place has one mount: written the same way again, it replaces what stands there.
    let places = ["guest", guest.as_str(), "mounts"];
    document::set_value(&mut draft.document, &places, &folder, args.value())?;
    let after = draft.commit(context)?;
    context.reload(&[Daemon::Netd, Daemon::Sharefs])?;
    if context.is_rehearsal() {
        return Ok(());
    }
    let is_new = |mount: &&GuestMount| mount.key == folder || !known.mounts.contains(mount);
    let mounts = after.guests.get(guest).map(|guest| &guest.mounts);
    let Some(mount) = mounts.and_then(|mounts| mounts.iter().find(is_new)) else {
        return Ok(());
    };
    let shown = format!("{guest}:{} ", mount.path.display());
    let at = mount.at.display();
    let (uid, gid) = mount.owner;
    let as_whom = format!("as {uid}:{gid} there");
    let there = Wish::GuestFolder(guest.clone(), mount.at.clone());
    args.wait.until(context, &[there])?;
    match live(context, &mount.at) {
        Some(status) if status.mounted => {
            let sentence = format!("{shown}mounted at {at}, {as_whom}");
            context.out.done(&sentence, &MountedFolder::Live(status))
        }
        Some(status) if status.away => {
            if let Some(problem) = &status.problem {
                context.out.note(problem);
            }
            let sentence = format!("{shown}will be mounted at {at} when the guest serves it");
            context.out.done(&sentence, &MountedFolder::Live(status))
        }
        Some(status) => Err(CliError::failure(
            format!(
                "{shown}could not be mounted at {at}: {}",
                status.problem.unwrap_or_default()
            ),
            format!("forget it: sharectl guest unmount {at}"),
        )),
        None => {
            let sentence = format!("{shown}will be mounted at {at}, {as_whom}");
            context
                .out
                .done(&sentence, &MountedFolder::Later(mount.clone()))
        }
    }
}

/// What sharefs says of a mount.
fn live(context: &Context, at: &PathBuf) -> Option<GuestMountStatus> {
    let all: Vec<GuestMountStatus> = context.ask_if_up(Daemon::Sharefs, "/v1/guest-mounts")?;
    all.into_iter().find(|status| status.mount.at == *at)
}
