//! What a request did whose process died before anybody heard of it: what it made is taken back, so that it can be made by
//! all of its steps (a file made with mode 0444 could not be opened for writing a second time); what it
//! appended is not appended twice.

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
/// length of all that is there of it now. None: nothing is, and it is to be done as ever.
pub(crate) fn append_again<T: Tree>(
    tree: &T,
    (node, open): (&T::Node, &T::File),
    before: u64,
    data: &[u8],
) -> Result<Option<usize>> {
    let end = tree.attributes(node)?.size;
    let added = end.saturating_sub(before).min(MOST_LOOKED_THROUGH);
    let mut there = vec![0; usize::try_from(added).unwrap_or_default()];
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
    let Some(left) = left_of(data, &there) else {
        return Ok(None);
    };
    let done = data.len() - left;
    let rest = data.get(done..).unwrap_or_default();
    if rest.is_empty() {
        return Ok(Some(done));
    }
    let more = tree.write(open, &[Source::from(rest)], 0, true)?;
    Ok(Some(done + more))
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
    let is_there = there.windows(data.len()).any(|part| part == data);
    is_there.then_some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
