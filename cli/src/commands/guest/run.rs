//! `sharectl guest run`: the user's own VMM line with the guest's network card
//! and shares added.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use control::api::{GuestStatus, LinkStatus, ShareStatus};
use control::config::{Devices, LinkChoice, SHARES_TAG};
use control::names::GuestName;
use control::paths::{Daemon, make_private_folder};

use super::wiring::{self, Wishes};
use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::vmm::{Nic, ShareSocket, Wiring, qemu};

/// Start a VM with network and shares added to its command line
///
/// Everything behind -- is your own command line; it stays as it is, and the
/// parts for network and shares are added behind it. The VM takes this
/// command's place: terminal, signals and exit status are its own.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl guest run dev -- qemu-system-x86_64 -m 2G -nographic disk.qcow2"
)]
pub(crate) struct Args {
    /// As in `sharectl guest ls`
    #[arg(value_name = "NAME")]
    guest: GuestName,
    /// The network card the guest sees
    #[arg(long, value_enum, default_value_t = Nic::VirtioNetPci)]
    nic: Nic,
    /// How frames travel to netd: auto, stream, vhost-user, dgram; instead of what the configuration says
    #[arg(long, value_parser = wiring::link_choice)]
    link: Option<LinkChoice>,
    /// How shares reach it: one device for all, or one each; instead of what the configuration says
    #[arg(long, value_parser = wiring::devices_choice)]
    devices: Option<Devices>,
    /// The VM's own command line
    #[arg(last = true, required = true, value_name = "COMMAND")]
    line: Vec<OsString>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let config = context.config()?;
    let guest = context.guest(&config, &args.guest)?;
    let wishes = Wishes {
        nic: args.nic,
        link: args.link,
        devices: args.devices,
    };
    let program = args.line.first().map(OsString::as_os_str);
    let wiring = wiring::of(context, &config, guest, &wishes, program);
    let edited = qemu::edit(&args.line, &wiring).map_err(|error| {
        CliError::usage(format!("cannot add to the line: {error}"), error.hint())
    })?;
    check_not_running(context, &args.guest)?;
    check_shares(context, &wiring)?;
    warn_of_another_user(context);
    if context.is_rehearsal() {
        let words: Vec<String> = edited.line.iter().map(|word| quoted(word)).collect();
        context.would_act(format!("become: {}", words.join(" ")));
        return Ok(());
    }
    make_socket_folder(context, &args.guest)?;
    for note in &edited.notes {
        context.out.note(note);
    }
    let Some((program, arguments)) = edited.line.split_first() else {
        return Err(CliError::usage(
            "the program to run is missing",
            "write it behind --",
        ));
    };
    // Only returns when the program cannot be started.
    let error = Command::new(program).args(arguments).exec();
    Err(CliError::failure(
        format!("cannot start {}: {error}", Path::new(program).display()),
        "is it installed and on the search path? apt-get install qemu-system-x86",
    ))
}

/// As a word of the shell.
fn quoted(word: &OsStr) -> String {
    crate::mounts::shell_word(&word.to_string_lossy())
}

/// netd dials the VMM's socket, which only the VMM's own user may write to.
fn warn_of_another_user(context: &Context) {
    let Ok(socket) = std::fs::metadata(context.paths.control_socket(Daemon::Netd)) else {
        return;
    };
    let (netd, ours) = (socket.uid(), rustix::process::geteuid().as_raw());
    if netd != ours && netd != 0 {
        context.out.warning(&format!(
            "netd runs as user {netd} and may not use the sockets of a VM of user {ours}; run this as that user"
        ));
    }
}

/// netd makes it when it learns of the guest; this is for the moment before.
fn make_socket_folder(context: &Context, name: &GuestName) -> Outcome {
    let folder = context.paths.guest(name);
    if folder.is_dir() {
        return Ok(());
    }
    let guests = folder.parent().unwrap_or(&folder);
    make_private_folder(guests)
        .and_then(|()| make_private_folder(&folder))
        .map_err(|error| {
            CliError::failure(
                format!("cannot make the folder of the guest's sockets: {error}"),
                "sharectl doctor",
            )
        })
}

/// One VMM at a time has the guest's socket; a second would cut the first off. A datagram link outlives its VMM until
/// netd has something to send, so it says nothing.
fn check_not_running(context: &Context, name: &GuestName) -> Outcome {
    let guests: Vec<GuestStatus> = context.ask(Daemon::Netd, "/v1/guests")?;
    let plugged = guests.iter().find(|guest| {
        let runs = |link: &LinkStatus| link.transport != "dgram";
        guest.name.as_ref() == Some(name) && guest.links.iter().any(runs)
    });
    match plugged {
        None => Ok(()),
        Some(guest) => Err(CliError::conflict(
            format!(
                "guest \"{name}\" is plugged in already, by {}",
                guest
                    .links
                    .iter()
                    .map(|link| link.transport.as_str())
                    .collect::<Vec<_>>()
                    .join(" and ")
            ),
            format!(
                "stop its VM first, or unplug it: sharectl guest detach {name}; a second VM needs a guest of its own"
            ),
        )),
    }
}

/// The VMM gives up when it cannot reach a share's socket, and says less about it.
fn check_shares(context: &Context, wiring: &Wiring) -> Outcome {
    if wiring.shares.is_empty() {
        return Ok(());
    }
    let served: Vec<ShareStatus> = context.ask(Daemon::Sharefs, "/v1/shares")?;
    let lacking = |share: &&ShareSocket| !share.socket.exists();
    let Some(share) = wiring.shares.iter().find(lacking) else {
        return Ok(());
    };
    if share.tag == SHARES_TAG {
        return Err(CliError::failure(
            format!(
                "the guest's shares are not served: {} is not there",
                share.socket.display()
            ),
            "sharectl status says why",
        ));
    }
    let status = served
        .iter()
        .find(|status| status.name.as_str() == share.tag);
    let why = status.and_then(|status| status.problem.clone());
    Err(CliError::failure(
        format!(
            "share \"{}\" is not served to this guest: {}",
            share.tag,
            why.unwrap_or_else(|| format!("{} is not there", share.socket.display()))
        ),
        format!(
            "sharectl describe {0}, or take it away: sharectl share rm {0}",
            share.tag
        ),
    ))
}
