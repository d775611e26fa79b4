//! The hosts writer: an ordinary user's names in /etc/hosts by way of the service that is root's, confined
//! as its unit says. Each test has an /etc, a /run and a service manager of its own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use rustix::process::{Pid, Signal, kill_process};
use tests::daemons::{Kind, World};
use tests::limit::{retry, wait_for};
use tests::user::User;
use tests::{Context, Result, command, ensure, mounts, packages, place, programs, whole_system};

const OWN: &str = "127.0.0.1\tlocalhost\n# mine\n10.0.0.7\tmine.test\n";
const SOON: Duration = Duration::from_secs(20);
const SOCKET: &str = "/run/sharectl-hosts.sock";
const NOTIFY: &str = "/run/notify.sock";
/// Beside the tests' user.
const BOB: u32 = 64_124;

const CONFIG: &str = r#"
[hosts.static]
"local.test" = "127.64.0.9"
"mine.test" = "10.9.9.9"
"bank.example" = "127.0.0.1"
"#;

/// What systemd does for the socket unit: it listens, and starts the writer when somebody comes.
struct Manager {
    stop: Arc<AtomicBool>,
    starts: Arc<AtomicU32>,
    running: Arc<Mutex<Option<Child>>>,
    notified: UnixDatagram,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// The unit's view of `/etc`, and its socket as descriptor 3.
const UNIT: &str = r#"
set -e
if [ "$1" = confined ]; then
    mount --bind /etc /etc
    mount --bind /etc/hosts /etc/hosts
    mount -o remount,bind,ro /etc
fi
shift
exec 3<&0 < /dev/null
LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"
"#;

impl Manager {
    fn start(state: &Path, confined: bool) -> Result<Self> {
        let listener = UnixListener::bind(SOCKET).context("listen as the socket unit does")?;
        let notified = UnixDatagram::bind(NOTIFY).context("listen as systemd does for READY=1")?;
        notified.set_read_timeout(Some(SOON))?;
        fs::set_permissions(SOCKET, fs::Permissions::from_mode(0o666))?;
        let program = programs::folder()?.join("sharectl-hosts-writer");
        let mut manager = Self {
            stop: Arc::default(),
            starts: Arc::default(),
            running: Arc::default(),
            notified,
            thread: None,
        };
        let (stop, starts, running) = (
            Arc::clone(&manager.stop),
            Arc::clone(&manager.starts),
            Arc::clone(&manager.running),
        );
        let state = state.to_owned();
        let log = fs::File::create(state.with_extension("log"))?;
        let serve = move || {
            while !stop.load(Ordering::SeqCst) {
                let mut listening = [PollFd::new(&listener, PollFlags::IN)];
                let pause = Timespec {
                    tv_sec: 0,
                    tv_nsec: 20_000_000,
                };
                let came = poll(&mut listening, Some(&pause)).is_ok_and(|count| count > 0);
                let mut child = running.lock().unwrap_or_else(|error| error.into_inner());
                if let Some(writer) = child.as_mut()
                    && writer.try_wait().is_ok_and(|ended| ended.is_some())
                {
                    *child = None;
                }
                if !came || child.is_some() {
                    // A writer that runs takes its clients itself.
                    drop(child);
                    std::thread::yield_now();
                    continue;
                }
                let Ok(socket) = listener.try_clone() else {
                    continue;
                };
                let started = Command::new("unshare")
                    .args([
                        "--mount",
                        "--propagation",
                        "private",
                        "sh",
                        "-c",
                        UNIT,
                        "sh",
                    ])
                    .arg(if confined { "confined" } else { "free" })
                    .arg(&program)
                    .arg("--state")
                    .arg(&state)
                    .env("SHARECTL_LOG", "debug")
                    .env("NOTIFY_SOCKET", NOTIFY)
                    .stdin(Stdio::from(OwnedFd::from(socket)))
                    .stderr(log.try_clone().map_or_else(|_| Stdio::null(), Stdio::from))
                    .spawn();
                if let Ok(started) = started {
                    starts.fetch_add(1, Ordering::SeqCst);
                    *child = Some(started);
                }
            }
        };
        // A thread of this one, so in its mount namespace.
        manager.thread = Some(std::thread::Builder::new().spawn(serve)?);
        Ok(manager)
    }

    fn starts(&self) -> u32 {
        self.starts.load(Ordering::SeqCst)
    }

    /// kill -9, whatever it does.
    fn kill(&self) {
        // The kernel keeps ten messages for a manager that does not read; who has more to say waits.
        let mut message = [0; 64];
        while recv(&self.notified, &mut message, RecvFlags::DONTWAIT).is_ok() {}
        let running = self
            .running
            .lock()
            .unwrap_or_else(|error| error.into_inner());
        if let Some(writer) = running.as_ref() {
            kill_process(Pid::from_child(writer), Signal::KILL).ok();
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        self.kill();
        let mut running = self
            .running
            .lock()
            .unwrap_or_else(|error| error.into_inner());
        if let Some(mut writer) = running.take() {
            writer.wait().ok();
        }
    }
}

/// An /etc with `hosts` as its hosts file and `policy` as root's word, an empty /run, and a world.
fn world(policy: &str, confined: bool) -> Result<(World, Manager)> {
    packages::ensure(packages::HOSTS)?;
    // Built before the compiler's /etc/alternatives are out of sight.
    programs::folder()?;
    mounts::private()?;
    let etc = place::staging()?.join("etc");
    fs::create_dir_all(&etc)?;
    // In memory: what is asked here is who writes what, not how fast this machine's disk syncs.
    let none = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", &etc, "tmpfs", none, None).context("mount a place for an /etc")?;
    fs::create_dir_all(etc.join("sharectl"))?;
    for entry in fs::read_dir("/etc")? {
        let entry = entry?;
        if fs::metadata(entry.path()).is_ok_and(|found| found.is_file()) {
            fs::copy(entry.path(), etc.join(entry.file_name()))?;
        }
    }
    fs::write(etc.join("hosts"), OWN)?;
    fs::set_permissions(etc.join("hosts"), fs::Permissions::from_mode(0o644))?;
    fs::write(etc.join("sharectl/hosts.toml"), policy)?;
    rustix::mount::mount_bind(&etc, "/etc").context("mount an /etc of our own")?;
    rustix::mount::mount("none", "/run", "tmpfs", none, None).context("mount an empty /run")?;
    let world = World::new(CONFIG)?;
    // Root's own, as systemd makes it: without capabilities root has no right to another's folder.
    let manager = Manager::start(Path::new("/run/root-state"), confined)?;
    Ok((world, manager))
}

fn policy() -> String {
    let uid = User::unprivileged().uid;
    format!("[[allow]]\nusers = [{uid}, {BOB}, 0]\nsuffixes = [\"test\", \"localhost\"]\n")
}

fn hosts() -> Result<String> {
    Ok(fs::read_to_string("/etc/hosts")?)
}

fn until_hosts(part: &str, is_there: bool) -> Result<()> {
    let what = format!("{part:?} in /etc/hosts: {is_there}");
    wait_for(&what, SOON, || {
        Ok((hosts()?.contains(part) == is_there).then_some(()))
    })
    .with_context(|| hosts().unwrap_or_default())
}

/// One request as root, in the protocol's own words.
fn say(line: &str) -> Result<serde_json::Value> {
    let mut stream = UnixStream::connect(SOCKET)?;
    stream.set_read_timeout(Some(SOON))?;
    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    serde_json::from_str(&answer).with_context(|| format!("{line} was answered {answer:?}"))
}

/// A round of hostsync as another user, with a configuration of its own.
fn as_bob(world: &World, verb: &str, config: &str) -> Result<command::Output> {
    let folder = world.path("bob");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("config.toml"), config)?;
    std::os::unix::fs::chown(&folder, Some(BOB), Some(BOB))?;
    let mut line = Command::new("setpriv");
    world.environment(&mut line);
    line.args([format!("--reuid={BOB}"), format!("--regid={BOB}")])
        .args(["--clear-groups", "sharectl-hostsync", verb, "--config"])
        .arg(folder.join("config.toml"))
        .env("SHARECTL_RUNTIME_DIR", folder.join("run"))
        .env("SHARECTL_STATE_DIR", folder.join("state"));
    command::output(&mut line, SOON)
}

fn text(world: &World, arguments: &[&str]) -> Result<String> {
    let output = world.sharectl(arguments)?;
    Ok(format!("{}{}", output.stdout, output.stderr))
}

#[test]
fn an_ordinary_user_s_names_get_into_etc_hosts_and_nothing_else_does() {
    whole_system(|| {
        let (mut world, manager) = world(&policy(), true)?;
        let uid = world.user().uid;
        world.start(Kind::Hostsync)?;
        until_hosts("127.64.0.9\tlocal.test\n", true)?;
        let mut word = [0; 64];
        let length = manager
            .notified
            .recv(&mut word)
            .context("READY=1, which Type=notify waits for")?;
        ensure!(
            word.starts_with(b"READY=1"),
            "{}",
            String::from_utf8_lossy(&word[..length])
        );
        let written = hosts()?;
        ensure!(
            written.starts_with(OWN),
            "the user's own lines changed:\n{written}"
        );
        ensure!(
            written.contains(&format!("# BEGIN sharectl uid-{uid}\n")),
            "{written}"
        );
        for name in ["bank.example", "10.9.9.9"] {
            ensure!(!written.contains(name), "{name} got in:\n{written}");
        }
        // Its answer is behind the file.
        retry("hostsync to have the writer's answer", SOON, || {
            let status = text(&world, &["status"])?;
            ensure!(status.contains("by the hosts writer"), "{status}");
            Ok(())
        })?;
        let names = text(&world, &["host", "ls"])?;
        for reason in ["may have names below", "its line 3 already gives 10.0.0.7"] {
            ensure!(names.contains(reason), "{reason} is missing:\n{names}");
        }
        let doctor = text(&world, &["doctor", "hosts"])?;
        ensure!(
            doctor.contains("/etc/hosts by the hosts writer"),
            "{doctor}"
        );
        let diff = world.sharectl(&["host", "diff"])?.success()?;
        ensure!(diff.is_empty(), "the diff looks at another block:\n{diff}");

        // What nobody gets, though the policy names it.
        let node = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let request = format!(
            r#"{{"do":"set","file":"/etc/hosts","names":{{"localhost":"127.0.0.1","a.localhost":"127.0.0.1","{node}":"127.0.0.1"}}}}"#
        );
        let answer = say(&request)?;
        ensure!(
            answer["refused"]
                .as_array()
                .is_some_and(|list| list.len() == 3),
            "{answer}"
        );
        for (line, word) in [
            (
                r#"{"do":"set","file":"/etc/shadow","names":{}}"#,
                "writes /etc/hosts",
            ),
            (
                r#"{"do":"set","file":"/etc/hosts","names":{"a.test\n10.0.0.1 b":"127.0.0.1"}}"#,
                "not a request",
            ),
            (
                r#"{"do":"set","file":"/etc/hosts","tag":"../x","names":{}}"#,
                "tag",
            ),
            ("no JSON", "not a request"),
        ] {
            let answer = say(line)?;
            ensure!(
                answer["is"] == "refused" && answer.to_string().contains(word),
                "{line}: {answer}"
            );
        }
        ensure!(hosts()? == written, "a refused request changed the file");

        // Two users side by side: the first has the name, and neither wipes the other's.
        let bob = "[hosts.static]\n\"bob.test\" = \"127.0.0.1\"\n\"local.test\" = \"127.6.6.6\"\n";
        let said = as_bob(&world, "sync", bob)?;
        let (out, err) = (said.stdout, said.stderr);
        ensure!(err.contains("local.test stays as line"), "{out}{err}");
        until_hosts("127.0.0.1\tbob.test\n", true)?;
        ensure!(
            hosts()?.contains("127.64.0.9\tlocal.test\n"),
            "{}",
            hosts()?
        );
        let before = hosts()?;
        world
            .sharectl(&["host", "add", "more.test", "127.64.0.9"])?
            .success()?;
        until_hosts("more.test", true)?;
        ensure!(hosts()?.contains("127.0.0.1\tbob.test\n"), "{}", hosts()?);

        // An editor's rename, as vim does it, takes the file from under the writer's mount of it.
        let starts = manager.starts();
        fs::write("/etc/hosts.new", format!("# edited\n{before}"))?;
        fs::rename("/etc/hosts.new", "/etc/hosts")?;
        world.sharectl(&["host", "rm", "more.test"])?.success()?;
        world
            .sharectl(&["host", "add", "later.test", "127.64.0.9"])?
            .success()?;
        until_hosts("later.test", true)?;
        ensure!(hosts()?.starts_with("# edited\n"), "{}", hosts()?);
        ensure!(
            manager.starts() > starts,
            "the writer was not started again"
        );

        // What is taken back is gone, and the file is the user's own again.
        as_bob(&world, "clear", bob)?.success()?;
        let cleared: serde_json::Value = world
            .ask(Kind::Hostsync, "POST", "/v1/clear", None)
            .map(|response| serde_json::from_str(&response.body).unwrap_or_default())?;
        ensure!(
            cleared["problems"].as_array().is_some_and(Vec::is_empty),
            "{cleared}"
        );
        ensure!(hosts()? == format!("# edited\n{OWN}"), "{}", hosts()?);
        Ok(())
    });
}

#[test]
fn a_writer_killed_in_the_middle_loses_no_line() {
    whole_system(|| {
        let (_world, manager) = world(&policy(), true)?;
        // A long file in front, so that there is a middle.
        let long: String = (0..20_000)
            .map(|line| format!("10.1.{}.{} h{line}.example\n", line / 250, line % 250))
            .collect();
        fs::write("/etc/hosts", format!("{OWN}{long}"))?;
        let own = hosts()?;
        let mut died = 0;
        for round in 0..40_u32 {
            let names: Vec<String> = (0..200)
                .map(|n| format!("\"n{n}-{round}.test\":\"127.0.0.1\""))
                .collect();
            let request = format!(
                r#"{{"do":"set","file":"/etc/hosts","names":{{{}}}}}"#,
                names.join(",")
            );
            let mut stream = UnixStream::connect(SOCKET)?;
            writeln!(stream, "{request}")?;
            // Later in each round, so that the kill comes before, in and after the write.
            let begun = tests::limit::now();
            let delay = Duration::from_micros(u64::from(round) * 1_500);
            while begun.elapsed() < delay {
                std::hint::spin_loop();
            }
            manager.kill();
            stream.set_read_timeout(Some(SOON))?;
            let mut answer = String::new();
            // A killed writer resets the connection, or ends it.
            BufReader::new(stream).read_line(&mut answer).ok();
            died += u32::from(answer.is_empty());
            ensure!(hosts()?.len() >= OWN.len(), "the file is short");
        }
        ensure!(died > 0, "no kill came before the answer");
        retry("a writer that was started anew", SOON, || {
            say(r#"{"do":"set","file":"/etc/hosts","names":{"last.test":"127.0.0.1"}}"#)
        })?;
        let now = hosts()?;
        ensure!(
            now.starts_with(&own),
            "lines of the user are lost: {} of {} bytes",
            now.len(),
            own.len()
        );
        ensure!(
            now.matches("# BEGIN").count() == 1 && now.contains("\tlast.test\n"),
            "{}",
            &now[own.len()..]
        );
        say(r#"{"do":"set","file":"/etc/hosts","names":{}}"#)?;
        ensure!(hosts()? == own, "the file is not what it was");
        Ok(())
    });
}

#[test]
fn names_go_after_the_grace_when_their_daemon_is_gone() {
    whole_system(|| {
        let (mut world, manager) = world(&format!("grace = \"1s\"\n{}", policy()), false)?;
        world.start(Kind::Hostsync)?;
        until_hosts("local.test", true)?;
        let inode = fs::metadata("/etc/hosts")?.ino();
        world
            .sharectl(&["host", "add", "more.test", "127.64.0.9"])?
            .success()?;
        until_hosts("more.test", true)?;
        ensure!(
            fs::metadata("/etc/hosts")?.ino() != inode,
            "with a writable folder the file is replaced"
        );
        // Killed and started again, the writer hears of its clients anew.
        manager.kill();
        world.sharectl(&["host", "rm", "more.test"])?.success()?;
        until_hosts("more.test", false)?;
        world.daemon(Kind::Hostsync)?.kill()?;
        until_hosts("local.test", false)?;
        ensure!(hosts()? == OWN, "{}", hosts()?);

        // A policy that others may write is none.
        fs::set_permissions(
            "/etc/sharectl/hosts.toml",
            fs::Permissions::from_mode(0o666),
        )?;
        let answer = say(r#"{"do":"set","file":"/etc/hosts","names":{"a.test":"127.0.0.1"}}"#)?;
        ensure!(answer.to_string().contains("chmod go-w"), "{answer}");
        Ok(())
    });
}

#[test]
fn clients_are_bounded() {
    whole_system(|| {
        let (_world, _manager) = world(&policy(), true)?;
        say(r#"{"do":"hello"}"#)?;
        // Those who say nothing hold places, but only so many, and no other user's.
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(UnixStream::connect(SOCKET)?);
        }
        let refused = retry("a place too many", SOON, || {
            let answer = say(r#"{"do":"hello"}"#)?;
            ensure!(answer["is"] == "refused", "{answer}");
            Ok(answer)
        })?;
        ensure!(
            refused.to_string().contains("too many clients"),
            "{refused}"
        );
        drop(silent);
        retry("a place again", SOON, || {
            let answer = say(r#"{"do":"hello"}"#)?;
            ensure!(answer["is"] == "hello", "{answer}");
            Ok(())
        })?;
        // One that asks without end is slowed down.
        let mut slowed = 0;
        for _ in 0..60 {
            let answer = say(r#"{"do":"hello"}"#)?;
            slowed += u32::from(answer.to_string().contains("too often"));
        }
        ensure!(slowed > 0, "nobody was slowed down");
        // A line without end is cut off.
        let mut stream = UnixStream::connect(SOCKET)?;
        stream.set_write_timeout(Some(SOON))?;
        let endless = vec![b'x'; 1 << 20];
        let sent = stream.write_all(&endless);
        let mut answer = String::new();
        stream.set_read_timeout(Some(SOON))?;
        BufReader::new(&stream).read_line(&mut answer).ok();
        ensure!(
            sent.is_err() || answer.contains("no request is longer"),
            "{answer}"
        );
        Ok(())
    });
}

/// systemd's own judgement of the units, as they are installed.
#[test]
fn units_are_good_and_confine() {
    whole_system(|| {
        packages::ensure(packages::HOSTS)?;
        let world = World::new(CONFIG)?;
        let root: PathBuf = world.path("root");
        let shown = world
            .sharectl_as_ourselves(&["host", "writer", "install", "--dry-run"])?
            .success()?;
        for step in [
            "cp ",
            "write /etc/systemd/system/sharectl-hosts.socket",
            "systemctl enable --now",
        ] {
            ensure!(shown.contains(step), "{step} is missing:\n{shown}");
        }
        let folder = root.display().to_string();
        world
            .sharectl_as_ourselves(&["host", "writer", "install", "--root", &folder])?
            .success()?;
        let program = root.join("usr/local/libexec/sharectl/sharectl-hosts-writer");
        ensure!(
            fs::metadata(&program)?.mode() & 0o777 == 0o755,
            "the program cannot be run"
        );
        // `verify` takes units of a folder as the machine's; the program's place is the machine's own.
        let unit = root.join("etc/systemd/system/sharectl-hosts.service");
        let text = fs::read_to_string(&unit)?;
        let here = text.replace(
            "/usr/local/libexec/sharectl/sharectl-hosts-writer",
            &program.display().to_string(),
        );
        ensure!(here != text, "the unit has another program");
        fs::write(&unit, here)?;
        let socket = unit.with_extension("socket");
        let mut verify = Command::new("systemd-analyze");
        verify
            .args(["verify", "--recursive-errors=no", "--man=no"])
            .arg(&unit)
            .arg(&socket);
        let said = command::output(&mut verify, SOON)?;
        ensure!(
            said.status.success() && said.stderr.trim().is_empty(),
            "{}{}",
            said.stdout,
            said.stderr
        );
        let mut judge = Command::new("systemd-analyze");
        judge
            .args(["security", "--offline=true", "--threshold=15", "--no-pager"])
            .arg(&unit);
        command::output(&mut judge, SOON)?.success()?;
        Ok(())
    });
}
