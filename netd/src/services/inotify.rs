//! Waiting for changes in folders, with inotify(7). It says only "something changed": readers look at
//! the folder again, so an overflowing queue or a missed detail costs nothing.

use std::io;
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// A set of watched folders and files.
#[derive(Debug)]
pub struct FolderWatch {
    descriptor: AsyncFd<OwnedFd>,
}

impl FolderWatch {
    /// Watches nothing yet. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the user has too many inotify instances (`fs.inotify.max_user_instances`).
    pub fn new() -> io::Result<Self> {
        let descriptor = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self {
            descriptor: crate::sys::watched(descriptor)?,
        })
    }

    /// Watches a folder for names that come and go, or a file for its content. Adding twice is once.
    ///
    /// # Errors
    /// When `path` is not there, or there are too many watches.
    pub fn add(&self, path: &Path) -> io::Result<()> {
        let what = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF;
        inotify::add_watch(self.descriptor.get_ref(), path, what)?;
        Ok(())
    }

    /// Waits until something changed since the last call. Safe to drop and call again.
    ///
    /// # Errors
    /// When the kernel refuses to say; the watch is of no use then.
    pub async fn changed(&self) -> io::Result<()> {
        let mut buffer = [0_u8; 4096];
        loop {
            let mut ready = self.descriptor.readable().await?;
            let mut any = false;
            loop {
                match rustix::io::read(self.descriptor.get_ref(), &mut buffer) {
                    Ok(0) => break,
                    Ok(_) => any = true,
                    Err(rustix::io::Errno::AGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            if any {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn new_name_and_new_content_wake() {
        let folder = tempfile::tempdir().unwrap();
        let watch = FolderWatch::new().unwrap();
        watch.add(folder.path()).unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, "1").unwrap();
        watch.changed().await.unwrap();
        let (woken, ()) = tokio::join!(watch.changed(), async {
            std::fs::rename(&file, folder.path().join("b")).unwrap();
        });
        woken.unwrap();
        assert!(watch.add(Path::new("/nowhere/at/all")).is_err());
    }
}
