//! Which shares there are, the numbers of their roots, and which of them the guest has looked at.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::io::Errno;

use super::{Listing, Offer, Part};
use crate::fuse::nodes::{LAST_SPACE, Numbering, space_of};
use crate::keep::Keeping;
use crate::keep::device::Listing as Memory;
use crate::tree::{Result, Timestamp};

/// 1 is the folder of all shares, 2 stands for its `..` in listings.
pub(super) const FIRST_SHARE: u64 = 3;

/// See the module's head.
#[derive(Default)]
pub(super) struct Shares {
    table: RwLock<Table>,
    /// Where it is written down too, for a later process.
    memory: Option<Memory>,
}

#[derive(Default)]
struct Table {
    /// What INIT agreed on; None: not mounted.
    agreed: Option<u64>,
    /// Counts INITs: a share that was being mounted for an earlier one is not let in.
    mounts: u64,
    changed: Timestamp,
    /// All names since the device was connected; a place in here gives the root's number.
    names: Vec<Entry>,
    /// Shares that are mounted, by the space of their numbers.
    parts: HashMap<u32, Arc<dyn Part>>,
    last_space: u32,
    /// Taken for shares that could not be mounted: no number of theirs was ever told.
    spare_spaces: Vec<u32>,
}

struct Entry {
    name: CString,
    offer: Option<Arc<Offer>>,
    /// In `parts`.
    space: Option<u32>,
}

impl Table {
    fn entry(&self, number: u64) -> Option<(usize, &Entry)> {
        let index = usize::try_from(number.checked_sub(FIRST_SHARE)?).ok()?;
        Some((index, self.names.get(index)?))
    }

    /// EMFILE when they are used up, by a million changed shares in one mount.
    fn take_space(&mut self) -> Result<u32> {
        if let Some(space) = self.spare_spaces.pop() {
            return Ok(space);
        }
        if self.last_space == LAST_SPACE {
            return Err(Errno::MFILE);
        }
        self.last_space += 1;
        Ok(self.last_space)
    }

    fn part(&self, entry: &Entry) -> Option<(u32, Arc<dyn Part>)> {
        let space = entry.space?;
        Some((space, Arc::clone(self.parts.get(&space)?)))
    }
}

fn number(index: usize) -> u64 {
    index as u64 + FIRST_SHARE
}

impl Shares {
    pub(super) fn new(memory: Option<Memory>) -> Self {
        Self {
            table: RwLock::default(),
            memory,
        }
    }

    /// The names that an earlier process had, in their order: it gives the numbers of the roots.
    pub(super) fn take_up_names(&self) {
        let Some(memory) = &self.memory else {
            return;
        };
        let mut table = self.write();
        table.agreed = memory.agreed();
        table.last_space = memory.last_space();
        let names = memory.names().into_iter();
        table.names = names
            .map(|(name, _)| Entry {
                name: CString::new(name).unwrap_or_default(),
                offer: None,
                space: None,
            })
            .collect();
    }

    /// The shares that an earlier process had mounted, where they are what they were.
    pub(super) fn take_up_parts(&self) {
        let (Some(memory), Ok(agreed)) = (&self.memory, self.agreed()) else {
            return;
        };
        for (index, (_, space)) in memory.names().into_iter().enumerate() {
            let offer = self
                .read()
                .names
                .get(index)
                .and_then(|entry| entry.offer.clone());
            let taken_up = offer.zip(space).and_then(|(offer, space)| {
                let root = number(index);
                let left = Keeping::Left(memory.session(index)?);
                let part = (offer.make)((Numbering { root, space }, agreed), left).ok()?;
                Some((space, part))
            });
            let mut table = self.write();
            match taken_up {
                Some((space, part)) => {
                    table.names[index].space = Some(space);
                    table.parts.insert(space, part);
                }
                None => {
                    memory.put_space(index, None);
                    if let Some(place) = memory.session(index) {
                        place.put(None);
                    }
                }
            }
        }
    }

    fn put_space(&self, index: usize, space: Option<u32>) {
        if let Some(memory) = &self.memory {
            memory.put_space(index, space);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the table what the listing says; the shares that ended, for the caller to drop.
    pub(super) fn update(&self, listing: &Listing) -> Vec<Arc<dyn Part>> {
        let mut table = self.write();
        let table = &mut *table;
        table.changed = listing.changed;
        let mut ended = Vec::new();
        for (index, entry) in table.names.iter_mut().enumerate() {
            let wanted = listing.offers.iter().find(|offer| offer.name == entry.name);
            let same = match (&entry.offer, wanted) {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !same {
                entry.offer = wanted.map(Arc::clone);
                let space = entry.space.take();
                if space.is_some() {
                    self.put_space(index, None);
                }
                ended.extend(space.and_then(|space| table.parts.remove(&space)));
            }
        }
        for offer in &listing.offers {
            if table.names.iter().all(|entry| entry.name != offer.name) {
                if let Some(memory) = &self.memory {
                    memory.push_name(table.names.len(), offer.name.to_bytes());
                }
                table.names.push(Entry {
                    name: offer.name.clone(),
                    offer: Some(Arc::clone(offer)),
                    space: None,
                });
            }
        }
        ended
    }

    /// A mount begins (with what was agreed on) or ends: what the one before knew, for the caller to drop.
    pub(super) fn begin(&self, agreed: Option<u64>) -> Vec<Arc<dyn Part>> {
        let mut table = self.write();
        table.agreed = agreed;
        table.mounts += 1;
        // Numbers of the mount before mean nothing to the guest that begins anew.
        table.last_space = 0;
        table.spare_spaces.clear();
        for (index, entry) in table.names.iter_mut().enumerate() {
            entry.space = None;
            self.put_space(index, None);
        }
        if let Some(memory) = &self.memory {
            memory.put_last_space(0);
            memory.put_agreed(agreed);
        }
        table.parts.drain().map(|(_, part)| part).collect()
    }

    /// EIO before INIT, as no kernel asks.
    pub(super) fn agreed(&self) -> Result<u64> {
        self.read().agreed.ok_or(Errno::IO)
    }

    pub(super) fn changed(&self) -> Timestamp {
        self.read().changed
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        let table = self.read();
        let there = table.names.iter().filter(|entry| entry.offer.is_some());
        there.count()
    }

    /// Calls `each` with the numbers and names behind `from` until it answers false.
    pub(super) fn list(&self, from: u64, mut each: impl FnMut(u64, &CString) -> bool) {
        let table = self.read();
        let numbered = (FIRST_SHARE..).zip(&table.names);
        let there = numbered.filter(|(number, entry)| *number > from && entry.offer.is_some());
        for (number, entry) in there {
            if !each(number, &entry.name) {
                return;
            }
        }
    }

    /// The number of a share's root.
    pub(super) fn number_of(&self, name: &[u8]) -> Option<u64> {
        let table = self.read();
        let named = |entry: &Entry| entry.offer.is_some() && entry.name.to_bytes() == name;
        table.names.iter().position(named).map(number)
    }

    pub(super) fn part_named(&self, name: &[u8]) -> Option<Arc<dyn Part>> {
        let table = self.read();
        let mut entries = table.names.iter();
        let entry = entries.find(|entry| entry.name.to_bytes() == name)?;
        table.part(entry).map(|(_, part)| part)
    }

    pub(super) fn parts(&self) -> Vec<Arc<dyn Part>> {
        self.read().parts.values().map(Arc::clone).collect()
    }

    /// The share whose numbers are in that space.
    pub(super) fn in_space(&self, space: u32) -> Result<Arc<dyn Part>> {
        let table = self.read();
        table.parts.get(&space).map(Arc::clone).ok_or(Errno::STALE)
    }

    /// The share that a number belongs to, with the space of its other numbers. A root's is mounted if it
    /// is not: the guest may have kept the number while the share was away.
    pub(super) fn of_node(&self, node: u64) -> Result<(u32, Arc<dyn Part>)> {
        let space = space_of(node);
        if space != 0 {
            return Ok((space, self.in_space(space)?));
        }
        let known = {
            let table = self.read();
            let (_, entry) = table.entry(node).ok_or(Errno::STALE)?;
            table.part(entry)
        };
        match known {
            Some(known) => Ok(known),
            None => self.mount(node, None),
        }
    }

    /// Mounts a share, in place of the one in `old` if that is still there.
    pub(super) fn mount(&self, root: u64, old: Option<u32>) -> Result<(u32, Arc<dyn Part>)> {
        let (offer, agreed, mounts, space) = {
            let mut table = self.write();
            let agreed = table.agreed.ok_or(Errno::IO)?;
            let offer = table
                .entry(root)
                .and_then(|(_, entry)| entry.offer.as_ref().map(Arc::clone))
                .ok_or(Errno::STALE)?;
            let space = table.take_space()?;
            if let Some(memory) = &self.memory {
                memory.put_last_space(table.last_space);
            }
            (offer, agreed, table.mounts, space)
        };
        let index = usize::try_from(root - FIRST_SHARE).unwrap_or(usize::MAX);
        let place = self
            .memory
            .as_ref()
            .and_then(|memory| memory.session(index));
        let keeping = place.map_or(Keeping::Not, Keeping::New);
        // The folder may be on a file system that does not answer: nobody else waits for it.
        let made = (offer.make)((Numbering { root, space }, agreed), keeping);
        let mut replaced = None;
        let mut table = self.write();
        if table.mounts != mounts {
            return Err(Errno::STALE);
        }
        let outcome = made.and_then(|part| {
            let (index, entry) = table.entry(root).ok_or(Errno::STALE)?;
            let now = entry.offer.as_ref().ok_or(Errno::STALE)?;
            if !Arc::ptr_eq(now, &offer) {
                return Err(Errno::STALE);
            }
            if entry.space != old
                && let Some(other) = table.part(entry)
            {
                // Another thread was first.
                return Ok(other);
            }
            replaced = old.and_then(|old| table.parts.remove(&old));
            table.names[index].space = Some(space);
            table.parts.insert(space, Arc::clone(&part));
            self.put_space(index, Some(space));
            Ok((space, part))
        });
        if outcome.as_ref().map_or(true, |(used, _)| *used != space) {
            table.spare_spaces.push(space);
        }
        // Of two that were made at once, the one that is dropped may have been the last to be left.
        if let Ok((_, part)) = &outcome {
            part.leave_again();
        }
        drop(table);
        drop(replaced);
        outcome
    }
}
