//! What is known of folders' names, folded: bounded, and good as long as the folder has not changed.
//!
//! A folder's times of change are its stamp. Names that came and went through this tree are told here with
//! the stamps before and after, by one after the other (`tree/keyed.rs`), so that a build that makes ten thousand files reads
//! its folder every two seconds and not for each; one that takes long to read, as much more seldom. What somebody else
//! changes between two such stamps, or in the same tick of the file system's clock (milliseconds, with FAT two seconds) as
//! our last look, can go unseen for so long; such a name is still found as it is spelled, and one that is gone is
//! not believed to be there.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::time::Duration;

use control::fold;

use crate::tree::{Attributes, Timestamp};

/// Bytes of the names of all folders together.
const MOST_BYTES: usize = 32 << 20;
/// What a name costs beside its letters, which are held as they are and folded.
const EACH_NAME: usize = 128;
/// Folders, which cost something even when empty.
const MOST_FOLDERS: usize = 4096;

/// A folder's names are read again when they were read so long ago,
const LASTS: Duration = Duration::from_secs(2);
/// or so many times as long as that took.
const LASTS_TIMES: u32 = 16;

/// When a folder changed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Timestamp, Timestamp);

impl Stamp {
    pub(super) fn of(attributes: &Attributes) -> Self {
        Self(attributes.modified, attributes.changed)
    }
}

/// A folder, seen at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Device and inode.
    pub(super) folder: (u64, u64),
    pub(super) stamp: Stamp,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Known {
    folders: BTreeMap<(u64, u64), Folder>,
    bytes: usize,
    most_bytes: usize,
    /// Counts uses; the folder with the lowest was not used for longest.
    uses: u64,
}

#[derive(Debug)]
struct Folder {
    stamp: Stamp,
    names: Folded,
    /// Since some beginning; then it is to be read again.
    until: Duration,
    used: u64,
}

/// The names of one folder by what they fold to, each list in the order of bytes.
#[derive(Debug, Default)]
pub(super) struct Folded {
    names: BTreeMap<Vec<u8>, Vec<CString>>,
    bytes: usize,
}

impl Folded {
    pub(super) fn add(&mut self, name: &CStr) {
        let same = self.names.entry(fold::name(name.to_bytes())).or_default();
        if let Err(place) = same.binary_search_by(|known| known.as_c_str().cmp(name)) {
            same.insert(place, name.to_owned());
            self.bytes += cost(name);
        }
    }

    fn remove(&mut self, name: &CStr) {
        let folded = fold::name(name.to_bytes());
        let Some(same) = self.names.get_mut(&folded) else {
            return;
        };
        if let Ok(place) = same.binary_search_by(|known| known.as_c_str().cmp(name)) {
            same.remove(place);
            self.bytes -= cost(name);
        }
        if same.is_empty() {
            self.names.remove(&folded);
        }
    }

    /// The name itself if it is there, else the first of those that differ only in case.
    pub(super) fn find(&self, name: &CStr) -> Option<&CStr> {
        let same = self.names.get(&fold::name(name.to_bytes()))?;
        let exact = same.iter().find(|known| known.as_c_str() == name);
        exact.or_else(|| same.first()).map(CString::as_c_str)
    }

    /// Whether there are more than are worth keeping.
    pub(super) fn is_too_large(&self) -> bool {
        self.bytes > MOST_BYTES / 2
    }
}

impl Default for Known {
    fn default() -> Self {
        Self {
            folders: BTreeMap::new(),
            bytes: 0,
            most_bytes: MOST_BYTES,
            uses: 0,
        }
    }
}

impl Known {
    /// None: the folder must be read. Some(None): there is no such name.
    pub(super) fn find(
        &mut self,
        seen: Seen,
        now: Duration,
        name: &CStr,
    ) -> Option<Option<CString>> {
        self.uses += 1;
        let folder = self.folders.get_mut(&seen.folder)?;
        if folder.stamp != seen.stamp || now > folder.until {
            return None;
        }
        folder.used = self.uses;
        Some(folder.names.find(name).map(CStr::to_owned))
    }

    /// The folder was read, from then to then.
    pub(super) fn learn(&mut self, seen: Seen, (begin, end): (Duration, Duration), names: Folded) {
        self.uses += 1;
        self.forget(seen.folder);
        self.bytes += names.bytes;
        let folder = Folder {
            stamp: seen.stamp,
            names,
            until: end + LASTS.max(end.saturating_sub(begin) * LASTS_TIMES),
            used: self.uses,
        };
        self.folders.insert(seen.folder, folder);
        self.shrink();
    }

    /// Names came and went through us, and `after` is the folder's stamp since.
    pub(super) fn changed(
        &mut self,
        before: Seen,
        after: Stamp,
        gone: Option<&CStr>,
        made: Option<&CStr>,
    ) {
        let Some(folder) = self.folders.get_mut(&before.folder) else {
            return;
        };
        if folder.stamp != before.stamp {
            self.forget(before.folder);
            return;
        }
        self.bytes -= folder.names.bytes;
        if let Some(gone) = gone {
            folder.names.remove(gone);
        }
        if let Some(made) = made {
            folder.names.add(made);
        }
        self.bytes += folder.names.bytes;
        folder.stamp = after;
        self.shrink();
    }

    /// What was known of it is not so.
    pub(super) fn forget(&mut self, folder: (u64, u64)) {
        if let Some(folder) = self.folders.remove(&folder) {
            self.bytes -= folder.names.bytes;
        }
    }

    fn shrink(&mut self) {
        while self.bytes > self.most_bytes || self.folders.len() > MOST_FOLDERS {
            let oldest = self.folders.iter().min_by_key(|(_, folder)| folder.used);
            let Some((&oldest, _)) = oldest else {
                return;
            };
            self.forget(oldest);
        }
    }
}

fn cost(name: &CStr) -> usize {
    EACH_NAME + 2 * name.to_bytes().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: (Duration, Duration) = (Duration::ZERO, Duration::ZERO);

    fn seen(inode: u64, seconds: i64) -> Seen {
        let folder = (1, inode);
        let time = Timestamp {
            seconds,
            nanoseconds: 0,
        };
        Seen {
            folder,
            stamp: Stamp(time, time),
        }
    }

    fn names(list: &[&CStr]) -> Folded {
        let mut folded = Folded::default();
        list.iter().for_each(|name| folded.add(name));
        folded
    }

    fn found(known: &mut Known, at: Seen, name: &CStr) -> Option<Option<CString>> {
        known.find(at, Duration::ZERO, name)
    }

    #[test]
    fn a_folder_is_known_as_long_as_its_stamp() {
        let mut known = Known::default();
        assert_eq!(found(&mut known, seen(1, 1), c"a"), None);
        known.learn(seen(1, 1), AT_ONCE, names(&[c"Readme", c"README", c"x"]));
        assert_eq!(
            found(&mut known, seen(1, 1), c"readme"),
            Some(Some(c"README".to_owned()))
        );
        assert_eq!(
            found(&mut known, seen(1, 1), c"Readme"),
            Some(Some(c"Readme".to_owned()))
        );
        assert_eq!(found(&mut known, seen(1, 1), c"y"), Some(None));
        assert_eq!(found(&mut known, seen(1, 2), c"x"), None, "it changed");
        known.changed(seen(1, 1), seen(1, 3).stamp, Some(c"README"), Some(c"Y"));
        assert_eq!(
            found(&mut known, seen(1, 3), c"y"),
            Some(Some(c"Y".to_owned()))
        );
        assert_eq!(
            found(&mut known, seen(1, 3), c"readme"),
            Some(Some(c"Readme".to_owned()))
        );
        known.changed(seen(1, 4), seen(1, 5).stamp, None, Some(c"z"));
        assert_eq!(
            found(&mut known, seen(1, 5), c"z"),
            None,
            "somebody else had changed it before"
        );
        assert_eq!((known.bytes, known.folders.len()), (0, 0));
    }

    #[test]
    fn a_folder_is_read_again_after_two_seconds_though_nothing_seems_to_have_changed() {
        let mut known = Known::default();
        let first = Duration::from_secs(7);
        known.learn(seen(1, 1), (first, first), names(&[c"a"]));
        assert!(known.find(seen(1, 1), first + LASTS, c"b").is_some());
        // What is made here does not make the rest any newer.
        known.changed(seen(1, 1), seen(1, 2).stamp, None, Some(c"c"));
        let late = first + LASTS + Duration::from_millis(1);
        assert_eq!(known.find(seen(1, 2), late, c"b"), None);
        known.learn(seen(1, 2), (late, late), names(&[c"a", c"b"]));
        assert_eq!(
            known.find(seen(1, 2), late, c"B"),
            Some(Some(c"b".to_owned()))
        );
        // What takes a second to read is not read every other second.
        let end = late + Duration::from_secs(1);
        known.learn(seen(2, 1), (late, end), names(&[c"a"]));
        let last = end + LASTS_TIMES * Duration::from_secs(1);
        assert_eq!(known.find(seen(2, 1), last, c"b"), Some(None));
        let late = last + Duration::from_millis(1);
        assert_eq!(known.find(seen(2, 1), late, c"b"), None);
    }

    #[test]
    fn what_was_not_used_for_longest_goes_when_there_are_too_many() {
        let mut known = Known {
            most_bytes: 4 * cost(c"a"),
            ..Known::default()
        };
        known.learn(seen(1, 1), AT_ONCE, names(&[c"a", c"b"]));
        known.learn(seen(2, 1), AT_ONCE, names(&[c"a", c"b"]));
        assert!(found(&mut known, seen(1, 1), c"a").is_some());
        known.learn(seen(3, 1), AT_ONCE, names(&[c"a"]));
        let held = [1, 2, 3].map(|inode| found(&mut known, seen(inode, 1), c"a").is_some());
        assert_eq!(held, [true, false, true]);
        known.learn(seen(4, 1), AT_ONCE, names(&[c"a", c"b", c"c", c"d", c"e"]));
        assert_eq!(
            (known.bytes, known.folders.len()),
            (0, 0),
            "one that never fits"
        );
        for inode in 0..MOST_FOLDERS as u64 + 10 {
            known.learn(seen(inode, 1), AT_ONCE, names(&[]));
        }
        assert_eq!(known.folders.len(), MOST_FOLDERS);
    }
}
