//! A path as somebody wrote it, taken apart: whose spelling it is, and the names in it.
//!
//! Only the text is looked at. What a spelling means on a machine is [`super::machine`]'s to say.

use super::error::TranslationError;
use crate::windows_names;

/// Far above PATH_MAX and what Windows takes.
const LONGEST: usize = 64 << 10;

/// A path, by whose rules it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spelling {
    /// `D:\x`, `D:/x`, `\\?\D:\x`, and `//d/x` as Docker takes it.
    Drive(char, Names),
    /// `\\server\share\x`.
    Unc(Server, Names),
    /// `\\wsl.localhost\Debian\x`, `\\wsl$\Debian\x`.
    Wsl(String, Names),
    /// `/x`.
    Linux(Names),
    /// `x`, `x\y`: below the current folder.
    Relative(Names),
}

/// A share of Windows' network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The machine.
    pub host: String,
    /// What it shares.
    pub share: String,
}

/// The names of a path from its root, or from the current folder, downwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// As Linux has them; no `.`, nothing empty. `..` only as they were written by Linux's rules.
    pub list: Vec<Vec<u8>>,
    /// A separator stands at the end.
    pub slash: bool,
}

impl Spelling {
    /// Reads a path.
    ///
    /// # Errors
    /// When it is no path, or one that names no place: a device, `C:x`, `\x`.
    pub fn read(text: &[u8]) -> Result<Self, TranslationError> {
        let shown = || String::from_utf8_lossy(text).into_owned();
        if text.is_empty() {
            return Err(TranslationError::Empty);
        }
        if text.contains(&0) || text.len() > LONGEST {
            return Err(TranslationError::Unusable(shown()));
        }
        // Windows' spellings are text; other bytes are names of Linux.
        if let Ok(text) = std::str::from_utf8(text)
            && let Some(spelling) = windows(text)?
        {
            return Ok(spelling);
        }
        Ok(match text.strip_prefix(b"/") {
            Some(rest) => Self::Linux(Names::of_linux(rest)),
            None => {
                let separator = |byte: &u8| matches!(byte, b'/' | b'\\');
                let names = text.split(separator).map(<[u8]>::to_vec).collect();
                Self::Relative(Names::from_parts(names, text.last().is_some_and(separator)))
            }
        })
    }
}

impl Names {
    /// What stands behind the first `/`.
    #[must_use]
    pub fn of_linux(text: &[u8]) -> Self {
        let names = text.split(|byte| *byte == b'/').map(<[u8]>::to_vec);
        Self::from_parts(
            names.collect(),
            text.last().is_none_or(|last| *last == b'/'),
        )
    }

    fn from_parts(mut list: Vec<Vec<u8>>, slash: bool) -> Self {
        list.retain(|name| !name.is_empty() && name != b".");
        Self { list, slash }
    }

    /// What stands behind a root of Windows, where `..` is taken by the text alone.
    fn of_windows(text: &str) -> Self {
        let names = text.split(is_separator).map(|name| {
            windows_names::windows_to_wsl(name)
                .into_owned()
                .into_bytes()
        });
        let slash = text.is_empty() || text.ends_with(is_separator);
        Self::from_parts(names.collect(), slash).collapsed()
    }

    /// Without `..`: each takes the name before it away, at the root none.
    #[must_use]
    pub fn collapsed(self) -> Self {
        let mut list: Vec<Vec<u8>> = Vec::with_capacity(self.list.len());
        for name in self.list {
            if name == b".." {
                list.pop();
            } else {
                list.push(name);
            }
        }
        Self { list, ..self }
    }

    /// Whether `..` is among them.
    #[must_use]
    pub fn has_parents(&self) -> bool {
        self.list.iter().any(|name| name == b"..")
    }

    /// Without the first `count` names.
    #[must_use]
    pub fn below(&self, count: usize) -> Self {
        Self {
            list: self.list.get(count..).unwrap_or_default().to_vec(),
            slash: self.slash,
        }
    }
}

fn is_separator(c: char) -> bool {
    matches!(c, '\\' | '/')
}

/// What only Windows writes; none for a path of Linux, or one below the current folder.
fn windows(text: &str) -> Result<Option<Spelling>, TranslationError> {
    let shown = || text.to_owned();
    let bytes = text.as_bytes();
    let separators = bytes
        .iter()
        .take_while(|byte| matches!(byte, b'\\' | b'/'))
        .count();
    // `/\x` is a name of Linux.
    let separators = if text.starts_with("/\\") {
        1
    } else {
        separators
    };
    let at = |index: usize| bytes.get(index).copied();
    match (separators, at(2), at(3)) {
        (2, Some(b'?'), Some(b'\\' | b'/')) => {
            let rest = &text[4..];
            let word = rest
                .get(..3)
                .filter(|word| word.eq_ignore_ascii_case("UNC"));
            let share = word
                .and_then(|_| rest.get(3..))
                .and_then(|rest| rest.strip_prefix(is_separator));
            if let Some(share) = share {
                return network(share, text).map(Some);
            }
            return match drive(rest) {
                Some(Ok(spelling)) => Ok(Some(spelling)),
                Some(Err(())) | None => Err(TranslationError::NoFolder(shown())),
            };
        }
        (2, Some(b'.'), Some(b'\\' | b'/')) => return Err(TranslationError::Device(shown())),
        (2, Some(letter), None | Some(b'/'))
            if text.starts_with("//") && letter.is_ascii_alphabetic() =>
        {
            // Git Bash writes so what must not become C:\Program Files\Git\d.
            let names = Names::of_windows(text.get(4..).unwrap_or_default());
            return Ok(Some(Spelling::Drive(char::from(letter), names)));
        }
        (2, Some(_), _) => match network(&text[2..], text) {
            // Linux takes two slashes for one.
            Err(_) if text.starts_with('/') => return Ok(None),
            outcome => return outcome.map(Some),
        },
        (1.., _, _) if text.starts_with('\\') => return Err(TranslationError::NoDrive(shown())),
        _otherwise => {}
    }
    match drive(text) {
        Some(Ok(spelling)) => Ok(Some(spelling)),
        Some(Err(())) => Err(TranslationError::NoFolder(shown())),
        None => Ok(None),
    }
}

/// `D:\x`; an error for what has a drive and no folder, as `D:` and `D:x`.
fn drive(text: &str) -> Option<Result<Spelling, ()>> {
    let mut letters = text.chars();
    let letter = letters.next().filter(char::is_ascii_alphabetic)?;
    if letters.next()? != ':' {
        return None;
    }
    let rest = letters.as_str();
    Some(match rest.strip_prefix(is_separator) {
        Some(rest) => Ok(Spelling::Drive(letter, Names::of_windows(rest))),
        None => Err(()),
    })
}

/// What stands behind the `\\` of a share of the network, or of a WSL distribution.
fn network(rest: &str, text: &str) -> Result<Spelling, TranslationError> {
    let mut parts = rest.splitn(3, is_separator);
    let host = parts.next().unwrap_or_default();
    let share = parts.next().unwrap_or_default();
    let names = Names::of_windows(parts.next().unwrap_or_default());
    if host.is_empty() || share.is_empty() {
        return Err(TranslationError::NoFolder(text.to_owned()));
    }
    if host.eq_ignore_ascii_case("wsl.localhost") || host.eq_ignore_ascii_case("wsl$") {
        return Ok(Spelling::Wsl(share.to_owned(), names));
    }
    let server = Server {
        host: host.to_owned(),
        share: share.to_owned(),
    };
    Ok(Spelling::Unc(server, names))
}

/// The drive that a path of Linux names by custom, where it has no other meaning: Git Bash's `/d`, WSL's `/mnt/d`,
/// Docker Desktop's `/host_mnt/d` and `/run/desktop/mnt/host/d`, Cygwin's `/cygdrive/d`, a VMware folder called `d`.
#[must_use]
pub(super) fn customary_drive(names: &Names) -> Option<(char, Names)> {
    const PLACES: [&[&[u8]]; 6] = [
        &[b"run", b"desktop", b"mnt", b"host"],
        &[b"mnt", b"hgfs"],
        &[b"mnt"],
        &[b"host_mnt"],
        &[b"cygdrive"],
        &[],
    ];
    PLACES.iter().find_map(|place| {
        let begins = names
            .list
            .iter()
            .zip(*place)
            .all(|(name, part)| name == part);
        let name = names.list.get(place.len()).filter(|_| begins)?;
        match name.as_slice() {
            [letter] if letter.is_ascii_alphabetic() => {
                Some((char::from(*letter), names.below(place.len() + 1)))
            }
            _a_longer_name => None,
        }
    })
}

/// The share that a path below VMware's `/mnt/hgfs` names.
#[must_use]
pub(super) fn hgfs_share(names: &Names) -> Option<(&[u8], Names)> {
    match names.list.as_slice() {
        [mnt, hgfs, share, ..] if mnt == b"mnt" && hgfs == b"hgfs" => Some((share, names.below(3))),
        _elsewhere => None,
    }
}
