//! What a share's options make of a plain Linux folder, as a real guest sees it: places that are hidden
//! or frozen, owners and devices kept by a daemon without any right, Windows' names, names without case.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::guest::Guest;
use tests::{Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"

[guest.dev]

[share.places]
path = "@shared/places"
at = "/mnt/places"
guest-owner = "0:0"
exclude = [".git/objects/**", "node_modules", "*.secret"]
read-only-paths = ["config/**", "/pinned"]

[share.owners]
path = "@shared/owners"
at = "/mnt/owners"
guest-owner = "0:0"
owner-store = "xattr"

[share.win]
path = "@shared/win"
at = "/mnt/win"
guest-owner = "0:0"
names = "windows"

[share.fold]
path = "@shared/fold"
at = "/mnt/fold"
guest-owner = "0:0"
case = "insensitive"
exclude = ["Secret"]

[share.all]
path = "@shared/all"
at = "/mnt/all"
guest-owner = "0:0"
owner-store = "xattr"
names = "windows"
case = "insensitive"
exclude = ["hidden"]
read-only-paths = ["/frozen/**"]

[share.host]
path = "/"
at = "/host"
read-only = true
guest-owner = "0:0"
"#;

const LONG: Duration = Duration::from_secs(120);

/// The shares' daemon runs as an ordinary user, as everything in a world.
fn world() -> Result<World> {
    world_of(CONFIG)
}

fn world_of(config: &str) -> Result<World> {
    let mut world = World::new(config)?;
    for share in ["places", "owners", "win", "fold", "all"] {
        world.share_folder(share)?;
    }
    world.start(Kind::Netd)?;
    world.start(Kind::Sharefs)?;
    Ok(world)
}

/// A path of folders in a share, each the user's.
fn make_folders(world: &World, share: &Path, path: &str) -> Result<()> {
    let mut folder = share.to_owned();
    for name in path.split('/') {
        folder.push(name);
        if !folder.is_dir() {
            fs::create_dir(&folder)?;
            world.user().own(&folder)?;
        }
    }
    Ok(())
}

/// Each attempt must fail with these words.
fn refused(guest: &Guest, folder: &str, attempts: &[(&str, &str)]) -> Result<()> {
    for (attempt, words) in attempts {
        let answer = guest.run(&format!("cd {folder} && {attempt}"))?;
        ensure!(answer.status != 0, "{attempt} was let through");
        ensure!(answer.stderr.contains(words), "{attempt}: {answer:?}");
    }
    Ok(())
}

#[test]
fn excluded_places_do_not_exist_and_frozen_ones_do_not_change() {
    whole_system(|| {
        let world = world()?;
        let places = world.share_folder("places")?;
        for folder in [
            ".git/objects/ab",
            "app/node_modules/left-pad",
            "config/deep",
            "pinned",
            "src",
        ] {
            make_folders(&world, &places, folder)?;
        }
        for file in [
            ".git/HEAD",
            ".git/objects/ab/cd",
            "app/index.js",
            "app/node_modules/left-pad/index.js",
            "config/deep/a",
            "config/b",
            "pinned/c",
            "src/key.secret",
            "src/main.c",
        ] {
            world.write(&places.join(file), "as it was")?;
        }
        let guest = world.machine("dev", &[("places", "/mnt/places")])?.boot()?;

        let seen = guest.ok("cd /mnt/places && find . | sort")?;
        let expected = [
            ".",
            "./.git",
            "./.git/HEAD",
            "./.git/objects",
            "./app",
            "./app/index.js",
            "./config",
            "./config/b",
            "./config/deep",
            "./config/deep/a",
            "./pinned",
            "./pinned/c",
            "./src",
            "./src/main.c",
        ];
        ensure!(seen.lines().eq(expected), "{seen}");
        let (missing, forbidden) = ("No such file or directory", "Operation not permitted");
        let frozen = "Read-only file system";
        refused(
            &guest,
            "/mnt/places",
            &[
                ("cat app/node_modules/left-pad/index.js", missing),
                ("cat .git/objects/ab/cd", missing),
                ("ls src/key.secret", missing),
                ("rm src/key.secret", missing),
                ("mkdir src/node_modules", forbidden),
                ("touch src/new.secret", forbidden),
                ("mv src/main.c src/main.secret", forbidden),
                ("ln src/main.c src/main.secret", forbidden),
                ("ln -s main.c src/link.secret", forbidden),
                ("rmdir .git/objects", "Directory not empty"),
                ("echo x > config/b", frozen),
                ("echo x > config/new", frozen),
                ("chmod 777 config/deep", frozen),
                ("rm config/deep/a", frozen),
                ("mv config/b src/b", frozen),
                ("mv src/main.c config/main.c", frozen),
                ("mkdir pinned/new", frozen),
                ("mv pinned src/pinned", frozen),
                ("touch pinned/c", frozen),
            ],
        )?;
        // What is free is free, and a folder whose rules are its name's goes nowhere else with them.
        guest.ok("cd /mnt/places && mv src code && echo y > code/main.c && mkdir -p a/config && touch a/config/free")?;
        let moved = guest.run("cd /mnt/places && mv .git .gone")?;
        ensure!(
            moved.stderr.contains("not empty"),
            "mv copies, and what is hidden stays: {moved:?}"
        );
        ensure!(places.join(".git/objects/ab/cd").is_file() && places.join(".gone/HEAD").is_file());
        ensure!(!places.join(".gone/objects/ab").exists());
        let answer = guest.run("cd /mnt/places && mv config settings")?;
        ensure!(
            answer.status != 0 && answer.stderr.contains(frozen),
            "{answer:?}"
        );
        for file in ["config/deep/a", "config/b", "pinned/c", "code/key.secret"] {
            ensure!(
                fs::read_to_string(places.join(file))? == "as it was",
                "{file}"
            );
        }
        Ok(())
    });
}

#[test]
fn the_guests_root_unpacks_owners_and_devices_without_any_right_on_the_host() {
    whole_system(|| {
        // A device a share: one of them is mounted anew below.
        let each = CONFIG.replace("[guest.dev]", "[guest.dev]\ndevices = \"each\"");
        let world = world_of(&each)?;
        let owners = world.share_folder("owners")?;
        let shares = [("owners", "/mnt/owners"), ("host", "/host")];
        let guest = world.machine_of_devices("dev", &shares)?.boot()?;
        guest.ok("mount -t tmpfs tmp /host/tmp && mount -t proc proc /host/proc && mount --bind /mnt/owners /host/mnt")?;

        // A tree with all that a system's root folder has, made in the guest's memory by its root.
        guest.ok(
            "mkdir -p /host/tmp/t/bin /host/tmp/t/dev /host/tmp/t/home/ann /host/tmp/t/tmp && cd /host/tmp/t && \
             echo su > bin/su && chmod 4755 bin/su && echo secret > shadow && chmod 0 shadow && chown 0:42 shadow && \
             echo mail > home/ann/mail && chown -R 1000:100 home/ann && chmod 2750 home/ann && chmod 1777 tmp && \
             mknod dev/null c 1 3 && chmod 666 dev/null && mknod dev/sda b 8 0 && chown 0:6 dev/sda && \
             mkfifo dev/initctl && chown 12:13 dev/initctl && ln -s su bin/sudo && ln home/ann/mail home/ann/hard",
        )?;
        let list = "find . -type d -o -type l -o -print | sort | xargs stat -c '%n %f %u:%g %h %t:%T'; \
                    find . -type d | sort | xargs stat -c '%n %f %u:%g'";
        let wanted = guest.ok(&format!("cd /host/tmp/t && {list}"))?;
        let tar = "chroot /host /bin/sh -c 'cd / && /usr/bin/tar c -C /tmp/t . > /tmp/t.tar && /usr/bin/tar x -p --same-owner -C /mnt -f /tmp/t.tar 2>&1'";
        let answer = guest.run_within(LONG, tar)?;
        ensure!(answer.status == 0, "{answer:?}");
        let unpacked = guest.ok(&format!("cd /mnt/owners && {list}"))?;
        ensure!(unpacked == wanted, "{unpacked}\n\ninstead of\n\n{wanted}");
        ensure!(unpacked.contains("./bin/su 89ed 0:0 1 0:0"), "{unpacked}");
        ensure!(unpacked.contains("./dev/sda 61a4 0:6 1 8:0"), "{unpacked}");

        // They mean in the guest what they say: a device works, a mode keeps others out.
        guest.ok("echo x > /mnt/owners/dev/null && test -c /mnt/owners/dev/null && cat /mnt/owners/shadow")?;
        let ann = "chroot /host /usr/bin/setpriv --reuid 1000 --regid 100 --clear-groups";
        let answer = guest.run(&format!("{ann} cat /mnt/shadow"))?;
        ensure!(answer.stderr.contains("Permission denied"), "{answer:?}");
        guest.ok(&format!(
            "{ann} sh -c 'echo more >> /mnt/home/ann/mail && touch /mnt/home/ann/new'"
        ))?;
        ensure!(guest.ok("stat -c %u:%g /mnt/owners/home/ann/new")? == "1000:100");

        // On the host all of it is the daemon's user's, and none of it is more than a file.
        let user = world.user().uid;
        for path in [
            "bin/su",
            "shadow",
            "home/ann/mail",
            "dev/null",
            "dev/sda",
            "dev/initctl",
            "home/ann",
        ] {
            let found = owners.join(path).symlink_metadata()?;
            ensure!(found.uid() == user, "{path} belongs to {}", found.uid());
            ensure!(found.mode() & 0o7000 == 0, "{path} has {:o}", found.mode());
            ensure!(
                found.is_file() || found.is_dir(),
                "{path} is more than a file"
            );
        }
        // The guest can neither see nor set where it is kept.
        guest.ok(&format!(
            "chroot /host /usr/bin/perl -e '{}'",
            r#"my ($file, $name, $room) = ("/mnt/bin/su", "user.sharectl.owner", "\0" x 100);
               syscall(194, $file, $room, 100) == 0 or die "listed";
               syscall(191, $file, $name, $room, 100) == -1 && $!{ENODATA} or die "read: $!";
               syscall(188, $file, $name, my $root = "1 0 0 104755 0:0", 16, 0) == -1 && $!{EPERM} or die "set: $!";
               syscall(188, $file, my $mine = "user.mine", my $x = "x", 1, 0) == 0 or die "its own: $!";"#
        ))?;
        // And it is still there after the guest has forgotten everything.
        guest
            .ok("umount /host/mnt && umount /mnt/owners && mount -t virtiofs owners /mnt/owners")?;
        guest.ok("rm /mnt/owners/home/ann/new")?;
        ensure!(guest.ok(&format!("cd /mnt/owners && {list}"))? == wanted);
        Ok(())
    });
}

#[test]
fn names_that_windows_refuses_and_names_without_case_are_the_guests_own() {
    whole_system(|| {
        let world = world()?;
        let shares = ["win", "fold", "all"];
        let [win, fold, all] = [
            world.share_folder("win")?,
            world.share_folder("fold")?,
            world.share_folder("all")?,
        ];
        make_folders(&world, &fold, "Src")?;
        make_folders(&world, &all, "Frozen")?;
        for file in [
            fold.join("Src/Main.C"),
            fold.join("SECRET"),
            all.join("Frozen/A"),
            all.join("HIDDEN"),
        ] {
            world.write(&file, "as it was")?;
        }
        world.write(&win.join("host:only"), "")?;
        let mounts = shares.map(|share| (share, format!("/mnt/{share}")));
        let mounts: Vec<(&str, &str)> = mounts
            .iter()
            .map(|(share, at)| (*share, at.as_str()))
            .collect();
        let guest = world.machine("dev", &mounts)?.boot()?;

        guest.ok(
            "cd /mnt/win && echo colon > 'a:b' && mkdir nul && echo deep > 'nul/what?.' && ln 'a:b' 'LPT1.txt' && \
             ln -s 'a:b' 'link ' && mv 'LPT1.txt' 'back\\slash' && cat 'link ' 'nul/what?.'",
        )?;
        ensure!(
            guest.ok("cd /mnt/win && ls")? == "a:b\nback\\slash\nlink \nnul",
            "{}",
            guest.ok("ls /mnt/win")?
        );
        for name in [
            "a\u{f03a}b",
            "\u{f06e}ul/what\u{f03f}\u{f02e}",
            "link\u{f020}",
            "back\u{f05c}slash",
        ] {
            ensure!(
                win.join(name).symlink_metadata().is_ok(),
                "the host has no {name:?}"
            );
        }
        refused(
            &guest,
            "/mnt/win",
            &[
                ("cat host:only", "No such file or directory"),
                (
                    "touch \"$(printf 'a\\357\\200\\272b')\"",
                    "Invalid argument",
                ),
                ("touch \"$(printf 'a\\377')\"", "Invalid argument"),
            ],
        )?;

        ensure!(guest.ok("cat /mnt/fold/SRC/main.c")? == "as it was");
        guest.ok(
            "cd /mnt/fold && echo new > src/MAIN.C && echo y > Other && cat OTHER && rm oTHER",
        )?;
        ensure!(
            fs::read_to_string(fold.join("Src/Main.C"))? == "new\n" && !fold.join("Other").exists()
        );
        ensure!(guest.ok("cd /mnt/fold && mkdir Build && ls")? == "Build\nSrc");
        refused(
            &guest,
            "/mnt/fold",
            &[
                ("mkdir SRC", "File exists"),
                ("ln -s x bUILD/../sRC/MAIN.c", "exists"),
                ("cat secret", "No such file or directory"),
                ("cat SECRET", "No such file or directory"),
                ("touch sECRET", "Operation not permitted"),
            ],
        )?;
        // Made by the host while the guest looks on: found in any case at once.
        world.write(&fold.join("Later"), "later")?;
        ensure!(guest.ok("cat /mnt/fold/lATER")? == "later");

        // All of it at once.
        guest.ok(
            "cd /mnt/all && echo x > 'Con:' && chown 7:8 'CON:' && mknod 'Aux.' c 1 3 && chmod 4711 'con:' && \
             echo gone > 'aUX.'",
        )?;
        ensure!(
            guest.ok("cd /mnt/all && stat -c '%n %f %u:%g %t:%T' *")?
                == "Aux. 21a4 0:0 1:3\nCon: 89c9 7:8 0:0\nFrozen 41ed 0:0 0:0"
        );
        refused(
            &guest,
            "/mnt/all",
            &[
                ("cat Hidden", "No such file or directory"),
                ("echo x > frozen/a", "Read-only file system"),
                ("chown 1:1 FROZEN/A", "Read-only file system"),
            ],
        )?;
        ensure!(fs::metadata(all.join("\u{f043}on\u{f03a}"))?.mode() == 0o100_711);
        ensure!(fs::read_to_string(all.join("Frozen/A"))? == "as it was");
        Ok(())
    });
}
