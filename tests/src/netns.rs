//! Network namespaces of our own: real kernels' TCP stacks and DHCP clients at full speed, without a
//! byte on the host's network.
//!
//! A namespace dies with its value, and with it every process in it. Its name holds our process id:
//! those of dead runs are swept when the first one of a run is made. Each has its own resolv.conf and
//! hosts file (ip-netns(8) binds what lies in /etc/netns/NAME over /etc), so no client can touch the
//! host's.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::{self, Output};
use crate::skip::Skip;
use crate::{packages, place, user};

/// For one command, unless said otherwise.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

const PREFIX: &str = "sharectl";
const NAMED: &str = "/run/netns";
const FILES: &str = "/etc/netns";

/// A network namespace with loopback up. Dropping it ends all that runs in it.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace; `label` tells what for.
    ///
    /// # Errors
    /// A [`Skip`] for whoever is not root; else what ip(8) says.
    pub fn new(label: &str) -> Result<Self> {
        static SWEPT: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !user::is_root() {
            return Err(Skip::because("network namespaces need root"));
        }
        packages::ensure(packages::CLIENTS)?;
        SWEPT.call_once(sweep);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}-{label}", std::process::id());
        let files = Path::new(FILES).join(&name);
        fs::create_dir_all(&files).with_context(|| format!("create {}", files.display()))?;
        fs::write(files.join("resolv.conf"), "")?;
        fs::write(files.join("hosts"), "127.0.0.1 localhost\n")?;
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.run("ip link set lo up")?;
        // As on any host with systemd: everybody may ping.
        namespace.run("echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range")?;
        Ok(namespace)
    }

    /// Its name for ip(8).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it, as setns(2) wants it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NAMED).join(&self.name)
    }

    /// A command line that runs `program` in it, as root.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut line = Command::new("ip");
        line.args(["netns", "exec", &self.name]).arg(program);
        line
    }

    /// Runs a shell command in it that must succeed; gives its trimmed standard output.
    ///
    /// # Errors
    /// Any status but 0, or no end within 20 s.
    pub fn run(&self, shell: &str) -> Result<String> {
        let output = self.output(COMMAND_LIMIT, shell)?;
        let stdout = output.success().with_context(|| self.said(shell))?;
        Ok(stdout.trim().to_owned())
    }

    /// Runs a shell command in it.
    ///
    /// # Errors
    /// When it does not end within `limit`. A bad status is not an error here.
    pub fn output(&self, limit: Duration, shell: &str) -> Result<Output> {
        command::output(self.command("sh").args(["-c", shell]), limit)
            .with_context(|| self.said(shell))
    }

    /// Runs Rust code in it, on a thread of its own. Sockets made there stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or what the code reports.
    pub fn within<T: Send>(&self, code: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = fs::File::open(self.path()).context("open the namespace")?;
        let run = move || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(file.as_fd(), kind).context("enter the namespace")?;
            code()
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(run);
            thread
                .join()
                .unwrap_or_else(|_| bail!("the code in namespace {} panicked", self.name))
        })
    }

    /// Joins this namespace and another by a pair of interfaces; each is given with its address in
    /// prefix notation.
    ///
    /// # Errors
    /// What ip(8) says.
    pub fn join(&self, ours: (&str, &str), other: &Self, theirs: (&str, &str)) -> Result<()> {
        self.run(&format!(
            "ip link add name {} type veth peer name {} netns {}",
            ours.0, theirs.0, other.name
        ))?;
        for (namespace, (interface, address)) in [(self, ours), (other, theirs)] {
            namespace.run(&format!(
                "ip address add {address} dev {interface} && ip link set dev {interface} up"
            ))?;
        }
        Ok(())
    }

    /// Replaces the resolv.conf that programs in it see.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_resolv_conf(&self, text: &str) -> Result<()> {
        fs::write(self.file("resolv.conf"), text).context("write the namespace's resolv.conf")
    }

    /// The hosts file that programs in it see.
    #[must_use]
    pub fn hosts_file(&self) -> PathBuf {
        self.file("hosts")
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(FILES).join(&self.name).join(name)
    }

    fn said(&self, shell: &str) -> String {
        format!("in namespace {}: {shell}", self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes the namespaces of runs that are no more.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(NAMED) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').nth(1)?.parse().ok());
        if owner.is_some_and(|pid| !place::is_alive(pid)) {
            remove(&name);
        }
    }
}

/// Ends what runs in a namespace and removes it. Nothing is left to do about a failure.
fn remove(name: &str) {
    let pids = command::run(
        Command::new("ip").args(["netns", "pids", name]),
        COMMAND_LIMIT,
    );
    for pid in pids.unwrap_or_default().lines() {
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    drop(ip(&["netns", "delete", name]));
    drop(fs::remove_dir_all(Path::new(FILES).join(name)));
    // Ours alone when it is empty.
    drop(fs::remove_dir(FILES));
}

fn ip(arguments: &[&str]) -> Result<String> {
    command::run(Command::new("ip").args(arguments), COMMAND_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::whole_system;

    #[test]
    fn two_joined_namespaces_reach_each_other_and_leave_nothing() {
        whole_system(|| {
            let left = Netns::new("left")?;
            let right = Netns::new("right")?;
            left.join(("a", "192.0.2.1/30"), &right, ("b", "192.0.2.2/30"))?;
            let sleeper = right.command("sleep").arg("600").spawn()?;
            left.run("ping -c 1 -W 5 192.0.2.2 || busybox ping -c 1 -W 5 192.0.2.2")?;
            let (path, files) = (right.path(), right.file(""));
            drop(right);
            assert!(!path.exists() && !files.exists());
            let mut sleeper = sleeper;
            assert!(command::wait(&mut sleeper, COMMAND_LIMIT)?.is_some());
            Ok(())
        });
    }
}
