//! What a connection knows of its share, written down for a follower (`keep/ninep/rows.rs`), and taken up again.
//!
//! A fid is written anew whenever it changes. One whose place the tree cannot keep (too many nodes are kept
//! already), or that has no row, is nowhere, and while it is there the connection ends with its worker: better than
//! to go on with half of what the client knows.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::RawFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::{Attached, Keeping};
use crate::keep::ninep::rows::{Claim, KeptFid, KeptMount, KeptUse, KeptWait, Row, Rows};
use crate::keep::nodes;
use crate::ninep::convert::{self, Qids};
use crate::ninep::fids::{Fid, Place, Use, Value};
use crate::tree::owner::GuestUid;
use crate::tree::{Identity, Result, Tree};

impl<T: Tree> Attached<T> {
    pub(super) fn rows(&self) -> Option<&Arc<Rows>> {
        self.keeping.as_ref().map(|keeping| &keeping.rows)
    }

    /// It is attached for the first time; `folder`: what its qids are made from.
    pub(super) fn record_share(&mut self, folder: Identity) {
        if let Some(Keeping { rows, place }) = &self.keeping {
            self.row = Some(rows.put_mount(&KeptMount {
                place: u64::from(*place),
                options: self.options,
                folder,
                name: self.name.clone(),
            }));
        }
    }

    /// The fid is what it is now.
    pub(super) fn record(&mut self, number: u32) {
        let (Some(Keeping { rows, place }), Ok(fid)) = (&self.keeping, self.fids.find_mut(number))
        else {
            return;
        };
        let used = kept_use(&*self.tree, &fid.used);
        let row = match (fid.place.row(), used) {
            (Some(at), Some(used)) => rows.put_fid(&KeptFid {
                number,
                mount: *place,
                place: at,
                user: fid.user.0,
                used,
            }),
            (_, _) => rows.put_nowhere(),
        };
        if let Some(old) = fid.row.replace(row) {
            rows.end_fid(old);
        }
    }

    /// It goes when the commit is made that it ends with.
    pub(super) fn retire(&self, ended: Fid<T>) {
        if let Some(rows) = self.rows() {
            rows.retire(ended);
        }
    }

    pub(super) fn end_rows(&self) {
        let Some(Keeping { rows, .. }) = &self.keeping else {
            return;
        };
        let fids = self.fids.all().filter_map(|fid| fid.row);
        fids.for_each(|row| rows.end_fid(row));
        self.locks.end_rows();
        let waits = self.ended.iter().filter_map(|(_, row)| *row);
        waits.for_each(|row| rows.end_wait(row));
        if let Some(row) = self.row {
            rows.end_mount(row);
        }
    }

    /// All or nothing: an error where something is not what it was. What was taken up until then stays open, here or
    /// in the rows.
    pub(super) fn take_up(
        &mut self,
        keeping: Keeping,
        (row, left): (usize, KeptMount),
        claim: Claim<'_>,
    ) -> Result<()> {
        let rows = Arc::clone(&keeping.rows);
        let is_ours = |mount: u32| mount == keeping.place;
        self.qids = Some(Qids::new(left.folder));
        self.name = left.name;
        self.row = Some(Row::At(row));
        let mut places = HashMap::new();
        for (row, kept) in rows.fids() {
            if is_ours(kept.mount) {
                self.fids.check_new(kept.number)?;
                let place = self.take_up_place(&rows, &mut places, (kept.place, claim))?;
                let used = self.take_up_use(&place, kept.used, claim)?;
                let fid = Fid {
                    place,
                    user: GuestUid(kept.user),
                    used,
                    row: Some(Row::At(row)),
                };
                self.fids.add(kept.number, fid)?;
            }
        }
        for (row, kept) in rows.owners() {
            if is_ours(kept.mount) {
                let open = claim(kept.open).ok_or(Errno::STALE)?;
                let locks = self.tree.adopt_locks(kept.file, open)?;
                self.locks.adopt_owner(&kept, row, locks);
            }
        }
        for (row, kept) in rows.waits() {
            if is_ours(kept.mount) {
                self.take_up_wait(&kept, row)?;
            }
        }
        self.locks.keeping = Some(keeping.clone());
        self.keeping = Some(keeping);
        Ok(())
    }

    fn take_up_wait(&mut self, kept: &KeptWait, row: usize) -> Result<()> {
        if kept.is_over {
            self.ended.push((kept.tag, Some(Row::At(row))));
            return Ok(());
        }
        let file = self.tree.identity(&self.fids.find(kept.fid)?.place.node);
        let range = convert::lock_range(kept.kind, kept.start, kept.length)?;
        self.locks.adopt_wait((kept, row), file, range)
    }

    /// The place of that row, and those above it that are not there yet.
    fn take_up_place(
        &self,
        rows: &Arc<Rows>,
        places: &mut HashMap<usize, Arc<Place<T>>>,
        (row, claim): (usize, Claim<'_>),
    ) -> Result<Arc<Place<T>>> {
        let mut way = Vec::new();
        let mut next = Some(row);
        while let Some(at) = next
            && !places.contains_key(&at)
        {
            let kept = rows.place(at).ok_or(Errno::STALE)?;
            next = kept.above.as_ref().map(|(above, _)| *above);
            way.push((at, kept));
        }
        for (at, kept) in way.into_iter().rev() {
            let above = match kept.above {
                None => None,
                Some((above, name)) => {
                    let folder = places.get(&above).ok_or(Errno::STALE)?;
                    let name = CString::new(name).map_err(|_| Errno::STALE)?;
                    Some((Arc::clone(folder), name))
                }
            };
            let held = claim(kept.number).ok_or(Errno::STALE)?;
            let left = (nodes::KeptPlace::Held(held), None);
            let node = self.tree.adopt(&kept.node, left)?;
            // Its number stays written down.
            if self.tree.hold(&node).is_none() {
                rows.retire(node);
                return Err(Errno::STALE);
            }
            let row = (Arc::clone(rows), at);
            let place = Place::adopted((node, kept.node.kind), above, row);
            places.insert(at, Arc::new(place));
        }
        places.get(&row).cloned().ok_or(Errno::STALE)
    }

    fn take_up_use(&mut self, place: &Place<T>, kept: KeptUse, claim: Claim<'_>) -> Result<Use<T>> {
        let open = |number: RawFd| claim(number).ok_or(Errno::STALE);
        let used = match kept {
            KeptUse::Nothing => Use::Nothing,
            KeptUse::File {
                open: number,
                append,
                writes,
                in_parts,
            } => Use::File {
                open: Arc::new(self.tree.adopt_file(&place.node, open(number)?)?),
                append,
                writes,
                in_parts,
            },
            KeptUse::Folder { open: number } => Use::Directory(Arc::new(
                self.tree.adopt_directory(&place.node, open(number)?)?,
            )),
            KeptUse::Reading { value } => Use::Reading(value.into()),
            KeptUse::Writing {
                name,
                flags,
                length,
                bytes,
            } => Use::Writing(Box::new(Value {
                name: CString::new(name).map_err(|_| Errno::STALE)?,
                flags,
                length,
                bytes,
            })),
        };
        self.value_bytes += used.value_length();
        Ok(used)
    }
}

/// None: the tree cannot keep what is open.
fn kept_use<T: Tree>(tree: &T, used: &Use<T>) -> Option<KeptUse> {
    Some(match used {
        Use::Nothing => KeptUse::Nothing,
        Use::File {
            open,
            append,
            writes,
            in_parts,
        } => KeptUse::File {
            open: tree.keep_file(open)?,
            append: *append,
            writes: *writes,
            in_parts: *in_parts,
        },
        Use::Directory(open) => KeptUse::Folder {
            open: tree.keep_directory(open)?,
        },
        Use::Reading(value) => KeptUse::Reading {
            value: value.to_vec(),
        },
        Use::Writing(value) => KeptUse::Writing {
            name: value.name.as_bytes().to_vec(),
            flags: value.flags,
            length: value.length,
            bytes: value.bytes.clone(),
        },
    })
}
