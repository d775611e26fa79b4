//! Shares: which folder, where in the guest, for whom, with whose owners.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::problem::Findings;
use super::super::raw::{At, RawConfig, RawShare};
use super::super::{
    CachePolicy, CaseRule, Devices, Guest, NameRule, Owner, OwnerStore, Share, Surroundings,
};
use super::paths::{plain, read_folder};
use super::projects::RawAccepted;
use super::{mounts, read, read_word};
use crate::names::{GuestName, ShareName};
use crate::pattern::{MOST_STEPS, PathPattern};

pub(super) fn shares(
    raw: &RawConfig,
    guests: &BTreeMap<GuestName, Guest>,
    (projects, surroundings): (&[RawAccepted], &Surroundings),
    findings: &mut Findings<'_>,
) -> BTreeMap<ShareName, Share> {
    let mut shares: BTreeMap<ShareName, Share> = BTreeMap::new();
    for (key, raw) in &raw.share {
        let Some(name) = read::<ShareName>(findings, "share", "name", key) else {
            continue;
        };
        let owner = format!("share \"{name}\"");
        let Some(path) = read_folder(findings, (&owner, "path"), &raw.path, surroundings) else {
            continue;
        };
        let whose = (owner.as_str(), name);
        let Some(mut share) = read_share(raw, whose, path, surroundings, findings) else {
            continue;
        };
        share.guests = raw.guests.as_ref().map(|list| {
            list.iter()
                .filter_map(|text| known_guest(findings, &owner, text, guests))
                .collect()
        });
        check_devices(findings, &share, raw, guests);
        add(&mut shares, (share, &owner), raw, findings);
    }
    mounts::check(raw, &shares, findings);
    for project in projects {
        for (key, raw) in &project.shares {
            let owner = format!(
                "{}: share \"{}\"",
                project.owner(),
                key.value().escape_debug()
            );
            let Some(name) = read::<ShareName>(findings, &project.owner(), "share", key) else {
                continue;
            };
            if let Some(other) = shares.get(&name) {
                let message = format!(
                    "{owner} shares another folder in the configuration: {}",
                    other.path.display()
                );
                findings.add(
                    Some(key.offset()),
                    message,
                    format!("rename it here, or: sharectl share rm {name}"),
                );
                continue;
            }
            let Some(path) = project.folder_of(&raw.path, &owner, findings) else {
                continue;
            };
            let whose = (owner.as_str(), name);
            let Some(mut share) = read_share(raw, whose, path, surroundings, findings) else {
                continue;
            };
            let guest = guests
                .keys()
                .filter(|guest| guest.as_str() == project.guest.value());
            share.guests = Some(guest.cloned().collect());
            share.within = (!project.outside).then(|| project.folder.clone());
            add(&mut shares, (share, &owner), raw, findings);
        }
    }
    shares
}

/// Everything of a share but who sees it.
fn read_share(
    raw: &RawShare,
    (owner, name): (&str, ShareName),
    path: PathBuf,
    surroundings: &Surroundings,
    findings: &mut Findings<'_>,
) -> Option<Share> {
    let at = match &raw.at {
        Some(at) => read_guest_path(findings, owner, at)?,
        None => path.clone(),
    };
    Some(Share {
        owner: share_owner(findings, owner, raw, surroundings),
        path,
        at,
        read_only: raw.read_only,
        exclude: share_patterns(findings, (owner, "exclude"), &raw.exclude),
        read_only_paths: share_patterns(findings, (owner, "read-only-paths"), &raw.read_only_paths),
        names: choice(
            findings,
            (owner, "names"),
            raw.names.as_ref(),
            &NameRule::WORDS,
        ),
        case: share_case(findings, owner, raw),
        owner_store: share_owner_store(findings, owner, raw),
        acl: share_acl(findings, owner, raw),
        writeback: share_writeback(findings, owner, raw),
        guests: None,
        cache: share_cache(findings, owner, raw),
        mount: mounts::read(findings, owner, raw, surroundings),
        ninep: raw.ninep,
        within: None,
        line: findings.line(raw.path.offset()),
        name,
    })
}

/// No guest has two shares at one place.
fn add(
    shares: &mut BTreeMap<ShareName, Share>,
    (share, owner): (Share, &str),
    raw: &RawShare,
    findings: &mut Findings<'_>,
) {
    let meets = |other: &Share| match (&share.guests, &other.guests) {
        (Some(ours), Some(theirs)) => ours.iter().any(|g| theirs.contains(g)),
        (None, _) | (_, None) => true,
    };
    if let Some(other) = shares.values().find(|o| o.at == share.at && meets(o)) {
        findings.add(
            Some(
                raw.at
                    .as_ref()
                    .map_or_else(|| raw.path.offset(), At::offset),
            ),
            format!(
                "{owner} and share \"{}\" are both mounted at {}",
                other.name,
                share.at.display()
            ),
            "change at = \"...\" of one, or give them different guests",
        );
    }
    shares.insert(share.name.clone(), share);
}

fn known_guest(
    findings: &mut Findings<'_>,
    owner: &str,
    text: &At<String>,
    known: &BTreeMap<GuestName, Guest>,
) -> Option<GuestName> {
    let name: GuestName = read(findings, owner, "guests", text)?;
    if known.contains_key(&name) {
        return Some(name);
    }
    let message = format!("{owner}: guest \"{name}\" is not in this file");
    findings.add(
        Some(text.offset()),
        message,
        format!("sharectl guest add {name}, or remove it here"),
    );
    None
}

fn read_guest_path(findings: &mut Findings<'_>, owner: &str, raw: &At<String>) -> Option<PathBuf> {
    let path = Some(PathBuf::from(raw.value())).filter(|p| p.is_absolute());
    let path = path.and_then(|p| plain(&p)).filter(|p| p != Path::new("/"));
    if path.is_none() {
        let message = format!(
            "{owner}: at \"{}\" is not an absolute path below /",
            raw.value().escape_debug()
        );
        findings.add(Some(raw.offset()), message, "write it like /mnt/d");
    }
    path
}

fn share_owner(
    findings: &mut Findings<'_>,
    owner: &str,
    raw: &RawShare,
    surroundings: &Surroundings,
) -> Owner {
    let numbers = raw.guest_owner.as_ref().and_then(|text| {
        let numbers = text
            .value()
            .split_once(':')
            .and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
        if numbers.is_none() {
            let message = format!(
                "{owner}: guest-owner \"{}\" is not UID:GID",
                text.value().escape_debug()
            );
            findings.add(Some(text.offset()), message, "write it like \"1000:1000\"");
        }
        numbers
    });
    let (uid, gid) = numbers.unwrap_or((surroundings.uid, surroundings.gid));
    let kinds = [
        ("map", Owner::Map { uid, gid }),
        ("pass", Owner::Pass),
        ("squash", Owner::Squash { uid, gid }),
    ];
    let kind = raw
        .owner
        .as_ref()
        .and_then(|o| read_word(findings, (owner, "owner"), o, &kinds));
    if let (Some(Owner::Pass), Some(text)) = (kind, &raw.guest_owner) {
        let message = format!("{owner}: guest-owner has no meaning with owner = \"pass\"");
        findings.add(
            Some(text.offset()),
            message,
            "remove guest-owner, or write owner = \"map\"",
        );
    }
    kind.unwrap_or(Owner::Map { uid, gid })
}

fn share_patterns(
    findings: &mut Findings<'_>,
    (owner, key): (&str, &str),
    texts: &[At<String>],
) -> Vec<PathPattern> {
    let patterns: Vec<PathPattern> = texts
        .iter()
        .filter_map(|text| read(findings, owner, key, text))
        .collect();
    let steps: usize = patterns.iter().map(|pattern| pattern.steps.len()).sum();
    if let (true, Some(first)) = (steps > MOST_STEPS, texts.first()) {
        findings.add(
            Some(first.offset()),
            format!(
                "{owner}: the patterns of {key} have {steps} parts, at most {MOST_STEPS} can be"
            ),
            "a part is what stands between two slashes, and ** before a pattern without one",
        );
    }
    patterns
}

/// One word out of a list whose first is the default.
fn choice<T: Copy>(
    findings: &mut Findings<'_>,
    owner_and_key: (&str, &str),
    raw: Option<&At<String>>,
    words: &[(&str, T); 2],
) -> T {
    raw.and_then(|word| read_word(findings, owner_and_key, word, words))
        .unwrap_or(words[0].1)
}

fn share_case(findings: &mut Findings<'_>, owner: &str, raw: &RawShare) -> CaseRule {
    let case = choice(
        findings,
        (owner, "case"),
        raw.case.as_ref(),
        &CaseRule::WORDS,
    );
    if let (CaseRule::Insensitive, Some(cache)) = (case, &raw.cache)
        && cache.value() == "always"
    {
        // The guest's kernel compares names exactly: FOO would be missing to it for a day because it
        // was asked for before foo was made.
        findings.add(
            Some(cache.offset()),
            format!("{owner}: cache = \"always\" does not go together with case = \"insensitive\""),
            "write cache = \"auto\"",
        );
    }
    case
}

fn share_owner_store(findings: &mut Findings<'_>, owner: &str, raw: &RawShare) -> OwnerStore {
    let store = choice(
        findings,
        (owner, "owner-store"),
        raw.owner_store.as_ref(),
        &OwnerStore::WORDS,
    );
    let passes = raw
        .owner
        .as_ref()
        .is_some_and(|owner| owner.value() == "pass");
    if let (OwnerStore::Xattr, true, Some(text)) = (store, passes, &raw.owner_store) {
        findings.add(
            Some(text.offset()),
            format!("{owner}: owner-store has no meaning with owner = \"pass\": the files have their owners"),
            "remove owner-store, or write owner = \"map\"",
        );
    }
    store
}

fn share_acl(findings: &mut Findings<'_>, owner: &str, raw: &RawShare) -> bool {
    let Some(acl) = raw.acl.as_ref().filter(|acl| *acl.value()) else {
        return false;
    };
    let keeps_owners = raw
        .owner_store
        .as_ref()
        .is_some_and(|store| store.value() == "xattr");
    if keeps_owners {
        findings.add(
            Some(acl.offset()),
            format!("{owner}: acl = true has no meaning with owner-store = \"xattr\": the host would heed lists of owners that it does not have"),
            "remove acl, or owner-store",
        );
    }
    true
}

fn share_writeback(findings: &mut Findings<'_>, owner: &str, raw: &RawShare) -> bool {
    let Some(writeback) = raw.writeback.as_ref().filter(|on| *on.value()) else {
        return false;
    };
    let never = |cache: &At<String>| cache.value() == "never";
    let refusals = [
        (
            raw.cache.as_ref().is_some_and(never),
            "has no meaning with cache = \"never\": nothing is kept that could be written later",
            "write cache = \"auto\", or remove writeback",
        ),
        (
            raw.read_only,
            "has no meaning with read-only = true",
            "remove writeback",
        ),
        (
            raw.ninep,
            "does not go together with ninep = true: 9P has no such agreement, and its clients would miss what \
             a guest has not sent yet",
            "remove ninep, or writeback",
        ),
        (
            raw.mount.is_some(),
            "does not go together with mount: programs of the host would miss there what a guest has not sent yet",
            "remove mount, or writeback",
        ),
    ];
    for (_, why, fix) in refusals.into_iter().filter(|(is_so, ..)| *is_so) {
        let message = format!("{owner}: writeback = true {why}");
        findings.add(Some(writeback.offset()), message, fix);
    }
    true
}

/// What a guest's kernel agrees on for a whole device is a share's own matter only where the device is.
fn check_devices(
    findings: &mut Findings<'_>,
    share: &Share,
    raw: &RawShare,
    guests: &BTreeMap<GuestName, Guest>,
) {
    let sees = |name: &GuestName| share.guests.as_ref().is_none_or(|list| list.contains(name));
    let all_in_one =
        |(name, guest): &(&GuestName, &Guest)| guest.devices == Devices::One && sees(name);
    let Some((guest, _)) = guests.iter().find(all_in_one) else {
        return;
    };
    // Lists are heeded over 9P and on the host's own mount, too.
    let has_lists_elsewhere = share.ninep || share.mount.is_some();
    for (key, flag, is_fine, other_way) in [
        ("acl", &raw.acl, has_lists_elsewhere, "ninep = true here, "),
        ("writeback", &raw.writeback, false, ""),
    ] {
        let Some(flag) = flag.as_ref().filter(|flag| *flag.value() && !is_fine) else {
            continue;
        };
        findings.add(
            Some(flag.offset()),
            format!(
                "share \"{}\": {key} = true needs a virtiofs device of the share's own, and guest \"{guest}\" has one \
                 for all its shares",
                share.name
            ),
            format!("write devices = \"each\" in [guest.{guest}], {other_way}or remove {key}"),
        );
    }
}

fn share_cache(findings: &mut Findings<'_>, owner: &str, raw: &RawShare) -> CachePolicy {
    let kinds = [
        ("never", CachePolicy::Never),
        ("auto", CachePolicy::Auto),
        ("always", CachePolicy::Always),
    ];
    raw.cache
        .as_ref()
        .and_then(|c| read_word(findings, (owner, "cache"), c, &kinds))
        .unwrap_or(CachePolicy::Auto)
}
