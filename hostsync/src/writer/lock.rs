//! The lock on a hosts file: `flock(2)` on the file that has the name.

use std::fs::File;
use std::os::linux::fs::MetadataExt;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::target::{Opened, Target};
use super::{Manner, Step, Steps, WriteError};

/// How long one update waits for others, in all.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks. `flock` has no time limit of its own, so it is asked again and again.
const PAUSE: Duration = Duration::from_millis(4);

/// What is left of the time that an update may wait.
#[derive(Debug)]
pub(super) struct Patience {
    left: Duration,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { left: PATIENCE }
    }

    fn wait(&mut self, target: &Target, file: &File) -> Result<(), WriteError> {
        if self.left.is_zero() {
            return Err(WriteError::Locked {
                path: target.path.clone(),
                holder: holder(file).unwrap_or_else(|| "another process".to_owned()),
                seconds: PATIENCE.as_secs(),
            });
        }
        std::thread::sleep(PAUSE);
        self.left = self.left.saturating_sub(PAUSE);
        Ok(())
    }
}

/// Opens and locks the file that has the name; `None` when there is none.
/// The lock ends with the returned value.
pub(super) fn open_locked(
    target: &Target,
    manner: Manner,
    steps: &mut dyn Steps,
    patience: &mut Patience,
) -> Result<Option<Opened>, WriteError> {
    loop {
        steps
            .before(Step::Lock)
            .map_err(|errno| target.io("lock", errno))?;
        let Some(mut opened) = Opened::open(target)? else {
            return Ok(None);
        };
        loop {
            match rustix::fs::flock(&opened.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) => patience.wait(target, &opened.file)?,
                // Windows' file systems may have no such locks. Our own daemon is one process; others are met
                // by the look before the write.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NOLCK)
                    if manner == Manner::Windows =>
                {
                    break;
                }
                Err(errno) => return Err(target.io("lock", errno)),
            }
        }
        // Whoever held the lock may have put another file in this one's place,
        // or have changed it in place.
        let now = target.stat()?;
        if now.is_some_and(|now| opened.is_same_file(&now)) {
            opened.stat =
                rustix::fs::fstat(&opened.file).map_err(|errno| target.io("look at", errno))?;
            return Ok(Some(opened));
        }
    }
}

/// The process that holds a lock on `file`, from `/proc/locks` (`proc_locks(5)`).
fn holder(file: &File) -> Option<String> {
    let found = file.metadata().ok()?;
    let device = found.st_dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let place = format!("{major:02x}:{minor:02x}:{}", found.st_ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // "1: FLOCK ADVISORY WRITE 1234 fe:00:5678 0 EOF"; a waiter has "->" second.
        match fields[..] {
            [_, "FLOCK", _, _, pid, at, ..] if at == place => Some(format!("process {pid}")),
            _ => None,
        }
    })
}
