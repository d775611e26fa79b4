//! The one device of a guest that carries all its shares, and how its shares come and go.
//!
//! It is there for every guest of the configuration, also for one that sees no share yet: a VM that runs
//! with it sees shares that are added later.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use control::api::Changes;
use control::config::{Config, Devices};
use control::events::EventBody;
use control::names::{GuestName, ShareName};

use super::{Shares, cache, notice};
use crate::fuse::counters::Counters;
use crate::fuse::many::{Listing, MakePart, Many, Offer, Part};
use crate::fuse::session::Serve;
use crate::keep::Place;
use crate::serve::door::{Door, MakeSession};
use crate::tree::Timestamp;

/// One guest's.
pub(super) struct One {
    door: Result<Door, String>,
    catalogue: Arc<Catalogue>,
    /// What the guest's own command line is to use.
    devices: Devices,
}

/// What the guest may see, and who has to be told when that changes.
#[derive(Default)]
struct Catalogue {
    counters: Arc<Counters>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    offers: BTreeMap<ShareName, Arc<Offer>>,
    changed: Timestamp,
    /// Of the VMM that is connected, and of one before it that is not quite gone.
    sessions: Vec<Weak<Many>>,
}

impl State {
    fn listing(&self) -> Listing {
        Listing {
            offers: self.offers.values().map(Arc::clone).collect(),
            changed: self.changed,
        }
    }
}

impl Catalogue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> Vec<ShareName> {
        self.state().offers.keys().cloned().collect()
    }

    /// A session of a VMM that has just connected.
    fn session(&self, place: Option<Place>) -> Arc<dyn Serve> {
        let mut state = self.state();
        let counters = Arc::clone(&self.counters);
        let many = Arc::new(Many::new(&state.listing(), counters, place));
        state.sessions.retain(|session| session.strong_count() > 0);
        state.sessions.push(Arc::downgrade(&many));
        many
    }

    fn newest_session(&self) -> Option<Arc<Many>> {
        self.state().sessions.last().and_then(Weak::upgrade)
    }

    /// Makes the listing these; which shares came and which went.
    fn set(
        &self,
        offers: BTreeMap<ShareName, Arc<Offer>>,
        now: Timestamp,
    ) -> (Vec<ShareName>, Vec<ShareName>) {
        let mut state = self.state();
        let lacking = |these: &BTreeMap<ShareName, Arc<Offer>>,
                       others: &BTreeMap<ShareName, Arc<Offer>>| {
            let lacks = |(name, offer): &(&ShareName, &Arc<Offer>)| {
                !others
                    .get(*name)
                    .is_some_and(|other| Arc::ptr_eq(other, offer))
            };
            let names = these.iter().filter(lacks).map(|(name, _)| name.clone());
            names.collect::<Vec<_>>()
        };
        let came = lacking(&offers, &state.offers);
        let went = lacking(&state.offers, &offers);
        if came.is_empty() && went.is_empty() {
            return (came, went);
        }
        state.offers = offers;
        state.changed = now;
        let listing = state.listing();
        let sessions: Vec<_> = state.sessions.iter().filter_map(Weak::upgrade).collect();
        // One that is made meanwhile has the new listing already.
        drop(state);
        for session in sessions {
            session.update(&listing);
        }
        (came, went)
    }
}

impl One {
    pub(super) fn door(&self) -> Option<&Door> {
        self.door.as_ref().ok()
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.door.as_ref().err().map(String::as_str)
    }

    pub(super) fn devices(&self) -> Devices {
        self.devices
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.catalogue.counters
    }

    /// The share's session, while a VMM is connected whose guest has looked at it.
    pub(super) fn part(&self, share: &ShareName) -> Option<Arc<dyn Part>> {
        self.door()?.session()?;
        self.catalogue.newest_session()?.part(share.as_str())
    }
}

impl Shares {
    pub(super) fn apply_ones(
        &mut self,
        config: &Config,
        untouched: &[ShareName],
        now: Timestamp,
        changes: &mut Changes,
    ) {
        let mut old = std::mem::take(&mut self.ones);
        // Doors that close go first, as with those of single shares.
        old.retain(|guest, _| config.guests.contains_key(guest));
        for (guest, configured) in &config.guests {
            let (catalogue, door) = match old.remove(guest) {
                Some(One {
                    door, catalogue, ..
                }) => (catalogue, door.ok()),
                None => (Arc::default(), None),
            };
            let offers = self.offers(config, guest, untouched, &catalogue);
            let (came, went) = catalogue.set(offers, now);
            if door.as_ref().is_some_and(|door| door.session().is_some()) {
                self.tell(guest, (came, went));
            }
            let door = match door {
                Some(door) => Ok(door),
                None => self.open_one(guest, &catalogue),
            };
            if let Err(problem) = &door {
                let problem = format!("shares for guest {guest}: {problem}");
                changes.problems.push(problem);
            }
            let one = One {
                door,
                catalogue,
                devices: configured.devices,
            };
            self.ones.insert(guest.clone(), one);
        }
    }

    /// The guest's shares; one that nothing has changed of is the same as before.
    fn offers(
        &mut self,
        config: &Config,
        guest: &GuestName,
        untouched: &[ShareName],
        catalogue: &Catalogue,
    ) -> BTreeMap<ShareName, Arc<Offer>> {
        let old = catalogue.state();
        let mut offers = BTreeMap::new();
        for share in config.shares_of(guest) {
            let name = &share.name;
            let Some(Ok(tree)) = self.shares.get(name).map(|running| &running.tree) else {
                continue;
            };
            let known = old.offers.get(name).filter(|_| untouched.contains(name));
            let offer = match known {
                Some(known) => Arc::clone(known),
                None => {
                    let key = (guest.clone(), name.clone());
                    let counters = Arc::clone(self.counters.entry(key).or_default());
                    let (tree, cache) = (tree.clone(), cache(share.cache));
                    let make: MakePart = Box::new(move |mounted, keeping| {
                        tree.part((cache, Arc::clone(&counters)), mounted, keeping)
                    });
                    // A share's name has letters, digits and hyphens only.
                    let text = CString::new(name.as_str()).unwrap_or_default();
                    Arc::new(Offer { name: text, make })
                }
            };
            offers.insert(name.clone(), offer);
        }
        offers
    }

    fn open_one(&self, guest: &GuestName, catalogue: &Arc<Catalogue>) -> Result<Door, String> {
        let (source, told) = (Arc::clone(catalogue), Arc::clone(catalogue));
        let make_session: MakeSession = Box::new(move |place| source.session(place));
        let path = self.paths.guest_shares_socket(guest);
        let notice = notice(self.events.clone(), guest.clone(), move || told.names());
        self.open_door(guest, &path, make_session, notice)
    }

    /// Shares that came to a guest that runs, and went from it.
    fn tell(&self, guest: &GuestName, (came, went): (Vec<ShareName>, Vec<ShareName>)) {
        for share in went {
            let (guest, reason) = (guest.clone(), "the share is not what it was".to_owned());
            self.events.publish(EventBody::ShareDisconnected {
                guest,
                share,
                reason,
            });
        }
        for share in came {
            let guest = guest.clone();
            self.events
                .publish(EventBody::ShareConnected { guest, share });
        }
    }
}
