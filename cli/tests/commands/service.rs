//! Services and their end, with a script in systemctl's place. Under a real systemd: tests/tests/service.rs.

use std::fs;
use std::process::Stdio;

use expect_test::expect;

use crate::place::{CONFIG, Place};

/// A place with the three programs, and a systemctl that notes what it is told. A unit is active after `start`.
fn place() -> Place {
    let place = Place::with(CONFIG);
    for program in ["sharectl-netd", "sharectl-sharefs", "sharectl-hostsync"] {
        place.program(program, "exit 1");
    }
    place
}

fn with_manager() -> Place {
    let place = place();
    place.program(
        "systemctl",
        "case \"$*\" in\n\
         *property=Version*) exit 0;;\n\
         *property=Active*) echo ActiveState=inactive; echo UnitFileState=enabled; exit 0;;\n\
         esac\n\
         echo \"$*\" >> \"$HOME/told\"",
    );
    place.program("loginctl", "echo no");
    place
}

fn told(place: &Place) -> String {
    let file = place.path("home/told");
    let text = fs::read_to_string(&file).unwrap_or_default();
    fs::remove_file(&file).ok();
    text
}

fn unit(place: &Place, name: &str) -> std::path::PathBuf {
    place.path(&format!("home/.config/systemd/user/{name}.service"))
}

#[test]
fn without_a_manager_the_plan_is_shown_and_nothing_done() {
    let place = place();
    place.program("systemctl", "echo 'Failed to connect to bus' >&2; exit 1");
    place
        .run("service install --user")
        .exits(3)
        .says("write $T/home/.config/systemd/user/sharectl-netd.service")
        .says("no systemd user manager answers: Failed to connect to bus")
        .says("hint: it comes with a login");
    assert!(!place.path("home/.config").exists());
    assert!(!place.path("state").exists());
    place.run("service status").is(expect![[r#"
        exit 3
        err: error: no service is installed
        err: hint: sharectl service install
    "#]]);
    place.run("service remove").is(expect![[r#"
        exit 0
        out: no service is installed
    "#]]);
}

#[test]
fn the_plan_is_json_too() {
    let place = with_manager();
    let plan = place
        .run("--format json service install --user --dry-run")
        .exits(0)
        .json();
    assert_eq!(plan["steps"].as_array().unwrap().len(), 6);
    let text = plan["steps"][0]["text"].as_str().unwrap().to_owned();
    assert!(text.contains("Type=notify\n"), "{text}");
    assert!(text.contains("WatchdogSec=30\n"), "{text}");
    assert!(text.contains("/config.toml\n"), "{text}");
    assert_eq!(told(&place), "");
}

#[test]
fn what_was_installed_is_removed_and_no_more() {
    let place = with_manager();
    place
        .run("service install --user --guest dev --with qemu")
        .exits(0)
        .says("installed sharectl-netd.service, sharectl-sharefs.service, sharectl-hostsync.service, sharectl-vm-dev.service");
    let all = "sharectl-netd.service sharectl-sharefs.service sharectl-hostsync.service sharectl-vm-dev.service";
    let said = told(&place);
    assert!(
        said.starts_with(&format!(
            "--user --quiet daemon-reload\n--user --quiet enable {all}\n"
        )),
        "{said}"
    );
    assert!(
        said.ends_with(&format!("--user --quiet start {all}\n")),
        "{said}"
    );
    let text = fs::read_to_string(unit(&place, "sharectl-vm-dev")).unwrap();
    assert!(text.contains("guest run dev -- qemu\""), "{text}");

    // The same again changes nothing.
    place
        .run("service install --user --no-start --dry-run --guest dev --with qemu")
        .exits(0)
        .says("keep  $T/home/.config/systemd/user/sharectl-netd.service");

    fs::create_dir(place.path("home/.config/systemd/user/sharectl-netd.service.d")).unwrap();
    fs::write(unit(&place, "other"), "mine").unwrap();
    place.run("service remove --dry-run").is(expect![[r#"
        exit 0
        out: would remove $T/home/.config/systemd/user/sharectl-netd.service   (unit)
        out: would remove $T/home/.config/systemd/user/sharectl-sharefs.service   (unit)
        out: would remove $T/home/.config/systemd/user/sharectl-hostsync.service   (unit)
        out: would remove $T/home/.config/systemd/user/sharectl-vm-dev.service   (unit)
        out: left $T/home/.config/systemd/user/sharectl-netd.service.d   (drop-ins of your own)
    "#]]);
    place.run("service remove --keep-names").exits(0);
    let left: Vec<String> = fs::read_dir(place.path("home/.config/systemd/user"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(!place.path("state/service.json").exists());
}

#[test]
fn a_unit_of_ones_own_is_not_written_over() {
    let place = with_manager();
    let netd = unit(&place, "sharectl-netd");
    fs::create_dir_all(netd.parent().unwrap()).unwrap();
    fs::write(&netd, "mine").unwrap();
    place.run("service install --user").is(expect![[r#"
        exit 4
        err: error: $T/home/.config/systemd/user/sharectl-netd.service is there, and not from here
        err: hint: keep changes in a drop-in (systemctl --user edit sharectl-netd.service), then: sharectl service install --force
    "#]]);
    assert_eq!(fs::read_to_string(&netd).unwrap(), "mine");
    fs::remove_file(&netd).unwrap();

    place.run("service install --user").exits(0);
    let text = fs::read_to_string(&netd).unwrap();
    fs::write(&netd, format!("{text}# mine\n")).unwrap();
    place
        .run("service install --user")
        .exits(4)
        .says("was edited since it was installed");
    // Removal leaves it, and says so.
    place
        .run("service remove --keep-names")
        .exits(0)
        .says("left $T/home/.config/systemd/user/sharectl-netd.service   (edited since it was installed; it is switched off)");
    assert!(netd.exists());
    assert!(!unit(&place, "sharectl-sharefs").exists());
}

#[test]
fn wrong_wishes_are_refused_with_the_way_out() {
    let place = with_manager();
    place
        .run("service install --user --guest nobody --with qemu")
        .exits(1)
        .says("no guest \"nobody\"");
    place.run("service install --user --guest dev").exits(2);
    place
        .run("service units --programs bin --into units")
        .exits(2)
        .says("a unit needs the whole path");
    place.run("man guest fly").is(expect![[r#"
        exit 2
        err: error: no verb "guest fly"
        err: hint: sharectl --help lists them
    "#]]);
    place
        .run("man guest run")
        .exits(0)
        .says(".TH sharectl-guest-run 1");
}

#[test]
fn uninstall_names_what_goes_and_leaves_the_rest() {
    let place = place();
    let hosts = place.path("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let config = format!("{CONFIG}\n[hosts]\nfiles = [\"{}\"]\n", hosts.display());
    fs::write(place.path("config.toml"), config).unwrap();
    for path in [
        "run/sharectl/guest/dev",
        "run/sharectl/own",
        "state/sharectl/leases",
        "state/sharectl/hosts",
    ] {
        fs::create_dir_all(place.path(path)).unwrap();
    }
    for path in [
        "run/sharectl/netd.sock",
        "run/sharectl/link.sock",
        "state/sharectl/leases/vmnet8.jsonl",
        "state/sharectl/notes.txt",
    ] {
        fs::write(place.path(path), "").unwrap();
    }
    let run = |line: &str| {
        let mut command = place.sharectl();
        command
            .env("SHARECTL_RUNTIME_DIR", place.path("run/sharectl"))
            .env("SHARECTL_STATE_DIR", place.path("state/sharectl"))
            .args(line.split(' '));
        place.outcome(&mut command)
    };
    // A folder by another name is not gone through.
    let named = place.run("uninstall --dry-run");
    named.exits(0).says("left $T/run   (not called sharectl");
    let mut nobody = place.sharectl();
    nobody
        .env("SHARECTL_STATE_DIR", place.path("state/sharectl"))
        .arg("uninstall")
        .stdin(Stdio::null());
    place
        .outcome(&mut nobody)
        .exits(2)
        .says("nobody can be asked");
    run("uninstall --yes --dry-run").exits(2);

    run("uninstall --dry-run --purge").is(expect![[r#"
        exit 0
        out: would remove $T/run/sharectl/guest   (sockets and locks)
        out: would remove $T/run/sharectl/link.sock   (sockets and locks)
        out: would remove $T/run/sharectl/netd.sock   (sockets and locks)
        out: would remove $T/run/sharectl/   (the folder of these, if it is empty then)
        out: would remove $T/state/sharectl/hosts   (leases, logs, backups)
        out: would remove $T/state/sharectl/leases   (leases, logs, backups)
        out: would remove $T/state/sharectl/   (the folder of these, if it is empty then)
        out: would remove $T/config.toml   (the configuration)
        out: left $T/run/sharectl/own   (sharectl does not know it)
        out: left $T/state/sharectl/notes.txt   (sharectl does not know it)
    "#]]);
    run("uninstall --yes").exits(0);
    assert!(
        place.path("config.toml").exists(),
        "without --purge it stays"
    );
    assert!(place.path("state/sharectl/notes.txt").exists());
    assert!(place.path("run/sharectl/own").exists());
    assert!(!place.path("run/sharectl/guest").exists());
    assert!(!place.path("state/sharectl/leases").exists());
    run("uninstall --purge --yes").exits(0);
    assert!(!place.path("config.toml").exists());
    assert!(place.path("bin").exists());
}

#[test]
fn uninstall_knows_roots_hosts_writer() {
    let place = place();
    let unit = place.path("machine/etc/systemd/system/sharectl-hosts.socket");
    let other = unit.with_file_name("other.socket");
    fs::create_dir_all(unit.parent().unwrap()).unwrap();
    fs::write(&unit, "").unwrap();
    fs::write(&other, "").unwrap();
    let said = place.run("uninstall --dry-run");
    let said = said.exits(0);
    let is_root = rustix::process::geteuid().is_root();
    said.says(if is_root {
        "would remove $T/machine/etc/systemd/system/sharectl-hosts.socket   (root's hosts writer)"
    } else {
        "left $T/machine/etc/systemd/system/sharectl-hosts.socket   (root's hosts writer: sudo sharectl uninstall)"
    });
    place.run("uninstall --yes").exits(0);
    assert_eq!(unit.exists(), !is_root);
    assert!(other.exists());
}

#[test]
fn uninstall_says_what_could_not_be_removed_and_keeps_what_that_needs() {
    let place = place();
    place.program(
        "sharectl-hostsync",
        r#"shift 2; case "$*" in
        "files --json") echo '[{"file":"/h","way":"directly","names":1,"notes":[],"problem":null}]';;
        "clear --json") echo '{"changes":[],"problems":["/h: it is read-only"]}';;
        esac"#,
    );
    for folder in ["hosts", "leases"] {
        fs::create_dir_all(place.path("state/sharectl").join(folder)).unwrap();
    }
    let mut command = place.sharectl();
    command
        .env("SHARECTL_STATE_DIR", place.path("state/sharectl"))
        .args(["uninstall", "--yes"]);
    place
        .outcome(&mut command)
        .exits(1)
        .says("warning: /h: it is read-only")
        .says("left sharectl's block in /h   (it could not be removed, see above)");
    assert!(place.path("state/sharectl/hosts").exists(), "has backups");
    assert!(!place.path("state/sharectl/leases").exists());
}
