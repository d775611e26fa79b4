//! netd killed under a namespace's tap: what is lost is the tap and its connections; lease, address,
//! names and published ports come back as they were.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::process::Signal;
use tests::daemons::{Kind, World};
use tests::limit::{retry, wait_for};
use tests::netns::Netns;
use tests::outside::{HOST, Outside, carries};
use tests::{Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
publish = ["192.0.2.1:7000:7000"]
"#;

const SOON: Duration = Duration::from_secs(10);

fn connect(namespace: &Netns, to: impl Into<SocketAddr>) -> Result<TcpStream> {
    let to = to.into();
    namespace.within(|| {
        let stream = TcpStream::connect_timeout(&to, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    })
}

fn address(world: &World) -> Result<String> {
    let status = world.get(Kind::Netd, "/v1/guests/dev")?;
    Ok(status["address"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn netd_killed_costs_a_tap_its_connections_but_not_its_lease_or_ports() {
    whole_system(|| {
        let outside = Outside::new()?;
        let mut world = World::new(CONFIG)?.inside(&outside.host);
        world.start(Kind::Netd)?;
        let guest = world.tap_guest("dev")?;
        let before = address(&world)?;
        let listener = outside.listen(0)?;
        let inner = connect(&guest, listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        carries(&inner, &server, b"hello")?;

        world.crash(Kind::Netd)?;
        server.set_read_timeout(Some(SOON))?;
        let seen = server.read(&mut [0]).map_err(|error| error.kind());
        let ended = [Ok(0), Err(ErrorKind::ConnectionReset)];
        ensure!(
            ended.contains(&seen),
            "the server still has the connection: {seen:?}"
        );
        wait_for("the tap to go with its daemon", SOON, || {
            Ok(guest.run("ip link show dev tap0").is_err().then_some(()))
        })?;

        drop(guest);
        let guest = world.tap_guest("dev")?;
        let after = address(&world)?;
        ensure!(
            before == after && !after.is_empty(),
            "{before} before, {after} after"
        );
        connect(&guest, listener.local_addr()?)?;
        listener.accept()?;
        let published = guest.within(|| Ok(TcpListener::bind("0.0.0.0:7000")?))?;
        let client = retry("the published port", SOON, || {
            connect(&outside.server, (HOST, 7000))
        })?;
        let (inner, _) = published.accept()?;
        carries(&client, &inner, b"hello again")
    });
}

#[test]
fn each_daemon_ends_cleanly_on_sigterm_and_takes_sighup() {
    whole_system(|| {
        let outside = Outside::new()?;
        let mut world = World::new(&format!("{CONFIG}\n[hosts]\nfiles = [\"@hosts\"]\n"))?
            .inside(&outside.host);
        world.write(&world.path("hosts"), "")?;
        world.start_all()?;
        for kind in Kind::ALL {
            world.daemon(kind)?.signal(Signal::HUP)?;
            let status = world.get(kind, "/v1/status")?;
            ensure!(status["daemon"] == kind.name(), "{status}");
            let ended = world.daemon(kind)?.stop()?;
            ensure!(ended.success(), "{}: {ended}", kind.name());
            ensure!(
                !world.socket(kind).exists(),
                "{} left its socket",
                kind.name()
            );
            // The place is free for the next one.
            world.start(kind)?;
        }
        Ok(())
    });
}
