//! The process beside the daemon: one request at a time from its standard input, until that ends.
//!
//! It trusts the daemon as far as mounting goes, and answers everything: a request it cannot read is
//! refused, not its end. When the daemon is gone it ends and leaves the mounts alone: those of a daemon
//! that was killed answer ENOTCONN, rather than let programs write into the empty folder below, until
//! the next start cleans them up.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::table::{self, Mounted};
use super::{Answer, Ask, MountAsk, Numbered, Place, Refusal, TYPE, attach, place, receive};
use crate::sys;

/// Serves the daemon at the other end of standard input until it is gone.
///
/// # Errors
/// When standard input is no such socket.
pub fn run() -> std::io::Result<()> {
    sys::ignore_termination();
    let socket = std::io::stdin();
    while let Some((message, _)) = receive(&socket, None)? {
        let Ok(Numbered { number, body }) = serde_json::from_slice::<Numbered<Ask>>(&message)
        else {
            tracing::warn!("a request could not be read");
            continue;
        };
        let (body, device) = match serve(body) {
            Ok((answer, device)) => (answer, device),
            Err(refusal) => (Answer::Refused(refusal), None),
        };
        let message = serde_json::to_vec(&Numbered { number, body })?;
        send(&socket, &message, device.as_ref().map(AsFd::as_fd))?;
    }
    Ok(())
}

fn send(socket: impl AsFd, message: &[u8], device: Option<BorrowedFd<'_>>) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = device.into_iter().collect();
    if !descriptors.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let parts = [IoSlice::new(message)];
    rustix::net::sendmsg(socket, &parts, &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn serve(ask: Ask) -> Result<(Answer, Option<OwnedFd>), Refusal> {
    match ask {
        Ask::Clean => {
            clean();
            Ok((Answer::Done, None))
        }
        Ask::Mount(wanted) => {
            let (place, device) = mount(&wanted)?;
            Ok((Answer::Mounted(place), Some(device)))
        }
        Ask::Unmount { path, device } => {
            let there = mounts()?;
            match table::at(&there, &path).filter(|mount| mount.device == device) {
                Some(mount) => attach::detach(&mount.path)?,
                None => tracing::debug!(path = %path.display(), "unmounted already"),
            }
            Ok((Answer::Done, None))
        }
    }
}

fn mount(wanted: &MountAsk) -> Result<(Place, OwnedFd), Refusal> {
    let path = place::ready(wanted)?;
    let device = attach::attach(wanted, &path)?;
    let there = mounts()?;
    let found = table::at(&there, &path).filter(|mount| mount.kind == TYPE);
    let Some(found) = found else {
        return Err(Refusal::new(
            format!("{} was mounted, but is not there", path.display()),
            "is sharefs in a mount namespace of its own? see: findmnt",
        ));
    };
    let place = Place {
        path: found.path.clone(),
        device: found.device,
    };
    Ok((place, device))
}

/// Unmounts dead mounts of this user's daemons, also those that no configuration names any more.
fn clean() {
    let user = rustix::process::geteuid().as_raw();
    for mount in mounts().unwrap_or_default() {
        if mount.owner() == Some(user)
            && is_dead(&mount)
            && let Err(refusal) = attach::detach(&mount.path)
        {
            tracing::warn!("{refusal}");
        }
    }
}

/// Whether nobody serves this mount of ours any more.
pub(super) fn is_dead(mount: &Mounted) -> bool {
    mount.kind == TYPE && rustix::fs::statfs(&mount.path).err() == Some(Errno::NOTCONN)
}

pub(super) fn mounts() -> Result<Vec<Mounted>, Refusal> {
    table::read().map_err(|error| {
        Refusal::new(
            format!("cannot read /proc/self/mountinfo: {error}"),
            "is /proc mounted?",
        )
    })
}
