//! DNS as a guest's own programs see it: dig, getent and dnsperf in a namespace on a tap, a real dnsmasq as
//! the host's resolver and another one behind a split rule, the host's hosts file and resolv.conf as they change.

use std::process::{Child, Stdio};
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::limit::retry;
use tests::netns::Netns;
use tests::outside::{Outside, SERVER, SILENT};
use tests::{Context, Result, ensure, packages, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"
ipv6 = "fd00:77::/64"
[network.vmnet8.dns-rules]
"corp.example" = ["192.0.2.2:5353"]
"slow.example" = ["203.0.113.1"]
[network.vmnet8.records]
"api.test" = ["10.0.0.5", "fd00::5"]
"*.apps.test" = "192.168.130.9"
"www.test" = "web.example.com"

[guest.dev]
address = "192.168.130.10"
names = ["local.test"]
wildcard = true

[guest.evil]
address = "192.168.130.66"
"#;

const GATEWAY: &str = "192.168.130.1";
const GATEWAY_V6: &str = "fd00:77::1";
const SOON: Duration = Duration::from_secs(10);

/// "The host" asks a dnsmasq beyond it; a second one knows corp.example otherwise.
struct Stage {
    outside: Outside,
    world: World,
    guest: Netns,
    _servers: Vec<Child>,
}

impl Stage {
    fn new() -> Result<Self> {
        packages::ensure(packages::NAMES)?;
        let outside = Outside::new()?;
        outside
            .host
            .set_resolv_conf(&format!("nameserver {SERVER}\n"))?;
        let servers = vec![
            dnsmasq(
                &outside.server,
                53,
                &[
                    "--address=/web.example.com/198.18.0.1",
                    "--address=/inner.corp.example/198.18.0.2",
                    "--txt-record=nothing.example.com,here",
                    &format!("--txt-record=long.example.com{}", ",x".repeat(900)),
                ],
            )?,
            dnsmasq(
                &outside.server,
                5353,
                &["--address=/inner.corp.example/198.18.0.99"],
            )?,
        ];
        let mut world = World::new(CONFIG)?.inside(&outside.host);
        world.start(Kind::Netd)?;
        let guest = world.tap_guest("dev")?;
        guest.set_resolv_conf(&format!("search test\nnameserver {GATEWAY}\n"))?;
        let stage = Self {
            outside,
            world,
            guest,
            _servers: servers,
        };
        stage.becomes("web.example.com A", "198.18.0.1")?;
        // The other server, and not by netd, which would know the answer then.
        retry("the rule's server", SOON, || {
            let line =
                format!("dig +short +tries=1 +time=1 @{SERVER} -p 5353 inner.corp.example A");
            ensure!(stage.outside.host.run(&line)? == "198.18.0.99");
            Ok(())
        })?;
        Ok(stage)
    }

    /// What dig prints with +short, on one line.
    fn dig(&self, what: &str) -> Result<String> {
        let lines = self
            .guest
            .run(&format!("dig +short +tries=1 +time=5 @{GATEWAY} {what}"))?;
        Ok(lines.replace('\n', " "))
    }

    /// All that dig prints.
    fn whole(&self, what: &str) -> Result<String> {
        self.guest
            .run(&format!("dig +tries=1 +time=5 @{GATEWAY} {what}"))
    }

    fn becomes(&self, what: &str, expected: &str) -> Result<()> {
        retry(&format!("{what} to be {expected}"), SOON, || {
            let found = self.dig(what)?;
            ensure!(found == expected, "{what}: {found}");
            Ok(())
        })
    }
}

fn dnsmasq(namespace: &Netns, port: u16, more: &[&str]) -> Result<Child> {
    let line = format!(
        "--keep-in-foreground --no-resolv --no-hosts --no-dhcp-interface=in0 --conf-file=/dev/null \
         --user=root --pid-file= --bind-interfaces --listen-address={SERVER} --port={port} --local-ttl=60 \
         --local=/example/ --local=/com/ --local=/arpa/"
    );
    Ok(namespace
        .command("dnsmasq")
        .args(line.split_whitespace())
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?)
}

#[test]
fn every_kind_of_name_is_found_by_dig_and_getent() {
    whole_system(|| {
        let stage = Stage::new()?;
        for (what, expected) in [
            ("dev.test A", "192.168.130.10"),
            // Nobody asked for the address by DHCPv6.
            ("dev.test AAAA", ""),
            ("dev.vmnet8.test A", "192.168.130.10"),
            ("local.test A", "192.168.130.10"),
            ("any.thing.dev.test A", "192.168.130.10"),
            ("+tcp dev.test A", "192.168.130.10"),
            ("host.internal A", "192.168.130.254"),
            ("host.internal AAAA", ""),
            ("api.test A", "10.0.0.5"),
            ("api.test AAAA", "fd00::5"),
            ("x.y.apps.test A", "192.168.130.9"),
            ("www.test A", "web.example.com. 198.18.0.1"),
            ("-x 192.168.130.10", "dev.test."),
            ("-x fd00:77::c0a8:820a", "dev.test."),
            ("-x 192.168.130.1", "gateway.internal."),
            ("-x 192.168.130.254", "host.internal."),
            // The split rule's server, not the host's.
            ("inner.corp.example A", "198.18.0.99"),
            ("WEB.Example.com A", "198.18.0.1"),
            ("-x 192.168.130.99", ""),
            ("nobody.test A", ""),
        ] {
            let found = stage.dig(what)?;
            ensure!(found == expected, "{what}: {found}");
        }
        // It comes by TCP: dig asks again by itself.
        let long = stage.dig("long.example.com TXT")?;
        ensure!(long.matches("\"x\"").count() == 900, "{long}");
        for (what, expected) in [
            ("nobody.test A", "status: NXDOMAIN"),
            ("x.invalid A", "status: NXDOMAIN"),
            ("-x 192.168.130.99", "status: NXDOMAIN"),
            ("apps.test AAAA", "status: NXDOMAIN"),
            ("x.apps.test AAAA", "status: NOERROR"),
            ("+edns=1 +noednsnegotiation dev.test A", "status: BADVERS"),
            ("version.bind CH TXT", "status: REFUSED"),
            ("+opcode=4 dev.test A", "status: NOTIMP"),
            ("+notcp web.example.com ANY", "RFC8482"),
            ("+ignore +bufsize=4096 long.example.com TXT", " tc "),
            ("+noedns +ignore long.example.com TXT", " tc "),
            ("+dnssec dev.test A", "flags: do"),
        ] {
            let found = stage.whole(what)?;
            ensure!(found.contains(expected), "{what}: {found}");
        }
        for (name, expected) in [
            ("ahostsv4 dev", "192.168.130.10"),
            ("ahostsv4 web.example.com", "198.18.0.1"),
            ("hosts 192.168.130.10", "dev.test"),
        ] {
            let found = stage.guest.run(&format!("getent {name}"))?;
            ensure!(found.contains(expected), "getent {name}: {found}");
        }
        let lookup = |name: &str| stage.world.sharectl(&["network", "dns", name]);
        for (name, expected) in [
            ("dev.test", "guest dev"),
            ("api.test", "record"),
            ("inner.corp.example", "by the rule for corp.example"),
            ("web.example.com", "cache"),
            ("www.test", "record, then cache"),
            ("192.168.130.10", "dev.test."),
        ] {
            let said = lookup(name)?.success()?;
            ensure!(said.contains(expected), "{name}: {said}");
        }
        ensure!(lookup("nobody.test")?.status.code() == Some(1));
        Ok(())
    });
}

#[test]
fn the_gateways_ipv6_address_answers_the_same() {
    whole_system(|| {
        let stage = Stage::new()?;
        stage
            .guest
            .run("ip address replace fd00:77::c0a8:820a/64 dev tap0 nodad")?;
        for (what, expected) in [
            ("dev.test A", "192.168.130.10"),
            ("web.example.com A", "198.18.0.1"),
            ("inner.corp.example A", "198.18.0.99"),
            ("+tcp web.example.com A", "198.18.0.1"),
        ] {
            retry(what, SOON, || {
                let line = format!("dig +short +tries=1 +time=3 @{GATEWAY_V6} {what}");
                let found = stage.guest.run(&line)?;
                ensure!(found == expected, "{what}: {found}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn the_hosts_files_are_followed_and_gvproxys_zones_taken() {
    whole_system(|| {
        let stage = Stage::new()?;
        let hosts = stage.outside.host.hosts_file();
        let block = "# BEGIN sharectl\n127.64.0.9\tdev.test ours.test\n# END sharectl\n";
        std::fs::write(
            &hosts,
            format!("127.0.0.1 localhost myapp.local\n10.9.9.9 db.corp\n{block}"),
        )?;
        stage.becomes("myapp.local A", "192.168.130.254")?;
        stage.becomes("db.corp A", "10.9.9.9")?;
        stage.becomes("-x 10.9.9.9", "db.corp.")?;
        stage.becomes("localhost A", "127.0.0.1")?;
        stage.becomes("dev.test A", "192.168.130.10")?;
        stage.becomes("ours.test A", "")?;
        std::fs::write(&hosts, "10.9.9.8 db.corp\n")?;
        stage.becomes("db.corp A", "10.9.9.8")?;
        stage.becomes("myapp.local A", "")?;

        // Other resolvers (none that answers): nothing of the old ones' answers is kept.
        stage
            .outside
            .host
            .set_resolv_conf("nameserver 127.0.0.1\n")?;
        retry("the event", SOON, || {
            let events = stage
                .world
                .sharectl(&["events", "netd", "--format", "json"])?;
            ensure!(events.stdout.contains("resolvers-changed"), "{events:?}");
            Ok(())
        })?;
        retry("nobody to ask", SOON, || {
            let found = stage.whole("web.example.com A")?;
            ensure!(found.contains("status: SERVFAIL"), "{found}");
            Ok(())
        })?;

        let zone = serde_json::json!({"Name": "crc.testing.", "DefaultIP": "10.1.1.9",
            "Records": [{"Name": "api", "IP": "10.1.1.2"}]});
        let answer = stage
            .world
            .ask(Kind::Netd, "POST", "/services/dns/add", Some(&zone))?;
        ensure!(answer.status == 200, "{}", answer.status);
        stage.becomes("api.crc.testing A", "10.1.1.2")?;
        stage.becomes("x.crc.testing A", "10.1.1.9")?;
        let all = stage.world.get(Kind::Netd, "/services/dns/all")?;
        ensure!(all[0]["Name"] == "crc.testing.", "{all}");
        Ok(())
    });
}

/// In ms by dig's own clock: how long dig takes to start is this machine's affair.
fn took(said: &str) -> Result<u64> {
    let time = said.split("Query time: ").nth(1);
    let time = time.and_then(|rest| rest.split(' ').next()?.parse().ok());
    time.with_context(|| said.to_owned())
}

#[test]
fn an_outage_is_told_within_two_seconds_and_one_guests_flood_hurts_no_other() {
    whole_system(|| {
        let stage = Stage::new()?;
        let found = stage.whole("x.slow.example A")?;
        ensure!(found.contains("status: SERVFAIL"), "{found}");
        ensure!(took(&found)? < 2_300, "{found}");
        // The silent one first: the next is asked, and the silent one last from then on.
        stage
            .outside
            .host
            .set_resolv_conf(&format!("nameserver {SILENT}\nnameserver {SERVER}\n"))?;
        retry("the second resolver", SOON, || {
            ensure!(stage.dig("web.example.com A")? == "198.18.0.1");
            Ok(())
        })?;
        let status = stage.world.get(Kind::Netd, "/v1/status")?.to_string();
        ensure!(
            status.contains("resolver 203.0.113.1:53 did not answer"),
            "{status}"
        );

        let evil = stage.world.tap_guest("evil")?;
        let names: String = (0..20_000)
            .map(|number| format!("n{number}.slow.example A\n"))
            .collect();
        let file = stage.world.path("slow.txt");
        std::fs::write(&file, names)?;
        let mut flood = evil
            .command("dnsperf")
            .args(["-s", GATEWAY, "-l", "8", "-t", "1", "-q", "2000", "-d"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        retry("the flood to fill its share", SOON, || {
            let counters = stage.world.get(Kind::Netd, "/v1/networks")?;
            let dropped = &counters[0]["counters"]["dns_dropped"];
            ensure!(dropped.as_u64() > Some(1_000), "{dropped}");
            Ok(())
        })?;
        for (what, expected) in [
            ("dev.test A", "192.168.130.10"),
            ("inner.corp.example A", "198.18.0.99"),
            ("nothing.example.com TXT", "\"here\""),
        ] {
            let found = stage.whole(what)?;
            ensure!(found.contains(expected), "{what}: {found}");
            ensure!(took(&found)? < 1_000, "{what}: {found}");
        }
        flood.wait()?;
        Ok(())
    });
}

#[test]
fn dnsperf_loses_nothing() {
    whole_system(|| {
        let stage = Stage::new()?;
        let file = stage.world.path("names.txt");
        std::fs::write(
            &file,
            "dev.test A\nweb.example.com A\napi.test AAAA\nnobody.test A\n",
        )?;
        let said = stage.guest.run(&format!(
            "dnsperf -s {GATEWAY} -d {} -l 2 -c 4 -q 64",
            file.display()
        ))?;
        let number = |label: &str| -> Option<f64> {
            let line = said.lines().find(|line| line.contains(label))?;
            line.split_whitespace().find_map(|word| word.parse().ok())
        };
        let (sent, lost) = (number("Queries sent:"), number("Queries lost:"));
        ensure!(sent > Some(2_000.0) && lost == Some(0.0), "{said}");
        Ok(())
    });
}
