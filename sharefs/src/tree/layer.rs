//! A tree around a tree: what it says of itself, and the methods it leaves to the one below.
//!
//! A layer changes the meaning of a few questions and passes all others on. `pass_on!` writes those
//! that it names; what is missing from the list is what the layer decides, so each layer's file reads
//! as its rules. Nothing is passed on by default: a new method of `Tree` is a question to every layer.

use super::Tree;

/// What `pass_on!` needs to know. Byte-range locks are always those of the tree below.
pub(crate) trait Layer: Tree<Locks = <Self::Below as Tree>::Locks> {
    type Below: Tree;
    fn below(&self) -> &Self::Below;
    fn node(node: &Self::Node) -> &<Self::Below as Tree>::Node;
    fn file(file: &Self::File) -> &<Self::Below as Tree>::File;
    fn directory(directory: &Self::Directory) -> &<Self::Below as Tree>::Directory;
}

/// Methods of `Tree` as the tree below has them.
macro_rules! pass_on {
    ($($method:ident)+) => { $( pass_on!(@ $method); )+ };
    (@ is_short_of_nodes) => {
        fn is_short_of_nodes(&self) -> bool {
            Layer::below(self).is_short_of_nodes()
        }
    };
    // For layers whose nodes are those of the tree below.
    (@ root) => {
        fn root(&self) -> Result<$crate::tree::Found<Self::Node>> {
            Layer::below(self).root()
        }
    };
    (@ create_unnamed) => {
        fn create_unnamed(
            &self,
            caller: $crate::tree::Caller,
            parent: &Self::Node,
            mode: u32,
            how: $crate::tree::OpenHow,
        ) -> Result<($crate::tree::Found<Self::Node>, Self::File)> {
            Layer::below(self).create_unnamed(caller, parent, mode, how)
        }
    };
    (@ identity) => {
        fn identity(&self, node: &Self::Node) -> $crate::tree::Identity {
            Layer::below(self).identity(<Self as Layer>::node(node))
        }
    };
    (@ upkeep) => {
        fn upkeep(&self) -> $crate::tree::Upkeep {
            Layer::below(self).upkeep()
        }
        fn is_held(&self, node: &Self::Node) -> bool {
            Layer::below(self).is_held(<Self as Layer>::node(node))
        }
        fn is_same(&self, known: &Self::Node, found: &Self::Node) -> bool {
            let (known, found) = (<Self as Layer>::node(known), <Self as Layer>::node(found));
            Layer::below(self).is_same(known, found)
        }
        fn pin(&self, node: &Self::Node) -> Result<()> {
            Layer::below(self).pin(<Self as Layer>::node(node))
        }
        fn unpin(&self, node: &Self::Node) {
            Layer::below(self).unpin(<Self as Layer>::node(node));
        }
        fn hold(&self, node: &Self::Node) -> Option<std::os::fd::RawFd> {
            Layer::below(self).hold(<Self as Layer>::node(node))
        }
        fn bind(&self, node: &Self::Node, row: Option<$crate::keep::nodes::NodeRow>) {
            Layer::below(self).bind(<Self as Layer>::node(node), row);
        }
        fn lead(&self, node: &Self::Node, folder: &Self::Node, name: &std::ffi::CStr) {
            let (node, folder) = (<Self as Layer>::node(node), <Self as Layer>::node(folder));
            Layer::below(self).lead(node, folder, name);
        }
    };
    (@ renamed) => {
        fn renamed(
            &self,
            folder: &Self::Node,
            name: $crate::tree::Name<'_>,
            known: &dyn Fn($crate::tree::Identity) -> Option<Self::Node>,
        ) -> Result<()> {
            Layer::below(self).renamed(<Self as Layer>::node(folder), name, &|identity| {
                known(identity).map(|node| <Self as Layer>::node(&node).clone())
            })
        }
    };
    (@ attributes) => {
        fn attributes(&self, node: &Self::Node) -> Result<$crate::tree::Attributes> {
            Layer::below(self).attributes(<Self as Layer>::node(node))
        }
    };
    (@ change) => {
        fn change(
            &self,
            node: &Self::Node,
            file: Option<&Self::File>,
            changes: &$crate::tree::Changes,
        ) -> Result<$crate::tree::Attributes> {
            let file = file.map(<Self as Layer>::file);
            Layer::below(self).change(<Self as Layer>::node(node), file, changes)
        }
    };
    (@ read_link) => {
        fn read_link(&self, node: &Self::Node, target: &mut Vec<u8>) -> Result<()> {
            Layer::below(self).read_link(<Self as Layer>::node(node), target)
        }
    };
    (@ names) => {
        fn link(
            &self,
            node: &Self::Node,
            parent: &Self::Node,
            name: $crate::tree::Name<'_>,
        ) -> Result<$crate::tree::Attributes> {
            let (node, parent) = (<Self as Layer>::node(node), <Self as Layer>::node(parent));
            Layer::below(self).link(node, parent, name)
        }
        fn remove_file(&self, parent: &Self::Node, name: $crate::tree::Name<'_>) -> Result<()> {
            Layer::below(self).remove_file(<Self as Layer>::node(parent), name)
        }
        fn remove_directory(
            &self,
            parent: &Self::Node,
            name: $crate::tree::Name<'_>,
        ) -> Result<()> {
            Layer::below(self).remove_directory(<Self as Layer>::node(parent), name)
        }
        fn rename(
            &self,
            (from, old): (&Self::Node, $crate::tree::Name<'_>),
            (to, new): (&Self::Node, $crate::tree::Name<'_>),
            how: $crate::tree::RenameHow,
        ) -> Result<()> {
            let (from, to) = (<Self as Layer>::node(from), <Self as Layer>::node(to));
            Layer::below(self).rename((from, old), (to, new), how)
        }
    };
    (@ open) => {
        fn open(&self, node: &Self::Node, how: $crate::tree::OpenHow) -> Result<Self::File> {
            Layer::below(self).open(<Self as Layer>::node(node), how)
        }
    };
    (@ read) => {
        fn read(
            &self,
            file: &Self::File,
            into: &[$crate::sys::Sink<'_>],
            offset: u64,
        ) -> Result<usize> {
            Layer::below(self).read(<Self as Layer>::file(file), into, offset)
        }
    };
    (@ write) => {
        fn write(
            &self,
            file: &Self::File,
            from: &[$crate::sys::Source<'_>],
            offset: u64,
            append: bool,
        ) -> Result<usize> {
            Layer::below(self).write(<Self as Layer>::file(file), from, offset, append)
        }
    };
    (@ drop_privileges) => {
        fn drop_privileges(&self, file: &Self::File) -> Result<()> {
            Layer::below(self).drop_privileges(<Self as Layer>::file(file))
        }
    };
    (@ flush) => {
        fn flush(&self, file: &Self::File) -> Result<()> {
            Layer::below(self).flush(<Self as Layer>::file(file))
        }
    };
    (@ sync) => {
        fn sync(&self, file: &Self::File, data_only: bool) -> Result<()> {
            Layer::below(self).sync(<Self as Layer>::file(file), data_only)
        }
    };
    (@ allocate) => {
        fn allocate(&self, file: &Self::File, wanted: $crate::tree::Allocation) -> Result<()> {
            Layer::below(self).allocate(<Self as Layer>::file(file), wanted)
        }
    };
    (@ seek) => {
        fn seek(&self, file: &Self::File, offset: u64, what: $crate::tree::Seek) -> Result<u64> {
            Layer::below(self).seek(<Self as Layer>::file(file), offset, what)
        }
    };
    (@ copy_range) => {
        fn copy_range(
            &self,
            (from, read_at): (&Self::File, u64),
            (to, write_at): (&Self::File, u64),
            length: usize,
        ) -> Result<usize> {
            let (from, to) = (<Self as Layer>::file(from), <Self as Layer>::file(to));
            Layer::below(self).copy_range((from, read_at), (to, write_at), length)
        }
    };
    (@ locking) => {
        fn lock_whole(&self, file: &Self::File, lock: $crate::tree::WholeLock) -> Result<()> {
            Layer::below(self).lock_whole(<Self as Layer>::file(file), lock)
        }
        fn locks(&self, node: &Self::Node) -> Result<Self::Locks> {
            Layer::below(self).locks(<Self as Layer>::node(node))
        }
        fn lock(&self, locks: &Self::Locks, range: $crate::sys::LockRange) -> Result<()> {
            Layer::below(self).lock(locks, range)
        }
        fn blocking_lock(
            &self,
            locks: &Self::Locks,
            range: $crate::sys::LockRange,
        ) -> Result<Option<$crate::sys::LockRange>> {
            Layer::below(self).blocking_lock(locks, range)
        }
    };
    (@ open_directory) => {
        fn open_directory(&self, node: &Self::Node) -> Result<Self::Directory> {
            Layer::below(self).open_directory(<Self as Layer>::node(node))
        }
    };
    (@ entries) => {
        fn entries(
            &self,
            directory: &Self::Directory,
            from: u64,
            about: usize,
            each: &mut dyn FnMut(&$crate::tree::Entry<'_>) -> bool,
        ) -> Result<()> {
            let directory = <Self as Layer>::directory(directory);
            Layer::below(self).entries(directory, from, about, each)
        }
    };
    (@ sync_directory) => {
        fn sync_directory(&self, directory: &Self::Directory, data_only: bool) -> Result<()> {
            Layer::below(self).sync_directory(<Self as Layer>::directory(directory), data_only)
        }
    };
    (@ whole) => {
        fn statistics(&self, node: &Self::Node) -> Result<$crate::tree::Statistics> {
            Layer::below(self).statistics(<Self as Layer>::node(node))
        }
        fn sync_all(&self, node: &Self::Node) -> Result<()> {
            Layer::below(self).sync_all(<Self as Layer>::node(node))
        }
    };
    (@ access) => {
        fn access(&self, node: &Self::Node, wanted: $crate::tree::AccessWanted) -> Result<()> {
            Layer::below(self).access(<Self as Layer>::node(node), wanted)
        }
    };
    (@ extended) => {
        fn extended(
            &self,
            node: &Self::Node,
            name: &std::ffi::CStr,
            into: &mut [u8],
        ) -> Result<usize> {
            Layer::below(self).extended(<Self as Layer>::node(node), name, into)
        }
    };
    (@ list_extended) => {
        fn list_extended(&self, node: &Self::Node, into: &mut [u8]) -> Result<usize> {
            Layer::below(self).list_extended(<Self as Layer>::node(node), into)
        }
    };
    (@ set_extended) => {
        fn set_extended(
            &self,
            node: &Self::Node,
            name: &std::ffi::CStr,
            value: &[u8],
            how: $crate::tree::ExtendedHow,
        ) -> Result<()> {
            Layer::below(self).set_extended(<Self as Layer>::node(node), name, value, how)
        }
        fn remove_extended(&self, node: &Self::Node, name: &std::ffi::CStr) -> Result<()> {
            Layer::below(self).remove_extended(<Self as Layer>::node(node), name)
        }
    };
    // For layers whose nodes are those of the tree below.
    (@ keeping) => {
        fn keep(&self, node: &Self::Node) -> Option<$crate::keep::nodes::KeptNode> {
            Layer::below(self).keep(node)
        }
        fn adopt(
            &self,
            kept: &$crate::keep::nodes::KeptNode,
            left: (
                $crate::keep::nodes::KeptPlace,
                Option<$crate::keep::nodes::NodeRow>,
            ),
        ) -> Result<Self::Node> {
            Layer::below(self).adopt(kept, left)
        }
        fn adopt_file(&self, node: &Self::Node, open: std::os::fd::OwnedFd) -> Result<Self::File> {
            Layer::below(self).adopt_file(node, open)
        }
        fn adopt_directory(
            &self,
            node: &Self::Node,
            open: std::os::fd::OwnedFd,
        ) -> Result<Self::Directory> {
            Layer::below(self).adopt_directory(node, open)
        }
    };
    (@ keeping_open) => {
        fn keep_file(&self, file: &Self::File) -> Option<std::os::fd::RawFd> {
            Layer::below(self).keep_file(<Self as Layer>::file(file))
        }
        fn keep_directory(&self, directory: &Self::Directory) -> Option<std::os::fd::RawFd> {
            Layer::below(self).keep_directory(<Self as Layer>::directory(directory))
        }
        fn keep_locks(&self, locks: &Self::Locks) -> Option<std::os::fd::RawFd> {
            Layer::below(self).keep_locks(locks)
        }
        fn adopt_locks(
            &self,
            file: $crate::tree::Identity,
            open: std::os::fd::OwnedFd,
        ) -> Result<Self::Locks> {
            Layer::below(self).adopt_locks(file, open)
        }
    };
}
pub(crate) use pass_on;
