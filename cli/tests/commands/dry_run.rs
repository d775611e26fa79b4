//! `--dry-run` of every verb that has one, on a live configuration: what is there stays byte for byte as it is, and no
//! daemon is asked for a change.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use control::paths::Daemon;
use expect_test::expect;

use crate::fake::{Fake, Script};
use crate::help::listed;
use crate::place::{CONFIG, Place};

/// A line of each verb that does something; `--dry-run` goes behind the verb.
const LINES: &[(&str, &str)] = &[
    ("init", "--force"),
    ("config edit", ""),
    ("up", ""),
    ("down", ""),
    ("restart", "netd"),
    ("network create", "lab"),
    ("network rm", "vmnet8 --move-to lab2"),
    ("network renumber", "vmnet8"),
    ("network bridge-socket", "lan"),
    ("network host-tap create", "tap8"),
    ("network host-tap rm", ""),
    ("network capture", "vmnet8 -w $T/x.pcapng"),
    ("guest add", "web --publish 9090:90"),
    ("guest rm", "dev"),
    ("guest mount", "dev:/ $T/vm"),
    ("guest unmount", "$T/there"),
    ("guest run", "web2 -- qemu-system-x86_64 -m 1G"),
    ("guest attach", "dev --netns /proc/self/ns/net --configure"),
    ("guest detach", "dev"),
    ("share add", "$T/home --name home"),
    ("share rm", "src"),
    ("share mount", "src $T/host"),
    ("share unmount", "onhost"),
    ("port publish", "dev 9090:90"),
    ("port unpublish", "dev 8080:80"),
    ("port offer", "2375 127.0.0.1:1 --network vmnet8"),
    ("port withdraw", "99 --network vmnet8"),
    ("host add", "new.test 127.0.0.1"),
    ("host rm", "nas.test"),
    ("host sync", ""),
    ("host dns enable", "--apply --root $T/image"),
    ("host dns disable", "--apply --root $T/image"),
    ("host restore", ""),
    ("host repair", ""),
    ("host writer install", "--root $T/image"),
    ("exec", "-- touch $T/made"),
    ("compose", "-- up"),
    ("import vmx", "$T/box.vmx"),
    ("import vmware-networking", "$T/networking"),
    ("import lima", "$T/lima.yaml"),
    ("service install", "--user"),
    ("doctor", "daemon socket --fix"),
    ("service remove", ""),
    ("service units", "--programs /usr/bin --into $T/units"),
    ("uninstall", ""),
    ("man", "--into $T/man"),
];

const LIVE: &str = r#"# ann's file
[network.vmnet8]
subnet = "192.168.130.0/24"
[network.vmnet8.services]
99 = "127.0.0.1:1"
[network.lan]
type = "bridged"
interface = "lo"
[network.lab2]
subnet = "192.168.132.0/24"
[network.tap8]
subnet = "192.168.131.0/24"
host-access = "tap"

[guest.dev]
network = "vmnet8"
address = "192.168.130.5"
names = ["local.test"]   # used by everyone
publish = ["8080:80"]
[guest.dev.mounts]
"$T/there" = "/"
[guest.web2]
network = "vmnet8"

[share.src]
path = "$T/home"
at = "/home/ann/src"
guests = []
[share.onhost]
path = "$T/home"
at = "/mnt/d"
mount = "$T/d"
guests = []

[hosts]
dns = "on"
[hosts.static]
"nas.test" = "192.168.1.5"
"#;

/// Every file, folder and link below, with what would show that somebody touched it.
fn everything(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let text = if meta.is_file() {
                let changed = (meta.ino(), meta.mtime(), meta.mtime_nsec());
                {
                    let mut hasher = DefaultHasher::new();
                    fs::read(&path).unwrap().hash(&mut hasher);
                    format!("{changed:?} {:x}", hasher.finish())
                }
            } else {
                format!("{:o}", meta.mode())
            };
            if meta.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path.display().to_string(), text);
        }
    }
    found
}

/// The verbs, nouns taken apart, whose help has the option.
fn verbs_with_dry_run(place: &Place) -> Vec<String> {
    let (mut left, mut found) = (vec![String::new()], Vec::new());
    while let Some(verb) = left.pop() {
        let page = place.run(&format!("{verb} -h")).stdout;
        let inner = listed(&page);
        if inner.is_empty() && page.contains("--dry-run") {
            found.push(verb.trim_start().to_owned());
        }
        left.extend(inner.iter().map(|word| format!("{verb} {word}")));
    }
    found.sort();
    found
}

#[test]
fn the_lines_below_are_all_that_there_are() {
    let mut known: Vec<String> = LINES.iter().map(|(verb, _)| (*verb).to_owned()).collect();
    known.sort();
    assert_eq!(verbs_with_dry_run(&Place::empty()), known);
}

#[test]
fn no_verb_changes_anything_that_it_would_change() {
    let place = Place::empty();
    let here = place.path("").display().to_string();
    let here = here.trim_end_matches('/');
    fs::write(place.path("config.toml"), LIVE.replace("$T", here)).unwrap();
    fs::write(
        place.path("box.vmx"),
        "displayName = \"box\"\nethernet0.present = \"TRUE\"\n",
    )
    .unwrap();
    fs::write(place.path("networking"), "VERSION=1,0\nanswer VNET_9_HOSTONLY_SUBNET 172.20.9.0\nanswer VNET_9_HOSTONLY_NETMASK 255.255.255.0\nanswer VNET_9_NAT yes\nanswer VNET_9_VIRTUAL_ADAPTER yes\n").unwrap();
    fs::write(
        place.path("lima.yaml"),
        "portForwards:\n- guestPort: 8080\n  hostPort: 8088\n",
    )
    .unwrap();
    fs::write(place.path("compose.yaml"), "services: {}\n").unwrap();
    fs::create_dir_all(place.path("image/etc")).unwrap();
    let resolved = "nameserver 127.0.0.53\n";
    fs::write(place.path("image/etc/resolv.conf"), resolved).unwrap();
    for program in ["netd", "sharefs", "sharefs-keeper"] {
        place.program(&format!("sharectl-{program}"), "exit 1");
    }
    // Of every round of hostsync only those may come that change nothing.
    place.program("sharectl-hostsync", "for word; do case $word in
        sync|clear) touch changed;; --dry-run) dry=1;; restore|repair) mends=1;; unit) printf text; exit;; esac; done
        [ -z \"$mends\" ] || [ -n \"$dry\" ] || touch changed
        printf '[]'");
    place.program("sharectl-hosts-writer", "exit 1");
    place.program(
        "systemctl",
        "case \"$*\" in *is-system-running*|*show*|*is-active*|*cat*) exit 0;; esac; touch changed",
    );
    // compose is asked what its files say, and no more.
    place.program(
        "docker",
        "case \"$*\" in *config*|*version*) printf '{}';; *) touch changed;; esac",
    );
    let script = Script {
        plugged: false,
        ..Script::default()
    };
    let fakes = Daemon::ALL.map(|daemon| Fake::start(&place, daemon, script.clone()));
    let before = everything(&place.path(""));
    let mut failed = Vec::new();
    for (verb, arguments) in LINES {
        let arguments = arguments.replace("$T", here);
        let run = |format: &[&str]| {
            let mut command = place.sharectl();
            command
                .args(format)
                .args(verb.split(' '))
                .arg("--dry-run")
                .args(arguments.split_whitespace());
            place.outcome(&mut command)
        };
        let outcome = run(&[]);
        // A tap of this host is what "rm" must find first: there is none, as in the real run.
        let expected = if *verb == "network host-tap rm" { 2 } else { 0 };
        if outcome.code != Some(expected) {
            failed.push(format!("{verb} {arguments}\n{}", outcome.text));
        }
        // As JSON the same; that it keeps to its schema is seen to in the place.
        let json = run(&["--format", "json"]);
        assert_eq!(json.code, outcome.code, "{}", json.text);
        assert!(
            !json.stdout.is_empty() || expected != 0,
            "{verb} {arguments}\n{}",
            json.text
        );
        let after = everything(&place.path(""));
        if before != after {
            let known = |entry: &(&String, &String)| before.get(entry.0) == Some(entry.1);
            let fresh: Vec<_> = after.iter().filter(|entry| !known(entry)).collect();
            panic!("{verb} {arguments}: {fresh:?}");
        }
        for fake in &fakes {
            assert_eq!(fake.asked(), Vec::<String>::new(), "{verb} {arguments}");
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn what_would_be_done_is_a_difference_and_what_daemons_are_asked() {
    let place = Place::with(CONFIG);
    let _netd = Fake::start(&place, Daemon::Netd, Script::default());
    place
        .run("port publish dev 9090:90 --dry-run")
        .is(expect![[r#"
        exit 0
        out: would ask netd: POST /v1/ports {"guest":"dev","spec":"9090:90"}
        out: --- $T/config.toml
        out: +++ $T/config.toml
        out: @@ -9,7 +9,7 @@
        out:  address = "192.168.130.5"
        out:  host-address = "127.64.0.1"
        out:  names = ["local.test"]   # used by everyone
        out: -publish = ["8080:80"]
        out: +publish = ["8080:80", "9090:90"]
        out:
        out:  [hosts.static]
        out:  "nas.test" = "192.168.1.5"
        out: would ask netd: POST /v1/reload
    "#]]);
    place.run("guest detach dev --dry-run").is(expect![[r#"
        exit 0
        out: would ask netd: DELETE /v1/guests/dev/link
    "#]]);
    place
        .run("--format json guest detach dev --dry-run")
        .is(expect![[r#"
            exit 0
            out: {
            out:   "dry_run": true,
            out:   "steps": [
            out:     {
            out:       "do": "ask",
            out:       "daemon": "netd",
            out:       "method": "DELETE",
            out:       "path": "/v1/guests/dev/link",
            out:       "body": null
            out:     }
            out:   ]
            out: }
        "#]]);
    place
        .run("host add nas2.test 192.168.1.6 --dry-run")
        .is(expect![[r#"
        exit 0
        out: --- $T/config.toml
        out: +++ $T/config.toml
        out: @@ -13,3 +13,4 @@
        out:
        out:  [hosts.static]
        out:  "nas.test" = "192.168.1.5"
        out: +"nas2.test" = "192.168.1.6"
        out: would ask netd: POST /v1/reload
        out: hostsync is not running; it takes effect at: sharectl up
    "#]]);
}

#[test]
fn what_is_wrong_is_as_wrong_without_doing_it() {
    let place = Place::with(CONFIG);
    for (line, code) in [
        ("guest rm dve", 1),
        ("guest add dev", 4),
        ("guest add Dev!", 2),
        ("port publish dev 8080:80", 4),
        ("port unpublish dev 1:1", 1),
        ("share rm nothing", 1),
        ("network renumber vmnet8 --subnet 0.0.0.0/33", 2),
        ("network rm vmnet9", 1),
        ("host rm no.test", 1),
        ("guest detach dev", 3),
        ("guest attach dev --netns nowhere", 1),
        ("init", 4),
    ] {
        let dry = place.run(&format!("{line} --dry-run"));
        let real = place.run(line);
        dry.exits(code);
        assert_eq!(dry.text, real.text, "{line}");
    }
    // Under another name it is the same verb.
    let other = "network add lab --subnet 10.255.254.0/24 --dry-run";
    place.run(other).exits(0).says("+[network.lab]");
    assert_eq!(place.config(), CONFIG);
}
