//! Bytes that nobody sends, at every door of the running daemons: each must live on, under the same
//! process id, and go on serving those who mean well.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType};
use tests::daemons::{Kind, World};
use tests::http;
use tests::limit::{retry, wait_for};
use tests::netns::Netns;
use tests::noise::Noise;
use tests::outside::Outside;
use tests::{Context, Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
[guest.evil]

[share.d]
path = "@shared/d"
at = "/mnt/d"

[hosts]
files = ["@hosts"]
"#;

const SOON: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(300);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 130, 1);

/// The daemons with their process ids.
struct Victims {
    world: World,
    pids: Vec<u32>,
}

impl Victims {
    fn new(outside: Option<&Outside>) -> Result<Self> {
        let mut world = World::new(CONFIG)?;
        if let Some(outside) = outside {
            world = world.inside(&outside.host);
        }
        world.write(&world.path("hosts"), "")?;
        world.start_all()?;
        let pids = Kind::ALL
            .iter()
            .map(|kind| Ok(world.daemon(*kind)?.pid()))
            .collect::<Result<_>>()?;
        Ok(Self { world, pids })
    }

    fn live(&mut self, after: &str) -> Result<()> {
        for (kind, pid) in Kind::ALL.into_iter().zip(self.pids.clone()) {
            let daemon = self.world.daemon(kind)?;
            ensure!(daemon.is_running()?, "{} died of {after}", kind.name());
            ensure!(daemon.pid() == pid);
            let status = self
                .world
                .get(kind, "/v1/status")
                .with_context(|| format!("{} after {after}", kind.name()))?;
            ensure!(status["pid"] == pid, "{status}");
        }
        Ok(())
    }
}

#[test]
fn the_control_sockets_survive_what_is_no_request() {
    whole_system(|| {
        let mut victims = Victims::new(None)?;
        let mut noise = Noise::new(1);
        let long_path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20));
        let headers = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100_000));
        let large = format!(
            "POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}",
            8 << 20,
            "x".repeat(8 << 20)
        );
        let mut attempts: Vec<Vec<u8>> = [
            "\r\n\r\n",
            "GET\r\n\r\n",
            "GET / HTTP/9.9\r\n\r\n",
            "GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            "GET /v1/status HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
            "POST /v1/ports HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{{{{{",
            "POST /v1/ports HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]",
            "GET /v1/guests/%00%ff%2e%2e HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /v1/guests/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
            "DELETE /v1/guests/dev/link/link/link HTTP/1.1\r\nHost: x\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\u{16}\u{3}\u{1}\u{2}",
            &long_path,
            &headers,
            &large,
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect();
        let nested = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        attempts.push(
            format!(
                "POST /v1/ports HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{nested}",
                nested.len()
            )
            .into_bytes(),
        );
        let real = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        attempts.extend((0..40).map(|_| noise.bytes(2000)));
        attempts.extend((0..40).map(|_| noise.mangle(real)));
        for kind in Kind::ALL {
            let socket = victims.world.socket(kind);
            for attempt in &attempts {
                let answer = http::raw_over_unix(&socket, attempt, MOMENT)?;
                let status = answer.get(9..10).unwrap_or(b"-");
                ensure!(
                    status != b"5" || answer.starts_with(b"HTTP/1.1 501"),
                    "{} blames itself for {:?}: {:?}",
                    kind.name(),
                    String::from_utf8_lossy(attempt.get(..80).unwrap_or(attempt)),
                    String::from_utf8_lossy(&answer)
                );
            }
        }
        victims.live("requests that are none")?;

        // Connections that say nothing must not keep others out.
        let held: Vec<_> = (0..200)
            .filter_map(|_| UnixStream::connect(victims.world.socket(Kind::Netd)).ok())
            .collect();
        retry(
            "an answer besides 200 silent connections",
            Duration::from_secs(40),
            || victims.live("silent connections"),
        )?;
        drop(held);
        Ok(())
    });
}

#[test]
fn the_link_sockets_survive_frames_that_are_none() {
    whole_system(|| {
        let outside = Outside::new()?;
        let mut victims = Victims::new(Some(&outside))?;
        let good = victims.world.tap_guest("dev")?;
        let run = victims.world.runtime();
        let mut noise = Noise::new(2);
        for socket in [
            run.join("guest/evil/link.sock"),
            run.join("network/vmnet8.sock"),
        ] {
            for round in 0..30 {
                let mut link = retry("a link", SOON, || Ok(UnixStream::connect(&socket)?))?;
                link.set_write_timeout(Some(SOON))?;
                let mut bytes = Vec::new();
                for _ in 0..200 {
                    let frame = noise.bytes(1500);
                    let length = match round % 3 {
                        0 => u32::try_from(frame.len())?,
                        1 => u32::try_from(noise.below(70_000))?,
                        _ => u32::try_from(noise.next_number() >> 32)?,
                    };
                    bytes.extend(length.to_be_bytes());
                    bytes.extend(frame);
                }
                // It may be cut off in the middle, which is the right answer.
                drop(link.write_all(&bytes));
            }
        }
        victims.live("frames that are none")?;
        seqpacket_noise(&run.join("link.sock"), &mut noise)?;
        victims.live("messages on the link socket")?;
        serves(&good)
    });
}

/// Messages without a descriptor, without JSON, without sense.
fn seqpacket_noise(path: &Path, noise: &mut Noise) -> Result<()> {
    let real = br#"{"guest":"evil","kind":"tap","vnet_header":true}"#;
    for round in 0..60 {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        let message = match round % 3 {
            0 => noise.bytes(4000),
            1 => noise.mangle(real),
            _ => real.to_vec(),
        };
        // It may hang up on us first.
        let _ = rustix::net::send(&socket, &message, SendFlags::NOSIGNAL);
    }
    Ok(())
}

/// The well-meaning guest still has names and pings.
fn serves(guest: &Netns) -> Result<()> {
    retry("the gateway answers", SOON, || {
        guest.run(&format!("busybox ping -c 1 -W 2 {GATEWAY}"))?;
        let answer = guest.run(&format!("busybox nslookup host.internal {GATEWAY}"))?;
        ensure!(answer.contains("192.168.130.254"), "{answer}");
        Ok(())
    })
}

#[test]
fn dhcp_and_dns_survive_what_is_no_question() {
    whole_system(|| {
        let outside = Outside::new()?;
        let mut victims = Victims::new(Some(&outside))?;
        let guest = victims.world.tap_guest("dev")?;
        let mut noise = Noise::new(3);
        // A query for dev.test, and a DHCPDISCOVER as far as it matters.
        let query =
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03dev\x04test\x00\x00\x01\x00\x01";
        let mut discover = vec![1, 1, 6, 0, 1, 2, 3, 4];
        discover.resize(236, 0);
        discover.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 55, 3, 1, 3, 6, 255]);
        let (dns, dhcp) = guest.within(|| {
            Ok((
                UdpSocket::bind("0.0.0.0:0")?,
                UdpSocket::bind("0.0.0.0:68")?,
            ))
        })?;
        for _ in 0..2000 {
            dns.send_to(&noise.mangle(query), (GATEWAY, 53))?;
            dns.send_to(&noise.bytes(600), (GATEWAY, 53))?;
            dhcp.send_to(&noise.mangle(&discover), (GATEWAY, 67))?;
            dhcp.send_to(&noise.bytes(600), (GATEWAY, 67))?;
        }
        for round in 0..30 {
            let mut stream = guest.within(|| Ok(TcpStream::connect((GATEWAY, 53))?))?;
            let message = noise.mangle(query);
            let length = if round % 2 == 0 {
                u16::try_from(message.len())?
            } else {
                u16::MAX
            };
            let framed = [&length.to_be_bytes()[..], &message].concat();
            // It may hang up on us first.
            drop(stream.write_all(&framed));
        }
        victims.live("questions that are none")?;
        serves(&guest)
    });
}

#[test]
fn the_vhost_user_sockets_survive_messages_that_are_none() {
    whole_system(|| {
        let mut victims = Victims::new(None)?;
        let folder: PathBuf = victims.world.runtime().join("guest/dev");
        let sockets = [folder.join("fs-d.sock"), folder.join("fs.sock")];
        wait_for("the shares' sockets", SOON, || {
            Ok(sockets.iter().all(|socket| socket.exists()).then_some(()))
        })?;
        let mut noise = Noise::new(4);
        for (round, socket) in (0..240_u32).zip(sockets.iter().cycle()) {
            // Each socket sees every kind of message.
            let round = round / 2;
            let mut stream = retry("a front end's connection", SOON, || {
                Ok(UnixStream::connect(socket)?)
            })?;
            stream.set_write_timeout(Some(SOON))?;
            // VhostUserMsg: request, flags (version 1), size, payload.
            let payload = noise.bytes(300);
            let size = if round % 4 == 0 {
                u32::try_from(noise.next_number() >> 32)?
            } else {
                u32::try_from(payload.len())?
            };
            let mut message = Vec::new();
            if round % 5 != 0 {
                message.extend((round % 45).to_le_bytes());
                message.extend(1_u32.to_le_bytes());
                message.extend(size.to_le_bytes());
            }
            message.extend(payload);
            // It may hang up on us first.
            drop(stream.write_all(&message));
        }
        victims.live("vhost-user messages that are none")?;
        let (guest, _) = victims.world.boot("dev", &[("d", "/mnt/d")])?;
        guest.ok("echo still here > /mnt/d/x && cat /mnt/d/x")?;
        Ok(())
    });
}
