//! sharefs dying at every point of the requests of a guest's kernel that has its shares by 9P over the virtual network:
//! it sees a pause, and nothing else. Our own client is asked in restart_ninep.rs.

use std::fs;

use tests::at_work::{LONG, begin, end, finish, hold, number, soon};
use tests::daemons::{Kind, World};
use tests::guest::Guest;
use tests::limit::wait_for;
use tests::{Context, Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]

[share.d]
path = "@shared/d"
at = "/mnt/d"
ninep = true

[share.layers]
path = "@shared/layers"
at = "/mnt/layers"
exclude = ["hidden"]
read-only-paths = ["frozen"]
owner-store = "xattr"
case = "insensitive"
names = "windows"
ninep = true

[share.host]
path = "/"
at = "/host"
read-only = true
"#;

/// Where the guest has each share, by 9P.
const MOUNTS: &[(&str, &str)] = &[("d", "/mnt/d"), ("layers", "/mnt/layers")];

fn world() -> Result<World> {
    let mut world = World::new(CONFIG)?;
    for (share, _) in MOUNTS {
        world.share_folder(share)?;
    }
    world.start(Kind::Netd)?;
    Ok(world)
}

/// A guest that has the host's programs by virtiofs and the shares by 9P.
fn boot(world: &World) -> Result<Guest> {
    let machine = world.machine("dev", &[("host", "/host")])?;
    let guest = machine.module("9p").module("9pnet_fd").boot()?;
    guest.address(LONG)?;
    for (share, at) in MOUNTS {
        guest.ok(&format!(
            "mkdir -p {at} && mount -t 9p -o trans=tcp,version=9p2000.L,msize=1048576,cache=mmap,aname={share} \
             192.168.130.1 {at}"
        ))?;
    }
    Ok(guest)
}

/// 9P requests that this process has answered.
fn requests(world: &World) -> Result<u64> {
    number(world, "sharectl_sharefs_ninep_requests_total")
}

#[test]
fn a_request_is_done_once_wherever_its_daemon_died() {
    whole_system(|| {
        let mut world = world()?;
        let order = world.path("die");
        world.set_variable("SHARECTL_SHAREFS_DIE", &order.display().to_string());
        world.start(Kind::Sharefs)?;
        let guest = boot(&world)?;
        hold(&guest)?;
        for (point, count) in [("taken", 7), ("done", 5), ("answered", 7), ("told", 7)] {
            for (_, at) in MOUNTS {
                let before = world.worker_deaths()?;
                world.write(&order, format!("{point} {count}"))?;
                world.crash_worker()?;
                begin(&guest, at)?;
                wait_for("deaths", LONG, || {
                    Ok((world.worker_deaths()? > before + 20).then_some(()))
                })?;
                fs::remove_file(&order)?;
                let rounds = end(&guest, at).with_context(|| format!("{point} {count} in {at}"))?;
                ensure!(rounds > 0);
            }
        }
        finish(&guest)?;
        ensure!(number(&world, "sharectl_sharefs_given_up")? == 0);
        Ok(())
    });
}

#[test]
fn megabytes_on_their_way_arrive_once_and_in_order() {
    whole_system(|| {
        let mut world = world()?;
        world.start(Kind::Sharefs)?;
        let guest = boot(&world)?;
        // Each line of the file says which it is.
        let write = "seq 2000000 > /tmp/lines && (for i in $(seq 200); do dd if=/tmp/lines of=/mnt/d/lines bs=1M conv=fsync && \
                     dd if=/mnt/d/lines bs=1M 2> /dev/null | cmp - /tmp/lines && touch /mnt/d/round$i || exit 1; \
                     [ -e /mnt/d/enough ] && break; done; touch /mnt/d/over) < /dev/null > /tmp/said 2>&1 &";
        guest.ok(write)?;
        for _ in 0..20 {
            world.crash_worker()?;
            wait_for("the guest to go on", LONG, || {
                Ok((requests(&world)? > 20).then_some(()))
            })?;
        }
        guest.ok("touch /mnt/d/enough")?;
        soon(&guest, "[ -e /mnt/d/over ]", "cat /tmp/said")?;
        let said = guest.ok("cat /tmp/said; cmp /tmp/lines /mnt/d/lines && ls /mnt/d")?;
        ensure!(said.contains("round1") && !said.contains("rror"), "{said}");
        ensure!(
            fs::read_to_string(world.path("shared/d/lines"))?
                .lines()
                .count()
                == 2_000_000
        );
        Ok(())
    });
}
