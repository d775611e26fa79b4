//! share: add, rm, ls, mount, unmount.

use control::paths::Daemon;
use expect_test::expect;

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Place};

#[test]
fn added_folder_stands_in_the_file() {
    let place = Place::with(CONFIG);
    std::fs::create_dir_all(place.path("My Work")).unwrap();
    let sharefs = Fake::start(&place, Daemon::Sharefs, Script::default());
    let mut command = place.sharectl();
    place
        .outcome(command.args([
            "share",
            "add",
            "My Work",
            "--at",
            "/mnt/work",
            "--read-only",
            "--guest",
            "dev",
            "--cache",
            "never",
        ]))
        .is(expect![[r#"
            exit 0
            out: share my-work added: $T/My Work at /mnt/work in dev, read-only
            err: note: a VM that runs with shares has it now, others from their next start; in the guest: mkdir -p /mnt/work && mount --bind /run/sharectl/my-work /mnt/work
        "#]]);
    assert_eq!(sharefs.asked(), ["reload"]);
    let config = place.config();
    assert!(config.starts_with(CONFIG), "{config}");
    expect![[r#"

        [share.my-work]
        path = "$T/My Work"
        at = "/mnt/work"
        read-only = true
        guests = ["dev"]
        cache = "never"
    "#]]
    .assert_eq(&place.normal(&config[CONFIG.len()..]));
}

#[test]
fn what_a_share_hides_keeps_and_calls_equal_stands_in_the_file() {
    let place = Place::with(CONFIG);
    std::fs::create_dir_all(place.path("src")).unwrap();
    let mut command = place.sharectl();
    command.args([
        "share",
        "add",
        "src",
        "--at",
        "/src",
        "--exclude",
        "node_modules",
    ]);
    command.args(["--exclude", ".git/objects/**", "--read-only-path", "config"]);
    command.args([
        "--names",
        "windows",
        "--case",
        "insensitive",
        "--owner-store",
        "xattr",
    ]);
    place.outcome(&mut command).is(expect![[r#"
        exit 0
        out: share src added: $T/src at /src in all guests, read and write
        err: note: sharefs is not running; it takes effect at: sharectl up
        err: note: a VM that runs with shares has it now, others from their next start; in the guest: mkdir -p /src && mount --bind /run/sharectl/src /src
    "#]]);
    let config = place.config();
    expect![[r#"

        [share.src]
        path = "$T/src"
        at = "/src"
        exclude = ["node_modules", ".git/objects/**"]
        read-only-paths = ["config"]
        names = "windows"
        case = "insensitive"
        owner-store = "xattr"
    "#]]
    .assert_eq(&place.normal(&config[CONFIG.len()..]));
    place.run("describe src").is(expect![[r#"
        exit 0
        out: share          src
        out: folder         $T/src
        out: at             /src
        out: mode           read and write
        out: guests         all
        out: hidden         node_modules,.git/objects/**
        out: unchangeable   config
        out: state          not served
        out: in the guest   mount --bind /run/sharectl/src /src
        err: warning: sharefs is not running; this is what the configuration says
    "#]]);
    place
        .run("share add / --name x --exclude ../up")
        .is(expect![[r#"
            exit 2
            err: error: invalid value '../up' for '--exclude <PATTERN>': "../up": a part of it is . or .., which no name in a folder is
            err:
            err: For more information, try '--help'.
        "#]]);
}

#[test]
fn folder_that_cannot_be_shared_changes_nothing() {
    let place = Place::with(CONFIG);
    place.run("share add /nonexistent/src").is(expect![[r#"
        exit 1
        err: error: /nonexistent/src is not a folder on this host
        err: hint: make it first: mkdir -p /nonexistent/src
    "#]]);
    place.run("share add nowhere").is(expect![[r#"
        exit 1
        err: error: cannot find the folder nowhere: No such file or directory (os error 2)
        err: hint: make it first: mkdir -p nowhere
    "#]]);
    place
        .run("share add / --at relative")
        .exits(2)
        .says("--name");
    place
        .run("share add /tmp --at relative")
        .exits(1)
        .says("relative");
    place
        .run("share add /tmp --guest nobody")
        .exits(1)
        .says("nobody");
    place.run("share add /tmp --owner mine").exits(2);
    assert_eq!(place.config(), CONFIG);
    place.run("share add /tmp").exits(0);
    place.run("share add /tmp").is(expect![[r#"
        exit 4
        err: error: share "tmp" is in $T/config.toml already
        err: hint: give this one another name: --name NAME
    "#]]);
}

#[test]
fn removed_share_leaves_the_rest_as_it_was() {
    let place = Place::with(CONFIG);
    place.run("share add /tmp").exits(0);
    place
        .run("share rm tpm")
        .exits(1)
        .says("did you mean \"tmp\"?");
    place.run("share rm tmp").is(expect![[r#"
        exit 0
        out: share tmp removed
        err: note: sharefs is not running; it takes effect at: sharectl up
    "#]]);
    assert_eq!(place.config(), CONFIG);
}

#[test]
fn list_says_what_sharefs_says_or_that_it_is_down() {
    let place = Place::with(&format!(
        "{CONFIG}[share.src]\npath = \"/tmp\"\nguests = [\"dev\"]\n"
    ));
    place.run("share ls").is(expect![[r#"
        exit 0
        out: NAME  FOLDER  AT    MODE  GUESTS  IN USE BY  ON THE HOST  STATE
        out: src   /tmp    /tmp  rw    dev     -          -            not served
        err: warning: sharefs is not running; this is what the configuration says
    "#]]);
    let _sharefs = Fake::start(&place, Daemon::Sharefs, Script::default());
    place.run("share ls").is(expect![[r#"
        exit 0
        out: NAME  FOLDER         AT             MODE  GUESTS  IN USE BY  ON THE HOST  STATE
        out: src   /home/ann/src  /home/ann/src  rw    dev     dev        -            ok
    "#]]);
    assert_eq!(place.run("share ls -q").stdout, "src\n");
}

const SHARE: &str = "[share.src]\npath = \"/tmp\"\nat = \"/src\"   # short\n";

#[test]
fn mount_on_the_host_is_a_key_of_the_share() {
    let place = Place::with(SHARE);
    place
        .run("share mount src /mnt/src --all-users --dry-run")
        .is(expect![[r#"
            exit 0
            out: --- $T/config.toml
            out: +++ $T/config.toml
            out: @@ -1,3 +1,5 @@
            out:  [share.src]
            out:  path = "/tmp"
            out:  at = "/src"   # short
            out: +mount = "/mnt/src"
            out: +mount-users = "all"
            out: sharefs is not running; it takes effect at: sharectl up
        "#]]);
    assert_eq!(place.config(), SHARE);
    place.run("share mount src").is(expect![[r#"
        exit 0
        out: share src will be mounted at /src for sharefs' own user
        err: note: sharefs is not running; it takes effect at: sharectl up
    "#]]);
    place
        .run("share mount src /mnt/src --all-users")
        .is(expect![[r#"
            exit 0
            out: share src will be mounted at /mnt/src for all users
            err: note: sharefs is not running; it takes effect at: sharectl up
        "#]]);
    assert_eq!(
        place.config(),
        format!("{SHARE}mount = \"/mnt/src\"\nmount-users = \"all\"\n")
    );
    place.run("share ls").is(expect![[r#"
        exit 0
        out: NAME  FOLDER  AT    MODE  GUESTS  IN USE BY  ON THE HOST      STATE
        out: src   /tmp    /src  rw    all     -          not at /mnt/src  not served
        err: warning: sharefs is not running; this is what the configuration says
    "#]]);
    place.run("share mount src /tmp/below").is(expect![[r#"
        exit 1
        err: error: $T/config.toml:4: share "src": mount = "/tmp/below" is inside the folder /tmp of share "src"
        err:   hint: mount it outside of all shared folders, e.g. at /mnt/NAME
        err: hint: mend $T/config.toml, then: sharectl config check
    "#]]);
    place.run("share unmount src --dry-run").is(expect![[r#"
        exit 0
        out: --- $T/config.toml
        out: +++ $T/config.toml
        out: @@ -1,5 +1,3 @@
        out:  [share.src]
        out:  path = "/tmp"
        out:  at = "/src"   # short
        out: -mount = "/mnt/src"
        out: -mount-users = "all"
        out: sharefs is not running; it takes effect at: sharectl up
    "#]]);
    place.run("share unmount src").is(expect![[r#"
        exit 0
        out: share src unmounted from /mnt/src
        err: note: sharefs is not running; it takes effect at: sharectl up
    "#]]);
    assert_eq!(place.config(), SHARE);
    place.run("share unmount src").is(expect![[r#"
        exit 1
        err: error: share src is not to be mounted on the host
        err: hint: guests mount it themselves; on the host: sharectl share mount src PATH
    "#]]);
    place.run("share mount sr /mnt/x").is(expect![[r#"
        exit 1
        err: error: no share "sr" in $T/config.toml
        err: hint: did you mean "src"?
    "#]]);
}

#[test]
fn mount_that_the_daemon_did_not_make_is_a_failure() {
    let place = Place::with(SHARE);
    let sharefs = Fake::start(&place, Daemon::Sharefs, Script::default());
    place.run("share mount src /mnt/src").is(expect![[r#"
        exit 1
        err: error: share src could not be mounted at /mnt/src
        err: hint: the reason stands above; again: sharectl share mount src, or forget it: sharectl share unmount src
    "#]]);
    assert_eq!(sharefs.asked(), ["reload"]);
}
