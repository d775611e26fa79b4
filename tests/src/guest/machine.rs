//! A guest's QEMU: the command line, and the process while it runs.
//!
//! The line holds only what every guest needs. The network card and the shares are the caller's:
//! added by `sharectl guest run`, printed by `sharectl guest args`, or given by hand.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, kill_process, kill_process_group};

use super::channel::{Answer, Channel};
use super::{accel, disk};
use crate::limit::{Deadline, now, wait_for};
use crate::user::User;
use crate::{blackbox, command, place};

/// Software emulation on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// For one command in the guest, unless said otherwise.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// A virtiofs device that the guest mounts while it boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The virtiofs tag.
    pub tag: String,
    /// Where the guest mounts it.
    pub at: PathBuf,
    /// Mount options, such as `ro`; may be empty.
    pub options: String,
}

/// A guest to be.
#[derive(Debug, Clone)]
pub struct Machine {
    name: String,
    user: User,
    memory_mib: u32,
    load: Vec<String>,
    mounts: Vec<Mount>,
    words: Vec<String>,
    launcher: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, PathBuf)>,
    netns: Option<String>,
}

impl Machine {
    /// A guest of this host name, with 256 MiB, no network card and no share.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            user: User::unprivileged(),
            memory_mib: 256,
            load: ["af_packet", "virtio_pci", "virtio_net"]
                .map(String::from)
                .to_vec(),
            mounts: Vec::new(),
            words: Vec::new(),
            launcher: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            netns: None,
        }
    }

    /// Runs QEMU and its launcher in a network namespace.
    #[must_use]
    pub fn inside(mut self, netns: Option<&str>) -> Self {
        self.netns = netns.map(str::to_owned);
        self
    }

    /// An environment variable for the launcher.
    #[must_use]
    pub fn environment(mut self, name: &str, value: PathBuf) -> Self {
        self.environment.push((name.to_owned(), value));
        self
    }

    /// Runs QEMU as this user.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.user = user;
        self
    }

    /// Memory in MiB.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// More arguments for QEMU.
    #[must_use]
    pub fn arguments(mut self, more: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.arguments.extend(more.into_iter().map(Into::into));
        self
    }

    /// A program, with arguments, that gets QEMU's whole line appended: `sharectl guest run dev --`.
    #[must_use]
    pub fn through(mut self, launcher: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.launcher = launcher.into_iter().map(Into::into).collect();
        self
    }

    /// Another kernel module to load, with all it depends on.
    #[must_use]
    pub fn module(mut self, name: &str) -> Self {
        self.load.push(name.to_owned());
        self
    }

    /// A word for the kernel command line; init.sh lists those that it knows.
    #[must_use]
    pub fn word(mut self, word: &str) -> Self {
        self.words.push(word.to_owned());
        self
    }

    /// A virtiofs device that the guest mounts while it boots.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.load_virtiofs();
        self.mounts.push(mount);
        self
    }

    /// A share that the guest mounts while it boots, from the device that has them all.
    #[must_use]
    pub fn share(mut self, name: &str, at: &str) -> Self {
        self.load_virtiofs();
        self.word(&format!("sharectl.share={name}:{at}"))
    }

    /// Boots the system of a disk ([`disk`]), which the caller's arguments give it as the first of virtio's.
    #[must_use]
    pub fn disk(mut self) -> Self {
        self.load_virtiofs();
        self.load
            .extend(disk::MODULES.iter().map(|&name| name.to_owned()));
        self.word("sharectl.root=/dev/vda")
    }

    fn load_virtiofs(&mut self) {
        let virtiofs = "virtiofs".to_owned();
        if !self.load.contains(&virtiofs) {
            self.load.push(virtiofs);
        }
    }

    /// QEMU and its arguments, without the launcher; sockets and logs in `folder`.
    ///
    /// # Errors
    /// When the kernel for guests cannot be had.
    pub fn line(&self, folder: &Path) -> Result<Vec<String>> {
        let image = super::image()?;
        let mut words = vec![
            // Quiet and quick: every line on the serial port costs emulated instructions.
            "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check random.trust_cpu=on"
                .to_owned(),
            format!("sharectl.name={}", self.name),
            format!("sharectl.load={}", self.load.join(",")),
        ];
        for mount in &self.mounts {
            let at = mount.at.display();
            let mut word = format!("sharectl.mount={}:{at}", mount.tag);
            if !mount.options.is_empty() {
                word = format!("{word}:{}", mount.options);
            }
            words.push(word);
        }
        words.extend(self.words.iter().cloned());
        let port = |name: &str| {
            let path = folder.join(name);
            format!(
                "socket,id={name},path={}.sock,server=on,wait=off,logfile={}.log",
                path.display(),
                path.display()
            )
        };
        let accelerator = accel::chosen()?;
        let fixed = [
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-machine",
            "pc",
            "-accel",
            accelerator.argument(),
            // A caller's own `-smp` comes later and overrides.
            "-smp",
            accelerator.one_processor(),
            "-kernel",
            &image.kernel.display().to_string(),
            "-initrd",
            &image.initramfs.display().to_string(),
            "-append",
            &words.join(" "),
            "-m",
            &format!("{}M", self.memory_mib),
            "-chardev",
            &port("console"),
            "-serial",
            "chardev:console",
            "-chardev",
            &port("channel"),
            "-serial",
            "chardev:channel",
        ]
        .map(str::to_owned);
        Ok(fixed.into_iter().chain(self.arguments.clone()).collect())
    }

    /// Starts QEMU and waits until the guest obeys commands.
    ///
    /// # Errors
    /// When QEMU ends or the guest is not ready within 90 s: with the ends of their logs.
    pub fn boot(self) -> Result<Guest> {
        let mut guest = self.start()?;
        guest.wait_ready()?;
        Ok(guest)
    }

    /// Starts QEMU; [`Guest::wait_ready`] is to be called before any command.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(self) -> Result<Guest> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = place::staging()?.join(format!("{}-{number}", self.name));
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        self.user.own(&folder)?;
        let line: Vec<String> = self
            .launcher
            .iter()
            .cloned()
            .chain(self.line(&folder)?)
            .collect();
        let (program, arguments) = line.split_first().context("an empty line")?;
        let log = fs::File::create(folder.join("qemu.log"))?;
        let inner = self.user.command(program);
        let mut qemu = match &self.netns {
            Some(netns) => {
                let mut outer = Command::new("ip");
                outer
                    .args(["netns", "exec", netns])
                    .arg(inner.get_program())
                    .args(inner.get_args());
                outer
            }
            None => inner,
        };
        qemu.args(arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let started = Deadline::after(BOOT_LIMIT);
        let child = qemu
            .spawn()
            .with_context(|| format!("start: {}", command::shown(&qemu)))?;
        let mut guest = Guest {
            channel: None,
            child,
            folder,
            name: self.name,
            line,
            boot: started,
        };
        guest.open_channel()?;
        Ok(guest)
    }
}

/// A guest that runs. Dropping it kills QEMU and hands the console's log to the black box.
#[derive(Debug)]
pub struct Guest {
    name: String,
    folder: PathBuf,
    child: Child,
    channel: Option<Mutex<Channel>>,
    line: Vec<String>,
    boot: Deadline,
}

impl Guest {
    /// Its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole command line it was started with.
    #[must_use]
    pub fn line(&self) -> &[String] {
        &self.line
    }

    /// Socket of the first serial port, where a shell waits.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.folder.join("console.sock")
    }

    /// What the guest printed on its console so far.
    #[must_use]
    pub fn console_log(&self) -> String {
        let bytes = fs::read(self.folder.join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Time from the start of QEMU.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.boot.elapsed()
    }

    /// Process id of QEMU, or of the launcher that started it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether QEMU still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Waits until the guest obeys commands.
    ///
    /// # Errors
    /// When it does not within 90 s of its start.
    pub fn wait_ready(&mut self) -> Result<()> {
        let limit = self.boot.left();
        let ready = self.channel().and_then(|channel| {
            channel
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .wait_ready(limit)
        });
        ready.with_context(|| self.story())
    }

    /// Runs a shell command in the guest, at most 30 s.
    ///
    /// # Errors
    /// When the guest does not answer. A bad status is not an error here.
    pub fn run(&self, shell: &str) -> Result<Answer> {
        self.run_within(COMMAND_LIMIT, shell)
    }

    /// Runs a shell command in the guest; killed at the limit (whole seconds).
    ///
    /// # Errors
    /// When the guest does not answer. A bad status is not an error here.
    pub fn run_within(&self, limit: Duration, shell: &str) -> Result<Answer> {
        self.channel()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .run(shell, limit)
            .with_context(|| format!("in guest {}: {shell}", self.name))
    }

    /// Runs a shell command that must succeed; gives its trimmed standard output.
    ///
    /// # Errors
    /// When the guest does not answer, or any status but 0.
    pub fn ok(&self, shell: &str) -> Result<String> {
        let answer = self.run(shell)?;
        if answer.status != 0 {
            bail!(
                "in guest {}: {shell}: status {}\n{}{}",
                self.name,
                answer.status,
                answer.stdout,
                answer.stderr
            );
        }
        Ok(answer.stdout.trim().to_owned())
    }

    /// Waits for eth0's IPv4 address.
    ///
    /// # Errors
    /// When there is none within `limit`.
    pub fn address(&self, limit: Duration) -> Result<std::net::Ipv4Addr> {
        let shell = "ip -4 -o address show dev eth0 scope global | sed 's/.* inet //; s/[/ ].*//'";
        wait_for("the guest's address", limit, || {
            Ok(self
                .ok(shell)?
                .lines()
                .next()
                .and_then(|line| line.parse().ok()))
        })
        .with_context(|| {
            self.run("cat /run/udhcpc.log")
                .map_or_else(|_| String::new(), |log| log.stdout)
        })
    }

    /// Reboots the guest from inside and waits until it obeys again; gives the time it took.
    ///
    /// # Errors
    /// When it does not come back within 90 s.
    pub fn reboot(&mut self) -> Result<Duration> {
        let started = now();
        // The file of the command is there until its answer has left (channel.sh).
        self.run(
            "(while [ -e \"$0\" ]; do sleep 0.1; done; sleep 0.2; reboot -f) > /dev/null 2>&1 &",
        )?;
        self.boot = Deadline::after(BOOT_LIMIT);
        self.wait_ready()?;
        Ok(started.elapsed())
    }

    /// Powers the guest off from inside and waits for QEMU's end.
    ///
    /// # Errors
    /// When QEMU does not end within 20 s.
    pub fn power_off(&mut self) -> Result<ExitStatus> {
        let asked = self.run("(sleep 0.1; poweroff -f) > /dev/null 2>&1 &");
        // It may be on its way out already and not answer.
        self.wait_end(Duration::from_secs(20))
            .or_else(|error| asked.and(Err(error)))
    }

    /// Waits for QEMU's end.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        command::wait(&mut self.child, limit)?
            .with_context(|| format!("QEMU of guest {} did not end within {limit:?}", self.name))
    }

    /// Sends a signal to the process that was started: the launcher, or QEMU in its place.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(command::pid_of(&self.child)?, signal).context("signal QEMU")
    }

    /// Kills QEMU (and its launcher) at once, as a crash would.
    pub fn kill(&mut self) {
        if let Ok(pid) = command::pid_of(&self.child) {
            // It may have ended by itself.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        drop(self.child.wait());
    }

    fn channel(&self) -> Result<&Mutex<Channel>> {
        self.channel.as_ref().context("the channel is not open")
    }

    fn open_channel(&mut self) -> Result<()> {
        let socket = self.folder.join("channel.sock");
        let child = &mut self.child;
        wait_for("QEMU's sockets", Duration::from_secs(20), || {
            if let Some(status) = child.try_wait()? {
                bail!("QEMU ended: {status}");
            }
            Ok(socket.exists().then_some(()))
        })
        .with_context(|| self.story())?;
        self.channel = Some(Mutex::new(Channel::open(&socket)?));
        Ok(())
    }

    /// What there is to know when something went wrong.
    fn story(&self) -> String {
        let log = fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default();
        format!(
            "guest {}\n{}\n{}\n{}",
            self.name,
            self.line.join(" "),
            blackbox::tail(&log),
            blackbox::tail(&self.console_log())
        )
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
        blackbox::keep_file(
            format!("console of {}", self.name),
            &self.folder.join("console.log"),
        );
        blackbox::keep_file(
            format!("QEMU of {}", self.name),
            &self.folder.join("qemu.log"),
        );
    }
}

impl Answer {
    /// Whether the status is 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status == 0
    }
}
