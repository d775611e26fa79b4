//! One daemon of a kind for each runtime folder: a locked file with the pid.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

/// A held lock; it ends with this value or with the process, whichever is first.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is held by process {holder}", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The pid written in it, or `?`.
        holder: String,
    },
    /// The file cannot be opened, locked or written.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Takes the lock and writes this process's id into the file.
///
/// # Errors
/// [`LockError::Held`] when a living process has it.
pub fn acquire(path: &Path) -> Result<Lock, LockError> {
    let io_error = |source: io::Error| LockError::Io {
        path: path.to_owned(),
        source,
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let descriptor = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| io_error(errno.into()))?;
    let mut file = File::from(descriptor);
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // The lock is what counts; the pid is only for the message.
            let read = (&file).take(32).read_to_string(&mut holder);
            let known = read.is_ok() && !holder.trim().is_empty();
            return Err(LockError::Held {
                path: path.to_owned(),
                holder: if known {
                    holder.trim().to_owned()
                } else {
                    "?".to_owned()
                },
            });
        }
        Err(errno) => return Err(io_error(errno.into())),
    }
    write_own_id(&mut file).map_err(io_error)?;
    Ok(Lock { file })
}

/// Goes on with a lock that a process before us held through this descriptor, which never was closed.
///
/// # Errors
/// When the file cannot be written.
pub fn take_over(path: &Path, held: OwnedFd) -> Result<Lock, LockError> {
    let mut file = File::from(held);
    write_own_id(&mut file).map_err(|source| LockError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(Lock { file })
}

fn write_own_id(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

impl AsRawFd for Lock {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// The pid of the process that holds the lock, if one does.
///
/// # Errors
/// When the file is there but cannot be read.
pub fn holder(path: &Path) -> io::Result<Option<u32>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        // Nobody holds it; ours ends with `file`.
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            (&file).take(32).read_to_string(&mut text)?;
            Ok(text.trim().parse().ok())
        }
        Err(errno) => Err(errno.into()),
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // An empty file says "nobody"; the lock itself goes with the descriptor.
        self.file.set_len(0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_taker_is_told_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pid");
        assert_eq!(holder(&path).unwrap(), None);
        let lock = acquire(&path).unwrap();
        let error = acquire(&path).unwrap_err();
        assert!(
            error.to_string().contains(&std::process::id().to_string()),
            "{error}"
        );
        assert_eq!(holder(&path).unwrap(), Some(std::process::id()));
        drop(lock);
        assert_eq!(holder(&path).unwrap(), None);
        acquire(&path).unwrap();
    }
}
