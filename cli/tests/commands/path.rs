//! path: to-guest, to-host, to-windows, to-wsl, convert, and the names wslpath and cygpath.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use expect_test::expect;

use crate::place::{Outcome, Place};

/// Shares of a folder of the place, at another path, with something hidden.
fn place() -> Place {
    let place = Place::empty();
    fs::create_dir_all(place.path("src/sub")).unwrap();
    let config = format!(
        "[guest.dev]\n[guest.box]\n[share.src]\npath = \"{0}/src\"\nat = \"/work\"\nexclude = [\"target\"]\n\
         [share.d]\npath = 'D:\\'\nguests = [\"dev\"]\n",
        place.path("").display().to_string().trim_end_matches('/')
    );
    fs::write(place.path("config.toml"), config).unwrap();
    let mounts = "1 0 8:1 / / rw - ext4 /dev/sdc rw\n\
                  2 1 0:2 / /d/rive rw - 9p drvfs rw,aname=drvfs;path=D:\\134;uid=0,trans=fd\n\
                  3 1 0:3 / /mnt/c rw - 9p drvfs rw,aname=drvfs;path=C:\\134;uid=0,trans=fd\n";
    fs::write(place.path("mounts"), mounts).unwrap();
    fs::write(place.path("wsl.conf"), "[automount]\nroot = /win\n").unwrap();
    place
}

fn run(place: &Place, arguments: &[&str]) -> Outcome {
    place.outcome(place.sharectl().arg("path").args(arguments))
}

#[test]
fn a_path_of_the_host_is_printed_as_the_guest_has_it() {
    let place = place();
    let file = place.path("src/sub/a b");
    let mut line = place.sharectl();
    line.args([
        "path",
        "to-guest",
        "--guest",
        "dev",
        r"D:\x\",
        "/mnt/d/x",
        "src/sub/../c",
        "/work/y",
    ]);
    place.outcome(line.arg(file)).is(expect![[r#"
        exit 0
        out: /mnt/d/x/
        out: /mnt/d/x
        out: /work/c
        out: /work/y
        out: /work/sub/a b
    "#]]);
    // From inside a share, relative paths stay what they are.
    let mut line = place.sharectl();
    line.current_dir(place.path("src/sub"))
        .args(["path", "to-guest", "x", r"..\y", "."]);
    place.outcome(&mut line).is(expect![[r#"
        exit 0
        out: x
        out: ../y
        out: .
    "#]]);
    let mut line = place.sharectl();
    line.current_dir(place.path("src/sub"))
        .args(["path", "to-guest", "-a", "x", ".."]);
    place.outcome(&mut line).is(expect![[r#"
        exit 0
        out: /work/sub/x
        out: /work
    "#]]);
}

#[test]
fn what_is_in_no_share_fails_with_the_command_that_shares_it() {
    let place = place();
    fs::create_dir_all(place.path("other dir")).unwrap();
    run(
        &place,
        &[
            "to-guest",
            "--guest",
            "box",
            "src",
            "other dir",
            "src/target/x",
            r"D:\x",
            "/etc/passwd",
        ],
    )
    .is(expect![[r#"
        exit 1
        out: /work
        err: error: other dir is in no folder that is shared with guest "box"
        err: hint: sharectl share add '$T/other dir'
        err: error: $T/src/target/x is hidden by `exclude` of share "src"
        err: hint: take the pattern out, or write a !pattern behind it, in [share.src]
        err: error: D:\x is in share "d", which guest "box" does not see
        err: hint: add "box" to `guests` of [share.d]: sharectl config path names the file
        err: error: /etc/passwd is in no folder that is shared with guest "box"
        err: hint: sharectl share add /etc
    "#]]);
    run(&place, &["to-guest", "--guest", "bax", "src"])
        .exits(1)
        .says("did you mean \"box\"?");
    run(&place, &["to-guest", ""])
        .exits(1)
        .says("the path is empty");
}

#[test]
fn the_way_back_and_json() {
    let place = place();
    run(&place, &["to-host", "/work/sub", r"D:\x"]).is(expect![[r#"
        exit 0
        out: $T/src/sub
        out: /mnt/d/x
    "#]]);
    let outcome = run(&place, &["to-host", "--json", "/work/sub", "/nowhere/x"]);
    outcome.exits(1);
    let rows = outcome.json();
    assert_eq!(
        rows[0]["translated"],
        place.path("src/sub").to_str().unwrap()
    );
    assert_eq!(rows[0]["share"], "src");
    assert_eq!(
        rows[1]["error"],
        "/nowhere/x is in no folder that is shared"
    );
}

#[test]
fn lists_come_from_standard_input() {
    let place = place();
    for (flag, list, expected) in [
        ("-a", &b"src/a\nsrc/b c\n"[..], &b"/work/a\n/work/b c\n"[..]),
        ("-0", b"src/a\nb\0src/\xff", b"/work/a\nb\0/work/\xff\0"),
        ("-0", b"", b""),
    ] {
        let mut line = place.sharectl();
        line.args(["path", "to-guest", flag])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = line.spawn().unwrap();
        child.stdin.take().unwrap().write_all(list).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, expected, "{}", list.escape_ascii());
    }
    let endless = place.path("endless");
    fs::write(&endless, vec![b'a'; 100_000]).unwrap();
    let mut line = place.sharectl();
    line.args(["path", "to-guest"])
        .stdin(fs::File::open(&endless).unwrap());
    place
        .outcome(&mut line)
        .exits(1)
        .says("longer than 65536 bytes");
}

#[test]
fn another_machines_case_is_replayed() {
    let place = place();
    let machine = [
        "--mountinfo",
        "mounts",
        "--wsl-conf",
        "wsl.conf",
        "--distro",
        "Debian",
    ];
    let with =
        |words: &[&'static str]| -> Vec<&str> { words.iter().copied().chain(machine).collect() };
    run(
        &place,
        &with(&["to-wsl", r"D:\x", "//c/y", r"\\wsl$\debian\root", r"sub\x"]),
    )
    .is(expect![[r#"
        exit 0
        out: /d/rive/x
        out: /mnt/c/y
        out: /root
        out: sub/x
    "#]]);
    run(
        &place,
        &with(&["to-windows", "/mnt/c", "/d/rive/x/", "/root", "C:/x", "a/b"]),
    )
    .is(expect![[r#"
        exit 0
        out: C:\
        out: D:\x\
        out: \\wsl.localhost\Debian\root
        out: C:\x
        out: a\b
    "#]]);
    run(&place, &with(&["to-windows", "-m", "/mnt/c/x"])).is(expect![[r#"
        exit 0
        out: C:/x
    "#]]);
    run(
        &place,
        &with(&[
            "to-guest",
            r"D:\x",
            "/d/rive/x",
            r"\\wsl.localhost\Debian\d\rive\x",
        ]),
    )
    .exits(0)
    .is(expect![[r#"
        exit 0
        out: /d/rive/x
        out: /d/rive/x
        out: /d/rive/x
    "#]]);
    run(&place, &with(&["to-wsl", r"X:\x", r"\\wsl$\Other\x"])).is(expect![[r#"
        exit 1
        err: error: "X:\x" is on X:\, which is not mounted here
        err: hint: sudo mkdir -p /mnt/x && sudo mount -t drvfs X: /mnt/x
        err: error: "\\wsl$\Other\x" is in the WSL distribution Other, and this is "Debian"
        err: hint: run it there: wsl -d Other
    "#]]);
    run(&place, &["to-wsl", "--mountinfo", "missing", "/x"])
        .exits(1)
        .says("cannot read missing");
}

#[test]
fn wslpath_and_cygpath_are_names_of_it() {
    let place = place();
    let arguments = ["--mountinfo", "mounts", "--distro", "D"];
    for name in ["wslpath", "cygpath"] {
        let link = place.path("bin").join(name);
        std::os::unix::fs::symlink("sharectl", &link).unwrap();
        for (flags, path, printed) in [
            (&["-u"][..], r"C:\Users", "/mnt/c/Users"),
            (&[], r"C:\Users\", "/mnt/c/Users/"),
            (&["-w"], "/mnt/c/Users", r"C:\Users"),
            (&["-m"], "/mnt/c/Users", "C:/Users"),
            (&["-w"], "/root", r"\\wsl.localhost\D\root"),
            (&["-w", "-p"], "/mnt/c/a:/mnt/c/b", r"C:\a;C:\b"),
            (&["-up"], r"C:\a;C:\b", "/mnt/c/a:/mnt/c/b"),
        ] {
            let mut line = place.command(&link);
            line.args(arguments).args(flags).arg(path);
            let outcome = place.outcome(&mut line);
            outcome.exits(0);
            assert_eq!(
                outcome.stdout,
                format!("{printed}\n"),
                "{name} {flags:?} {path}"
            );
        }
        let mut line = place.command(&link);
        line.args(arguments).args(["-a", "-u", r"a\b"]);
        let expected = place.path("a/b");
        assert_eq!(
            place.outcome(&mut line).stdout,
            format!("{}\n", expected.display())
        );
        let mut line = place.command(&link);
        place
            .outcome(line.args(["-u", "-w", "x"]))
            .exits(2)
            .says("cannot be used with");
    }
    run(
        &place,
        &["convert", "-w", "--mountinfo", "mounts", "/mnt/c"],
    )
    .exits(0)
    .says(r"out: C:\");
}
