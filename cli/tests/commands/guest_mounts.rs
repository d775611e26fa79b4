//! guest mount, guest unmount.

use expect_test::expect;

use crate::place::{CONFIG, Place};

#[test]
fn a_guests_folder_on_the_host_is_a_line_of_the_guest() {
    let place = Place::with(CONFIG);
    place
        .run("guest mount dev:/ /vm/dev --dry-run --owner 0:0")
        .is(expect![[r#"
            exit 0
            out: --- $T/config.toml
            out: +++ $T/config.toml
            out: @@ -11,5 +11,8 @@
            out:  names = ["local.test"]   # used by everyone
            out:  publish = ["8080:80"]
            out:
            out: +[guest.dev.mounts]
            out: +"/vm/dev" = { path = "/", owner = "0:0" }
            out: +
            out:  [hosts.static]
            out:  "nas.test" = "192.168.1.5"
            out: netd and sharefs are not running; it takes effect at: sharectl up
        "#]]);
    assert_eq!(place.config(), CONFIG);
    place
        .run("guest mount dev:/ /vm/dev --owner 0:0")
        .is(expect![[r#"
            exit 0
            out: dev:/ will be mounted at /vm/dev, as 0:0 there
            err: note: netd and sharefs are not running; it takes effect at: sharectl up
            err: warning: sharefs is not running; this is what the configuration says
        "#]]);
    place
        .run("guest mount dev:/srv/data ~/srv --owner 7:8 --port 5640 --export data --user ann --read-only")
        .is(expect![[r#"
            exit 0
            out: dev:/srv/data will be mounted at $T/home/srv, as 7:8 there
            err: note: netd and sharefs are not running; it takes effect at: sharectl up
            err: warning: sharefs is not running; this is what the configuration says
        "#]]);
    let added = place.config();
    let start = CONFIG.find("\n[hosts").unwrap();
    expect![[r#"

        [guest.dev.mounts]
        "/vm/dev" = { path = "/", owner = "0:0" }
        "~/srv" = { path = "/srv/data", export = "data", owner = "7:8", user = "ann", port = 5640, read-only = true }

        [hosts.static]
        "nas.test" = "192.168.1.5"
    "#]].assert_eq(&added[start..]);
    // The same place again is another wish for it.
    place
        .run("guest mount dev:/home /vm/dev --owner 0:0 --format json")
        .is(expect![[r#"
            exit 0
            out: {
            out:   "at": "/vm/dev",
            out:   "path": "/home",
            out:   "export": "/home",
            out:   "below": [],
            out:   "port": 564,
            out:   "owner": [
            out:     0,
            out:     0
            out:   ],
            out:   "user": "root",
            out:   "read_only": false
            out: }
            err: note: netd and sharefs are not running; it takes effect at: sharectl up
            err: warning: sharefs is not running; this is what the configuration says
        "#]]);
    place.run("describe dev").says("/home at /vm/dev");
    place.run("guest unmount /vm/dev --dry-run").is(expect![[r#"
        exit 0
        out: --- $T/config.toml
        out: +++ $T/config.toml
        out: @@ -12,7 +12,6 @@
        out:  publish = ["8080:80"]
        out:
        out:  [guest.dev.mounts]
        out: -"/vm/dev" = { path = "/home", owner = "0:0" }
        out:  "~/srv" = { path = "/srv/data", export = "data", owner = "7:8", user = "ann", port = 5640, read-only = true }
        out:
        out:  [hosts.static]
        out: netd and sharefs are not running; it takes effect at: sharectl up
    "#]]);
    place.run("guest unmount /vm/dev").is(expect![[r#"
        exit 0
        out: dev:/home unmounted from /vm/dev
        err: note: netd and sharefs are not running; it takes effect at: sharectl up
    "#]]);
    place.run("guest unmount dev").is(expect![[r#"
        exit 0
        out: dev:/srv/data unmounted from $T/home/srv
        err: note: netd and sharefs are not running; it takes effect at: sharectl up
    "#]]);
    assert_eq!(place.config(), CONFIG);
}

#[test]
fn what_cannot_be_mounted_changes_nothing() {
    let place = Place::with(CONFIG);
    place
        .run("guest mount dev /vm/dev")
        .exits(2)
        .says("like dev:/");
    place
        .run("guest mount dev:home /vm/dev")
        .exits(2)
        .says("like dev:/home/ann");
    place.run("guest mount de:/ /vm/dev").is(expect![[r#"
        exit 1
        err: error: no guest "de" in $T/config.toml
        err: hint: did you mean "dev"?
    "#]]);
    place.run("guest mount dev:/../x /vm/dev").is(expect![[r#"
        exit 1
        err: error: $T/config.toml:15: guest "dev": mounts: "/../x" is not an absolute path without ..
        err:   hint: write the guest's path like "/" or "/home/ann"
        err: hint: mend $T/config.toml, then: sharectl config check
    "#]]);
    place
        .run("guest mount dev:/ /vm/dev --owner ann")
        .is(expect![[r#"
            exit 1
            err: error: $T/config.toml:15: guest "dev": mounts: owner "ann" is not UID:GID
            err:   hint: write it like "1000:1000"
            err: hint: mend $T/config.toml, then: sharectl config check
        "#]]);
    place.run("guest mount dev:/ /").is(expect![[r#"
        exit 1
        err: error: $T/config.toml:15: guest "dev": mounts: "/" would hide the whole host
        err:   hint: write it like "~/vm/dev" = "/"
        err: hint: mend $T/config.toml, then: sharectl config check
    "#]]);
    place.run("guest unmount /vm/dev").is(expect![[r#"
        exit 1
        err: error: no folder of a guest is to be mounted at /vm/dev
        err: hint: no guest has a folder on the host; one gets there by: sharectl guest mount dev:/ FOLDER
    "#]]);
    assert_eq!(place.config(), CONFIG);
    place.run("guest mount dev:/ /vm/dev --owner 0:0").exits(0);
    let before = place.config();
    place.run("guest mount dev:/ /vm/dev/sub").is(expect![[r#"
        exit 1
        err: error: $T/config.toml:15: guest "dev": mounts: /vm/dev/sub and /vm/dev, a mount of guest "dev", are in one another
        err:   hint: mount it outside of all shared folders and other mounts, e.g. at ~/vm/NAME
        err: hint: mend $T/config.toml, then: sharectl config check
    "#]]);
    place
        .run("share add / --name all")
        .exits(1)
        .says("in one another");
    place.run("guest unmount /vm/other").is(expect![[r#"
        exit 1
        err: error: no folder of a guest is to be mounted at /vm/other
        err: hint: there are: /vm/dev
    "#]]);
    assert_eq!(place.config(), before);
}
