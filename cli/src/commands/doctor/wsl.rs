//! Checks of a WSL distribution: what of Windows' subsystem decides whether guests, units and shares work.
//!
//! Read first: `/etc/wsl.conf` and `.wslconfig` in Microsoft's documentation ("Advanced settings configuration in WSL").

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use control::config::Config;
use control::translation::mountinfo::{Mount, MountTable};
use control::translation::wsl_conf::WslConf;

use super::facts::Facts;
use super::finding::{Finding, Subject};
use super::nothing;
use crate::limited::{Ran, run};

const AGAIN: &str = "then, in Windows: wsl.exe --shutdown";
/// For `wslinfo`, which asks Windows.
const ASK_LIMIT: Duration = Duration::from_secs(3);

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let release = facts.read("proc/sys/kernel/osrelease");
    let Some(version) = version(&release) else {
        return nothing("wsl", "this is not WSL");
    };
    let conf = WslConf::parse(&facts.read("etc/wsl.conf"));
    let mounts = MountTable::parse(facts.read("proc/self/mountinfo").as_bytes());
    let mut findings = vec![
        judge_version(version, release.trim()),
        configuration(&conf),
        systemd(&facts.root, &conf),
        interop(facts),
        networking(mode()),
    ];
    findings.extend(drives(&mounts, &conf, facts.config.as_ref().ok()));
    findings
}

/// 1 or 2; none where this is no WSL. WSL 1 calls its kernel 4.4.0-19041-Microsoft, WSL 2
/// 5.15.90.1-microsoft-standard-WSL2.
fn version(release: &str) -> Option<u8> {
    let lower = release.to_ascii_lowercase();
    match (
        lower.contains("microsoft"),
        lower.contains("wsl2") || lower.contains("-standard"),
    ) {
        (true, true) => Some(2),
        (true, false) => Some(1),
        // A kernel of one's own keeps this part of the name, if any.
        (false, _) => lower.contains("wsl2").then_some(2),
    }
}

fn judge_version(version: u8, release: &str) -> Finding {
    let subject = Subject::of("wsl", "version");
    match version {
        2 => subject.ok(format!("WSL 2, kernel {release}")),
        _ => subject.fails(
            format!("WSL 1, kernel {release}: no VM runs in it, nor FUSE, nor taps"),
            "in Windows: wsl.exe --set-version DISTRIBUTION 2",
        ),
    }
}

fn configuration(conf: &WslConf) -> Finding {
    let subject = Subject::of("wsl", "conf");
    let wrong: Vec<String> = conf
        .problems
        .iter()
        .map(|(line, why)| format!("line {line}: {why}"))
        .collect();
    match wrong.is_empty() {
        true => subject.ok("every line of /etc/wsl.conf is understood"),
        false => subject.warns(
            format!("/etc/wsl.conf: {}", wrong.join("; ")),
            format!("sudoedit /etc/wsl.conf, {AGAIN}"),
        ),
    }
}

fn systemd(root: &Path, conf: &WslConf) -> Finding {
    let subject = Subject::of("wsl", "systemd");
    // sd_booted(3).
    if root.join("run/systemd/system").is_dir() {
        return subject.ok("systemd runs: sharectl service install works");
    }
    let asked = conf.value("boot", "systemd") == Some("true");
    match asked {
        true => subject.warns("/etc/wsl.conf wants systemd, but it does not run", AGAIN),
        false => subject.warns(
            "systemd does not run: sharectl service install does not work, sharectl up --keep-running does",
            format!("in /etc/wsl.conf, [boot]: systemd=true, {AGAIN}"),
        ),
    }
}

/// Whether Windows' programs can be started.
fn interop(facts: &Facts) -> Finding {
    let subject = Subject::of("wsl", "interop");
    let registered = ["WSLInterop", "WSLInterop-late"].iter().any(|name| {
        facts
            .read(&format!("proc/sys/fs/binfmt_misc/{name}"))
            .starts_with("enabled")
    });
    match registered {
        true => subject.ok("Windows' programs can be started"),
        false => subject.warns(
            "Windows' programs cannot be started: no explorer.exe, no wslinfo, no editor of Windows",
            format!("in /etc/wsl.conf, [interop]: enabled=true, {AGAIN}; under systemd: sudo systemctl restart systemd-binfmt"),
        ),
    }
}

/// What `wslinfo --networking-mode` says; none where it is not there, or does not answer.
fn mode() -> Option<String> {
    let mut line = Command::new("wslinfo");
    line.arg("--networking-mode");
    match run(line, ASK_LIMIT) {
        Ran::Ended(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            Some(text.trim().to_owned()).filter(|mode| !mode.is_empty())
        }
        Ran::Ended(_) | Ran::TooLong | Ran::Not(_) => None,
    }
}

fn networking(mode: Option<String>) -> Finding {
    let subject = Subject::of("wsl", "networking");
    match mode.as_deref() {
        Some(mode @ "mirrored") => subject.ok(format!(
            "{mode}: Windows and this system share addresses and ports; a port that is taken in Windows is taken here"
        )),
        Some(mode @ ("nat" | "virtioproxy")) => subject.ok(format!(
            "{mode}: Windows reaches what listens on this system's own address, or on localhost where it forwards that"
        )),
        Some("none") => subject.fails(
            "none: this system has no network, so guests reach only each other and it",
            format!("in .wslconfig of Windows, [wsl2]: networkingMode=nat, {AGAIN}"),
        ),
        Some(other) => subject.warns(
            format!("\"{}\" is a mode that sharectl does not know", other.escape_debug()),
            "in .wslconfig of Windows, [wsl2]: networkingMode=nat",
        ),
        None => subject.skipped("wslinfo --networking-mode does not say"),
    }
}

/// Windows' drives, and whether files on them can have modes and owners where a share needs that.
fn drives(mounts: &MountTable, conf: &WslConf, config: Option<&Config>) -> Vec<Finding> {
    let seen = |mount: &&Mount| mount.windows_source().is_some() && mounts.is_seen(mount);
    let windows: Vec<&Mount> = mounts.mounts.iter().filter(seen).collect();
    if windows.is_empty() {
        let subject = Subject::of("wsl", "drives");
        return vec![match conf.automount {
            true => subject.warns(
                "no drive of Windows is mounted",
                "sudo mount -t drvfs C: /mnt/c; see [automount] in /etc/wsl.conf",
            ),
            false => subject.skipped("/etc/wsl.conf says that no drive is mounted at start"),
        }];
    }
    let judge = |mount: &Mount| {
        let point = mount.point.display();
        let source = mount.windows_source().unwrap_or_default();
        let subject = Subject::of("wsl", format!("drive.{point}"));
        let shares: Vec<String> = config
            .iter()
            .flat_map(|config| config.shares.values())
            .filter(|share| !share.read_only)
            .filter(|share| {
                mounts
                    .shows(&share.path)
                    .is_some_and(|shown| std::ptr::eq(shown, mount))
            })
            .map(|share| share.name.to_string())
            .collect();
        match (has_metadata(mount), shares.is_empty()) {
            (true, _) => subject.ok(format!("{source} is at {point}, with modes and owners")),
            (false, true) => subject.ok(format!("{source} is at {point}, without modes and owners")),
            (false, false) => subject.warns(
                format!(
                    "{source} is at {point} without the option metadata: what guests do with chmod and chown in {} is lost",
                    shares.join(", ")
                ),
                format!("in /etc/wsl.conf, [automount]: options=\"metadata\", {AGAIN}; or owner-store in [share.{}]", shares.join("], [share.")),
            ),
        }
    };
    windows.into_iter().map(judge).collect()
}

/// `metadata` among the words of drvfs' options, which 9P carries in the name to attach.
fn has_metadata(mount: &Mount) -> bool {
    let options = mount
        .options
        .split(|byte| matches!(byte, b',' | b';' | b'='));
    options.into_iter().any(|word| word == b"metadata")
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::Bed;
    use super::super::finding::State;
    use super::*;

    const WSL2: &str = "5.15.153.1-microsoft-standard-WSL2\n";
    const MOUNTS: &str = "22 1 8:32 / / rw - ext4 /dev/sdc rw\n\
        60 22 0:50 / /mnt/c rw,noatime - 9p C:\\134 rw,aname=drvfs;path=C:\\134;uid=1000;symlinkroot=/mnt/,trans=fd\n\
        61 22 0:51 / /mnt/d rw,noatime - 9p D:\\134 rw,aname=drvfs;path=D:\\134;metadata;uid=1000,trans=fd\n";

    fn states(bed: &Bed) -> Vec<(String, State)> {
        let findings = check(&bed.facts);
        findings
            .into_iter()
            .map(|found| (found.id, found.state))
            .collect()
    }

    #[test]
    fn a_machine_that_is_no_wsl_is_not_looked_at() {
        let bed = Bed::with("");
        bed.file("proc/sys/kernel/osrelease", "6.1.0-37-amd64\n");
        assert_eq!(states(&bed), [("wsl".to_owned(), State::Skipped)]);
        for (release, expected) in [
            (WSL2, Some(2)),
            ("4.4.0-19041-Microsoft", Some(1)),
            ("6.6.1-mine-WSL2", Some(2)),
            ("6.8.0-azure", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn a_distribution_is_looked_at_as_a_whole() {
        let bed = Bed::with("[share.c]\npath = \"/mnt/c/src\"\n[share.d]\npath = \"/mnt/d/src\"\n");
        bed.file("proc/sys/kernel/osrelease", WSL2);
        bed.file("proc/self/mountinfo", MOUNTS);
        bed.file(
            "proc/sys/fs/binfmt_misc/WSLInterop-late",
            "enabled\ninterpreter /init\n",
        );
        bed.file("run/systemd/system/x", "");
        bed.file("etc/wsl.conf", "[boot]\nsystemd=true\n");
        let seen = states(&bed);
        for (id, state) in [
            ("wsl.version", State::Ok),
            ("wsl.conf", State::Ok),
            ("wsl.systemd", State::Ok),
            ("wsl.interop", State::Ok),
            ("wsl.drive./mnt/c", State::Warn),
            ("wsl.drive./mnt/d", State::Ok),
        ] {
            assert!(seen.contains(&(id.to_owned(), state)), "{id}: {seen:?}");
        }
    }

    #[test]
    fn what_is_off_in_a_distribution_is_told_with_the_line_that_turns_it_on() {
        let bed = Bed::with("");
        bed.file("proc/sys/kernel/osrelease", "4.4.0-19041-Microsoft");
        bed.file("etc/wsl.conf", "[automount]\nenabled = perhaps\n");
        let findings = check(&bed.facts);
        let of = |id: &str| findings.iter().find(|found| found.id == id).unwrap();
        assert_eq!(of("wsl.version").state, State::Fail);
        assert!(of("wsl.conf").evidence.contains("line 2: enabled"));
        assert!(
            of("wsl.systemd")
                .fix
                .as_ref()
                .unwrap()
                .contains("systemd=true")
        );
        assert!(
            of("wsl.interop")
                .fix
                .as_ref()
                .unwrap()
                .contains("enabled=true")
        );
        assert_eq!(of("wsl.drives").state, State::Warn);
    }

    #[test]
    fn modes_of_the_network_are_told_apart() {
        let state = |mode: &str| networking(Some(mode.to_owned())).state;
        assert_eq!(state("nat"), State::Ok);
        assert_eq!(state("mirrored"), State::Ok);
        assert_eq!(state("none"), State::Fail);
        assert_eq!(state("quantum"), State::Warn);
        assert_eq!(networking(None).state, State::Skipped);
    }
}
