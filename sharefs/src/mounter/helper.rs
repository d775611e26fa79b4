//! The process beside the daemon: one request at a time from its standard input, until that ends.
//!
//! It trusts the daemon as far as mounting goes, and answers everything: a request it cannot read is
//! refused, not its end. When the daemon is gone it ends and leaves the mounts alone: those of a daemon
//! that was killed answer ENOTCONN, rather than let programs write into the empty folder below, until
//! the next start cleans them up.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

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
    serve_all(std::io::stdin())
}

/// To whom it may concern: the request had no number that could be read.
const WHOEVER: u64 = u64::MAX;

/// The number of a request whose body cannot be read.
#[derive(serde::Deserialize)]
struct NumberOnly {
    number: u64,
}

/// Answers whatever comes, until nothing more can.
pub(super) fn serve_all(socket: impl AsFd) -> std::io::Result<()> {
    loop {
        let (number, outcome) = match receive(&socket, None) {
            Ok(None) => return Ok(()),
            Ok(Some((message, _))) => match serde_json::from_slice(&message) {
                Ok(Numbered { number, body }) => (number, serve(body)),
                Err(error) => {
                    let number = serde_json::from_slice(&message)
                        .map_or(WHOEVER, |NumberOnly { number }| number);
                    (number, Err(unreadable(&error.to_string())))
                }
            },
            Err(Errno::MSGSIZE) => (WHOEVER, Err(unreadable("it is too long"))),
            Err(error) => return Err(error.into()),
        };
        let (body, device) = match outcome {
            Ok((answer, device)) => (answer, device),
            Err(refusal) => (Answer::Refused(refusal), None),
        };
        let message = serde_json::to_vec(&Numbered { number, body })?;
        send(&socket, &message, device.as_ref().map(AsFd::as_fd))?;
    }
}

fn unreadable(why: &str) -> Refusal {
    Refusal::new(
        format!("the process that mounts cannot read what it is asked: {why}"),
        "start sharefs again: sharectl down && sharectl up",
    )
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
        Ask::Clean { served } => {
            clean(&served);
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
fn clean(served: &[u64]) {
    for mount in mounts().unwrap_or_default() {
        if !served.contains(&mount.device)
            && is_dead(&mount)
            && let Err(refusal) = attach::detach(&mount.path)
        {
            tracing::warn!("{refusal}");
        }
    }
}

/// A file system that somebody serves says so in far less; one whose daemon is stopped says nothing.
const LIVELY: Duration = Duration::from_secs(2);
/// Looks at mounts that never came back. Each is a thread that waits in the kernel.
static STUCK: AtomicUsize = AtomicUsize::new(0);
/// So many, and nobody looks any more.
const MOST_STUCK: usize = 8;

/// Whether this is a mount of this user's daemons that nobody serves any more. One that does not answer is not
/// dead: its daemon may be stopped, and go on.
pub(super) fn is_dead(mount: &Mounted) -> bool {
    let user = rustix::process::geteuid().as_raw();
    // Before it is looked at: nobody else's mount is ours to wait for.
    if mount.kind != TYPE || mount.owner() != Some(user) {
        return false;
    }
    let path = mount.path.clone();
    let look = move || rustix::fs::statfs(&path).err() == Some(Errno::NOTCONN);
    within(LIVELY, look) == Some(true)
}

/// What `look` says, unless it takes longer; then a thread is left behind with it.
fn within<T: Send + 'static>(
    limit: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if STUCK.load(Ordering::Relaxed) >= MOST_STUCK {
        return None;
    }
    let (say, hear) = mpsc::sync_channel(1);
    STUCK.fetch_add(1, Ordering::Relaxed);
    let looks = move || {
        // Nobody listens any more if it took too long.
        say.send(look()).ok();
        STUCK.fetch_sub(1, Ordering::Relaxed);
    };
    let name = "look-at-a-mount".to_owned();
    if std::thread::Builder::new().name(name).spawn(looks).is_err() {
        STUCK.fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    hear.recv_timeout(limit).ok()
}

pub(super) fn mounts() -> Result<Vec<Mounted>, Refusal> {
    table::read().map_err(|error| {
        Refusal::new(
            format!("cannot read /proc/self/mountinfo: {error}"),
            "is /proc mounted?",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_left_behind_and_only_so_often() {
        assert_eq!(within(Duration::from_secs(20), || 7), Some(7));
        // It is counted out behind its answer.
        while STUCK.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        let (end, wait) = mpsc::sync_channel::<()>(1);
        let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
        for _ in 0..MOST_STUCK {
            let wait = std::sync::Arc::clone(&wait);
            let stuck = move || drop(wait.lock().map(|wait| wait.recv()));
            assert_eq!(within(Duration::from_millis(1), stuck), None);
        }
        assert_eq!(
            within(Duration::from_secs(20), || 7),
            None,
            "there are too many"
        );
        drop(end);
        while STUCK.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        assert_eq!(within(Duration::from_secs(20), || 7), Some(7));
    }
}
