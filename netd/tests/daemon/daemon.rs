//! A netd of its own folders, ended with the value; and waiting for conditions.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use control::api::{DaemonStatus, GuestStatus};
use control::client::Client;
use control::events::Event;
use control::failure::Failure;
use control::paths::{Daemon as Kind, Paths};
use serde::de::DeserializeOwned;

/// Nothing that works takes as long, even on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// nobody: netd needs no right that root has.
const NOBODY: u32 = 65_534;

pub(crate) struct Netd {
    folder: tempfile::TempDir,
    child: Option<Child>,
    runtime: tokio::runtime::Runtime,
}

impl Netd {
    pub(crate) fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut netd = Self {
            folder,
            child: None,
            runtime,
        };
        netd.configure(config);
        netd.launch();
        netd
    }

    pub(crate) fn configure(&self, config: &str) {
        std::fs::write(self.paths().config, config).unwrap();
    }

    /// Starts the program and waits for its READY=1.
    pub(crate) fn launch(&mut self) {
        let notify = self.folder.path().join("notify");
        std::fs::remove_file(&notify).ok();
        let socket = UnixDatagram::bind(&notify).unwrap();
        std::fs::set_permissions(&notify, PermissionsExt::from_mode(0o777)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        self.child = Some(
            self.command()
                .env("NOTIFY_SOCKET", &notify)
                .spawn()
                .unwrap(),
        );
        let mut buffer = [0; 64];
        let length = socket
            .recv(&mut buffer)
            .expect("netd never said that it is ready");
        assert_eq!(&buffer[..length], b"READY=1");
    }

    pub(crate) fn command(&self) -> Command {
        let paths = self.paths();
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        let mut command = Command::new(self.program());
        command
            .arg("--config")
            .arg(&paths.config)
            .env("SHARECTL_RUNTIME_DIR", &paths.runtime)
            .env("SHARECTL_STATE_DIR", &paths.state)
            .env("SHARECTL_LOG", "debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// The program where every user may run it: the checkout may lie in a home that is closed to others.
    fn program(&self) -> PathBuf {
        let (built, ours) = (
            env!("CARGO_BIN_EXE_sharectl-netd"),
            self.folder.path().join("sharectl-netd"),
        );
        if !ours.exists() && std::fs::hard_link(built, &ours).is_err() {
            std::fs::copy(built, &ours).unwrap();
        }
        ours
    }

    pub(crate) fn paths(&self) -> Paths {
        let at = |name: &str| self.folder.path().join(name);
        Paths {
            config: at("config.toml"),
            runtime: at("r"),
            state: at("s"),
        }
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.paths().control_socket(Kind::Netd)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and its exit must be clean.
    pub(crate) fn stop(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        let mut child = self.child.take().unwrap();
        let status = wait_for("netd to end", || child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let client = Client::new(self.control_socket());
        self.runtime.block_on(client.get(path))
    }

    pub(crate) fn text(&self, path: &str) -> String {
        let client = Client::new(self.control_socket());
        self.runtime.block_on(client.get_text(path)).unwrap()
    }

    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, Failure> {
        let client = Client::new(self.control_socket());
        self.runtime.block_on(client.post(path, body))
    }

    pub(crate) fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, Failure> {
        let client = Client::new(self.control_socket());
        self.runtime.block_on(client.delete(path, body))
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        let text = self.text("/v1/events");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub(crate) fn event_kinds(&self) -> Vec<String> {
        let kind = |event: &Event| {
            serde_json::to_value(event).unwrap()["kind"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        self.events().iter().map(kind).collect()
    }

    pub(crate) fn guest(&self, name: &str) -> GuestStatus {
        self.get(&format!("/v1/guests/{name}")).unwrap()
    }

    /// It answers, and nothing is wrong.
    pub(crate) fn assert_well(&self) {
        let status: DaemonStatus = self.get("/v1/status").unwrap();
        assert_eq!(status.problems, Vec::<String>::new());
        assert_eq!(status.pid, self.pid());
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Netd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        let log = self.log();
        if std::thread::panicking() {
            println!("netd's log:\n{log}");
        }
    }
}

/// Looks again and again until `look` finds something; fails after [`LIMIT`].
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
