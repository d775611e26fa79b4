//! Names on the host from everything that knows some: lease files as servers write them, a real container
//! engine, names for a time; who wins, what outlives what, how often files are written, and the same by DNS.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::http;
use tests::limit::{now, wait_for};
use tests::netns::Netns;
use tests::{Context, Result, ensure, packages, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
subnet = "192.168.130.0/24"
[network.vmnet8.dns-rules]
"local.test" = ["127.0.0.153:1053"]

[guest.dev]
host-address = "127.64.0.1"
wildcard = true

[hosts]
files = ["@etc/hosts"]
dns = "on"

[hosts.static]
"db.vm.test" = "10.1.2.3"
"*.apps.test" = "127.0.0.7"

[hosts.source]
vmware = { type = "dhcpd", path = "@leases/dhcpd.leases", suffix = "vm.test" }
lan = { type = "dnsmasq", path = "@leases/dnsmasq.leases", suffix = "vm.test", priority = 40 }
virt = { type = "libvirt", path = "@leases/virbr*.status", suffix = "vm.test", priority = 30 }
mac = { type = "bootpd", path = "@leases/dhcpd_leases", suffix = "vm.test", keep = "2s" }
box = { type = "podman", path = "@engine/podman.sock", suffix = "local.test" }
"#;

const OWN: &str = "127.0.0.1\tlocalhost\n10.0.0.7\tmine.vm.test\n";
const SOON: Duration = Duration::from_secs(20);

/// Hostsync in a host of its own, with a hosts file and folders for lease files.
struct Stage {
    // The world goes first: it is in the namespace.
    world: World,
    host: Netns,
}

impl Stage {
    fn new() -> Result<Self> {
        let host = Netns::new("names")?;
        host.run("ip link set dev lo up")?;
        let world = World::new(CONFIG)?.inside(&host);
        for folder in ["etc", "leases", "engine"] {
            std::fs::create_dir(world.path(folder))?;
            world.user().own(&world.path(folder))?;
        }
        world.write(&hosts(&world), OWN)?;
        Ok(Self { world, host })
    }

    fn lease_file(&self, name: &str, text: impl AsRef<[u8]>) -> Result<()> {
        self.world.write(&leases(&self.world).join(name), text)
    }

    /// Waits until the hosts file has exactly these names in our block.
    fn names(&self, expected: &[&str]) -> Result<()> {
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        let mut last: Vec<String> = Vec::new();
        let outcome = wait_for(&format!("names {expected:?}"), SOON, || {
            let text = std::fs::read_to_string(hosts(&self.world))?;
            ensure!(
                text.starts_with(OWN),
                "the user's own lines changed:\n{text}"
            );
            last = text
                .strip_prefix(OWN)
                .unwrap_or_default()
                .lines()
                .filter(|line| !line.starts_with('#') && !line.is_empty())
                .map(|line| line.replace('\t', " "))
                .collect();
            last.sort_unstable();
            Ok((last == expected).then_some(()))
        });
        outcome.with_context(|| format!("there are {last:?}"))
    }

    /// What `host ls` says of a name, a line each: `ADDRESS SOURCE: reasons (hint)`.
    fn listed(&self, name: &str) -> Result<Vec<String>> {
        let output = self.world.sharectl(&["--format", "json", "host", "ls"])?;
        let lines: serde_json::Value = serde_json::from_slice(output.success()?.as_bytes())?;
        let lines = lines.as_array().context("no list")?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let shown = lines
            .iter()
            .filter(|line| line["name"] == name)
            .map(|line| {
                let reasons = line["left_out"].as_array().into_iter().flatten().map(text);
                let reasons: Vec<String> = reasons.collect();
                let (address, source) = (text(&line["address"]), text(&line["source"]));
                format!(
                    "{address} {source}: {} ({})",
                    reasons.join("; "),
                    text(&line["hint"])
                )
            });
        Ok(shown.collect())
    }

    fn problems(&self) -> Result<Vec<String>> {
        let status = self.world.get(Kind::Hostsync, "/v1/status")?;
        Ok(serde_json::from_value(status["problems"].clone())?)
    }

    /// A number out of hostsync's metrics.
    fn counted(&self, name: &str) -> Result<u64> {
        let page = self.world.ask(Kind::Hostsync, "GET", "/metrics", None)?;
        let page = page.body;
        let line = page
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        let line = line.with_context(|| format!("no {name} in {page}"))?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
    }

    /// `dig` in the host, asking hostsync; its short answer.
    fn dig(&self, question: &str) -> Result<String> {
        self.host.run(&format!(
            "dig +short +tries=1 +time=5 @127.0.0.153 -p 1053 {question}"
        ))
    }

    /// The code of the answer.
    fn code(&self, question: &str) -> Result<String> {
        let ask = format!("dig +tries=1 +time=5 @127.0.0.153 -p 1053 {question}");
        let said = self.host.run(&ask)?;
        let code = said
            .split("status: ")
            .nth(1)
            .and_then(|rest| rest.split(',').next());
        Ok(code.with_context(|| said.clone())?.to_owned())
    }
}

fn hosts(world: &World) -> PathBuf {
    world.path("etc/hosts")
}

fn leases(world: &World) -> PathBuf {
    world.path("leases")
}

/// A block of ISC's and VMware's server that ends in the year 2037.
fn dhcpd(address: &str, last: u8, name: &str) -> String {
    format!(
        "lease {address} {{\n\tstarts 3 2020/05/13 12:00:37;\n\tends 4 2037/05/14 12:30:37;\n\
         \thardware ethernet 00:0c:29:00:00:{last:02x};\n\tclient-hostname \"{name}\";\n}}\n"
    )
}

#[test]
fn every_kind_of_lease_file_gives_names_and_one_that_vanishes_keeps_them_for_a_while() {
    whole_system(|| {
        let mut stage = Stage::new()?;
        stage.world.start(Kind::Hostsync)?;
        stage.names(&["10.1.2.3 db.vm.test"])?;
        stage.lease_file("dhcpd.leases", dhcpd("192.168.70.128", 1, "box"))?;
        stage.lease_file("dnsmasq.leases", "0 52:54:00:00:00:02 10.0.0.2 web *\n")?;
        stage.lease_file(
            "virbr0.status",
            r#"[{"ip-address":"192.168.122.3","mac-address":"52:54:00:00:00:03","hostname":"db","expiry-time":2126000000},
                {"ip-address":"192.168.122.4","mac-address":"52:54:00:00:00:04","hostname":"web","expiry-time":2126000000}]"#,
        )?;
        stage.lease_file(
            "dhcpd_leases",
            "{\n\tname=mini\n\tip_address=192.168.64.3\n\thw_address=1,d:ea:d0:0:0:5\n\tlease=0x7eb83f80\n}\n",
        )?;
        stage.names(&[
            "192.168.70.128 box.vm.test",
            "10.1.2.3 db.vm.test",
            "192.168.64.3 mini.vm.test",
            "10.0.0.2 web.vm.test",
        ])?;

        // What virt says shows in no file.
        wait_for("virt's names", SOON, || {
            Ok((stage.listed("db.vm.test")?.len() == 2).then_some(()))
        })?;
        // Who lost says to whom, by which rule, and what would change it.
        ensure!(
            stage.listed("web.vm.test")?
                == [
                    "10.0.0.2 lan: 52:54:00:00:00:02:  ()",
                    "192.168.122.4 virt: 52:54:00:00:00:04: lan: 52:54:00:00:00:02 has it (10.0.0.2): its \
                     priority 40 is above 30 (priority = 41 or more for virt in [hosts.source])",
                ]
        );
        let db = stage.listed("db.vm.test")?;
        ensure!(
            db[1].contains("what you wrote comes first (sharectl host rm 'db.vm.test')"),
            "{db:?}"
        );
        // A name on the user's own line is never taken.
        stage.lease_file(
            "dhcpd.leases",
            dhcpd("192.168.70.128", 1, "box") + &dhcpd("192.168.70.129", 6, "mine"),
        )?;
        wait_for("mine.vm.test to be known", SOON, || {
            let lines = stage.listed("mine.vm.test")?;
            Ok(lines
                .iter()
                .any(|line| line.contains("its line 2 already gives 10.0.0.7"))
                .then_some(()))
        })?;

        // A bad block does no harm, the last block about an address counts, and the file may be replaced.
        let folder = leases(&stage.world);
        stage.lease_file(
            "new",
            format!("lease broken {{\n{}", dhcpd("192.168.70.128", 7, "box2")),
        )?;
        std::fs::rename(folder.join("new"), folder.join("dhcpd.leases"))?;
        let others = ["10.1.2.3 db.vm.test", "10.0.0.2 web.vm.test"];
        stage.names(&[
            "192.168.70.128 box2.vm.test",
            others[0],
            "192.168.64.3 mini.vm.test",
            others[1],
        ])?;

        // Vanished: the names stand, status says so; one source keeps them for two seconds only.
        std::fs::remove_file(folder.join("dhcpd.leases"))?;
        std::fs::remove_file(folder.join("dhcpd_leases"))?;
        stage.names(&["192.168.70.128 box2.vm.test", others[0], others[1]])?;
        let problems = stage.problems()?;
        let told = |what: &str| problems.iter().any(|problem| problem.contains(what));
        ensure!(
            told("source vmware: ") && told("No such file") && told("its 1 names stand until"),
            "{problems:?}"
        );
        let listed = stage.world.sharectl(&["host", "ls"])?;
        ensure!(
            listed.stderr.contains("vmware cannot be read since"),
            "{}",
            listed.stderr
        );
        // Also over a crash of ours.
        stage.world.write(&hosts(&stage.world), OWN)?;
        stage.world.crash(Kind::Hostsync)?;
        stage.names(&["192.168.70.128 box2.vm.test", others[0], others[1]])?;
        stage.lease_file("dhcpd.leases", "")?;
        stage.names(&others)
    });
}

#[test]
fn a_name_for_a_time_outlives_a_crash_and_ends_by_itself() {
    whole_system(|| {
        let mut stage = Stage::new()?;
        stage.world.start(Kind::Hostsync)?;
        let base = "10.1.2.3 db.vm.test";
        let file = std::fs::read_to_string(stage.world.path("config.toml"))?;
        let run = |stage: &Stage, words: &str| {
            let words: Vec<&str> = words.split(' ').collect();
            stage.world.sharectl(&words)
        };
        run(&stage, "host add demo.test 127.0.0.1 --for 15s")?.success()?;
        // Whoever asked is answered when it stands there.
        ensure!(std::fs::read_to_string(hosts(&stage.world))?.contains("127.0.0.1\tdemo.test\n"));
        run(&stage, "host add long.test 127.0.0.2 --for 1h")?.success()?;
        let shown = run(&stage, "host ls")?.success()?;
        let long = shown
            .lines()
            .find(|line| line.starts_with("long.test"))
            .context("long.test")?;
        ensure!(long.contains(" added ") && long.contains(" 59m"), "{long}");
        let refused = run(&stage, "host add db.vm.test 127.0.0.2 --for 1h")?;
        ensure!(
            refused.stderr.contains("db.vm.test is 10.1.2.3 already"),
            "{}",
            refused.stderr
        );
        let refused = run(&stage, "host add localhost 127.0.0.2 --for 1h")?;
        ensure!(
            refused.stderr.contains("belongs to this machine"),
            "{}",
            refused.stderr
        );

        stage.world.crash(Kind::Hostsync)?;
        stage.names(&[base, "127.0.0.1 demo.test", "127.0.0.2 long.test"])?;
        stage.names(&[base, "127.0.0.2 long.test"])?;
        run(&stage, "host rm long.test")?.success()?;
        ensure!(!std::fs::read_to_string(hosts(&stage.world))?.contains("long.test"));
        ensure!(
            run(&stage, "host rm long.test")?
                .stderr
                .contains("no static name")
        );
        ensure!(std::fs::read_to_string(stage.world.path("config.toml"))? == file);
        Ok(())
    });
}

#[test]
fn a_thousand_leases_a_second_make_few_writes_and_none_is_lost() {
    const LEASES: u32 = 3_000;
    whole_system(|| {
        let mut stage = Stage::new()?;
        stage.lease_file("dnsmasq.leases", "")?;
        stage.world.start(Kind::Hostsync)?;
        stage.names(&["10.1.2.3 db.vm.test"])?;
        let path = leases(&stage.world).join("dnsmasq.leases");
        let before = stage.counted("sharectl_hostsync_writes_total")?;
        let begun = now();
        let mut file = std::fs::OpenOptions::new().append(true).open(path)?;
        for number in 0..LEASES {
            // Written as it comes, a thousand a second; nothing waits for an outcome here.
            while begun.elapsed() < Duration::from_millis(u64::from(number)) {
                std::thread::yield_now();
            }
            let [_, _, high, low] = number.to_be_bytes();
            let line =
                format!("0 52:54:01:00:{high:02x}:{low:02x} 10.9.{high}.{low} n{number} *\n");
            file.write_all(line.as_bytes())?;
        }
        wait_for("every name", Duration::from_secs(60), || {
            let text = std::fs::read_to_string(hosts(&stage.world))?;
            let found = text
                .lines()
                .filter(|line| line.starts_with("10.9."))
                .count();
            Ok((found == LEASES as usize).then_some(()))
        })?;
        // Counted once it is quiet: the write that was seen above may not be counted yet.
        let writes = wait_for("the count", SOON, || {
            let first = stage.counted("sharectl_hostsync_writes_total")?;
            let second = stage.counted("sharectl_hostsync_writes_total")?;
            Ok((first == second && first > before).then_some(first - before))
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        eprintln!("{writes} writes of {LEASES} leases in {seconds:.1} s");
        ensure!(
            writes as f64 <= 5.0 * seconds + 1.0,
            "{writes} writes in {seconds} s"
        );
        Ok(())
    });
}

#[test]
fn the_table_is_answered_by_dns_wildcards_too() {
    whole_system(|| {
        let mut stage = Stage::new()?;
        stage.lease_file("dhcpd.leases", dhcpd("192.168.70.128", 1, "box"))?;
        stage.world.start(Kind::Netd)?;
        stage.world.start(Kind::Hostsync)?;
        stage.names(&[
            "192.168.70.128 box.vm.test",
            "10.1.2.3 db.vm.test",
            "127.64.0.1 dev.test",
        ])?;
        for (question, expected) in [
            ("box.vm.test", "192.168.70.128"),
            ("BOX.vm.test +tcp", "192.168.70.128"),
            ("any.thing.apps.test", "127.0.0.7"),
            // The guest owns all that is below its name.
            ("x.dev.test", "127.64.0.1"),
            ("-x 192.168.70.128", "box.vm.test."),
            ("box.vm.test AAAA", ""),
            ("test NS", "localhost."),
        ] {
            ensure!(stage.dig(question)? == expected, "{question}");
        }
        for (question, expected) in [
            ("absent.vm.test", "NXDOMAIN"),
            ("vm.test", "NOERROR"),
            ("apps.test", "NOERROR"),
            ("example.com", "REFUSED"),
            ("example.com +tcp", "REFUSED"),
            ("box.vm.test CH", "REFUSED"),
            ("-x 192.168.70.1", "REFUSED"),
        ] {
            ensure!(stage.code(question)? == expected, "{question}");
        }
        // Ordinary users may not have port 53; whoever wants it says so.
        let status = stage.world.get(Kind::Hostsync, "/v1/dns")?;
        ensure!(
            status["listening"][0]
                .as_str()
                .is_some_and(|at| at.starts_with("127.0.0.153:"))
        );
        ensure!(status["domains"] == serde_json::json!(["test"]), "{status}");

        // Many connections that say nothing keep nobody out for long, and bytes do no harm.
        let idle = stage.host.within(|| {
            let each = (0..100).map(|_| std::net::TcpStream::connect("127.0.0.153:1053"));
            Ok(each.filter_map(Result::ok).collect::<Vec<_>>())
        })?;
        stage.host.within(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
            for length in 0..64_u8 {
                socket.send_to(&vec![length; usize::from(length)], "127.0.0.153:1053")?;
            }
            Ok(())
        })?;
        ensure!(stage.dig("box.vm.test")? == "192.168.70.128");
        drop(idle);
        ensure!(stage.dig("box.vm.test +tcp")? == "192.168.70.128");

        // A guest asks too, where its network has a rule for that.
        stage
            .world
            .sharectl(&["host", "add", "shop.local.test", "10.88.0.5"])?
            .success()?;
        let asked = wait_for("the guest's answer", SOON, || {
            let words = ["network", "dns", "shop.local.test", "--type", "A"];
            let said = stage.world.sharectl(&words)?.success()?;
            Ok(said.contains("10.88.0.5").then_some(said))
        })?;
        ensure!(
            asked.contains("127.0.0.153"),
            "who answered is told: {asked}"
        );
        Ok(())
    });
}

#[test]
fn the_set_up_for_the_hosts_resolver_works_with_a_real_dnsmasq() {
    whole_system(|| {
        packages::ensure(packages::CLIENTS)?;
        let mut stage = Stage::new()?;
        stage.world.start(Kind::Hostsync)?;
        let root = stage.world.share_folder("root")?;
        let root_text = root.to_str().context("UTF-8")?.to_owned();
        std::fs::create_dir_all(root.join("etc/dnsmasq.d"))?;
        std::fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.1\n")?;
        let dns = |verb: &str, more: &[&str]| {
            let mut words = vec!["host", "dns", verb, "--root", &root_text];
            words.extend(more);
            stage.world.sharectl_as_ourselves(&words)
        };
        dns("enable", &["--apply"])?.success()?;
        let file = root.join("etc/dnsmasq.d/sharectl.conf");
        let status = dns("status", &[])?.success()?;
        ensure!(
            status.contains("managed by  dnsmasq") && status.contains("set-up      made"),
            "{status}"
        );

        let mut server = stage
            .host
            .command("dnsmasq")
            .args([
                "--no-daemon",
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
                "--port=53",
            ])
            .args(["--listen-address=127.0.0.1", "--user=root", "--pid-file="])
            .arg(format!("--conf-file={}", file.display()))
            .stderr(Stdio::null())
            .spawn()?;
        let answer = wait_for("dnsmasq's answer", SOON, || {
            let said = stage
                .host
                .output(SOON, "dig +short +tries=1 +time=2 @127.0.0.1 x.y.apps.test")?;
            Ok((said.stdout.trim() == "127.0.0.7").then_some(()))
        });
        let outside = stage
            .host
            .run("dig +tries=1 +time=2 @127.0.0.1 example.com");
        server.kill()?;
        server.wait()?;
        answer?;
        ensure!(
            outside?.contains("status: REFUSED"),
            "others' names are not sent to hostsync"
        );
        let refused = stage.world.get(Kind::Hostsync, "/v1/dns")?["refused"].clone();
        ensure!(refused == 0, "{refused} questions about others' names");
        dns("disable", &["--apply"])?.success()?;
        ensure!(!file.exists() && root.join("etc/dnsmasq.d").is_dir());
        Ok(())
    });
}

/// podman's API service in the host's namespace, with everything of its own.
struct Engine {
    service: Child,
    socket: PathBuf,
}

impl Engine {
    fn start(stage: &Stage) -> Result<Self> {
        let folder = stage.world.path("podman");
        std::fs::create_dir_all(folder.join("rootfs/bin"))?;
        for part in ["proc", "sys", "dev", "etc", "tmp"] {
            std::fs::create_dir_all(folder.join("rootfs").join(part))?;
        }
        let busybox = packages::find("busybox").context("no busybox")?;
        std::fs::copy(busybox, folder.join("rootfs/bin/sleep"))?;
        let here = folder.display();
        std::fs::write(
            folder.join("containers.conf"),
            format!(
                "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\nlog_driver = \"k8s-file\"\n\
                 [engine]\nruntime = \"runc\"\n[network]\nnetwork_backend = \"cni\"\nnetwork_config_dir = \"{here}/net\"\n"
            ),
        )?;
        let socket = stage.world.path("engine/podman.sock");
        // Its own view of every place that podman keeps outside its folders, and its own processes: all
        // of it ends with the first one.
        let script = format!(
            "mount --make-rprivate / && mount -t tmpfs none /run/netns && mount -t tmpfs none /dev/shm && \
             mkdir -p /var/lib/cni && mount -t tmpfs none /var/lib/cni && \
             exec podman --root {here}/root --runroot {here}/runroot --tmpdir {here}/run --storage-driver=vfs \
             --cgroup-manager=cgroupfs --events-backend=file system service --time=0 unix://{}",
            socket.display()
        );
        let log = std::fs::File::create(stage.world.path("podman.log"))?;
        let service = Command::new("nsenter")
            .arg(format!("--net={}", stage.host.path().display()))
            .args([
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sh",
                "-c",
                &script,
            ])
            .env("CONTAINERS_CONF", folder.join("containers.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let engine = Self { service, socket };
        wait_for("podman", SOON, || {
            let answer = http::over_unix(&engine.socket, "GET", "/_ping", None, SOON);
            Ok(answer.ok().filter(|answer| answer.status == 200).map(drop))
        })?;
        // The engine's administrator gives the right to use it, by a group on a real host.
        std::fs::set_permissions(&engine.socket, std::fs::Permissions::from_mode(0o666))?;
        Ok(engine)
    }

    fn post(&self, path: &str, body: Option<&serde_json::Value>) -> Result<()> {
        let answer = http::over_unix(&self.socket, "POST", path, body, Duration::from_secs(60))?;
        let said = answer.body;
        ensure!(
            (200..300).contains(&answer.status),
            "{path}: {} {said}",
            answer.status
        );
        Ok(())
    }

    fn run(&self, rootfs: &Path, name: &str, labels: &serde_json::Value) -> Result<()> {
        let container = serde_json::json!({
            "name": name, "rootfs": rootfs, "command": ["/bin/sleep", "1000"], "labels": labels,
        });
        self.post("/v4.0.0/libpod/containers/create", Some(&container))?;
        self.post(&format!("/v4.0.0/libpod/containers/{name}/start"), None)
    }

    fn stop(mut self) -> Result<()> {
        self.service.kill()?;
        self.service.wait()?;
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.service.kill().ok();
        self.service.wait().ok();
    }
}

#[test]
fn containers_of_a_real_engine_have_names_while_they_run() {
    whole_system(|| {
        packages::ensure(packages::CONTAINERS)?;
        let mut stage = Stage::new()?;
        stage.world.start(Kind::Hostsync)?;
        let base = "10.1.2.3 db.vm.test";
        stage.names(&[base])?;
        wait_for("the engine to be missed", SOON, || {
            let problems = stage.problems()?;
            let is_missed = |problem: &String| problem.contains("podman.sock is not there");
            Ok(problems.iter().any(is_missed).then_some(()))
        })?;

        // The engine comes later than we, and has no container yet.
        let engine = Engine::start(&stage)?;
        let rootfs = stage.world.path("podman/rootfs");
        let labels = serde_json::json!({
            "com.docker.compose.project": "shop", "com.docker.compose.service": "web",
            "sharectl.names": "shop *.shop bank.example",
        });
        engine.run(&rootfs, "shop_web_1", &labels)?;
        let address = wait_for("the container's address", SOON, || {
            let lines = stage.listed("shop.local.test")?;
            Ok(lines
                .first()
                .and_then(|line| line.split(' ').next())
                .map(str::to_owned))
        })?;
        stage.names(&[
            base,
            &format!("{address} shop-web-1.local.test"),
            &format!("{address} shop.local.test"),
            &format!("{address} web.shop.local.test"),
        ])?;
        // It is the one that works here.
        stage.host.run(&format!("ping -c1 -W5 {address}"))?;
        // netd does not run, hence 3; the container is shown all the same.
        let shown = stage.world.sharectl(&["ps", "--format", "json"])?;
        ensure!(shown.status.code() == Some(3), "{shown:?}");
        let shown: serde_json::Value = serde_json::from_slice(shown.stdout.as_bytes())?;
        let known = &shown["engines"][0];
        ensure!(
            known["source"] == "box" && known["answers"] == true,
            "{shown}"
        );
        let web = &known["containers"][0];
        ensure!(
            web["name"] == "shop_web_1" && web["state"] == "running",
            "{shown}"
        );
        let names = web["names"].as_array().context("no names")?;
        ensure!(names.contains(&"web.shop.local.test".into()), "{shown}");
        ensure!(stage.dig("any.shop.local.test")? == address);
        // Nobody gets a name outside the suffix by a label.
        let outside = stage.listed("bank.example")?;
        ensure!(
            outside[0].contains("the name is not below local.test"),
            "{outside:?}"
        );

        // A container that goes takes its names with it; the engine's end does not.
        engine.run(&rootfs, "two", &serde_json::json!({}))?;
        wait_for("the second one", SOON, || {
            Ok((!stage.listed("two.local.test")?.is_empty()).then_some(()))
        })?;
        engine.post("/v4.0.0/libpod/containers/shop_web_1/kill", None)?;
        let two = stage.listed("two.local.test")?;
        let two = two[0].split(' ').next().unwrap_or_default().to_owned();
        stage.names(&[base, &format!("{two} two.local.test")])?;
        engine.stop()?;
        wait_for("the engine to be missed", SOON, || {
            Ok(stage
                .problems()?
                .iter()
                .any(|problem| problem.contains("source box: "))
                .then_some(()))
        })?;
        let shown = stage.world.sharectl(&["ps", "--format", "json"])?;
        let shown: serde_json::Value = serde_json::from_slice(shown.stdout.as_bytes())?;
        ensure!(shown["engines"][0]["answers"] == false, "{shown}");
        stage.names(&[base, &format!("{two} two.local.test")])
    });
}
