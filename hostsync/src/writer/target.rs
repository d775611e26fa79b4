//! The hosts file behind its symlinks: its folder as a descriptor, and its name in it.
//!
//! From here on everything goes through the folder's descriptor, so a folder that
//! is moved or swapped meanwhile cannot lead a write elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::WriteError;
use crate::section::Refusal;

/// As many links as Linux itself follows (`path_resolution(7)`).
const LINK_LIMIT: u32 = 40;

/// Where the file is, or would be.
#[derive(Debug)]
pub(super) struct Target {
    /// Absolute, without symlinks.
    pub(super) path: PathBuf,
    pub(super) folder: OwnedFd,
    pub(super) name: OsString,
}

impl Target {
    /// Follows the symlinks of `path`; the last of them may lead to nothing.
    pub(super) fn find(path: &Path) -> Result<Self, WriteError> {
        let io = |what, errno| WriteError::Io {
            what,
            path: path.to_owned(),
            errno,
        };
        let mut path = path.to_owned();
        let mut links = 0;
        loop {
            let (Some(parent), Some(name)) = (parent_of(&path), path.file_name()) else {
                return Err(WriteError::NotRegular { path });
            };
            match std::fs::read_link(&path) {
                Ok(to) if links < LINK_LIMIT => {
                    links += 1;
                    path = parent.join(to);
                }
                Ok(_) => return Err(io("follow the links of", Errno::LOOP)),
                // Not a link, or not there: it ends here.
                Err(_) => {
                    let folder = match parent.canonicalize() {
                        Ok(folder) => folder,
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                            return Err(WriteError::NoFolder { path });
                        }
                        Err(error) => {
                            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                            return Err(io("find the folder of", errno));
                        }
                    };
                    return Self::in_folder(&folder, name)
                        .map_err(|errno| io("open the folder of", errno));
                }
            }
        }
    }

    fn in_folder(folder: &Path, name: &OsStr) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self {
            path: folder.join(name),
            folder: rustix::fs::open(folder, flags, Mode::empty())?,
            name: name.to_owned(),
        })
    }

    /// What has the name now, if anything.
    pub(super) fn stat(&self) -> Result<Option<Stat>, WriteError> {
        match rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.io("look at", errno)),
        }
    }

    /// Brings the folder's entries to the disk. A folder that we may change but not
    /// read cannot be opened for that; then `file`'s whole file system is synced.
    pub(super) fn sync_folder(&self, file: &File) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.folder, ".", flags, Mode::empty()) {
            Ok(folder) => rustix::fs::fsync(&folder),
            Err(_) => rustix::fs::syncfs(file),
        }
    }

    pub(super) fn io(&self, what: &'static str, errno: Errno) -> WriteError {
        WriteError::Io {
            what,
            path: self.path.clone(),
            errno,
        }
    }

    pub(super) fn refused(&self, refusal: Refusal) -> WriteError {
        WriteError::Refused {
            path: self.path.clone(),
            refusal,
        }
    }

    /// The error for a write that the kernel refuses.
    pub(super) fn no_right(&self, errno: Errno) -> WriteError {
        let path = self.path.clone();
        match errno {
            Errno::ROFS => WriteError::ReadOnly { path },
            Errno::ACCESS | Errno::PERM => WriteError::Denied {
                path,
                uid: rustix::process::geteuid().as_raw(),
            },
            other => self.io("write", other),
        }
    }
}

fn parent_of(path: &Path) -> Option<&Path> {
    let parent = path.parent()?;
    Some(if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    })
}

/// The file as it was when it was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) stat: Stat,
}

impl Opened {
    /// Opens the file for reading; `None` when there is none.
    pub(super) fn open(target: &Target) -> Result<Option<Self>, WriteError> {
        // NONBLOCK: a pipe in the file's place must not make us wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&target.folder, &target.name, flags, Mode::empty()) {
            Ok(descriptor) => File::from(descriptor),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::ACCESS) => {
                return Err(WriteError::Unreadable {
                    path: target.path.clone(),
                    uid: rustix::process::geteuid().as_raw(),
                });
            }
            Err(errno) => return Err(target.io("open", errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| target.io("look at", errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(WriteError::NotRegular {
                path: target.path.clone(),
            });
        }
        Ok(Some(Self { file, stat }))
    }

    /// Whether the name still leads to this very file, unchanged since it was opened.
    pub(super) fn is_current(&self, now: &Stat) -> bool {
        self.is_same_file(now)
            && self.stat.st_size == now.st_size
            && (self.stat.st_mtime, self.stat.st_mtime_nsec) == (now.st_mtime, now.st_mtime_nsec)
            && (self.stat.st_ctime, self.stat.st_ctime_nsec) == (now.st_ctime, now.st_ctime_nsec)
    }

    /// Whether the name still leads to this file, changed or not.
    pub(super) fn is_same_file(&self, now: &Stat) -> bool {
        (self.stat.st_dev, self.stat.st_ino) == (now.st_dev, now.st_ino)
    }
}
