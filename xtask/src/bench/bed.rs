//! The test bed: three network namespaces, and programs running in them.
//!
//! ```text
//!   guest                       outside                     far
//!   tap0 ---- the backend ----- up0 10.77.0.2 ---- veth --- down0 10.77.0.3 (servers)
//!                                                                 10.77.0.1 (router only)
//! ```
//! No traffic leaves these namespaces. No server ever listens on the router's address, which pasta
//! maps to the host's loopback. A helper process removes the namespaces and what still runs in them
//! when this process is gone before it could do so itself, for whatever reason.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tests::netns::Netns;
use tests::{command, limit};

/// The servers' address.
pub(super) const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
/// The address of the namespace that plays the host.
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Where the default route of the host leads; nothing listens there.
pub(super) const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// One of the small steps.
const STEP: Duration = Duration::from_secs(10);

/// One of the three namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Guest,
    Outside,
    Far,
}

/// The namespaces; they go when this is dropped.
#[derive(Debug)]
pub(super) struct Bed {
    guest: Netns,
    outside: Netns,
    far: Netns,
    cleaner: Child,
}

/// Waits for the end of its input, then kills what runs in the namespaces and removes them: also
/// when the bench was killed itself.
const CLEANER: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for namespace in "$@"; do
    for process in $(ip netns pids "$namespace" 2>/dev/null); do kill -9 "$process" 2>/dev/null; done
done
for namespace in "$@"; do ip netns del "$namespace" 2>/dev/null; rm -rf "/etc/netns/$namespace"; done
"#;

/// Another congestion control on one side would be what the table shows.
const SETTINGS: &str = "echo reno >/proc/sys/net/ipv4/tcp_congestion_control && \
     echo 10240 65000 >/proc/sys/net/ipv4/ip_local_port_range";

impl Bed {
    /// Makes the namespaces and the veth between the outer two.
    ///
    /// # Errors
    /// When the kernel or `ip` refuses.
    pub(super) fn make() -> Result<Self> {
        let guest = Netns::new("guest")?;
        let outside = Netns::new("outside")?;
        let far = Netns::new("far")?;
        let names = [guest.name(), outside.name(), far.name()];
        let cleaner = Command::new("sh")
            .args(["-c", CLEANER, "cleaner"])
            .args(names)
            .process_group(0)
            .stdin(Stdio::piped())
            .spawn()
            .context("start the cleaner")?;
        for namespace in [&guest, &outside, &far] {
            namespace.run(SETTINGS)?;
        }
        // The first address of down0 is the source of what the far side starts.
        let (up, down) = (format!("{OUTSIDE}/24"), format!("{FAR}/24"));
        outside.join(("up0", &up), &far, ("down0", &down))?;
        far.run(&format!("ip address add {ROUTER}/24 dev down0"))?;
        outside.run(&format!("ip route add default via {ROUTER}"))?;
        Ok(Self {
            guest,
            outside,
            far,
            cleaner,
        })
    }

    /// One of the namespaces.
    pub(super) fn namespace(&self, place: Place) -> &Netns {
        match place {
            Place::Guest => &self.guest,
            Place::Outside => &self.outside,
            Place::Far => &self.far,
        }
    }

    /// The file that stands for a namespace.
    pub(super) fn path(&self, place: Place) -> String {
        self.namespace(place).path().display().to_string()
    }

    /// A program to be run inside a namespace.
    pub(super) fn command(&self, place: Place, program: impl AsRef<OsStr>) -> Command {
        self.namespace(place).command(program)
    }

    /// Runs a shell command inside a namespace.
    ///
    /// # Errors
    /// When it fails.
    pub(super) fn run(&self, place: Place, shell: &str) -> Result<()> {
        self.namespace(place).run(shell).map(drop)
    }

    /// Waits until something listens on a TCP port in a namespace.
    pub(super) fn wait_for_listener(&self, place: Place, port: u16) -> Result<()> {
        let question = format!("ss -Hltn 'sport = :{port}'");
        self.wait_for(place, &question, |shown| !shown.is_empty())
    }

    /// Waits until an interface exists in a namespace and has an address.
    pub(super) fn wait_for_address(&self, place: Place, device: &str) -> Result<()> {
        let question = format!("ip -4 -br address show dev {device} || true");
        self.wait_for(place, &question, |shown| shown.contains('/'))
    }

    fn wait_for(&self, place: Place, question: &str, good: fn(&str) -> bool) -> Result<()> {
        let what = format!("{question} in {place:?}");
        limit::wait_for(&what, STEP, || {
            let shown = self.namespace(place).run(question)?;
            Ok(good(&shown).then_some(()))
        })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        drop(self.cleaner.stdin.take());
        if let Err(error) = command::wait(&mut self.cleaner, STEP) {
            super::say(&format!("the namespaces were not removed: {error:#}"));
        }
    }
}

/// A program that runs beside a measurement; it is stopped when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts a program with a pipe on its standard input and output. What it says on standard error
    /// goes to `log`, so that a daemon that fails can be asked why.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(line: &mut Command, log: Option<std::fs::File>) -> Result<Self> {
        let shown = command::shown(line);
        let mut child = line
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.map_or_else(Stdio::null, Stdio::from))
            .spawn()
            .with_context(|| format!("start: {shown}"))?;
        Ok(Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().map(BufReader::new),
            child,
        })
    }

    /// The process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its standard output; the program itself bounds how long that takes.
    ///
    /// # Errors
    /// When it ended instead.
    pub(super) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let stdout = self.stdout.as_mut().context("no standard output")?;
        anyhow::ensure!(stdout.read_line(&mut line)? > 0, "it ended");
        Ok(line)
    }

    /// Sends it an empty line.
    ///
    /// # Errors
    /// When it ended.
    pub(super) fn go_on(&mut self) -> Result<()> {
        let stdin = self.stdin.as_mut().context("no standard input")?;
        stdin.write_all(b"\n").context("it ended")
    }
}

impl Running {
    /// Its status if it has ended by itself.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stdin.take());
        drop(self.stdout.take());
        if let Err(error) = command::stop(&mut self.child, Duration::from_secs(3)) {
            super::say(&format!("process {} would not stop: {error:#}", self.id()));
        }
    }
}
