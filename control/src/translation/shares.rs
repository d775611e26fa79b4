//! One place as the host names it, and as a guest that has it by a share.
//!
//! A path is tried in each reading that its spelling allows, as written first. Nothing outside of a share has a name in
//! the guest, and nothing that `exclude` hides or another share covers.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::TranslationError;
use super::machine::{Files, Machine};
use super::spelling::{Names, Spelling, customary_drive, hgfs_share};
use crate::config::{CaseRule, Config, NameRule, Share};
use crate::names::{GuestName, ShareName};
use crate::pattern::Letters;
use crate::pattern::progress::{Leads, hides};
use crate::{fold, windows_names};

/// The shares that count: those of one guest, or all.
#[derive(Debug, Clone, Copy)]
pub struct View<'c> {
    config: &'c Config,
    guest: Option<&'c GuestName>,
}

/// The host, and where on it the question is asked.
#[derive(Clone, Copy)]
pub struct Base<'b> {
    /// Its mounts.
    pub machine: &'b Machine,
    /// What its files say.
    pub files: &'b dyn Files,
    /// The current folder, absolute; none: relative paths have no meaning.
    pub folder: Option<&'b Path>,
}

/// A path on the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Absolute.
    pub names: Names,
    /// The share that shows it.
    pub share: ShareName,
    /// The same from the current folder, where that is in a share, too.
    pub relative: Option<Vec<u8>>,
}

/// One reading of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    names: Names,
    /// Names in it are the same in any case.
    folded: bool,
}

/// Whose names a path is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The shared folder.
    Host,
    /// The shared folder, by its place without symbolic links.
    RealHost,
    /// Where guests have it, and the host by a mount.
    Guest,
}

impl<'c> View<'c> {
    /// What `guest` sees; without one, the only guest of the configuration, or all shares.
    #[must_use]
    pub fn new(config: &'c Config, guest: Option<&'c GuestName>) -> Self {
        let mut guests = config.guests.keys();
        let only = guests.next().filter(|_| guests.next().is_none());
        Self {
            config,
            guest: guest.or(only),
        }
    }

    /// Whose view it is.
    #[must_use]
    pub fn guest(&self) -> Option<&'c GuestName> {
        self.guest
    }

    /// The guest's path of a place on the host. A path that is the guest's already stays.
    ///
    /// # Errors
    /// When no share shows it.
    pub fn to_guest(&self, text: &[u8], base: Base<'_>) -> Result<Answer, TranslationError> {
        let spelling = Spelling::read(text)?;
        let Spelling::Relative(below) = &spelling else {
            return self.absolute_to_guest(&spelling, text, base);
        };
        let folder = folder(base, text)?;
        let place = Spelling::Linux(joined(&folder, below));
        let mut answer = self.absolute_to_guest(&place, text, base)?;
        let start = self.absolute_to_guest(&Spelling::Linux(folder), text, base);
        answer.relative = start.ok().map(|start| from_to(&start.names, &answer.names));
        Ok(answer)
    }

    /// The host's path of a place in the guest. A path that is the host's already stays.
    ///
    /// # Errors
    /// When it is in no share.
    pub fn to_host(&self, text: &[u8], base: Base<'_>) -> Result<Answer, TranslationError> {
        let spelling = Spelling::read(text)?;
        let Spelling::Relative(below) = &spelling else {
            return self.absolute_to_host(&spelling, text, base);
        };
        // The guest's current folder is the host's, as the guest has it.
        let folder = folder(base, text)?;
        let start = self.absolute_to_guest(&Spelling::Linux(folder.clone()), text, base)?;
        let place = Spelling::Linux(joined(&start.names, below));
        let mut answer = self.absolute_to_host(&place, text, base)?;
        answer.relative = Some(from_to(&folder, &answer.names));
        Ok(answer)
    }

    fn absolute_to_guest(
        &self,
        spelling: &Spelling,
        text: &[u8],
        base: Base<'_>,
    ) -> Result<Answer, TranslationError> {
        let places = self.places(spelling, text, base)?;
        let mut refusal = None;
        for (place, side) in in_turn(&places, [Side::Host, Side::Guest]) {
            for (share, below) in self.matches(place, side, base) {
                match self.shown(share, below, side, base) {
                    Ok(names) => return Ok(Answer::new(names, share)),
                    Err(error) => drop(refusal.get_or_insert(error)),
                }
            }
        }
        Err(refusal.unwrap_or_else(|| self.not_shared(&places, text, base)))
    }

    fn absolute_to_host(
        &self,
        spelling: &Spelling,
        text: &[u8],
        base: Base<'_>,
    ) -> Result<Answer, TranslationError> {
        let places = self.places(spelling, text, base)?;
        let mut refusal = None;
        for (place, side) in in_turn(&places, [Side::Guest, Side::Host]) {
            for (share, below) in self.matches(place, side, base) {
                let seen = self.shown(share, below.clone(), side, base);
                match seen.and_then(|_| on_host(share, below, side)) {
                    Ok(names) => return Ok(Answer::new(names, share)),
                    Err(error) => drop(refusal.get_or_insert(error)),
                }
            }
        }
        Err(refusal.unwrap_or_else(|| self.not_shared(&places, text, base)))
    }

    /// Every reading of a path, the likeliest first.
    fn places(
        &self,
        spelling: &Spelling,
        text: &[u8],
        base: Base<'_>,
    ) -> Result<Vec<Place>, TranslationError> {
        let mut places = Vec::new();
        let mut add = |names: Names, folded: bool| {
            let place = Place { names, folded };
            if !places.contains(&place) {
                places.push(place);
            }
        };
        let windows = |letter: char, names: &Names, add: &mut dyn FnMut(Names, bool)| {
            let mounted =
                base.machine
                    .to_linux(&Spelling::Drive(letter, names.clone()), text, base.files);
            if let Ok(mounted) = mounted {
                add(mounted, true);
            }
            // Where WSL would have it, and where the configuration's 'D:\' is.
            let usual = Path::new("/mnt").join(letter.to_ascii_lowercase().to_string());
            for root in base
                .machine
                .wsl
                .drive_root(letter)
                .into_iter()
                .chain([usual])
            {
                add(joined(&Names::of_path(&root), names), true);
            }
        };
        match spelling {
            Spelling::Drive(letter, names) => windows(*letter, names, &mut add),
            Spelling::Wsl(..) | Spelling::Unc(..) => {
                let names = base.machine.to_linux(spelling, text, base.files)?;
                let folded = matches!(spelling, Spelling::Unc(..));
                add(names.collapsed(), folded);
            }
            Spelling::Linux(names) | Spelling::Relative(names) => {
                let literal = resolved(names, base.files);
                let path = literal.to_path();
                add(literal, base.machine.ignores_case(&path));
                if let Some(real) = base.files.real(&path).filter(|real| *real != path) {
                    let folded = base.machine.ignores_case(&real);
                    add(
                        Names {
                            slash: names.slash,
                            ..Names::of_path(&real)
                        },
                        folded,
                    );
                }
                let collapsed = names.clone().collapsed();
                if let Some((share, below)) = hgfs_share(&collapsed) {
                    let named =
                        |of: &&Share| fold::name(of.name.as_str().as_bytes()) == fold::name(share);
                    if let Some(share) = self.config.shares.values().find(named) {
                        add(joined(&Names::of_path(&share.path), &below), true);
                    }
                }
                if let Some((letter, names)) = customary_drive(&collapsed) {
                    windows(letter, &names, &mut add);
                }
            }
        }
        Ok(places)
    }

    fn shares(&self) -> impl Iterator<Item = &'c Share> {
        let guest = self.guest;
        self.config.shares.values().filter(move |share| {
            guest.is_none_or(|guest| {
                share
                    .guests
                    .as_ref()
                    .is_none_or(|seen_by| seen_by.contains(guest))
            })
        })
    }

    /// The shares that a place is in, the one nearest to it first, and the names below.
    fn matches(&self, place: &Place, side: Side, base: Base<'_>) -> Vec<(&'c Share, Names)> {
        let mut found: Vec<(usize, &Share)> = Vec::new();
        for share in self.shares() {
            let roots = roots(share, side, base.files);
            let depth = roots
                .iter()
                .filter_map(|root| depth_below(place, root, share))
                .max();
            found.extend(depth.map(|depth| (depth, share)));
        }
        found.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
        let below = |(depth, share)| (share, place.names.below(depth));
        found.into_iter().map(below).collect()
    }

    /// What the guest has for `below`, which is in `share`.
    fn shown(
        &self,
        share: &Share,
        below: Names,
        side: Side,
        base: Base<'_>,
    ) -> Result<Names, TranslationError> {
        let host = on_host(share, below.clone(), side)?;
        visible(share, host.clone(), base)?;
        let mut names = Names::of_path(&share.at);
        names.slash = below.slash;
        for name in below.list {
            let shown = match (share.names, side) {
                (NameRule::Windows, Side::Host | Side::RealHost) => {
                    windows_names::to_guest(&name).map(|name| name.into_owned().into_bytes())
                }
                (NameRule::Plain, _) | (NameRule::Windows, Side::Guest) => Some(name.clone()),
            };
            names
                .list
                .push(shown.ok_or_else(|| nameless(share, &host, &name))?);
        }
        let path = names.to_path();
        let covering = |other: &&Share| {
            path.starts_with(&other.at)
                && other.at.starts_with(&share.at)
                && other.at != share.at
                && meet(share, other)
        };
        match self.shares().find(covering) {
            Some(other) => Err(TranslationError::Covered {
                path: host.to_path().display().to_string(),
                place: path.display().to_string(),
                by: other.name.to_string(),
            }),
            None => Ok(names),
        }
    }

    fn not_shared(&self, places: &[Place], text: &[u8], base: Base<'_>) -> TranslationError {
        let shown = String::from_utf8_lossy(text).into_owned();
        let hidden_from = Self {
            guest: None,
            ..*self
        };
        let others = places
            .iter()
            .flat_map(|place| hidden_from.matches(place, Side::Host, base));
        if let (Some(guest), Some((share, _))) = (self.guest, others.into_iter().next()) {
            return TranslationError::NotForGuest {
                path: shown,
                share: share.name.to_string(),
                guest: guest.to_string(),
            };
        }
        let path = places
            .first()
            .map_or_else(PathBuf::new, |place| place.names.to_path());
        let folder = match path.parent() {
            Some(parent) if !base.files.is_folder(&path) && parent != Path::new("/") => parent,
            _ => &path,
        };
        TranslationError::NotShared {
            path: shown,
            guest: self.guest.map(ToString::to_string),
            folder: folder.display().to_string(),
        }
    }
}

impl Answer {
    fn new(names: Names, share: &Share) -> Self {
        Self {
            names,
            share: share.name.clone(),
            relative: None,
        }
    }
}

impl Names {
    /// The names of an absolute path.
    #[must_use]
    pub fn of_path(path: &Path) -> Self {
        let bytes = path.as_os_str().as_bytes();
        let names = Self::of_linux(bytes.strip_prefix(b"/").unwrap_or(bytes));
        Self {
            slash: false,
            ..names
        }
    }

    /// As a path below some folder.
    #[must_use]
    pub fn to_relative(&self) -> Vec<u8> {
        let mut bytes = if self.list.is_empty() {
            b".".to_vec()
        } else {
            self.list.join(&b'/')
        };
        if self.slash {
            bytes.push(b'/');
        }
        bytes
    }
}

/// Each reading by its text on both sides, and at last by where the shared folders really are.
fn in_turn(places: &[Place], sides: [Side; 2]) -> impl Iterator<Item = (&Place, Side)> {
    let by_text = places
        .iter()
        .flat_map(move |place| sides.map(|side| (place, side)));
    by_text.chain(places.iter().map(|place| (place, Side::RealHost)))
}

/// The names of `names` in the share's folder.
fn on_host(share: &Share, below: Names, side: Side) -> Result<Names, TranslationError> {
    let mut host = Names::of_path(&share.path);
    host.slash = below.slash;
    for name in below.list {
        let written = match (share.names, side) {
            (NameRule::Windows, Side::Guest) => {
                windows_names::to_host(&name).map(|name| name.into_owned().into_bytes())
            }
            // Only what the share shows.
            (NameRule::Windows, Side::Host | Side::RealHost) => {
                windows_names::to_guest(&name).map(|_| name.clone())
            }
            (NameRule::Plain, _) => Some(name.clone()),
        };
        host.list
            .push(written.ok_or_else(|| nameless(share, &host, &name))?);
    }
    Ok(host)
}

fn nameless(share: &Share, path: &Names, name: &[u8]) -> TranslationError {
    TranslationError::Nameless {
        path: path.to_path().display().to_string(),
        name: String::from_utf8_lossy(name).into_owned(),
        share: share.name.to_string(),
    }
}

/// The host's path, if `exclude` does not hide it.
fn visible(share: &Share, host: Names, base: Base<'_>) -> Result<Names, TranslationError> {
    let path = host.to_path();
    let is_folder = host.slash || (!share.exclude.is_empty() && base.files.is_folder(&path));
    let last = if is_folder {
        Leads::ToFolder
    } else {
        Leads::ToFile
    };
    let letters = match share.case {
        CaseRule::Exact => Letters::Exact,
        CaseRule::Insensitive => Letters::Folded,
    };
    let depth = Names::of_path(&share.path).list.len();
    let below = host.list.iter().skip(depth).map(Vec::as_slice);
    if hides(&share.exclude, below, last, letters) {
        return Err(TranslationError::Excluded {
            path: path.display().to_string(),
            share: share.name.to_string(),
        });
    }
    Ok(host)
}

/// Whether one guest may see both.
fn meet(one: &Share, other: &Share) -> bool {
    match (&one.guests, &other.guests) {
        (Some(ours), Some(theirs)) => ours.iter().any(|guest| theirs.contains(guest)),
        (None, _) | (_, None) => true,
    }
}

/// The folders that are the share's own on one side.
fn roots(share: &Share, side: Side, files: &dyn Files) -> Vec<PathBuf> {
    match side {
        Side::Host => vec![share.path.clone()],
        Side::RealHost => files.real(&share.path).into_iter().collect(),
        Side::Guest => {
            let mount = share.mount.iter().map(|mount| mount.path.clone());
            std::iter::once(share.at.clone()).chain(mount).collect()
        }
    }
}

/// How many names lead to `root`, if the place is there or below.
fn depth_below(place: &Place, root: &Path, share: &Share) -> Option<usize> {
    let root = Names::of_path(root).list;
    let folded = place.folded || share.case == CaseRule::Insensitive;
    let same = |(one, other): (&Vec<u8>, &Vec<u8>)| {
        one == other || (folded && fold::name(one) == fold::name(other))
    };
    let begins =
        root.len() <= place.names.list.len() && root.iter().zip(&place.names.list).all(same);
    begins.then_some(root.len())
}

/// Without `..`, as the kernel would go where it can be asked, else by the text.
fn resolved(names: &Names, files: &dyn Files) -> Names {
    let collapsed = names.clone().collapsed();
    if names.has_parents()
        && let Some(real) = files.real(&names.to_path())
        && files.real(&collapsed.to_path()).as_ref() != Some(&real)
    {
        return Names {
            slash: names.slash,
            ..Names::of_path(&real)
        };
    }
    collapsed
}

fn folder(base: Base<'_>, text: &[u8]) -> Result<Names, TranslationError> {
    let unknown = || TranslationError::NoCurrentFolder(String::from_utf8_lossy(text).into_owned());
    base.folder.map(Names::of_path).ok_or_else(unknown)
}

fn joined(folder: &Names, below: &Names) -> Names {
    let list = folder.list.iter().chain(&below.list).cloned().collect();
    Names {
        list,
        slash: below.slash,
    }
}

/// The way from one folder to another place.
fn from_to(from: &Names, to: &Names) -> Vec<u8> {
    let common = from
        .list
        .iter()
        .zip(&to.list)
        .take_while(|(one, other)| one == other)
        .count();
    let up = std::iter::repeat_n(b"..".to_vec(), from.list.len() - common);
    let list = up.chain(to.list.iter().skip(common).cloned()).collect();
    Names {
        list,
        slash: to.slash,
    }
    .to_relative()
}
