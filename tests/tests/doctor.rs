//! `sharectl doctor` on things that are really broken: it sees each, `--fix` mends what is safe, and then all is well.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::limit::{retry, wait_for};
use tests::outside::{Outside, SERVER};
use tests::{Context, Result, ensure, whole_system};

const SOON: Duration = Duration::from_secs(20);
const CONFIG: &str = r#"
[network.vmnet8]
subnet = "192.168.130.0/24"
dns = ["192.0.2.2:5301", "192.0.2.2:5302"]

[guest.dev]
host-address = "127.64.0.9"
names = ["local.test"]
publish = ["8080:80"]

[share.d]
path = "@shared/d"

[hosts]
files = ["@hosts"]
"#;
const OWN: &str = "127.0.0.1 localhost\n10.0.0.1 mine\n";
/// Those whose outcome is this test's own doing, and not the machine's.
const CHECKS: [&str; 13] = [
    "config",
    "runtime-folder",
    "state-folder",
    "programs",
    "daemon",
    "version",
    "socket",
    "share",
    "hosts",
    "subnet",
    "port",
    "low-ports",
    "resolver",
];

/// What one run says.
struct Seen {
    exit: Option<i32>,
    findings: BTreeMap<String, serde_json::Value>,
    /// With `--fix`: what was done, and whether it was.
    repairs: Vec<(String, bool)>,
}

impl Seen {
    fn state(&self, id: &str) -> &str {
        self.findings
            .get(id)
            .and_then(|found| found["state"].as_str())
            .unwrap_or("no finding")
    }

    /// Checks the state of a finding, and that its evidence names something.
    fn is(&self, id: &str, state: &str, evidence: &str) -> Result<()> {
        let found = self.findings.get(id).with_context(|| {
            let all: Vec<&String> = self.findings.keys().collect();
            format!("no finding {id} among {all:?}")
        })?;
        let said = found["evidence"].as_str().unwrap_or_default();
        ensure!(
            found["state"] == state && said.contains(evidence),
            "{id} should be {state} with {evidence:?}: {found}"
        );
        Ok(())
    }

    fn is_well(&self) -> Result<()> {
        let mut unwell = self.findings.values();
        let unwell = unwell.find(|found| found["state"] == "warn" || found["state"] == "fail");
        ensure!(unwell.is_none() && self.exit == Some(0), "{unwell:?}");
        Ok(())
    }
}

fn doctor(world: &World, options: &[&str]) -> Result<Seen> {
    let mut line = vec!["doctor", "--format", "json"];
    line.extend(options);
    line.extend(CHECKS);
    let output = world.sharectl(&line)?;
    let value: serde_json::Value =
        serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))?;
    let list = if value.is_array() {
        &value
    } else {
        &value["findings"]
    };
    let mut findings = BTreeMap::new();
    for found in list.as_array().context("no list")? {
        let id = found["id"].as_str().context("no id")?.to_owned();
        let twice = findings.insert(id, found.clone());
        ensure!(twice.is_none(), "two findings of one id: {twice:?}");
    }
    let repairs = value["repairs"].as_array().into_iter().flatten();
    let repairs = repairs.map(|repair| {
        let what = repair["what"].as_str().unwrap_or_default().to_owned();
        (what, repair["done"] == true)
    });
    Ok(Seen {
        exit: output.status.code(),
        repairs: repairs.collect(),
        findings,
    })
}

/// A resolver beyond the host, which says that there is no such name until its namespace goes.
fn answer(outside: &Outside, port: u16) -> Result<()> {
    let address = SocketAddr::from((SERVER, port));
    let socket = outside.server.within(|| Ok(UdpSocket::bind(address)?))?;
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            buffer[3] = 3;
            if socket.send_to(&buffer[..length], from).is_err() {
                break;
            }
        }
    });
    Ok(())
}

#[test]
fn what_is_broken_is_seen_and_mended_and_then_all_is_well() {
    whole_system(|| {
        let outside = Outside::new()?;
        let mut world = World::new(CONFIG)?.inside(&outside.host);
        let hosts = world.path("hosts");
        world.write(&hosts, OWN)?;
        answer(&outside, 5301)?;
        world.start_all()?;
        wait_for("the guest's name", SOON, || {
            Ok(fs::read_to_string(&hosts)?
                .contains("local.test")
                .then_some(()))
        })?;
        let well = doctor(&world, &[])?;
        ensure!(well.exit == Some(0), "{:?}", well.findings);
        well.is("resolver.192.0.2.2:5301", "ok", "NXDOMAIN")?;
        well.is("resolver.192.0.2.2:5302", "warn", "refused")?;
        for id in [
            "daemon.netd",
            "version.sharefs",
            "socket",
            "share.d",
            "subnet.vmnet8",
            "port.dev.8080:80",
        ] {
            well.is(id, "ok", "")?;
        }

        // Everything at once.
        for kind in [Kind::Netd, Kind::Hostsync] {
            world.daemon(kind)?.kill()?;
        }
        let text = fs::read_to_string(&hosts)?;
        let damaged: String = text
            .lines()
            .filter(|line| !line.starts_with("# END sharectl"))
            .map(|line| format!("{line}\n"))
            .collect();
        ensure!(damaged != text, "{text}");
        world.write(&hosts, &damaged)?;
        fs::remove_dir(world.path("shared/d"))?;
        let mut thief = world
            .command("socat")
            .args(["TCP-LISTEN:8080,bind=127.64.0.9,fork", "/dev/null"])
            .spawn()?;
        outside.host.run("ip route add 192.168.128.0/18 dev out0")?;

        let broken = retry("the thief's port", SOON, || {
            let broken = doctor(&world, &[])?;
            broken.is(
                "port.dev.8080:80",
                "fail",
                "127.64.0.9:8080 is in use by socat (pid ",
            )?;
            Ok(broken)
        })?;
        ensure!(broken.exit == Some(1));
        broken.is("daemon.netd", "warn", "is not running")?;
        broken.is("daemon.sharefs", "warn", "shared/d is gone")?;
        broken.is("socket.netd.pid", "warn", "which is gone")?;
        broken.is("socket.netd.sock", "warn", "killed")?;
        broken.is("socket.guest/dev/link.sock", "warn", "killed")?;
        broken.is("socket.hostsync.sock", "warn", "killed")?;
        broken.is("share.d", "fail", "shared/d: No such file")?;
        let name = format!("hosts.{}", hosts.display());
        broken.is(&name, "fail", "markers are damaged")?;
        broken.is(
            "subnet.vmnet8",
            "fail",
            "out0 of this host leads to 192.168.128.0/18",
        )?;

        // Showing changes nothing.
        let shown = doctor(&world, &["--fix", "--dry-run"])?;
        ensure!(!shown.repairs.is_empty() && shown.repairs.iter().all(|(_, done)| !done));
        ensure!(fs::read_to_string(&hosts)? == damaged && world.socket(Kind::Netd).exists());
        ensure!(!world.path("shared/d").exists());

        // What is somebody else's is left: the thief's port, the route.
        let mended = doctor(&world, &["--fix"])?;
        ensure!(
            mended.repairs.iter().all(|(_, done)| *done),
            "{:?}",
            mended.repairs
        );
        for id in [
            "socket",
            "share.d",
            &name,
            "daemon.hostsync",
            "version.netd",
        ] {
            ensure!(
                mended.state(id) == "ok",
                "{id}: {:?}",
                mended.findings.get(id)
            );
        }
        ensure!(mended.exit == Some(1));
        mended.is("port.dev.8080:80", "fail", "socat")?;
        mended.is("subnet.vmnet8", "fail", "192.168.128.0/18")?;
        let now = fs::read_to_string(&hosts)?;
        ensure!(
            now.starts_with(OWN) && now.matches("# END sharectl").count() == 1,
            "{now}"
        );
        ensure!(thief.try_wait()?.is_none(), "the thief was ended");

        // When they are gone, netd is told to try again, and nothing is left to do.
        thief.kill()?;
        thief.wait()?;
        outside.host.run("ip route del 192.168.128.0/18 dev out0")?;
        answer(&outside, 5302)?;
        let free = retry("the port to be free", SOON, || {
            let free = doctor(&world, &[])?;
            free.is("port.dev.8080:80", "fail", "it is free now")?;
            Ok(free)
        })?;
        ensure!(free.findings["port.dev.8080:80"]["fixable"] == true);
        let healed = retry("all to be well", SOON, || {
            let healed = doctor(&world, &["--fix"])?;
            healed.is_well()?;
            Ok(healed)
        })?;
        healed.is("port.dev.8080:80", "ok", "netd has it")?;
        let again = doctor(&world, &["--fix"])?;
        again.is_well()?;
        ensure!(again.repairs.is_empty(), "{:?}", again.repairs);
        Ok(())
    });
}

#[test]
fn a_machine_where_nothing_answers_holds_doctor_up_for_seconds_only() {
    whole_system(|| {
        let outside = Outside::new()?;
        // Packets to it vanish.
        let config = CONFIG.replace("192.0.2.2", "203.0.113.1");
        let mut world = World::new(&config)?.inside(&outside.host);
        world.write(&world.path("hosts"), OWN)?;
        world.start(Kind::Netd)?;
        world.start(Kind::Sharefs)?;
        // Standing still: they take connections, and say nothing.
        for kind in [Kind::Netd, Kind::Sharefs] {
            let daemon = world.daemon(kind)?;
            daemon.signal(rustix::process::Signal::STOP)?;
            let worker = daemon.pid().to_string();
            outside.host.run(&format!("kill -STOP {worker}"))?;
        }
        let began = tests::limit::now();
        let seen = doctor(&world, &[])?;
        let took = began.elapsed();
        ensure!(took < Duration::from_secs(15), "{took:?}");
        ensure!(seen.exit == Some(1));
        seen.is("daemon.netd", "fail", "does not answer")?;
        seen.is(
            "resolver.203.0.113.1:5301",
            "fail",
            "does not answer within 1.8 s",
        )?;
        seen.is("share.d", "ok", "")?;
        seen.is("config", "ok", "")?;
        // Nobody else's process is touched, though sharefs' sockets are there.
        ensure!(seen.state("socket") == "ok", "{:?}", seen.findings);
        Ok(())
    });
}
