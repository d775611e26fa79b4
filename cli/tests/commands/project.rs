//! `up --project` and `down --project`: a repository's wishes, accepted and taken away.

use std::fs;

use control::paths::Daemon;
use expect_test::expect;

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Outcome, Place};

const SHOP: &str = "# what the shop needs\nports = [\"8090:90\"]\nnames = [\"shop.test\"]\n\n[share.shop]\npath = \".\"\n";

fn with(project: &str) -> Place {
    let place = Place::with(CONFIG);
    fs::create_dir_all(place.path("shop/deep")).unwrap();
    fs::write(place.path("shop/sharectl.toml"), project).unwrap();
    place
}

/// A line in a folder of the place.
fn run_in(place: &Place, folder: &str, line: &str) -> Outcome {
    let mut command = place.sharectl();
    command
        .current_dir(place.path(folder))
        .args(line.split(' '));
    place.outcome(&mut command)
}

/// All daemons play along, so that `up` has nothing to start.
fn daemons(place: &Place) -> [Fake; 3] {
    Daemon::ALL.map(|daemon| {
        place.program(daemon.program(), "exit 1");
        Fake::start(place, daemon, Script::default())
    })
}

#[test]
fn a_project_comes_and_goes_and_the_users_file_never_changes() {
    let place = with(SHOP);
    let fakes = daemons(&place);
    // Nobody can be asked.
    run_in(&place, "shop/deep", "up --project").is(expect![[r#"
        exit 2
        err: error: nothing was accepted of $T/shop/sharectl.toml: there is no terminal to ask on
        err: hint: --yes accepts it, --dry-run only shows it
    "#]]);
    assert!(!place.path("config.projects.d").exists());
    let shown = run_in(&place, "shop/deep", "up --project --dry-run");
    shown.exits(0).says("+ports = [\"8090:90\"]");
    assert!(!place.path("config.projects.d").exists());

    run_in(&place, "shop/deep", "up --project --yes")
        .exits(0)
        .says("project shop is up; to take it away: sharectl down --project shop");
    assert!(
        fakes
            .iter()
            .all(|fake| fake.asked().contains(&"reload".to_owned()))
    );
    assert_eq!(place.config(), CONFIG);
    let shown = place.run("config show --format json").exits(0).json();
    assert_eq!(
        shown["shares"]["shop"]["path"],
        place.path("shop").display().to_string()
    );
    assert_eq!(
        shown["guests"]["dev"]["publish"].as_array().unwrap().len(),
        2
    );
    assert_eq!(shown["projects"]["shop"]["names"][0], "shop.test");
    place.run("config check").exits(0);
    // Commands on the user's own file go on working, and keep off the project's.
    place.run("port publish dev 9000:9000").exits(0);
    place.run("port unpublish dev 9000:9000").exits(0);
    assert_eq!(place.config(), CONFIG);
    run_in(&place, "shop", "up --project --yes")
        .exits(0)
        .says("is up as before");

    // What changes in the repository changes nothing until it is accepted.
    let more = SHOP.replace("8090:90", "8091:91");
    fs::write(place.path("shop/sharectl.toml"), &more).unwrap();
    let shown = place.run("config show --format json").json();
    assert_eq!(shown["projects"]["shop"]["ports"][0], "8090:90");
    run_in(
        &place,
        ".",
        &format!("up --project {} --yes", place.path("shop").display()),
    )
    .exits(0);
    let shown = place.run("config show --format json").json();
    assert_eq!(shown["projects"]["shop"]["ports"][0], "8091:91");

    run_in(&place, "shop/deep", "down --project --dry-run")
        .exits(0)
        .says("-ports");
    run_in(&place, "shop/deep", "down --project").is(expect![[r#"
        exit 0
        out: taken away: shop
    "#]]);
    assert_eq!(place.config(), CONFIG);
    assert!(!place.path("config.projects.d").exists());
    run_in(&place, "shop", "down --project")
        .exits(1)
        .says("no project is up that this folder belongs to");
}

#[test]
fn a_repository_is_not_trusted() {
    for (project, said) in [
        (
            "[share.etc]\npath = \"/etc\"\n",
            "is outside of the project's folder",
        ),
        (
            "[share.up]\npath = \"../home\"\n",
            "is outside of the project's folder",
        ),
        (
            "ports = [\"unix:/tmp/x.sock:80\"]\n",
            "is outside of the project's folder",
        ),
        (
            "[project]\nfolder = \"/\"\nguest = \"dev\"\noutside = true\n",
            "is written by sharectl up --project",
        ),
        ("[hosts]\n", "unknown field"),
        ("ports = [\"8080:80\"]\n", "8080"),
        ("guest = \"nobody\"\n", "nobody"),
        ("[share.x\n", "sharectl.toml:1"),
    ] {
        let place = with(project);
        let outcome = run_in(&place, "shop", "up --project --yes");
        assert_eq!(outcome.code, Some(1), "{project}");
        outcome.says(said);
        assert!(!place.path("config.projects.d").exists(), "{project}");
        assert_eq!(place.config(), CONFIG);
    }
    let place = with("[share.etc]\npath = \"/etc\"\n");
    let _fakes = daemons(&place);
    run_in(&place, "shop", "up --project --yes --allow-outside").exits(0);
    let shown = place.run("config show --format json").json();
    assert_eq!(shown["shares"]["etc"]["path"], "/etc");
}

#[test]
fn two_projects_that_want_the_same_are_told_of_each_other() {
    let place = with(SHOP);
    let _fakes = daemons(&place);
    fs::create_dir_all(place.path("other/shop")).unwrap();
    fs::write(place.path("other/shop/sharectl.toml"), SHOP).unwrap();
    run_in(&place, "shop", "up --project --yes").exits(0);
    run_in(&place, "other/shop", "up --project --yes")
        .exits(1)
        .says("project \"shop\"")
        .says("project \"shop-2\"");
    let own = SHOP
        .replace("8090:90", "8092:92")
        .replace("shop.test", "other.test")
        .replace("share.shop", "share.other");
    fs::write(place.path("other/shop/sharectl.toml"), own).unwrap();
    run_in(&place, "other/shop", "up --project --yes").exits(0);
    // The folder goes: that is a problem with its remedy, and the rest goes on.
    fs::remove_dir_all(place.path("other")).unwrap();
    place
        .run("config check")
        .exits(1)
        .says("down --project shop-2");
    place
        .run("down --project shp")
        .exits(1)
        .says("did you mean \"shop\"?");
    place
        .run("down --project --all")
        .exits(0)
        .says("taken away: shop, shop-2");
    place
        .run("down --project --all")
        .exits(0)
        .says("no project was up");
}

#[test]
fn who_is_asked_sees_what_is_wanted_and_may_say_no() {
    let place = with(SHOP);
    let _fakes = daemons(&place);
    for (answer, code) in [("n\n", 1), ("y\n", 0)] {
        let mut command = place.command(std::path::Path::new("script"));
        let line = format!("{} up --project", place.path("bin/sharectl").display());
        command
            .current_dir(place.path("shop"))
            .args(["-qec", &line, "/dev/null"]);
        let mut child = command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, answer.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let seen = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(code), "{seen}");
        assert!(
            seen.contains("port   8090:90") && seen.contains("accept this"),
            "{seen}"
        );
        assert_eq!(
            place.path("config.projects.d/shop.toml").exists(),
            code == 0
        );
    }
}
