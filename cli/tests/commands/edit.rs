//! `sharectl config edit`, with scripts for editors.

use std::os::unix::fs::{PermissionsExt, symlink};

use control::paths::Daemon;
use expect_test::expect;

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Outcome, Place};

/// Edits with a shell script for which $1 is the file.
fn edit(place: &Place, script: &str) -> Outcome {
    place.program("ed", script);
    let mut line = place.sharectl();
    line.env("EDITOR", place.path("bin/ed"));
    place.outcome(line.args(["config", "edit"]))
}

/// Copies that were left.
fn left(place: &Place) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(place.path("")).unwrap();
    files
        .map(|file| file.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("/.edit-"))
        .collect()
}

#[test]
fn a_good_text_takes_the_files_place_and_the_daemons_follow() {
    let place = Place::empty();
    // As dotfiles are kept, for their owner alone.
    std::fs::write(place.path("mine.toml"), CONFIG).unwrap();
    std::fs::set_permissions(place.path("mine.toml"), PermissionsExt::from_mode(0o600)).unwrap();
    symlink("mine.toml", place.path("config.toml")).unwrap();
    let netd = Fake::start(&place, Daemon::Netd, Script::default());
    edit(&place, "sed -i 's/8080:80/8081:80/' \"$1\"").is(expect![[r#"
        exit 0
        out: $T/config.toml changed
        err: note: sharefs and hostsync are not running; it takes effect at: sharectl up
    "#]]);
    assert_eq!(place.config(), CONFIG.replace("8080:80", "8081:80"));
    assert!(place.path("config.toml").is_symlink());
    let mode = std::fs::metadata(place.path("mine.toml"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        netd.asked().contains(&"reload".to_owned()),
        "{:?}",
        netd.asked()
    );
    assert!(left(&place).is_empty());
}

#[test]
fn without_a_change_nothing_is_done() {
    let place = Place::with(CONFIG);
    let netd = Fake::start(&place, Daemon::Netd, Script::default());
    edit(&place, "grep -q ann \"$1\"").is(expect![[r#"
        exit 0
        out: nothing was changed
    "#]]);
    assert!(netd.asked().is_empty());
    assert!(left(&place).is_empty());
}

#[test]
fn mistakes_never_reach_the_file_and_what_was_written_is_kept() {
    let place = Place::with(CONFIG);
    let outcome = edit(&place, "sed -i 's/8080:80/eighty/' \"$1\"");
    outcome
        .exits(1)
        .says("config.toml:12: ")
        .says("what you wrote is in ");
    assert_eq!(place.config(), CONFIG);
    let [copy] = left(&place).try_into().unwrap();
    assert!(std::fs::read_to_string(copy).unwrap().contains("eighty"));
    // A file that is wrong already can be mended so.
    let broken = Place::with("[guest.dev\n");
    edit(&broken, "echo '[guest.dev]' > \"$1\"").exits(0);
    assert_eq!(broken.config(), "[guest.dev]\n");
}

#[test]
fn an_editor_that_fails_and_a_file_that_changes_meanwhile_lose_nothing() {
    let place = Place::with(CONFIG);
    edit(&place, "exit 3")
        .exits(1)
        .says("exit status: 3; the configuration is unchanged");
    assert!(left(&place).is_empty());
    edit(&place, "echo '[guest.x]' >> \"$1\"; kill -9 $$")
        .exits(1)
        .says("what you wrote is in");
    assert_eq!((place.config().as_str(), left(&place).len()), (CONFIG, 1));
    std::fs::remove_file(&left(&place)[0]).unwrap();

    let other = place.path("config.toml");
    let script = format!(
        "echo '[guest.a]' >> \"$1\"; echo '[guest.b]' >> {}",
        other.display()
    );
    edit(&place, &script)
        .exits(4)
        .says("was changed while you edited it")
        .says("bring both together: diff ");
    assert_eq!(place.config(), format!("{CONFIG}[guest.b]\n"));
    assert_eq!(left(&place).len(), 1);
}

#[test]
fn a_file_that_is_not_there_begins_as_init_makes_it() {
    let place = Place::empty();
    edit(
        &place,
        "grep -q network.vmnet8 \"$1\" && echo '[guest.dev]' >> \"$1\"",
    )
    .exits(0);
    assert!(place.config().ends_with("[guest.dev]\n"));
    // An editor may be a line of the shell's, with arguments.
    let mut line = place.sharectl();
    line.env("EDITOR", "false")
        .env("VISUAL", "sed -i -e 's/dev/web/'");
    place.outcome(line.args(["config", "edit"])).exits(0);
    assert!(place.config().ends_with("[guest.web]\n"));
}

#[test]
fn at_a_terminal_it_asks_whether_to_edit_again() {
    let place = Place::with(CONFIG);
    // Wrong at first, right the second time.
    place.program(
        "ed",
        "if grep -q eighty \"$1\"; then sed -i s/eighty/8082:80/ \"$1\"; else sed -i s/8080:80/eighty/ \"$1\"; fi\n",
    );
    let mut command = place.command(std::path::Path::new("script"));
    let line = format!(
        "env EDITOR={} {} config edit",
        place.path("bin/ed").display(),
        place.path("bin/sharectl").display()
    );
    let mut child = command
        .args(["-qec", &line, "/dev/null"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"y\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{seen}");
    assert!(
        seen.contains("config.toml:12: ") && seen.contains("edit again?"),
        "{seen}"
    );
    assert_eq!(place.config(), CONFIG.replace("8080:80", "8082:80"));
}

#[test]
fn what_a_command_does_and_another_undoes_leaves_the_file_as_it_was() {
    let text = "# mine\n[network.vmnet8]\nsubnet = \"192.168.130.0/24\"\n\n[guest.dev] # the one\npublish = [\n  \"8080:80\", # web\n  \"5432:5432\",\n]\n\
                \n# behind\n[share.home]\npath = \"/tmp\" # all of it\n\n[hosts.static]\n\"nas.test\" = \"10.0.0.5\" # nas\n\
                # the end\n";
    let place = Place::with(text);
    for (make, undo) in [
        ("guest add web", "guest rm web"),
        ("share add /usr --name usr", "share rm usr"),
        ("network create lab --type host-only", "network rm lab"),
        ("port publish dev 9090:90", "port unpublish dev 9090:90"),
        ("host add db.test 10.0.0.6", "host rm db.test"),
        ("share mount home /mnt/h", "share unmount home"),
    ] {
        place.run(make).exits(0);
        let changed = place.config();
        assert_ne!(changed, text, "{make}");
        for comment in [
            "# mine\n",
            "# the one",
            "# web",
            "# behind\n",
            "# all of it",
            "# nas",
        ] {
            assert!(
                changed.contains(comment),
                "{make} loses {comment:?}:\n{changed}"
            );
        }
        place.run(undo).exits(0);
        assert_eq!(place.config(), text, "{make}, {undo}");
    }
}
