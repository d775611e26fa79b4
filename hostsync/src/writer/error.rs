//! Why a hosts file was not written, and what its owner can do about it.

use std::path::PathBuf;

use control::failure::{Failure, FailureKind};
use rustix::io::Errno;

use crate::section::Refusal;

/// Why an update did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The content must not be edited.
    #[error("{} is left alone: {refusal}", path.display())]
    Refused {
        /// The hosts file.
        path: PathBuf,
        /// What is wrong with it.
        refusal: Refusal,
    },
    /// The folder of the file is not there.
    #[error("cannot write {}: its folder is not there", path.display())]
    NoFolder {
        /// The hosts file.
        path: PathBuf,
    },
    /// A folder, a device, a pipe.
    #[error("{} is no regular file", path.display())]
    NotRegular {
        /// What should be a hosts file.
        path: PathBuf,
    },
    /// Too many bytes to be a hosts file.
    #[error("{} has more than {limit} bytes", path.display())]
    TooLarge {
        /// What should be a hosts file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// Another program has held the lock for all of our patience.
    #[error("{} is locked by {holder} for over {seconds} s", path.display())]
    Locked {
        /// The hosts file.
        path: PathBuf,
        /// The process id, or "another process".
        holder: String,
        /// How long we waited.
        seconds: u64,
    },
    /// Others change the file all the time.
    #[error("{} was changed by another program during each of {tries} tries", path.display())]
    Busy {
        /// The hosts file.
        path: PathBuf,
        /// How often it was tried.
        tries: u32,
    },
    /// The immutable or append-only flag of the file system.
    #[error("cannot write {}: it has the '{flag}' attribute of chattr(1)", path.display())]
    Immutable {
        /// The hosts file.
        path: PathBuf,
        /// `i` or `a`.
        flag: &'static str,
    },
    /// The file system is mounted read-only.
    #[error("cannot write {}: its file system is mounted read-only", path.display())]
    ReadOnly {
        /// The hosts file.
        path: PathBuf,
    },
    /// No write permission.
    #[error("cannot write {}: uid {uid} has no write permission on it", path.display())]
    Denied {
        /// The hosts file.
        path: PathBuf,
        /// The effective user of this process.
        uid: u32,
    },
    /// No read permission.
    #[error("cannot read {}: uid {uid} has no read permission on it", path.display())]
    Unreadable {
        /// The hosts file.
        path: PathBuf,
        /// The effective user of this process.
        uid: u32,
    },
    /// The disk or the quota is full.
    #[error("cannot write {}: no space left ({what})", path.display())]
    Full {
        /// The hosts file, which is as it was.
        path: PathBuf,
        /// What should have been written.
        what: &'static str,
    },
    /// Windows lets only an elevated session write its file.
    #[error("cannot write {}: Windows lets only an elevated session write its hosts file", path.display())]
    NotElevated {
        /// The hosts file.
        path: PathBuf,
    },
    /// What was written is not there any more.
    #[error("{} has not kept what was written to it", path.display())]
    TakenBack {
        /// The hosts file.
        path: PathBuf,
    },
    /// There is no such file on this machine.
    #[error("{why}")]
    Absent {
        /// Why not.
        why: String,
        /// The next step.
        fix: String,
    },
    /// The writer that is root's did not write.
    #[error("{}: {failure}", path.display())]
    ByWriter {
        /// The hosts file.
        path: PathBuf,
        /// What it said.
        failure: Failure,
    },
    /// The journal cannot be kept, so an in-place change is not begun.
    #[error("cannot keep a journal in {}: {errno}", path.display())]
    Journal {
        /// The journal folder or file.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// Any other answer of the kernel.
    #[error("cannot {what} {}: {errno}", path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// The hosts file.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
}

impl WriteError {
    /// The next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused {
                refusal: Refusal::Utf16,
                ..
            } => Some(Refusal::Utf16.hint()),
            Self::Refused { refusal, .. } => Some(format!(
                "sharectl host repair; or by hand: {}",
                refusal.hint()
            )),
            Self::NoFolder { path } => {
                let folder = path.parent().unwrap_or(path);
                Some(format!(
                    "mkdir -p '{}', or name another file in [hosts] files",
                    folder.display()
                ))
            }
            Self::NotRegular { .. } | Self::TooLarge { .. } => {
                Some("name another file in [hosts] files".to_owned())
            }
            Self::Immutable { path, flag } => {
                Some(format!("sudo chattr -{flag} '{}'", path.display()))
            }
            Self::ReadOnly { .. } => Some(
                "remount it read-write, or use the guests' names through netd's DNS".to_owned(),
            ),
            Self::Denied { .. } | Self::Unreadable { .. } => {
                Some("do it as the file's owner or as root".to_owned())
            }
            Self::Journal { path, .. } => Some(format!(
                "make '{}' a folder of yours with some free space",
                path.display()
            )),
            Self::Locked { .. } | Self::Busy { .. } => Some(
                "close the program that has the file open, then: sharectl host sync".to_owned(),
            ),
            Self::NotElevated { .. } => Some(
                "do it once in a terminal that was opened as administrator".to_owned(),
            ),
            Self::TakenBack { .. } => Some(
                "allow changes of the hosts file in the virus scanner (Windows Security: allow HostsFileHijack), \
                 then: sharectl host sync"
                    .to_owned(),
            ),
            Self::Absent { fix, .. } => Some(fix.clone()),
            Self::ByWriter { failure, .. } => failure.hint.clone(),
            Self::Full { .. } | Self::Io { .. } => None,
        }
    }

    /// Whose problem it is, for the control protocol.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Immutable { .. }
            | Self::ReadOnly { .. }
            | Self::Denied { .. }
            | Self::NotElevated { .. }
            | Self::Unreadable { .. } => FailureKind::Forbidden,
            Self::Refused { .. }
            | Self::Locked { .. }
            | Self::Busy { .. }
            | Self::TakenBack { .. } => FailureKind::Conflict,
            Self::ByWriter { failure, .. } => failure.kind,
            Self::NoFolder { .. } | Self::Absent { .. } => FailureKind::NotFound,
            Self::NotRegular { .. } | Self::TooLarge { .. } => FailureKind::Invalid,
            Self::Full { .. } | Self::Journal { .. } | Self::Io { .. } => FailureKind::Internal,
        }
    }
}

impl From<&WriteError> for Failure {
    fn from(error: &WriteError) -> Self {
        let failure = Self::new(error.kind(), error.to_string());
        match error.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}
