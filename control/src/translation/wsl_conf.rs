//! `/etc/wsl.conf`: what a WSL distribution was told about its drives and files.
//!
//! Sections, `key = value`, comments behind `#`; names without regard to case. WSL goes on behind a line that it does
//! not understand, and so does this: such lines are listed in [`WslConf::problems`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the file says, with WSL's own defaults for what it does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WslConf {
    /// `[automount] enabled`: whether Windows' drives are mounted at start.
    pub automount: bool,
    /// `[automount] root`: the folder that they are mounted in; absolute.
    pub automount_root: PathBuf,
    /// `[network] generateHosts`: whether /etc/hosts is written anew, from Windows' own, at each start.
    pub generate_hosts: bool,
    /// `[network] generateResolvConf`: the same for /etc/resolv.conf.
    pub generate_resolv_conf: bool,
    /// Everything, by section and key in lower case.
    values: BTreeMap<(String, String), String>,
    /// Lines that say nothing, or a value that cannot be: line from 1, why.
    pub problems: Vec<(usize, String)>,
}

impl Default for WslConf {
    fn default() -> Self {
        Self {
            automount: true,
            automount_root: PathBuf::from("/mnt"),
            generate_hosts: true,
            generate_resolv_conf: true,
            values: BTreeMap::new(),
            problems: Vec::new(),
        }
    }
}

impl WslConf {
    /// Where the file is.
    pub const PLACE: &str = "/etc/wsl.conf";

    /// Reads the file's text.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        let mut section = String::new();
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let outcome = if let Some(rest) = line.strip_prefix('[') {
                match rest.split_once(']') {
                    Some((name, _comment)) => {
                        section = name.trim().to_ascii_lowercase();
                        Ok(())
                    }
                    None => Err("nothing closes the [".to_owned()),
                }
            } else {
                conf.set(&section, line)
            };
            if let Err(problem) = outcome {
                conf.problems.push((index + 1, problem));
            }
        }
        conf
    }

    /// A value of the file that has no field of its own here.
    #[must_use]
    pub fn value(&self, section: &str, key: &str) -> Option<&str> {
        let place = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
        self.values.get(&place).map(String::as_str)
    }

    /// Where WSL mounts the drive of this letter, if it mounts drives.
    #[must_use]
    pub fn drive_root(&self, letter: char) -> Option<PathBuf> {
        let name = letter.to_ascii_lowercase().to_string();
        self.automount.then(|| self.automount_root.join(name))
    }

    fn set(&mut self, section: &str, line: &str) -> Result<(), String> {
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| format!("\"{}\" is not key = value", line.escape_debug()))?;
        let key = key.trim().to_ascii_lowercase();
        let value = unquote(value.trim());
        match (section, key.as_str()) {
            ("automount", "enabled") => self.automount = truth(&key, &value)?,
            ("automount", "root") => {
                if !Path::new(&value).is_absolute() {
                    return Err(format!("root \"{}\" is not absolute", value.escape_debug()));
                }
                self.automount_root = Path::new(&value).components().collect();
            }
            ("network", "generatehosts") => self.generate_hosts = truth(&key, &value)?,
            ("network", "generateresolvconf") => self.generate_resolv_conf = truth(&key, &value)?,
            // Kept for whoever asks; the rest of the file is none of our business.
            _another => {}
        }
        self.values.insert((section.to_owned(), key), value);
        Ok(())
    }
}

fn truth(key: &str, value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _neither => Err(format!(
            "{key} \"{}\" is neither true nor false",
            value.escape_debug()
        )),
    }
}

/// The value without its quotes, or without the comment behind it.
fn unquote(value: &str) -> String {
    for quote in ['"', '\''] {
        let quoted = value
            .strip_prefix(quote)
            .and_then(|rest| rest.split_once(quote));
        if let Some((inside, _comment)) = quoted {
            return inside.to_owned();
        }
    }
    match value.split_once('#') {
        Some((value, _comment)) => value.trim_end().to_owned(),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_file_means_wsls_defaults() {
        let conf = WslConf::parse("");
        assert_eq!(conf, WslConf::default());
        assert_eq!(conf.drive_root('C').unwrap(), Path::new("/mnt/c"));
    }

    #[test]
    fn values_are_read_in_any_dress() {
        let conf = WslConf::parse(
            "\u{feff}# mine\r\n[ AutoMount ] # drives\r\nRoot = \"/drives/\" # here\r\nenabled=1\r\n\n[network]\ngenerateHosts = false # no\ngenerateresolvconf=FALSE\nhostname = 'box'\n; end\n",
        );
        assert_eq!(conf.problems, []);
        assert!(conf.automount && !conf.generate_hosts && !conf.generate_resolv_conf);
        assert_eq!(conf.drive_root('D').unwrap(), Path::new("/drives/d"));
        assert_eq!(conf.value("network", "hostName"), Some("box"));
        assert_eq!(conf.value("network", "nothing"), None);
    }

    #[test]
    fn the_root_may_be_the_root() {
        let conf = WslConf::parse("[automount]\nroot = /\n");
        assert_eq!(conf.drive_root('C').unwrap(), Path::new("/c"));
        assert_eq!(
            WslConf::parse("[automount]\nenabled = false").drive_root('C'),
            None
        );
    }

    #[test]
    fn a_key_counts_only_in_its_section() {
        let conf = WslConf::parse("root = /x\n[boot]\ngenerateHosts = false\n");
        assert!(conf.generate_hosts);
        assert_eq!(conf.automount_root, Path::new("/mnt"));
    }

    #[test]
    fn what_cannot_be_is_listed_and_changes_nothing() {
        let conf =
            WslConf::parse("[automount\n[automount]\nroot = mnt\nenabled = maybe\nnonsense\n");
        let lines: Vec<usize> = conf.problems.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3, 4, 5]);
        assert!(conf.problems[1].1.contains("root \"mnt\" is not absolute"));
        assert_eq!((conf.automount, conf.automount_root), (true, "/mnt".into()));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "([\\[\\]=#\"'\\n a]|root|automount|/){0,30}") {
            let conf = WslConf::parse(&text);
            prop_assert!(conf.automount_root.is_absolute());
        }
    }
}
