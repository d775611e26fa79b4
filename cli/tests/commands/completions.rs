//! What real shells complete with the script that is printed for them, from the configuration and from daemons.

use control::paths::Daemon;

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Place};

/// As each shell is asked for the words at the end of a line; `$script` has the completion script.
fn complete(place: &Place, shell: &str, line: &str) -> Option<Vec<String>> {
    let code = match shell {
        // As readline calls the function: words, the index of the last, and the word itself.
        "bash" => {
            r#"source ./script; read -ra COMP_WORDS <<< "$LINE"
               [[ $LINE == *' ' ]] && COMP_WORDS+=('')
               COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
               function=$(complete -p sharectl | sed 's/.*-F \([^ ]*\).*/\1/')
               $function sharectl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
               printf '%s\n' "${COMPREPLY[@]}""#
        }
        // Its own widgets need a terminal: the function is called with what it would have, and _describe shows it.
        "zsh" => {
            r#"compdef() { function=$1 }; _describe() { shift $(($# - 1)); print -rl -- ${(P)1} }
               compadd() { print -rl -- ${@} }
               source ./script
               words=(${(s: :)LINE}); [[ $LINE == *' ' ]] && words+=('')
               CURRENT=$#words; $function"#
        }
        "fish" => r#"source ./script; complete --do-complete "$LINE""#,
        other => panic!("no way to ask {other}"),
    };
    let program = std::path::Path::new("/usr/bin").join(shell);
    if !program.exists() {
        return None;
    }
    let script = place.run(&format!("completions {shell}"));
    std::fs::write(place.path("script"), &script.exits(0).stdout).unwrap();
    let mut command = place.command(&program);
    if shell == "zsh" {
        command.arg("-f");
    }
    let outcome = place.outcome(command.args(["-c", code]).env("LINE", line));
    outcome.exits(0);
    let words = outcome.stdout.lines().map(|line| {
        // Behind the word fish and zsh have what it means.
        let word = line.split('\t').next().unwrap_or_default();
        let word = if shell == "zsh" {
            word.split(':').next().unwrap_or_default()
        } else {
            word
        };
        word.trim().to_owned()
    });
    Some(words.filter(|word| !word.is_empty()).collect())
}

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

#[expect(
    clippy::print_stderr,
    reason = "what was not tried is said where the tests are read"
)]
fn check(place: &Place, line: &str, expected: &[&str]) {
    for shell in SHELLS {
        let Some(words) = complete(place, shell, line) else {
            eprintln!("skipped: {shell} is not installed");
            continue;
        };
        for word in expected {
            assert!(
                words.iter().any(|found| found == word),
                "{shell}: {line}: {words:?}"
            );
        }
    }
}

fn check_not(place: &Place, line: &str, word: &str) {
    for shell in SHELLS {
        let words = complete(place, shell, line).unwrap_or_default();
        assert!(
            words.iter().all(|found| found != word),
            "{shell}: {line}: {words:?}"
        );
    }
}

#[test]
fn verbs_options_and_values_are_completed() {
    let place = Place::with(CONFIG);
    check(&place, "sharectl ", &["guest", "share", "wait-ready"]);
    check(&place, "sharectl guest r", &["rm", "run"]);
    check(&place, "sharectl guest rm --d", &["--dry-run"]);
    check(&place, "sharectl guest run dev --nic ", &["virtio-net-pci"]);
    check_not(&place, "sharectl guest ls --d", "--dry-run");
}

#[test]
fn names_come_from_the_configuration() {
    let place = Place::with(&format!(
        "{CONFIG}\n[share.home]\npath = \"~\"\n[guest.web]\n"
    ));
    check(&place, "sharectl guest rm ", &["dev", "web"]);
    check(&place, "sharectl guest rm d", &["dev"]);
    check_not(&place, "sharectl guest rm d", "web");
    check(&place, "sharectl guest mounts ", &["dev", "web"]);
    check(&place, "sharectl share rm ", &["home"]);
    check(&place, "sharectl share add /x --guest ", &["dev", "web"]);
    check(&place, "sharectl network renumber ", &["vmnet8"]);
    check(&place, "sharectl host rm ", &["nas.test"]);
    check(&place, "sharectl port explain ", &["8080/tcp"]);
    check(&place, "sharectl wait-ready --port ", &["dev/8080"]);
    check(
        &place,
        "sharectl describe ",
        &["dev", "home", "vmnet8", "nas.test"],
    );
    std::fs::write(place.path("other.toml"), "[guest.elsewhere]\n").unwrap();
    check(
        &place,
        "sharectl --config other.toml guest rm ",
        &["elsewhere"],
    );
    std::fs::write(place.path("home/mine.toml"), "[guest.athome]\n").unwrap();
    check(
        &place,
        "sharectl --config ~/mine.toml guest rm ",
        &["athome"],
    );
}

#[test]
fn names_come_from_daemons_that_run() {
    let place = Place::with("");
    let _fakes = Daemon::ALL.map(|daemon| Fake::start(&place, daemon, Script::default()));
    check(&place, "sharectl guest detach ", &["dev"]);
    check(&place, "sharectl share rm ", &["src"]);
    check(&place, "sharectl host rm ", &["local.test"]);
    check(&place, "sharectl port explain ", &["8080/tcp"]);
}

#[test]
fn a_daemon_that_hangs_and_a_file_that_is_broken_cost_no_word_and_little_time() {
    let place = Place::with(CONFIG);
    std::fs::create_dir_all(place.path("run")).unwrap();
    let _hangs = std::os::unix::net::UnixListener::bind(place.socket(Daemon::Netd)).unwrap();
    let ask = |line: &str| {
        // Ends it, and fails, where it takes long.
        let mut command = place.command(std::path::Path::new("timeout"));
        command
            .env("SHARECTL_COMPLETE", "fish")
            .arg("3")
            .arg(place.path("bin/sharectl"))
            .arg("--")
            .args(line.split(' '));
        place.outcome(&mut command)
    };
    let words = |outcome: &crate::place::Outcome| {
        // Not even a word on standard error: it would stand in the line that is typed.
        assert!(!outcome.text.contains("err: "), "{}", outcome.text);
        let words = outcome
            .stdout
            .lines()
            .filter_map(|line| line.split('\t').next());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(words(&ask("sharectl guest rm "))[0], "dev");
    std::fs::write(place.path("config.toml"), "[guest").unwrap();
    assert_eq!(words(&ask("sharectl guest rm "))[0], "--dry-run");
}

/// As a package puts it there: a file of fpath, run when the first word is completed, at a terminal.
#[test]
fn zsh_completes_at_the_first_key_from_a_file_of_fpath() {
    if !std::path::Path::new("/usr/bin/zsh").exists() {
        return;
    }
    let place = Place::with(CONFIG);
    let script = place.run("completions zsh");
    std::fs::create_dir(place.path("fpath")).unwrap();
    std::fs::write(place.path("fpath/_sharectl"), &script.exits(0).stdout).unwrap();
    let code = r#"zmodload zsh/zpty
        zpty z zsh -f
        zpty -w z 'PS1="ready> "; fpath=($PWD/fpath $fpath); autoload -Uz compinit; compinit -u -D; print be''gun'
        zpty -r z seen '*begun*ready> '
        zpty -w -n z $'sharectl guest rm d\t'
        zpty -r z seen '*dev*'
        print -r -- $seen; zpty -d z"#;
    let mut command = place.command(std::path::Path::new("timeout"));
    let outcome = place.outcome(
        command
            .args(["20", "zsh", "-f", "-c", code])
            .env("TERM", "dumb"),
    );
    outcome.exits(0).says("sharectl guest rm dev");
}

/// There is no PowerShell for Debian to run it in: only its form is looked at.
#[test]
fn the_script_for_powershell_asks_this_program() {
    let place = Place::empty();
    for name in ["pwsh", "powershell"] {
        let script = place.run(&format!("completions {name}")).stdout;
        for part in [
            "Register-ArgumentCompleter -Native -CommandName sharectl",
            "$env:SHARECTL_COMPLETE = \"powershell\"",
            "& sharectl -- $args",
        ] {
            assert!(script.contains(part), "{part} in\n{script}");
        }
    }
}
