//! guest: add, rm, ls, args, run, attach, detach.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use control::paths::Daemon;
use expect_test::expect;
use rustix::process::{Pid, Signal};

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Place};

#[test]
fn added_guest_stands_in_the_file_and_the_daemons_follow() {
    let place = Place::with(CONFIG);
    let netd = Fake::start(&place, Daemon::Netd, Script::default());
    place.run("guest add web --mac 52:54:00:00:00:02 --address 192.168.130.6 --name www.test --publish 8081:80 --publish 53/udp").is(expect![[r#"
        exit 0
        out: guest web added: 52:54:00:00:00:02 on vmnet8, web.test,www.test; ports 8081:80,53:53/udp at 127.113.30.115
        err: note: sharefs and hostsync are not running; it takes effect at: sharectl up
        err: note: next: sharectl guest run web -- qemu-system-x86_64 -m 2G disk.qcow2, or, for a line of your own: sharectl guest args web
        err: then: sharectl wait-ready --guest web, and sharectl ps shows what of it works
    "#]]);
    assert_eq!(netd.asked(), ["reload"]);
    let added = place.config();
    assert!(
        added.starts_with(&CONFIG[..CONFIG.find("\n[hosts").unwrap()]),
        "{added}"
    );
    expect![[r#"

        [guest.web]
        mac = "52:54:00:00:00:02"
        address = "192.168.130.6"
        names = ["www.test"]
        publish = ["8081:80", "53:53/udp"]

        [hosts.static]
        "nas.test" = "192.168.1.5"
    "#]]
    .assert_eq(&added[CONFIG.find("\n[hosts").unwrap()..]);
}

#[test]
fn guest_that_cannot_be_added_changes_nothing() {
    let place = Place::with(CONFIG);
    place.run("guest add dev").is(expect![[r#"
        exit 4
        err: error: guest "dev" is in $T/config.toml already
        err: hint: see it: sharectl describe dev, or take it away: sharectl guest rm dev
    "#]]);
    place.run("guest add Dev").exits(2).says("'Dev'");
    place.run("guest add web --network vmnet1").is(expect![[r#"
        exit 1
        err: error: $T/config.toml:15: guest "web": network "vmnet1" is not in this file
        err:   hint: write one of: vmnet8
        err: hint: mend $T/config.toml, then: sharectl config check
    "#]]);
    place
        .run("guest add web --mac 52:54:00:00:00:01")
        .exits(1)
        .says("52:54:00:00:00:01");
    assert_eq!(place.config(), CONFIG);
}

#[test]
fn problems_of_a_reload_are_told() {
    let place = Place::with(CONFIG);
    let script = Script {
        reload_problems: vec!["port 8081 is taken".to_owned()],
        ..Script::default()
    };
    let _netd = Fake::start(&place, Daemon::Netd, script);
    place.run("guest add web -q").is(expect![[r#"
        exit 0
        err: warning: netd: port 8081 is taken
    "#]]);
}

#[test]
fn removed_guest_leaves_the_rest_as_it_was() {
    let place = Place::with(CONFIG);
    place.run("guest add web").exits(0);
    place.run("guest rm web").is(expect![[r#"
        exit 0
        out: guest web removed
        err: note: netd, sharefs and hostsync are not running; it takes effect at: sharectl up
    "#]]);
    assert_eq!(place.config(), CONFIG);
    place.run("guest rm dve").is(expect![[r#"
        exit 1
        err: error: no guest "dve" in $T/config.toml
        err: hint: did you mean "dev"?
    "#]]);
    place
        .run("guest rm database")
        .exits(1)
        .says("hint: add it: sharectl guest add database");
    std::fs::write(
        place.path("config.toml"),
        format!("{CONFIG}[share.d]\npath = \"/tmp\"\nguests = [\"dev\"]\n"),
    )
    .unwrap();
    place.run("guest rm dev").is(expect![[r#"
        exit 4
        err: error: guest "dev" is named by share d
        err: hint: take it out of guests = [...] there, or: sharectl share rm d
    "#]]);
}

#[test]
fn list_says_what_netd_says_or_that_it_is_down() {
    let place = Place::with(CONFIG);
    place.run("guest ls").is(expect![[r#"
        exit 0
        out: NAME  NETWORK  ADDRESS        MAC                HOST        LINK  NAMES
        out: dev   vmnet8   192.168.130.5  52:54:00:00:00:01  127.64.0.1  -     dev.test,local.test
        err: warning: netd is not running; this is what the configuration says
    "#]]);
    assert_eq!(place.run("guest ls -q").stdout, "dev\n");
    let _netd = Fake::start(
        &place,
        Daemon::Netd,
        Script {
            plugged: true,
            ..Script::default()
        },
    );
    place.run("guest ls").is(expect![[r#"
        exit 0
        out: NAME  NETWORK  ADDRESS        MAC                HOST        LINK    NAMES
        out: dev   vmnet8   192.168.130.5  52:54:00:00:00:01  127.64.0.1  stream  dev.test,local.test
    "#]]);
    assert_eq!(
        place.run("guest list --format json").json()[0]["links"][0]["transport"],
        "stream"
    );
}

#[test]
fn args_are_printed_in_three_forms() {
    let place = Place::with(&format!(
        "{CONFIG}[share.d]\npath = \"/tmp\"\nat = \"/mnt/d\"\n"
    ));
    place.run("guest args dev").is(expect![[r#"
        exit 0
        out: -netdev stream,id=sharectl-net,server=on,addr.type=unix,addr.path=$T/run/guest/dev/net.sock
        out: -device virtio-net-pci,netdev=sharectl-net,mac=52:54:00:00:00:01,host_mtu=65520
        out: -object memory-backend-memfd,id=sharectl-mem,share=on,size=2G
        out: -machine memory-backend=sharectl-mem
        out: -chardev socket,id=sharectl-fs,path=$T/run/guest/dev/fs.sock
        out: -device vhost-user-fs-pci,chardev=sharectl-fs,tag=sharectl,queue-size=1024
        err: note: the shared memory is sized for -m 2G; QEMU refuses another -m: say yours with --memory SIZE
    "#]]);
    place
        .run("guest args dev --nic e1000 --memory 1536 -q")
        .is(expect![[r#"
            exit 0
            out: -netdev stream,id=sharectl-net,server=on,addr.type=unix,addr.path=$T/run/guest/dev/net.sock
            out: -device e1000,netdev=sharectl-net,mac=52:54:00:00:00:01
            out: -object memory-backend-memfd,id=sharectl-mem,share=on,size=1536M
            out: -machine memory-backend=sharectl-mem
            out: -chardev socket,id=sharectl-fs,path=$T/run/guest/dev/fs.sock
            out: -device vhost-user-fs-pci,chardev=sharectl-fs,tag=sharectl,queue-size=1024
        "#]]);
    let each = place
        .run("guest args dev --memory 1G --devices each")
        .stdout;
    let devices: Vec<&str> = each.lines().filter(|line| line.contains("fs")).collect();
    expect![[r#"
        -chardev socket,id=sharectl-fs-d,path=$T/run/guest/dev/fs-d.sock
        -device vhost-user-fs-pci,chardev=sharectl-fs-d,tag=d,queue-size=1024"#]]
    .assert_eq(&place.normal(&devices.join("\n")));
    place
        .run("guest args dev --devices two")
        .exits(2)
        .says("one of one, each");
    let words = place.run("guest args dev --memory 1G --json").json();
    let zero = place.run("guest args dev --memory 1G -0").stdout;
    let split: Vec<&str> = zero.split_terminator('\0').collect();
    assert_eq!(words, serde_json::json!(split));
    place
        .run("guest args dev --memory lots")
        .exits(2)
        .says("lots");
    place.run("guest args dev --vmm vmware").exits(2);
    place.run("guest args nobody").exits(1);
}

#[test]
fn mounts_are_printed_for_the_guest() {
    let place = Place::with(&format!(
        "{CONFIG}[share.d]\npath = \"/tmp\"\nat = \"/mnt/d\"\n[share.src]\npath = \"/tmp\"\nat = \"/home/ann/my src\"\n"
    ));
    place.run("guest mounts dev").is(expect![[r#"
        exit 0
        out: sharectl /run/sharectl virtiofs nofail,x-systemd.before=docker.service 0 0
        out: /run/sharectl/src /home/ann/my\040src none bind,nofail,x-systemd.before=docker.service 0 0
        out: /run/sharectl/d /mnt/d none bind,nofail,x-systemd.before=docker.service 0 0
    "#]]);
    place
        .run("guest mounts dev --as shell")
        .is(expect![[r#"
            exit 0
            out: mkdir -p /run/sharectl
            out: grep -qF ' /run/sharectl ' /proc/mounts || mount -t virtiofs sharectl /run/sharectl
            out: mkdir -p '/home/ann/my src'
            out: grep -qF ' /home/ann/my\040src ' /proc/mounts || mount --bind /run/sharectl/src '/home/ann/my src'
            out: mkdir -p /mnt/d
            out: grep -qF ' /mnt/d ' /proc/mounts || mount --bind /run/sharectl/d /mnt/d
        "#]]);
    place.run("guest mounts dev --as systemd").is(expect![[r#"
            exit 0
            out: # /etc/systemd/system/run-sharectl.mount
            out: [Unit]
            out: Description=Host folder at /run/sharectl
            out: Before=docker.service
            out:
            out: [Mount]
            out: What=sharectl
            out: Where=/run/sharectl
            out: Type=virtiofs
            out:
            out: [Install]
            out: WantedBy=local-fs.target
            out:
            out: # /etc/systemd/system/home-ann-my\x20src.mount
            out: [Unit]
            out: Description=Host folder at /home/ann/my src
            out: Requires=run-sharectl.mount
            out: After=run-sharectl.mount
            out: Before=docker.service
            out:
            out: [Mount]
            out: What=/run/sharectl/src
            out: Where=/home/ann/my src
            out: Type=none
            out: Options=bind
            out:
            out: [Install]
            out: WantedBy=local-fs.target
            out:
            out: # /etc/systemd/system/mnt-d.mount
            out: [Unit]
            out: Description=Host folder at /mnt/d
            out: Requires=run-sharectl.mount
            out: After=run-sharectl.mount
            out: Before=docker.service
            out:
            out: [Mount]
            out: What=/run/sharectl/d
            out: Where=/mnt/d
            out: Type=none
            out: Options=bind
            out:
            out: [Install]
            out: WantedBy=local-fs.target
        "#]]);
    place.run("guest mounts dev --devices each").is(expect![[r#"
            exit 0
            out: src /home/ann/my\040src virtiofs nofail,x-systemd.before=docker.service 0 0
            out: d /mnt/d virtiofs nofail,x-systemd.before=docker.service 0 0
        "#]]);
    let list = place.run("guest mounts dev --format json").json();
    expect![[r#"
        [{"at":"/run/sharectl","type":"virtiofs","what":"sharectl"},{"at":"/home/ann/my src","below":"/run/sharectl","type":"bind","what":"/run/sharectl/src"},{"at":"/mnt/d","below":"/run/sharectl","type":"bind","what":"/run/sharectl/d"}]
    "#]].assert_eq(&format!("{list}\n"));
    place.run("guest mounts nobody").exits(1);
}

#[test]
fn args_on_a_terminal_can_be_copied() {
    let place = Place::with(CONFIG);
    let mut command = place.command(Path::new("script"));
    let line = format!("{} guest args dev", place.path("bin/sharectl").display());
    let shown = place
        .outcome(command.args(["-qec", &line, "/dev/null"]))
        .stdout;
    let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
    assert!(
        matches!(lines[..], [first, second] if first.ends_with(" \\") && !second.ends_with('\\')),
        "{lines:?}"
    );
}

#[test]
fn run_needs_netd_and_sharefs() {
    let place = Place::with(&format!("{CONFIG}[share.src]\npath = \"/tmp\"\n"));
    place.program("qemu-system-x86_64", "echo started");
    place
        .run("guest run dev -- qemu-system-x86_64")
        .is(expect![[r#"
            exit 3
            err: error: netd is not running (cannot reach $T/run/netd.sock: No such file or directory (os error 2))
            err: hint: start it: sharectl up
        "#]]);
    let _netd = Fake::start(&place, Daemon::Netd, Script::default());
    place
        .run("guest run dev -- qemu-system-x86_64")
        .is(expect![[r#"
            exit 3
            err: error: sharefs is not running (cannot reach $T/run/sharefs.sock: No such file or directory (os error 2))
            err: hint: start it: sharectl up
        "#]]);
    let _sharefs = Fake::start(&place, Daemon::Sharefs, Script::default());
    // The share's socket is not there.
    place
        .run("guest run dev -- qemu-system-x86_64")
        .is(expect![[r#"
            exit 1
            err: error: the guest's shares are not served: $T/run/guest/dev/fs.sock is not there
            err: hint: sharectl status says why
        "#]]);
    std::fs::create_dir_all(place.guest_folder("dev")).unwrap();
    std::fs::write(place.guest_folder("dev").join("fs.sock"), "").unwrap();
    place
        .run("guest run dev -- qemu-system-x86_64")
        .is(expect![[r#"
            exit 0
            out: started
            err: note: where KVM does not run it, a guest that can have one processor only has no memory barriers, and a virtio device of it may stand still: add -smp 2
        "#]]);
    // Of one that has a device a share, each one's socket is asked for.
    place
        .run("guest run dev --devices each -- qemu-system-x86_64")
        .is(expect![[r#"
            exit 1
            err: error: share "src" is not served to this guest: $T/run/guest/dev/fs-src.sock is not there
            err: hint: sharectl describe src, or take it away: sharectl share rm src
        "#]]);
    std::fs::write(place.guest_folder("dev").join("fs-src.sock"), "").unwrap();
    place
        .run("guest run dev --devices each -- qemu-system-x86_64")
        .is(expect![[r#"
            exit 0
            out: started
            err: note: where KVM does not run it, a guest that can have one processor only has no memory barriers, and a virtio device of it may stand still: add -smp 2
        "#]]);
}

#[test]
fn run_refuses_a_second_vm_and_lines_that_cannot_be() {
    let place = Place::with(CONFIG);
    let netd = Fake::start(
        &place,
        Daemon::Netd,
        Script {
            plugged: true,
            ..Script::default()
        },
    );
    place.program("qemu-system-x86_64", "echo started");
    place
        .run("guest run dev -- qemu-system-x86_64")
        .is(expect![[r#"
            exit 4
            err: error: guest "dev" is plugged in already, by stream
            err: hint: stop its VM first, or unplug it: sharectl guest detach dev; a second VM needs a guest of its own
        "#]]);
    drop(netd);
    let _netd = Fake::start(&place, Daemon::Netd, Script::default());
    place
        .run("guest run dev -- firecracker --no-api")
        .is(expect![[r#"
            exit 2
            err: error: cannot add to the line: firecracker is not a QEMU, and no other monitor's command line is known
            err: hint: `sharectl guest args NAME` prints the sockets to give to another monitor
        "#]]);
    place.run("guest run dev").exits(2);
    place.run("guest run nobody -- qemu-system-x86_64").exits(1);
    place
        .run("guest run dev -- qemu-system-nowhere")
        .exits(1)
        .says("cannot start qemu-system-nowhere");
}

#[test]
fn vm_gets_its_line_and_gives_its_exit_status() {
    let place = Place::with(CONFIG);
    let _netd = Fake::start(&place, Daemon::Netd, Script::default());
    place.program("qemu-system-x86_64", "printf '%s\\n' \"$@\"; exit 7");
    place
        .run("guest run dev -- qemu-system-x86_64 -m 1G disk.qcow2")
        .is(expect![[r#"
            exit 7
            out: -m
            out: 1G
            out: disk.qcow2
            out: -netdev
            out: stream,id=sharectl-net,server=on,addr.type=unix,addr.path=$T/run/guest/dev/net.sock
            out: -device
            out: virtio-net-pci,netdev=sharectl-net,mac=52:54:00:00:00:01,host_mtu=65520
            err: note: where KVM does not run it, a guest that can have one processor only has no memory barriers, and a virtio device of it may stand still: add -smp 2
        "#]]);
    place.program("wrapper", "kill -KILL $$");
    let outcome = place.run("guest run dev -- wrapper");
    assert_eq!(outcome.code, None, "killed by a signal, as the VM was");
}

#[test]
fn signals_reach_the_vm() {
    let place = Place::with(CONFIG);
    let _netd = Fake::start(&place, Daemon::Netd, Script::default());
    place.program(
        "qemu-system-x86_64",
        "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done",
    );
    let mut command = place.sharectl();
    command
        .args(["guest", "run", "dev", "--", "qemu-system-x86_64"])
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut word = [0; 6];
    child.stdout.take().unwrap().read_exact(&mut word).unwrap();
    assert_eq!(&word, b"ready\n");
    rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));
}

#[test]
fn attach_says_what_is_missing() {
    let place = Place::with(CONFIG);
    place
        .run("guest attach dev --netns nowhere")
        .is(expect![[r#"
            exit 1
            err: error: cannot open the network namespace /run/netns/nowhere: No such file or directory (os error 2)
            err: hint: name a path, a namespace of `ip netns ls`, or the id of a process that is yours
        "#]]);
    place
        .run("guest attach dve --netns nowhere")
        .exits(1)
        .says("did you mean \"dev\"?");
    place
        .run("guest attach dev --netns /proc/self/ns/net")
        .exits(3)
        .says("hint: start it: sharectl up");
    place
        .run("guest attach dev --netns /proc/self/ns/net --mtu 100")
        .exits(2);
    let place = Place::with("[guest.dev]\n");
    place
        .run("guest attach dev --netns /proc/self/ns/net --configure")
        .is(expect![[r#"
            exit 2
            err: error: --configure needs an address, and guest "dev" has none reserved
            err: hint: add address = "..." to [guest.dev], or run a DHCP client in the namespace
        "#]]);
}

#[test]
fn detach_asks_netd() {
    let place = Place::with(CONFIG);
    place.run("guest detach dev").exits(3);
    let netd = Fake::start(&place, Daemon::Netd, Script::default());
    place.run("guest detach dev").is(expect![[r#"
        exit 0
        out: guest dev unplugged
    "#]]);
    assert_eq!(netd.asked(), ["detach dev"]);
}
