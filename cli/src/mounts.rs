//! Mounts of a guest as the files and commands that make them. Pure: nothing is mounted here.
//!
//! Read first: fstab(5), systemd.mount(5), systemd.unit(5) "String escaping".

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Serialize;

/// How mounts are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Lines of /etc/fstab.
    Fstab,
    /// Units of systemd, each under the name of its file.
    Systemd,
    /// Commands that do it now, and nothing where it is done.
    Shell,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Mount {
    what: String,
    at: PathBuf,
    #[serde(flatten)]
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "type")]
enum Kind {
    Virtiofs,
    /// Of a folder below another mount.
    Bind {
        below: String,
    },
}

/// What must not start before its folders are there.
const BEFORE: &str = "docker.service";

impl Mount {
    /// A virtiofs device by its tag.
    pub(crate) fn device(tag: &str, at: &Path) -> Self {
        Self {
            what: tag.to_owned(),
            at: at.to_owned(),
            kind: Kind::Virtiofs,
        }
    }

    /// A folder below the mount at `below`, a second time.
    pub(crate) fn bind(folder: String, at: &Path, below: &str) -> Self {
        let below = below.to_owned();
        Self {
            what: folder,
            at: at.to_owned(),
            kind: Kind::Bind { below },
        }
    }

    fn fstab(&self) -> String {
        let (kind, bind) = match self.kind {
            Kind::Virtiofs => ("virtiofs", ""),
            Kind::Bind { .. } => ("none", "bind,"),
        };
        // nofail: a guest without the share boots all the same.
        format!(
            "{} {} {kind} {bind}nofail,x-systemd.before={BEFORE} 0 0\n",
            fstab_word(&self.what),
            fstab_word(&self.at.to_string_lossy())
        )
    }

    fn systemd(&self) -> String {
        let (kind, options, needs) = match &self.kind {
            Kind::Virtiofs => ("virtiofs", "", String::new()),
            Kind::Bind { below } => {
                let unit = unit_name(Path::new(below));
                let needs = format!("Requires={unit}\nAfter={unit}\n");
                ("none", "Options=bind\n", needs)
            }
        };
        let at = self.at.to_string_lossy();
        format!(
            "# /etc/systemd/system/{unit}\n[Unit]\nDescription=Host folder at {at}\n{needs}Before={BEFORE}\n\n\
             [Mount]\nWhat={what}\nWhere={at}\nType={kind}\n{options}\n\
             [Install]\nWantedBy=local-fs.target\n",
            unit = unit_name(&self.at),
            at = at.replace('%', "%%"),
            what = self.what.replace('%', "%%"),
        )
    }

    fn shell(&self) -> String {
        let how = match self.kind {
            Kind::Virtiofs => "-t virtiofs",
            Kind::Bind { .. } => "--bind",
        };
        let (what, at) = (
            shell_word(&self.what),
            shell_word(&self.at.to_string_lossy()),
        );
        // As the kernel writes it there: the octal of fstab(5).
        let there = shell_word(&format!(" {} ", fstab_word(&self.at.to_string_lossy())));
        format!("mkdir -p {at}\ngrep -qF {there} /proc/mounts || mount {how} {what} {at}\n")
    }
}

/// All of them, in order.
pub(crate) fn text(mounts: &[Mount], form: Form) -> String {
    let texts: Vec<String> = match form {
        Form::Fstab => mounts.iter().map(Mount::fstab).collect(),
        Form::Systemd => mounts.iter().map(Mount::systemd).collect(),
        Form::Shell => mounts.iter().map(Mount::shell).collect(),
    };
    texts.join(if form == Form::Systemd { "\n" } else { "" })
}

/// fstab(5): white space and the backslash are written in octal.
fn fstab_word(text: &str) -> String {
    let mut word = String::new();
    for letter in text.chars() {
        match letter {
            ' ' | '\t' | '\n' | '\\' | '#' => {
                word.push_str(&format!("\\{:03o}", u32::from(letter)))
            }
            _ => word.push(letter),
        }
    }
    word
}

/// systemd.unit(5): `/` is `-`, and what is no letter, digit, `:`, `_` or `.` is written in hexadecimal.
fn unit_name(path: &Path) -> String {
    let path = path.to_string_lossy();
    let trimmed = path.trim_matches('/');
    if trimmed.is_empty() {
        return "-.mount".to_owned();
    }
    let mut name = String::new();
    for (index, byte) in trimmed.bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if index == 0 => name.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => {
                name.push(char::from(byte));
            }
            _ => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    name.push_str(".mount");
    name
}

/// As it is where a shell sees nothing special in it, else in single quotes.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.,:+@=".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(form: Form, expected: Expect) {
        let list = [
            Mount::device("sharectl", "/run/sharectl".as_ref()),
            Mount::bind(
                "/run/sharectl/d".to_owned(),
                "/mnt/d's new-disk".as_ref(),
                "/run/sharectl",
            ),
        ];
        expected.assert_eq(&text(&list, form));
    }

    #[test]
    fn fstab_has_a_line_a_mount() {
        check(
            Form::Fstab,
            expect![[r"
                sharectl /run/sharectl virtiofs nofail,x-systemd.before=docker.service 0 0
                /run/sharectl/d /mnt/d's\040new-disk none bind,nofail,x-systemd.before=docker.service 0 0
            "]],
        );
    }

    #[test]
    fn a_unit_has_the_name_of_its_path_and_comes_behind_what_it_is_below() {
        check(
            Form::Systemd,
            expect![[r#"
            # /etc/systemd/system/run-sharectl.mount
            [Unit]
            Description=Host folder at /run/sharectl
            Before=docker.service

            [Mount]
            What=sharectl
            Where=/run/sharectl
            Type=virtiofs

            [Install]
            WantedBy=local-fs.target

            # /etc/systemd/system/mnt-d\x27s\x20new\x2ddisk.mount
            [Unit]
            Description=Host folder at /mnt/d's new-disk
            Requires=run-sharectl.mount
            After=run-sharectl.mount
            Before=docker.service

            [Mount]
            What=/run/sharectl/d
            Where=/mnt/d's new-disk
            Type=none
            Options=bind

            [Install]
            WantedBy=local-fs.target
        "#]],
        );
        assert_eq!(unit_name("/.a/b-c".as_ref()), r"\x2ea-b\x2dc.mount");
    }

    #[test]
    fn commands_may_be_given_twice() {
        check(
            Form::Shell,
            expect![[r#"
                mkdir -p /run/sharectl
                grep -qF ' /run/sharectl ' /proc/mounts || mount -t virtiofs sharectl /run/sharectl
                mkdir -p '/mnt/d'\''s new-disk'
                grep -qF ' /mnt/d'\''s\040new-disk ' /proc/mounts || mount --bind /run/sharectl/d '/mnt/d'\''s new-disk'
            "#]],
        );
    }
}
