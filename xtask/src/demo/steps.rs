//! The steps of the demo, in order. Each does one thing and says what it saw.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::limit::{self, wait_for};

use super::scene::{DRIVE, GUEST, HOST_PAGE, HOSTS_BEFORE, NAME, Scene};
use super::show::{Found, Show};
use crate::ui::{self, Style};

const SOON: Duration = Duration::from_secs(20);

/// Plays all steps; an error means that the rest could not be played.
pub(super) fn play(scene: &mut Scene, show: &mut Show) -> Result<()> {
    let mut up = show.step("daemons answer", || {
        scene.start_daemons()?;
        let names = if scene.system_hosts {
            "netd, sharefs"
        } else {
            "netd, sharefs, hostsync"
        };
        Ok(format!("{names} as uid {}", scene.world.user().uid))
    });
    up = up && show.step("guest boots", || boot(scene));
    if !up {
        return Ok(());
    }
    ui::line(&format!("\n{}", ui::paint(Style::Bold, "In the guest")));
    show.step("address by DHCP", || address(scene));
    show.step("name by DNS", || name(scene));
    show.step("host's web server, through NAT", || fetch_from_host(scene));
    ui::line(&format!("\n{}", ui::paint(Style::Bold, "On the host")));
    show.step("name in the hosts file", || hosts_line(scene));
    show.step("guest's web server, by name", || fetch_from_guest(scene));
    ui::line(&format!("\n{}", ui::paint(Style::Bold, "On both sides")));
    show.step("file of the host, in the guest", || host_to_guest(scene));
    show.step("file of the guest, on the host", || guest_to_host(scene));
    show.step("a tree under the same path", || same_path(scene));
    Ok(())
}

fn boot(scene: &mut Scene) -> Result<Found> {
    let mut guest = scene.machine()?.start()?;
    guest.wait_ready()?;
    let time = guest.age();
    let kernel = guest.ok("uname -r")?;
    scene.set_guest(guest);
    Ok(Found::from(format!("Linux {kernel}"))
        .in_time(time)
        .note(format!(
            "by: sharectl guest run {GUEST} -- qemu-system-x86_64 ..."
        )))
}

fn address(scene: &Scene) -> Result<Found> {
    let guest = scene.with_guest()?;
    let address = guest.address(SOON)?;
    let gateway = guest.ok("ip route | sed -n 's,^default via ,,p' | cut -d ' ' -f 1")?;
    // Both by the guest's own clock: `guest: SECONDS address ...` after `guest: SECONDS ready`.
    let log = guest.console_log();
    let second = |mark: &str| -> Option<f64> {
        let line = log.lines().find(|line| line.contains(mark))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let time = second(" address ")
        .zip(second(" modules loaded"))
        .and_then(|(end, start)| Duration::try_from_secs_f64(end - start).ok());
    Ok(Found::from(format!("{address} from {gateway}")).in_time(time))
}

fn name(scene: &Scene) -> Result<Found> {
    let guest = scene.with_guest()?;
    let own = guest.address(SOON)?.to_string();
    let begun = limit::now();
    let answer = guest.ok(&format!("nslookup {NAME}"))?;
    let time = begun.elapsed();
    ensure!(answer.contains(&own), "{NAME} is not {own}: {answer}");
    let host = guest.ok("nslookup host.internal")?;
    let host = host
        .lines()
        .filter_map(|line| line.strip_prefix("Address: "))
        .next_back()
        .with_context(|| format!("no address for host.internal: {host}"))?;
    Ok(Found::from(format!("{NAME} is {own}"))
        .in_time(time)
        .note(format!("and host.internal is {host}")))
}

fn fetch_from_host(scene: &Scene) -> Result<Found> {
    let url = scene.server_in_guest();
    let guest = scene.with_guest()?;
    let page = guest.ok(&format!("wget -q -O - {url}"))?;
    ensure!(page == HOST_PAGE.trim(), "the page is {page:?}");
    Ok(Found::from(url).note(format!("which is \"{page}\"")))
}

fn hosts_line(scene: &Scene) -> Result<Found> {
    if scene.system_hosts {
        let output = scene.world.sharectl_as_ourselves(&["host", "sync"])?;
        output.success().context("sharectl host sync")?;
    }
    let address = wait_for("the name in the hosts file", SOON, || scene.lookup(NAME))?;
    if !scene.system_hosts {
        let text = std::fs::read_to_string(scene.hosts_file())?;
        ensure!(
            text.starts_with(HOSTS_BEFORE),
            "the user's lines have changed: {text}"
        );
    }
    let file = scene.hosts_file();
    Ok(Found::from(format!("{NAME} is {address}")).note(format!("in {}", file.display())))
}

fn fetch_from_guest(scene: &Scene) -> Result<Found> {
    let (page, how) = scene.fetch_by_name()?;
    let expected = format!("Hello from {GUEST}");
    ensure!(page.trim() == expected, "the page is {page:?}");
    let url = format!("http://{NAME}:{}/", scene.port);
    Ok(Found::from(url).note(format!("which is \"{expected}\", by {how}")))
}

fn host_to_guest(scene: &Scene) -> Result<String> {
    let text = "written on the host";
    scene.world.write(&scene.drive().join("host.txt"), text)?;
    let seen = scene.with_guest()?.ok(&format!("cat {DRIVE}/host.txt"))?;
    ensure!(seen == text, "the guest reads {seen:?}");
    Ok(format!("{DRIVE}/host.txt is \"{seen}\""))
}

fn guest_to_host(scene: &Scene) -> Result<String> {
    let text = "written in the guest";
    let guest = scene.with_guest()?;
    guest.ok(&format!("echo {text} > {DRIVE}/guest.txt"))?;
    let file = scene.drive().join("guest.txt");
    let seen = std::fs::read_to_string(&file)?;
    ensure!(seen.trim() == text, "the host reads {seen:?}");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&file)?);
    ensure!(owner == scene.world.user().uid, "it belongs to {owner}");
    Ok(format!("\"{text}\", owned by the daemons' user"))
}

fn same_path(scene: &Scene) -> Result<Found> {
    let src = scene.src();
    let path = src.display();
    let guest = scene.with_guest()?;
    guest.ok(&format!(
        "mkdir -p {path}/project && cd {path}/project && for i in $(seq 50); do echo $i > $i.txt; done"
    ))?;
    let here = std::fs::read_dir(src.join("project"))?.count();
    std::fs::rename(src.join("project"), src.join("moved"))?;
    let there = guest.ok(&format!("ls {path}/moved | wc -l"))?;
    ensure!(
        here == 50 && there == "50",
        "{here} files here, {there} there"
    );
    Ok(
        Found::from("50 files made there, moved here, seen there".to_owned())
            .note(path.to_string()),
    )
}
