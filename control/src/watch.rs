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

/// Folders watched at a time by [`Watcher::follow`].
const MOST_FOLDERS: usize = 64;

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

    /// Watches `path` for as long as it is asked again after each change: also where its folders
    /// are not there yet, where it is a symlink, and where it is written without being closed. A
    /// `*` in its last part stands for any letters.
    ///
    /// # Errors
    /// When no folder above it can be watched.
    pub fn follow(&mut self, path: &Path) -> io::Result<()> {
        self.follow_all(&[path])
    }

    /// As [`Watcher::follow`], for several that are always asked for together.
    ///
    /// # Errors
    /// As there.
    pub fn follow_all(&mut self, paths: &[&Path]) -> io::Result<()> {
        // Folders that others moved away stay watched; too many of them are not worth knowing. All paths are
        // watched anew then.
        if self.names.len() > MOST_FOLDERS {
            *self = Self::new()?;
        }
        for path in paths {
            self.follow_one(path)?;
            match path.canonicalize() {
                Ok(target) if target != *path => self.follow_one(&target)?,
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn follow_one(&mut self, path: &Path) -> io::Result<()> {
        let mut wanted = path;
        // Folders may come and go meanwhile; whoever makes them without rest is not followed.
        for _ in 0..MOST_FOLDERS {
            let folder = wanted.parent().ok_or(io::ErrorKind::InvalidInput)?;
            match self.add(wanted, WatchFlags::MODIFY) {
                Ok(()) if wanted == path => {
                    // A folder that is gone is not told of while somebody has a file of it open, as
                    // servers do with their leases; its own folder tells.
                    if folder.parent().is_some() {
                        self.add(folder, WatchFlags::empty())?;
                    }
                    return Ok(());
                }
                Ok(()) if !wanted.exists() => return Ok(()),
                // It was made a moment ago.
                Ok(()) => wanted = path,
                Err(error) if error == rustix::io::Errno::NOENT => wanted = folder,
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Watches the folder of `path` for what happens to that name.
    fn add(&mut self, path: &Path, more: WatchFlags) -> Result<(), rustix::io::Errno> {
        let invalid = rustix::io::Errno::INVAL;
        let name = path.file_name().ok_or(invalid)?;
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::MASK_ADD
            | WatchFlags::ONLYDIR
            | more;
        let watch = inotify::add_watch(&self.inotify, path.parent().ok_or(invalid)?, flags)?;
        self.names.entry(watch).or_default().insert(name.to_owned());
        Ok(())
    }

    /// Forgets what has happened until now.
    pub fn drain(&mut self) {
        let mut buffer = [0; 4096];
        // Bounded: the kernel keeps 16,384 events at most, unless there are more than that.
        for _ in 0..256 {
            if self.inotify.try_read(&mut buffer).is_err() {
                return;
            }
        }
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

/// Whether `name` is `pattern`, in which a `*` stands for any letters.
#[must_use]
pub fn fits(pattern: &OsStr, name: &OsStr) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let Some(star) = pattern.iter().position(|byte| *byte == b'*') else {
        return pattern == name;
    };
    let (front, back) = pattern.split_at(star);
    let back = back.get(1..).unwrap_or_default();
    name.len() >= front.len() + back.len() && name.starts_with(front) && name.ends_with(back)
}

/// Whether any of the events (`struct inotify_event`, in this machine's byte order) is about
/// a watched name.
fn concerns(mut events: &[u8], names: &BTreeMap<i32, BTreeSet<OsString>>) -> bool {
    // Events were lost, or the folder itself is gone: look for yourself.
    let blind = ReadFlags::QUEUE_OVERFLOW
        | ReadFlags::IGNORED
        | ReadFlags::UNMOUNT
        | ReadFlags::DELETE_SELF
        | ReadFlags::MOVE_SELF;
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
            names.get(&watch).is_some_and(|names| {
                names
                    .iter()
                    .any(|known| fits(known, OsStr::from_bytes(name)))
            })
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

    #[test]
    fn a_star_stands_for_any_letters() {
        for (pattern, name, expected) in [
            ("virbr*.status", "virbr0.status", true),
            ("virbr*.status", "virbr.status", true),
            ("virbr*.status", "virbr0.status.new", false),
            ("a*a", "a", false),
            ("hosts", "hosts", true),
            ("hosts", "hosts2", false),
        ] {
            assert_eq!(
                fits(OsStr::new(pattern), OsStr::new(name)),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[tokio::test]
    async fn folders_that_are_replaced_without_end_lose_no_file() {
        // With one more from the start, the limit is reached at the other of the two.
        for more in 0..2 {
            let root = tempfile::tempdir().unwrap();
            let folders = ["one", "two"].map(|name| root.path().join(name));
            let files = folders.clone().map(|folder| folder.join("file"));
            let mut watcher = Watcher::new().unwrap();
            for number in 0..more {
                let folder = root.path().join(format!("more{number}"));
                std::fs::create_dir(&folder).unwrap();
                watcher.follow(&folder.join("file")).unwrap();
            }
            for number in 0..2 * MOST_FOLDERS {
                for folder in &folders {
                    if folder.exists() {
                        let away = folder.with_extension(number.to_string());
                        std::fs::rename(folder, away).unwrap();
                    }
                    std::fs::create_dir(folder).unwrap();
                }
                watcher.follow_all(&[&files[0], &files[1]]).unwrap();
                // What led here is not what is asked about.
                while let Ok(changed) =
                    tokio::time::timeout(Duration::from_millis(1), watcher.changed()).await
                {
                    changed.unwrap();
                }
                for file in &files {
                    std::fs::write(file, "x").unwrap();
                    let seen = tokio::time::timeout(LIMIT, watcher.changed()).await;
                    seen.unwrap_or_else(|_| panic!("{more}, {number}: {}", file.display()))
                        .unwrap();
                    while let Ok(changed) =
                        tokio::time::timeout(Duration::from_millis(1), watcher.changed()).await
                    {
                        changed.unwrap();
                    }
                }
            }
        }
    }

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
