//! The mounts on the host that a configuration wants, as they are.
//!
//! A mount is served by `serve/mount.rs` and made by the mounter; here is which of them there are, why one
//! is not, and that one which somebody else unmounted is told and not forced back: the next reload, which
//! `sharectl share mount` brings, mounts it again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use control::api::{Changes, ShareMount};
use control::config::{CachePolicy, Config, HostMount as Wanted, Owner, OwnerStore, Share};
use control::events::{EventBody, EventLog};
use control::names::ShareName;

use crate::fuse::counters::Counters;
use crate::fuse::session::Serve;
use crate::keep;
use crate::keep::mount::{Left, Mount};
use crate::mounter::{Judge, MountAsk, Mounter, Place, table};
use crate::serve::mount::HostMount;
use crate::served::Served;
use crate::shares::{DeviceNumbers, cache, options, same_tree};
use crate::tree::host::crossing::OwnMount;

mod opening;

/// Without one of the folders of mounts that are taken up being opened: whoever waits at those mounts waits for us.
const PATIENCE: Duration = Duration::from_secs(10);

/// All of them.
pub(crate) struct Mounts {
    mounter: Arc<Mounter>,
    events: EventLog,
    /// Those that are there, or were.
    mounted: BTreeMap<ShareName, Mounted>,
    /// Those that could not be made, and why.
    failed: BTreeMap<ShareName, String>,
    /// Kept when a mount goes and comes back, so that counters only grow.
    kept: BTreeMap<ShareName, Kept>,
    /// Whether what daemons before this one left has been looked for.
    looked: bool,
}

#[derive(Default)]
struct Kept {
    counters: Arc<Counters>,
    /// How often it was mounted.
    times: u64,
}

struct Mounted {
    /// What it was made from.
    share: Share,
    place: Place,
    served: HostMount,
    /// No tree steps onto it. Dropped after it is no longer served.
    _own: OwnMount,
}

impl Mounts {
    pub(crate) fn new(mounter: Arc<Mounter>, events: EventLog) -> Self {
        Self {
            mounter,
            events,
            mounted: BTreeMap::new(),
            failed: BTreeMap::new(),
            kept: BTreeMap::new(),
            looked: false,
        }
    }

    /// Goes on with the mounts of the process before this one, as far as they are still wanted so, and cleans up
    /// those of daemons that are dead. First of all, before any other folder is opened: who looks at a mount that
    /// nobody serves waits for it. That may be one of these folders too, where the host has changed its path: then
    /// the mount that it leads into is served first. `open`: the tree of a share.
    pub(crate) fn take_up(
        &mut self,
        config: &Config,
        open: impl Fn(&Share) -> Result<Arc<dyn Served>, String> + Clone + Send + 'static,
    ) {
        if std::mem::replace(&mut self.looked, true) {
            return;
        }
        let left: Vec<(Left, OwnMount)> = Mount::left()
            .into_iter()
            .map(|left| {
                let own = OwnMount::new(left.memory.device());
                (left, own)
            })
            .collect();
        let served = left.iter().map(|(left, _)| left.memory.device()).collect();
        let mut wanted = Vec::new();
        for (left, own) in left {
            let name = left.memory.name();
            let share = config.shares.values().find(|share| {
                share.name.as_str() == name && options_word(share) == left.memory.options()
            });
            match share {
                Some(share) => {
                    let (open, on_the_host) = (open.clone(), on_the_host(share));
                    wanted.push(((share, left, own), move || open(&on_the_host)));
                }
                None => self.end_left(left, "the configuration no longer has it so"),
            }
        }
        let stuck = opening::in_any_order(wanted, PATIENCE, |(share, left, own), tree| {
            let place = place_of(&left);
            if let Err(reason) = tree.and_then(|tree| self.go_on(share, (left, own), &*tree)) {
                self.end(share.name.as_str(), &place, &reason);
            }
        });
        for (share, left, _) in stuck {
            let reason = format!("{} does not answer", share.path.display());
            self.end_left(left, &reason);
        }
        if let Err(refusal) = self.mounter.clean(served) {
            tracing::debug!(%refusal, "dead mounts were not looked for");
        }
    }

    fn end_left(&self, left: Left, reason: &str) {
        let (name, place) = (left.memory.name(), place_of(&left));
        self.end(&name, &place, reason);
        // Last: without its descriptors it is dead, and a mount that is dead where it was is worse than none.
        drop(left);
    }

    /// A mount of the process before this one is not gone on with.
    fn end(&self, share: &str, place: &Place, reason: &str) {
        tracing::warn!(share, reason, "a mount on the host ends");
        if let Err(refusal) = self.mounter.unmount(place) {
            tracing::warn!(share, %refusal, "not unmounted");
        }
    }

    fn go_on(
        &mut self,
        share: &Share,
        (left, own): (Left, OwnMount),
        tree: &dyn Served,
    ) -> Result<(), String> {
        let kept = self.kept.entry(share.name.clone()).or_default();
        kept.times += 1;
        let counters = Arc::clone(&kept.counters);
        let was_begun = left.memory.has_session();
        let at = Some(left.memory.session());
        let session = tree.session(cache(on_the_host(share).cache), counters, at);
        if was_begun && !session.mounted() {
            return Err("what it knew could not be taken up".to_owned());
        }
        let place = place_of(&left);
        let path = place.path.clone();
        let ended = ended(self.events.clone(), share.name.clone(), path.clone());
        let served = HostMount::serve_again(left, session, ended)
            .map_err(|error| format!("cannot be served: {error}"))?;
        self.add(share, (place, path), (served, own));
        Ok(())
    }

    fn add(
        &mut self,
        share: &Share,
        (place, path): (Place, PathBuf),
        (served, own): (HostMount, OwnMount),
    ) {
        let mounted = Mounted {
            share: share.clone(),
            place,
            served,
            _own: own,
        };
        self.mounted.insert(share.name.clone(), mounted);
        let share = share.name.clone();
        self.events.publish(EventBody::ShareMounted { share, path });
    }

    /// Unmounts what is no longer wanted, or not so. Before all else of a reload: a folder that is shared
    /// from now on may lie where a mount was.
    pub(crate) fn close_unwanted(&mut self, config: &Config, changes: &mut Changes) {
        self.failed.clear();
        let stays = |name: &ShareName, old: &Mounted| {
            let new = config.shares.get(name);
            new.is_some_and(|new| is_same(&old.share, new)) && is_there(old)
        };
        let gone: Vec<ShareName> = self
            .mounted
            .iter()
            .filter(|(name, old)| !stays(name, old))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some(old) = self.mounted.remove(&name) {
                let path = old.share.mount.as_ref().map(|mount| mount.path.clone());
                self.unmount(&name, old);
                changes.changes.push(format!(
                    "share {name}: unmounted from {}",
                    path.unwrap_or_default().display()
                ));
            }
        }
    }

    /// Whether this share is to be mounted and is not.
    pub(crate) fn is_due(&self, share: &Share) -> bool {
        share.mount.is_some() && !self.mounted.contains_key(&share.name)
    }

    /// Mounts a share that is due; `folders` are those of all shares.
    pub(crate) fn mount(
        &mut self,
        share: &Share,
        folders: &[PathBuf],
        session: impl FnOnce(Arc<Counters>, Option<keep::Place>) -> Arc<dyn Serve>,
    ) -> Result<PathBuf, String> {
        let Some(wanted) = &share.mount else {
            return Err("it is to be mounted nowhere".to_owned());
        };
        let ask = MountAsk {
            source: share.name.to_string(),
            again: format!("sharectl share mount {}", share.name),
            path: wanted.path.clone(),
            users: wanted.users,
            read_only: share.read_only,
            judge: Judge::Kernel,
            folders: folders.to_vec(),
        };
        let (place, device) = self
            .mounter
            .mount(ask)
            .map_err(|refusal| refusal.to_string())?;
        let own = OwnMount::new(place.device);
        let kept = self.kept.entry(share.name.clone()).or_default();
        kept.times += 1;
        let counters = Arc::clone(&kept.counters);
        let ended = ended(self.events.clone(), share.name.clone(), wanted.path.clone());
        let at = (place.path.as_path(), place.device);
        let served = Mount::create(share.name.as_str(), at, options_word(share))
            .map_err(Into::into)
            .and_then(|(memory, listed)| {
                let place = listed.is_some().then(|| memory.session());
                let session = session(counters, place);
                HostMount::serve(device, (memory, listed), session, ended)
            });
        match served {
            Ok(served) => {
                let path = wanted.path.clone();
                self.add(share, (place, path.clone()), (served, own));
                Ok(path)
            }
            Err(error) => {
                self.mounter.unmount(&place).ok();
                Err(format!("cannot be served: {error}"))
            }
        }
    }

    /// A share that was due could not be mounted.
    pub(crate) fn failed(&mut self, share: &Share, problem: String) {
        tracing::warn!(share = %share.name, problem, "not mounted on the host");
        self.failed.insert(share.name.clone(), problem);
    }

    fn unmount(&self, name: &ShareName, old: Mounted) {
        let was_over = old.served.is_over();
        old.served.expect_end();
        if let Err(refusal) = self.mounter.unmount(&old.place) {
            tracing::warn!(share = %name, %refusal, "not unmounted");
        }
        let path = old.share.mount.as_ref().map(|mount| mount.path.clone());
        drop(old);
        if !was_over {
            self.events.publish(EventBody::ShareUnmounted {
                share: name.clone(),
                path: path.unwrap_or_default(),
                reason: "the configuration no longer has it so, or sharefs stops".to_owned(),
            });
        }
    }

    /// Unmounts all.
    pub(crate) fn close(&mut self) {
        for (name, old) in std::mem::take(&mut self.mounted) {
            self.unmount(&name, old);
        }
    }

    /// What is wrong now, a sentence each.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        let failed = self
            .failed
            .iter()
            .map(|(name, problem)| format!("share {name} is not mounted on the host: {problem}"));
        let gone = self.mounted.iter().filter_map(|(name, mounted)| {
            let problem = gone(name, mounted)?;
            Some(format!(
                "share {name} is not mounted on the host: {problem}"
            ))
        });
        failed.chain(gone)
    }

    pub(crate) fn status(&self, name: &ShareName, wanted: Wanted) -> ShareMount {
        let mounted = self.mounted.get(name);
        let problem = match mounted {
            Some(mounted) => gone(name, mounted),
            None => self.failed.get(name).cloned(),
        };
        let kept = self.kept.get(name);
        ShareMount {
            path: wanted.path,
            users: wanted.users,
            mounted: mounted.is_some() && problem.is_none(),
            problem,
            requests: kept.map_or(0, |kept| {
                kept.counters.requests().map(|(_, count)| count).sum()
            }),
        }
    }

    /// Of a share that was mounted once.
    pub(crate) fn counters(&self, name: &ShareName) -> Option<&Counters> {
        self.kept.get(name).map(|kept| &*kept.counters)
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = DeviceNumbers<'_>> {
        self.mounted.iter().filter_map(|(share, mounted)| {
            let session = mounted.served.session();
            let kept = self.kept.get(share)?;
            let (nodes, handles) = session.size();
            Some(DeviceNumbers {
                guest: "@host",
                share: share.as_str(),
                counters: &kept.counters,
                connections: kept.times,
                mounted: session.mounted() && !mounted.served.is_over(),
                nodes,
                handles,
            })
        })
    }
}

fn place_of(left: &Left) -> Place {
    Place {
        path: left.memory.path(),
        device: left.memory.device(),
    }
}

/// Whether who uses the one mount could go on with the other.
fn is_same(old: &Share, new: &Share) -> bool {
    old.mount == new.mount && same_tree(&on_the_host(old), &on_the_host(new))
}

/// All that a mount depends on, in one word.
fn options_word(share: &Share) -> u64 {
    keep::word_of(&format!(
        "{:?} {:?}",
        share.mount,
        options(&on_the_host(share))
    ))
}

/// The share as its mount shows it: owners are the host's own, and nothing of what was seen is kept for ever,
/// since the host's programs change the folder itself too.
pub(crate) fn on_the_host(share: &Share) -> Share {
    Share {
        owner: Owner::Pass,
        owner_store: OwnerStore::None,
        writeback: false,
        cache: match share.cache {
            CachePolicy::Never => CachePolicy::Never,
            CachePolicy::Auto | CachePolicy::Always => CachePolicy::Auto,
        },
        ..share.clone()
    }
}

/// Whether the kernel still lists it, if only below another mount. Programs that have files open keep a mount alive that is
/// nowhere to be seen any more.
fn is_there(mounted: &Mounted) -> bool {
    is_listed(&mounted.place, &mounted.served)
}

pub(crate) fn is_listed(place: &Place, served: &HostMount) -> bool {
    let Place { path, device } = place;
    let listed = |mounts: Vec<table::Mounted>| {
        mounts
            .iter()
            .any(|mount| mount.device == *device && mount.path == *path)
    };
    // A table that cannot be read is no reason to unmount.
    !served.is_over() && table::read().map_or(true, listed)
}

fn gone(name: &ShareName, mounted: &Mounted) -> Option<String> {
    (!is_there(mounted)).then(|| {
        format!(
            "somebody unmounted {0}: sharectl share mount {name} {0}",
            mounted.place.path.display()
        )
    })
}

/// Tells the log and the event stream that the kernel has ended a mount.
fn ended(events: EventLog, share: ShareName, path: PathBuf) -> crate::serve::mount::Ended {
    Box::new(move |reason| {
        tracing::warn!(%share, path = %path.display(), reason, "the mount on the host is gone");
        events.publish(EventBody::ShareUnmounted {
            share: share.clone(),
            path: path.clone(),
            reason,
        });
    })
}
