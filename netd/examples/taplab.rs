//! The packet path alone, over a tap in a network namespace: a real kernel TCP stack is the guest.
//! For measuring and for looking at packets; no configuration, DHCP or DNS.
//!
//! ```text
//! ip netns add lab
//! taplab --netns lab [--stream] [--plain] [--mtu 1500] [--publish 5201:5201]...
//! ```
//! The interface is made, given 10.99.0.2/24 and a default route; a line on standard input prints counters, its end
//! ends the program. `--stream` puts a copier in the place of QEMU: tap on one side, `-netdev stream` on the other.

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command as Process;

use anyhow::{Context as _, bail};
use control::port::Protocol;
use netd::datapath::{Command, Datapath, LinkTransport, NewLink, NewPublish};
use netd::engine::services::NoServices;
use netd::engine::settings::{NetworkSettings, Reach};
use netd::io::publish::{BindRequest, WantedPort, bind};

#[derive(Debug, Default)]
struct Options {
    netns: String,
    stream: bool,
    plain: bool,
    mtu: Option<u16>,
    publish: Vec<(u16, u16)>,
}

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const INTERFACE: &str = "tap0";

fn options() -> anyhow::Result<Options> {
    let mut options = Options::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} wants a value"))
        };
        match word.as_str() {
            "--netns" => options.netns = value()?,
            "--stream" => options.stream = true,
            "--plain" => options.plain = true,
            "--mtu" => options.mtu = Some(value()?.parse()?),
            "--publish" => {
                let text = value()?;
                let (host, guest) = text.split_once(':').context("--publish HOST:GUEST")?;
                options.publish.push((host.parse()?, guest.parse()?));
            }
            other => bail!("unknown option {other}"),
        }
    }
    anyhow::ensure!(!options.netns.is_empty(), "--netns is required");
    Ok(options)
}

/// Opens the tap inside the namespace, in a thread that ends there.
fn open_tap(netns: &str, header: bool) -> anyhow::Result<OwnedFd> {
    let path = format!("/run/netns/{netns}");
    let opened = std::thread::spawn(move || -> anyhow::Result<OwnedFd> {
        let namespace = std::fs::File::open(&path).with_context(|| path.clone())?;
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(kind),
        )?;
        Ok(netd::sys::open_tap(INTERFACE, header)?)
    });
    opened
        .join()
        .map_err(|_panic| anyhow::anyhow!("the thread in the namespace failed"))?
}

fn in_namespace(netns: &str, words: &str) -> anyhow::Result<()> {
    let status = Process::new("ip")
        .args(["-n", netns])
        .args(words.split(' '))
        .status()?;
    anyhow::ensure!(status.success(), "ip -n {netns} {words}: {status}");
    Ok(())
}

/// What QEMU does between its virtio-net device and a stream socket.
fn copy_frames(tap: OwnedFd, socket: &UnixStream) -> anyhow::Result<()> {
    let mut to_socket = socket.try_clone()?;
    let mut from_socket = std::io::BufReader::with_capacity(1 << 18, socket.try_clone()?);
    let reader = std::fs::File::from(tap);
    let mut writer = reader.try_clone()?;
    std::thread::spawn(move || -> anyhow::Result<()> {
        let mut reader = reader;
        let mut buffer = vec![0; 70_000];
        loop {
            let length = reader.read(&mut buffer[4..])?;
            buffer[..4].copy_from_slice(&u32::try_from(length)?.to_be_bytes());
            to_socket.write_all(&buffer[..4 + length])?;
        }
    });
    std::thread::spawn(move || -> anyhow::Result<()> {
        let mut buffer = vec![0; 70_000];
        loop {
            let mut prefix = [0; 4];
            from_socket.read_exact(&mut prefix)?;
            let frame = &mut buffer[..u32::from_be_bytes(prefix) as usize];
            from_socket.read_exact(frame)?;
            // An interface that is down loses the frame, as a cable would.
            writer.write_all(frame).ok();
        }
    });
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "its output is for a person at a terminal"
)]
fn main() -> anyhow::Result<()> {
    control::logging::init();
    let options = options()?;
    let mut settings = NetworkSettings::new("lab", Reach::Nat, "10.99.0.0/24".parse()?);
    settings.mtu = options.mtu.unwrap_or(65_520);
    let (notices, mut inbox) = tokio::sync::mpsc::channel(1_024);
    let handle = Datapath::spawn(settings.clone(), Box::new(NoServices), notices)?;
    std::thread::spawn(move || {
        while let Some(notice) = inbox.blocking_recv() {
            tracing::info!(?notice, "notice");
        }
    });

    let tap = open_tap(&options.netns, !options.stream && !options.plain)?;
    in_namespace(
        &options.netns,
        &format!("link set {INTERFACE} up mtu {}", settings.mtu),
    )?;
    in_namespace(&options.netns, "link set lo up")?;
    in_namespace(
        &options.netns,
        &format!("addr replace {GUEST}/24 dev {INTERFACE}"),
    )?;
    in_namespace(
        &options.netns,
        &format!("route replace default via {}", settings.gateway),
    )?;
    let transport = if options.stream {
        let (ours, theirs) = UnixStream::pair()?;
        rustix::io::ioctl_fionbio(&tap, false)?;
        copy_frames(tap, &theirs)?;
        // The copier's two threads hold clones; this end stays open with them.
        LinkTransport::Stream(ours.into())
    } else {
        LinkTransport::Tap {
            descriptor: tap,
            vnet_header: !options.plain,
        }
    };
    let (reply, answer) = tokio::sync::oneshot::channel();
    handle.send(Command::AttachLink {
        link: NewLink {
            transport,
            guest: None,
            mac: None,
        },
        reply,
    })?;
    answer.blocking_recv()?.context("the link was not taken")?;

    for (host, guest) in &options.publish {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let sockets = bind(&BindRequest::Ports {
                protocol,
                required: vec![Ipv4Addr::UNSPECIFIED.into()],
                optional: Vec::new(),
                port: WantedPort::This(*host),
            })?;
            let publish = NewPublish {
                protocol,
                guest: "lab".parse()?,
                address: Some(GUEST.into()),
                port: *guest,
                sockets,
            };
            let (reply, answer) = tokio::sync::oneshot::channel();
            handle.send(Command::Publish { publish, reply })?;
            answer.blocking_recv()?;
        }
    }

    println!("ready");
    for line in std::io::stdin().lock().lines() {
        line?;
        let (reply, answer) = tokio::sync::oneshot::channel();
        handle.send(Command::Snapshot(reply))?;
        let snapshot = answer.blocking_recv()?;
        let counters: Vec<_> = snapshot
            .counters
            .entries()
            .filter(|entry| entry.1 > 0)
            .collect();
        println!("{counters:?}");
        for link in &snapshot.links {
            println!("{link:?}");
        }
        println!(
            "tcp {} udp {} buffered {} neighbours {:?}",
            snapshot.tcp_flows, snapshot.udp_mappings, snapshot.buffered_bytes, snapshot.neighbours
        );
        let (reply, answer) = tokio::sync::oneshot::channel();
        handle.send(Command::Flows {
            guest: None,
            limit: 10,
            reply,
        })?;
        for flow in answer.blocking_recv()? {
            println!("{flow:?}");
        }
    }
    handle.send(Command::Shutdown)?;
    handle.join();
    Ok(())
}
