//! A VM wired to netd by vhost-user: content both ways, through a reboot, a killed netd and a killed VMM.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::guest::Guest;
use tests::limit::{retry, wait_for};
use tests::{Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
link = "vhost-user"
"#;

const SOON: Duration = Duration::from_secs(20);
/// What a transfer may take in software emulation on a busy machine.
const TRANSFER: Duration = Duration::from_secs(60);
/// Some hundred of the largest frames.
const LENGTH: usize = 16 << 20;
const LINE: &str = "Frames of the largest size, and of every other.\n";

fn world() -> Result<World> {
    let mut world = World::new(CONFIG)?;
    world.start(Kind::Netd)?;
    Ok(world)
}

/// What crosses: lines that are told from each other by where they are cut.
fn content() -> Vec<u8> {
    LINE.bytes().cycle().take(LENGTH).collect()
}

fn make_content(guest: &Guest) -> Result<()> {
    let line = LINE.trim_end();
    guest.ok(&format!(
        "[ -f /run/content ] || yes '{line}' | head -c {LENGTH} > /run/content"
    ))?;
    Ok(())
}

/// A server of the host for one connection.
fn host(
    work: impl FnOnce(std::net::TcpStream) -> std::io::Result<bool> + Send + 'static,
) -> Result<(u16, JoinHandle<bool>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let thread = std::thread::spawn(move || {
        let served = listener.accept().and_then(|(stream, _)| {
            stream.set_read_timeout(Some(TRANSFER))?;
            work(stream)
        });
        served.unwrap_or(false)
    });
    Ok((port, thread))
}

/// Every byte in its place, from the guest and to it.
fn carries(guest: &Guest) -> Result<()> {
    make_content(guest)?;
    let (port, received) = host(|mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok(bytes == content())
    })?;
    let up = format!("nc -w 5 host.internal {port} < /run/content");
    guest.run_within(TRANSFER, &up)?;
    ensure!(
        received.join().unwrap_or(false),
        "the host received something else"
    );
    let (port, _sent) = host(|mut stream| stream.write_all(&content()).map(|()| true))?;
    let down = format!("nc host.internal {port} < /dev/null | cmp - /run/content");
    let answer = guest.run_within(TRANSFER, &down)?;
    ensure!(
        answer.status == 0,
        "the guest received something else: {answer:?}"
    );
    Ok(())
}

/// The kind of the guest's link.
fn kind(world: &World, name: &str) -> Result<Option<String>> {
    let guest = world.get(Kind::Netd, &format!("/v1/guests/{name}"))?;
    Ok(guest["links"][0]["transport"].as_str().map(str::to_owned))
}

/// The guest is back on the network, its link of the given kind.
fn comes_back(world: &World, guest: &Guest, wanted: &str) -> Result<()> {
    // A datagram link begins with the guest's first word.
    retry("the gateway", SOON, || {
        guest.ok("ping -c 1 -W 1 192.168.130.1").map(drop)
    })?;
    let name = guest.name();
    wait_for("the link", SOON, || {
        Ok((kind(world, name)?.as_deref() == Some(wanted)).then_some(()))
    })
}

#[test]
fn vhost_user_carries_both_ways_through_reboot_and_a_killed_netd() {
    whole_system(|| {
        let mut world = world()?;
        let (mut guest, address) = world.boot("dev", &[])?;
        ensure!(kind(&world, "dev")?.as_deref() == Some("vhost-user"));
        let features = guest.ok("cat /sys/class/net/eth0/device/features")?;
        let has = |bit: usize| features.as_bytes().get(bit) == Some(&b'1');
        // Checksum and TCP segmentation both ways, merged buffers, event index.
        for bit in [0, 1, 7, 8, 11, 12, 15, 29] {
            ensure!(has(bit), "feature {bit} was not taken: {features}");
        }
        carries(&guest)?;

        guest.reboot()?;
        ensure!(guest.address(SOON)? == address);
        comes_back(&world, &guest, "vhost-user")?;
        carries(&guest)?;

        world.crash(Kind::Netd)?;
        comes_back(&world, &guest, "vhost-user")?;
        carries(&guest)?;

        guest.kill();
        wait_for("netd to see the guest go", SOON, || {
            Ok(kind(&world, "dev")?.is_none().then_some(()))
        })?;
        drop(guest);
        let (guest, again) = world.boot("dev", &[])?;
        ensure!(again == address, "{again} after the end, {address} before");
        carries(&guest)
    });
}
