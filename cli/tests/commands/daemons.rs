//! up and down, with this test program in the daemons' place.

use std::fs;
use std::process::Child;
use std::time::Duration;

use control::lock;
use control::paths::{Daemon, Paths, make_private_folder};
use control::signals::{Order, Orders};
use expect_test::expect;
use rustix::process::{Pid, Signal, kill_process};

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Place};

/// Longer than any test here.
const LIFE: Duration = Duration::from_secs(300);

/// Run by the programs of [`installed`] it is a daemon: it takes the lock,
/// answers on the control socket, and ends at SIGTERM. Run as a test it checks
/// that such a program does so.
#[test]
fn play_a_daemon() {
    let Some(name) = std::env::var_os("PLAY_DAEMON") else {
        return check_the_player();
    };
    let daemon = Daemon::ALL
        .into_iter()
        .find(|daemon| name == daemon.name())
        .unwrap();
    let paths = Paths::from_env(None);
    let place = Place::of_another(paths.runtime.parent().unwrap());
    make_private_folder(&paths.runtime).unwrap();
    let _lock = lock::acquire(&paths.lock(daemon)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut orders = Orders::listen().unwrap();
        let script = Script {
            pid: Some(std::process::id()),
            problems: std::env::var("PLAY_PROBLEM").into_iter().collect(),
            ..Script::default()
        };
        let fake = Fake::start(&place, daemon, script);
        let told = async { while orders.next().await != Order::Stop {} };
        // A test run that is killed cannot end what it started.
        tokio::time::timeout(LIFE, told).await.ok();
        fs::write(
            place.path(&format!("{daemon}.asked")),
            fake.asked().join("\n"),
        )
        .unwrap();
    });
}

fn check_the_player() {
    let installed = installed();
    let program = installed.0.path("bin/sharectl-netd");
    let mut player = installed.0.command(&program).spawn().unwrap();
    wait_for("the lock", || installed.pid(Daemon::Netd));
    wait_for("an answer", || {
        (installed.0.run("guest detach dev").code == Some(0)).then_some(())
    });
    signal(player.id(), Signal::TERM);
    assert!(player.wait().unwrap().success());
    assert_eq!(installed.pid(Daemon::Netd), None);
    let asked = fs::read_to_string(installed.0.path("netd.asked")).unwrap();
    assert_eq!(asked, "detach dev");
}

/// A place with programs for the three daemons; what still runs at the end is killed.
pub(crate) struct Installed(pub(crate) Place);

pub(crate) fn installed() -> Installed {
    let place = Place::with(CONFIG);
    let this = std::env::current_exe().unwrap();
    for daemon in Daemon::ALL {
        let script = format!(
            "echo {daemon} begins >&2\nexec env PLAY_DAEMON={daemon} {} --exact daemons::play_a_daemon --nocapture",
            this.display()
        );
        place.program(daemon.program(), &script);
    }
    Installed(place)
}

impl Installed {
    fn pid(&self, daemon: Daemon) -> Option<u32> {
        lock::holder(&self.0.paths().lock(daemon)).unwrap()
    }
}

impl Installed {
    /// All that was started here, also what has no lock yet: the environment tells.
    fn started(&self) -> Vec<u32> {
        let run = self.0.paths().runtime;
        let ours = format!("SHARECTL_RUNTIME_DIR={}", run.display());
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let is_ours = |entry: &fs::DirEntry| {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let mut variables = environment.split(|byte| *byte == 0);
            variables.any(|variable| variable == ours.as_bytes())
        };
        let ours = entries.filter(is_ours);
        ours.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }
}

impl Drop for Installed {
    /// One that begins only now would make anew what is removed.
    fn drop(&mut self) {
        wait_for("the end of what was started", || {
            let started = self.started();
            for pid in started.iter().filter_map(|pid| i32::try_from(*pid).ok()) {
                // It may have ended meanwhile.
                if let Some(pid) = Pid::from_raw(pid) {
                    kill_process(pid, Signal::KILL).ok();
                }
            }
            started.is_empty().then_some(())
        });
    }
}

fn signal(pid: u32, what: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), what).unwrap();
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..1000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what} did not come about in 20 s");
}

#[test]
fn up_starts_what_is_not_running_and_down_ends_all() {
    let installed = installed();
    let place = &installed.0;
    let up = place.run("up");
    up.exits(0)
        .says("netd      started")
        .says("sockets        $T/run")
        .says("logs           $T/state/logs");
    let first = installed.pid(Daemon::Netd).unwrap();
    place.run("up").exits(0).says("netd      was running");
    assert_eq!(installed.pid(Daemon::Netd), Some(first));
    place.run("status").exits(0);
    place.run("logs hostsync").exits(0).says("hostsync begins");

    // A session of its own: neither a closed terminal nor Ctrl-C reaches it.
    let session = rustix::process::getsid(Pid::from_raw(i32::try_from(first).unwrap())).unwrap();
    assert_eq!(session.as_raw_nonzero().get().cast_unsigned(), first);

    signal(first, Signal::KILL);
    wait_for("netd's end", || {
        installed.pid(Daemon::Netd).is_none().then_some(())
    });
    let json = place.run("up --format json").exits(0).json();
    assert_eq!(json["daemons"][0]["started_now"], true);
    assert_eq!(json["daemons"][1]["started_now"], false);

    place.run("down").is(expect![[r#"
        exit 0
        out: stopped hostsync, sharefs, netd
    "#]]);
    assert_eq!(Daemon::ALL.map(|daemon| installed.pid(daemon)), [None; 3]);
    assert_eq!(
        fs::read_to_string(place.path("hostsync.asked")).unwrap(),
        "clear"
    );
    place.run("down --keep-names").is(expect![[r#"
        exit 0
        out: no daemon is running
    "#]]);
}

#[test]
fn up_tells_what_a_daemon_finds_wrong() {
    let installed = installed();
    let path = installed.0.path("bin/sharectl-hostsync");
    let script = fs::read_to_string(&path).unwrap();
    let script = script.replace("exec env", "exec env PLAY_PROBLEM=read-only");
    fs::write(&path, script).unwrap();
    let up = installed.0.run("up");
    up.exits(0).says("err: warning: hostsync: read-only");
    installed.0.run("down").exits(0);
}

#[test]
fn down_can_keep_the_names() {
    let installed = installed();
    installed.0.run("up -q").is(expect![[r#"
        exit 0
    "#]]);
    installed.0.run("down --keep-names -q").is(expect![[r#"
        exit 0
    "#]]);
    assert_eq!(
        fs::read_to_string(installed.0.path("hostsync.asked")).unwrap(),
        ""
    );
}

#[test]
fn stranger_with_a_daemons_old_pid_is_left_alone() {
    let place = Place::with(CONFIG);
    let mut stranger = place
        .command("/bin/sleep".as_ref())
        .arg("60")
        .spawn()
        .unwrap();
    fs::create_dir_all(place.path("run")).unwrap();
    fs::write(
        place.paths().lock(Daemon::Netd),
        format!("{}\n", stranger.id()),
    )
    .unwrap();
    place
        .run("down --keep-names")
        .exits(0)
        .says("no daemon is running");
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn up_says_which_program_is_missing() {
    let installed = installed();
    fs::remove_file(installed.0.path("bin/sharectl-sharefs")).unwrap();
    installed.0.run("up").is(expect![[r#"
        exit 1
        err: error: sharectl-sharefs is neither $T/bin/sharectl-sharefs nor on the search path
        err: hint: install all four programs in one folder, or build them: cargo build --workspace
    "#]]);
    assert_eq!(
        installed.pid(Daemon::Netd),
        None,
        "nothing is started if not all can be"
    );
}

#[test]
fn up_repeats_the_last_words_of_a_daemon_that_ended() {
    let installed = installed();
    installed
        .0
        .program("sharectl-netd", "echo 'cannot listen: no luck' >&2; exit 9");
    installed.0.run("up").is(expect![[r#"
        exit 1
        err: error: sharectl-netd ended at once, exit status: 9, having said:
        err:   cannot listen: no luck
        err: hint: sharectl doctor, and sharectl logs netd
    "#]]);
}

#[test]
fn up_gives_up_on_a_daemon_that_does_not_answer() {
    let installed = installed();
    installed.0.program(
        "sharectl-netd",
        &format!(
            "echo $$ > {}; exec sleep 60",
            installed.0.path("pid").display()
        ),
    );
    installed
        .0
        .run("up --wait 1")
        .exits(1)
        .says("netd does not answer within 1 s");
    signal(
        fs::read_to_string(installed.0.path("pid"))
            .unwrap()
            .trim()
            .parse()
            .unwrap(),
        Signal::KILL,
    );
}

#[test]
fn up_refuses_a_bad_file_before_anything_starts() {
    let installed = installed();
    fs::write(
        installed.0.path("config.toml"),
        "[guest.dev]\nmac = \"xx\"\n",
    )
    .unwrap();
    installed.0.run("up").exits(1).says("$T/config.toml:2: ");
    assert!(!installed.0.path("run").exists());
}

fn foreground(installed: &Installed) -> Child {
    let mut command = installed.0.sharectl();
    let log = fs::File::create(installed.0.path("supervisor.log")).unwrap();
    let child = command
        .args(["up", "--foreground"])
        .stderr(log)
        .spawn()
        .unwrap();
    wait_for("readiness", || {
        let log = fs::read_to_string(installed.0.path("supervisor.log")).unwrap();
        log.contains("Ctrl-C stops them").then_some(())
    });
    child
}

#[test]
fn foreground_starts_a_failed_daemon_again_and_ends_all() {
    let installed = installed();
    let mut supervisor = foreground(&installed);
    let killed = installed.pid(Daemon::Sharefs).unwrap();
    let others = [Daemon::Netd, Daemon::Hostsync].map(|daemon| installed.pid(daemon));
    signal(killed, Signal::KILL);
    wait_for("a new sharefs", || {
        installed.pid(Daemon::Sharefs).filter(|pid| *pid != killed)
    });
    assert_eq!(
        [Daemon::Netd, Daemon::Hostsync].map(|daemon| installed.pid(daemon)),
        others
    );
    installed
        .0
        .run("up --foreground")
        .exits(4)
        .says("hint: sharectl down, then: sharectl up --foreground");

    signal(supervisor.id(), Signal::TERM);
    assert_eq!(supervisor.wait().unwrap().code(), Some(0));
    assert_eq!(Daemon::ALL.map(|daemon| installed.pid(daemon)), [None; 3]);
    let log = fs::read_to_string(installed.0.path("supervisor.log")).unwrap();
    assert!(
        log.contains("warning: sharefs ended, signal: 9 (SIGKILL)"),
        "{log}"
    );
    assert!(
        log.contains("netd begins"),
        "logs come to standard error: {log}"
    );
}

#[test]
fn down_ends_daemons_in_the_foreground_too() {
    let installed = installed();
    let mut supervisor = foreground(&installed);
    installed.0.run("down").exits(0);
    assert_eq!(supervisor.wait().unwrap().code(), Some(0));
}

#[test]
fn foreground_ends_at_once_with_a_daemon_that_cannot_start() {
    let installed = installed();
    installed
        .0
        .program("sharectl-sharefs", "echo 'no luck' >&2; exit 9");
    installed
        .0
        .run("up --foreground")
        .exits(1)
        .says("err: no luck")
        .says("error: sharectl-sharefs ended at once, exit status: 9");
    assert_eq!(Daemon::ALL.map(|daemon| installed.pid(daemon)), [None; 3]);
}
