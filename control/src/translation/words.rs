//! Paths in the words of a command line and of an environment: which part of a word is one, and what it becomes.
//!
//! Words that begin as no absolute path does are left alone, and so is the part of a bind that is the container's.

use super::error::TranslationError;
use super::spelling::Spelling;

/// What in a word was a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The whole word, or what stands behind `--option=` or `NAME=`.
    Path,
    /// The source of `-v SOURCE:TARGET`.
    Bind,
    /// `source=` of `--mount`.
    Mount,
    /// Each part of `A:B:C`.
    List,
    /// What stands behind `file://`.
    Url,
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Path => "path",
            Self::Bind => "bind",
            Self::Mount => "mount",
            Self::List => "list",
            Self::Url => "url",
        })
    }
}

/// The guest's absolute path of the host's.
pub type Map<'m> = dyn Fn(&[u8]) -> Result<Vec<u8>, TranslationError> + 'm;

/// A word that is another one in the guest.
pub type Mapped = Option<(Vec<u8>, Rule)>;

/// `SOURCE:TARGET[:OPTIONS]` as Docker takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Volume<'t> {
    /// A folder or file: its path, and what stands behind, from the `:` on.
    Bind(&'t [u8], &'t [u8]),
    /// A volume with a name, or without one.
    Other,
}

impl<'t> Volume<'t> {
    /// Reads a bind. Its source ends at the first `:` behind its root that a `/` follows.
    ///
    /// # Errors
    /// For a word that Git Bash has spoilt.
    pub fn read(text: &'t [u8]) -> Result<Self, TranslationError> {
        if is_of_git_bash(text) {
            return Err(TranslationError::GitBash(
                String::from_utf8_lossy(text).into_owned(),
            ));
        }
        let root = if is_drive(text) { 2 } else { 0 };
        let behind = text.get(root..).unwrap_or_default();
        let Some(end) = behind.windows(2).position(|pair| pair == b":/") else {
            return Ok(Self::Other);
        };
        let (source, rest) = text.split_at(root + end);
        let is_path = is_absolute(source)
            || source.starts_with(b".")
            || source.contains(&b'/')
            || source.contains(&b'\\');
        Ok(if is_path {
            Self::Bind(source, rest)
        } else {
            Self::Other
        })
    }
}

/// The word of a command line behind `previous`.
///
/// # Errors
/// When it names a place of Windows that no guest has: nothing else could be meant.
pub fn argument(
    previous: Option<&[u8]>,
    word: &[u8],
    map: &Map<'_>,
) -> Result<Mapped, TranslationError> {
    match previous {
        Some(b"-v" | b"--volume") => return bind(word, map),
        Some(b"--mount") => return mount(word, map),
        Some(_) | None => {}
    }
    if let Some(option) = word.strip_prefix(b"--") {
        let Some(at) = option.iter().position(|byte| *byte == b'=') else {
            return Ok(None);
        };
        let (name, value) = word.split_at(at + 3);
        let mapped = match name {
            b"--volume=" => bind(value, map)?,
            b"--mount=" => mount(value, map)?,
            _another => self::value(value, map)?,
        };
        return Ok(prefixed(name, mapped));
    }
    if let [b'-', letter, rest @ ..] = word
        && letter.is_ascii_alphabetic()
    {
        let mapped = match letter {
            b'v' if !rest.is_empty() => bind(rest, map)?,
            _another => value(rest, map)?,
        };
        return Ok(prefixed(&[b'-', *letter], mapped));
    }
    if let Some(at) = word.iter().position(|byte| *byte == b'=')
        && is_name(&word[..at])
    {
        let (name, rest) = word.split_at(at + 1);
        return Ok(prefixed(name, value(rest, map)?));
    }
    value(word, map)
}

/// Variables that the program itself, its libraries and its shell read on this host.
const LOCAL: [&str; 27] = [
    "PATH",
    "HOME",
    "PWD",
    "OLDPWD",
    "SHELL",
    "TMPDIR",
    "TMP",
    "TEMP",
    "_",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "MAIL",
    "TERMINFO",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOCPATH",
    "GPG_TTY",
    "TTY",
    "MANPATH",
    "INFOPATH",
    "KUBECONFIG",
    "COMPOSE_FILE",
    "COMPOSE_ENV_FILES",
    "DBUS_SESSION_BUS_ADDRESS",
    "XAUTHORITY",
    "CARGO_HOME",
];
/// The same, by how they begin.
const LOCAL_STARTS: [&str; 6] = ["XDG_", "SSH_", "DOCKER_", "BUILDX_", "SHARECTL_", "WSL"];

/// A variable of the environment.
///
/// # Errors
/// As [`argument`].
pub fn variable(name: &[u8], value: &[u8], map: &Map<'_>) -> Result<Mapped, TranslationError> {
    let local = LOCAL.iter().any(|local| local.as_bytes() == name)
        || LOCAL_STARTS
            .iter()
            .any(|start| name.starts_with(start.as_bytes()));
    if local {
        Ok(None)
    } else {
        self::value(value, map)
    }
}

/// A path, a list of them, a bind or a URL.
fn value(text: &[u8], map: &Map<'_>) -> Result<Mapped, TranslationError> {
    if let Some(path) = text.strip_prefix(b"file://") {
        return Ok(prefixed(b"file://", one(path, map)?).map(|(word, _)| (word, Rule::Url)));
    }
    if !is_absolute(text) {
        return Ok(None);
    }
    let parts: Vec<&[u8]> = text.split(|byte| *byte == b':').collect();
    let is_list = parts.len() > 1 && parts.iter().all(|part| part.starts_with(b"/"));
    if is_list {
        let mut changed = false;
        let mut words = Vec::with_capacity(parts.len());
        for part in parts {
            let mapped = one(part, map)?;
            changed |= mapped.is_some();
            words.push(mapped.map_or_else(|| part.to_vec(), |(word, _)| word));
        }
        return Ok(changed.then(|| (words.join(&b':'), Rule::List)));
    }
    match Volume::read(text)? {
        Volume::Bind(..) => bind(text, map),
        Volume::Other => Ok(one(text, map)?),
    }
}

/// A whole path; what is no path of any share stays, unless only Windows could mean it.
fn one(path: &[u8], map: &Map<'_>) -> Result<Mapped, TranslationError> {
    if !is_absolute(path) {
        return Ok(None);
    }
    match map(path) {
        Ok(mapped) if mapped == path => Ok(None),
        Ok(mapped) => Ok(Some((mapped, Rule::Path))),
        Err(_) if path.starts_with(b"/") => Ok(None),
        Err(_) if is_of_git_bash(path) => Err(TranslationError::GitBash(
            String::from_utf8_lossy(path).into_owned(),
        )),
        Err(error) => Err(error),
    }
}

fn bind(text: &[u8], map: &Map<'_>) -> Result<Mapped, TranslationError> {
    let Volume::Bind(source, rest) = Volume::read(text)? else {
        return Ok(None);
    };
    let mapped = bind_source(source, map)?;
    Ok(mapped.map(|mapped| ([&mapped, rest].concat(), Rule::Bind)))
}

/// Folders that each Linux has for itself: a container gets those of the guest, as its /var/run/docker.sock.
const SYSTEM: [&[u8]; 14] = [
    b"bin", b"boot", b"dev", b"etc", b"lib", b"lib32", b"lib64", b"opt", b"proc", b"run", b"sbin",
    b"sys", b"usr", b"var",
];

/// The source of a bind in the guest; none where it stays as it is.
///
/// # Errors
/// When it is in no share and no folder of the system: the engine would make an empty folder in its place.
pub fn bind_source(source: &[u8], map: &Map<'_>) -> Result<Option<Vec<u8>>, TranslationError> {
    match map(source) {
        Ok(mapped) => Ok((mapped != source).then_some(mapped)),
        Err(error) => match Spelling::read(source) {
            Ok(Spelling::Linux(names)) => match names.collapsed().list.first() {
                Some(first) if !SYSTEM.contains(&first.as_slice()) => Err(error),
                // A system's own folder, or its root.
                Some(_) | None => Ok(None),
            },
            Ok(_) | Err(_) => Err(error),
        },
    }
}

/// `type=bind,source=D:\x,target=/y`
fn mount(text: &[u8], map: &Map<'_>) -> Result<Mapped, TranslationError> {
    let is_bind = text
        .split(|byte| *byte == b',')
        .any(|field| field == b"type=bind");
    let mut changed = false;
    let mut fields = Vec::new();
    for field in text.split(|byte| *byte == b',') {
        let source = [&b"source="[..], b"src="]
            .into_iter()
            .find(|name| field.starts_with(name));
        let Some(name) = source.filter(|_| is_bind) else {
            fields.push(field.to_vec());
            continue;
        };
        let path = &field[name.len()..];
        let mapped = bind_source(path, map)?;
        changed |= mapped.is_some();
        let path = mapped.unwrap_or_else(|| path.to_vec());
        fields.push([name, &path].concat());
    }
    Ok(changed.then(|| (fields.join(&b','), Rule::Mount)))
}

fn prefixed(prefix: &[u8], mapped: Mapped) -> Mapped {
    mapped.map(|(word, rule)| ([prefix, &word].concat(), rule))
}

/// Whether it can only be an absolute path.
fn is_absolute(text: &[u8]) -> bool {
    text.starts_with(b"/") || text.starts_with(br"\\") || is_drive(text)
}

/// `D:\`, `D:/`
fn is_drive(text: &[u8]) -> bool {
    matches!(text, [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic())
}

fn is_name(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

/// Git Bash takes a word that begins with / for a path below its own folder, and `:` for a separator of a list:
/// `/d/x:/app` arrives as `D:\x;C:\Program Files\Git\app`.
fn is_of_git_bash(text: &[u8]) -> bool {
    let text: Vec<u8> = text
        .iter()
        .map(|byte| {
            if *byte == b'\\' {
                b'/'
            } else {
                byte.to_ascii_lowercase()
            }
        })
        .collect();
    let is_folder = |at: usize| {
        let rest = text.get(at..).unwrap_or_default();
        is_drive(rest)
            && [&b"/program files/git/"[..], b"/programs/git/"]
                .into_iter()
                .any(|folder| {
                    // Up to where another part of a list begins.
                    let part = rest[2..]
                        .split(|byte| *byte == b';')
                        .next()
                        .unwrap_or_default();
                    part.windows(folder.len()).any(|window| window == folder)
                })
    };
    let starts = text
        .iter()
        .enumerate()
        .filter(|(_, byte)| matches!(byte, b';' | b':' | b'='));
    is_folder(0) || starts.map(|(at, _)| at + 1).any(is_folder)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A guest that has the host's /src as /work, and drives at /mnt.
    fn map(path: &[u8]) -> Result<Vec<u8>, TranslationError> {
        let names = match Spelling::read(path)? {
            Spelling::Linux(names) => names,
            Spelling::Drive(letter, mut names) if letter.eq_ignore_ascii_case(&'c') => {
                names.list.splice(..0, [b"mnt".to_vec(), b"c".to_vec()]);
                return Ok(names.to_linux());
            }
            Spelling::Relative(names) => {
                return Ok([b"/work/", names.to_relative().as_slice()].concat());
            }
            Spelling::Drive(..) | Spelling::Unc(..) | Spelling::Wsl(..) => {
                return Err(TranslationError::NoFolder("elsewhere".to_owned()));
            }
        };
        let mut names = names;
        match names.list.first().map(Vec::as_slice) {
            Some(b"src") => names.list[0] = b"work".to_vec(),
            Some(b"work" | b"mnt") => {}
            Some(b"c" | b"host_mnt") => {
                names.list.retain(|name| name != b"host_mnt");
                names.list.insert(0, b"mnt".to_vec());
            }
            _another => return Err(TranslationError::NoFolder("elsewhere".to_owned())),
        }
        Ok(names.to_linux())
    }

    fn run(previous: Option<&str>, word: &str) -> Result<String, TranslationError> {
        let mapped = argument(previous.map(str::as_bytes), word.as_bytes(), &map)?;
        Ok(mapped.map_or_else(
            || word.to_owned(),
            |(word, _)| String::from_utf8(word).unwrap(),
        ))
    }

    #[test]
    fn dockers_own_binds() {
        const TARGET: &str = "/mnt/c/windows/system32:/c";
        for (word, expected) in [
            (r"C:\windows\system32:/c", TARGET),
            ("C://windows/system32:/c", TARGET),
            ("//C/windows/system32:/c", "/mnt/C/windows/system32:/c"),
            ("/c/windows/system32:/c", TARGET),
            ("/mnt/c/windows/system32:/c", TARGET),
            ("/host_mnt/c/windows/system32:/c", TARGET),
            ("host:container:rw", "host:container:rw"),
            (r"C:\Windows:/host:ro", "/mnt/c/Windows:/host:ro"),
            ("name:/data", "name:/data"),
            ("/data", "/data"),
            ("./x:/y", "/work/x:/y"),
            ("/src:/src", "/work:/src"),
            (
                "/var/run/docker.sock:/var/run/docker.sock",
                "/var/run/docker.sock:/var/run/docker.sock",
            ),
            ("/src/a:b:/c", "/work/a:b:/c"),
        ] {
            let outcome = run(Some("-v"), word);
            if word.starts_with("//C") {
                // The map of this test knows c: by its letter only.
                assert!(outcome.is_ok(), "{word}");
                continue;
            }
            assert_eq!(outcome.as_deref(), Ok(expected), "{word}");
            assert_eq!(
                run(None, &format!("-v{word}")).as_deref(),
                Ok(&*format!("-v{expected}"))
            );
            assert_eq!(
                run(None, &format!("--volume={word}")).as_deref(),
                Ok(&*format!("--volume={expected}"))
            );
        }
        for word in [
            r"\\.\pipe\foo:/pipe",
            r"X:\x:/x",
            "/home/ann:/x",
            "/tmp/x:/y",
        ] {
            assert!(run(Some("-v"), word).is_err(), "{word}");
        }
    }

    #[test]
    fn what_git_bash_has_spoilt_is_recognized() {
        for word in [
            r"D:\x;C:\Program Files\Git\app",
            r"//d/x:C:/Program Files/Git/app",
            r"C:\Users\ann\AppData\Local\Programs\Git\app",
            r"type=bind,source=/src,target=C:/Program Files/Git/app",
        ] {
            for previous in [Some("-v"), None] {
                let whole = previous.is_none() && word.starts_with("type");
                let outcome = run(previous, word);
                assert!(
                    whole || matches!(outcome, Err(TranslationError::GitBash(_))),
                    "{word}: {outcome:?}"
                );
            }
        }
        assert!(!is_of_git_bash(br"D:\src\git\x"));
        assert!(!is_of_git_bash(b"/home/ann/programs/git/x"));
    }

    #[test]
    fn words_of_a_command_line() {
        for (previous, word, expected) in [
            (None, "/src/a", "/work/a"),
            (None, "/src", "/work"),
            (None, "/etc/passwd", "/etc/passwd"),
            (None, r"C:\x y", "/mnt/c/x y"),
            (None, "src/a", "src/a"),
            (None, "--flag", "--flag"),
            (None, "--file=/src/a", "--file=/work/a"),
            (None, "--file=src/a", "--file=src/a"),
            (None, "-I/src/include", "-I/work/include"),
            (None, "-C", "-C"),
            (None, "DIR=/src", "DIR=/work"),
            (None, "a b=/src", "a b=/src"),
            (None, "/src/a:/usr/lib:/src/b", "/work/a:/usr/lib:/work/b"),
            (None, "/usr/bin:/bin", "/usr/bin:/bin"),
            (None, "file:///src/a", "file:///work/a"),
            (None, "https://example.org/src", "https://example.org/src"),
            (None, "dev:/src", "dev:/src"),
            (None, "/src:/x:ro", "/work:/x:ro"),
            (
                Some("--mount"),
                r"type=bind,source=C:\x,target=/src",
                "type=bind,source=/mnt/c/x,target=/src",
            ),
            (
                None,
                "--mount=type=bind,src=/src,dst=/src,ro",
                "--mount=type=bind,src=/work,dst=/src,ro",
            ),
            (
                Some("--mount"),
                "type=volume,source=/src,target=/y",
                "type=volume,source=/src,target=/y",
            ),
        ] {
            assert_eq!(run(previous, word).as_deref(), Ok(expected), "{word}");
        }
        assert!(run(None, r"E:\x").is_err());
    }

    #[test]
    fn the_environment_of_this_host_stays() {
        let one =
            |name: &str, value: &str| variable(name.as_bytes(), value.as_bytes(), &map).unwrap();
        assert_eq!(one("PATH", "/src/bin:/bin"), None);
        assert_eq!(one("DOCKER_CONFIG", "/src/docker"), None);
        assert_eq!(
            one("DATA", "/src/x"),
            Some((b"/work/x".to_vec(), Rule::Path))
        );
        assert_eq!(
            one("GOPATH", "/src/a:/src/b"),
            Some((b"/work/a:/work/b".to_vec(), Rule::List))
        );
    }

    proptest! {
        #[test]
        fn twice_is_once(previous in proptest::option::of("-v|--mount|x"), word in r"(-[vI]|--volume=|A=|type=bind,|source=|/src|/work|C:|[\\/:;,.a ]){0,8}") {
            let previous = previous.as_deref();
            if let Ok(once) = run(previous, &word) {
                prop_assert_eq!(run(previous, &once), Ok(once), "{}", word);
            }
        }
    }
}
