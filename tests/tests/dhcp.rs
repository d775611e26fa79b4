//! Configuration of guests by real clients: DHCPv4, DHCPv6 and the kernel's own address configuration in a
//! namespace behind a tap; what a neighbour may not take, what a killed netd remembers.

use std::process::{Child, Stdio};
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::limit::{retry, wait_for};
use tests::netns::Netns;
use tests::{Context, Result, ensure, packages, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
subnet = "192.168.130.0/24"
ipv6 = "fd5a:1:2:3::/64"
ntp = ["192.168.130.7", "fd5a:1:2:3::7"]
routes = ["10.9.0.0/16 via 192.168.130.9"]
search = ["corp.example"]

[guest.dev]
address = "192.168.130.10"
"#;

/// dev's, by the rule that both families agree.
const DEV_IPV6: &str = "fd5a:1:2:3::c0a8:820a";
const SOON: Duration = Duration::from_secs(20);

fn world(config: &str) -> Result<World> {
    let mut world = World::new(config)?;
    world.start(Kind::Netd)?;
    Ok(world)
}

/// A namespace behind a tap, up, that asks for nothing by itself unless `accept_ra`.
fn guest(world: &World, name: &str, accept_ra: bool) -> Result<Netns> {
    let namespace = Netns::new(name)?;
    world.attach(name, &namespace)?;
    let accept = if accept_ra { 2 } else { 0 };
    namespace.run(&format!(
        "echo {accept} > /proc/sys/net/ipv6/conf/tap0/accept_ra && ip link set tap0 up"
    ))?;
    Ok(namespace)
}

/// A link-local address that may be used.
fn wait_for_link_local(namespace: &Netns) -> Result<()> {
    wait_for("a link-local address", SOON, || {
        let shown = namespace.run("ip -6 -o address show dev tap0 scope link -tentative")?;
        Ok((!shown.is_empty()).then_some(()))
    })
}

/// Whether the interface has an address.
fn has(namespace: &Netns, address: &str) -> Result<bool> {
    let shown = namespace.run("ip -o address show dev tap0 scope global")?;
    Ok(shown
        .split_whitespace()
        .any(|word| word.split('/').next() == Some(address)))
}

fn counter(world: &World, name: &str) -> Result<u64> {
    let networks = world.get(Kind::Netd, "/v1/networks")?;
    networks[0]["counters"][name]
        .as_u64()
        .with_context(|| format!("no counter {name}"))
}

/// dhclient with its files in the world's folder.
fn dhclient(world: &World, family: &str, arguments: &str) -> Result<String> {
    let script = world.path(&format!("dhclient-script{family}"));
    let events = world.path(&format!("dhclient{family}.events"));
    let text = DHCLIENT_SCRIPT.replace("EVENTS", &events.display().to_string());
    std::fs::write(&script, text)?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let conf = world.path("dhclient.conf");
    std::fs::write(&conf, DHCLIENT_CONF)?;
    let here = world.path("").display().to_string();
    Ok(format!(
        "dhclient {family} -1 -cf {} -sf {} \
         -lf {here}dhclient{family}.leases -pf {here}dhclient{family}.pid {arguments} tap0",
        conf.display(),
        script.display()
    ))
}

/// What the client's script was told, the last line that begins so.
fn told(world: &World, family: &str, variable: &str) -> Result<String> {
    let events = std::fs::read_to_string(world.path(&format!("dhclient{family}.events")))?;
    let line = events
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix(variable));
    Ok(line
        .unwrap_or_default()
        .trim_matches(['=', '\'', '"'])
        .to_owned())
}

/// What the guest's name means, as a guest would be told.
fn named(world: &World) -> Result<String> {
    world.sharectl(&["network", "dns", "dev.test"])?.success()
}

#[test]
fn dhclient_gets_all_options_of_both_families() {
    whole_system(|| {
        let world = world(CONFIG)?;
        let guest = guest(&world, "dev", true)?;
        wait_for_link_local(&guest)?;
        guest.run(&dhclient(&world, "-4", "")?)?;
        for (variable, expected) in [
            ("new_ip_address", "192.168.130.10"),
            ("new_domain_name_servers", "192.168.130.1"),
            ("new_domain_search", "test. corp.example."),
            ("new_ntp_servers", "192.168.130.7"),
            (
                "new_rfc3442_classless_static_routes",
                "16 10 9 192 168 130 9 0 192 168 130 1",
            ),
            ("new_broadcast_address", "192.168.130.255"),
            ("new_host_name", "dev"),
        ] {
            let value = told(&world, "-4", variable)?;
            ensure!(
                value == expected,
                "{variable} is {value:?}, not {expected:?}"
            );
        }
        // Its kernel's own address is not the one that the name would mean.
        let before = named(&world)?;
        ensure!(before.contains("192.168.130.10"), "{before}");
        ensure!(!before.contains(DEV_IPV6), "{before}");
        guest.run(&dhclient(&world, "-6", "")?)?;
        let both = named(&world)?;
        ensure!(both.contains("192.168.130.10"), "{both}");
        ensure!(both.contains(DEV_IPV6), "{both}");
        for (variable, expected) in [
            ("new_ip6_address", DEV_IPV6),
            ("new_dhcp6_name_servers", "fd5a:1:2:3::1"),
            ("new_dhcp6_domain_search", "test. corp.example."),
            ("new_dhcp6_sntp_servers", "fd5a:1:2:3::7"),
        ] {
            let value = told(&world, "-6", variable)?;
            ensure!(
                value == expected,
                "{variable} is {value:?}, not {expected:?}"
            );
        }
        let status = world.get(Kind::Netd, "/v1/guests/dev")?;
        ensure!(status["ipv6_address"] == DEV_IPV6, "{status}");
        let listed = world.sharectl(&["guest", "ls"])?.success()?;
        ensure!(listed.contains(DEV_IPV6), "{listed}");
        // The whole of RFC 8415: renewed on demand, given back.
        let here = world.path("").display().to_string();
        guest.run(&format!("kill $(cat {here}dhclient-6.pid)"))?;
        guest.run(&dhclient(&world, "-6", "-r")?)?;
        wait_for("the release", SOON, || {
            Ok((counter(&world, "leases_ipv6")? == 0).then_some(()))
        })?;
        let after = named(&world)?;
        ensure!(!after.contains(DEV_IPV6), "{after}");
        ensure!(counter(&world, "dhcp6_malformed")? == 0);
        Ok(())
    });
}

/// dhcpcd for both families; its folders are fixed, a private mount keeps the host's own out of it.
fn dhcpcd(world: &World, guest: &Netns) -> Result<Child> {
    let here = world.path("dhcpcd");
    std::fs::create_dir_all(&here)?;
    let conf = world.path("dhcpcd.conf");
    std::fs::write(
        &conf,
        "nohook resolv.conf, hostname, ntp\nnodelay\nnoipv4ll\noption rapid_commit\nslaac hwaddr\n\
         interface tap0\n  ia_na 1\n",
    )?;
    let private = format!(
        "mkdir -p /var/lib/dhcpcd /run/dhcpcd && mount --bind {0} /var/lib/dhcpcd && mount --bind {0} /run/dhcpcd",
        here.display()
    );
    let child = guest
        .command("sh")
        .args([
            "-c",
            &format!("{private} && exec dhcpcd -B -f {} tap0", conf.display()),
        ])
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(world.path("dhcpcd.log"))?)
        .spawn()?;
    Ok(child)
}

#[test]
fn dhcpcd_and_a_killed_netd_keep_both_addresses() {
    whole_system(|| {
        let mut world = world(CONFIG)?;
        let guest = guest(&world, "dev", false)?;
        let client = dhcpcd(&world, &guest)?;
        for address in ["192.168.130.10", DEV_IPV6] {
            wait_for(address, SOON, || Ok(has(&guest, address)?.then_some(()))).with_context(
                || std::fs::read_to_string(world.path("dhcpcd.log")).unwrap_or_default(),
            )?;
        }
        let route = guest.run("ip -6 route show default")?;
        ensure!(route.contains("fe80::"), "{route}");
        let journal = world.state().join("leases/vmnet8.jsonl");
        let before = std::fs::read_to_string(&journal)?;
        ensure!(before.contains("\"duid\""), "{before}");
        world.crash(Kind::Netd)?;
        let status = world.get(Kind::Netd, "/v1/guests/dev")?;
        ensure!(status["ipv6_address"] == DEV_IPV6, "{status}");
        ensure!(status["address"] == "192.168.130.10", "{status}");
        ensure!(status["lease_until"].is_string(), "{status}");
        let named = named(&world)?;
        ensure!(named.contains(DEV_IPV6), "{named}");
        // Its tap went with netd; dhcpcd with the tap.
        drop(client);
        Ok(())
    });
}

#[test]
fn kernel_configures_itself_and_is_told_of_another_prefix() {
    whole_system(|| {
        packages::ensure(packages::CONFIGURATION)?;
        let world = world(CONFIG)?;
        let guest = guest(&world, "dev", true)?;
        let mac = guest.run("cat /sys/class/net/tap0/address")?;
        wait_for("an address of its own making", SOON, || {
            let shown = guest.run("ip -6 -o address show dev tap0 scope global")?;
            Ok(shown.contains("fd5a:1:2:3:").then_some(()))
        })?;
        let heard = guest.run("rdisc6 -1 tap0")?;
        for expected in [
            "Prefix                   : fd5a:1:2:3::/64",
            "Recursive DNS server     : fd5a:1:2:3::1",
            "DNS search list          : test corp.example",
            "Stateful address conf.    :          Yes",
            "Router lifetime           :         5400",
        ] {
            ensure!(
                heard.contains(expected),
                "{expected} is missing after {mac}:\n{heard}"
            );
        }
        // A changed prefix: the old one is taken back, the new one is there.
        world.set_config(&CONFIG.replace("fd5a:1:2:3:", "fd5a:1:2:4:"))?;
        world
            .ask(Kind::Netd, "POST", "/v1/reload", None)?
            .success()?;
        wait_for("the new prefix", SOON, || {
            let shown = guest.run("ip -6 -o address show dev tap0 scope global")?;
            let old_ends = shown
                .lines()
                .filter(|line| line.contains("fd5a:1:2:3:"))
                .all(|line| line.contains("deprecated"));
            Ok((shown.contains("fd5a:1:2:4:") && old_ends).then_some(()))
        })
    });
}

#[test]
fn host_only_network_advertises_no_way_out() {
    whole_system(|| {
        packages::ensure(packages::CONFIGURATION)?;
        let world =
            world(&CONFIG.replace("[network.vmnet8]", "[network.vmnet8]\ntype = \"host-only\""))?;
        let guest = guest(&world, "dev", true)?;
        wait_for("an address of its own making", SOON, || {
            let shown = guest.run("ip -6 -o address show dev tap0 scope global")?;
            Ok(shown.contains("fd5a:1:2:3:").then_some(()))
        })?;
        let routes = guest.run("ip -6 route show default")?;
        ensure!(routes.is_empty(), "{routes}");
        guest.run(&dhclient(&world, "-4", "")?)?;
        ensure!(told(&world, "-4", "new_routers")?.is_empty());
        let routes = told(&world, "-4", "new_rfc3442_classless_static_routes")?;
        ensure!(routes == "16 10 9 192 168 130 9", "{routes}");
        Ok(())
    });
}

/// The pool of a /29 is two addresses, .4 and .5.
const SMALL: &str = r#"
[network.vmnet8]
subnet = "192.168.130.0/29"
[guest.squatter]
address = "192.168.130.2"
[guest.other]
address = "192.168.130.3"
"#;

#[test]
fn address_that_somebody_uses_unasked_is_not_offered() {
    whole_system(|| {
        let world = world(SMALL)?;
        let squatter = guest(&world, "squatter", false)?;
        let other = guest(&world, "other", false)?;
        squatter.run("ip address add 192.168.130.4/29 dev tap0")?;
        // A second station behind other's link, without a reservation.
        other.run(
            "ip link add second link tap0 type macvlan mode bridge && ip link set second up",
        )?;
        let script = tests::guest::dhcp_script()?;
        let mut bound = Vec::new();
        for _ in 0..2 {
            other.run(&format!(
                "udhcpc -i second -n -q -f -t 5 -T 1 -s {}",
                script.display()
            ))?;
            bound.push(
                other.run("ip -4 -o address show dev second | sed 's/.* inet //; s/[/ ].*//'")?,
            );
        }
        ensure!(bound == ["192.168.130.5", "192.168.130.5"], "{bound:?}");
        ensure!(counter(&world, "dhcp_probes")? >= 1);
        Ok(())
    });
}

const WIDE: &str = r#"
[network.vmnet8]
subnet = "10.77.0.0/16"
ipv6 = "fd5a:1:2:3::/64"
[guest.storm]
address = "10.77.0.10"
[guest.calm]
address = "10.77.0.11"
"#;

/// What perfdhcp counts, by its own words.
fn perfdhcp_number(report: &str, what: &str) -> Vec<u64> {
    let lines = report
        .lines()
        .filter_map(|line| line.trim().strip_prefix(what));
    lines
        .filter_map(|rest| rest.trim_start_matches(':').trim().parse().ok())
        .collect()
}

#[test]
fn lease_storm_is_answered_in_full_and_starves_nobody() {
    whole_system(|| {
        packages::ensure(packages::CONFIGURATION)?;
        let world = world(WIDE)?;
        let storm = guest(&world, "storm", true)?;
        let calm = guest(&world, "calm", false)?;
        wait_for_link_local(&storm)?;
        storm.run("ip address add 10.77.0.10/16 dev tap0")?;
        let limit = Duration::from_secs(60);
        // A thousand clients, ten thousand more that only ask: the pool has its share for this link.
        for family in ["-4", "-6"] {
            let line = format!("perfdhcp {family} -l tap0 -r 250 -R 1000 -n 500 -d 5 -W 6000000");
            let output = storm.output(limit, &line)?;
            let report = output.success().with_context(|| line.clone())?;
            let drops = perfdhcp_number(&report, "drops");
            ensure!(drops == [0, 0], "{line}: drops {drops:?}\n{report}");
            let received = perfdhcp_number(&report, "received packets");
            ensure!(
                received.iter().all(|count| *count >= 500),
                "{line}: {received:?}\n{report}"
            );
        }
        let free = counter(&world, "leases_free")?;
        ensure!(free > 16_000, "{free} addresses are left");
        calm.run(&format!(
            "udhcpc -i tap0 -n -q -f -t 5 -T 1 -s {}",
            tests::guest::dhcp_script()?.display()
        ))?;
        ensure!(has(&calm, "10.77.0.11")?);
        retry("no bad message was counted", SOON, || {
            ensure!(counter(&world, "dhcp_malformed")? + counter(&world, "dhcp6_malformed")? == 0);
            Ok(())
        })
    });
}

const DHCLIENT_CONF: &str = r#"
option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;
request subnet-mask, broadcast-address, routers, domain-name, domain-name-servers, domain-search, host-name,
    ntp-servers, rfc3442-classless-static-routes, interface-mtu,
    dhcp6.name-servers, dhcp6.domain-search, dhcp6.sntp-servers;
"#;

/// Keeps what it is told, and sets the address.
const DHCLIENT_SCRIPT: &str = r#"#!/bin/sh
env | grep '^new_' >> EVENTS
case $reason in
    PREINIT) ip link set dev "$interface" up ;;
    BOUND | RENEW | REBIND | REBOOT) ip address replace "$new_ip_address/$new_subnet_mask" dev "$interface" ;;
    BOUND6 | RENEW6 | REBIND6) ip address replace "$new_ip6_address/128" dev "$interface" ;;
esac
exit 0
"#;
