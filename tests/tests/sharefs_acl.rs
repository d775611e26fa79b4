//! POSIX access control lists on a share, set and read by the host's own setfacl and getfacl in a real guest.

use std::process::Command;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::guest::Guest;
use tests::user::{User, is_root};
use tests::{Result, Skip, command, ensure, packages, whole_system};

const LONG: Duration = Duration::from_secs(60);

/// `d` has lists, `plain` has none; each is a device of its own.
fn world(user: User, owner: &str) -> Result<World> {
    packages::ensure(packages::LISTS)?;
    let config = format!(
        r#"
[network.vmnet8]
type = "nat"

[guest.dev]
devices = "each"

[share.d]
path = "@shared/d"
at = "/mnt/d"
{owner}
acl = true

[share.plain]
path = "@shared/plain"
at = "/mnt/plain"
{owner}

[share.host]
path = "/"
at = "/host"
read-only = true
{owner}
"#
    );
    let mut world = World::of(user, &config)?;
    world.start(Kind::Netd)?;
    world.start(Kind::Sharefs)?;
    Ok(world)
}

/// A guest whose root is changed to the host's for each command, in the share.
fn guest(world: &World) -> Result<Guest> {
    let shares = [("d", "/mnt/d"), ("plain", "/mnt/plain"), ("host", "/host")];
    let guest = world.machine_of_devices("dev", &shares)?.boot()?;
    guest.ok("mount --bind /mnt/d /host/mnt && mount --bind /mnt/plain /host/srv")?;
    Ok(guest)
}

fn run(guest: &Guest, text: &str) -> Result<(i32, String)> {
    let quoted = text.replace('\'', r"'\''");
    let answer = guest.run_within(
        LONG,
        &format!("chroot /host sh -c 'cd /mnt; {quoted}' 2>&1"),
    )?;
    Ok((answer.status, answer.stdout))
}

fn ok(guest: &Guest, text: &str) -> Result<String> {
    let (status, output) = run(guest, text)?;
    ensure!(status == 0, "{text}\n{output}");
    Ok(output.trim().to_owned())
}

/// The list of a file, one entry a line, without its head.
fn list(guest: &Guest, file: &str) -> Result<Vec<String>> {
    let text = ok(guest, &format!("getfacl -cnp {file}"))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    Ok(lines.map(|line| line.trim().to_owned()).collect())
}

const AS_1234: &str = "setpriv --reuid=1234 --regid=1234 --clear-groups";

#[test]
fn lists_are_set_inherited_and_heeded_where_owners_pass() {
    whole_system(|| {
        if !is_root() {
            return Err(Skip::because("owner = \"pass\" needs a daemon of root's"));
        }
        let world = world(User::ourselves(), "owner = \"pass\"")?;
        let d = world.share_folder("d")?;
        let guest = guest(&world)?;
        ok(
            &guest,
            "echo secret > f && chmod 640 f && setfacl -m u:1234:r,g:77:- f",
        )?;
        let expected = [
            "user::rw-",
            "user:1234:r--",
            "group::r--",
            "group:77:---",
            "mask::r--",
            "other::---",
        ];
        ensure!(list(&guest, "f")? == expected, "{:?}", list(&guest, "f")?);
        let on_host = command::run(
            Command::new("getfacl").args(["-cnp"]).arg(d.join("f")),
            LONG,
        )?;
        ensure!(
            on_host.lines().filter(|line| !line.is_empty()).eq(expected),
            "{on_host}"
        );

        // Who is named may read, another may not; the mask that chmod sets is heeded.
        let read = format!("{AS_1234} cat f");
        ensure!(ok(&guest, &read)? == "secret");
        ensure!(run(&guest, &read.replace("1234", "4321"))?.0 != 0);
        ok(&guest, "chmod 600 f")?;
        ensure!(list(&guest, "f")?.contains(&"mask::---".to_owned()));
        ensure!(run(&guest, &read)?.0 != 0, "the mask is empty");
        ok(&guest, "chmod 640 f")?;
        ensure!(ok(&guest, &read)? == "secret");

        // A default list decides and not the umask; without one the umask does.
        let made = "umask 077; mkdir with without; setfacl -d -m u:1234:rwx,o::r with
                    for f in with without; do touch $f/file; mkdir $f/folder; done
                    stat -c %a with/file without/file without/folder";
        ensure!(
            ok(&guest, made)? == "664\n600\n700",
            "{:?}",
            list(&guest, "with/file")?
        );
        ensure!(list(&guest, "with/file")?.contains(&"user:1234:rwx\t#effective:rw-".to_owned()));
        ensure!(list(&guest, "with/folder")?.contains(&"default:user:1234:rwx".to_owned()));
        ok(&guest, "setfacl -b f && setfacl -k with")?;
        ensure!(list(&guest, "f")? == ["user::rw-", "group::r--", "other::---"]);

        // Who sets a list as an outsider of the file's group takes the set-group-id bit away, as with chmod.
        ok(&guest, "touch g && chown 1234:77 g && chmod 2775 g")?;
        ok(&guest, &format!("{AS_1234} setfacl -m u:5:r g"))?;
        ensure!(ok(&guest, "stat -c %a g")? == "775");

        let (status, output) = run(&guest, "touch /srv/f && setfacl -m u:1234:r /srv/f")?;
        ensure!(status != 0 && output.contains("not supported"), "{output}");
        ensure!(ok(&guest, "umask 027; touch /srv/new && stat -c %a /srv/new")? == "640");
        Ok(())
    });
}

#[test]
fn lists_of_an_ordinary_users_daemon_name_whom_it_can() {
    whole_system(|| {
        let world = world(User::unprivileged(), "guest-owner = \"0:0\"")?;
        let guest = guest(&world)?;
        ok(
            &guest,
            "mkdir d && touch f && setfacl -d -m g::rwx,o::- d && setfacl -m u:0:r f",
        )?;
        ensure!(list(&guest, "f")?.contains(&"user:0:r--".to_owned()));
        let made = ok(&guest, "umask 077; touch d/new && stat -c %a d/new")?;
        ensure!(made == "660", "{made}");
        let (status, output) = run(&guest, "setfacl -m u:1234:r f")?;
        ensure!(status != 0 && output.contains("not permitted"), "{output}");
        Ok(())
    });
}

/// v9fs asks for lists with `posixacl`, and looks at them itself with `access=client`.
#[test]
fn lists_are_set_and_heeded_by_9p_where_the_mount_asks_for_them() {
    whole_system(|| {
        if !is_root() {
            return Err(Skip::because("owner = \"pass\" needs a daemon of root's"));
        }
        packages::ensure(packages::LISTS)?;
        // Behind the one device of all shares, too: 9P is another door.
        let config = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]

[share.d]
path = "@shared/d"
at = "/mnt/d"
owner = "pass"
acl = true
ninep = true

[share.host]
path = "/"
at = "/host"
read-only = true
owner = "pass"
"#;
        let mut world = World::of(User::ourselves(), config)?;
        let d = world.share_folder("d")?;
        world.start(Kind::Netd)?;
        world.start(Kind::Sharefs)?;
        let machine = world.machine("dev", &[("host", "/host")])?;
        let guest = machine.module("9p").module("9pnet_fd").boot()?;
        guest.address(LONG)?;
        let mount = |more: &str| {
            format!(
                "mount -t 9p -o trans=tcp,version=9p2000.L,msize=1048576,aname=d{more} 192.168.130.1 /host/mnt"
            )
        };
        guest.ok(&mount(",posixacl,access=client"))?;
        ok(
            &guest,
            "echo secret > f && chmod 640 f && setfacl -m u:1234:r f",
        )?;
        let expected = [
            "user::rw-",
            "user:1234:r--",
            "group::r--",
            "mask::r--",
            "other::---",
        ];
        ensure!(list(&guest, "f")? == expected, "{:?}", list(&guest, "f")?);
        let on_host = command::run(
            Command::new("getfacl").args(["-cnp"]).arg(d.join("f")),
            LONG,
        )?;
        ensure!(
            on_host.lines().filter(|line| !line.is_empty()).eq(expected),
            "{on_host}"
        );
        let read = format!("{AS_1234} cat f");
        ensure!(ok(&guest, &read)? == "secret");
        ensure!(run(&guest, &read.replace("1234", "4321"))?.0 != 0);
        let made = "umask 077; mkdir with && setfacl -d -m u:1234:rwx,o::r with && touch with/file && stat -c %a with/file";
        ensure!(
            ok(&guest, made)? == "664",
            "{:?}",
            list(&guest, "with/file")?
        );
        // Without the options v9fs passes lists on, and looks at permission bits only.
        guest.ok(&format!("umount /host/mnt && {}", mount("")))?;
        ok(&guest, "setfacl -m u:5:r f")?;
        let on_host = command::run(
            Command::new("getfacl").args(["-cnp"]).arg(d.join("f")),
            LONG,
        )?;
        ensure!(on_host.contains("user:5:r--"), "{on_host}");
        ensure!(
            run(&guest, &read)?.0 != 0,
            "1234 is no group's and not the owner"
        );
        Ok(())
    });
}
