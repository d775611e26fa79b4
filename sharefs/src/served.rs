//! A share's options as layers around its folder, and what a door gets of them: sessions.
//!
//! From the host upwards: owners kept beside the files, places that are hidden or frozen, names, case.
//! The lower a layer, the closer its names are to the host's. A layer that a share does not ask for is
//! one that changes nothing, so that there is one stack and not one for each choice; a share without any
//! such option is served without layers.

use std::sync::Arc;
use std::time::Duration;

use control::config::{CaseRule, NameRule, OwnerStore as Store, Share};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::fuse::cache::Cache;
use crate::fuse::counters::Counters;
use crate::fuse::many::Part;
use crate::fuse::nodes::Numbering;
use crate::fuse::session::{Kept, Serve, Session};
use crate::keep::{self, Keeping, Place};
use crate::ninep;
use crate::ninep::counters::Counting;
use crate::ninep::session::Mount;
use crate::shares::options;
use crate::tree::Tree;
use crate::tree::case::{Case, CaseTree};
use crate::tree::host::HostTree;
use crate::tree::names::{Names, Spelling};
use crate::tree::owner_store::OwnerStore;
use crate::tree::places::{Letters, Places, Rules};
use crate::tree::read_only::ReadOnly;

/// A tree, whatever its layers: makes a session for each connection.
pub(crate) trait Served: Send + Sync {
    /// `place`: where it is written down for a later process, and what an earlier one left.
    fn session(
        &self,
        cache: Cache,
        counters: Arc<Counters>,
        place: Option<Place>,
    ) -> Arc<dyn Serve>;
    /// The same behind a device that carries several.
    fn part(
        &self,
        options: (Cache, Arc<Counters>),
        mounted: (Numbering, u64),
        keeping: Keeping,
    ) -> Result<Arc<dyn Part>, Errno>;
    /// The same as a share of a 9P connection.
    fn ninep(&self, counting: Counting) -> Box<dyn Mount>;
}

struct Of<T> {
    tree: Arc<T>,
    /// Whether it has access control lists.
    lists: bool,
    /// Whether a guest with a device of the share's own may write later.
    writeback: bool,
    /// Of the share: mounts that an earlier process left are of the same, or not taken up.
    options: u64,
}

impl<T: Tree> Served for Of<T> {
    fn session(
        &self,
        cache: Cache,
        counters: Arc<Counters>,
        place: Option<Place>,
    ) -> Arc<dyn Serve> {
        let session = Session::new(Arc::clone(&self.tree), cache, counters)
            .with_lists(self.lists)
            .with_writeback(self.writeback);
        let options = self.options;
        Arc::new(match place {
            Some(place) => session.kept(Kept { place, options }),
            None => session,
        })
    }

    fn part(
        &self,
        options: (Cache, Arc<Counters>),
        mounted: (Numbering, u64),
        keeping: Keeping,
    ) -> Result<Arc<dyn Part>, Errno> {
        let tree = Arc::clone(&self.tree);
        let part = Session::part(tree, options, mounted, (keeping, self.options))?;
        Ok(Arc::new(part))
    }

    fn ninep(&self, counting: Counting) -> Box<dyn Mount> {
        ninep::session::mount(Arc::clone(&self.tree), counting, self.options)
    }
}

fn served<T: Tree>(tree: T, share: &Share) -> Arc<dyn Served> {
    Arc::new(Of {
        tree: Arc::new(tree),
        lists: share.acl,
        writeback: share.writeback,
        options: options_word(share),
    })
}

/// All of a share that its nodes depend on, in one word.
fn options_word(share: &Share) -> u64 {
    keep::word_of(&format!("{:?}", options(share)))
}

/// The folder as the share's options have it; a sentence where it cannot be so.
pub(crate) fn serve(folder: HostTree, share: &Share) -> Result<Arc<dyn Served>, String> {
    let folder = if share.acl {
        with_lists(folder, share)?
    } else {
        folder
    };
    match share.owner_store {
        Store::Xattr => Ok(layered(with_owners(folder, share)?, share)),
        Store::None if is_plain(share) && share.read_only => Ok(served(ReadOnly(folder), share)),
        Store::None if is_plain(share) => Ok(served(folder, share)),
        Store::None => Ok(layered(folder, share)),
    }
}

fn is_plain(share: &Share) -> bool {
    let no_patterns = share.exclude.is_empty() && share.read_only_paths.is_empty();
    no_patterns && share.case == CaseRule::Exact && share.names == NameRule::Plain
}

fn with_lists(folder: HostTree, share: &Share) -> Result<HostTree, String> {
    let path = share.path.display();
    folder.with_lists().map_err(|error| match error {
        Errno::OPNOTSUPP => format!(
            "acl = true needs access control lists, which the file system at {path} does not have: write \
             acl = false"
        ),
        error => format!("acl = true: cannot read the access control list of {path}: {error}"),
    })
}

fn with_owners(folder: HostTree, share: &Share) -> Result<OwnerStore<HostTree>, String> {
    let path = share.path.display();
    OwnerStore::new(folder).map_err(|error| match error {
        Errno::OPNOTSUPP => format!(
            "owner-store = \"xattr\" needs extended attributes, which the file system at {path} does \
             not have for users: write owner-store = \"none\""
        ),
        error => format!("owner-store = \"xattr\": cannot read the attributes of {path}: {error}"),
    })
}

fn layered<T: Tree>(tree: T, share: &Share) -> Arc<dyn Served> {
    let (case, letters) = match share.case {
        CaseRule::Exact => (Case::Exact, Letters::Exact),
        CaseRule::Insensitive => (Case::Insensitive, Letters::Folded),
    };
    let spelling = match share.names {
        NameRule::Plain => Spelling::Plain,
        NameRule::Windows => Spelling::Windows,
    };
    let rules = Rules::new(
        share.exclude.clone(),
        share.read_only_paths.clone(),
        letters,
    );
    let rules = if share.read_only {
        rules.frozen()
    } else {
        rules
    };
    let places = Places::new(tree, rules);
    let names = Names::new(places, spelling);
    served(CaseTree::new(names, case, since_boot), share)
}

/// To a tick, which is enough.
fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::MonotonicCoarse)).unwrap_or_default()
}
