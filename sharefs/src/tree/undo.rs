//! Taking back what a request made whose process died before anybody heard of it, so that it can be made by all of its
//! steps: a file made with mode 0444 could not be opened for writing a second time.

use super::{Attributes, Kind, Name, Timestamp, Tree};

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
