//! What goes wrong below a share: a full disk, a disk that fails. The guest is told, by each door, and nothing else is
//! harmed.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::guest::Guest;
use tests::limit::wait_for;
use tests::ninep::{Body, Client, ROOT, kind, refusal};
use tests::skip::Skip;
use tests::{Context, Result, command, ensure, mounts, packages, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
devices = "each"

[share.d]
path = "@shared/d"
at = "/mnt/d"
guest-owner = "0:0"
ninep = true
"#;

const SOON: Duration = Duration::from_secs(20);
const KIB: usize = 1024;
/// Where the guest has the share, by virtiofs and by 9P.
const DOORS: [&str; 2] = ["/mnt/d", "/nine"];
/// Flags of a Tlcreate: O_CREAT, O_RDWR.
const NEW: u32 = 0o102;
const ENOSPC: u32 = 28;

/// Runs a program of the host's.
fn host(program: &str, arguments: &[&str]) -> Result<()> {
    command::run(Command::new(program).args(arguments), SOON)?;
    Ok(())
}

/// A world whose share `d` is what `mount` mounts at a folder.
fn world(mount: impl FnOnce(&World, &Path) -> Result<()>) -> Result<(World, PathBuf)> {
    // Before the namespace, in which the system's files are not all its own.
    packages::ensure(packages::GUEST)?;
    packages::ensure(packages::CHECKSUMS)?;
    mounts::private()?;
    let mut world = World::new(CONFIG)?;
    let folder = world.share_folder("d")?;
    mount(&world, &folder)?;
    world.user().own(&folder)?;
    world.start(Kind::Netd)?;
    world.start(Kind::Sharefs)?;
    Ok((world, folder))
}

/// A guest that has the share by both doors.
fn boot(world: &World) -> Result<Guest> {
    let [virtiofs, ninep] = DOORS;
    let guest = world
        .machine_of_devices("dev", &[("d", virtiofs)])?
        .module("9p")
        .module("9pnet_fd")
        .boot()?;
    guest.address(SOON)?;
    guest.ok(&format!(
        "mkdir {ninep} && mount -t 9p -o trans=tcp,version=9p2000.L,msize=1048576,aname=d 192.168.130.1 {ninep}"
    ))?;
    Ok(guest)
}

/// The guest's program fails, and says that.
fn fails(guest: &Guest, line: &str, said: &str) -> Result<()> {
    let answer = guest.run(line)?;
    ensure!(
        answer.status != 0 && answer.stderr.contains(said),
        "{line}: {answer:?}"
    );
    Ok(())
}

#[test]
fn a_full_disk_is_told_and_what_was_there_stays() {
    whole_system(|| {
        let (mut world, folder) = world(|_, folder| {
            let folder = folder.display().to_string();
            host("mount", &["-t", "tmpfs", "-o", "size=4m", "none", &folder])
        })?;
        let guest = boot(&world)?;
        for door in DOORS {
            guest.ok(&format!("echo kept > {door}/kept"))?;
            fails(
                &guest,
                &format!("dd if=/dev/zero of={door}/big bs=1M count=16 conv=fsync"),
                "No space left on device",
            )?;
            let big = fs::metadata(folder.join("big"))?.len();
            ensure!(big > 3 << 20, "{door}: stopped at {big} bytes");
            fails(
                &guest,
                &format!("echo more > {door}/more"),
                "No space left on device",
            )?;
            ensure!(guest.ok(&format!("cat {door}/kept"))? == "kept");
            guest.ok(&format!(
                "rm {door}/big && dd if=/dev/urandom of=/tmp/data bs=1M count=3 && cp /tmp/data {door}/data && sync && \
                 cmp /tmp/data {door}/data"
            ))?;
            ensure!(fs::metadata(folder.join("data"))?.len() == 3 << 20);
            guest.ok(&format!("rm {door}/data {door}/kept {door}/more"))?;
        }
        one_write_that_fits_in_part(&world, &folder)?;
        ensure!(world.daemon(Kind::Sharefs)?.is_running()?);
        ensure!(world.worker_deaths()? == 0);
        Ok(())
    });
}

/// A large Twrite whose first parts are written before its end has come, and for whose rest there is no room.
fn one_write_that_fits_in_part(world: &World, folder: &Path) -> Result<()> {
    let room = 192 * KIB;
    let filler = vec![1; 4096 * KIB - room];
    world.write(&folder.join("filler"), &filler)?;
    let mut client = Client::attach(&world.runtime().join("guest/dev/9p.sock"), "d")?;
    client.ask(kind::WALK, Body::new().word(ROOT).word(1).short(0))?;
    let create = Body::new().word(1).text("part").word(NEW).word(0o600);
    client.ask(kind::LCREATE, create.word(0))?;
    let data: Vec<u8> = (0..1000 * KIB)
        .map(|at| (at % 251).to_le_bytes()[0])
        .collect();
    let write = Body::new().word(1).long(0).data(&data);
    let (tag, rest) = client.send_part((kind::WRITE, write), 700_000)?;
    wait_for("all that fits to be written", SOON, || {
        let part = fs::metadata(folder.join("part"))?;
        Ok((part.len() == room as u64).then_some(()))
    })?;
    client.send_rest(&rest)?;
    let (kind, body) = client.answer(tag)?;
    ensure!(refusal(kind, &body) == Some(ENOSPC), "{kind} {body:?}");
    let there = fs::read(folder.join("part"))?;
    ensure!(Some(&*there) == data.get(..room), "{} bytes", there.len());
    ensure!(fs::read(folder.join("filler"))? == filler);
    Ok(())
}

/// A file system that knows when what it reads is not what it wrote.
fn btrfs(world: &World, folder: &Path) -> Result<()> {
    // It may be there and not loaded yet; if not, the next line tells.
    drop(Command::new("modprobe").arg("btrfs").output());
    let known = fs::read_to_string("/proc/filesystems")?;
    if !known.lines().any(|line| line.trim() == "btrfs") {
        return Err(Skip::because("this kernel has no btrfs"));
    }
    if !Path::new("/dev/loop-control").exists() {
        return Err(Skip::because("there is no /dev/loop-control"));
    }
    let image = world.path("image");
    fs::File::create(&image)?.set_len(128 << 20)?;
    let (at, image) = (folder.display().to_string(), image.display().to_string());
    host("mkfs.btrfs", &["-q", &image])?;
    host("mount", &["-o", "loop", &image, &at])?;
    fs::write(folder.join("good"), "good")?;
    fs::write(folder.join("bad"), vec![0xa5; 1 << 20])?;
    for file in ["good", "bad"] {
        world.user().own(&folder.join(file))?;
    }
    host("umount", &[&at])?;
    let disk = fs::File::options().read(true).write(true).open(&image)?;
    let mut pages = (0_u64..).step_by(4096);
    let page = pages.find_map(|at| {
        let mut page = [0; 4096];
        let read = disk.read_exact_at(&mut page, at);
        read.map(|()| page.iter().all(|byte| *byte == 0xa5).then_some(at))
            .transpose()
    });
    let page = page.context("the file's data is nowhere")??;
    // In the middle of the file.
    disk.write_all_at(b"worn out", page + (512 << 10))?;
    disk.sync_all()?;
    host("mount", &["-o", "loop", &image, &at])
}

#[test]
fn a_disk_that_fails_is_an_error_of_that_place_alone() {
    whole_system(|| {
        let (mut world, _) = world(btrfs)?;
        let guest = boot(&world)?;
        for door in DOORS {
            fails(
                &guest,
                &format!("cat {door}/bad > /dev/null"),
                "Input/output error",
            )?;
            guest.ok(&format!(
                "test \"$(cat {door}/good)\" = good && dd if={door}/bad of=/tmp/begin bs=4k count=100 && \
                 test $(stat -c %s /tmp/begin) = 409600 && echo new > {door}/new && test \"$(cat {door}/new)\" = new"
            ))?;
        }
        ensure!(world.daemon(Kind::Sharefs)?.is_running()?);
        ensure!(world.worker_deaths()? == 0);
        Ok(())
    });
}
