//! Paths on the host, in the spellings that people type.
//!
//! More spellings than the file may have, and the way between host and guests, are in `crate::translation`.

use std::path::{Path, PathBuf};

use super::super::Surroundings;
use super::super::problem::Findings;
use super::super::raw::At;

/// A host folder: absolute, below `~`, or on a Windows drive.
pub(super) fn read_folder(
    findings: &mut Findings<'_>,
    (owner, key): (&str, &str),
    raw: &At<String>,
    surroundings: &Surroundings,
) -> Option<PathBuf> {
    let text = raw.value();
    let path = if let Some(path) = windows_drive(text, surroundings) {
        Some(path)
    } else if text == "~" || text.starts_with("~/") {
        let below = text.trim_start_matches('~').trim_start_matches('/');
        surroundings.home.as_ref().map(|home| home.join(below))
    } else {
        Some(PathBuf::from(text)).filter(|p| p.is_absolute())
    };
    match path.and_then(|p| plain(&p)) {
        Some(path) => Some(path),
        None => {
            let message = format!(
                "{owner}: {key} \"{}\" is not an absolute path without ..",
                text.escape_debug()
            );
            findings.add(Some(raw.offset()), message, "write /mnt/d, ~/src or 'D:\\'");
            None
        }
    }
}

/// `D:\x\y` and `D:/x/y` where the drive is mounted; as `/mnt/d/x/y` where it is not, or not yet.
fn windows_drive(text: &str, surroundings: &Surroundings) -> Option<PathBuf> {
    let mut characters = text.chars();
    let drive = characters.next().filter(char::is_ascii_alphabetic)?;
    if characters.next()? != ':' {
        return None;
    }
    let rest = characters.as_str();
    if !(rest.is_empty() || rest.starts_with(['\\', '/'])) {
        return None;
    }
    let drive = drive.to_ascii_lowercase();
    let mounted = surroundings.drives.get(&drive).cloned();
    let mut path = mounted.unwrap_or_else(|| PathBuf::from(format!("/mnt/{drive}")));
    path.extend(rest.split(['\\', '/']).filter(|part| !part.is_empty()));
    Some(path)
}

/// The path without `.`, doubled or final slashes; none where it has `..` or a NUL or line break.
pub(super) fn plain(path: &Path) -> Option<PathBuf> {
    use std::path::Component;
    let unprintable = path.to_str().is_none_or(|p| p.contains(['\0', '\n', '\r']));
    if unprintable || path.components().any(|c| c == Component::ParentDir) {
        return None;
    }
    Some(path.components().collect())
}
