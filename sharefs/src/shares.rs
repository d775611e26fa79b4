//! The shares of a configuration as they run: trees, doors, and what a changed configuration changes.
//!
//! Each guest has a door with all its shares behind (`one`), and one more for each share.
//! A share whose folder cannot be opened is a problem of its own; the others serve. What is the same in
//! the old and the new configuration is not touched, so a reload disturbs no guest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use control::api::{Changes, GuestMountStatus, ShareDevice, ShareStatus};
use control::config::{CachePolicy, Config, Devices, Owner, Share};
use control::events::{EventBody, EventLog};
use control::names::{GuestName, ShareName};
use control::paths::{Paths, make_private_folder};
use rustix::io::Errno;

use ninep::{Doors, NinepNumbers};

use crate::fuse::cache::Cache;
use crate::fuse::counters::Counters;
use crate::guest_mounts::GuestMounts;
use crate::mounter::Mounter;
use crate::mounts::{self, Mounts};
use crate::serve::door::{Door, DoorEvent, MakeSession, Notice};
use crate::serve::ninep::Offer;
use crate::served::{self, Served};
use crate::tree::Timestamp;
use crate::tree::host::HostTree;
use crate::tree::host::descriptors::Descriptors;
use crate::tree::owner::{GuestGid, GuestOwner, GuestUid, HostOwner, OwnerMap};

mod one;
mod traffic;

use one::One;

pub(crate) mod ninep;

/// All of them.
pub(crate) struct Shares {
    paths: Paths,
    events: EventLog,
    descriptors: Arc<Descriptors>,
    shares: BTreeMap<ShareName, Running>,
    devices: BTreeMap<(GuestName, ShareName), Device>,
    /// The devices that carry all of a guest's shares.
    ones: BTreeMap<GuestName, One>,
    /// Kept when a device goes and comes back, so that counters only grow.
    counters: BTreeMap<(GuestName, ShareName), Arc<Counters>>,
    mounts: Mounts,
    guest_mounts: GuestMounts,
    ninep: Doors,
}

/// A share with its tree, or the reason why it has none.
struct Running {
    share: Share,
    tree: Result<Arc<dyn Served>, String>,
    /// The tree as 9P clients attach it; another one when the tree is.
    offer: Option<Arc<Offer>>,
}

struct Device {
    door: Result<Door, String>,
    counters: Arc<Counters>,
}

/// One device's numbers, for /metrics.
pub(crate) struct DeviceNumbers<'a> {
    /// `@host` for the host's own mount.
    pub(crate) guest: &'a str,
    /// Empty for the device of all shares.
    pub(crate) share: &'a str,
    pub(crate) counters: &'a Counters,
    pub(crate) connections: u64,
    pub(crate) mounted: bool,
    pub(crate) nodes: usize,
    pub(crate) handles: usize,
}

impl Shares {
    pub(crate) fn new(
        paths: Paths,
        events: EventLog,
        descriptors: Arc<Descriptors>,
        mounter: Mounter,
    ) -> Self {
        let mounter = Arc::new(mounter);
        Self {
            mounts: Mounts::new(Arc::clone(&mounter), events.clone()),
            guest_mounts: GuestMounts::new(mounter, events.clone(), paths.clone()),
            paths,
            events,
            descriptors,
            shares: BTreeMap::new(),
            devices: BTreeMap::new(),
            ones: BTreeMap::new(),
            counters: BTreeMap::new(),
            ninep: Doors::default(),
        }
    }

    pub(crate) fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// Makes what runs what the configuration wants.
    pub(crate) fn apply(&mut self, config: &Config, now: Timestamp) -> Changes {
        let mut changes = Changes::default();
        self.take_up_mounts(config);
        self.mounts.close_unwanted(config, &mut changes);
        self.guest_mounts.close_unwanted(config, &mut changes);
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
                    let tree = open_tree(share, Arc::clone(&self.descriptors));
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
        self.apply_ones(config, &untouched, now, &mut changes);
        self.apply_mounts(config, &mut changes);
        self.ninep
            .apply(config, &self.shares, &self.paths, &mut changes);
        self.guest_mounts.apply(config, &mut changes);
        changes
    }

    fn take_up_mounts(&mut self, config: &Config) {
        let descriptors = Arc::clone(&self.descriptors);
        let open = move |share: &Share| open_tree(share, Arc::clone(&descriptors));
        self.mounts.take_up(config, open);
    }

    /// Mounts on the host have trees of their own: owners are the host's.
    fn apply_mounts(&mut self, config: &Config, changes: &mut Changes) {
        let folders: Vec<PathBuf> = config
            .shares
            .values()
            .map(|share| share.path.clone())
            .collect();
        for (name, running) in &self.shares {
            if running.tree.is_err() || !self.mounts.is_due(&running.share) {
                continue;
            }
            let share = mounts::on_the_host(&running.share);
            let cache = cache(share.cache);
            let session = open_tree(&share, Arc::clone(&self.descriptors))
                .map(|tree| move |counters, place| tree.session(cache, counters, place));
            let mounted =
                session.and_then(|session| self.mounts.mount(&running.share, &folders, session));
            match mounted {
                Ok(path) => changes
                    .changes
                    .push(format!("share {name}: mounted at {}", path.display())),
                Err(problem) => {
                    self.mounts.failed(&running.share, problem);
                }
            }
        }
        changes.problems.extend(self.mounts.problems());
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
            let options = (cache, Arc::clone(&counters));
            let door = self.open_share_door(guest, share, Arc::clone(tree), options);
            if let Err(problem) = &door {
                changes
                    .problems
                    .push(format!("share {share} for guest {guest}: {problem}"));
            }
            self.devices.insert(key, Device { door, counters });
        }
    }

    fn open_share_door(
        &self,
        guest: &GuestName,
        share: &ShareName,
        tree: Arc<dyn Served>,
        (cache, counters): (Cache, Arc<Counters>),
    ) -> Result<Door, String> {
        let make_session: MakeSession =
            Box::new(move |place| tree.session(cache, Arc::clone(&counters), place));
        let path = self.paths.guest_share_socket(guest, share);
        let shares = [share.clone()];
        let notice = notice(self.events.clone(), guest.clone(), move || shares.to_vec());
        self.open_door(guest, &path, make_session, notice)
    }

    fn open_door(
        &self,
        guest: &GuestName,
        path: &Path,
        make_session: MakeSession,
        notice: Notice,
    ) -> Result<Door, String> {
        let folder = self.paths.guest(guest);
        make_private_folder(&self.paths.runtime.join("guest"))
            .and_then(|()| make_private_folder(&folder))
            .map_err(|error| format!("cannot use {}: {error}", folder.display()))?;
        Door::open(path, make_session, notice).map_err(|error| error.to_string())
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
        let of_ones = self.ones.iter().filter_map(|(guest, one)| {
            let problem = one.problem()?;
            Some(format!("shares for guest {guest}: {problem}"))
        });
        of_shares
            .chain(of_devices)
            .chain(of_ones)
            .chain(self.mounts.problems())
            .chain(self.guest_mounts.problems())
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
                mount,
                ninep,
                ..
            } = running.share.clone();
            let mount = mount.map(|mount| self.mounts.status(&name, mount));
            let devices = self.devices.iter().filter(|((_, share), _)| *share == name);
            let devices = devices
                .flat_map(|((guest, share), device)| self.device_status((guest, share), device))
                .collect();
            ShareStatus {
                traffic: self.traffic(&name),
                name,
                path,
                at,
                read_only,
                cache,
                ninep,
                ninep_guests: running
                    .offer
                    .as_ref()
                    .map(|offer| self.ninep.attached(offer))
                    .unwrap_or_default(),
                problem: trouble(running),
                devices,
                mount,
            }
        };
        self.shares.values().map(status).collect()
    }

    /// The devices of one share in one guest: those that a VMM uses, else the one that it should.
    fn device_status(
        &self,
        (guest, share): (&GuestName, &ShareName),
        device: &Device,
    ) -> Vec<ShareDevice> {
        let one = self.ones.get(guest);
        let alone = device.door.as_ref().ok();
        let mut each = device_status(guest, alone, &device.counters);
        each.mounted = alone
            .and_then(Door::session)
            .is_some_and(|session| session.mounted());
        let Some(one) = one else {
            return vec![each];
        };
        let mut all = device_status(guest, one.door(), &device.counters);
        all.mounted = one.part(share).is_some();
        match (each.connected, all.connected, one.devices()) {
            (true, true, _) => vec![all, each],
            (false, true, _) | (false, false, Devices::One) => vec![all],
            (true, false, _) | (false, false, Devices::Each) => vec![each],
        }
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = DeviceNumbers<'_>> {
        let shares = self.devices.iter().map(|((guest, share), device)| {
            let door = device.door.as_ref().ok();
            let alone = door.and_then(Door::session);
            let part = self.ones.get(guest).and_then(|one| one.part(share));
            let sizes = [
                alone.as_ref().map(|session| session.size()),
                part.as_ref().map(|part| part.size()),
            ];
            let (nodes, handles) = sizes
                .into_iter()
                .flatten()
                .fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1));
            DeviceNumbers {
                guest: guest.as_str(),
                share: share.as_str(),
                counters: &device.counters,
                connections: door.map_or(0, Door::connections),
                mounted: alone.is_some_and(|session| session.mounted()) || part.is_some(),
                nodes,
                handles,
            }
        });
        let ones = self.ones.iter().map(|(guest, one)| DeviceNumbers {
            guest: guest.as_str(),
            share: "",
            counters: one.counters(),
            connections: one.door().map_or(0, Door::connections),
            mounted: one
                .door()
                .and_then(Door::session)
                .is_some_and(|session| session.mounted()),
            // Its shares have them.
            nodes: 0,
            handles: 0,
        });
        shares.chain(ones).chain(self.mounts.numbers())
    }

    pub(crate) fn guest_mounts(&self) -> Vec<GuestMountStatus> {
        self.guest_mounts.status()
    }

    pub(crate) fn guest_mount_numbers(&self) -> Vec<(String, String, u64, u64)> {
        self.guest_mounts.numbers()
    }

    pub(crate) fn ninep_numbers(&self) -> impl Iterator<Item = NinepNumbers<'_>> {
        self.ninep.numbers()
    }

    /// Closes all doors; every VMM that is connected loses its devices, and the host its mounts.
    pub(crate) fn close(&mut self) {
        self.ninep.close();
        self.devices.clear();
        self.ones.clear();
        self.guest_mounts.close();
        self.mounts.close();
    }
}

fn open_tree(share: &Share, descriptors: Arc<Descriptors>) -> Result<Arc<dyn Served>, String> {
    let owners = |host| owner_map(share.owner, host);
    let tree = HostTree::open(&share.path, descriptors, owners).map_err(|error| {
        let path = share.path.display();
        match error {
            Errno::NOENT => format!("there is no folder {path}"),
            Errno::NOTDIR => format!("{path} is not a folder"),
            Errno::ACCESS => format!("the daemon's user may not enter {path}"),
            Errno::LOOP => {
                format!("{path} is in a mount of sharefs itself: share the folder it shows")
            }
            error => format!("cannot open {path}: {error}"),
        }
    })?;
    let tree = match &share.within {
        None => tree,
        Some(outer) => tree.within(outer).map_err(|error| {
            let (path, outer) = (share.path.display(), outer.display());
            match error {
                Errno::XDEV | Errno::LOOP => {
                    format!("a symbolic link leads from {path} out of the project's folder {outer}")
                }
                error => format!("cannot open {path} from {outer}: {error}"),
            }
        })?,
    };
    served::serve(tree, share)
}

/// Whether a guest that uses the one could go on with the other.
pub(crate) fn same_tree(old: &Share, new: &Share) -> bool {
    options(old) == options(new)
}

/// What a share's tree depends on: where it is mounted, who sees it and its line in the file do not matter.
pub(crate) fn options(share: &Share) -> impl PartialEq + std::fmt::Debug + use<> {
    let Share {
        path,
        read_only,
        exclude,
        read_only_paths,
        names,
        case,
        owner,
        owner_store,
        acl,
        writeback,
        cache,
        name: _,
        at: _,
        guests: _,
        mount: _,
        ninep: _,
        within,
        line: _,
    } = share.clone();
    let patterns = (exclude, read_only_paths);
    (
        (path, within),
        read_only,
        patterns,
        names,
        case,
        owner,
        (owner_store, acl),
        (cache, writeback),
    )
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

fn device_status(guest: &GuestName, door: Option<&Door>, counters: &Counters) -> ShareDevice {
    ShareDevice {
        guest: guest.clone(),
        socket: door.map(|door| door.path().to_owned()).unwrap_or_default(),
        connected: door.is_some_and(|door| door.session().is_some()),
        mounted: false,
        requests: counters.requests().map(|(_, count)| count).sum(),
        malformed: counters.malformed.get(),
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

pub(crate) fn cache(policy: CachePolicy) -> Cache {
    match policy {
        CachePolicy::Never => Cache::Never,
        CachePolicy::Auto => Cache::Auto,
        CachePolicy::Always => Cache::Always,
    }
}

/// Tells the log and the event stream of what happens at a door; `shares`: those behind it now.
fn notice(
    events: EventLog,
    guest: GuestName,
    shares: impl Fn() -> Vec<ShareName> + Send + 'static,
) -> Notice {
    Box::new(move |event| match event {
        DoorEvent::Connected => {
            for share in shares() {
                let guest = guest.clone();
                tracing::info!(%guest, %share, "VMM connected");
                events.publish(EventBody::ShareConnected { guest, share });
            }
        }
        DoorEvent::Disconnected(reason) => {
            let reason = reason.unwrap_or_else(|| "the VMM closed the connection".to_owned());
            for share in shares() {
                let (guest, reason) = (guest.clone(), reason.clone());
                tracing::info!(%guest, %share, reason, "VMM disconnected");
                events.publish(EventBody::ShareDisconnected {
                    guest,
                    share,
                    reason,
                });
            }
        }
        DoorEvent::Refused(reason) => {
            tracing::warn!(%guest, reason, "VMM could not be served");
        }
    })
}
