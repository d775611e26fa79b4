//! A guest's network under bad conditions for longer: loss on either side of netd, connections that come
//! and go without rest, a guest that takes all it can get.
//!
//! Loss is made by nftables in the namespaces, so both ends of each connection are real kernels. The
//! churn lasts 20 s; SHARECTL_SOAK_SECONDS=600 makes it the soak of a release.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::daemons::{Kind, World};
use tests::limit::{retry, wait_for};
use tests::netns::Netns;
use tests::outside::{HOST, Outside, SERVER};
use tests::{Context, Result, ensure, packages, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
publish = ["192.0.2.1:5201:5201", "192.0.2.1:7000:7000", "192.0.2.1:7001:7001"]
[guest.other]
"#;

const SOON: Duration = Duration::from_secs(20);
/// Where netload serves: outside, and in the guest behind the published ports.
const LOAD: u16 = 7000;
const NETLOAD: &str = env!("CARGO_BIN_EXE_netload");

fn start(config: &str) -> Result<(Outside, World)> {
    let outside = Outside::new()?;
    let mut world = World::new(config)?.inside(&outside.host);
    world.start(Kind::Netd)?;
    Ok((outside, world))
}

/// One of a hundred packets, each way, is lost in this namespace from now on.
fn lose_one_percent(namespace: &Netns) -> Result<()> {
    namespace.run(
        "nft 'add table ip bad; \
         add chain ip bad in { type filter hook input priority 0; }; \
         add chain ip bad out { type filter hook output priority 0; }; \
         add rule ip bad in numgen random mod 100 < 1 counter drop; \
         add rule ip bad out numgen random mod 100 < 1 counter drop'",
    )?;
    Ok(())
}

fn lost(namespace: &Netns) -> Result<u64> {
    let rules = namespace.run("nft list table ip bad")?;
    let counts = rules.split("packets ").skip(1);
    let counts = counts.map(|rest| rest.split(' ').next().unwrap_or_default().parse::<u64>());
    Ok(counts.sum::<Result<u64, _>>()?)
}

fn iperf3_server(namespace: &Netns) -> Result<Child> {
    let mut line = namespace.command("iperf3");
    Ok(line
        .args(["-s", "-p", "5201"])
        .stdout(Stdio::null())
        .spawn()?)
}

fn serve_load(namespace: &Netns, address: Ipv4Addr) -> Result<Child> {
    let mut line = namespace.command(NETLOAD);
    line.args(["serve", "--address", &address.to_string(), "--port"]);
    Ok(line.arg(LOAD.to_string()).stdout(Stdio::null()).spawn()?)
}

/// A command that loads for some seconds and prints its result as JSON.
fn load(namespace: &Netns, mode: &str, to: (Ipv4Addr, u16), more: &str) -> Result<Child> {
    let (address, port) = to;
    let line = format!("exec {NETLOAD} {mode} --to {address}:{port} {more}");
    let mut command = namespace.command("sh");
    let command = command.args(["-c", &line]).stdout(Stdio::piped());
    Ok(command.spawn()?)
}

fn result(child: Child) -> Result<Value> {
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "netload: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn gauge(world: &World, name: &str) -> Result<u64> {
    let networks = world.get(Kind::Netd, "/v1/networks")?;
    let value = &networks[0]["counters"][name];
    value.as_u64().with_context(|| format!("no counter {name}"))
}

#[test]
fn packets_lost_on_either_side_cost_time_and_no_byte() {
    whole_system(|| {
        packages::ensure(packages::FILTERS)?;
        let (outside, world) = start(CONFIG)?;
        let guest = world.tap_guest("dev")?;
        let file = world.path("sent");
        let text: String = (0..400_000).map(|line| format!("{line}\n")).collect();
        std::fs::write(&file, &text)?;
        let _web = outside
            .server
            .command("busybox")
            .args(["httpd", "-f", "-p", "80", "-h"])
            .arg(world.path(""))
            .spawn()?;
        let _iperf3 = iperf3_server(&outside.server)?;
        for (side, bad) in [("guest's", &guest), ("outer", &outside.server)] {
            lose_one_percent(bad)?;
            for _ in 0..3 {
                let got = world.path("got");
                let line = format!(
                    "curl -sS --retry 20 --retry-connrefused --retry-delay 1 --max-time 20 \
                     -o {} http://{SERVER}/sent",
                    got.display()
                );
                guest.run(&line)?;
                ensure!(
                    std::fs::read(&got)? == text.as_bytes(),
                    "{side} side: other bytes"
                );
            }
            let line = format!("iperf3 -J -t 2 -P 4 --bidir -c {SERVER}");
            let said: Value = serde_json::from_str(&retry("iperf3", SOON, || guest.run(&line))?)?;
            for direction in ["sum_received", "sum_received_bidir_reverse"] {
                let bytes = said["end"][direction]["bytes"].as_f64().unwrap_or(0.0);
                ensure!(bytes > 1e6, "{side} side, {direction}: {bytes} bytes");
            }
            ensure!(lost(bad)? > 0, "{side} side: nothing was lost");
            bad.run("nft delete table ip bad")?;
        }
        Ok(())
    });
}

#[test]
fn churn_leaves_nothing_behind() {
    whole_system(|| {
        let soak = std::env::var("SHARECTL_SOAK_SECONDS").ok();
        let seconds: u64 = soak.map_or(Ok(20), |text| text.parse())?;
        let (outside, mut world) = start(CONFIG)?;
        let guest = world.tap_guest("dev")?;
        let inside = world.get(Kind::Netd, "/v1/guests/dev")?["address"].clone();
        let inside: Ipv4Addr = inside.as_str().context("no address")?.parse()?;
        let _servers = [
            serve_load(&outside.server, SERVER)?,
            serve_load(&guest, inside)?,
        ];
        let round = |for_seconds: u64| -> Result<()> {
            let options = format!("--seconds {for_seconds} --concurrency 16");
            let talk = format!("--seconds {for_seconds}");
            let running = [
                load(&guest, "rate", (SERVER, LOAD), &options)?,
                load(&outside.server, "rate", (HOST, LOAD), &options)?,
                load(&guest, "pingpong", (SERVER, LOAD + 1), &talk)?,
            ];
            for child in running {
                let done = result(child)?;
                let failed = done["failed"].as_u64().unwrap_or(0);
                let good = done["completed"]
                    .as_u64()
                    .or_else(|| done["rounds"].as_u64());
                ensure!(good > Some(100), "hardly anything went through: {done}");
                ensure!(failed * 1_000 <= good.unwrap_or(0), "failures: {done}");
            }
            Ok(())
        };
        // What is left when nobody talks: bytes in memory, open descriptors.
        let rests = |world: &mut World| -> Result<(u64, usize)> {
            wait_for("the last flows to end", SOON, || {
                Ok((gauge(world, "tcp_flows")? == 0).then_some(()))
            })?;
            let netd = world.daemon(Kind::Netd)?;
            let open = std::fs::read_dir(format!("/proc/{}/fd", netd.pid()))?.count();
            Ok((netd.resident()?, open))
        };
        retry("the servers", SOON, || round(1))?;
        round(seconds.div_ceil(4))?;
        let (memory, open) = rests(&mut world)?;
        round(seconds.div_ceil(4) * 3)?;
        // Again and again: a control connection of our own may still be closing.
        let after = retry("descriptors as before", SOON, || {
            let (memory, open_after) = rests(&mut world)?;
            ensure!(
                open_after <= open,
                "{open} descriptors before, {open_after} after"
            );
            Ok(memory)
        })?;
        ensure!(
            after <= memory + memory / 10 + (1 << 20),
            "resident memory grew from {memory} to {after} bytes"
        );
        Ok(())
    });
}

#[test]
fn a_guest_that_takes_every_flow_takes_it_from_itself() {
    whole_system(|| {
        let (outside, world) = start(CONFIG)?;
        let (greedy, modest) = (world.tap_guest("dev")?, world.tap_guest("other")?);
        let _server = serve_load(&outside.server, SERVER)?;
        let echo = outside.echo()?;
        let socket = outside
            .server
            .within(|| Ok(UdpSocket::bind((SERVER, 0))?))?;
        let (server, to) = (&socket, socket.local_addr()?);
        server.set_read_timeout(Some(SOON))?;
        // Two that then rest: the oldest and idlest there are.
        let (stream, asking) = modest.within(|| {
            let stream = TcpStream::connect(echo)?;
            let asking = UdpSocket::bind("0.0.0.0:0")?;
            asking.connect(to)?;
            asking.send(b"first")?;
            asking.set_read_timeout(Some(SOON))?;
            Ok((stream, asking))
        })?;
        let mut buffer = [0; 16];
        let (_, from) = server.recv_from(&mut buffer)?;
        let flows = || {
            let mut sent = 0_u32;
            for port in 1_024..=u16::MAX {
                let socket = UdpSocket::bind(("0.0.0.0", port))?;
                sent += u32::from(socket.send_to(b"x", (SERVER, 9)).is_ok());
            }
            Ok(sent)
        };
        // Again and again: what comes faster than it is taken from the tap is lost there.
        wait_for("the flood to be more than there is room for", SOON, || {
            let sent = greedy.within(flows)?;
            ensure!(sent > 60_000, "{sent} sent");
            Ok((gauge(&world, "udp_evicted")? > 10_000).then_some(()))
        })?;
        let flood = load(
            &greedy,
            "rate",
            (SERVER, LOAD),
            "--seconds 3 --concurrency 256",
        )?;
        let options = "--seconds 1 --concurrency 8";
        let served = result(load(&modest, "rate", (SERVER, LOAD), options)?)?;
        ensure!(served["completed"].as_u64() > Some(100), "{served}");
        ensure!(served["failed"].as_u64() == Some(0), "{served}");
        result(flood)?;
        server.send_to(b"answer", from)?;
        ensure!(asking.recv(&mut buffer)? == 6, "the answer is another");
        stream.set_read_timeout(Some(SOON))?;
        (&stream).write_all(b"still here")?;
        (&stream).read_exact(&mut buffer[..10])?;
        ensure!(buffer.starts_with(b"still here"), "{buffer:?}");
        Ok(())
    });
}
