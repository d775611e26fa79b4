//! What the demo plays with: a configuration, the daemons of an ordinary user, a web server and
//! folders on the host, the guest.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests::daemons::{Kind, World};
use tests::guest::{Guest, Machine};
use tests::http::{self, Server};
use tests::user::{self, User};
use tests::{command, programs};

use crate::interrupt;
use crate::ui::{self, Style};

/// The guest's name in the configuration.
pub(super) const GUEST: &str = "dev";
/// A name of the user's choice for it.
pub(super) const NAME: &str = "local.test";
/// The published port on the host, where nobody has it; the guest serves on 80.
const PORT: u16 = 8080;
/// Where the guest mounts the share that stands for drive D.
pub(super) const DRIVE: &str = "/mnt/d";

/// What the host's web server says.
pub(super) const HOST_PAGE: &str = "a page of a server on the host's loopback\n";

/// Everything the steps need.
pub(super) struct Scene {
    pub(super) world: World,
    pub(super) server: Server,
    pub(super) system_hosts: bool,
    /// The published port.
    pub(super) port: u16,
    guest: Option<Guest>,
}

impl Scene {
    pub(super) fn new(system_hosts: bool) -> Result<Self> {
        ensure!(
            !system_hosts || user::is_root(),
            "--system-hosts writes /etc/hosts, which takes root"
        );
        let world = World::of(User::invoking(), "")?;
        let scene = Self {
            server: Server::start(Ipv4Addr::LOCALHOST.into(), HOST_PAGE)?,
            world,
            system_hosts,
            port: http::free_port(PORT)?,
            guest: None,
        };
        scene.world.share_folder("drive-d")?;
        scene.world.share_folder("src")?;
        scene.world.set_config(&scene.configuration())?;
        if !system_hosts {
            scene.world.write(&scene.hosts_file(), HOSTS_BEFORE)?;
        }
        Ok(scene)
    }

    /// One file says it all.
    fn configuration(&self) -> String {
        let hosts = if self.system_hosts { "auto" } else { "@hosts" };
        format!(
            "[network.vmnet8]\n\
             type = \"nat\"\n\
             \n\
             [guest.{GUEST}]\n\
             names = [\"{NAME}\"]\n\
             publish = [\"{}:80\"]\n\
             \n\
             [share.d]\n\
             path = \"@shared/drive-d\"\n\
             at = \"{DRIVE}\"\n\
             \n\
             [share.src]\n\
             path = \"@shared/src\"      # at the same path in the guest\n\
             \n\
             [hosts]\n\
             files = [\"{hosts}\"]\n",
            self.port
        )
    }

    /// The configuration and who runs the daemons, for the person watching.
    pub(super) fn introduction(&self) -> String {
        let file = self.world.path("config.toml");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let indented: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
        format!(
            "  the daemons run as uid {}, with {}:\n{}\n",
            self.world.user().uid,
            file.display(),
            ui::paint(Style::Faint, &indented.join("\n"))
        )
    }

    /// The host's folder that the guest sees as [`DRIVE`].
    pub(super) fn drive(&self) -> PathBuf {
        self.world.path("shared/drive-d")
    }

    /// The folder that has one path on both sides.
    pub(super) fn src(&self) -> PathBuf {
        self.world.path("shared/src")
    }

    /// The hosts file of the demo's own, or the host's with `--system-hosts`.
    pub(super) fn hosts_file(&self) -> PathBuf {
        if self.system_hosts {
            PathBuf::from("/etc/hosts")
        } else {
            self.world.path("hosts")
        }
    }

    /// Starts the daemons; hostsync as root when it is to write /etc/hosts.
    pub(super) fn start_daemons(&mut self) -> Result<()> {
        self.world.start(Kind::Netd)?;
        self.world.start(Kind::Sharefs)?;
        if !self.system_hosts {
            self.world.start(Kind::Hostsync)?;
        }
        Ok(())
    }

    /// The guest to be: `sharectl guest run dev -- qemu-system-x86_64 ...`.
    pub(super) fn machine(&self) -> Result<Machine> {
        let src = self.src().display().to_string();
        self.world.machine(GUEST, &[("d", DRIVE), ("src", &src)])
    }

    pub(super) fn set_guest(&mut self, guest: Guest) {
        self.guest = Some(guest);
    }

    pub(super) fn guest(&mut self) -> Result<&mut Guest> {
        self.guest.as_mut().context("there is no guest")
    }

    /// The guest and the rest of the scene, for steps that need both.
    pub(super) fn with_guest(&self) -> Result<&Guest> {
        self.guest.as_ref().context("there is no guest")
    }

    /// The address that the hosts file has for a name.
    pub(super) fn lookup(&self, name: &str) -> Result<Option<Ipv4Addr>> {
        let text = std::fs::read_to_string(self.hosts_file())?;
        let line = text.lines().find(|line| {
            let line = line.split('#').next().unwrap_or_default();
            line.split_whitespace().skip(1).any(|word| word == name)
        });
        line.and_then(|line| line.split_whitespace().next())
            .map(|address| address.parse().context("an address of the hosts file"))
            .transpose()
    }

    /// Fetches the guest's page by its name, with the demo's hosts file in the place of /etc/hosts
    /// where this kernel lets us make a private mount namespace; else by `curl --resolve`.
    pub(super) fn fetch_by_name(&self) -> Result<(String, &'static str)> {
        let port = self.port;
        let url = format!("http://{NAME}:{port}/");
        let curl = "curl --silent --show-error --fail --noproxy '*' --max-time 10";
        if self.system_hosts {
            let page = self.shell(Command::new("sh"), &format!("{curl} {url}"))?;
            return Ok((page, "the system's /etc/hosts"));
        }
        let mut private = Command::new("unshare");
        private.arg("--mount");
        if !user::is_root() {
            private.arg("--map-root-user");
        }
        let bind = format!("mount --bind {} /etc/hosts", self.hosts_file().display());
        let mut probe = command_like(&private);
        probe.args(["sh", "-c", &bind]);
        if command::run(&mut probe, Duration::from_secs(10)).is_ok() {
            private.arg("sh");
            let page = self.shell(private, &format!("{bind} && {curl} {url}"))?;
            return Ok((page, "a private mount of the demo's hosts file"));
        }
        let address = self
            .lookup(NAME)?
            .context("the name is not in the hosts file")?;
        let page = self.shell(
            Command::new("sh"),
            &format!("{curl} --resolve {NAME}:{port}:{address} {url}"),
        )?;
        Ok((page, "curl --resolve from the demo's hosts file"))
    }

    fn shell(&self, mut shell: Command, text: &str) -> Result<String> {
        shell.args(["-c", text]);
        command::run(&mut shell, Duration::from_secs(15))
    }

    /// Where the guest finds the host's web server.
    pub(super) fn server_in_guest(&self) -> String {
        let port = SocketAddr::port(&self.server.address());
        format!("http://host.internal:{port}/")
    }

    /// What to try while the guest stays.
    pub(super) fn hints(&self) -> String {
        let environment = format!(
            "SHARECTL_CONFIG={} SHARECTL_RUNTIME_DIR={} SHARECTL_STATE_DIR={}",
            self.world.path("config.toml").display(),
            self.world.runtime().display(),
            self.world.state().display()
        );
        let port = self.port;
        let sharectl = programs::folder().unwrap_or_default().join("sharectl");
        let address = self
            .lookup(NAME)
            .ok()
            .flatten()
            .unwrap_or(Ipv4Addr::LOCALHOST);
        format!(
            "The guest stays until it powers off. From another terminal of this host:\n  \
             {environment} {} status\n  \
             curl --resolve {NAME}:{port}:{address} http://{NAME}:{port}/\n",
            sharectl.display()
        )
    }

    /// Until the guest powers off, or Ctrl-C.
    pub(super) fn wait_for_guest(&mut self) -> Result<()> {
        const LOOK_AGAIN: Duration = Duration::from_millis(300);
        while self.guest()?.is_running() && !interrupt::seen() {
            // Not ending within this time is what is waited for.
            drop(self.guest()?.wait_end(LOOK_AGAIN));
        }
        Ok(())
    }

    /// Powers the guest off and stops the daemons, in that order.
    pub(super) fn end(mut self) -> Result<()> {
        let mut failures = Vec::new();
        if let Some(mut guest) = self.guest.take()
            && guest.is_running()
            && let Err(error) = guest.power_off()
        {
            failures.push(format!("{error:#}"));
        }
        for kind in Kind::ALL {
            if let Ok(daemon) = self.world.daemon(kind)
                && let Err(error) = daemon.stop()
            {
                failures.push(format!("{error:#}"));
            }
        }
        if self.system_hosts
            && let Err(error) = self.take_names_back()
        {
            failures.push(format!("{error:#}"));
        }
        if !failures.is_empty() {
            bail!(failures.join("\n"));
        }
        Ok(())
    }

    /// With no guest configured, nothing of ours belongs into /etc/hosts.
    fn take_names_back(&self) -> Result<()> {
        self.world.set_config("[hosts]\nfiles = [\"auto\"]\n")?;
        let output = self.world.sharectl_as_ourselves(&["host", "sync"])?;
        output
            .success()
            .context("take the names out of /etc/hosts")?;
        Ok(())
    }
}

/// A hosts file as people have it; the steps show that it keeps what it had.
pub(super) const HOSTS_BEFORE: &str = "127.0.0.1 localhost\n# a line of the user's own\n";

fn command_like(other: &Command) -> Command {
    let mut command = Command::new(other.get_program());
    command.args(other.get_args());
    command
}
