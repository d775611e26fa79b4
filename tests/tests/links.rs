//! The ways a VM can be wired to netd, with real guests: vhost-user (one and several queues), datagrams, the stream
//! both ways round; through reboots and a killed netd; guests on different kinds of link; a guest that stands still.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use tests::daemons::{Kind, World};
use tests::guest::Guest;
use tests::limit::{retry, wait_for};
use tests::{Context, Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
link = "vhost-user"

[guest.other]
link = "stream"

[guest.datagrams]
link = "dgram"
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

/// A server of the host for one connection, which has to come within [`TRANSFER`].
fn host<T: Send + 'static>(
    work: impl FnOnce(TcpStream) -> Result<T> + Send + 'static,
) -> Result<(u16, JoinHandle<Result<T>>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    listener.set_nonblocking(true)?;
    let thread = std::thread::spawn(move || {
        let accepted = || match listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        };
        let stream = wait_for("the guest's connection", TRANSFER, accepted)?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(TRANSFER))?;
        work(stream)
    });
    Ok((port, thread))
}

/// What the host's side came to.
fn end<T>(host: JoinHandle<Result<T>>) -> Result<T> {
    host.join().ok().context("the host's side panicked")?
}

/// Reads to the end, and says how far it was the content.
fn take(mut stream: TcpStream) -> Result<()> {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    let wanted = content();
    let same = bytes.iter().zip(&wanted).take_while(|(a, b)| a == b);
    let story = format!(
        "{} bytes of {LENGTH} came, the first {} as they were sent",
        bytes.len(),
        same.count()
    );
    ended.with_context(|| story.clone())?;
    ensure!(bytes == wanted, story);
    Ok(())
}

/// Every byte in its place, from the guest and to it.
fn carries(world: &World, guest: &Guest) -> Result<()> {
    make_content(guest)?;
    let (port, received) = host(take)?;
    let up = format!("nc -w 5 host.internal {port} < /run/content");
    let answer = guest.run_within(TRANSFER, &up)?;
    // While the connection is still there.
    let seen = (!received.is_finished()).then(|| standing(world, guest));
    end(received)
        .with_context(|| format!("the host received something else: {answer:?}\n{seen:?}"))?;
    let (port, sent) = host(|mut stream| Ok(stream.write_all(&content())?))?;
    let down = format!("nc host.internal {port} < /dev/null | cmp - /run/content");
    let answer = guest.run_within(TRANSFER, &down)?;
    ensure!(
        answer.status == 0,
        "the guest received something else: {answer:?}\n{}",
        standing(world, guest)
    );
    end(sent)
}

/// Where the bytes of a connection rest that stands still: frames and connections as netd counts them, and the guest.
fn standing(world: &World, guest: &Guest) -> String {
    let of_netd = ["/v1/flows", "/v1/guests"].map(|path| world.get(Kind::Netd, path));
    let of_guest = guest.run("cd /sys/class/net/eth0/statistics; grep . rx_packets tx_packets; grep virtio /proc/interrupts; cat /proc/net/tcp");
    format!("netd: {of_netd:?}\nguest: {of_guest:?}")
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
        carries(&world, &guest)?;

        guest.reboot()?;
        ensure!(guest.address(SOON)? == address);
        comes_back(&world, &guest, "vhost-user")?;
        carries(&world, &guest)?;

        world.crash(Kind::Netd)?;
        comes_back(&world, &guest, "vhost-user")?;
        carries(&world, &guest)?;

        guest.kill();
        wait_for("netd to see the guest go", SOON, || {
            Ok(kind(&world, "dev")?.is_none().then_some(()))
        })?;
        drop(guest);
        let (guest, again) = world.boot("dev", &[])?;
        ensure!(again == address, "{again} after the end, {address} before");
        carries(&world, &guest)
    });
}

#[test]
fn several_queues_are_used() {
    whole_system(|| {
        let world = world()?;
        let socket = world.runtime().join("guest/dev/vhost.sock");
        let guest = world
            .bare_machine("dev", &[])
            .arguments([
                "-smp",
                "2",
                "-object",
                "memory-backend-memfd,id=mem,share=on,size=256M",
                "-machine",
                "memory-backend=mem",
                "-chardev",
                &format!("socket,id=link,reconnect=1,path={}", socket.display()),
                "-netdev",
                "vhost-user,id=net,chardev=link,queues=2",
                "-device",
                // QEMU 7.2 crashes with MSI-X here in software emulation.
                "virtio-net-pci,netdev=net,mq=on,vectors=0,mac=52:54:00:00:00:77",
            ])
            .boot()?;
        guest.address(SOON)?;
        let queues = guest.ok("ls -d /sys/class/net/eth0/queues/* | wc -l")?;
        ensure!(queues.trim() == "4", "{queues} queues");
        carries(&world, &guest)?;
        carries(&world, &guest)
    });
}

#[test]
fn guests_on_different_links_exchange_large_segments() {
    whole_system(|| {
        let world = world()?;
        let (dev, dev_address) = world.boot("dev", &[])?;
        let (other, other_address) = world.boot("other", &[])?;
        ensure!(kind(&world, "other")?.as_deref() == Some("stream"));
        let pairs = [(&dev, &other, dev_address), (&other, &dev, other_address)];
        for (from, to, address) in pairs {
            make_content(from)?;
            make_content(to)?;
            from.ok("cp /run/content /www/content")?;
            let fetch = format!("wget -q -O - http://{address}/content | cmp - /run/content");
            let answer = to.run_within(TRANSFER, &fetch)?;
            ensure!(answer.status == 0, "{}: {answer:?}", to.name());
        }
        Ok(())
    });
}

#[test]
fn datagrams_carry_both_ways_and_netd_may_come_again() {
    whole_system(|| {
        let mut world = world()?;
        let (guest, address) = world.boot("datagrams", &[])?;
        ensure!(kind(&world, "datagrams")?.as_deref() == Some("dgram"));
        carries(&world, &guest)?;
        world.crash(Kind::Netd)?;
        comes_back(&world, &guest, "dgram")?;
        carries(&world, &guest)?;
        drop(guest);
        let (guest, again) = world.boot("datagrams", &[])?;
        ensure!(again == address, "{again} after the end, {address} before");
        carries(&world, &guest)
    });
}

/// passt's way round, and gvproxy's: QEMU dials.
#[test]
fn a_vm_set_up_for_passt_works_unchanged() {
    whole_system(|| {
        let mut world = world()?;
        let socket = world.runtime().join("guest/other/link.sock");
        let guest = world
            .bare_machine("other", &[])
            .arguments([
                "-netdev",
                &format!(
                    "stream,id=net,server=off,addr.type=unix,addr.path={}",
                    socket.display()
                ),
                "-device",
                "virtio-net-pci,netdev=net",
            ])
            .boot()?;
        guest.address(SOON)?;
        carries(&world, &guest)?;
        ensure!(world.daemon(Kind::Netd)?.log().contains("link up"));
        Ok(())
    });
}

#[test]
fn a_guest_that_stands_still_does_not_stop_another() {
    whole_system(|| {
        let world = world()?;
        let (slow, _) = world.boot("dev", &[])?;
        let (other, _) = world.boot("other", &[])?;
        make_content(&other)?;
        let alone = pull(&other)?;
        // Without end towards the guest that is stopped in the middle of it.
        let (port, _flood) = host(|mut stream| {
            let bytes = content();
            while stream.write_all(&bytes).is_ok() {}
            Ok(())
        })?;
        slow.ok(&format!(
            "nc host.internal {port} < /dev/null > /dev/null 2>&1 &"
        ))?;
        retry("the flood", SOON, || {
            slow.ok("[ $(cat /sys/class/net/eth0/statistics/rx_bytes) -gt 4000000 ]")
                .map(drop)
        })?;
        slow.signal(Signal::STOP)?;
        let beside = pull(&other)?;
        slow.signal(Signal::CONT)?;
        println!("alone {alone:?}, beside a guest that stands still {beside:?}");
        ensure!(
            beside < alone * 10 + SOON,
            "{beside:?} instead of {alone:?}"
        );
        slow.ok("ping -c 1 -W 5 192.168.130.1")?;
        Ok(())
    });
}

/// How long a transfer to the guest takes.
fn pull(guest: &Guest) -> Result<Duration> {
    let (port, sent) = host(|mut stream| Ok(stream.write_all(&content())?))?;
    let started = tests::limit::now();
    let down = format!("nc host.internal {port} < /dev/null | cmp - /run/content");
    let answer = guest.run_within(TRANSFER, &down)?;
    ensure!(answer.status == 0, "{answer:?}");
    end(sent)?;
    Ok(started.elapsed())
}

/// Prints what each link carries; `cargo test -p tests --test links -- --nocapture compared`.
#[test]
fn links_are_compared_at_both_sizes_of_packets() {
    whole_system(|| {
        let mut world = World::new(COMPARED)?;
        world.start(Kind::Netd)?;
        for name in [
            "stream",
            "vhost",
            "dgram",
            "small-stream",
            "small-vhost",
            "small-dgram",
        ] {
            let (guest, _) = world.boot(name, &[])?;
            let mtu = guest.ok("cat /sys/class/net/eth0/mtu")?;
            let wanted = if name.starts_with("small") {
                "1500"
            } else {
                "65520"
            };
            ensure!(mtu.trim() == wanted, "{name} has an MTU of {mtu}");
            let (port, received) =
                host(|mut stream| Ok(std::io::copy(&mut stream, &mut std::io::sink())?))?;
            let up = format!("head -c {BULK} /dev/zero | nc -w 5 host.internal {port}");
            let up = timed(&guest, &up)?;
            let came = end(received)?;
            ensure!(came == BULK as u64, "{name}: {came} bytes of {BULK} came");
            let (port, _sent) = host(|mut stream| {
                std::io::copy(&mut std::io::repeat(0).take(BULK as u64), &mut stream)?;
                Ok(())
            })?;
            let down = format!("[ $(nc host.internal {port} < /dev/null | wc -c) = {BULK} ]");
            let down = timed(&guest, &down)?;
            println!("{name:>12}: {up:>5} Mbit/s up, {down:>5} Mbit/s down, MTU {wanted}");
        }
        Ok(())
    });
}

const BULK: usize = 8 << 20;

const COMPARED: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[network.small]
type = "nat"
subnet = "192.168.131.0/24"
mtu = 1500

[guest.stream]
network = "vmnet8"
link = "stream"

[guest.vhost]
network = "vmnet8"
link = "vhost-user"

[guest.dgram]
network = "vmnet8"
link = "dgram"

[guest.small-stream]
network = "small"
link = "stream"

[guest.small-vhost]
network = "small"
link = "vhost-user"

[guest.small-dgram]
network = "small"
link = "dgram"
"#;

/// Mbit/s of a command that moves [`BULK`] bytes.
fn timed(guest: &Guest, command: &str) -> Result<u128> {
    let started = tests::limit::now();
    let answer = guest.run_within(TRANSFER * 2, command)?;
    ensure!(answer.status == 0, "{command}: {answer:?}");
    Ok(BULK as u128 * 8 / started.elapsed().as_micros().max(1))
}
