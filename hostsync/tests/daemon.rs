//! The daemon from outside: its control socket, its files, a netd of the test's own.

#![expect(
    clippy::unwrap_used,
    reason = "a broken expectation of a test is a panic"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use control::api::{
    Changes, DaemonStatus, GuestStatus, HostLine, HostsBackup, HostsDiff, HostsFileStatus,
    HostsMended,
};
use control::client::Client;
use control::events::{EventBody, EventLog};
use control::failure::FailureKind;
use control::server::Api;
use tokio::sync::oneshot;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sharectl-hostsync");
const LIMIT: Duration = Duration::from_secs(20);
const OLD: &str = "127.0.0.1\tlocalhost\n10.0.0.7\tmine.test\n";

/// A place of its own for one test: configuration, sockets, state, a hosts file.
struct Place {
    folder: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Place {
    fn new(config: &str) -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
            daemon: None,
        };
        std::fs::write(place.hosts(), OLD).unwrap();
        place.configure(config);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn hosts(&self) -> PathBuf {
        self.path("hosts")
    }

    fn configure(&self, config: &str) {
        let config = config.replace("HOSTS", &self.hosts().to_string_lossy());
        std::fs::write(self.path("config.toml"), config).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .arg("--config")
            .arg(self.path("config.toml"))
            .env("SHARECTL_RUNTIME_DIR", self.path("run"))
            .env("SHARECTL_STATE_DIR", self.path("state"))
            .env("SHARECTL_LOG", "debug")
            .stdin(Stdio::null());
        command
    }

    fn round(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    async fn start(&mut self, arguments: &[&str]) -> Client {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        self.daemon = Some(self.command(arguments).stderr(log).spawn().unwrap());
        let client = Client::new(self.path("run/hostsync.sock"));
        let ask = client.clone();
        self.until("the daemon to serve", async || {
            ask.get::<DaemonStatus>("/v1/status").await.is_ok()
        })
        .await;
        client
    }

    /// Waits for a condition; when it does not come, shows the log.
    async fn until(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let end = tokio::time::Instant::now() + LIMIT;
        while !condition().await {
            if tokio::time::Instant::now() > end {
                let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
                panic!(
                    "waited in vain for {what}; hosts:\n{}\nlog:\n{log}",
                    self.text()
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_text(&self, part: &str) {
        self.until(part, async || self.text().contains(part)).await;
    }

    async fn until_old(&self) {
        self.until("the file as it was", async || self.text() == OLD)
            .await;
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.hosts()).unwrap_or_default()
    }

    /// Sends a signal and waits for the end.
    fn stop(&mut self, signal: rustix::process::Signal) -> std::process::ExitStatus {
        let mut daemon = self.daemon.take().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), signal).unwrap();
        daemon.wait().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.kill().ok();
            daemon.wait().ok();
        }
    }
}

/// As much of netd as hostsync asks for.
struct FakeNetd {
    guests: Arc<Mutex<Vec<GuestStatus>>>,
    events: EventLog,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl FakeNetd {
    fn start(place: &Place, guests: &[(&str, &str, &[&str])]) -> Self {
        let shared = Arc::new(Mutex::new(statuses(guests)));
        let events = EventLog::new();
        events.publish(EventBody::Started {
            version: "test".to_owned(),
        });
        let state = (Arc::clone(&shared), events.clone());
        type State = (Arc<Mutex<Vec<GuestStatus>>>, EventLog);
        let api = Api::new("netd", state)
            .get("/v1/status", "status", async |(_, events): State, _| {
                Ok(DaemonStatus {
                    daemon: "netd".to_owned(),
                    version: "test".to_owned(),
                    pid: 1,
                    started: String::new(),
                    config: PathBuf::new(),
                    newest_event: events.newest(),
                    problems: Vec::new(),
                })
            })
            .get("/v1/guests", "guests", async |(guests, _): State, _| {
                Ok(guests.lock().unwrap().clone())
            })
            .events(events.clone());
        std::fs::create_dir_all(place.path("run")).unwrap();
        let listener = control::server::bind(&place.path("run/netd.sock")).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(control::server::serve(listener, api, async {
            stopped.await.ok();
        }));
        Self {
            guests: shared,
            events,
            stop: Some(stop),
            task,
        }
    }

    fn set(&self, guests: &[(&str, &str, &[&str])]) {
        *self.guests.lock().unwrap() = statuses(guests);
        self.events.publish(EventBody::NamesChanged {
            network: "vmnet8".parse().unwrap(),
        });
    }

    async fn end(mut self, place: &Place) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
        std::fs::remove_file(place.path("run/netd.sock")).unwrap();
    }
}

fn statuses(guests: &[(&str, &str, &[&str])]) -> Vec<GuestStatus> {
    let status = |(name, address, names): &(&str, &str, &[&str])| GuestStatus {
        name: Some(name.parse().unwrap()),
        network: "vmnet8".parse().unwrap(),
        mac: "52:54:00:00:00:01".parse().unwrap(),
        address: None,
        ipv6_address: None,
        host_address: Some(address.parse().unwrap()),
        names: names.iter().map(|name| name.parse().unwrap()).collect(),
        lease_until: None,
        links: Vec::new(),
    };
    guests.iter().map(status).collect()
}

const STATIC: &str = "[hosts]\nfiles = [\"HOSTS\"]\n[hosts.static]\n\"db.test\" = \"10.1.2.3\"\n\"mine.test\" = \"10.9.9.9\"\n";
const GUESTS: &str = "[guest.dev]\n[guest.web]\n[hosts]\nfiles = [\"HOSTS\"]\n";

#[tokio::test]
async fn static_entries_are_written_shown_and_compared() {
    let mut place = Place::new(STATIC);
    let client = place.start(&[]).await;
    place.until_text("10.1.2.3\tdb.test\n").await;
    assert!(place.text().starts_with(OLD));

    // The bytes are there a moment before the daemon has heard of it.
    place
        .until("the daemon to say so", async || {
            let files: Vec<HostsFileStatus> = client.get("/v1/files").await.unwrap();
            files
                .iter()
                .any(|file| file.names == 1 && file.way == "directly")
        })
        .await;
    let lines: Vec<HostLine> = client.get("/v1/hosts").await.unwrap();
    assert_eq!(lines[0].name.as_str(), "db.test");
    assert_eq!(lines[0].source, "static");
    assert_eq!(lines[0].written, [place.hosts()]);
    assert_eq!(lines[1].written, Vec::<PathBuf>::new());
    assert_eq!(
        lines[1].left_out,
        [format!(
            "{}: its line 2 already gives 10.0.0.7",
            place.hosts().display()
        )]
    );
    let diffs: Vec<HostsDiff> = client.get("/v1/diff").await.unwrap();
    assert_eq!((diffs[0].diff.as_str(), &diffs[0].problem), ("", &None));
    let metrics = client.get_text("/metrics").await.unwrap();
    assert!(
        metrics.contains("\nsharectl_hostsync_names 2\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("\nsharectl_hostsync_writes_total 1\n"),
        "{metrics}"
    );
    let description: serde_json::Value = client.get("/v1/openapi.json").await.unwrap();
    for path in [
        "/v1/status",
        "/v1/hosts",
        "/v1/files",
        "/v1/diff",
        "/v1/sync",
        "/v1/reload",
        "/v1/clear",
        "/v1/events",
        "/metrics",
    ] {
        assert!(description["paths"][path].is_object(), "{path}");
    }

    let mut events = client.events(0, false).await.unwrap();
    let mut kinds = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        kinds.push(
            serde_json::to_value(&event.body).unwrap()["kind"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    assert_eq!(
        kinds,
        ["started", "name-changed", "name-changed", "hosts-written"]
    );

    assert!(place.stop(rustix::process::Signal::TERM).success());
    assert!(
        place.text().contains("db.test"),
        "a stopped daemon leaves the names"
    );
    assert!(!place.path("run/hostsync.sock").exists());
}

#[tokio::test]
async fn guests_come_change_and_outlive_netd() {
    let mut place = Place::new(GUESTS);
    let client = place.start(&[]).await;
    let status: DaemonStatus = client.get("/v1/status").await.unwrap();
    assert!(
        status
            .problems
            .iter()
            .any(|problem| problem.contains("netd")),
        "{:?}",
        status.problems
    );

    let netd = FakeNetd::start(
        &place,
        &[("dev", "127.64.0.1", &["dev.test", "local.test"])],
    );
    place.until_text("127.64.0.1\tlocal.test\n").await;
    let status: DaemonStatus = client.get("/v1/status").await.unwrap();
    assert_eq!(status.problems, Vec::<String>::new());

    netd.set(&[
        ("dev", "127.64.0.1", &["dev.test"]),
        ("web", "127.64.0.2", &["web.test", "dev.test"]),
    ]);
    place.until_text("127.64.0.2\tweb.test\n").await;
    assert!(!place.text().contains("local.test"));
    let lines: Vec<HostLine> = client.get("/v1/hosts").await.unwrap();
    let lost = lines
        .iter()
        .find(|line| line.source == "guest web on vmnet8" && line.name.as_str() == "dev.test");
    assert_eq!(
        lost.unwrap().left_out,
        ["guest dev on vmnet8 has it (127.64.0.1): it comes first by name"]
    );

    let before = place.text();
    netd.end(&place).await;
    place
        .until("netd to be missed", async || {
            let status: DaemonStatus = client.get("/v1/status").await.unwrap();
            !status.problems.is_empty()
        })
        .await;
    drop(client.post::<_, Changes>("/v1/sync", &()).await.unwrap());
    assert_eq!(place.text(), before, "the last known names stand");

    // Also over a crash of ours.
    place.stop(rustix::process::Signal::KILL);
    std::fs::write(place.hosts(), OLD).unwrap();
    let client = place.start(&[]).await;
    place
        .until("the same file again", async || place.text() == before)
        .await;

    // A new netd counts its events anew.
    let netd = FakeNetd::start(&place, &[("dev", "127.64.0.1", &["dev.test"])]);
    place
        .until("web to go", async || !place.text().contains("web.test"))
        .await;
    netd.set(&[]);
    place.until_old().await;
    assert!(
        client
            .get::<Vec<HostLine>>("/v1/hosts")
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_file_that_others_replace_gets_its_names_back() {
    let mut place = Place::new(STATIC);
    let client = place.start(&[]).await;
    place.until_text("db.test").await;
    std::fs::write(place.path("new"), "# other program\n").unwrap();
    std::fs::rename(place.path("new"), place.hosts()).unwrap();
    place
        .until_text("# other program\n# BEGIN sharectl\n")
        .await;
    place.until_text("db.test").await;
    std::fs::write(place.hosts(), "# in place\n").unwrap();
    place.until_text("# in place\n# BEGIN sharectl\n").await;
    std::fs::remove_file(place.hosts()).unwrap();
    place.until_text("10.1.2.3\tdb.test\n").await;

    // Damage is reported, not overwritten, and its repair is noticed.
    std::fs::write(place.hosts(), "# BEGIN sharectl\nx\n").unwrap();
    place
        .until("the damage to be told", async || {
            let status: DaemonStatus = client.get("/v1/status").await.unwrap();
            status.problems.iter().any(|problem| {
                problem.contains("line 1 begins") && problem.contains("remove line 1")
            })
        })
        .await;
    assert_eq!(place.text(), "# BEGIN sharectl\nx\n");
    std::fs::write(place.hosts(), "x\n").unwrap();
    place.until_text("10.1.2.3\tdb.test\n").await;
}

#[tokio::test]
async fn with_a_program_that_undoes_every_write_there_is_no_race() {
    let mut place = Place::new(STATIC);
    let client = place.start(&[]).await;
    let mut undone = 0;
    #[expect(clippy::disallowed_methods, reason = "a rate is measured")]
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(9) {
        if place.text().contains("db.test") {
            std::fs::write(place.hosts(), OLD).unwrap();
            undone += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!((3..=7).contains(&undone), "{undone} writes in 9 s");
    let status: DaemonStatus = client.get("/v1/status").await.unwrap();
    let told = |problem: &String| problem.contains("again and again");
    assert!(
        status.problems.iter().any(told),
        "{:?} after {undone}",
        status.problems
    );
    // Who asks does not wait for the end of the quarrel.
    let changes: Changes = client.post("/v1/sync", &()).await.unwrap();
    assert!(changes.problems.is_empty(), "{changes:?}");
    assert!(place.text().contains("db.test"));
}

#[tokio::test]
async fn clear_takes_the_block_away_until_the_next_sync() {
    let mut place = Place::new(GUESTS);
    let netd = FakeNetd::start(&place, &[("dev", "127.64.0.1", &["dev.test"])]);
    let client = place.start(&[]).await;
    place.until_text("dev.test").await;
    let changes: Changes = client.post("/v1/clear", &()).await.unwrap();
    assert_eq!(
        changes.changes,
        [format!("{}: written, 0 names", place.hosts().display())]
    );
    assert_eq!(place.text(), OLD);

    netd.set(&[("dev", "127.64.0.1", &["dev.test", "more.test"])]);
    place
        .until("the name to be known", async || {
            let lines: Vec<HostLine> = client.get("/v1/hosts").await.unwrap();
            lines.iter().any(|line| line.name.as_str() == "more.test")
        })
        .await;
    drop(client.post::<_, Changes>("/v1/clear", &()).await.unwrap());
    assert_eq!(place.text(), OLD, "news do not bring it back");
    let changes: Changes = client.post("/v1/sync", &()).await.unwrap();
    assert_eq!(
        changes.changes,
        [format!("{}: written, 2 names", place.hosts().display())]
    );
    assert!(place.text().contains("more.test"));
}

#[tokio::test]
async fn reload_follows_the_file_and_refuses_a_broken_one() {
    let mut place = Place::new(STATIC);
    let client = place.start(&["--remove-on-exit"]).await;
    place.until_text("db.test").await;
    place.configure("[hosts]\nfiles = 7\n");
    let failure = client
        .post::<_, Changes>("/v1/reload", &())
        .await
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Invalid);
    assert!(place.text().contains("db.test"));
    let status: DaemonStatus = client.get("/v1/status").await.unwrap();
    assert!(!status.problems.is_empty());

    let second = place.path("second");
    place.configure(&STATIC.replace("HOSTS", &second.to_string_lossy()));
    // It follows the file by itself, too, and may have been first.
    let Changes { changes, .. } = client.post("/v1/reload", &()).await.unwrap();
    assert!(matches!(changes.len(), 0 | 2), "{changes:?}");
    assert_eq!(
        place.text(),
        OLD,
        "the file that is no longer named is as it was"
    );
    assert!(
        std::fs::read_to_string(&second)
            .unwrap()
            .contains("db.test")
    );

    // SIGHUP is the same without an answer.
    place.configure(&STATIC.replace("db.test", "hup.test"));
    let pid = rustix::process::Pid::from_child(place.daemon.as_ref().unwrap());
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    place.until_text("hup.test").await;

    assert!(place.stop(rustix::process::Signal::TERM).success());
    assert_eq!(place.text(), OLD, "--remove-on-exit");
    assert_eq!(std::fs::read_to_string(&second).unwrap(), "");
}

#[tokio::test]
async fn a_storm_of_changes_makes_few_writes_and_loses_none() {
    let mut place = Place::new("[guest.dev]\n[hosts]\nfiles = [\"HOSTS\"]\n");
    let netd = FakeNetd::start(&place, &[]);
    let client = place.start(&[]).await;
    #[expect(clippy::disallowed_methods, reason = "a rate is measured")]
    let start = Instant::now();
    for number in 0..1_500 {
        let name = format!("n{number}.test");
        netd.set(&[("dev", "127.64.0.1", &[&name])]);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    place.until_text("n1499.test").await;
    let seconds = start.elapsed().as_secs_f64();
    let metrics = client.get_text("/metrics").await.unwrap();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("sharectl_hostsync_writes_total "))
        .unwrap();
    let writes: f64 = line.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(
        (2.0..=5.0 * seconds + 1.0).contains(&writes),
        "{writes} writes in {seconds} s"
    );
}

#[tokio::test]
async fn second_daemon_is_told_who_is_there_and_a_crashed_one_leaves_no_trap() {
    let mut place = Place::new(STATIC);
    place.start(&[]).await;
    let output = place.round(&[]);
    assert_eq!(output.status.code(), Some(1));
    let pid = place.daemon.as_ref().unwrap().id().to_string();
    assert!(String::from_utf8_lossy(&output.stderr).contains(&pid));
    place.stop(rustix::process::Signal::KILL);
    place.start(&[]).await;
}

#[test]
fn one_round_writes_compares_and_clears_without_a_daemon() {
    let place = Place::new("[guest.dev]\nnames = [\"local.test\"]\n[hosts]\nfiles = [\"HOSTS\"]\n");
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();

    let diff = place.round(&["diff"]);
    assert!(diff.status.success());
    assert!(
        text(&diff).contains("+# BEGIN sharectl\n") && text(&diff).contains("\tlocal.test\n"),
        "{}",
        text(&diff)
    );
    assert_eq!(place.text(), OLD, "diff changes nothing");

    let sync = place.round(&["sync", "--json"]);
    let changes: Changes = serde_json::from_slice(&sync.stdout).unwrap();
    assert_eq!(
        changes.changes,
        [format!("{}: written, 2 names", place.hosts().display())]
    );
    assert!(place.text().contains("\tdev.test\n"));
    assert_eq!(
        text(&place.round(&["sync"])),
        "",
        "nothing to do, nothing to say"
    );

    let other = place.round(&["sync", "--tag", "other"]);
    assert_eq!(
        other.status.code(),
        Some(1),
        "names of another block are not shadowed"
    );
    assert!(String::from_utf8_lossy(&other.stderr).contains("local.test stays as line"));

    assert!(place.round(&["clear"]).status.success());
    assert_eq!(place.text(), OLD);

    std::fs::write(place.hosts(), "# END sharectl\n").unwrap();
    let refused = place.round(&["sync"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&refused.stderr)
            .contains("line 1 ends a sharectl block that never began")
    );
    assert_eq!(
        place.round(&["sync", "--tag", "a b"]).status.code(),
        Some(2),
        "usage"
    );
}

#[test]
fn a_version_from_before_comes_back_and_names_stay() {
    let place = Place::new(STATIC);
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        place.round(&["restore"]).status.code(),
        Some(1),
        "none is kept yet"
    );
    place.round(&["sync"]);
    let written = place.text();
    // What the user writes is a version each time it is about to be changed.
    for number in 0..14 {
        std::fs::write(place.hosts(), format!("# edit {number}\n{OLD}")).unwrap();
        place.round(&["sync"]);
    }
    // Names that come and go are none.
    for _ in 0..4 {
        place.round(&["clear"]);
        place.round(&["sync"]);
    }
    let list = place.round(&["backups", "--json"]);
    let list: Vec<HostsBackup> = serde_json::from_slice(&list.stdout).unwrap();
    let numbers: Vec<u64> = list.iter().map(|backup| backup.number).collect();
    assert_eq!(
        numbers,
        [1, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        "the first, and the newest nine"
    );
    assert_eq!(std::fs::read_to_string(&list[0].path).unwrap(), OLD);
    let current: Vec<u64> = list
        .iter()
        .filter(|one| one.current)
        .map(|one| one.number)
        .collect();
    assert_eq!(current, [15]);

    let now = place.text();
    let shown = place.round(&["restore", "--backup", "1", "--dry-run"]);
    assert!(text(&shown).contains("-# edit 13\n"), "{}", text(&shown));
    assert_eq!(place.text(), now, "--dry-run writes nothing");
    assert!(place.round(&["restore", "--backup", "1"]).status.success());
    assert_eq!(
        place.text(),
        written,
        "the own lines of then with the names of now"
    );
    // The way back is the same command.
    assert!(place.round(&["restore"]).status.success());
    assert_eq!(place.text(), now);
    let missing = place.round(&["restore", "--backup", "3"]);
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(
        said.contains("no version 3") && missing.status.code() == Some(1),
        "{said}"
    );
    let other = place.round(&["restore", "/etc/passwd"]);
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(
        said.contains("/etc/passwd is not in [hosts] files"),
        "{said}"
    );
}

#[test]
fn damaged_markers_are_shown_mended_and_kept() {
    let place = Place::new(STATIC);
    place.round(&["sync"]);
    let whole = place.text();
    let damaged = whole.replace("# END sharectl\n", "10.1.1.1 by.hand\n");
    std::fs::write(place.hosts(), &damaged).unwrap();
    let refused = place.round(&["sync"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("sharectl host repair"), "{said}");
    let shown = place.round(&["repair", "--dry-run"]);
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        said.contains("line 3 began a block that nothing ended"),
        "{said}"
    );
    assert_eq!(place.text(), damaged);
    let done = place.round(&["repair", "--json"]);
    let done: Vec<HostsMended> = serde_json::from_slice(&done.stdout).unwrap();
    assert!(
        done[0].done && done[0].diff.contains("-# BEGIN sharectl\n"),
        "{done:?}"
    );
    assert_eq!(place.text(), format!("{OLD}10.1.1.1 by.hand\n"));
    place.round(&["sync"]);
    assert!(
        place.text().contains("\tdb.test\n# END sharectl\n"),
        "{}",
        place.text()
    );
    let list = place.round(&["backups", "--json"]);
    let list: Vec<HostsBackup> = serde_json::from_slice(&list.stdout).unwrap();
    let kept = |backup: &HostsBackup| std::fs::read_to_string(&backup.path).unwrap() == damaged;
    assert!(list.iter().any(kept), "the damaged file was not kept");
}

/// A WSL distribution made of files: Windows' drive is where its table of mounts says.
#[test]
fn inside_wsl_windows_file_gets_the_names_too() {
    const WINDOWS: &str =
        "\u{feff}# Copyright (c) 1993-2009 Microsoft Corp.\r\n127.0.0.1 mine.test\r\n";
    let place = Place::new(
        "[hosts.static]\n\"local.test\" = \"127.64.0.9\"\n\"db.test\" = \"10.1.2.3\"\n\"mine.test\" = \"127.64.0.9\"\n",
    );
    let windows = place.path("d/Windows/System32/drivers/etc/hosts");
    for (path, text) in [
        (
            "etc/hosts",
            "# This file was automatically generated by WSL.\n127.0.0.1\tlocalhost\n",
        ),
        (
            "proc/sys/kernel/osrelease",
            "5.15.153.1-microsoft-standard-WSL2\n",
        ),
        (
            "proc/self/mountinfo",
            "92 80 0:47 / /d rw - 9p D:\\134 rw,aname=drvfs;path=D:\\134;uid=1000\n",
        ),
        ("d/Windows/System32/drivers/etc/hosts", WINDOWS),
    ] {
        let path = place.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let round = |verb: &str| {
        let mut command = place.command(&[verb, "--json"]);
        command.env("SHARECTL_MACHINE_ROOT", place.folder.path());
        command.env("WSL_DISTRO_NAME", "Debian").output().unwrap()
    };
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let changes: Changes = serde_json::from_slice(&round("sync").stdout).unwrap();
    let linux = read(&place.path("etc/hosts"));
    assert!(linux.contains("127.64.0.9\tlocal.test\n"), "{linux}");
    assert!(
        linux.contains("127.64.0.9\tmine.test\n"),
        "each file by itself: {linux}"
    );
    let written = read(&windows);
    assert!(written.starts_with(WINDOWS), "{written:?}");
    assert!(
        written.contains("\r\n10.1.2.3\tdb.test\r\n127.0.0.1\tlocal.test\r\n"),
        "{written:?}"
    );
    assert!(
        !written.replace("\r\n", "").contains('\n'),
        "a bare line feed: {written:?}"
    );
    let all = changes.changes.join("\n");
    assert!(all.contains("generateHosts=false"), "{all}");
    assert!(
        all.contains("written in place because it is Windows' own, 2 names"),
        "{all}"
    );

    let files: Vec<HostsFileStatus> = serde_json::from_slice(&round("files").stdout).unwrap();
    assert!(
        files[1]
            .notes
            .iter()
            .any(|note| note.contains("loopback is 127.0.0.1")),
        "{files:?}"
    );
    round("clear");
    assert_eq!(read(&windows), WINDOWS);

    // Without the drive it says what to do; the other file is written all the same.
    std::fs::write(place.path("proc/self/mountinfo"), "").unwrap();
    let changes: Changes = serde_json::from_slice(&round("sync").stdout).unwrap();
    assert!(
        changes.problems.join("").contains("mount -t drvfs C:"),
        "{changes:?}"
    );
    assert!(read(&place.path("etc/hosts")).contains("local.test"));
}

#[test]
fn the_system_file_is_touched_by_no_test() {
    // What `auto` means is known by its name only.
    let machine = hostsync::machine::Machine::at("/", None);
    let paths = machine.paths(&[control::config::HostsFile::Auto]);
    assert_eq!(
        paths.first().map(PathBuf::as_path),
        Some(Path::new("/etc/hosts"))
    );
}
