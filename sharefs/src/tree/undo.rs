//! What a request did whose process died before anybody heard of it: what it made is taken back, so that it can be made by
//! all of its steps (a file made with mode 0444 could not be opened for writing a second time); what it
//! appended is not appended twice.

use memchr::memmem;

use super::{Attributes, Kind, Name, OpenHow, Result, Timestamp, Tree};
use crate::sys::{Sink, Source};

/// Others that append meanwhile can push the data behind this many bytes; it is written again then.
const MOST_LOOKED_THROUGH: u64 = 16 * 1024 * 1024;

/// Removes what stands at that name if it was made since `moment` and is empty.
pub(crate) fn unmake<T: Tree>(tree: &T, parent: &T::Node, name: Name<'_>, moment: Timestamp) {
    let Ok(there) = tree.look(parent, name) else {
        return;
    };
    if !is_made_since(&there, moment) {
        return;
    }
    let removed = match there.kind {
        // Only an empty one is.
        Kind::Directory => tree.remove_directory(parent, name),
        Kind::File if there.size != 0 || there.links != 1 => return,
        Kind::File
        | Kind::SymbolicLink
        | Kind::BlockDevice
        | Kind::CharacterDevice
        | Kind::Fifo
        | Kind::Socket => tree.remove_file(parent, name),
    };
    if let Err(error) = removed {
        tracing::debug!(%error, "what a request made before its process died stays");
    }
}

fn is_made_since(attributes: &Attributes, moment: Timestamp) -> bool {
    let made = attributes.born.unwrap_or(attributes.changed);
    (made.seconds, made.nanoseconds) >= (moment.seconds, moment.nanoseconds)
}

/// Appends what is not there yet of `data`, to a file that was `before` bytes long when that was first begun; the
/// length of all that is there of it now. None: nothing is, or it is not known, and it is to be done as ever.
pub(crate) fn append_again<T: Tree>(
    tree: &T,
    (node, open): (&T::Node, &T::File),
    before: u64,
    data: &[u8],
) -> Result<Option<usize>> {
    let added = tree.attributes(node)?.size.saturating_sub(before);
    if added == 0 {
        return Ok(None);
    }
    let left = match appended(tree, (node, open), (before, added)) {
        Ok(there) => left_of(data, &there),
        // Who may not read it (mode 0200) can tell by its length alone whether it is all there. A part that is there
        // may as well be another's.
        Err(error) => {
            tracing::debug!(%error, "what was appended before its process died cannot be read");
            (added == data.len() as u64).then_some(0)
        }
    };
    let Some(left) = left else {
        return Ok(None);
    };
    let done = data.len() - left;
    let rest = data.get(done..).unwrap_or_default();
    if rest.is_empty() {
        return Ok(Some(done));
    }
    // As write(2): what is there is counted first, and whoever goes on behind it hears of the error.
    let more = tree.write(open, &[Source::from(rest)], 0, true);
    Ok(Some(done + more.unwrap_or_default()))
}

/// What the file has behind `before`, `added` bytes at most.
fn appended<T: Tree>(
    tree: &T,
    (node, open): (&T::Node, &T::File),
    (before, added): (u64, u64),
) -> Result<Vec<u8>> {
    let length = usize::try_from(added.min(MOST_LOOKED_THROUGH)).unwrap_or_default();
    let mut there = vec![0; length];
    // The client's descriptor may be for writing only.
    let how = OpenHow {
        read: true,
        ..OpenHow::default()
    };
    let reader = tree.open(node, how);
    let reader = reader.as_ref().unwrap_or(open);
    let mut so_far = 0;
    while let Some(room) = there.get_mut(so_far..).filter(|room| !room.is_empty()) {
        let place = before + so_far as u64;
        match tree.read(reader, &[Sink::from(room)], place)? {
            0 => break,
            read => so_far += read,
        }
    }
    there.truncate(so_far);
    Ok(there)
}

/// How many bytes of `data` are still to be appended, where `there` has been appended since it was begun. None: all of
/// them.
fn left_of(data: &[u8], there: &[u8]) -> Option<usize> {
    if data.is_empty() || there.is_empty() {
        return None;
    }
    // A write that is killed ends between two of its pages.
    if there.len() < data.len() {
        return data.starts_with(there).then(|| data.len() - there.len());
    }
    memmem::find(there, data).map(|_| 0)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::tree::host::descriptors::Descriptors;
    use crate::tree::host::{HostFile, HostNode, HostTree};
    use crate::tree::owner::OwnerMap;

    const WRITE: OpenHow = how(false, true);
    const READ: OpenHow = how(true, false);

    const fn how(read: bool, write: bool) -> OpenHow {
        OpenHow {
            read,
            write,
            truncate: false,
            durability: crate::tree::Durability::Later,
            keep_access_time: false,
            drop_privileges: false,
        }
    }

    /// A file that somebody has open to append to it.
    struct Appended {
        tree: HostTree,
        descriptors: std::sync::Arc<Descriptors>,
        node: HostNode,
        open: HostFile,
        folder: tempfile::TempDir,
    }

    impl Appended {
        /// `descriptors`: the folder, the node and the file are three.
        fn new(content: &[u8], how: OpenHow, descriptors: usize) -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("log"), content).unwrap();
            let descriptors = Descriptors::new(descriptors);
            let counted = std::sync::Arc::clone(&descriptors);
            let tree = HostTree::open(folder.path(), counted, |_| OwnerMap::Pass).unwrap();
            let root = tree.root().unwrap().node;
            let node = tree.child(&root, Name::new(c"log").unwrap()).unwrap().node;
            let open = tree.open(&node, how).unwrap();
            Self {
                tree,
                descriptors,
                node,
                open,
                folder,
            }
        }

        fn again(&self, before: u64, data: &[u8]) -> Result<Option<usize>> {
            append_again(&self.tree, (&self.node, &self.open), before, data)
        }

        fn content(&self) -> Vec<u8> {
            std::fs::read(self.folder.path().join("log")).unwrap()
        }
    }

    #[test]
    fn what_is_there_of_the_data_is_finished_and_not_repeated() {
        for (content, outcome, after) in [
            (&b"old"[..], None, &b"old"[..]),
            (b"oldn", Some(3), b"oldnew"),
            (b"oldnew", Some(3), b"oldnew"),
            (b"oldanew", Some(3), b"oldanew"),
            (b"oldx", None, b"oldx"),
        ] {
            let file = Appended::new(content, WRITE, 1000);
            assert_eq!(file.again(3, b"new"), Ok(outcome), "{content:?}");
            assert_eq!(file.content(), after);
        }
    }

    #[test]
    fn of_a_file_that_nobody_may_read_the_length_tells() {
        for (content, outcome) in [
            (&b"old"[..], None),
            (b"oldnew", Some(3)),
            // Of whom these are is not known.
            (b"oldn", None),
            (b"oldnew, and others", None),
        ] {
            // Another descriptor cannot be had, and the client's is for writing only: as with a file of mode 0200
            // whose owner sharefs is, and not root.
            let file = Appended::new(content, WRITE, 3);
            assert_eq!(file.again(3, b"new"), Ok(outcome), "{content:?}");
            assert_eq!(file.content(), content);
            // It is not opened where nothing was appended.
            let refused = u64::from(content != b"old");
            assert_eq!(file.descriptors.refused.get(), refused, "{content:?}");
        }
    }

    #[test]
    fn what_cannot_be_finished_is_as_long_as_it_is_there() {
        let file = Appended::new(b"oldne", READ, 1000);
        assert_eq!(file.again(3, b"new"), Ok(Some(2)));
        assert_eq!(file.content(), b"oldne");
        assert_eq!(
            file.tree
                .write(&file.open, &[Source::from(&b"w"[..])], 0, true),
            Err(Errno::BADF)
        );
    }

    #[test]
    fn what_is_there_of_the_data_is_not_appended_again() {
        for (data, there, left) in [
            (&b"abc"[..], &b""[..], None),
            (b"abc", b"a", Some(2)),
            (b"abc", b"abc", Some(0)),
            (b"abc", b"x", None),
            (b"abc", b"xyzabc", Some(0)),
            (b"abc", b"abcxyz", Some(0)),
            (b"abc", b"xyzabd", None),
            (b"", b"x", None),
        ] {
            assert_eq!(left_of(data, there), left, "{data:?} in {there:?}");
        }
    }

    /// Compared at each place it is 15 million times a megabyte, for minutes: whoever runs this waits for them.
    #[test]
    fn a_megabyte_that_is_nearly_everywhere_is_looked_for_once() {
        let most = usize::try_from(MOST_LOOKED_THROUGH).unwrap();
        let mut data = vec![b'0'; 1 << 20];
        let mut there = vec![b'0'; most];
        *data.last_mut().unwrap() = b'1';
        assert_eq!(left_of(&data, &there), None);
        *there.last_mut().unwrap() = b'1';
        assert_eq!(left_of(&data, &there), Some(0));
    }
}
