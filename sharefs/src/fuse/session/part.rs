//! A share's session as one of several behind one device.

use std::sync::Arc;

use rustix::io::Errno;

use super::{Kept, Outcome, Scratch, Serve, Session};
use crate::fuse::cache::Cache;
use crate::fuse::counters::Counters;
use crate::fuse::many::Part;
use crate::fuse::nodes::Numbering;
use crate::fuse::reply::Validity;
use crate::fuse::request::Header;
use crate::keep::Keeping;
use crate::sys::{Sink, Source};
use crate::tree::{Attributes, Result, Tree};

impl<T: Tree> Session<T> {
    /// A session that is mounted already, with numbers that other sessions do not use.
    pub(crate) fn part(
        tree: Arc<T>,
        (cache, counters): (Cache, Arc<Counters>),
        (numbering, agreed): (Numbering, u64),
        (keeping, options): (Keeping, u64),
    ) -> Result<Self> {
        let mut session = Self::new(tree, cache, counters);
        session.numbering = numbering;
        match keeping {
            Keeping::Not => {}
            Keeping::New(place) => session.kept = Some(Kept { place, options }),
            Keeping::Left(place) => {
                let session = session.kept(Kept { place, options });
                return session.mounted().then_some(session).ok_or(Errno::STALE);
            }
        }
        session.begin(agreed)?;
        Ok(session)
    }
}

impl<T: Tree> Part for Session<T> {
    fn handle_behind<'g>(
        &self,
        header: Header,
        rest: (&mut Scratch, &mut [Source<'g>], &mut [Sink<'g>]),
    ) -> Outcome {
        self.handle_behind(header, rest)
    }

    fn look(&self) -> Result<Option<Attributes>> {
        let state = self.state()?;
        let attributes = self.tree.root()?.attributes;
        Ok(state
            .nodes
            .is_root(attributes.identity)
            .then_some(attributes))
    }

    fn validity(&self) -> Validity {
        self.cache.validity()
    }

    fn forget_node(&self, number: u64, lookups: u64) {
        if let Ok(state) = self.state() {
            self.forget(&state, number, lookups);
        }
    }

    fn leave_again(&self) {
        if let Ok(state) = self.state() {
            self.leave(state.records.as_ref());
        }
    }

    fn interrupt(&self, unique: u64) {
        if let Ok(state) = self.state() {
            state.locks.interrupt(unique);
        }
    }
}
