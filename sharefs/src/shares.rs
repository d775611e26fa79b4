//! The shares of a configuration as they run: trees, doors, and what a changed configuration changes.
//!
//! A share whose folder cannot be opened is a problem of its own; the others serve. What is the same in
//! the old and the new configuration is not touched, so a reload disturbs no guest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use control::api::{Changes, ShareDevice, ShareStatus};
use control::config::{CachePolicy, Config, Owner, Share};
use control::events::{EventBody, EventLog};
use control::names::{GuestName, ShareName};
use control::paths::{Paths, make_private_folder};
use rustix::io::Errno;

use ninep::{Doors, NinepNumbers};

use crate::fuse::cache::Cache;
use crate::fuse::counters::Counters;
use crate::fuse::session::{Serve, Session};
use crate::serve::door::{Door, DoorEvent, MakeSession, Notice};
use crate::serve::ninep::Offer;
use crate::tree::host::HostTree;
use crate::tree::host::descriptors::Descriptors;
use crate::tree::owner::{GuestGid, GuestOwner, GuestUid, HostOwner, OwnerMap};
use crate::tree::read_only::ReadOnly;

pub(crate) mod ninep;

/// All of them.
pub(crate) struct Shares {
    paths: Paths,
    events: EventLog,
    descriptors: Arc<Descriptors>,
    shares: BTreeMap<ShareName, Running>,
    devices: BTreeMap<(GuestName, ShareName), Device>,
    /// Kept when a device goes and comes back, so that counters only grow.
    counters: BTreeMap<(GuestName, ShareName), Arc<Counters>>,
    ninep: Doors,
}

/// A share with its tree, or the reason why it has none.
struct Running {
    share: Share,
    tree: Result<Served, String>,
    /// The tree as 9P clients attach it; another one when the tree is.
    offer: Option<Arc<Offer>>,
}

/// A tree as its share's options have it.
#[derive(Clone)]
enum Served {
    Writable(Arc<HostTree>),
    ReadOnly(Arc<ReadOnly<HostTree>>),
}

struct Device {
    door: Result<Door, String>,
    counters: Arc<Counters>,
}

/// One device's numbers, for /metrics.
pub(crate) struct DeviceNumbers<'a> {
    pub(crate) guest: &'a GuestName,
    pub(crate) share: &'a ShareName,
    pub(crate) counters: &'a Counters,
    pub(crate) connections: u64,
    pub(crate) mounted: bool,
    pub(crate) nodes: usize,
    pub(crate) handles: usize,
}

impl Shares {
    pub(crate) fn new(paths: Paths, events: EventLog, descriptors: Arc<Descriptors>) -> Self {
        Self {
            paths,
            events,
            descriptors,
            shares: BTreeMap::new(),
            devices: BTreeMap::new(),
            counters: BTreeMap::new(),
            ninep: Doors::default(),
        }
    }

    pub(crate) fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// Makes what runs what the configuration wants.
    pub(crate) fn apply(&mut self, config: &Config) -> Changes {
        let mut changes = Changes::default();
        let mut untouched = Vec::new();
        let mut shares = BTreeMap::new();
        for (name, share) in &config.shares {
            let old = self.shares.remove(name);
            let running = match old {
                Some(old) if same_tree(&old.share, share) && old.tree.is_ok() => {
                    untouched.push(name.clone());
                    Running {
                        share: share.clone(),
                        tree: old.tree,
                        offer: old.offer,
                    }
                }
                old => {
                    let how = if old.is_some() {
                        "opened again"
                    } else {
                        "opened"
                    };
                    let tree = self.open_tree(share);
                    match &tree {
                        Ok(_) => changes
                            .changes
                            .push(format!("share {name}: {how} {}", share.path.display())),
                        Err(problem) => self.share_failed(name, problem),
                    }
                    Running {
                        share: share.clone(),
                        offer: tree.as_ref().ok().map(ninep::offer),
                        tree,
                    }
                }
            };
            changes.problems.extend(problem_of(&running));
            shares.insert(name.clone(), running);
        }
        for name in std::mem::take(&mut self.shares).into_keys() {
            changes.changes.push(format!("share {name}: closed"));
        }
        self.shares = shares;
        self.apply_devices(config, &untouched, &mut changes);
        self.ninep
            .apply(config, &self.shares, &self.paths, &mut changes);
        changes
    }

    fn apply_devices(&mut self, config: &Config, untouched: &[ShareName], changes: &mut Changes) {
        let mut old = std::mem::take(&mut self.devices);
        let wanted: Vec<(GuestName, ShareName)> = config
            .guests
            .keys()
            .flat_map(|guest| {
                config
                    .shares_of(guest)
                    .map(|share| (guest.clone(), share.name.clone()))
            })
            .collect();
        // Doors that close go first: the new one may have the same path.
        old.retain(|key, device| {
            wanted.contains(key) && untouched.contains(&key.1) && device.door.is_ok()
        });
        for key in wanted {
            if let Some(device) = old.remove(&key) {
                self.devices.insert(key, device);
                continue;
            }
            let (guest, share) = &key;
            let Some(Ok(tree)) = self.shares.get(share).map(|running| &running.tree) else {
                continue;
            };
            let counters = Arc::clone(self.counters.entry(key.clone()).or_default());
            let cache = cache(
                config
                    .shares
                    .get(share)
                    .map_or(CachePolicy::Auto, |share| share.cache),
            );
            let door = self.open_door(guest, share, tree.clone(), (cache, Arc::clone(&counters)));
            if let Err(problem) = &door {
                changes
                    .problems
                    .push(format!("share {share} for guest {guest}: {problem}"));
            }
            self.devices.insert(key, Device { door, counters });
        }
    }

    fn open_tree(&self, share: &Share) -> Result<Served, String> {
        let descriptors = Arc::clone(&self.descriptors);
        let owners = |host| owner_map(share.owner, host);
        let tree = HostTree::open(&share.path, descriptors, owners).map_err(|error| {
            let path = share.path.display();
            match error {
                Errno::NOENT => format!("there is no folder {path}"),
                Errno::NOTDIR => format!("{path} is not a folder"),
                Errno::ACCESS => format!("the daemon's user may not enter {path}"),
                error => format!("cannot open {path}: {error}"),
            }
        })?;
        Ok(if share.read_only {
            Served::ReadOnly(Arc::new(ReadOnly(tree)))
        } else {
            Served::Writable(Arc::new(tree))
        })
    }

    fn open_door(
        &self,
        guest: &GuestName,
        share: &ShareName,
        tree: Served,
        (cache, counters): (Cache, Arc<Counters>),
    ) -> Result<Door, String> {
        let folder = self.paths.guest(guest);
        make_private_folder(&self.paths.runtime.join("guest"))
            .and_then(|()| make_private_folder(&folder))
            .map_err(|error| format!("cannot use {}: {error}", folder.display()))?;
        let make_session: MakeSession =
            Box::new(move || tree.session(cache, Arc::clone(&counters)));
        let path = self.paths.guest_share_socket(guest, share);
        let notice = notice(self.events.clone(), guest.clone(), share.clone());
        Door::open(&path, make_session, notice).map_err(|error| error.to_string())
    }

    fn share_failed(&self, share: &ShareName, problem: &str) {
        tracing::warn!(%share, problem, "share cannot be served");
        let message = problem.to_owned();
        self.events.publish(EventBody::ShareFailed {
            share: share.clone(),
            message,
        });
    }

    /// What is wrong now, a sentence each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let of_shares = self.shares.values().filter_map(problem_of);
        let of_devices = self.devices.iter().filter_map(|((guest, share), device)| {
            let problem = device.door.as_ref().err()?;
            Some(format!("share {share} for guest {guest}: {problem}"))
        });
        of_shares
            .chain(of_devices)
            .chain(self.ninep.problems())
            .collect()
    }

    pub(crate) fn status(&self) -> Vec<ShareStatus> {
        let status = |running: &Running| {
            let Share {
                name,
                path,
                at,
                read_only,
                cache,
                ninep,
                ..
            } = running.share.clone();
            let devices = self.devices.iter().filter(|((_, share), _)| *share == name);
            let devices = devices
                .map(|((guest, _), device)| device_status(guest, device))
                .collect();
            ShareStatus {
                name,
                path,
                at,
                read_only,
                cache,
                ninep,
                problem: trouble(running),
                devices,
            }
        };
        self.shares.values().map(status).collect()
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = DeviceNumbers<'_>> {
        self.devices.iter().map(|((guest, share), device)| {
            let door = device.door.as_ref().ok();
            let session = door.and_then(Door::session);
            let (nodes, handles) = session.as_ref().map_or((0, 0), |session| session.size());
            DeviceNumbers {
                guest,
                share,
                counters: &device.counters,
                connections: door.map_or(0, Door::connections),
                mounted: session.is_some_and(|session| session.mounted()),
                nodes,
                handles,
            }
        })
    }

    pub(crate) fn ninep_numbers(&self) -> impl Iterator<Item = NinepNumbers<'_>> {
        self.ninep.numbers()
    }

    /// Closes all doors; every VMM that is connected loses its devices.
    pub(crate) fn close(&mut self) {
        self.ninep.close();
        self.devices.clear();
    }
}

impl Served {
    fn session(&self, cache: Cache, counters: Arc<Counters>) -> Arc<dyn Serve> {
        match self {
            Self::Writable(tree) => Arc::new(Session::new(Arc::clone(tree), cache, counters)),
            Self::ReadOnly(tree) => Arc::new(Session::new(Arc::clone(tree), cache, counters)),
        }
    }
}

/// Whether a guest that uses the one could go on with the other.
fn same_tree(old: &Share, new: &Share) -> bool {
    let options = |share: &Share| (share.read_only, share.owner, share.cache);
    old.path == new.path && options(old) == options(new)
}

fn problem_of(running: &Running) -> Option<String> {
    trouble(running).map(|problem| format!("share {}: {problem}", running.share.name))
}

/// Why the share cannot be served, or not as it says.
fn trouble(running: &Running) -> Option<String> {
    if let Err(problem) = &running.tree {
        return Some(problem.clone());
    }
    let path: &PathBuf = &running.share.path;
    if !path.is_dir() {
        return Some(format!("the folder {} is gone", path.display()));
    }
    (running.share.owner == Owner::Pass && !rustix::process::geteuid().is_root()).then(|| {
        "owner = \"pass\" needs root (CAP_CHOWN, CAP_SETUID, CAP_SETGID, CAP_FOWNER, CAP_DAC_OVERRIDE): \
         new files belong to the daemon's user, and the guest cannot give files away"
            .to_owned()
    })
}

fn device_status(guest: &GuestName, device: &Device) -> ShareDevice {
    let door = device.door.as_ref().ok();
    ShareDevice {
        guest: guest.clone(),
        socket: door.map(|door| door.path().to_owned()).unwrap_or_default(),
        connected: door.is_some_and(|door| door.session().is_some()),
        requests: device.counters.requests().map(|(_, count)| count).sum(),
        malformed: device.counters.malformed.get(),
    }
}

fn owner_map(owner: Owner, host: HostOwner) -> OwnerMap {
    let guest = |uid, gid| GuestOwner {
        uid: GuestUid(uid),
        gid: GuestGid(gid),
    };
    match owner {
        Owner::Map { uid, gid } => OwnerMap::Map {
            host,
            guest: guest(uid, gid),
        },
        Owner::Squash { uid, gid } => OwnerMap::Squash {
            host,
            guest: guest(uid, gid),
        },
        Owner::Pass => OwnerMap::Pass,
    }
}

fn cache(policy: CachePolicy) -> Cache {
    match policy {
        CachePolicy::Never => Cache::Never,
        CachePolicy::Auto => Cache::Auto,
        CachePolicy::Always => Cache::Always,
    }
}

/// Tells the log and the event stream of what happens at a door.
fn notice(events: EventLog, guest: GuestName, share: ShareName) -> Notice {
    Box::new(move |event| {
        let (guest, share) = (guest.clone(), share.clone());
        match event {
            DoorEvent::Connected => {
                tracing::info!(%guest, %share, "VMM connected");
                events.publish(EventBody::ShareConnected { guest, share });
            }
            DoorEvent::Disconnected(reason) => {
                let reason = reason.unwrap_or_else(|| "the VMM closed the connection".to_owned());
                tracing::info!(%guest, %share, reason, "VMM disconnected");
                events.publish(EventBody::ShareDisconnected {
                    guest,
                    share,
                    reason,
                });
            }
            DoorEvent::Refused(reason) => {
                tracing::warn!(%guest, %share, reason, "VMM could not be served");
            }
        }
    })
}
