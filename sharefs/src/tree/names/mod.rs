//! A tree whose names the host cannot hold as they are: each is written another way there (`windows`).
//!
//! Only names are translated, never what symbolic links point to: their text is the guest's own.
//! A guest's name without a counterpart is ENOENT where it is looked for and EINVAL where it is to be made;
//! a host's name without one is not listed.

use std::borrow::Cow;
use std::ffi::{CStr, CString};

use control::windows_names as windows;
use rustix::io::Errno;

use super::layer::{Layer, pass_on};
use super::{
    Attributes, Caller, Entry, Found, Identity, Name, NewNode, OpenHow, RenameHow, Result, Tree,
};

#[cfg(test)]
mod tests;

/// Which names the host can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// All that a guest knows.
    Plain,
    Windows,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Names<T> {
    below: T,
    spelling: Spelling,
}

impl<T: Tree> Names<T> {
    pub(crate) fn new(below: T, spelling: Spelling) -> Self {
        Self { below, spelling }
    }

    /// The host's name for a guest's; `none` where there is no such.
    fn on_host<'n>(&self, name: Name<'n>, none: Errno) -> Result<Cow<'n, CStr>> {
        let guest = name.as_c_str();
        match self.spelling {
            Spelling::Plain => Ok(Cow::Borrowed(guest)),
            Spelling::Windows => match windows::to_host(guest.to_bytes()).ok_or(none)? {
                Cow::Borrowed(_) => Ok(Cow::Borrowed(guest)),
                Cow::Owned(host) => Ok(Cow::Owned(c_string(host)?)),
            },
        }
    }

    /// Of something that is there, or is not.
    fn of_old<'n>(&self, name: Name<'n>) -> Result<Cow<'n, CStr>> {
        self.on_host(name, Errno::NOENT)
    }

    /// Of something that is to be made.
    fn of_new<'n>(&self, name: Name<'n>) -> Result<Cow<'n, CStr>> {
        self.on_host(name, Errno::INVAL)
    }
}

/// Neither side's names have a NUL: one that had would be none.
fn c_string(name: String) -> Result<CString> {
    CString::new(name).map_err(|_| Errno::INVAL)
}

impl<T: Tree> Layer for Names<T> {
    type Below = T;

    fn below(&self) -> &T {
        &self.below
    }
    fn node(node: &T::Node) -> &T::Node {
        node
    }
    fn file(file: &T::File) -> &T::File {
        file
    }
    fn directory(directory: &T::Directory) -> &T::Directory {
        directory
    }
}

impl<T: Tree> Tree for Names<T> {
    type Node = T::Node;
    type File = T::File;
    type Directory = T::Directory;
    type Locks = T::Locks;

    const LOOKS_WHOLE: bool = T::LOOKS_WHOLE;

    pass_on! {
        keeping keeping_open is_short_of_nodes root identity upkeep attributes change read_link create_unnamed open read write
        drop_privileges flush sync allocate seek copy_range locking open_directory sync_directory
        whole access extended list_extended set_extended
    }

    fn renamed(
        &self,
        folder: &T::Node,
        name: Name<'_>,
        known: &dyn Fn(Identity) -> Option<T::Node>,
    ) -> Result<()> {
        let host = self.of_old(name)?;
        self.below.renamed(folder, Name::new(&host)?, known)
    }

    fn child(&self, parent: &T::Node, name: Name<'_>) -> Result<Found<T::Node>> {
        let host = self.of_old(name)?;
        self.below.child(parent, Name::new(&host)?)
    }

    fn look(&self, parent: &T::Node, name: Name<'_>) -> Result<Attributes> {
        let host = self.of_old(name)?;
        self.below.look(parent, Name::new(&host)?)
    }

    fn make_directory(
        &self,
        caller: Caller,
        parent: &T::Node,
        name: Name<'_>,
        mode: u32,
    ) -> Result<Found<T::Node>> {
        let host = self.of_new(name)?;
        self.below
            .make_directory(caller, parent, Name::new(&host)?, mode)
    }

    fn make_node(
        &self,
        caller: Caller,
        parent: &T::Node,
        name: Name<'_>,
        new: NewNode,
    ) -> Result<Found<T::Node>> {
        let host = self.of_new(name)?;
        self.below.make_node(caller, parent, Name::new(&host)?, new)
    }

    fn make_symbolic_link(
        &self,
        caller: Caller,
        parent: &T::Node,
        name: Name<'_>,
        target: &CStr,
    ) -> Result<Found<T::Node>> {
        let host = self.of_new(name)?;
        self.below
            .make_symbolic_link(caller, parent, Name::new(&host)?, target)
    }

    fn create(
        &self,
        caller: Caller,
        parent: &T::Node,
        name: Name<'_>,
        new: (u32, OpenHow),
    ) -> Result<(Found<T::Node>, T::File)> {
        let host = self.of_new(name)?;
        self.below.create(caller, parent, Name::new(&host)?, new)
    }

    fn link(&self, node: &T::Node, parent: &T::Node, name: Name<'_>) -> Result<Attributes> {
        let host = self.of_new(name)?;
        self.below.link(node, parent, Name::new(&host)?)
    }

    fn remove_file(&self, parent: &T::Node, name: Name<'_>) -> Result<()> {
        let host = self.of_old(name)?;
        self.below.remove_file(parent, Name::new(&host)?)
    }

    fn remove_directory(&self, parent: &T::Node, name: Name<'_>) -> Result<()> {
        let host = self.of_old(name)?;
        self.below.remove_directory(parent, Name::new(&host)?)
    }

    fn rename(
        &self,
        (from, old): (&T::Node, Name<'_>),
        (to, new): (&T::Node, Name<'_>),
        how: RenameHow,
    ) -> Result<()> {
        let (old, new) = (self.of_old(old)?, self.of_new(new)?);
        self.below
            .rename((from, Name::new(&old)?), (to, Name::new(&new)?), how)
    }

    fn entries(
        &self,
        directory: &T::Directory,
        from: u64,
        about: usize,
        each: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        if self.spelling == Spelling::Plain {
            return self.below.entries(directory, from, about, each);
        }
        let each = &mut |entry: &Entry<'_>| {
            if Name::new(entry.name).is_err() {
                // `.` and `..` are no names.
                return each(entry);
            }
            match windows::to_guest(entry.name.to_bytes()) {
                None => true,
                Some(Cow::Borrowed(_)) => each(entry),
                Some(Cow::Owned(guest)) => match c_string(guest) {
                    Ok(name) => each(&Entry {
                        name: &name,
                        ..*entry
                    }),
                    Err(_) => true,
                },
            }
        };
        self.below.entries(directory, from, about, each)
    }
}
