//! The texts of the units. Pure: what runs where is told, nothing is looked up.
//!
//! Why each directive is there, and why those that a user's manager cannot apply are not, is in
//! docs/decisions/0024-services.md. Read first: systemd.service(5), systemd.exec(5), systemd.syntax(7).

use std::path::{Path, PathBuf};

use control::names::GuestName;
use control::paths::Daemon;

/// Whose service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The user's own: `systemctl --user`.
    User,
    /// The machine's, for root's daemons.
    System,
}

/// What the units must name; places are `None` where the program finds them by itself.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub scope: Scope,
    /// The folder of the four programs.
    pub programs: PathBuf,
    pub config: Option<PathBuf>,
    pub runtime: Option<PathBuf>,
    pub state: Option<PathBuf>,
}

/// A unit to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    pub name: String,
    /// What it is for, for people.
    pub about: String,
    pub text: String,
}

/// The unit's name for a daemon.
pub(crate) fn name(daemon: Daemon) -> String {
    format!("{}.service", daemon.program())
}

/// The unit of one daemon.
pub(crate) fn daemon(site: &Site, daemon: Daemon) -> Unit {
    let name = name(daemon);
    let (about, after) = match daemon {
        Daemon::Netd => ("networks of virtual machines", ""),
        Daemon::Sharefs => ("host folders for virtual machines", ""),
        Daemon::Hostsync => (
            "names of virtual machines in the hosts file",
            "After=sharectl-netd.service\n",
        ),
    };
    let mut line = first_word(&site.programs.join(daemon.program()));
    if let Some(config) = &site.config {
        line.push_str(&format!(" --config {}", word(config)));
    }
    let text = format!(
        "{head}\
         [Unit]\n\
         Description=sharectl {daemon}: {about}\n\
         Documentation=man:sharectl(1)\n\
         {after}\
         StartLimitIntervalSec=60\n\
         StartLimitBurst=10\n\
         \n\
         [Service]\n\
         Type=notify\n\
         {access}\
         ExecStart={line}\n\
         ExecReload=/bin/sh -c \"kill -HUP $MAINPID\"\n\
         {places}\
         Restart=on-failure\n\
         RestartSec=500ms\n\
         TimeoutStartSec=30\n\
         TimeoutStopSec=15\n\
         WatchdogSec={watchdog}\n\
         KillMode=mixed\n\
         {limits}\
         \n\
         [Install]\n\
         WantedBy={target}\n",
        head = head(site.scope, &name),
        access = match daemon {
            // A process that keeps the working one alive may stand before it (sharefs).
            Daemon::Sharefs => "NotifyAccess=all\n",
            Daemon::Netd | Daemon::Hostsync => "",
        },
        places = places(site),
        watchdog = watchdog(daemon),
        limits = limits(daemon),
        target = target(site.scope),
    );
    Unit {
        about: format!("{daemon}: {about}"),
        name,
        text,
    }
}

/// The unit of a VM that starts when network and shares are ready, and stops before they do.
///
/// With a guest, `shell` is the VM's own command line, and `sharectl guest run` adds to it.
pub(crate) fn machine(site: &Site, guest: Option<&GuestName>, shell: &str) -> Unit {
    let (name, about, shell) = match guest {
        None => (
            "sharectl-vm.service".to_owned(),
            "a command after network and shares".to_owned(),
            shell.to_owned(),
        ),
        Some(guest) => {
            let config = site.config.as_deref().map_or_else(String::new, |config| {
                format!(" --config {}", quoted(config))
            });
            (
                format!("sharectl-vm-{guest}.service"),
                format!("the virtual machine of guest {guest}"),
                format!(
                    "exec {}{config} guest run {guest} -- {shell}",
                    quoted(&site.programs.join("sharectl"))
                ),
            )
        }
    };
    let text = format!(
        "{head}\
         [Unit]\n\
         Description=sharectl: {about}\n\
         Documentation=man:sharectl-service(1)\n\
         Wants=sharectl-netd.service sharectl-sharefs.service\n\
         After=sharectl-netd.service sharectl-sharefs.service\n\
         StartLimitIntervalSec=60\n\
         StartLimitBurst=5\n\
         \n\
         [Service]\n\
         ExecStart=/bin/sh -c {shell}\n\
         {places}\
         Restart=on-failure\n\
         RestartSec=2\n\
         TimeoutStopSec=90\n\
         KillMode=mixed\n\
         \n\
         [Install]\n\
         WantedBy={target}\n",
        head = head(site.scope, &name),
        shell = escaped(&shell),
        places = places(site),
        target = target(site.scope),
    );
    Unit { name, about, text }
}

fn head(scope: Scope, name: &str) -> String {
    let user = match scope {
        Scope::User => " --user",
        Scope::System => "",
    };
    format!(
        "# Written by sharectl. Changes of your own belong into a drop-in: systemctl{user} edit {name}\n"
    )
}

/// What each manager reaches when a user, or the machine, is there.
pub(crate) fn target(scope: Scope) -> &'static str {
    match scope {
        Scope::User => "default.target",
        Scope::System => "multi-user.target",
    }
}

fn places(site: &Site) -> String {
    let mut text = String::new();
    for (variable, place) in [
        ("SHARECTL_RUNTIME_DIR", &site.runtime),
        ("SHARECTL_STATE_DIR", &site.state),
    ] {
        if let Some(place) = place {
            let value = format!("{variable}={}", place.display());
            // Unlike command lines, this knows no variables.
            text.push_str(&format!("Environment={}\n", literal(&value)));
        }
    }
    text
}

/// Seconds without a sign of life. A reload of shares looks at their folders, which may be on slow disks.
fn watchdog(daemon: Daemon) -> u32 {
    match daemon {
        Daemon::Netd | Daemon::Hostsync => 30,
        Daemon::Sharefs => 60,
    }
}

/// What the daemon may no longer do. In sharefs any filter of system calls would take away the set-user-id
/// right of fusermount3, which its mounter needs; it confines itself after its mounter has begun.
fn limits(daemon: Daemon) -> String {
    let families = match daemon {
        Daemon::Netd => "AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET",
        Daemon::Hostsync => "AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        Daemon::Sharefs => return "LimitCORE=0\n".to_owned(),
    };
    format!(
        "LimitCORE=0\n\
         UMask=0077\n\
         NoNewPrivileges=yes\n\
         LockPersonality=yes\n\
         MemoryDenyWriteExecute=yes\n\
         RestrictAddressFamilies={families}\n\
         RestrictNamespaces=yes\n\
         RestrictRealtime=yes\n\
         RestrictSUIDSGID=yes\n\
         SystemCallArchitectures=native\n\
         SystemCallFilter=@system-service\n\
         SystemCallErrorNumber=EPERM\n"
    )
}

/// A path as one word of a command line; most need no quotes.
fn word(path: &Path) -> String {
    one_word(path, escaped)
}

/// The same as the first word, in which systemd looks for no variables (systemd.service(5)).
fn first_word(path: &Path) -> String {
    one_word(path, literal)
}

fn one_word(path: &Path, quoted: fn(&str) -> String) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+@:".contains(letter);
    if text.chars().all(plain) {
        text
    } else {
        quoted(&text)
    }
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+@:".contains(letter);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// One word in the syntax of units: quotes, specifiers and variables are letters like others.
fn escaped(text: &str) -> String {
    literal(text).replace('$', "$$")
}

/// The same where no variables are looked for.
fn literal(text: &str) -> String {
    let mut word = String::from("\"");
    for letter in text.chars() {
        match letter {
            '\\' => word.push_str("\\\\"),
            '"' => word.push_str("\\\""),
            '%' => word.push_str("%%"),
            '\n' => word.push_str("\\n"),
            '\t' => word.push_str("\\t"),
            other => word.push(other),
        }
    }
    word.push('"');
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Site {
        Site {
            scope: Scope::User,
            programs: "/usr/bin".into(),
            config: None,
            runtime: None,
            state: None,
        }
    }

    #[test]
    fn a_packaged_unit_names_no_place_of_a_user() {
        for kind in Daemon::ALL {
            let unit = daemon(&site(), kind);
            let start = format!("ExecStart=/usr/bin/{}\n", kind.program());
            assert!(unit.text.contains(&start), "{}", unit.text);
            assert!(!unit.text.contains("Environment="), "{}", unit.text);
            assert!(unit.text.contains("WantedBy=default.target\n"));
        }
    }

    #[test]
    fn only_sharefs_may_start_programs_that_gain_rights() {
        let filtered = |kind| {
            let text = daemon(&site(), kind).text;
            // Each of these implies NoNewPrivileges in a user's manager.
            [
                "NoNewPrivileges",
                "SystemCall",
                "Restrict",
                "LockP",
                "Memory",
            ]
            .iter()
            .any(|name| text.lines().any(|line| line.starts_with(name)))
        };
        assert_eq!(
            Daemon::ALL.map(filtered),
            [true, false, true],
            "netd, sharefs, hostsync"
        );
    }

    #[test]
    fn other_places_are_named_and_quoted() {
        let site = Site {
            programs: "/p $y".into(),
            config: Some("/a b/100%$.toml".into()),
            state: Some("/s $x".into()),
            ..site()
        };
        let text = daemon(&site, Daemon::Netd).text;
        assert!(
            text.contains("ExecStart=\"/p $y/sharectl-netd\" --config \"/a b/100%%$$.toml\"\n"),
            "{text}"
        );
        assert!(
            text.contains("Environment=\"SHARECTL_STATE_DIR=/s $x\"\n"),
            "{text}"
        );
    }

    #[test]
    fn a_machine_comes_after_network_and_shares_with_its_line_untouched() {
        let guest = GuestName::parse("dev").unwrap();
        let unit = machine(&site(), Some(&guest), "qemu -append \"a=$HOME 5%\"");
        assert_eq!(unit.name, "sharectl-vm-dev.service");
        for line in [
            "After=sharectl-netd.service sharectl-sharefs.service",
            "ExecStart=/bin/sh -c \"exec /usr/bin/sharectl guest run dev -- qemu -append \\\"a=$$HOME 5%%\\\"\"",
        ] {
            assert!(
                unit.text.lines().any(|found| found == line),
                "{}",
                unit.text
            );
        }
        assert_eq!(machine(&site(), None, "true").name, "sharectl-vm.service");
    }
}
