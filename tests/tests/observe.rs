//! What can be seen of a network: its flows, its frames as Wireshark's tools read them, its counters.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tests::daemons::{Kind, World};
use tests::limit::{retry, wait_for};
use tests::netns::Netns;
use tests::outside::{Outside, SERVER};
use tests::{Context, Result, command, ensure, packages, programs, prometheus, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
publish = ["192.0.2.1:7000:7000"]
[guest.other]
"#;

const SOON: Duration = Duration::from_secs(20);

struct Scene {
    outside: Outside,
    world: World,
    dev: Netns,
}

fn scene() -> Result<Scene> {
    let outside = Outside::new()?;
    let mut world = World::new(CONFIG)?.inside(&outside.host);
    world.start(Kind::Netd)?;
    let dev = world.tap_guest("dev")?;
    Ok(Scene {
        outside,
        world,
        dev,
    })
}

#[test]
fn ps_says_what_of_a_guest_works_here_and_what_mends_the_rest() {
    whole_system(|| {
        let Scene {
            outside: _outside,
            world,
            dev,
        } = scene()?;
        let view = || -> Result<serde_json::Value> {
            let shown = world.sharectl(&["ps", "dev", "--format", "json"])?;
            // hostsync and sharefs do not run.
            ensure!(shown.status.code() == Some(3), "{shown:?}");
            Ok(serde_json::from_slice(shown.stdout.as_bytes())?)
        };
        let trouble = |view: &serde_json::Value| -> String {
            let all = view["troubles"].as_array().into_iter().flatten();
            let mut of_port = all.filter(|one| one["about"] == "port 192.0.2.1:7000:7000");
            of_port.next().map(ToString::to_string).unwrap_or_default()
        };
        let refused = wait_for("the guest's refusal", SOON, || {
            let view = view()?;
            Ok((view["guests"][0]["ports"][0]["answers"] == "refuses").then_some(view))
        })?;
        ensure!(refused["guests"][0]["state"] == "running", "{refused}");
        ensure!(trouble(&refused).contains("start the service"), "{refused}");
        let _service = dev.within(|| Ok(std::net::TcpListener::bind("0.0.0.0:7000")?))?;
        let served = wait_for("the service", SOON, || {
            let view = view()?;
            Ok((view["guests"][0]["ports"][0]["answers"] == "serves").then_some(view))
        })?;
        ensure!(trouble(&served).is_empty(), "{served}");
        let reach = &served["guests"][0]["ports"][0]["reach"];
        ensure!(*reach == serde_json::json!(["192.0.2.1:7000"]), "{served}");
        Ok(())
    });
}

#[test]
fn flows_show_who_talks_to_whom_and_how_much() {
    whole_system(|| {
        let Scene {
            outside,
            world,
            dev,
        } = scene()?;
        let (echo, who) = (outside.echo()?, outside.who()?);
        let mut stream = dev.within(move || Ok(std::net::TcpStream::connect(echo)?))?;
        let bytes = vec![7; 100_000];
        std::io::Write::write_all(&mut stream, &bytes[..50_000])?;
        std::io::Read::read_exact(&mut stream, &mut vec![0; 50_000])?;
        let listener = dev.within(|| Ok(std::net::TcpListener::bind("0.0.0.0:7000")?))?;
        // The port opens when netd has seen that the guest serves it.
        let client = retry("the published port", SOON, || {
            outside
                .server
                .within(|| Ok(std::net::TcpStream::connect("192.0.2.1:7000")?))
        })?;
        let (accepted, _) = listener.accept()?;
        tests::outside::carries(&client, &accepted, b"hello")?;
        let socket = dev.within(|| Ok(std::net::UdpSocket::bind("0.0.0.0:0")?))?;
        socket.send_to(b"who", who)?;
        socket.recv_from(&mut [0; 64])?;
        dev.run(&format!("ping -c 1 -W 5 {SERVER}"))?;
        let said = world
            .sharectl(&["network", "flows", "vmnet8", "--guest", "dev", "--json"])?
            .success()?;
        let flows: serde_json::Value = serde_json::from_str(&said)?;
        let flows = flows.as_array().context("no list")?;
        let find = |protocol: &str, outbound: bool, remote: &str| {
            flows
                .iter()
                .find(|flow| {
                    flow["protocol"] == protocol
                        && flow["outbound"] == outbound
                        && flow["remote"]
                            .as_str()
                            .is_some_and(|it| it.starts_with(remote))
                })
                .with_context(|| format!("no {protocol} {remote}: {said}"))
        };
        let tcp = find("tcp", true, &echo.to_string())?;
        ensure!(*tcp == flows[0], "the largest comes first: {said}");
        ensure!(
            tcp["bytes_from_guest"] == 50_000 && tcp["bytes_to_guest"] == 50_000,
            "{tcp}"
        );
        ensure!(
            tcp["state"] == "open" && tcp["guest_name"] == "dev",
            "{tcp}"
        );
        ensure!(tcp["packets_from_guest"].as_u64() > Some(0), "{tcp}");
        let published = find("tcp", false, &SERVER.to_string())?;
        ensure!(published["bytes_to_guest"] == 5, "{published}");
        let udp = find("udp", true, &who.to_string())?;
        ensure!(
            udp["packets_from_guest"] == 1 && udp["bytes_from_guest"] == 3,
            "{udp}"
        );
        find("icmp", true, &SERVER.to_string())?;
        let table = world.sharectl(&["network", "flows"])?.success()?;
        ensure!(table.starts_with("PROTO  DIR  GUEST"), "{table}");
        ensure!(table.contains(&echo.to_string()), "{table}");
        let none = world
            .sharectl(&["network", "flows", "--guest", "other", "--json"])?
            .success()?;
        ensure!(none.trim() == "[]", "{none}");
        Ok(())
    });
}

/// What a program says of a capture.
fn read(line: &str) -> Result<String> {
    let output = command::output(
        std::process::Command::new("sh").args(["-c", line]),
        Duration::from_secs(60),
    )?;
    output.success().with_context(|| line.to_owned())
}

/// A capture that runs, and reads to its end.
fn capture(world: &World, file: &Path, arguments: &[&str]) -> Result<std::process::Child> {
    let mut line = world.command(programs::folder()?.join("sharectl"));
    line.args(["network", "capture", "vmnet8", "-w"])
        .arg(file)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = line.spawn()?;
    // The section header is there once netd captures.
    wait_for("the capture to begin", SOON, || {
        let length = std::fs::metadata(file).map(|found| found.len());
        Ok(length.ok().filter(|length| *length > 0))
    })?;
    Ok(child)
}

fn fetch(scene: &Scene) -> Result<()> {
    scene.dev.run(&format!(
        "curl -sS --max-time 10 -o /dev/null http://{SERVER}/"
    ))?;
    Ok(())
}

#[test]
fn captures_are_read_by_tshark_tcpdump_and_capinfos() {
    whole_system(|| {
        packages::ensure(packages::READERS)?;
        let scene = scene()?;
        let world = &scene.world;
        let _server = scene
            .outside
            .server
            .command("busybox")
            .args(["httpd", "-f", "-p", "80", "-h", "/etc/netns"])
            .spawn()?;
        retry("the server", SOON, || fetch(&scene))?;
        let folder = world.share_folder("captures")?;

        // All frames, ended as by Ctrl-C.
        let all = folder.join("all.pcapng");
        let mut child = capture(world, &all, &[])?;
        fetch(&scene)?;
        scene.dev.run(&format!("ping -c 2 -i 0.2 -W 5 {SERVER}"))?;
        // A transfer large enough for frames of 64 KiB both ways.
        let echo = scene.outside.echo()?;
        scene.dev.within(move || {
            let stream = std::net::TcpStream::connect(echo)?;
            let sender = stream.try_clone()?;
            let bytes = vec![9_u8; 2_000_000];
            let writing =
                std::thread::spawn(move || std::io::Write::write_all(&mut &sender, &bytes));
            std::io::Read::read_exact(&mut &stream, &mut vec![0; 2_000_000])?;
            writing
                .join()
                .map_err(|_| std::io::Error::other("the sender panicked"))??;
            Ok(())
        })?;
        rustix::process::kill_process(command::pid_of(&child)?, Signal::INT)?;
        let status = command::wait(&mut child, SOON)?.context("it goes on after Ctrl-C")?;
        ensure!(status.success(), "{status}");
        let all = all.display();
        let infos = read(&format!("capinfos -M {all}"))?;
        println!("{infos}");
        ensure!(
            infos.contains("pcapng") && infos.contains("nanoseconds"),
            "{infos}"
        );
        ensure!(infos.contains("Name = dev"), "{infos}");
        ensure!(
            read(&format!("tcpdump -n -r {all} icmp 2>/dev/null"))?
                .lines()
                .count()
                == 4
        );
        let http = read(&format!(
            "tshark -r {all} -Y 'http' -T fields -e ip.src -e frame.packet_flags_direction"
        ))?;
        let lines: Vec<&str> = http.lines().collect();
        ensure!(lines.len() == 2, "{http}");
        ensure!(
            lines[0].starts_with("192.168.130.") && lines[1].starts_with("192.0.2.2"),
            "{http}"
        );
        ensure!(
            !lines[0].ends_with(lines[1].rsplit('\t').next().unwrap_or("?")),
            "{http}"
        );
        let bad = read(&format!(
            "tshark -r {all} -o ip.check_checksum:TRUE -o tcp.check_checksum:TRUE -o udp.check_checksum:TRUE \
             -Y 'ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0 || icmp.checksum.status == 0 || _ws.malformed'"
        ))?;
        ensure!(bad.is_empty(), "{bad}");
        let large = read(&format!(
            "tshark -r {all} -Y 'frame.len > 10000' -T fields -e ip.src"
        ))?;
        ensure!(
            large.contains("192.168.130.") && large.contains("192.0.2.2"),
            "no large frames"
        );
        // The counts at the end: an interface statistics block, frames seen, frames missing.
        let frames = read(&format!("tshark -r {all} -T fields -e frame.number"))?;
        let bytes = std::fs::read(all.to_string())?;
        let (_, counts) = bytes.split_at(bytes.len() - 52);
        ensure!(counts[..8] == [5, 0, 0, 0, 52, 0, 0, 0], "{counts:?}");
        let seen = u64::from_le_bytes(counts[24..32].try_into()?);
        let missing = u64::from_le_bytes(counts[36..44].try_into()?);
        println!("{seen} frames, {missing} missing");
        ensure!(
            missing == 0 && seen == frames.lines().count() as u64,
            "{counts:?}"
        );

        // Cut, filtered and counted: it ends by itself.
        let some = folder.join("some.pcapng");
        let arguments = [
            "--snaplen",
            "50",
            "--count",
            "4",
            "--filter",
            "tcp port 80",
            "--guest",
            "dev",
        ];
        let mut child = capture(world, &some, &arguments)?;
        scene.dev.run(&format!("ping -c 1 -W 5 {SERVER}"))?;
        fetch(&scene)?;
        let status = command::wait(&mut child, SOON)?.context("it goes on after 4 frames")?;
        ensure!(status.success(), "{status}");
        let shown = read(&format!(
            "tshark -r {} -T fields -e frame.cap_len -e tcp.port",
            some.display()
        ))?;
        ensure!(shown.lines().count() == 4, "{shown}");
        ensure!(
            shown
                .lines()
                .all(|line| line.starts_with("50\t") && line.contains("80")),
            "{shown}"
        );

        // By time.
        let timed = folder.join("timed.pcapng");
        let mut child = capture(world, &timed, &["--seconds", "1"])?;
        command::wait(&mut child, SOON)?.context("it goes on after a second")?;

        let events = world
            .sharectl(&["events", "netd", "--format", "json"])?
            .stdout;
        let count = |kind: &str| events.lines().filter(|line| line.contains(kind)).count();
        ensure!(count("capture-started") == 3, "{events}");
        ensure!(count("capture-stopped") == 3, "{events}");
        let wrong = world.sharectl(&["network", "capture", "vmnet9", "-w", "/dev/null"])?;
        ensure!(wrong.status.code() == Some(1), "{wrong:?}");
        Ok(())
    });
}

#[test]
fn a_reader_that_goes_away_ends_its_capture() {
    whole_system(|| {
        let scene = scene()?;
        let folder = scene.world.share_folder("captures")?;
        let mut child = capture(&scene.world, &folder.join("x.pcapng"), &[])?;
        child.kill()?;
        child.wait()?;
        wait_for("the end of the capture", SOON, || {
            let events = scene
                .world
                .sharectl(&["events", "netd", "--format", "json"])?;
            Ok(events.stdout.contains("capture-stopped").then_some(()))
        })
    });
}

#[test]
fn counters_of_all_daemons_are_what_prometheus_reads() {
    whole_system(|| {
        let mut scene = scene()?;
        scene.world.start(Kind::Sharefs)?;
        scene.world.start(Kind::Hostsync)?;
        for kind in Kind::ALL {
            let page = scene.world.ask(kind, "GET", "/metrics", None)?.body;
            let samples =
                prometheus::samples(&page).with_context(|| format!("of {}", kind.name()))?;
            let prefix = format!("sharectl_{}_", kind.name());
            ensure!(
                samples.iter().all(|(name, _)| name.starts_with(&prefix)),
                "{page}"
            );
            ensure!(samples.len() > 5, "{page}");
        }
        let page = scene.world.ask(Kind::Netd, "GET", "/metrics", None)?.body;
        let received = prometheus::samples(&page)?.into_iter().find(|(name, _)| {
            name.starts_with("sharectl_netd_link_received_frames_total")
                && name.contains("guest=\"dev\"")
        });
        ensure!(received.context("no frames of dev")?.1 > 0.0, "{page}");
        Ok(())
    });
}
