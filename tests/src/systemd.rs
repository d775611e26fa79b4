//! A machine that systemd runs, as a container of namespaces: its own processes, mounts, network and cgroups,
//! over a Debian (or Ubuntu) root of its own. Nothing in it reaches the host, and all of it ends with its value.
//!
//! The root is of the host's own release, so that the programs built here find their libraries; it is made once by
//! the install step of `cargo xtask test`, which alone uses the network, and unpacked for each machine.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::command::{self, Output};
use crate::limit::{retry, wait_for};
use crate::packages::Need;
use crate::skip::Skip;
use crate::{blackbox, debian, place, user};

/// What a machine is made with, beside its root.
pub const NEEDS: &[Need] = &[Need {
    program: "unshare",
    package: "util-linux",
}];

/// What the root has beside the least that a Debian needs.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,fuse3";

const UNPACK_LIMIT: Duration = Duration::from_secs(120);
const BOOT_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const COMMAND_LIMIT: Duration = Duration::from_secs(90);

const PREFIX: &str = "sharectl-machine-";
/// What an unpacked root, packages and logs take at most, in bytes.
const ROOM: u64 = 1 << 30;

/// The ordinary user of every machine.
pub const USER: &str = "ann";
const UID: u32 = 1000;

/// A file that keeps the root from run to run, made when it is not there or not of this very recipe. Manuals are
/// in it: it is a system as people have it.
///
/// # Errors
/// When the release is not known, or the root cannot be made.
pub fn root() -> Result<PathBuf> {
    let file = place::cache()?.join("debian.tar");
    let made_of = place::cache()?.join("debian.made-of");
    let recipe = debian::Recipe::new(PACKAGES, &[])?;
    if !file.is_file() || !fs::read_to_string(&made_of).is_ok_and(|text| text == recipe.text()) {
        let fresh = place::cache()?.join("debian.fresh.tar");
        recipe.make(&fresh)?;
        fs::rename(&fresh, &file).context("keep the root")?;
        fs::write(&made_of, recipe.text())?;
    }
    Ok(file)
}

/// The machine. Its folder outlives a reboot, not the value.
#[derive(Debug)]
pub struct Machine {
    folder: PathBuf,
    /// `unshare`, whose child is the machine's first process.
    running: Option<Child>,
}

impl Machine {
    /// Unpacks a root and boots it.
    ///
    /// # Errors
    /// A [`Skip`] for whoever is not root; else what went wrong, with the console in the logs.
    pub fn boot() -> Result<Self> {
        if !user::is_root() {
            return Err(Skip::because("a machine of namespaces needs root"));
        }
        let root = root()?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .tempdir_in(beds()?)?
            .keep();
        let mut machine = Self {
            folder,
            running: None,
        };
        let at = machine.root();
        fs::create_dir(&at)?;
        let mut unpack = Command::new("tar");
        unpack.arg("-xf").arg(&root).arg("-C").arg(&at);
        command::run(&mut unpack, UNPACK_LIMIT).context("unpack the root")?;
        // Empty: systemd gives the machine an identity of its own. No name is asked for at the first boot.
        fs::write(at.join("etc/machine-id"), "")?;
        fs::write(at.join("etc/hostname"), "machine\n")?;
        fs::write(at.join("etc/hosts"), "127.0.0.1 localhost\n")?;
        machine.start()?;
        machine.run(&format!(
            "useradd --create-home --uid {UID} --shell /bin/bash {USER}"
        ))?;
        Ok(machine)
    }

    /// Its root, as the host sees it while it does not run.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    fn start(&mut self) -> Result<()> {
        let log = fs::File::create(self.folder.join("console"))?;
        // Its own end follows from ours, and from its own that of all in it.
        let mut line = Command::new("setpriv");
        line.args(["--pdeathsig", "KILL", "unshare", "--mount"])
            .args(["--propagation", "private", "sh", "-ec", OUTSIDE, "sh"])
            .arg(self.root())
            .arg(INSIDE)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        self.running = Some(line.spawn().context("start the machine")?);
        wait_for("the machine's systemd", BOOT_LIMIT, || {
            if let Some(child) = &mut self.running
                && let Some(status) = child.try_wait()?
            {
                bail!("the machine ended at once: {status}");
            }
            let state = self
                .first()
                .ok()
                .and_then(|_| self.output("systemctl is-system-running").ok());
            let state = state.map(|output| output.stdout.trim().to_owned());
            match state.as_deref() {
                Some("running") => Ok(Some(())),
                Some("degraded") => {
                    bail!("{}", self.run("systemctl list-units --failed --no-pager")?)
                }
                _ => Ok(None),
            }
        })
    }

    /// The first process: the only child of `unshare`.
    fn first(&self) -> Result<u32> {
        let child = self.running.as_ref().context("the machine does not run")?;
        let list = format!("/proc/{0}/task/{0}/children", child.id());
        let text = fs::read_to_string(&list).with_context(|| format!("read {list}"))?;
        let pid = text.split_whitespace().next().context("no child yet")?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm"))?;
        ensure!(name.trim() == "systemd", "{name} is not systemd yet");
        Ok(pid.parse()?)
    }

    fn enter(&self, words: &[&str]) -> Result<Command> {
        let mut line = Command::new("nsenter");
        line.arg(format!("--target={}", self.first()?))
            .args(["--all", "--root", "--wd", "env", "-i"])
            .arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin")
            .args(words);
        Ok(line)
    }

    /// A shell command by root.
    ///
    /// # Errors
    /// When it does not end. A bad status is not an error here.
    pub fn output(&self, shell: &str) -> Result<Output> {
        command::output(&mut self.enter(&["sh", "-c", shell])?, COMMAND_LIMIT)
            .with_context(|| shell.to_owned())
    }

    /// A shell command by root that must succeed; gives its trimmed standard output.
    ///
    /// # Errors
    /// Any status but 0.
    pub fn run(&self, shell: &str) -> Result<String> {
        let stdout = self
            .output(shell)?
            .success()
            .with_context(|| shell.to_owned())?;
        Ok(stdout.trim().to_owned())
    }

    /// A shell command by the ordinary user, with what a login session of theirs has in its environment.
    ///
    /// # Errors
    /// When it does not end. A bad status is not an error here.
    pub fn user_output(&self, shell: &str) -> Result<Output> {
        let (id, home) = (UID.to_string(), format!("HOME=/home/{USER}"));
        let runtime = format!("XDG_RUNTIME_DIR=/run/user/{UID}");
        let words = [
            "setpriv",
            "--reuid",
            &id,
            "--regid",
            &id,
            "--init-groups",
            "env",
            &home,
            &format!("USER={USER}"),
            &runtime,
            "sh",
            "-c",
            &format!("cd && {{ {shell}\n}}"),
        ];
        command::output(&mut self.enter(&words)?, COMMAND_LIMIT).with_context(|| shell.to_owned())
    }

    /// The same, and it must succeed.
    ///
    /// # Errors
    /// Any status but 0.
    pub fn user(&self, shell: &str) -> Result<String> {
        let stdout = self
            .user_output(shell)?
            .success()
            .with_context(|| shell.to_owned())?;
        Ok(stdout.trim().to_owned())
    }

    /// Logs the user in as at a console, by PAM, and leaves the session open until `end` is written to.
    ///
    /// # Errors
    /// When `su` cannot be started.
    pub fn login(&self) -> Result<Session> {
        let mut line = self.enter(&["su", "--login", USER, "--command", "cat"])?;
        let child = line
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("log in")?;
        Ok(Session(child))
    }

    /// Every path of the machine's disk, but for what systemd, dpkg and apt keep for themselves.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn listing(&self) -> Result<Vec<String>> {
        let skipped = [
            "/proc",
            "/sys",
            "/dev",
            "/run",
            "/tmp",
            "/var/log/journal",
            "/var/lib/systemd",
            "/var/cache",
            "/var/tmp",
            "/var/log/dpkg.log",
            "/var/log/apt",
            "/var/lib/apt",
        ];
        let prune: Vec<String> = skipped.iter().map(|path| format!("-path {path}")).collect();
        let text = self.run(&format!(
            "find / -xdev \\( {} \\) -prune -o -print | sort",
            prune.join(" -o ")
        ))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Boots it again, as `systemctl reboot` does.
    ///
    /// # Errors
    /// When it does not end or does not come up.
    pub fn reboot(&mut self) -> Result<()> {
        // The command may be cut off by what it asks for.
        drop(self.output("systemctl reboot"));
        let mut child = self.running.take().context("the machine does not run")?;
        let Some(status) = command::wait(&mut child, STOP_LIMIT)? else {
            self.running = Some(child);
            bail!("the machine does not go down");
        };
        // reboot(2) ends the first process of a PID namespace with this signal.
        let restart = rustix::process::Signal::HUP.as_raw();
        ensure!(
            status.signal() == Some(restart) || status.code() == Some(128 + restart),
            "the machine did not reboot: {status}"
        );
        self.start()
    }
}

/// Where machines are unpacked: in memory where there is room, for some disks take long to forget files.
fn beds() -> Result<PathBuf> {
    let memory = Path::new("/dev/shm");
    let Ok(found) = rustix::fs::statvfs(memory) else {
        return place::staging();
    };
    // Those of dead runs, which nobody else sweeps.
    for entry in fs::read_dir(memory)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next()?.parse().ok());
        if owner.is_some_and(|pid| !place::is_alive(pid)) {
            // Somebody else may have been faster.
            drop(fs::remove_dir_all(entry.path()));
        }
    }
    if found.f_bavail * found.f_frsize > ROOM {
        Ok(memory.to_owned())
    } else {
        place::staging()
    }
}

/// Somebody who is logged in; dropped, they log out.
#[derive(Debug)]
pub struct Session(Child);

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It ends at the end of its input.
        drop(command::wait(&mut self.0, Duration::from_secs(10)));
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Ok(output) = self.output("journalctl --lines=200 --no-pager --no-hostname") {
            blackbox::keep("journal of the machine", &output.stdout);
        }
        blackbox::keep_file("console of the machine", &self.folder.join("console"));
        if let Ok(first) = self.first()
            && let Some(pid) = i32::try_from(first)
                .ok()
                .and_then(rustix::process::Pid::from_raw)
        {
            // With the first process all of its namespace ends.
            // It may have ended.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if let Some(child) = &mut self.running {
            drop(command::wait(child, Duration::from_secs(10)));
            drop(child.kill());
            drop(child.wait());
        }
        // The cgroup goes when its last process is gone.
        let folder = self.folder.clone();
        drop(retry("remove the machine", Duration::from_secs(10), || {
            fs::remove_dir_all(&folder).context("remove")
        }));
    }
}

/// In a mount namespace of its own: a cgroup to be the machine's root cgroup, then all other namespaces.
const OUTSIDE: &str = r#"
cgroups=$(mktemp -d)
mount -t cgroup2 none "$cgroups"
# Those of machines that are gone, with all that is below them; a process's number may be one of theirs.
find "$cgroups"/sharectl-machine-* -depth -type d -exec rmdir {} + 2>/dev/null || true
mine=$(mktemp -d "$cgroups/sharectl-machine-XXXXXX")
chmod 755 "$mine"
echo $$ > "$mine/cgroup.procs"
umount "$cgroups"
rmdir "$cgroups"
exec unshare --mount --propagation private --uts --ipc --net --pid --cgroup --fork --kill-child sh -ec "$2" sh "$1"
"#;

/// As the first process: the mounts that systemd expects of a container manager, then systemd.
const INSIDE: &str = r#"
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for folder in run dev tmp; do mount -t tmpfs -o mode=755 tmpfs $folder; done
chmod 1777 tmp
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0" "fuse 10 229"; do
    set -- $node
    mknod -m 666 dev/$1 c $2 $3
done
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
hostname machine
pivot_root . .
umount -l .
exec env -i container=sharectl-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
"#;

/// Puts a file of the host into a machine's root.
///
/// # Errors
/// When it cannot be copied.
pub fn bring(machine: &Machine, file: &Path, to: &str) -> Result<()> {
    let to = machine.root().join(to.trim_start_matches('/'));
    fs::copy(file, &to).with_context(|| format!("copy {} to {}", file.display(), to.display()))?;
    Ok(())
}
