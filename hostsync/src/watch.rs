//! Being told when files are made, replaced, changed or removed: `inotify(7)`.
//!
//! Folders are watched, not files: a file that another takes the place of is a new
//! file, which a watch on the old one would never see.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::net::unix::pipe;

/// Watches any number of files.
#[derive(Debug)]
pub struct Watcher {
    /// Reads like a pipe: tokio's pipe end takes any descriptor that does.
    inotify: pipe::Receiver,
    /// By watch number: the names that matter in that folder.
    names: BTreeMap<i32, BTreeSet<OsString>>,
}

impl Watcher {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// When the user has no inotify instance left, or outside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self {
            inotify: pipe::Receiver::from_owned_fd_unchecked(inotify)?,
            names: BTreeMap::new(),
        })
    }

    /// Watches `file`, which need not exist; its folder must.
    ///
    /// # Errors
    /// When the folder cannot be watched.
    pub fn watch(&mut self, file: &Path) -> io::Result<()> {
        let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let folder = file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        let folder = folder.unwrap_or_else(|| Path::new("."));
        let watch = inotify::add_watch(&self.inotify, folder, flags)?;
        self.names.entry(watch).or_default().insert(name.to_owned());
        Ok(())
    }

    /// Waits until something happened to a watched file. Safe to drop and call again.
    ///
    /// # Errors
    /// When the kernel's queue cannot be read.
    pub async fn changed(&mut self) -> io::Result<()> {
        // The kernel gives whole events only; one has 16 bytes and a name of up to 256.
        let mut buffer = [0; 4096];
        loop {
            self.inotify.readable().await?;
            match self.inotify.try_read(&mut buffer) {
                Ok(length) => {
                    let events = buffer.get(..length).unwrap_or_default();
                    if concerns(events, &self.names) {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether any of the events (`struct inotify_event`, in this machine's byte order) is about
/// a watched name.
fn concerns(mut events: &[u8], names: &BTreeMap<i32, BTreeSet<OsString>>) -> bool {
    // Events were lost, or the folder itself is gone: look for yourself.
    let blind = ReadFlags::QUEUE_OVERFLOW | ReadFlags::IGNORED | ReadFlags::UNMOUNT;
    while let Some((head, rest)) = events.split_first_chunk::<16>() {
        let [w0, w1, w2, w3, m0, m1, m2, m3, _, _, _, _, l0, l1, l2, l3] = *head;
        let watch = i32::from_ne_bytes([w0, w1, w2, w3]);
        let mask = u32::from_ne_bytes([m0, m1, m2, m3]);
        let length = u32::from_ne_bytes([l0, l1, l2, l3]);
        // A length over the buffer's would be the kernel's fault; it ends the loop.
        let (name, next) = rest.split_at(rest.len().min(length as usize));
        events = next;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let watched = || {
            names
                .get(&watch)
                .is_some_and(|names| names.contains(OsStr::from_bytes(name)))
        };
        if ReadFlags::from_bits_retain(mask).intersects(blind) || watched() {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn replacing_a_file_is_seen_and_its_neighbours_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hosts");
        let mut watcher = Watcher::new().unwrap();
        watcher.watch(&file).unwrap();
        std::fs::write(folder.path().join("other"), "x").unwrap();
        // The neighbour's events are in the queue by now, and must not end the wait.
        tokio::time::timeout(Duration::from_millis(50), watcher.changed())
            .await
            .unwrap_err();
        std::fs::rename(folder.path().join("other"), &file).unwrap();
        tokio::time::timeout(LIMIT, watcher.changed())
            .await
            .unwrap()
            .unwrap();
        std::fs::remove_file(&file).unwrap();
        tokio::time::timeout(LIMIT, watcher.changed())
            .await
            .unwrap()
            .unwrap();
    }
}
