//! All shares of one guest behind one device: a folder whose entries are the shares' own roots.
//!
//! A share is a session of its own (`session`), whatever its tree, its cache policy and its counters; here
//! requests are told apart by their node's number and passed on, which costs a table look-up and no copy.
//! The folder itself (`root`) cannot be changed by the guest. Shares come and go while it is mounted:
//!
//! - A share that goes takes all with it at once: its nodes, what is open in it and what waits for a lock
//!   in it are ESTALE from then on, also where the guest has mounted it elsewhere too (a bind mount).
//! - The root of a share keeps its number as long as the device is connected, so that such a mount shows
//!   the share again when its name comes back. All other numbers are never used again.
//! - A share whose folder was replaced on the host is the new folder from the next look at its name on.
//! - Nothing of a share is opened before the guest asks for it.
//!
//! Each share is a file system of its own in the guest (FUSE_ATTR_SUBMOUNT, Linux 5.10): inode numbers of
//! two shares cannot be taken for one another, and rename and link between them are EXDEV. Where the
//! guest's kernel has no such mounts they are EXDEV all the same, from here.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::counters::Counters;
use super::exchange::{self, Outcome, Scratch};
use super::nodes::{Numbering, space_of};
use super::reply::Validity;
use super::request::Header;
use super::session::Serve;
use super::wire::{self, ROOT, opcode};
use crate::keep::{Keeping, Place, device, journal};
use crate::sys::{Sink, Source};
use crate::tree::{Attributes, Result, Timestamp};

mod root;
mod table;

use table::Shares;

/// A share that is mounted as one of several.
pub(crate) trait Part: Serve {
    /// Serves a request whose header is known already.
    fn handle_behind<'g>(
        &self,
        header: Header,
        rest: (&mut Scratch, &mut [Source<'g>], &mut [Sink<'g>]),
    ) -> Outcome;
    /// The root's attributes. None: the name leads to another folder by now.
    fn look(&self) -> Result<Option<Attributes>>;
    /// How long attributes may be kept.
    fn validity(&self) -> Validity;
    fn forget_node(&self, number: u64, lookups: u64);
    /// A later process goes on with this one, whatever other it found there.
    fn leave_again(&self);
    /// The guest no longer waits for that request.
    fn interrupt(&self, unique: u64);
}

/// Mounts a share with what was agreed on with the guest.
pub(crate) type MakePart =
    Box<dyn Fn((Numbering, u64), Keeping) -> Result<Arc<dyn Part>> + Send + Sync>;

/// A share that a guest may see. Another value is another share, even under the same name.
pub(crate) struct Offer {
    pub(crate) name: CString,
    pub(crate) make: MakePart,
}

/// What a guest may see, since when.
#[derive(Clone, Default)]
pub(crate) struct Listing {
    pub(crate) offers: Vec<Arc<Offer>>,
    pub(crate) changed: Timestamp,
}

/// The session of one device; see the module's head.
pub(crate) struct Many {
    /// Of requests that concern no single share.
    counters: Arc<Counters>,
    shares: Shares,
    /// Requests that wait for a lock, with the space of the share they wait in. Each share bounds its own.
    waits: Mutex<HashMap<u64, u32>>,
    /// Where the numbers of the shares are left for a later process.
    place: Option<(Place, RawFd)>,
}

impl Drop for Many {
    fn drop(&mut self) {
        if let Some((place, number)) = &self.place {
            place.withdraw(*number);
        }
    }
}

impl Many {
    /// `place`: where it is written down for a later process, and what an earlier one left.
    pub(crate) fn new(listing: &Listing, counters: Arc<Counters>, place: Option<Place>) -> Self {
        let left = place.as_ref().and_then(Place::take);
        let left = left.and_then(device::Listing::adopt);
        let kept = place.and_then(|place| {
            let memory = match &left {
                Some(left) => left.clone(),
                // Nothing is kept then.
                None => device::Listing::create().ok()?,
            };
            place.put(Some(memory.number()));
            Some((place, memory))
        });
        let (place, memory) = kept.map_or((None, None), |(place, memory)| {
            (Some((place, memory.number())), Some(memory))
        });
        let many = Self {
            counters,
            shares: Shares::new(memory),
            waits: Mutex::default(),
            place,
        };
        if left.is_some() {
            many.shares.take_up_names();
        }
        many.update(listing);
        if left.is_some() {
            many.shares.take_up_parts();
        }
        many
    }

    /// From here on the guest sees these. What is not among them any more has ended on return, but for
    /// requests that are under way.
    pub(crate) fn update(&self, listing: &Listing) {
        let ended = self.shares.update(listing);
        // Descriptors are closed here, with the table open to others.
        drop(ended);
    }

    /// The share of that name, if the guest has looked at it.
    pub(crate) fn part(&self, name: &str) -> Option<Arc<dyn Part>> {
        self.shares.part_named(name.as_bytes())
    }

    fn waits(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting_part(&self, unique: u64) -> Option<Arc<dyn Part>> {
        let space = *self.waits().get(&unique)?;
        self.shares.in_space(space).ok()
    }

    /// Forgets numbers of any share. The roots of shares are not held by the guest's looks at them.
    fn forget(&self, list: impl Iterator<Item = (u64, u64)>) {
        let mut last: Option<(u32, Arc<dyn Part>)> = None;
        for (number, lookups) in list.skip(journal::forgotten()) {
            journal::forget_one();
            let space = space_of(number);
            if space == 0 {
                continue;
            }
            if last.as_ref().is_none_or(|(known, _)| *known != space) {
                last = self.shares.in_space(space).ok().map(|part| (space, part));
            }
            if let Some((_, part)) = &last {
                part.forget_node(number, lookups);
            }
        }
    }
}

/// Requests that concern the device and no node.
fn is_for_all(number: u32) -> bool {
    matches!(
        number,
        opcode::INIT | opcode::DESTROY | opcode::INTERRUPT | opcode::FORGET | opcode::BATCH_FORGET
    )
}

impl Serve for Many {
    fn handle<'g>(
        &self,
        scratch: &mut Scratch,
        request: &mut [Source<'g>],
        answer: &mut [Sink<'g>],
    ) -> Outcome {
        let Some(header) = exchange::header(&self.counters, request) else {
            return Outcome::Done(0);
        };
        let rest = (scratch, request, answer);
        if is_for_all(header.opcode) || header.node == ROOT {
            return exchange::exchange(&self.counters, header, rest, |turn, body| {
                self.serve_own(turn, body)
            });
        }
        match self.shares.of_node(header.node) {
            Ok((space, part)) => {
                let outcome = part.handle_behind(header, rest);
                if let Outcome::Waits(unique) = outcome {
                    self.waits().insert(unique, space);
                }
                outcome
            }
            Err(error) => exchange::exchange(&self.counters, header, rest, |_, _| Err(error)),
        }
    }

    fn retry(&self, unique: u64) -> Option<[u8; wire::OUT_HEADER]> {
        let answer = match self.waiting_part(unique) {
            Some(part) => part.retry(unique)?,
            // The share has gone meanwhile.
            None => wire::out_header(unique, Some(Errno::STALE), 0),
        };
        self.waits().remove(&unique);
        Some(answer)
    }

    fn abandon(&self, unique: u64) {
        if let Some(part) = self.waiting_part(unique) {
            part.abandon(unique);
        }
        self.waits().remove(&unique);
    }

    fn lost(&self) {
        self.counters.bad_chains.one();
    }

    fn size(&self) -> (usize, usize) {
        let sizes = self.shares.parts().into_iter().map(|part| part.size());
        sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
    }

    fn mounted(&self) -> bool {
        self.shares.agreed().is_ok()
    }
}
