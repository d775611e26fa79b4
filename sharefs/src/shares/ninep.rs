//! The 9P doors of a configuration: one a guest that has a share with `ninep = true`, with all of these behind.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use control::api::Changes;
use control::config::{Config, NINEP_PORT};
use control::names::{GuestName, ShareName};
use control::paths::{Paths, make_private_folder};

use super::Running;
use crate::ninep::counters::{Counters, Done};
use crate::serve::ninep::{NinepDoor, Offer, OfferList, Traffic};
use crate::served::Served;

/// All of them.
#[derive(Default)]
pub(super) struct Doors {
    doors: BTreeMap<GuestName, Result<NinepDoor, String>>,
    /// The same at the sockets of VMMs for vsock, with where that is.
    vsock: BTreeMap<GuestName, (PathBuf, Result<NinepDoor, String>)>,
    /// Kept when a door goes and comes back, so that counters only grow.
    counters: BTreeMap<GuestName, Arc<Counters>>,
}

/// One guest's numbers, for /metrics.
pub(crate) struct NinepNumbers<'a> {
    pub(crate) guest: &'a GuestName,
    pub(crate) counters: &'a Counters,
    pub(crate) traffic: Traffic,
}

/// A share as clients of any guest attach it.
pub(super) fn offer(tree: &Arc<dyn Served>) -> Arc<Offer> {
    let tree = Arc::clone(tree);
    Offer::new(move |counting| tree.ninep(counting))
}

impl Doors {
    /// Makes what runs what the configuration wants.
    pub(super) fn apply(
        &mut self,
        config: &Config,
        shares: &BTreeMap<ShareName, Running>,
        paths: &Paths,
        changes: &mut Changes,
    ) {
        let mut old = std::mem::take(&mut self.doors);
        let mut old_vsock = std::mem::take(&mut self.vsock);
        for (guest, configured) in &config.guests {
            if config.ninep_shares_of(guest).next().is_none() {
                continue;
            }
            let offers: OfferList = config
                .ninep_shares_of(guest)
                .filter_map(|share| {
                    let offer = Arc::clone(shares.get(&share.name)?.offer.as_ref()?);
                    Some((share.name.to_string(), offer))
                })
                .collect();
            if let Some(path) = configured.vsock_listener(NINEP_PORT) {
                let door = match old_vsock.remove(guest) {
                    Some((place, Ok(door))) if place == path => {
                        door.offer(offers.clone());
                        Ok(door)
                    }
                    // Closed first: the new one may be at the same place.
                    gone => {
                        drop(gone);
                        let counters = self.counters.entry(guest.clone()).or_default();
                        NinepDoor::open(&path, offers.clone(), Arc::clone(counters))
                            .map_err(|error| error.to_string())
                    }
                };
                if let Err(problem) = &door {
                    changes
                        .problems
                        .push(format!("9P by vsock for guest {guest}: {problem}"));
                }
                self.vsock.insert(guest.clone(), (path, door));
            }
            let door = match old.remove(guest) {
                Some(Ok(door)) => {
                    door.offer(offers);
                    Ok(door)
                }
                Some(Err(_)) | None => {
                    let counters = self.counters.entry(guest.clone()).or_default();
                    open(guest, offers, Arc::clone(counters), paths)
                }
            };
            if let Err(problem) = &door {
                changes
                    .problems
                    .push(format!("9P for guest {guest}: {problem}"));
            }
            self.doors.insert(guest.clone(), door);
        }
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let doors = self.doors.iter().filter_map(|(guest, door)| {
            let problem = door.as_ref().err()?;
            Some(format!("9P for guest {guest}: {problem}"))
        });
        let vsock = self.vsock.iter().filter_map(|(guest, (_, door))| {
            let problem = door.as_ref().err()?;
            Some(format!("9P by vsock for guest {guest}: {problem}"))
        });
        doors.chain(vsock)
    }

    /// The guests that have this share attached now.
    pub(super) fn attached(&self, share: &Arc<Offer>) -> Vec<GuestName> {
        let doors = self.doors.iter();
        let vsock = self.vsock.iter().map(|(guest, (_, door))| (guest, door));
        let mut guests: Vec<GuestName> = doors
            .chain(vsock)
            .filter(|(_, door)| door.as_ref().is_ok_and(|door| door.has_attached(share)))
            .map(|(guest, _)| guest.clone())
            .collect();
        guests.sort();
        guests.dedup();
        guests
    }

    /// The guests that have had this share attached, and what they did with it.
    pub(super) fn done(&self, share: &ShareName) -> impl Iterator<Item = (&GuestName, Done)> {
        let share = share.clone();
        let counters = self.counters.iter();
        counters.filter_map(move |(guest, counters)| Some((guest, counters.done(share.as_str())?)))
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = NinepNumbers<'_>> {
        self.counters.iter().map(|(guest, counters)| {
            let door = self.doors.get(guest).and_then(|door| door.as_ref().ok());
            let vsock = self
                .vsock
                .get(guest)
                .and_then(|(_, door)| door.as_ref().ok());
            let traffic = [door, vsock].into_iter().flatten().map(NinepDoor::traffic);
            NinepNumbers {
                guest,
                counters,
                traffic: traffic.fold(Traffic::default(), Traffic::and),
            }
        })
    }

    pub(super) fn close(&mut self) {
        self.doors.clear();
        self.vsock.clear();
    }
}

fn open(
    guest: &GuestName,
    offers: OfferList,
    counters: Arc<Counters>,
    paths: &Paths,
) -> Result<NinepDoor, String> {
    let folder = paths.guest(guest);
    make_private_folder(&paths.runtime.join("guest"))
        .and_then(|()| make_private_folder(&folder))
        .map_err(|error| format!("cannot use {}: {error}", folder.display()))?;
    let door = NinepDoor::open(&paths.guest_ninep_socket(guest), offers, counters)
        .map_err(|error| error.to_string())?;
    tracing::info!(%guest, socket = %door.path().display(), "9P door open");
    Ok(door)
}
