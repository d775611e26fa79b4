//! import, and shell-hook: what they print, and what is written only when it was accepted.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use expect_test::expect;

use crate::place::{CONFIG, Place};

const VMX: &str = "displayName = \"box\"\nethernet0.present = \"TRUE\"\nethernet0.connectionType = \"nat\"\n\
    ethernet0.generatedAddress = \"00:0c:29:08:6c:dd\"\nethernet1.present = \"TRUE\"\n\
    sharedFolder0.hostPath = \"D:\\proj\"\nsharedFolder0.guestName = \"proj\"\nsharedFolder0.writeAccess = \"TRUE\"\n";

fn place() -> Place {
    let place = Place::with(CONFIG);
    fs::write(place.path("box.vmx"), VMX).unwrap();
    place
}

#[test]
fn a_difference_is_shown_and_written_only_when_accepted() {
    let place = place();
    place
        .run("import vmx box.vmx --dry-run")
        .is(expect![[r#"
            exit 0
            out: --- $T/config.toml
            out: +++ $T/config.toml
            out: @@ -11,5 +11,14 @@
            out:  names = ["local.test"]   # used by everyone
            out:  publish = ["8080:80"]
            out:
            out: +[guest.box]
            out: +network = "vmnet8"
            out: +mac = "00:0c:29:08:6c:dd"
            out: +
            out:  [hosts.static]
            out:  "nas.test" = "192.168.1.5"
            out: +
            out: +[share.proj]
            out: +path = 'D:\proj'
            out: +at = "/mnt/hgfs/proj"
            out: +guests = ["box"]
            err: warning: box.vmx:5: the network card ethernet1 is left out: a guest has one card here
        "#]]);
    assert_eq!(place.config(), CONFIG);
    place
        .run("import vmx box.vmx")
        .exits(2)
        .says("nothing was written: there is no terminal to ask on");
    assert_eq!(place.config(), CONFIG);
    let rows = place
        .run("--format json import vmx box.vmx --dry-run --guest dev")
        .json();
    assert_eq!(
        (&rows["written"], &rows["left_out"][0]["line"]),
        (&false.into(), &5.into())
    );
    place
        .run("import vmx box.vmx --yes")
        .exits(0)
        .says("$T/config.toml written");
    let written = place.config();
    assert!(
        written.starts_with("# ann's file\n") && written.contains("# used by everyone"),
        "{written}"
    );
    place
        .run("import vmx box.vmx --yes")
        .exits(0)
        .says("has all of it already");
    assert_eq!(place.config(), written);
}

/// With a terminal of its own, as script(1) makes it.
#[test]
fn the_question_is_asked_on_a_terminal() {
    let place = place();
    for (answer, written) in [("n\n", false), ("\n", false), ("y\n", true)] {
        let mut line = place.command(std::path::Path::new("script"));
        line.args(["-qec", "bin/sharectl import vmx box.vmx", "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = line.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(answer.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("[y/N]"), "{said}");
        assert_eq!(place.config() != CONFIG, written, "{said}");
    }
}

#[test]
fn bad_files_are_refused_with_the_line() {
    let place = place();
    fs::write(place.path("bad.vmx"), "a = \"1\"\nnonsense\n").unwrap();
    place.run("import vmx bad.vmx --yes").is(expect![[r#"
        exit 1
        err: error: bad.vmx:2: "nonsense" is not key = "value"
        err: hint: mend that line in a copy, and import the copy
    "#]]);
    fs::write(place.path("large"), vec![b'#'; 2 << 20]).unwrap();
    place
        .run("import vmx large")
        .exits(1)
        .says("is larger than 1048576 bytes");
    place
        .run("import vmx missing")
        .exits(1)
        .says("cannot read missing");
    fs::write(
        place.path("net"),
        "answer VNET_8_HOSTONLY_SUBNET 8.8.8.0\nanswer VNET_8_NAT yes\n",
    )
    .unwrap();
    place
        .run("import vmware-networking net --yes")
        .exits(1)
        .says("makes no good configuration");
    place
        .run("import vmware-networking net --guest nobody")
        .exits(1)
        .says("no guest \"nobody\"");
    assert_eq!(place.config(), CONFIG);
}

#[test]
fn networks_and_lima_machines_come_over() {
    let place = place();
    fs::write(
        place.path("nat.conf"),
        "[incomingtcp]\n2222 = 192.168.130.5:22\n99 = 192.168.130.9:99\n",
    )
    .unwrap();
    place
        .run("import vmware-networking nat.conf --yes")
        .is(expect![[r#"
            exit 0
            out: --- $T/config.toml
            out: +++ $T/config.toml
            out: @@ -9,7 +9,7 @@
            out:  address = "192.168.130.5"
            out:  host-address = "127.64.0.1"
            out:  names = ["local.test"]   # used by everyone
            out: -publish = ["8080:80"]
            out: +publish = ["8080:80", "0.0.0.0:2222:22"]
            out:
            out:  [hosts.static]
            out:  "nas.test" = "192.168.1.5"
            out: $T/config.toml written
            err: warning: nat.conf:3: the forwarded port 0.0.0.0:99:99 of 192.168.130.9 is left out: no guest has that address: sharectl guest add NAME --address 192.168.130.9, or --guest NAME here
            err: note: netd, sharefs and hostsync are not running; it takes effect at: sharectl up
        "#]]);
    fs::create_dir(place.path("vm")).unwrap();
    fs::write(
        place.path("vm/lima.yaml"),
        "mounts: [{location: /srv/x, writable: true}]\nportForwards: [{guestPort: 81}]\n",
    )
    .unwrap();
    place
        .run("import lima vm/lima.yaml --dry-run")
        .is(expect![[r#"
            exit 0
            out: --- $T/config.toml
            out: +++ $T/config.toml
            out: @@ -11,5 +11,12 @@
            out:  names = ["local.test"]   # used by everyone
            out:  publish = ["8080:80", "0.0.0.0:2222:22"]
            out:
            out: +[guest.vm]
            out: +publish = ["81:81"]
            out: +
            out:  [hosts.static]
            out:  "nas.test" = "192.168.1.5"
            out: +
            out: +[share.x]
            out: +path = "/srv/x"
            out: +guests = ["vm"]
        "#]]);
    place
        .run("import lima / --dry-run")
        .exits(2)
        .says("--guest NAME");
}

#[test]
fn a_hook_says_how_docker_would_be_reached() {
    let place = Place::with("[guest.dev]\n");
    for shell in ["bash", "zsh", "fish", "pwsh"] {
        place
            .run(&format!("shell-hook {shell}"))
            .exits(0)
            .says("note: no guest's Docker engine is published")
            .says("sharectl port publish dev unix:$T/run/docker.sock:2375")
            .says(
                "path to-guest --guest dev"
                    .replace(
                        ' ',
                        if shell == "fish" || shell == "pwsh" {
                            "' '"
                        } else {
                            " "
                        },
                    )
                    .as_str(),
            );
    }
    place.run("shell-hook bash --guest box").exits(1);
    place.run("shell-hook tcsh").exits(2);
}
