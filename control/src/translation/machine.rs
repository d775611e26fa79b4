//! What spellings mean on one machine: where its Windows drives are mounted, and how Windows names its folders.
//!
//! The rules are WSL's own. From Windows to Linux the text alone decides, and the longest source wins; from Linux to
//! Windows the last mount at or above the path decides, and one that is not of Windows cancels.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::error::TranslationError;
use super::mountinfo::{Mount, MountTable};
use super::spelling::{Names, Server, Spelling, customary_drive};
use super::wsl_conf::WslConf;
use crate::{fold, windows_names};

/// One machine, as far as paths depend on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    mounts: MountTable,
    /// What its /etc/wsl.conf says.
    pub wsl: WslConf,
    /// The name that Windows has for this WSL distribution.
    pub distro: Option<String>,
    drives: Vec<Drive>,
}

/// A folder of Windows that is mounted, and not hidden by another mount.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Drive {
    /// Where in [`MountTable::mounts`].
    mount: usize,
    root: Root,
    /// Below the root, as Windows has them.
    names: Vec<String>,
}

/// Where a path of Windows begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Root {
    Drive(char),
    Unc(Server),
}

/// How a path of Windows is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `C:\x`
    Windows,
    /// `C:/x`, as most programs of Windows take it, too.
    Mixed,
}

/// What only the machine's files say; [`NoFiles`] where a case is replayed.
pub trait Files {
    /// The place without symbolic links, if there is something.
    fn real(&self, path: &Path) -> Option<PathBuf>;
    /// Whether it is a folder.
    fn is_folder(&self, path: &Path) -> bool;
}

/// Nothing is there: the text alone counts.
#[derive(Debug, Clone, Copy)]
pub struct NoFiles;

impl Files for NoFiles {
    fn real(&self, _: &Path) -> Option<PathBuf> {
        None
    }
    fn is_folder(&self, _: &Path) -> bool {
        false
    }
}

impl Machine {
    /// A machine with these mounts.
    #[must_use]
    pub fn new(mounts: MountTable, wsl: WslConf, distro: Option<String>) -> Self {
        let drive = |(index, mount): (usize, &Mount)| {
            let (root, mut names) = root_of(&mount.windows_source()?)?;
            let below = Names::of_linux(mount.root.as_os_str().as_bytes().strip_prefix(b"/")?);
            for name in &below.list {
                names.push(
                    windows_names::wsl_to_windows(std::str::from_utf8(name).ok()?).into_owned(),
                );
            }
            Some(Drive {
                mount: index,
                root,
                names,
            })
        };
        let drives = mounts.mounts.iter().enumerate();
        let drives = drives
            .filter(|(_, mount)| mounts.is_seen(mount))
            .filter_map(drive)
            .collect();
        Self {
            mounts,
            wsl,
            distro,
            drives,
        }
    }

    /// Where the whole drive of this letter is mounted.
    #[must_use]
    pub fn drive(&self, letter: char) -> Option<&Path> {
        let root = Root::Drive(letter);
        let mut whole = self.drives.iter();
        whole
            .find(|drive| drive.root.is(&root) && drive.names.is_empty())
            .and_then(|drive| self.mounts.mounts.get(drive.mount))
            .map(|mount| mount.point.as_path())
    }

    /// Every drive that is mounted, and on WSL also where the others would be; by letter in lower case.
    #[must_use]
    pub fn drives(&self) -> BTreeMap<char, PathBuf> {
        let place = |letter: char| match self.drive(letter) {
            Some(place) => Some((letter, place.to_owned())),
            None if self.drives.is_empty() => None,
            None => Some((letter, self.wsl.drive_root(letter)?)),
        };
        ('a'..='z').filter_map(place).collect()
    }

    /// Whether names in this folder are the same in any case: it is Windows' own.
    #[must_use]
    pub fn ignores_case(&self, path: &Path) -> bool {
        self.drive_above(path).is_some()
    }

    /// The place in this distribution.
    ///
    /// # Errors
    /// When it is on a drive that is not mounted, in another distribution, or hidden.
    pub fn to_linux(
        &self,
        spelling: &Spelling,
        text: &[u8],
        files: &dyn Files,
    ) -> Result<Names, TranslationError> {
        match spelling {
            Spelling::Drive(letter, names) => self.mounted(&Root::Drive(*letter), names, text),
            Spelling::Unc(server, names) => {
                let mounted = self.mounted(&Root::Unc(server.clone()), names, text);
                match mounted {
                    // Linux takes two slashes for one.
                    Err(_) if text.starts_with(b"//") => Ok(Names::of_linux(text)),
                    outcome => outcome,
                }
            }
            Spelling::Wsl(distro, names) => {
                self.is_ours(distro, text)?;
                Ok(names.clone())
            }
            Spelling::Linux(names) => match self.by_custom(names, files) {
                Some((letter, names)) => self.mounted(&Root::Drive(letter), &names, text),
                None => Ok(names.clone()),
            },
            Spelling::Relative(names) => Ok(names.clone()),
        }
    }

    /// Windows' name for it.
    ///
    /// # Errors
    /// When it has none: no drive is mounted there, and the distribution's name is not known.
    pub fn to_windows(
        &self,
        spelling: &Spelling,
        text: &[u8],
        files: &dyn Files,
        style: Style,
    ) -> Result<String, TranslationError> {
        let shown = || String::from_utf8_lossy(text).into_owned();
        let (start, names) = match spelling {
            Spelling::Drive(letter, names) => (Root::Drive(*letter).to_string(), names.clone()),
            Spelling::Unc(server, names) => (Root::Unc(server.clone()).to_string(), names.clone()),
            Spelling::Wsl(distro, names) => match self.is_ours(distro, text) {
                Ok(()) => return self.linux_to_windows(names, text, files, style),
                Err(_) => (format!(r"\\wsl.localhost\{distro}\"), names.clone()),
            },
            Spelling::Linux(names) => match self.by_custom(names, files) {
                Some((letter, names)) => (Root::Drive(letter).to_string(), names),
                None => return self.linux_to_windows(names, text, files, style),
            },
            Spelling::Relative(names) if names.list.is_empty() => (".".to_owned(), names.clone()),
            Spelling::Relative(names) => (String::new(), names.clone()),
        };
        let mut written = start;
        write_windows(&mut written, &names)
            .map_err(|()| TranslationError::NotText { path: shown() })?;
        Ok(style.of(written))
    }

    fn linux_to_windows(
        &self,
        names: &Names,
        text: &[u8],
        files: &dyn Files,
        style: Style,
    ) -> Result<String, TranslationError> {
        let not_text = |()| TranslationError::NotText {
            path: String::from_utf8_lossy(text).into_owned(),
        };
        let path = names.to_path();
        let path = files
            .real(&path)
            .unwrap_or_else(|| names.clone().collapsed().to_path());
        let mut written;
        let rest;
        match self.drive_above(&path) {
            Some((drive, mount)) => {
                written = drive.root.to_string();
                for name in &drive.names {
                    push_name(&mut written, name);
                }
                rest = path.strip_prefix(&mount.point).unwrap_or(&path).to_owned();
            }
            None => {
                let distro = self
                    .distro
                    .as_ref()
                    .ok_or_else(|| TranslationError::NoDistro {
                        path: String::from_utf8_lossy(text).into_owned(),
                    })?;
                written = format!(r"\\wsl.localhost\{distro}\");
                rest = path.strip_prefix("/").unwrap_or(&path).to_owned();
            }
        }
        let mut rest = Names::of_linux(rest.as_os_str().as_bytes());
        rest.slash = names.slash;
        write_windows(&mut written, &rest).map_err(not_text)?;
        Ok(style.of(written))
    }

    /// A path of Linux that names a drive only by custom: that drive is mounted, and the path has no other meaning.
    fn by_custom(&self, names: &Names, files: &dyn Files) -> Option<(char, Names)> {
        let path = names.clone().collapsed().to_path();
        let (letter, rest) = customary_drive(names)?;
        self.drive(letter)?;
        let place: PathBuf = path
            .iter()
            .take(names.list.len() - rest.list.len() + 1)
            .collect();
        let mounted = self.mounts.shows(&path);
        let mounted = mounted.is_some_and(|mount| mount.point.starts_with(&place));
        let means_itself = mounted || self.ignores_case(&path) || files.real(&place).is_some();
        (!means_itself).then_some((letter, rest.collapsed()))
    }

    fn is_ours(&self, distro: &str, text: &[u8]) -> Result<(), TranslationError> {
        match &self.distro {
            Some(ours) if same(ours, distro) => Ok(()),
            ours => Err(TranslationError::OtherDistro {
                path: String::from_utf8_lossy(text).into_owned(),
                theirs: distro.to_owned(),
                ours: ours
                    .as_ref()
                    .map_or_else(|| "none".to_owned(), |ours| format!("\"{ours}\"")),
            }),
        }
    }

    /// The folder of the longest source that the path begins with.
    fn mounted(&self, root: &Root, names: &Names, text: &[u8]) -> Result<Names, TranslationError> {
        let begins = |drive: &&Drive| {
            drive.root.is(root)
                && drive.names.len() <= names.list.len()
                && drive.names.iter().zip(&names.list).all(|(theirs, ours)| {
                    let theirs = windows_names::windows_to_wsl(theirs);
                    fold::name(theirs.as_bytes()) == fold::name(ours)
                })
        };
        // `max_by_key` takes the last of equals; the first mount is the one people know.
        let longest = self
            .drives
            .iter()
            .rev()
            .filter(begins)
            .max_by_key(|drive| drive.names.len());
        let found = longest.and_then(|drive| Some((drive, self.mounts.mounts.get(drive.mount)?)));
        let Some((drive, mount)) = found else {
            return Err(TranslationError::NotMounted {
                path: String::from_utf8_lossy(text).into_owned(),
                what: root.to_string(),
            });
        };
        let rest = names.below(drive.names.len());
        let mut whole = Names::of_linux(mount.point.as_os_str().as_bytes());
        whole.list.extend(rest.list);
        whole.slash = rest.slash;
        let place = whole.to_path();
        match self.mounts.shows(&place) {
            Some(shown) if !std::ptr::eq(shown, mount) => Err(TranslationError::Hidden {
                path: String::from_utf8_lossy(text).into_owned(),
                place: place.display().to_string(),
                by: shown.point.display().to_string(),
            }),
            Some(_) | None => Ok(whole),
        }
    }

    fn drive_above(&self, path: &Path) -> Option<(&Drive, &Mount)> {
        let mount = self.mounts.shows(path)?;
        let is_it = |drive: &&Drive| {
            let there = self.mounts.mounts.get(drive.mount);
            there.is_some_and(|there| std::ptr::eq(there, mount))
        };
        Some((self.drives.iter().find(is_it)?, mount))
    }
}

impl Names {
    /// As an absolute path, without a slash at the end.
    #[must_use]
    pub fn to_path(&self) -> PathBuf {
        let mut path = PathBuf::from("/");
        path.extend(self.list.iter().map(|name| OsStr::from_bytes(name)));
        path
    }

    /// As an absolute path, with the slash.
    #[must_use]
    pub fn to_linux(&self) -> Vec<u8> {
        let mut bytes = self.to_path().into_os_string().into_vec();
        if self.slash && bytes != b"/" {
            bytes.push(b'/');
        }
        bytes
    }
}

impl Style {
    fn of(self, written: String) -> String {
        match self {
            Self::Windows => written,
            Self::Mixed => written.replace('\\', "/"),
        }
    }
}

impl Root {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Drive(one), Self::Drive(other)) => one.eq_ignore_ascii_case(other),
            (Self::Unc(one), Self::Unc(other)) => {
                same(&one.host, &other.host) && same(&one.share, &other.share)
            }
            (Self::Drive(_), Self::Unc(_)) | (Self::Unc(_), Self::Drive(_)) => false,
        }
    }
}

impl std::fmt::Display for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Drive(letter) => write!(f, r"{}:\", letter.to_ascii_uppercase()),
            Self::Unc(Server { host, share }) => write!(f, r"\\{host}\{share}\"),
        }
    }
}

fn same(one: &str, other: &str) -> bool {
    fold::name(one.as_bytes()) == fold::name(other.as_bytes())
}

/// The source of a mount as root and names.
fn root_of(source: &str) -> Option<(Root, Vec<String>)> {
    // `C:` is a whole source, though no whole path.
    let source = match source.len() {
        2 => format!(r"{source}\"),
        _ => source.to_owned(),
    };
    let (root, names) = match Spelling::read(source.as_bytes()).ok()? {
        Spelling::Drive(letter, names) => (Root::Drive(letter), names),
        Spelling::Unc(server, names) => (Root::Unc(server), names),
        Spelling::Wsl(..) | Spelling::Linux(_) | Spelling::Relative(_) => return None,
    };
    let names = names.list.into_iter().map(|name| {
        let name = String::from_utf8(name).ok()?;
        Some(windows_names::wsl_to_windows(&name).into_owned())
    });
    Some((root, names.collect::<Option<_>>()?))
}

fn push_name(written: &mut String, name: &str) {
    if !written.is_empty() && !written.ends_with('\\') {
        written.push('\\');
    }
    written.push_str(name);
}

fn write_windows(written: &mut String, names: &Names) -> Result<(), ()> {
    for name in &names.list {
        let name = std::str::from_utf8(name).map_err(drop)?;
        push_name(written, &windows_names::wsl_to_windows(name));
    }
    if names.slash && !written.ends_with('\\') {
        written.push('\\');
    }
    Ok(())
}
