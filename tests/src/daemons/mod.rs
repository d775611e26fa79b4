//! The daemons of one test: a [`World`] with its own configuration, sockets, leases and folders,
//! where everything runs as an ordinary user and is gone at the end.

mod daemon;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

pub use daemon::{Daemon, Kind, worker_of};

use crate::command::Output;
use crate::guest::{Guest, Machine, Mount};
use crate::http::{self, Response};
use crate::limit::{retry, wait_for};
use crate::netns::Netns;
use crate::user::{User, is_root};
use crate::{blackbox, command, place, programs};

/// From the start of a daemon to its first answer.
const READY_LIMIT: Duration = Duration::from_secs(15);
/// For one answer over a control socket.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// For one call of `sharectl`.
const CLI_LIMIT: Duration = Duration::from_secs(30);

/// Configuration, folders and daemons of one test. See tests/README.md.
#[derive(Debug)]
pub struct World {
    user: User,
    folder: PathBuf,
    netns: Option<String>,
    most_descriptors: Option<u32>,
    daemons: Vec<Daemon>,
    variables: Vec<(String, String)>,
}

impl World {
    /// A world with this configuration and no daemon yet. Shared folders are made by
    /// [`World::share_folder`], hosts files by [`World::path`].
    ///
    /// # Errors
    /// When the programs do not build or a folder cannot be made.
    pub fn new(config: &str) -> Result<Self> {
        Self::of(User::unprivileged(), config)
    }

    /// The same for a certain user.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn of(user: User, config: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        programs::folder()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = place::staging()?.join(format!("w{number}"));
        let world = Self {
            user,
            folder,
            netns: None,
            most_descriptors: None,
            daemons: Vec::new(),
            variables: Vec::new(),
        };
        for part in ["", "run", "state", "shared"] {
            let path = world.folder.join(part);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
            user.own(&path)?;
        }
        fs::set_permissions(world.runtime(), fs::Permissions::from_mode(0o700))?;
        world.set_config(config)?;
        Ok(world)
    }

    /// Runs the daemons, `sharectl` and guests of this world in a network namespace, which is "the
    /// host" then.
    #[must_use]
    pub fn inside(mut self, namespace: &Netns) -> Self {
        self.netns = Some(namespace.name().to_owned());
        self
    }

    /// Daemons may hold so many descriptors, and not raise that, also as root.
    #[must_use]
    pub fn most_descriptors(mut self, most: u32) -> Self {
        self.most_descriptors = Some(most);
        self
    }

    /// Who everything runs as.
    #[must_use]
    pub fn user(&self) -> User {
        self.user
    }

    /// A path in this world's own folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder of sockets (`SHARECTL_RUNTIME_DIR`).
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.path("run")
    }

    /// The folder of leases and logs (`SHARECTL_STATE_DIR`).
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// A folder to be shared, made and owned by the user. Configurations may name it as
    /// `@shared/NAME`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn share_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path("shared").join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        self.user.own(&path)?;
        Ok(path)
    }

    /// A file of the user, made or replaced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
        fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
        self.user.own(path)
    }

    /// Replaces the configuration; `@` at the start of a quoted path stands for this world's folder.
    /// Folders named as `@shared/NAME` are made.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_config(&self, text: &str) -> Result<()> {
        for part in text.split(['"', '\'']) {
            if let Some(name) = part.strip_prefix("@shared/") {
                self.share_folder(name)?;
            }
        }
        let here = self.folder.display();
        let text = text
            .replace("\"@", &format!("\"{here}/"))
            .replace("'@", &format!("'{here}/"));
        self.write(&self.path("config.toml"), text)
    }

    /// A command of the user with this world's environment, in its namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let inner = self.user.command(program);
        let mut line = match &self.netns {
            Some(name) => {
                let mut line = Command::new("ip");
                line.args(["netns", "exec", name])
                    .arg(inner.get_program())
                    .args(inner.get_args());
                line
            }
            None => inner,
        };
        self.environment(&mut line);
        line
    }

    /// What is started from now on has this in its environment.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Gives a command this world's environment; it runs as whoever we are.
    pub fn environment(&self, line: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = programs::folder().unwrap_or_default();
        line.env("SHARECTL_CONFIG", self.path("config.toml"))
            .env("SHARECTL_RUNTIME_DIR", self.runtime())
            .env("SHARECTL_STATE_DIR", self.state())
            .env("HOME", &self.folder)
            .env("NO_COLOR", "1")
            .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", bin.display()))
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_STATE_HOME")
            .env_remove("NOTIFY_SOCKET")
            .current_dir(&self.folder);
        line.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if std::env::var_os("SHARECTL_LOG").is_none() {
            line.env("SHARECTL_LOG", "debug");
        }
    }

    /// Calls `sharectl` as the user.
    ///
    /// # Errors
    /// When it does not end within 30 s. A bad status is not an error here.
    pub fn sharectl(&self, arguments: &[&str]) -> Result<Output> {
        let mut line = self.command(programs::folder()?.join("sharectl"));
        command::output(line.args(arguments), CLI_LIMIT)
    }

    /// Calls `sharectl` as whoever we are (root may enter namespaces), with this world's environment.
    ///
    /// # Errors
    /// As [`World::sharectl`].
    pub fn sharectl_as_ourselves(&self, arguments: &[&str]) -> Result<Output> {
        let mut line = Command::new(programs::folder()?.join("sharectl"));
        self.environment(&mut line);
        command::output(line.args(arguments), CLI_LIMIT)
    }

    /// Starts a daemon and waits for its first answer.
    ///
    /// # Errors
    /// When it ends or does not answer within 15 s: with the end of its log.
    pub fn start(&mut self, kind: Kind) -> Result<&mut Daemon> {
        self.daemons.retain(|daemon| daemon.kind != kind);
        let log = self.path(&format!("{}.log", kind.name()));
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)?;
        let program = programs::folder()?.join(format!("sharectl-{}", kind.name()));
        let mut line = match self.most_descriptors {
            None => self.command(program),
            Some(most) => {
                let mut line = self.command("setpriv");
                if self.user == User::ourselves() && is_root() {
                    line.args(["--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]);
                }
                line.args(["prlimit", &format!("--nofile={most}:{most}"), "--"])
                    .arg(program);
                line
            }
        };
        line.stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // A Ctrl-C on the terminal is for whoever started us, who stops guests first.
            .process_group(0);
        let child = line
            .spawn()
            .with_context(|| format!("start: {}", command::shown(&line)))?;
        let mut daemon = Daemon { kind, child, log };
        let socket = self.socket(kind);
        let ready = wait_for("its first answer", READY_LIMIT, || {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("it ended: {status}");
            }
            let answer = http::over_unix(&socket, "GET", "/v1/status", None, ANSWER_LIMIT);
            Ok(answer.ok().filter(|answer| answer.status == 200))
        });
        ready
            .map_err(|error| anyhow!("{error:#}\n{}", blackbox::tail(&daemon.log())))
            .with_context(|| format!("start {}", kind.name()))?;
        self.daemons.push(daemon);
        self.daemon(kind)
    }

    /// Starts all three.
    ///
    /// # Errors
    /// As [`World::start`].
    pub fn start_all(&mut self) -> Result<()> {
        for kind in Kind::ALL {
            self.start(kind)?;
        }
        Ok(())
    }

    /// A daemon that was started.
    ///
    /// # Errors
    /// When it was not.
    pub fn daemon(&mut self, kind: Kind) -> Result<&mut Daemon> {
        self.daemons
            .iter_mut()
            .find(|daemon| daemon.kind == kind)
            .with_context(|| format!("{} was not started", kind.name()))
    }

    /// Kills a daemon, all of it, with SIGKILL and starts it again.
    ///
    /// # Errors
    /// As [`World::start`].
    pub fn crash(&mut self, kind: Kind) -> Result<()> {
        self.daemon(kind)?.kill()?;
        self.start(kind)?;
        Ok(())
    }

    /// Kills the process of sharefs that does the work, of whose followers none may live long enough to be asked.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_worker(&mut self) -> Result<()> {
        daemon::kill(self.worker()?)
    }

    /// Between two workers there is none for a while, and the keeper is not to be taken for it.
    fn worker(&mut self) -> Result<u32> {
        let keeper = self.daemon(Kind::Sharefs)?.started();
        wait_for("a worker", READY_LIMIT, || Ok(worker_of(keeper)))
    }

    /// Kills the process of sharefs that does the work, and waits until the next one answers.
    ///
    /// # Errors
    /// When no other follows within 15 s.
    pub fn crash_worker(&mut self) -> Result<()> {
        let old = self.worker()?;
        daemon::kill(old)?;
        self.wait_for_worker_after(old)
    }

    /// Waits until another process than that one does the work of sharefs.
    ///
    /// # Errors
    /// When none does within 15 s.
    pub fn wait_for_worker_after(&self, old: u32) -> Result<()> {
        let socket = self.socket(Kind::Sharefs);
        wait_for("the next worker", READY_LIMIT, || {
            let answer = http::over_unix(&socket, "GET", "/v1/status", None, ANSWER_LIMIT);
            let Ok(answer) = answer else {
                return Ok(None);
            };
            let status: serde_json::Value = serde_json::from_str(&answer.body)?;
            Ok((status["pid"] != old).then_some(()))
        })
    }

    /// Workers of sharefs that were killed so far, by the log of what starts the next: where one follows the other
    /// within milliseconds, none may live long enough to answer.
    ///
    /// # Errors
    /// When it was not started.
    pub fn worker_deaths(&mut self) -> Result<usize> {
        let log = self.daemon(Kind::Sharefs)?.log();
        Ok(log.matches("sharefs was killed").count())
    }

    /// A daemon's control socket.
    #[must_use]
    pub fn socket(&self, kind: Kind) -> PathBuf {
        self.runtime().join(format!("{}.sock", kind.name()))
    }

    /// Asks a daemon.
    ///
    /// # Errors
    /// When it does not answer HTTP within 10 s. A bad status is not an error here.
    pub fn ask(
        &self,
        kind: Kind,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Response> {
        http::over_unix(&self.socket(kind), method, path, body, ANSWER_LIMIT)
    }

    /// Asks a daemon for JSON.
    ///
    /// # Errors
    /// As [`World::ask`], and any status but 2xx.
    pub fn get(&self, kind: Kind, path: &str) -> Result<serde_json::Value> {
        self.ask(kind, "GET", path, None)?
            .success()
            .with_context(|| format!("GET {path} of {}", kind.name()))
    }

    /// A guest of the configuration, started by `sharectl guest run`, that mounts the named shares
    /// (name, path) while it boots, from the one device that has them all.
    ///
    /// # Errors
    /// When the programs do not build.
    pub fn machine(&self, name: &str, shares: &[(&str, &str)]) -> Result<Machine> {
        let machine = self.bare_machine(name, &[]);
        let machine = shares
            .iter()
            .fold(machine, |machine, (name, at)| machine.share(name, at));
        self.launched(machine, name)
    }

    /// The same for a guest of the configuration with a device a share, each mounted by its tag.
    ///
    /// # Errors
    /// As [`World::machine`].
    pub fn machine_of_devices(&self, name: &str, shares: &[(&str, &str)]) -> Result<Machine> {
        self.launched(self.bare_machine(name, shares), name)
    }

    fn launched(&self, machine: Machine, name: &str) -> Result<Machine> {
        let sharectl = programs::folder()?.join("sharectl");
        let launcher = ["guest", "run", name, "--"];
        let mut machine = machine.through(
            [sharectl.display().to_string()]
                .into_iter()
                .chain(launcher.map(str::to_owned)),
        );
        for (variable, value) in [
            ("SHARECTL_CONFIG", self.path("config.toml")),
            ("SHARECTL_RUNTIME_DIR", self.runtime()),
            ("SHARECTL_STATE_DIR", self.state()),
        ] {
            machine = machine.environment(variable, value);
        }
        Ok(machine)
    }

    /// A guest of this world without network card and shares: the test adds them by hand.
    #[must_use]
    pub fn bare_machine(&self, name: &str, shares: &[(&str, &str)]) -> Machine {
        let machine = Machine::new(name)
            .user(self.user)
            .inside(self.netns.as_deref());
        shares.iter().fold(machine, |machine, (tag, at)| {
            machine.mount(Mount {
                tag: (*tag).to_owned(),
                at: PathBuf::from(at),
                options: String::new(),
            })
        })
    }

    /// Attaches a namespace as a guest: `sharectl guest attach NAME --netns PATH --ifname tap0`, then
    /// an address by busybox's DHCP client.
    ///
    /// # Errors
    /// When either fails.
    pub fn tap_guest(&self, name: &str) -> Result<Netns> {
        let namespace = Netns::new(name)?;
        self.attach(name, &namespace)?;
        retry("an address for the tap", Duration::from_secs(10), || {
            namespace.run(&format!(
                "ip link set tap0 up && udhcpc -i tap0 -n -q -f -t 5 -T 1 -x hostname:{name} -s {}",
                crate::guest::dhcp_script()?.display()
            ))
        })?;
        Ok(namespace)
    }

    /// Attaches a namespace as a guest, without asking for an address.
    ///
    /// # Errors
    /// What `sharectl` says.
    pub fn attach(&self, name: &str, namespace: &Netns) -> Result<()> {
        let path = namespace.path().display().to_string();
        self.sharectl_as_ourselves(&[
            "guest", "attach", name, "--netns", &path, "--ifname", "tap0",
        ])?
        .success()
        .with_context(|| format!("attach {name}"))?;
        Ok(())
    }

    /// Boots a guest of [`World::machine`] and waits for its address.
    ///
    /// # Errors
    /// When it does not boot, or has no address within 20 s.
    pub fn boot(&self, name: &str, shares: &[(&str, &str)]) -> Result<(Guest, std::net::Ipv4Addr)> {
        let guest = self.machine(name, shares)?.boot()?;
        let address = guest.address(Duration::from_secs(20))?;
        Ok((guest, address))
    }
}

impl Drop for World {
    /// Ends what `sharectl up` started, which is nobody's child any more.
    fn drop(&mut self) {
        for kind in Kind::ALL {
            let lock = self.runtime().join(format!("{}.pid", kind.name()));
            let pid = fs::read_to_string(lock).unwrap_or_default();
            let pid: Option<i32> = pid.trim().parse().ok();
            let Some(pid) = pid.and_then(Pid::from_raw) else {
                continue;
            };
            let program = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()));
            let ours = programs::folder().unwrap_or_default();
            if program.is_ok_and(|program| program.starts_with(ours)) {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        for kind in Kind::ALL {
            let log = self.state().join(format!("logs/{}.log", kind.name()));
            blackbox::keep_file(format!("log of {}", kind.name()), &log);
        }
    }
}
