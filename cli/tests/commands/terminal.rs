//! What only a terminal sees: that something is awaited, and colours unless NO_COLOR says otherwise.

use std::os::unix::net::UnixListener;

use control::paths::Daemon;

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Place};

/// The line's output at a terminal of its own, both streams as one.
fn at_a_terminal(place: &Place, environment: &str, line: &str) -> String {
    let mut command = place.command(std::path::Path::new("script"));
    let program = place.path("bin/sharectl");
    let line = format!("env TERM=xterm {environment} {} {line}", program.display());
    let outcome = place.outcome(command.args(["-qc", &line, "/dev/null"]));
    outcome.stdout
}

/// Whether a foreground or background is chosen: SGR, ECMA-48 8.3.117, with aixterm's bright ones. Bold is no colour.
fn has_colours(text: &str) -> bool {
    text.split("\x1b[").skip(1).any(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';');
        let Some((parameters, _)) = end.and_then(|end| rest.split_at_checked(end)) else {
            return false;
        };
        let is_sgr = rest[parameters.len()..].starts_with('m');
        is_sgr
            && parameters.split(';').any(|parameter| {
                let number: u8 = parameter.parse().unwrap_or(0);
                matches!(number, 30..=38 | 40..=48 | 90..=107)
            })
    })
}

#[test]
fn a_wait_of_more_than_a_second_is_shown_and_taken_away_again() {
    let place = Place::with(CONFIG);
    std::fs::create_dir_all(place.path("run")).unwrap();
    // It takes connections, and never answers.
    let _silent = UnixListener::bind(place.socket(Daemon::Netd)).unwrap();
    let seen = at_a_terminal(&place, "", "network flows");
    assert!(seen.contains("waiting for netd to answer (1 s)"), "{seen}");
    let (before, last) = seen.rsplit_once("\r\x1b[K").unwrap();
    assert!(before.contains("waiting for netd"), "{seen}");
    assert!(!last.contains("waiting"), "the line is left: {seen}");
    // Once, though the checks wait for several things.
    let seen = at_a_terminal(&place, "", "doctor");
    assert!(seen.contains("waiting for the checks"), "{seen}");
    assert!(!seen.contains("waiting for netd"), "{seen}");
    for quiet in [("", "-q network flows"), ("TERM=dumb", "network flows")] {
        let seen = at_a_terminal(&place, quiet.0, quiet.1);
        assert!(!seen.contains("waiting"), "{seen}");
    }
    // No terminal, no picture.
    let outcome = place.run("network flows");
    outcome.exits(3);
    assert!(!outcome.text.contains("waiting"), "{}", outcome.text);
}

#[test]
fn no_color_is_obeyed_by_errors_help_and_waits() {
    let place = Place::with(CONFIG);
    std::fs::create_dir_all(place.path("run")).unwrap();
    let _silent = UnixListener::bind(place.socket(Daemon::Netd)).unwrap();
    for line in [
        "describe x",
        "--help",
        "guest ls",
        "gest",
        "network flows",
        "doctor",
    ] {
        let plain = at_a_terminal(&place, "NO_COLOR=1", line);
        assert!(!has_colours(&plain), "{line}: {plain:?}");
    }
    assert!(has_colours(&at_a_terminal(&place, "", "describe x")));
    assert!(has_colours(&at_a_terminal(
        &place,
        "NO_COLOR=",
        "describe x"
    )));
}

#[test]
fn no_color_is_obeyed_by_the_terminal_view() {
    let place = Place::with(CONFIG);
    let _fakes = Daemon::ALL.map(|daemon| Fake::start(&place, daemon, Script::default()));
    let watch = |environment: &str| {
        let mut command = place.command(std::path::Path::new("script"));
        let program = place.path("bin/sharectl");
        let line = format!(
            "stty rows 40 cols 120; env TERM=xterm {environment} timeout --foreground 5 {} status --watch",
            program.display()
        );
        // The end of its input would be a key: script writes it as a byte, which pauses the view.
        let (keyboard, held) = std::io::pipe().unwrap();
        command.args(["-qc", &line, "/dev/null"]).stdin(keyboard);
        let seen = place.outcome(&mut command).stdout;
        drop(held);
        seen
    };
    let (coloured, plain) = (watch(""), watch("NO_COLOR=1"));
    for seen in [&coloured, &plain] {
        assert!(seen.contains("vmnet8"), "{seen:?}");
    }
    assert!(has_colours(&coloured), "{coloured:?}");
    assert!(!has_colours(&plain), "{plain:?}");
}
