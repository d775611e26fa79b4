//! `sharectl status --watch` on a real terminal, while a network and shares are at work.

use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::limit::wait_for;
use tests::outside::Outside;
use tests::user::User;
use tests::{Context, Result, command, ensure, mounts, packages, programs, whole_system};

const NETWORK: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
publish = ["192.0.2.1:7000:7000"]
[guest.other]
"#;

/// What kernels cache of a share that is never cached is nothing: each read is a request.
const SHARES: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]

[share.src]
path = "@shared/src"
at = "/mnt/src"
guest-owner = "0:0"
cache = "never"

[share.lib]
path = "@shared/lib"
at = "/mnt/lib"
guest-owner = "0:0"

[share.www]
path = "@shared/www"
at = "/mnt/www"
guest-owner = "0:0"
ninep = true
"#;

const SOON: Duration = Duration::from_secs(20);

/// A program on a terminal of its own, as tmux has them.
struct Terminal<'w> {
    world: &'w World,
}

impl<'w> Terminal<'w> {
    fn watch(world: &'w World) -> Result<Self> {
        let sharectl = programs::folder()?.join("sharectl");
        let line = format!("{} status --watch --interval 0.5s", sharectl.display());
        Self::open(world, &line)
    }

    fn open(world: &'w World, line: &str) -> Result<Self> {
        let terminal = Self { world };
        let line = format!("{line}; echo ended with $?; cat");
        terminal.tmux(&["new-session", "-d", "-x", "110", "-y", "30", &line])?;
        Ok(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let mut line = self.world.command("tmux");
        line.env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .args(["-u", "-f", "/dev/null", "-S"])
            .arg(self.world.path("tmux"))
            .args(arguments);
        let output = command::output(&mut line, Duration::from_secs(20))?;
        output.success().context("tmux")
    }

    fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(drop)
    }

    /// Waits until the screen has all of `texts`.
    fn shows(&self, texts: &[&str]) -> Result<String> {
        let mut screen = String::new();
        let shown = wait_for("the screen", SOON, || {
            screen = self.tmux(&["capture-pane", "-p"])?;
            Ok(texts
                .iter()
                .all(|text| screen.contains(text))
                .then(|| screen.clone()))
        });
        shown.with_context(|| format!("{texts:?} in\n{screen}"))
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]).ok();
    }
}

#[test]
fn watch_draws_what_flows_on_a_real_terminal() {
    whole_system(|| {
        packages::ensure(packages::TERMINALS)?;
        let outside = Outside::new()?;
        let mut world = World::new(NETWORK)?.inside(&outside.host);
        world.start(Kind::Netd)?;
        let dev = world.tap_guest("dev")?;
        let echo = outside.echo()?;
        let terminal = Terminal::watch(&world)?;
        let first = terminal.shows(&["● netd", "○ hostsync not running", "Guests on vmnet8"])?;
        ensure!(first.contains("unplugged"), "guest other: {first}");

        let mut stream = dev.within(move || Ok(std::net::TcpStream::connect(echo)?))?;
        for _ in 0..8 {
            std::io::Write::write_all(&mut stream, &[7; 250_000])?;
            std::io::Read::read_exact(&mut stream, &mut vec![0; 250_000])?;
        }
        let busy = wait_for("a rate that is seen", SOON, || {
            let screen = terminal.tmux(&["capture-pane", "-p"])?;
            let quiet = screen.contains("to guests 0 B/s, peak 0 B/s");
            Ok((!quiet && screen.contains("to guests")).then_some(screen))
        })?;
        ensure!(busy.contains('█'), "{busy}");

        terminal.press("2")?;
        terminal.shows(&[&echo.to_string(), "tcp    out  dev", "2.0 MB"])?;
        terminal.press("3")?;
        terminal.shows(&["192.0.2.1:7000:7000"])?;
        terminal.press("5")?;
        terminal.shows(&["Events, the newest first", "link-up"])?;
        terminal.press("q")?;
        terminal.shows(&["ended with 0"])?;
        Ok(())
    });
}

/// Of a share in the status: what was done by this door, as (operations, bytes read, bytes written).
fn traffic(world: &World, share: &str, (guest, door): (Option<&str>, &str)) -> Result<[u64; 3]> {
    let said = world.sharectl(&["status", "--format", "json"])?.stdout;
    let status: serde_json::Value = serde_json::from_str(&said)?;
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let shares = list(&status["shares"]);
    let found = shares.iter().find(|found| found["name"] == share);
    let lines = list(&found.context("no such share")?["traffic"]);
    let line = lines
        .iter()
        .find(|line| line["guest"].as_str() == guest && line["door"] == door)
        .with_context(|| format!("no {door} of {guest:?} in {lines:?}"))?;
    let count = |field: &str| line[field].as_u64().with_context(|| field.to_owned());
    Ok([
        count("operations")?,
        count("bytes_read")?,
        count("bytes_written")?,
    ])
}

/// A number of sharefs' metrics with these labels.
fn metric(world: &World, name: &str, labels: &str) -> Result<u64> {
    let page = world.ask(Kind::Sharefs, "GET", "/metrics", None)?.body;
    let head = format!("sharectl_sharefs_{name}_total{{{labels}}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&head));
    Ok(value
        .with_context(|| format!("no {head}in\n{page}"))?
        .parse()?)
}

/// Columns of the page of shares that say what is done now.
const NOW: std::ops::Range<usize> = 0..3;

/// Of a row that begins so: operations, bytes read and bytes written a second, as they are shown; none while it is not.
fn row(screen: &str, begin: &[&str]) -> Option<Vec<String>> {
    screen.lines().find_map(|line| {
        let words: Vec<&str> = line.trim_matches('│').split_whitespace().collect();
        let rest = words.strip_prefix(begin)?;
        // A number and its unit are one cell.
        let mut cells: Vec<String> = Vec::new();
        for word in rest {
            match cells.last_mut() {
                Some(last) if ["B", "kB", "MB", "GB"].contains(word) => last.push_str(word),
                Some(_) | None => cells.push((*word).to_owned()),
            }
        }
        cells.get(NOW).map(<[String]>::to_vec)
    })
}

/// A guest's kernel by virtiofs and by 9P, and this machine's by its mount, each known by what it does.
#[test]
fn watch_shows_what_each_share_carries_by_guest_and_door() {
    whole_system(|| {
        packages::ensure(packages::GUEST)?;
        packages::ensure(packages::TERMINALS)?;
        packages::ensure(packages::MOUNTS)?;
        mounts::private()?;
        let mut world = World::of(User::unprivileged().with_set_uid(), SHARES)?;
        for share in ["src", "lib", "www"] {
            world.share_folder(share)?;
        }
        world.write(&world.share_folder("www")?.join("page"), [7; 7_000])?;
        world.write(&world.share_folder("src")?.join("text"), [7; 3_000])?;
        world.start(Kind::Netd)?;
        world.start(Kind::Sharefs)?;
        let on_host = world.path("m");
        world
            .sharectl(&["share", "mount", "src", &on_host.display().to_string()])?
            .success()?;
        let shares = [("src", "/mnt/src"), ("lib", "/mnt/lib")];
        let machine = world.machine("dev", &shares)?;
        let guest = machine.module("9p").module("9pnet_fd").boot()?;
        guest.address(SOON)?;
        guest.ok("mkdir -p /mnt/www && mount -t 9p \
             -o trans=tcp,version=9p2000.L,cache=none,aname=www 192.168.130.1 /mnt/www")?;

        guest.ok("dd if=/dev/zero of=/mnt/src/new bs=1000 count=5 2> /dev/null")?;
        guest.ok("cat /mnt/www/page > /dev/null && ls /mnt/lib")?;
        let mut line = world.command("cat");
        command::run(line.arg(on_host.join("text")), SOON)?;
        let dev = Some("dev");
        let [operations, read, written] = traffic(&world, "src", (dev, "virtiofs"))?;
        ensure!(operations >= 6 && read == 0 && written == 5_000);
        let [operations, read, written] = traffic(&world, "lib", (dev, "virtiofs"))?;
        ensure!(operations >= 1 && read == 0 && written == 0);
        let [operations, read, written] = traffic(&world, "www", (dev, "9p"))?;
        ensure!(operations >= 3 && read == 7_000 && written == 0);
        let [operations, read, written] = traffic(&world, "src", (None, "mount"))?;
        ensure!(operations >= 3 && read == 3_000 && written == 0);
        let of_www = r#"guest="dev",share="www""#;
        ensure!(metric(&world, "ninep_read_bytes", of_www)? == 7_000);
        ensure!(metric(&world, "ninep_share_requests", of_www)? >= 3);

        // All at work at once, but for one share.
        guest.ok(
            "(while :; do dd if=/dev/zero of=/mnt/src/new bs=64k count=4; done) > /dev/null 2>&1 &
             (while :; do cat /mnt/www/page; done) > /dev/null 2>&1 &",
        )?;
        let mut loop_here = world.command("sh");
        loop_here.args(["-c", "while cat \"$1\" > /dev/null; do :; done", "sh"]);
        let mut loop_here = loop_here.arg(on_host.join("text")).spawn()?;
        let terminal = Terminal::watch(&world)?;
        terminal.shows(&["● netd", "Guests on vmnet8", "used by dev, this host"])?;
        terminal.press("4")?;
        let busy = |cell: &str| !["0", "0B"].contains(&cell);
        let expected = [
            (["src", "dev", "virtiofs"], [true, false, true]),
            (["lib", "dev", "virtiofs"], [false, false, false]),
            (["www", "dev", "9p"], [true, true, false]),
        ];
        let seen = wait_for("the rates of each door", SOON, || {
            let screen = terminal.tmux(&["capture-pane", "-p"])?;
            let is_as = |(begin, wanted): &([&str; 3], [bool; 3])| {
                let now = row(&screen, begin);
                now.is_some_and(|now| now.iter().map(|cell| busy(cell)).eq(*wanted))
            };
            let host = row(&screen, &["src", "this", "host", "mount"]);
            let host =
                host.is_some_and(|now| now.iter().map(|cell| busy(cell)).eq([true, true, false]));
            Ok((host && expected.iter().all(is_as)).then_some(screen))
        });
        let seen =
            seen.with_context(|| terminal.tmux(&["capture-pane", "-p"]).unwrap_or_default())?;
        println!("{seen}");
        terminal.press("1")?;
        let overview = wait_for("the rates of each share", SOON, || {
            let screen = terminal.tmux(&["capture-pane", "-p"])?;
            let [src, lib, www] = ["src", "lib", "www"].map(|share| row(&screen, &[share]));
            let all = src.zip(lib).zip(www).is_some_and(|((src, lib), www)| {
                src.iter().all(|cell| busy(cell))
                    && !lib.iter().any(|cell| busy(cell))
                    && busy(&www[0])
                    && busy(&www[1])
            });
            Ok(all.then_some(screen))
        });
        let overview =
            overview.with_context(|| terminal.tmux(&["capture-pane", "-p"]).unwrap_or_default())?;
        println!("{overview}");
        loop_here.kill()?;
        loop_here.wait()?;
        terminal.press("q")?;
        terminal.shows(&["ended with 0"])?;
        Ok(())
    });
}
