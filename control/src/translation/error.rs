//! Why a path has no other spelling.

/// One path that cannot be translated. [`TranslationError::hint`] says what would help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TranslationError {
    #[error("the path is empty")]
    Empty,
    #[error("\"{}\" holds a NUL or is longer than 64 KiB, which no path is", start(.0))]
    Unusable(String),
    #[error("\"{0}\" is a device or a pipe of Windows, which is no folder")]
    Device(String),
    #[error("\"{0}\" names no folder")]
    NoFolder(String),
    #[error("\"{0}\" has no drive in front")]
    NoDrive(String),
    #[error("\"{path}\" is not UTF-8, which Windows' names are")]
    NotText { path: String },
    #[error("\"{path}\" is in the WSL distribution {theirs}, and this is {ours}")]
    OtherDistro {
        path: String,
        theirs: String,
        ours: String,
    },
    #[error("\"{path}\" is on no Windows drive, and this is no WSL distribution with a name")]
    NoDistro { path: String },
    #[error("\"{path}\" is on {what}, which is not mounted here")]
    NotMounted { path: String, what: String },
    #[error("\"{path}\" would be {place}, which the mount at {by} hides")]
    Hidden {
        path: String,
        place: String,
        by: String,
    },
    #[error("{path} is in no folder that is shared{}", with(.guest))]
    NotShared {
        path: String,
        guest: Option<String>,
        /// The folder to share.
        folder: String,
    },
    #[error("{path} is in share \"{share}\", which guest \"{guest}\" does not see")]
    NotForGuest {
        path: String,
        share: String,
        guest: String,
    },
    #[error("{path} is hidden by `exclude` of share \"{share}\"")]
    Excluded { path: String, share: String },
    #[error("{path} would be {place} in the guest, where share \"{by}\" is mounted")]
    Covered {
        path: String,
        place: String,
        by: String,
    },
    #[error("{path} has the name \"{name}\", which share \"{share}\" cannot show")]
    Nameless {
        path: String,
        name: String,
        share: String,
    },
    #[error("\"{0}\" is below the current folder, and that is not known")]
    NoCurrentFolder(String),
    #[error("\"{0}\" was made by Git Bash out of a path of Linux")]
    GitBash(String),
}

impl TranslationError {
    /// What to do; where it can be one, a command.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Empty => "give the path of a file or folder".to_owned(),
            Self::Unusable(_) => "give one path; lists are read with -0 or a line each".to_owned(),
            Self::Device(_) => {
                "publish a service of Windows by TCP instead, and offer it: sharectl port offer"
                    .to_owned()
            }
            Self::NoFolder(_) => r"write a whole one, like D:\ or \\server\share\folder".to_owned(),
            Self::NoDrive(path) => format!(r"write it with its drive, like C:{path}"),
            Self::NotText { .. } => "rename the file; ls -b shows the bytes".to_owned(),
            Self::OtherDistro { theirs, .. } => format!("run it there: wsl -d {}", quoted(theirs)),
            Self::NoDistro { .. } => "name the distribution: --distro NAME".to_owned(),
            Self::NotMounted { what, .. } => {
                let name: String = what.chars().filter(char::is_ascii_alphanumeric).collect();
                let place = format!("/mnt/{}", name.to_ascii_lowercase());
                format!(
                    "sudo mkdir -p {place} && sudo mount -t drvfs {} {place}",
                    quoted(what.trim_end_matches('\\'))
                )
            }
            Self::Hidden { by, .. } => format!("umount {}", quoted(by)),
            Self::NotShared { folder, .. } => format!("sharectl share add {}", quoted(folder)),
            Self::NotForGuest { share, guest, .. } => {
                format!(
                    "add \"{guest}\" to `guests` of [share.{share}]: sharectl config path names the file"
                )
            }
            Self::Excluded { share, .. } => {
                format!("take the pattern out, or write a !pattern behind it, in [share.{share}]")
            }
            Self::Covered { by, .. } => format!("sharectl describe {by}, and change `at` of one"),
            Self::Nameless { .. } => "rename the file on the host".to_owned(),
            Self::NoCurrentFolder(_) => "give an absolute path".to_owned(),
            Self::GitBash(_) => {
                "call it with MSYS_NO_PATHCONV=1 in front, or write //d/x instead of /d/x"
                    .to_owned()
            }
        }
    }
}

fn start(path: &str) -> String {
    path.chars()
        .take(40)
        .collect::<String>()
        .escape_debug()
        .to_string()
}

fn with(guest: &Option<String>) -> String {
    guest
        .as_ref()
        .map_or_else(String::new, |guest| format!(" with guest \"{guest}\""))
}

/// A word as a POSIX shell reads it.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
