//! Mounting on the host: what the daemon asks of a process beside it, which has the rights for it.
//!
//! The daemon gives its rights up before it hears the first guest (confine.rs): root's CAP_SYS_ADMIN, and
//! with `no_new_privs` every user's way to fusermount3. So it starts its own program once more before
//! that, with `--mounter`: the helper, which mounts and unmounts, hands over the descriptor and never
//! hears a guest or reads a request of a mount. It is also the one that looks at mount points. The
//! daemon never does: a process that looks at its own mount waits for itself.
//!
//! `helper` is that process, `place` what it checks, `attach` how it mounts, `table` the kernel's list.
//! Read first: mount(2), fusermount3(1), fuse(4).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use control::config::MountUsers;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

mod attach;
pub(crate) mod helper;
mod place;
pub(crate) mod table;
#[cfg(test)]
mod tests;

/// The file system type in the kernel's list: `fuse.` and the subtype.
pub(crate) const TYPE: &str = "fuse.sharectl";
/// The longest message: all shares' folders of a file, each at most PATH_MAX, is far less.
const LONGEST: usize = 128 * 1024;
/// For one answer. A folder on a server that is away must not keep a reload for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the helper is asked.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// Unmount what daemons that are dead have left.
    Clean {
        /// Device numbers of mounts that the daemon serves, which need not be looked at.
        served: Vec<u64>,
    },
    Mount(MountAsk),
    Unmount {
        path: PathBuf,
        /// Only if it is this one that is there.
        device: u64,
    },
}

/// A mount that is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MountAsk {
    /// What the kernel's list has as its source: the share's name, or the guest's folder.
    pub(crate) source: String,
    /// The command that mounts it, without the path.
    pub(crate) again: String,
    pub(crate) path: PathBuf,
    pub(crate) users: MountUsers,
    pub(crate) read_only: bool,
    /// Who decides what may be done there.
    pub(crate) judge: Judge,
    /// Folders that the mount point must have nothing to do with: those of all shares.
    pub(crate) folders: Vec<PathBuf>,
}

/// Who looks at permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Judge {
    /// The kernel, before anything is asked.
    Kernel,
    /// Whoever serves, who knows the owners; one user alone gets in.
    Server,
}

/// A mount that is there. /dev/fuse comes beside it, as a descriptor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Without links.
    pub(crate) path: PathBuf,
    /// Its device number.
    pub(crate) device: u64,
}

/// Why something could not be done, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}: {hint}")]
pub(crate) struct Refusal {
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Refusal {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Numbered<T> {
    number: u64,
    body: T,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    Mounted(Place),
    Refused(Refusal),
}

/// The daemon's end. Dropped, the helper ends.
#[derive(Debug)]
pub struct Mounter {
    line: Mutex<Line>,
}

#[derive(Debug)]
struct Line {
    /// None when the helper could not be started, with the reason.
    socket: Result<OwnedFd, String>,
    child: Option<Child>,
    asked: u64,
    /// Mounts that were answered too late, to be taken back.
    late: Vec<Place>,
    patience: Duration,
}

impl Mounter {
    /// Starts the helper. To be called before the process gives up its rights.
    ///
    /// One that cannot be started is a problem of mounts alone, told at the first of them.
    #[must_use]
    pub fn start() -> Self {
        let (socket, child) = match start() {
            Ok((socket, child)) => (Ok(socket), Some(child)),
            Err(error) => (Err(error.to_string()), None),
        };
        let line = Line {
            socket,
            child,
            asked: 0,
            late: Vec::new(),
            patience: PATIENCE,
        };
        Self {
            line: Mutex::new(line),
        }
    }

    /// One that was never started, for tests of what mounts nothing.
    #[cfg(test)]
    pub(crate) fn absent() -> Self {
        Self {
            line: Mutex::new(Line {
                socket: Err("it was never started".to_owned()),
                child: None,
                asked: 0,
                late: Vec::new(),
                patience: PATIENCE,
            }),
        }
    }

    /// Unmounts what dead daemons of this user have left; `served`: device numbers of mounts that are not dead.
    pub(crate) fn clean(&self, served: Vec<u64>) -> Result<(), Refusal> {
        self.ask(&Ask::Clean { served }).map(drop)
    }

    /// Mounts; the descriptor is /dev/fuse.
    pub(crate) fn mount(&self, wanted: MountAsk) -> Result<(Place, OwnedFd), Refusal> {
        match self.ask(&Ask::Mount(wanted))? {
            (Answer::Mounted(place), Some(device)) => Ok((place, device)),
            (answer, _) => Err(unusable(format!("it answered {answer:?}"))),
        }
    }

    /// Unmounts what `place` says, if it is still there. Programs that use it keep what they have open for
    /// as long as the mount is served.
    pub(crate) fn unmount(&self, place: &Place) -> Result<(), Refusal> {
        let Place { path, device } = place.clone();
        self.ask(&Ask::Unmount { path, device }).map(drop)
    }

    fn ask(&self, body: &Ask) -> Result<(Answer, Option<OwnedFd>), Refusal> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        // A mount that was made after nobody waited for it any more: it stands in the way, and serves nobody.
        line.hear_late_answers();
        while let Some(Place { path, device }) = line.late.pop() {
            tracing::info!(path = %path.display(), "a mount that came too late is taken back");
            let (answer, _) = line.exchange(&Ask::Unmount { path, device })?;
            debug_assert!(matches!(answer, Answer::Done));
        }
        line.exchange(body)
    }
}

impl Line {
    /// Answers that nobody waited for until they came. What can be read of them is; the rest is told by whoever asks
    /// next.
    fn hear_late_answers(&mut self) {
        while let Ok(socket) = &self.socket
            && let Ok(Some((answer, device))) = receive(socket, Duration::ZERO)
        {
            // Without its descriptor a mount is dead, and nothing waits at it.
            drop(device);
            if let Ok(answer) = serde_json::from_slice::<Numbered<Answer>>(&answer) {
                self.late.extend(place_of(answer.body));
            }
        }
    }

    fn exchange(&mut self, body: &Ask) -> Result<(Answer, Option<OwnedFd>), Refusal> {
        self.asked += 1;
        let number = self.asked;
        let socket = match &self.socket {
            Ok(socket) => socket,
            Err(reason) => return Err(unusable(reason.clone())),
        };
        let message = serde_json::to_vec(&Numbered { number, body })
            .map_err(|error| unusable(error.to_string()))?;
        if message.len() > LONGEST {
            return Err(too_long(message.len()));
        }
        rustix::net::send(socket, &message, SendFlags::NOSIGNAL)
            .map_err(|error| unusable(error.to_string()))?;
        loop {
            let (answer, device) = receive(socket, self.patience)
                .map_err(|error| unusable(error.to_string()))?
                .ok_or_else(|| unusable("it has ended".to_owned()))?;
            let answer: Numbered<Answer> =
                serde_json::from_slice(&answer).map_err(|error| unusable(error.to_string()))?;
            if answer.number < number {
                // To what was asked and given up before.
                self.late.extend(place_of(answer.body));
                continue;
            }
            match answer.body {
                Answer::Refused(refusal) => return Err(refusal),
                body @ (Answer::Done | Answer::Mounted(_)) => return Ok((body, device)),
            }
        }
    }
}

fn place_of(answer: Answer) -> Option<Place> {
    match answer {
        Answer::Mounted(place) => Some(place),
        Answer::Done | Answer::Refused(_) => None,
    }
}

fn too_long(length: usize) -> Refusal {
    Refusal::new(
        format!(
            "what is to be asked of the process that mounts has {length} bytes, more than {LONGEST}"
        ),
        "mount points are compared with the folders of all shares: share fewer",
    )
}

impl Drop for Mounter {
    fn drop(&mut self) {
        let line = self.line.get_mut().unwrap_or_else(PoisonError::into_inner);
        line.socket = Err("it was ended".to_owned());
        if let Some(child) = &mut line.child {
            // It ends when the socket does, unless a file system keeps it: then nobody waits for it.
            drop(child.try_wait());
        }
    }
}

fn unusable(reason: String) -> Refusal {
    Refusal::new(
        format!("the process that mounts does not serve: {reason}"),
        "start sharefs again: sharectl down && sharectl up",
    )
}

fn start() -> io::Result<(OwnedFd, Child)> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Our own file, though another may be at its path by now, or none.
    let child = Command::new("/proc/self/exe")
        .arg0("sharectl-sharefs")
        .arg("--mounter")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        // A Ctrl-C on the terminal is for the daemon, which has things unmounted first.
        .process_group(0)
        .spawn()?;
    Ok((ours, child))
}

/// One message and the descriptor beside it. None: the other end is gone.
fn receive(
    socket: impl AsFd,
    patience: impl Into<Option<Duration>>,
) -> rustix::io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    if let Some(patience) = patience.into() {
        let limit = Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        };
        let mut wanted = [PollFd::new(&socket, PollFlags::IN)];
        if rustix::event::poll(&mut wanted, Some(&limit))? == 0 {
            return Err(rustix::io::Errno::TIMEDOUT);
        }
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; LONGEST];
    let got = rustix::net::recvmsg(
        &socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut beside,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptor = None;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            descriptor = descriptors.next();
        }
    }
    if got.bytes == 0 && descriptor.is_none() {
        return Ok(None);
    }
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Err(rustix::io::Errno::MSGSIZE);
    }
    bytes.truncate(got.bytes);
    Ok(Some((bytes, descriptor)))
}
