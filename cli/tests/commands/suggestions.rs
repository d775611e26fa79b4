//! A name that is not there: every verb that takes one says which was probably meant.

use control::paths::Daemon;

use crate::fake::{Fake, Script};
use crate::help::listed;
use crate::place::{CONFIG, Place};

/// A line with a name that is not there, and the one that was meant.
const LINES: &[(&str, &str)] = &[
    ("guest rm dve", "dev"),
    ("guest args dve", "dev"),
    ("guest mounts dve", "dev"),
    ("guest mount dve:/ /vm", "dev"),
    ("guest run dve -- qemu", "dev"),
    ("guest attach dve --netns /proc/self/ns/net", "dev"),
    ("guest detach dve", "dev"),
    ("guest unmount dve", "dev"),
    ("describe dve", "dev"),
    ("describe hoem", "home"),
    ("port publish dve 1:1", "dev"),
    ("port unpublish dve 1:1", "dev"),
    ("network inspect vmnet9", "vmnet8"),
    ("network rm vmnet9", "vmnet8"),
    ("network renumber vmnet9", "vmnet8"),
    ("network bridge-socket vmnet9", "vmnet8"),
    ("network host-tap create vmnet9", "vmnet8"),
    ("network host-tap unit vmnet9", "vmnet8"),
    ("network dns dev.test --network vmnet9", "vmnet8"),
    ("network flows vmnet9", "vmnet8"),
    ("network flows --guest dve", "dev"),
    ("network capture vmnet9 -w x", "vmnet8"),
    ("network capture vmnet8 --guest dve -w x", "dev"),
    ("network policy dve github.com:443", "dev"),
    ("port offer 1 127.0.0.1:1 --network vmnet9", "vmnet8"),
    ("port withdraw 1 --network vmnet9", "vmnet8"),
    ("share rm hoem", "home"),
    ("share mount hoem /mnt/d", "home"),
    ("share unmount hoem", "home"),
    ("share add /etc --name x --guest dve", "dev"),
    ("guest add web --network vmnet9", "vmnet8"),
    ("exec --guest dve -- true", "dev"),
    ("compose --guest dve up", "dev"),
    ("path to-guest --guest dve /x", "dev"),
    ("service install --guest dve --with true", "dev"),
    ("wait-ready --guest dve", "dev"),
    ("wait-ready --port dve/80", "dev"),
    ("wait-ready --share hoem", "home"),
];

/// So that a new verb that takes a name of a list is among the lines above.
#[test]
fn every_verb_that_takes_a_name_is_tried() {
    let place = Place::empty();
    let mut left = vec![String::new()];
    while let Some(verb) = left.pop() {
        let page = place.run(&format!("{verb} -h")).stdout;
        let inner = listed(&page);
        let takes = ["guest", "share", "network"]
            .iter()
            .any(|noun| page.contains(&format!("As in `sharectl {noun} ls`")));
        let verb = verb.trim_start();
        if inner.is_empty() && takes {
            let tried = LINES
                .iter()
                .any(|(line, _)| line.starts_with(&format!("{verb} ")));
            assert!(tried, "{verb}");
        }
        left.extend(inner.iter().map(|word| format!("{verb} {word}")));
    }
}

#[test]
fn verbs_and_options_are_suggested() {
    let place = Place::with(CONFIG);
    for (line, near) in [
        ("gest ls", "guest"),
        ("guest lss", "ls"),
        ("netwrk ls", "network"),
        ("share mout d", "mount"),
        ("host dns enabel", "enable"),
        ("wait-redy", "wait-ready"),
        ("man guest rnu", "\"guest run\""),
        ("man wait-redy", "\"wait-ready\""),
        ("man netwrk ls", "network ls"),
        ("guest add dev --nam x", "--name"),
        ("guest ls --format jsn", "json"),
    ] {
        place.run(line).exits(2).says(near);
    }
}

#[test]
fn a_port_that_is_not_published_is_told_with_those_that_are() {
    let place = Place::with(CONFIG);
    let outcome = place.run("port unpublish dev 8081:80");
    outcome.exits(1).says("it publishes 8080:80");
    // Names for a time are hostsync's: those of the file are known without it.
    place.run("host rm nsa.test").exits(1).says("nas.test");
}

#[test]
fn names_are_suggested_by_each_verb_that_takes_one() {
    let place = Place::with(&format!(
        "{CONFIG}\n[share.home]\npath = \"/usr\"\nmount = \"/mnt/home\"\n"
    ));
    let _fakes = Daemon::ALL.map(|daemon| Fake::start(&place, daemon, Script::default()));
    let mut silent = Vec::new();
    for (line, near) in LINES {
        let outcome = place.run(line);
        let mut said = outcome
            .text
            .lines()
            .filter(|line| line.starts_with("err: "));
        if outcome.code == Some(0) || !said.any(|said| said.contains(near)) {
            silent.push(format!("{line}\n{}", outcome.text));
        }
    }
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}
