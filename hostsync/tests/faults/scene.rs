//! A folder with a hosts file to break, and what every test asks about it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use control::names::HostName;
use hostsync::section::{self, Tag};
use hostsync::writer::{Report, Steps, Straight, WriteError, Writer};

/// A file as users have it: CRLF and LF, Latin-1, a NUL, no break at the end.
pub(crate) const ODD: &[u8] =
    b"\xEF\xBB\xBF127.0.0.1\tlocalhost\r\n# caf\xE9 \0 end\r\n10.0.0.1 mine.test\n\n::1 ip6-localhost";

pub(crate) type Names = BTreeMap<HostName, IpAddr>;

pub(crate) struct Scene {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) file: PathBuf,
    pub(crate) journals: PathBuf,
}

impl Scene {
    /// A fresh folder with `hosts` in it.
    pub(crate) fn new(content: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        let file = folder.path().join("etc/hosts");
        std::fs::write(&file, content).unwrap();
        let journals = folder.path().join("state/hosts");
        Self {
            folder,
            file,
            journals,
        }
    }

    /// The same with a second hard link, so that it must be written in place.
    pub(crate) fn linked(content: &[u8]) -> Self {
        let scene = Self::new(content);
        std::fs::hard_link(&scene.file, scene.folder.path().join("second")).unwrap();
        scene
    }

    /// The same journals, another way to a file.
    pub(crate) fn through(&self, file: PathBuf) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            file,
            journals: self.journals.clone(),
        }
    }

    pub(crate) fn sync(&self, names: &Names) -> Result<Report, WriteError> {
        self.sync_with(names, Straight)
    }

    pub(crate) fn sync_with<S: Steps>(
        &self,
        names: &Names,
        steps: S,
    ) -> Result<Report, WriteError> {
        let writer = Writer::with_steps(&self.journals, steps);
        update(writer, &self.file, names, &Tag::plain())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.file).unwrap()
    }

    #[track_caller]
    pub(crate) fn assert_bytes(&self, expected: &[u8]) {
        assert_eq!(show(&self.bytes()), show(expected));
    }

    /// Nothing but the hosts file is in its folder.
    #[track_caller]
    pub(crate) fn assert_no_litter(&self) {
        assert_eq!(listing(self.file.parent().unwrap()), ["hosts"]);
    }

    /// No journal counts, and no copy but the backups is left.
    #[track_caller]
    pub(crate) fn assert_no_journal(&self) {
        let open: Vec<String> = listing(&self.journals)
            .into_iter()
            .filter(|name| !name.ends_with(".before") && !name.contains(".backup-"))
            .collect();
        assert!(open.is_empty(), "{open:?}");
    }
}

pub(crate) fn update<S: Steps>(
    mut writer: Writer<S>,
    file: &Path,
    names: &Names,
    tag: &Tag,
) -> Result<Report, WriteError> {
    writer = writer.with_backups(section::fingerprint);
    writer.update(file, &mut |old| {
        section::edit(old, names, tag).map(|edit| edit.new)
    })
}

/// What the file must become.
pub(crate) fn expected(old: &[u8], names: &Names) -> Vec<u8> {
    section::edit(old, names, &Tag::plain())
        .unwrap()
        .new
        .unwrap_or_else(|| old.to_vec())
}

/// `count` names of one address.
pub(crate) fn names(count: usize) -> Names {
    (0..count)
        .map(|number| {
            (
                HostName::parse(&format!("guest{number}.test")).unwrap(),
                [127, 64, 0, 1].into(),
            )
        })
        .collect()
}

pub(crate) fn listing(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

pub(crate) fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\n", "\\n\n")
}
