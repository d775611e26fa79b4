//! What each verb really prints under `--format json`, in order: [`Place::outcome`] holds every output of these tests
//! against its schema; here it is seen to that there is one of each verb.

use std::collections::BTreeSet;
use std::fs;

use control::paths::Daemon;

use crate::daemons::installed;
use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Outcome, Place};
use crate::schema::{command_of, commands};

/// Those that need a right that a test of this crate has not; their `--dry-run` is in `dry_run.rs`.
const ELSEWHERE: [(&str, &str); 6] = [
    ("network bridge-socket", "packet sockets need CAP_NET_RAW"),
    ("network host-tap create", "interfaces need CAP_NET_ADMIN"),
    ("network host-tap rm", "interfaces need CAP_NET_ADMIN"),
    ("guest attach", "interfaces need CAP_NET_ADMIN"),
    // Done, these print another program's output.
    ("network capture", "frames"),
    ("guest run", "the VM's own output"),
];

/// Which verbs have printed something.
#[derive(Default)]
struct Printed(BTreeSet<String>);

impl Printed {
    /// Runs the line; something must be printed.
    fn of(&mut self, place: &Place, line: &str) -> Outcome {
        let line = format!("{line} --format json");
        let outcome = place.run(&line);
        assert!(
            !outcome.stdout.is_empty(),
            "{line} printed nothing\n{}",
            outcome.text
        );
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        self.0.insert(command_of(&words).unwrap());
        outcome
    }
}

#[test]
fn every_verb_prints_what_its_schema_says() {
    let mut printed = Printed::default();
    daemons(&mut printed);
    file(&mut printed);
    for plugged in [true, false] {
        running(&mut printed, plugged);
    }
    resolver(&mut printed);
    hosts_files(&mut printed);
    service(&mut printed);
    others(&mut printed);
    let elsewhere = ELSEWHERE.map(|(verb, _)| verb.to_owned());
    let left: Vec<String> = commands()
        .into_iter()
        .filter(|verb| !printed.0.contains(verb) && !elsewhere.contains(verb))
        .collect();
    assert!(left.is_empty(), "no output of these is looked at: {left:?}");
    for verb in &elsewhere {
        assert!(!printed.0.contains(verb), "{verb} is here, too");
    }
}

/// Their start and end, with programs that play them.
fn daemons(printed: &mut Printed) {
    let installed = installed();
    let place = &installed.0;
    printed.of(place, "down --keep-names").exits(0);
    printed.of(place, "up").exits(0);
    printed.of(place, "up").exits(0);
    printed.of(place, "logs").exits(0);
    printed.of(place, "restart netd").exits(0);
    printed.of(place, "down").exits(0);
}

/// Changes of the file, while nothing runs.
fn file(printed: &mut Printed) {
    let place = Place::empty();
    let here = place.path("home").display().to_string();
    printed.of(&place, "init").exits(0);
    printed.of(&place, "init --force").exits(0);
    fs::write(place.path("config.toml"), CONFIG).unwrap();
    for line in [
        "config check",
        "config path",
        "config schema",
        "config show",
        "network create lab",
        "network renumber lab",
        "network host-tap unit lab",
        "guest add web --network lab --publish 9090:90",
        "network rm lab --move-to vmnet8",
        "guest mount web:/ vm",
        "guest unmount vm",
        "guest rm web",
        &format!("share add {here} --name src --read-only --exclude node_modules"),
        "share mount src d",
        "share unmount src",
        "port publish dev 9091:91",
        "port unpublish dev 9091:91",
        "port offer 2375 unix:/run/docker.sock",
        "port withdraw 2375",
        "host add tv.test 192.168.1.7",
        "host rm tv.test",
        "config show",
        "share rm src",
        "man --into pages",
        "schema ps",
    ] {
        printed.of(&place, line).exits(0);
    }
    let editor = place.program("editor", "echo '# more' >> \"$1\"");
    let mut command = place.sharectl();
    command
        .args(["config", "edit", "--format", "json"])
        .env("EDITOR", editor);
    let edited = place.outcome(&mut command);
    assert_eq!(edited.exits(0).json()["changed"], true);
    printed.0.insert("config edit".to_owned());

    fs::create_dir(place.path("project")).unwrap();
    fs::write(
        place.path("project/sharectl.toml"),
        "ports = [\"8088:88\"]\n",
    )
    .unwrap();
    let down = printed.of(&place, "down --project --all").json();
    assert_eq!(down["projects"], serde_json::json!([]));
}

/// With and without daemons that answer.
fn running(printed: &mut Printed, plugged: bool) {
    let place = Place::with(&format!("{CONFIG}[share.src]\npath = \"/tmp\"\n"));
    let script = Script {
        plugged,
        ..Script::default()
    };
    let look = [
        "describe dev",
        "describe src",
        "describe vmnet8",
        "describe local.test",
        "doctor config programs daemon share",
        "guest args dev",
        "guest args dev --vmm crosvm",
        "guest ls",
        "guest mounts dev",
        "host ls",
        "network inspect vmnet8",
        "network ls",
        "path to-guest /tmp/x /nowhere",
        "path to-host --guest dev /tmp/x",
        "port explain 8080",
        "port ls",
        "ps",
        "share ls",
        "status",
        "wait-ready --timeout 0s",
    ];
    for line in look {
        printed.of(&place, line).says("");
    }
    let _fakes = Daemon::ALL.map(|daemon| Fake::start(&place, daemon, script.clone()));
    for line in look {
        printed.of(&place, line).says("");
    }
    for line in [
        "doctor config --fix",
        "events",
        "host diff",
        "host sync",
        "host sync --dry-run",
        "host add demo.test 127.0.0.1 --for 30m",
        "host rm demo.test",
        "network flows vmnet8",
        "network policy dev good.example:443",
        "network dns local.test",
        "network dns dev.test",
        "port publish dev 9090:90",
        "port unpublish dev 9090:90",
        "guest detach dev",
    ] {
        printed.of(&place, line).says("");
    }
}

fn resolver(printed: &mut Printed) {
    let place = Place::with(&format!("[hosts]\ndns = \"on\"\n{CONFIG}"));
    fs::create_dir_all(place.path("root/etc")).unwrap();
    fs::write(
        place.path("root/etc/resolv.conf"),
        "nameserver 127.0.0.53\n",
    )
    .unwrap();
    for line in [
        "status",
        "enable",
        "enable --apply",
        "enable --apply",
        "status",
        "disable",
        "disable --apply",
        "disable --apply",
    ] {
        printed
            .of(&place, &format!("host dns {line} --root root"))
            .exits(0);
    }
    let nobody = Place::with(CONFIG);
    fs::create_dir_all(nobody.path("root")).unwrap();
    printed.of(&nobody, "host dns status --root root").exits(0);
}

/// Rounds of hostsync, as it prints them, and its writer.
fn hosts_files(printed: &mut Printed) {
    let place = Place::with(CONFIG);
    place.program(
        "sharectl-hostsync",
        r#"shift 2; case "$*" in
        "backups --json") printf %s '[{"file":"/etc/hosts","number":3,"kept":"2026-01-02T03:04:05Z","current":false,"path":"/s/x"}]';;
        "restore"*) printf %s '[{"file":"/etc/hosts","found":["own lines of version 3 are back"],"diff":"-a\n+b\n","done":false}]';;
        "repair"*) printf %s '[{"file":"/etc/hosts","found":[],"diff":"","done":false},{"file":"/h","found":["line 2 began a block"],"diff":"-x\n","done":true}]';;
        "files --json") echo '[{"file":"/etc/hosts","way":"by the hosts writer","names":2,"notes":["names below test"],"problem":null}]';;
        "unit program") printf /usr/local/libexec/sharectl/sharectl-hosts-writer;;
        "unit "*) echo "[Unit] $2";;
        esac"#,
    );
    place.program("sharectl-hosts-writer", "exit 0");
    for line in [
        "restore --list",
        "restore --backup 3 --dry-run /etc/hosts",
        "restore",
        "repair",
        "repair --dry-run",
        "writer status",
        "writer unit socket",
        "writer unit service",
        "writer unit policy",
        "writer install --dry-run",
        "writer install --root image",
    ] {
        printed.of(&place, &format!("host {line}")).exits(0);
    }
}

/// With a script in systemctl's place.
fn service(printed: &mut Printed) {
    let place = Place::with(CONFIG);
    for daemon in Daemon::ALL {
        place.program(daemon.program(), "exit 1");
    }
    place.program("loginctl", "echo no");
    place.program(
        "systemctl",
        "case \"$*\" in\n\
         *property=Active*) echo ActiveState=active; echo UnitFileState=enabled; echo MainPID=7;;\n\
         esac",
    );
    place.program(
        "journalctl",
        r#"echo '{"_SYSTEMD_USER_UNIT":"sharectl-netd.service","MESSAGE":"serving"}'"#,
    );
    // A list, though there is nothing in it.
    let nothing = printed.of(&place, "service status");
    assert_eq!(nothing.exits(3).json(), serde_json::json!([]));
    nothing.says("hint: sharectl service install");
    printed.of(&place, "service remove --keep-names").exits(0);
    for line in [
        "install --user --dry-run --guest dev --with qemu",
        "install --user --guest dev --with qemu",
        "install --user --dry-run --guest dev --with qemu",
        "status",
        "logs",
        "remove --dry-run",
        "remove --keep-names",
        "units --programs /usr/bin --into units",
    ] {
        printed.of(&place, &format!("service {line}")).exits(0);
    }
    printed.of(&place, "uninstall --dry-run").exits(0);
}

/// Other programs' files and paths.
fn others(printed: &mut Printed) {
    let place = Place::with(&format!(
        "[guest.dev]\n[share.here]\npath = \"{}\"\nat = \"/work\"\n",
        Place::empty().path("home").parent().unwrap().display()
    ));
    fs::write(
        place.path("box.vmx"),
        "displayName = \"box\"\nethernet0.present = \"TRUE\"\nethernet1.present = \"TRUE\"\n",
    )
    .unwrap();
    fs::write(
        place.path("networking"),
        "VERSION=1,0\nanswer VNET_9_HOSTONLY_SUBNET 172.20.9.0\nanswer VNET_9_HOSTONLY_NETMASK 255.255.255.0\nanswer VNET_9_NAT yes\nanswer VNET_9_VIRTUAL_ADAPTER yes\n",
    )
    .unwrap();
    fs::write(
        place.path("lima.yaml"),
        "portForwards:\n- guestPort: 8080\n  hostPort: 8088\n",
    )
    .unwrap();
    fs::write(place.path("compose.yaml"), "services: {}\n").unwrap();
    place.program(
        "docker",
        "case \"$*\" in *config*) printf %s '{\"services\":{\"web\":{\"volumes\":[{\"type\":\"bind\",\"source\":\"/etc\",\"target\":\"/x\"}]}}}';; esac",
    );
    for line in [
        "import vmx box.vmx --dry-run",
        "import vmx box.vmx --yes",
        "import vmware-networking networking --yes",
        "import lima lima.yaml --guest dev --yes",
        "path to-windows /mnt/c/x",
        "path to-wsl /tmp",
        "path convert /tmp",
        "exec --map --dry-run -- ls /tmp",
        "compose --dry-run -- up",
    ] {
        let (ours, theirs) = line.split_once(" -- ").unwrap_or((line, ""));
        let mut words: Vec<&str> = ours.split(' ').collect();
        words.extend(["--format", "json"]);
        let owned: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        printed.0.insert(command_of(&owned).unwrap());
        if !theirs.is_empty() {
            words.push("--");
            words.extend(theirs.split(' '));
        }
        let outcome = place.outcome(place.sharectl().args(words));
        assert!(!outcome.stdout.is_empty(), "{line}\n{}", outcome.text);
    }
}
